"""One loaded Micro-Manager core: the camera and the stage of a board share it, and the last to let go unloads it.

Device adapters are compiled for one version of the device interface; the core refuses those of another.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from firmware.errors import FirmwareError, MissingDriver, ProfileError
from firmware.profile import BoardProfile
from firmware.table import Table

DRIVER = "micromanager"
_DEMO = "MMConfig_demo.cfg"
_INSTALL = "pip install 'parfocal[mm]' (its wheels are for x86_64 only)"
_NO_ADAPTERS = (
    "there are no Micro-Manager device adapters; run `mmcore install`, or name their folder as options.adapters"
)
_HINTS = {
    "interface version": "these adapters were built for another version of the core; run `mmcore install`",
    "Failed to load device adapter": "run `mmcore install`, or name the adapters' folder as options.adapters",
    "failed to instantiate": "correct the name of the device in the configuration file",
    "No device with label": "the device is gone; open the microscope again",
    "not loaded or initialized": "the device is gone; open the microscope again",
    "not permitted on uninitialized": "the device did not start; check its cable and power",
    "unavailable": "look the number up in the documentation of the device's adapter; check its cable and power",
}


class CoreOptions(Table):
    """Which core, and which of its devices.

    `config` is the configuration file (none: the demonstration devices), `adapters` the folder of the device
    adapters (none: what Micro-Manager finds by itself), `device` a label (none: the core's own choice).
    """

    config: Path | None = None
    adapters: Path | None = None
    device: str = ""


class _Loaded:
    """A core with its devices, and how many hold it."""

    def __init__(self, core: Any) -> None:
        self.core = core
        self.users = 0


_cores: dict[tuple[str, str], _Loaded] = {}
_lock = threading.Lock()


class Share:
    """One user's hold on a core, until `release`."""

    def __init__(self, loaded: _Loaded) -> None:
        self._loaded = loaded
        self._released = False
        loaded.users += 1

    @property
    def core(self) -> Any:
        """The CMMCorePlus."""
        return self._loaded.core

    def again(self) -> Share:
        """Another hold on the same core, for what may outlive this one."""
        with _lock:
            return Share(self._loaded)

    def release(self) -> None:
        """Let go; the last one unloads every device. Letting go twice is letting go once."""
        with _lock:
            if self._released:
                return
            self._released = True
            self._loaded.users -= 1
            if self._loaded.users == 0:
                _unload(self._loaded)


def missing() -> str:
    """What is not installed, or ""."""
    if importlib.util.find_spec("pymmcore_plus") is None:
        return f"the package pymmcore-plus is not installed; {_INSTALL}"
    return ""


def share(profile: BoardProfile, options: CoreOptions) -> Share:
    """A hold on the core of a board's configuration file, which is loaded if nobody holds it yet.

    Raises:
        MissingDriver: Micro-Manager or its device adapters are not installed.
        ProfileError: The configuration cannot be loaded, or the board's two tables do not name the same one.
    """
    _check_same(profile)
    if missing():
        raise MissingDriver(missing())
    key = (_resolved(options.config), _resolved(options.adapters))
    with _lock:
        if key not in _cores:
            _cores[key] = _Loaded(_load(*key))
        return Share(_cores[key])


def shared(core: Any) -> Share:
    """A hold on a core that somebody else made and loaded."""
    return Share(_Loaded(core))


def device_label(core: Any, kind: str, asked: str) -> str:
    """The label of the camera or stage to use: the one asked for, else the one that the core uses.

    Args:
        core: The loaded core.
        kind: "Camera" or "Stage".
        asked: A label, or "".

    Raises:
        ProfileError: The configuration has no such device.
    """
    labels = list(core.getLoadedDevicesOfType(getattr(_sdk().DeviceType, kind)))
    label = asked or str(core.getCameraDevice() if kind == "Camera" else core.getFocusDevice())
    if label in labels:
        return label
    what = f"no {kind.lower()} {asked!r}" if asked else f"no default {kind.lower()}"
    has = ", ".join(labels) or "none at all"
    raise ProfileError(f"the Micro-Manager configuration has {what}; it has: {has}; name one as options.device")


@dataclass(frozen=True)
class Origin:
    """Where a device came from, noted while it is well: adapter, name there, hub, and what it is told at the start."""

    label: str
    adapter: str
    name: str
    hub: str
    before: dict[str, str]


def origin_of(core: Any, label: str) -> Origin:
    """Note what it takes to load a device anew."""
    names = core.getDevicePropertyNames(label)
    before = {key: core.getProperty(label, key) for key in names if core.isPropertyPreInit(label, key)}
    adapter, name, hub = core.getDeviceLibrary(label), core.getDeviceName(label), core.getParentLabel(label)
    return Origin(label, adapter, name, hub, before)


def load_anew(core: Any, origin: Origin) -> None:
    """Unload one device and load it as it was, with what the start-up preset of its configuration says of it.

    Raises:
        RuntimeError, ValueError: The device does not start.
    """
    label = origin.label
    if label in core.getLoadedDevices():
        core.unloadDevice(label)
    core.loadDevice(label, origin.adapter, origin.name)
    core.setParentLabel(label, origin.hub)
    for key, value in origin.before.items():
        core.setProperty(label, key, value)
    core.initializeDevice(label)
    # Not the whole preset: it may say where the stage is to go.
    if core.isConfigDefined("System", "Startup"):
        for device, key, value in core.getConfigData("System", "Startup"):
            if device == label:
                core.setProperty(label, key, value)


@contextmanager
def told(kind: type[FirmwareError], what: str) -> Iterator[None]:
    """Make one error of that kind, which begins with `what`, of whatever the core raises."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        raise kind(f"{what}: {plain(error)}") from error


def plain(error: Exception) -> str:
    """What the core says, on one line, and what to do about it where that is known."""
    said = " ".join(str(error).split())
    hint = next((hint for sign, hint in _HINTS.items() if sign in said), "")
    return f"{said}; {hint}" if hint else said


def _sdk() -> ModuleType:
    """pymmcore_plus, kept from writing hundreds of megabytes of log, and from turning up everybody's log level."""
    # What is on by default also needs a home that can be written to; a board's service has none.
    os.environ.setdefault("PYMM_LOG_FILE", os.devnull)
    root = logging.getLogger()
    level = root.level
    try:
        import pymmcore_plus
    except ImportError as error:
        raise MissingDriver(f"pymmcore-plus cannot be used ({error}); {_INSTALL}") from error
    finally:
        root.setLevel(level)
    return pymmcore_plus


def _load(config: str, adapters: str) -> Any:
    sdk = _sdk()
    folder = adapters or sdk.find_micromanager()
    if not folder:
        raise MissingDriver(_NO_ADAPTERS)
    path = Path(config) if config else Path(folder) / _DEMO
    if not path.is_file():
        raise ProfileError(f"there is no Micro-Manager configuration {path}; correct options.config")
    core: Any = sdk.CMMCorePlus(mm_path=folder)
    # The core reports from threads of its own. Nobody listens, and a process that ends meanwhile would be aborted.
    super(sdk.CMMCorePlus, core).registerCallback(None)
    with told(ProfileError, f"the Micro-Manager configuration {path} cannot be loaded"):
        core.loadSystemConfiguration(str(path))
    return core


def _unload(loaded: _Loaded) -> None:
    for key in [key for key, known in _cores.items() if known is loaded]:
        del _cores[key]
    # A device that is gone cannot say goodbye, and whoever closes a microscope has no use for its complaint.
    with suppress(RuntimeError):
        loaded.core.unloadAllDevices()


def _check_same(profile: BoardProfile) -> None:
    """A table without the configuration of the other would get the demonstration devices in its stead."""
    tables = [table.options for table in (profile.camera, profile.axis) if table.driver == DRIVER]
    for key in ("config", "adapters"):
        if len({str(options.get(key, "")) for options in tables}) > 1:
            raise ProfileError(
                f"board {profile.name!r}: camera.options.{key} and axis.options.{key} differ; one board has one "
                "Micro-Manager core, so give both the same"
            )


def _resolved(path: Path | None) -> str:
    return str(path.expanduser().resolve()) if path else ""
