"""The Micro-Manager camera on a real core: its pixels, when they were exposed, and a camera that hangs or fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bent import NOTHING, PATIENCE_S, Bent, a_bent_core, a_microscope, board, core_of, demo_with, opened

from firmware import micromanager
from firmware.cameras.micromanager import MicroManagerCamera
from firmware.errors import CameraError, CameraTimeout
from firmware.frames import Frame, FrameOptics
from firmware.microscope import Microscope

EIGHT_BITS = "ConfigGroup,System,Startup,Camera,PixelType,8bit"

microscope = pytest.fixture(a_microscope)
bent = pytest.fixture(a_bent_core)


def camera_of(bent: Bent, **table: Any) -> MicroManagerCamera:
    return MicroManagerCamera(board(camera=table), bent.clock, micromanager.shared(bent), "Camera")


def look(camera: MicroManagerCamera, not_before_s: float = 0.0) -> Frame:
    return camera.capture(not_before_s, lambda _time_s: 0.0, FrameOptics())


def test_a_frame_is_what_the_board_file_promises(microscope: Microscope) -> None:
    frame = microscope.capture()
    assert frame.pixels.shape == (512, 512)
    assert frame.pixels.dtype == np.uint16
    assert frame.exposure_ms == pytest.approx(5.0)
    assert frame.settings == {"device": "Camera"}
    assert frame.fresh
    assert frame.pixels.std() > 0


def test_an_eight_bit_camera_gives_eight_bits(tmp_path: Path) -> None:
    options = demo_with(tmp_path, EIGHT_BITS)
    with opened(options | {"bits": 8}, options) as microscope:
        assert microscope.capture().pixels.dtype == np.uint8


def test_colours_come_as_red_green_blue(tmp_path: Path) -> None:
    options = demo_with(tmp_path, "Property,Camera,PixelType,32bitRGB", "Property,Camera,Mode,Color Test Pattern")
    with opened(options | {"bits": 8, "colour": True}, options) as microscope:
        pixels = microscope.capture().pixels
        raw = core_of(microscope).getImage(fix=False)
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, np.stack([raw >> 16 & 255, raw >> 8 & 255, raw & 255], axis=-1))
    assert not np.array_equal(pixels[..., 0], pixels[..., 2])


def test_a_camera_of_another_size_than_the_board_file_says_is_refused() -> None:
    with (
        opened(camera={"width_px": 640}) as microscope,
        pytest.raises(CameraError, match=r"gave \(512, 512\) uint16 where the board file promises \(512, 640\)"),
    ):
        microscope.capture()


def test_every_frame_is_exposed_after_it_was_asked_for(bent: Bent) -> None:
    camera = camera_of(bent)
    first, second = look(camera, 3.0), look(camera, 5.0)
    assert bent.snapped_s == [3.0, 5.0]
    assert [first.captured_at_s, second.captured_at_s] == pytest.approx([3.0025, 5.0025])
    assert first.fresh
    assert second.fresh


def test_a_shutter_that_opens_slowly_does_not_shift_the_middle_of_the_exposure(bent: Bent) -> None:
    bent.shutter_s = 0.5
    assert look(camera_of(bent)).captured_at_s == pytest.approx(0.5025)


def test_a_camera_that_ignores_its_exposure_gives_frames_that_say_so(tmp_path: Path) -> None:
    options = demo_with(tmp_path, exposure="4.0")
    with opened(options, options) as microscope:
        assert microscope.capture().exposure_ms == pytest.approx(10.0)


def test_a_snap_that_does_not_come_back_is_a_timeout_and_the_next_one_recovers(bent: Bent) -> None:
    camera = camera_of(bent)
    bent.gate.clear()
    with pytest.raises(TimeoutError):
        camera._next(0.01)
    bent.gate.set()
    frame = look(camera, 9.0)
    assert len(bent.snapped_s) == 2
    assert bent.snapped_s[1] >= 9.0
    assert frame.fresh


def test_a_snap_that_comes_back_late_and_broken_has_the_camera_started_anew(bent: Bent) -> None:
    camera = camera_of(bent)
    bent.gate.clear()
    bent.broken["snapImage"] = "the cable is loose"
    with pytest.raises(TimeoutError):
        camera._next(0.01)
    bent.gate.set()
    assert look(camera).fresh


def test_a_camera_that_still_hangs_says_so_and_is_not_asked_again(bent: Bent) -> None:
    camera = camera_of(bent)
    bent.gate.clear()
    with pytest.raises(TimeoutError):
        camera._next(0.01)
    with pytest.raises(CameraTimeout, match=r"'Camera' hangs: .* switch it off and on, and start parfocal again"):
        camera._next(0.01)
    assert len(bent.snapped_s) == 1


def test_a_device_that_hangs_is_unloaded_when_it_comes_back(bent: Bent) -> None:
    camera = camera_of(bent)
    bent.gate.clear()
    with pytest.raises(TimeoutError):
        camera._next(0.01)
    assert camera._late is not None
    camera.close()
    assert "Camera" in bent.getLoadedDevices()
    bent.gate.set()
    camera._late.join(PATIENCE_S)
    assert bent.getLoadedDevices() == NOTHING


def test_a_camera_that_failed_is_started_anew_and_the_stage_is_left_alone(bent: Bent) -> None:
    bent.core.setPosition("Z", 12.0)
    camera = camera_of(bent)
    bent.broken["snapImage"] = 'Error in device "Camera": (Error message unavailable) (11)'
    with pytest.raises(CameraError, match=r"'Camera' took no frame: .*\(11\); look the number up"):
        look(camera)
    frame = look(camera)
    assert frame.fresh
    assert frame.exposure_ms == pytest.approx(5.0)
    assert bent.core.getPosition("Z") == 12.0


def test_a_camera_that_is_started_anew_is_set_up_as_the_configuration_says(tmp_path: Path) -> None:
    options = demo_with(tmp_path, EIGHT_BITS, "ConfigGroup,System,Startup,Z,Position,50", exposure="70.0")
    with opened(options | {"bits": 8}, options) as microscope:
        microscope.axis.move_to(10.0)
        core = core_of(microscope)
        assert isinstance(microscope.camera, MicroManagerCamera)
        microscope.camera._failed = True
        assert microscope.capture().pixels.dtype == np.uint8
        assert core.getPosition("Z") == 10.0
        assert core.getProperty("Camera", "MaximumExposureMs") == "70.0000"
        assert core.getParentLabel("Camera") == "DHub"


def test_a_camera_that_does_not_start_again_says_so_until_it_does(bent: Bent) -> None:
    camera = camera_of(bent)
    bent.core.unloadDevice("Camera")
    with pytest.raises(CameraError, match=r"took no frame: Camera not loaded or initialized.; the device is gone"):
        look(camera)
    bent.broken["loadDevice"] = "no such port"
    with pytest.raises(CameraError, match="failed and does not start again: no such port"):
        look(camera)
    del bent.broken["loadDevice"]
    assert look(camera).fresh


def test_a_closed_camera_captures_nothing(bent: Bent) -> None:
    camera = camera_of(bent)
    camera.close()
    with pytest.raises(CameraError, match="closed"):
        look(camera)
