"""TensorRT on an NVIDIA GPU: engines are built on the device, out of the bundle's ONNX, before they can serve."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_app.bundle import ModelBundle
from edge_app.errors import RuntimeFailed
from edge_app.feed import NOTHING, Beside
from edge_app.nvidia import background, driver, sdk
from edge_app.nvidia.background import Build
from edge_app.nvidia.cache import SHARED, EngineCache, cache_folder
from edge_app.nvidia.engine import PlanRefused
from edge_app.nvidia.execution import Execution
from edge_app.nvidia.order import Order, order_for


def missing() -> str:
    """What keeps TensorRT from being used here, or ""."""
    return sdk.missing()


class TensorRt:
    """An engine of TensorRT's; its memory on the GPU is freed with it."""

    name = "tensorrt"
    note = ""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self.close = weakref.finalize(self, execution.close)

    def infer(self, counts: NDArray[np.uint8], also: Beside = NOTHING) -> dict[str, NDArray[np.float32]]:
        """As `Runtime.infer`."""
        return self._execution.infer(counts, also)


@dataclass(frozen=True)
class Preparation:
    """An engine that has to be built before the bundle can be loaded; a process of its own does that.

    `anew` builds it though one is kept, which stays unless the new one can be loaded.
    """

    order: Order
    cache: EngineCache
    anew: bool = False
    what: str = "the TensorRT engine"

    def start(self) -> Build:
        """Build it, at most once a process."""
        return background.build(self.order, self.cache.folder, self.anew)

    def load(self, build: Build) -> TensorRt:
        """What was built, from memory: it may not have been possible to keep it."""
        return _opened(build.plan, self.order)


def preparation(bundle: ModelBundle) -> Preparation | None:
    """What has to be built first, or None if `load` finds an engine for this bundle, GPU and TensorRT."""
    wanted = Preparation(order(bundle), _cache())
    return None if wanted.cache.find(wanted.order) is not None else wanted


def again(bundle: ModelBundle, error: RuntimeFailed) -> Preparation | None:
    """What would mend a `load` that failed so, or None where nothing is known to."""
    return Preparation(order(bundle), _cache(), anew=True) if isinstance(error.__cause__, PlanRefused) else None


def load(bundle: ModelBundle, threads: int) -> TensorRt:
    """Load the engine that was built for this bundle here.

    Raises:
        RuntimeFailed: There is none, or it cannot be loaded, which may be for want of memory: it stays.
    """
    del threads
    wanted = order(bundle)
    kept = _cache().find(wanted)
    if kept is None:
        raise RuntimeFailed(f"no TensorRT engine has been built for {wanted.label}; run parfocal-model engine")
    return _opened(kept.plan, wanted)


def order(bundle: ModelBundle) -> Order:
    """The engine that a bundle wants on this machine.

    Raises:
        RuntimeFailed: There is no GPU.
    """
    gpu = driver.probe()
    if isinstance(gpu, str):
        raise RuntimeFailed(gpu)
    return order_for(bundle, gpu, str(sdk.tensorrt().__version__))


def _opened(plan: bytes, wanted: Order) -> TensorRt:
    try:
        return TensorRt(Execution(plan, wanted))
    except PlanRefused as error:
        cure = "free some memory, or let `parfocal serve` or parfocal-model engine build it anew"
        raise RuntimeFailed(f"{error}; {cure}") from error


def _cache() -> EngineCache:
    return EngineCache(cache_folder(), SHARED)
