"""A board with a Pi camera and its driver, opened on the sensor that the stand-in for picamera2 finds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from fake_picamera2 import Sensor

from firmware.camera import Exposure
from firmware.cameras.picamera import PicameraCamera
from firmware.clock import ManualClock
from firmware.frames import Frame, FrameOptics
from firmware.profile import BoardProfile

RAW = {"kind": "raw", "pattern": "RGGB", "black_level": 256}
AUTO = {"options": {"auto_exposure": True}}
ISP: dict[str, Any] = {"bits": 8, "response": {"kind": "unknown"}}


def a_sensor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sensor]:
    """The camera that picamera2 finds; a test file makes it a fixture."""
    found = Sensor(ManualClock(10.0))
    monkeypatch.setitem(sys.modules, "picamera2", found.library())
    yield found
    found.woken.set()


def board(**camera: Any) -> BoardProfile:
    basic = {"driver": "picamera", "width_px": 16, "height_px": 12, "bits": 12, "timeout_ms": 600, "response": RAW}
    axis = {"driver": "simulated", "um_per_step": 1, "low_um": -1, "high_um": 1}
    table = {"name": "pi", "description": "", "objective": [{"name": "20x"}], "axis": axis}
    return BoardProfile.model_validate({**table, "camera": {**basic, **camera}})


def opened(sensor: Sensor, **camera: Any) -> PicameraCamera:
    return PicameraCamera(board(**camera), sensor.clock, sensor.kernel_clocks, patience_s=0.05)


def look(camera: PicameraCamera) -> Frame:
    return camera.capture(camera._clock.now_s(), lambda time_s: time_s, FrameOptics())


def next_one(camera: PicameraCamera) -> Exposure:
    return camera._next(1.0)
