"""Runs parfocal's command line on boards that fail on command: files in the folder $FAULTS are the faults.

`hang`: the next frame never comes, the file is consumed. `slow`: the next takes as many seconds as it says, the file
is consumed. `unplugged`: while it is there the camera is gone. `clings`: it fails to close. The camera "simulated"
becomes a small one that needs no world, so that an axis behind mock pins keeps a record; where the motor behind those
pins is stands in `motor`.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
from physical_stage import Stage, stage_behind_pins

from edge_app import cli
from firmware.camera import Camera, Exposure
from firmware.cameras import simulated
from firmware.clock import Clock, SystemClock
from firmware.errors import CameraError
from firmware.profile import BoardProfile
from firmware.simulation import World

FAULTS = Path(os.environ.get("FAULTS", "."))
BOARD = """
name = "faulty"
description = "a camera that fails on command, and a motor behind mock pins"

[[objective]]
name = "20x"
magnification = 20.0
numerical_aperture = 0.75

[camera]
driver = "simulated"
width_px = 224
height_px = 224
pixel_um = 3.45
timeout_ms = {timeout_ms}
flush_frames = 1

[axis]
driver = "step_dir"
um_per_step = 0.5
low_um = -200.0
high_um = 200.0
backlash_um = 2.0
settle_ms = 20.0
speed_um_s = {speed_um_s}
holds_without_power = true
home_at_start = true

[axis.options]
chip = "mock"
acceleration_um_s2 = 400.0
jerk_um_s3 = 8000.0
start_um_s = 1000.0
home_um = 210.0

[axis.options.pins]
step = {{ line = 17 }}
direction = {{ line = 27 }}
enable = {{ line = 22, active_low = true }}
fault = {{ line = 23, active_low = true, pull = "up" }}
upper_switch = {{ line = 24, active_low = true, pull = "up" }}

[focus]
sweep_coarse_um = 20.0
sweep_half_range_um = 60.0
towards_um = 100.0
away_um = 100.0
path_um = 1000.0
"""


def gone() -> None:
    if (FAULTS / "unplugged").exists():
        raise CameraError("the camera is gone; check its cable and power")


class FaultyCamera(Camera):
    """Grey noise, always the same."""

    def __init__(self, profile: BoardProfile, clock: Clock) -> None:
        gone()
        super().__init__(profile.camera, clock, profile.name)
        self._pixels = np.random.default_rng(1).integers(0, 255, profile.camera.frame_shape, dtype=np.uint8)

    def _next(self, timeout_s: float) -> Exposure:
        gone()
        if (FAULTS / "hang").exists():
            (FAULTS / "hang").unlink()
            threading.Event().wait()
        if (FAULTS / "slow").exists():
            wait_s = float((FAULTS / "slow").read_text())
            (FAULTS / "slow").unlink()
            self._clock.sleep(wait_s)
        now_s = self._clock.now_s()
        return Exposure(now_s, now_s, self._pixels.copy)

    def close(self) -> None:
        if (FAULTS / "clings").exists():
            raise OSError("the bus is gone")
        super().close()


class KeptStage(Stage):
    """A stage that shows where its motor is to whoever watches from outside."""

    def pulse(self) -> None:
        super().pulse()
        (FAULTS / "motor.new").write_text(str(self.position))
        (FAULTS / "motor.new").replace(FAULTS / "motor")


def open_camera(profile: BoardProfile, clock: Clock, world: World | None) -> Camera:
    return FaultyCamera(profile, clock)


if __name__ == "__main__":
    simulated.open_camera = open_camera
    stage = KeptStage(SystemClock(), top=440, bottom=-440)
    with stage_behind_pins(stage):
        cli.main()
