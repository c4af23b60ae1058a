"""Micro-Manager's demonstration devices, and a core of them with ways to break it; without Micro-Manager, a skip."""

# ruff: noqa: N802 - a core is called by the names that Micro-Manager gave its calls

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firmware import micromanager
from firmware.axes.micromanager import MicroManagerAxis
from firmware.clock import ManualClock
from firmware.microscope import Microscope, open_microscope
from firmware.profile import BoardProfile

if micromanager.missing():
    pytest.skip(micromanager.missing(), allow_module_level=True)

PATIENCE_S = 20.0
NOTHING = ("Core",)


def board(camera: dict[str, Any] | None = None, axis: dict[str, Any] | None = None) -> BoardProfile:
    """The demonstration devices; um_per_step is no round binary fraction."""
    camera_table = {"width_px": 512, "height_px": 512, "colour": False, "bits": 16, "exposure_ms": 5.0}
    axis_table = {"um_per_step": 0.1, "low_um": -100, "high_um": 100, "homing": "device", "settle_ms": 0}
    table = {
        "name": "mm",
        "description": "the demonstration devices",
        "objective": [{"name": "20x"}],
        "camera": {"driver": "micromanager"} | camera_table | (camera or {}),
        "axis": {"driver": "micromanager"} | axis_table | (axis or {}),
    }
    return BoardProfile.model_validate(table)


def opened(camera: dict[str, Any] | None = None, axis: dict[str, Any] | None = None) -> Microscope:
    return open_microscope(board(camera, axis), ManualClock())


def core_of(microscope: Microscope) -> Any:
    assert isinstance(microscope.axis, MicroManagerAxis)
    return microscope.axis._share.core


def demo_folder() -> Path:
    return Path(micromanager._sdk().find_micromanager())


def demo_with(folder: Path, *lines: str, exposure: str = "10000.0") -> dict[str, Any]:
    """Options for the demonstration configuration with more lines at its end, and another longest exposure."""
    text = (demo_folder() / "MMConfig_demo.cfg").read_text().replace("ExposureMs,10000.0", f"ExposureMs,{exposure}")
    path = folder / "mine.cfg"
    path.write_text("\n".join([text, *lines, ""]))
    return {"options": {"config": str(path)}}


def a_microscope() -> Iterator[Microscope]:
    """The demonstration devices as they are; a test file makes it a fixture."""
    with opened() as demo:
        yield demo


class Bent:
    """A real core whose camera takes time on the manual clock, whose stage moves at a speed, and which breaks.

    `broken` holds calls that fail and what they say; `gate` keeps snaps from coming back while it is clear;
    `grid_um` is what the stage rounds positions to; `while_busy` is called whenever somebody asks if it is busy.
    """

    def __init__(self, core: Any, clock: ManualClock) -> None:
        self.core = core
        self.clock = clock
        self.broken: dict[str, str] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.snapped_s: list[float] = []
        self.shutter_s = 0.0
        self.speed_um_s, self.grid_um, self.short_um = math.inf, 0.0, 0.0
        self.stuck = False
        self.sent_um: list[float] = []
        self.stops = 0
        self.while_busy: Callable[[], None] = lambda: None
        self._way = (0.0, 0.0, 0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)

    def _break(self, name: str) -> None:
        if name in self.broken:
            raise RuntimeError(self.broken[name])

    def snapImage(self) -> None:
        self.snapped_s.append(self.clock.now_s())
        assert self.gate.wait(PATIENCE_S)
        self._break("snapImage")
        self.clock.sleep(self.shutter_s + self.core.getExposure() / 1e3)
        self.core.snapImage()

    def loadDevice(self, label: str, adapter: str, name: str) -> None:
        self._break("loadDevice")
        self.core.loadDevice(label, adapter, name)
        self.broken.pop("snapImage", None)

    def setPosition(self, label: str, to_um: float) -> None:
        self._break("setPosition")
        self.sent_um.append(to_um)
        end_um = math.floor(to_um / self.grid_um) * self.grid_um if self.grid_um else to_um
        self._way = (self.getPosition(label), end_um - self.short_um, self.clock.now_s())

    def getPosition(self, _label: str) -> float:
        self._break("getPosition")
        start_um, end_um, began_s = self._way
        if math.isinf(self.speed_um_s):
            return end_um
        gone_um = min(self.speed_um_s * (self.clock.now_s() - began_s), abs(end_um - start_um))
        return start_um + math.copysign(gone_um, end_um - start_um)

    def deviceBusy(self, label: str) -> bool:
        self.while_busy()
        self._break("deviceBusy")
        return self.stuck or self.getPosition(label) != self._way[1]

    def stop(self, label: str) -> None:
        self.stops += 1
        self._break("stop")
        self.put(self.getPosition(label))

    def put(self, um: float) -> None:
        """Move the stage by hand."""
        self._way = (um, um, self.clock.now_s())


def a_bent_core() -> Iterator[Bent]:
    """A bent core; nothing that hangs outlives the test. A test file makes it a fixture."""
    share = micromanager.share(board(), micromanager.CoreOptions())
    broken = Bent(share.core, ManualClock())
    yield broken
    broken.gate.set()
    for thread in threading.enumerate():
        if thread.name == "parfocal-snap":
            thread.join(PATIENCE_S)
    share.release()
