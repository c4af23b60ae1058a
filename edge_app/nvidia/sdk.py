"""NVIDIA's SDKs: TensorRT and pycuda, imported when they are needed, and the primary context that both use."""

from __future__ import annotations

import importlib
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edge_app.errors import RuntimeFailed
from edge_app.nvidia import driver

OLDEST = (10, 3)
_JETPACK = "apt install python3-libnvinfer, in an environment with --system-site-packages"
_CURES = {"tensorrt": f"it comes with JetPack: {_JETPACK}", "pycuda.driver": "pip install 'parfocal[jetson]'"}
_log = logging.getLogger(__name__)


def missing() -> str:
    """What keeps TensorRT from being used here, in a sentence, or ""; the driver is asked before all else."""
    gpu = driver.probe()
    if isinstance(gpu, str):
        return gpu
    return next(filter(None, map(_not_importable, _CURES)), "") or _too_old(str(tensorrt().__version__))


def tensorrt() -> Any:
    """The module tensorrt; only where `missing()` is ""."""
    return importlib.import_module("tensorrt")


def cuda() -> Any:
    """The module pycuda.driver, initialised; only where `missing()` is ""."""
    module = importlib.import_module("pycuda.driver")
    module.init()
    return module


class Device:
    """The first GPU's primary context, which any thread may make its current one for a while.

    It is retained once and kept while the process lives: TensorRT's own CUDA runtime keeps it too, so that giving it
    back would free nothing, and pycuda can give it back from the thread that retained it only.
    """

    def __init__(self, module: Any) -> None:
        self.cuda = module
        self._context = module.Device(0).retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """The block's calls go to this context; pycuda frees memory, streams and events in here only."""
        self._context.push()
        try:
            yield
        finally:
            self.cuda.Context.pop()


_devices: dict[Any, Device] = {}
_loggers: dict[Any, Any] = {}
_once = threading.Lock()


def device() -> Device:
    """The one device of this process.

    Raises:
        RuntimeFailed: The driver gives no context.
    """
    module = importlib.import_module("pycuda.driver")
    with _once:
        try:
            if module not in _devices:
                _devices[module] = Device(cuda())
        except module.Error as error:
            raise RuntimeFailed(f"the GPU cannot be used: {error}; run `parfocal doctor`") from error
        return _devices[module]


def logger() -> Any:
    """The one logger of this process: TensorRT keeps the first that it is given, for all its objects.

    It has `last_error`, the newest sentence of an error or "", and `forget()`.
    """
    module = tensorrt()
    with _once:
        if module not in _loggers:
            _loggers[module] = _logger(module)
        return _loggers[module]


def _logger(trt: Any) -> Any:
    errors = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)
    levels = {trt.ILogger.WARNING: logging.INFO}

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Takes TensorRT's messages into the log; its errors are told by whoever called, so here they are warnings."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = ""

        def forget(self) -> None:
            self.last_error = ""

        def log(self, severity: Any, msg: str) -> None:
            if severity in errors:
                self.last_error = " ".join(msg.split())
                _log.warning("TensorRT: %s", self.last_error)
            else:
                _log.log(levels.get(severity, logging.DEBUG), "TensorRT: %s", msg)

    return Logger()


def _not_importable(name: str) -> str:
    try:
        importlib.import_module(name)
    except (ImportError, OSError) as error:
        return f"{name.partition('.')[0]} cannot be imported ({error}); {_CURES[name]}"
    return ""


def _too_old(version: str) -> str:
    if _numbers(version) >= OLDEST:
        return ""
    oldest = ".".join(map(str, OLDEST))
    return f"TensorRT {version} is too old: {oldest} or newer is needed; install JetPack 6.1 or newer"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
