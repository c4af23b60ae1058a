"""The picamera driver when its camera stalls, vanishes or hangs, and when it is closed."""

from __future__ import annotations

from typing import Any

import pytest
from fake_picamera2 import Sensor
from pi_board import AUTO, a_sensor, look, next_one, opened

from firmware.cameras.picamera import PicameraCamera
from firmware.errors import CameraError, CameraTimeout

sensor = pytest.fixture(a_sensor)


# Stalls


def stalled(sensor: Sensor, **camera: Any) -> PicameraCamera:
    found = opened(sensor, **camera)
    sensor.stalled = True
    with pytest.raises(CameraTimeout, match="no frame within 600 ms"):
        look(found)
    sensor.stalled = False
    sensor.calls.clear()
    return found


def test_a_stalled_camera_is_restarted_for_the_next_frame(sensor: Sensor) -> None:
    camera = stalled(sensor)
    assert look(camera).fresh
    assert sensor.calls[:2] == ["stop", "start"]


def test_a_restart_tells_the_camera_everything_again(sensor: Sensor) -> None:
    camera = opened(sensor, **AUTO)
    with camera.held():
        sensor.stalled = True
        with pytest.raises(CameraTimeout):
            look(camera)
        sensor.stalled = False
        assert look(camera).settings["exposure_us"] == 8995
        assert sensor.controls[-1][1]["ExposureTime"] == 8995


def test_a_second_stall_in_a_row_reopens_the_camera(sensor: Sensor) -> None:
    camera = stalled(sensor)
    sensor.stalled = True
    with pytest.raises(CameraTimeout):
        look(camera)
    sensor.stalled = False
    assert look(camera).fresh
    assert [call for call in sensor.calls if call not in ("release", "copy")][2:] == ["close", "open 0", "start"]


@pytest.mark.parametrize("trouble", ["refuses", "hangs"])
def test_a_camera_that_cannot_be_stopped_is_reopened(sensor: Sensor, trouble: str) -> None:
    camera = stalled(sensor)
    setattr(sensor, trouble, {"stop"})
    assert look(camera).fresh
    assert sensor.calls[:4] == ["stop", "close", "open 0", "start"]


def test_a_camera_that_is_gone_says_so_and_may_come_back(sensor: Sensor) -> None:
    camera = stalled(sensor)
    sensor.vanished = True
    for _ in range(2):
        with pytest.raises(CameraError, match=r"the camera is gone \(camera did not open\); check its cable"):
            look(camera)
    sensor.vanished = False
    assert look(camera).fresh


def test_a_frame_that_comes_just_too_late_gives_its_buffer_back(sensor: Sensor) -> None:
    camera = opened(sensor)
    sensor.late_frame = True
    with pytest.raises(CameraTimeout):
        look(camera)
    assert sensor.held == 0


def test_pixels_that_cannot_be_copied_give_their_buffer_back(sensor: Sensor) -> None:
    camera = opened(sensor)
    sensor.refuses = {"copy"}
    with pytest.raises(CameraError, match="did not copy"):
        look(camera)
    assert sensor.held == 0


def test_a_start_that_loses_all_buffers_is_made_again(sensor: Sensor) -> None:
    sensor.lost_starts = 1
    assert look(opened(sensor)).fresh
    assert sensor.calls[:4] == ["open 0", "start", "stop", "start"]


def test_a_camera_that_is_silent_from_the_start_is_closed_again(sensor: Sensor) -> None:
    sensor.stalled = True
    with pytest.raises(CameraTimeout):
        opened(sensor)
    assert sensor.calls[-1] == "close"


# The end


def test_closing_gives_everything_back_and_twice_is_once(sensor: Sensor) -> None:
    camera = opened(sensor)
    next_one(camera)
    camera.close()
    camera.close()
    assert (sensor.calls.count("close"), sensor.held) == (1, 0)
    with pytest.raises(CameraError, match="closed"):
        look(camera)


@pytest.mark.parametrize("trouble", ["refuses", "hangs"])
def test_a_camera_that_cannot_be_closed_after_a_stall_holds_nobody_up(sensor: Sensor, trouble: str) -> None:
    camera = stalled(sensor)
    setattr(sensor, trouble, {"close", "release"} if trouble == "refuses" else {"close"})
    camera.close()
    assert sensor.calls[-1] == "close"
