"""The picamera driver's exposures: when a frame was exposed, and what holds exposure, gain and white balance."""

from __future__ import annotations

import json

import pytest
from fake_picamera2 import Sensor
from pi_board import AUTO, ISP, a_sensor, look, next_one, opened

from firmware.cameras.picamera import age_s
from firmware.errors import CameraError

sensor = pytest.fixture(a_sensor)


# Freshness


@pytest.mark.parametrize("late_frames", [1, 3, 6])
def test_frames_from_before_the_move_are_passed_over_and_their_buffers_go_back(
    sensor: Sensor, late_frames: int
) -> None:
    sensor.late_frames = late_frames
    camera = opened(sensor)
    asked_s = sensor.clock.now_s()
    frame = look(camera)
    assert frame.fresh
    assert frame.captured_at_s > asked_s
    assert (sensor.copied, sensor.held, sensor.most_held) == (1, 0, 1)


def test_a_queue_deeper_than_the_flush_gives_a_frame_that_is_not_fresh(sensor: Sensor) -> None:
    sensor.late_frames = 6
    camera = opened(sensor, flush_frames=3)
    assert not look(camera).fresh


@pytest.mark.parametrize(
    ("asleep_s", "stamps_boottime"), [(0, False), (0, True), (0.5, True), (3600, True), (3600, False)]
)
def test_an_exposure_is_dated_from_its_first_rows_start_to_its_last_rows_end(
    sensor: Sensor, asleep_s: float, stamps_boottime: bool
) -> None:
    sensor.asleep_s, sensor.stamps_boottime = asleep_s, stamps_boottime
    exposure = next_one(opened(sensor, exposure_ms=7))
    wire_s = sensor.clock.now_s() - sensor.late_frames * sensor.frame_s
    assert exposure.started_s == pytest.approx(wire_s - 0.007 - 0.001)
    assert exposure.ended_s == pytest.approx(wire_s + sensor.readout_s)


def test_a_stamp_that_either_clock_may_have_made_counts_as_the_older_one(sensor: Sensor) -> None:
    sensor.asleep_s = 0.5
    exposure = next_one(opened(sensor))
    wire_s = sensor.clock.now_s() - sensor.late_frames * sensor.frame_s
    assert exposure.started_s < wire_s - 0.5


def test_ages_are_told_apart_by_what_cannot_be() -> None:
    assert age_s(90, 100, 100) == pytest.approx(10e-9)
    assert age_s(10**12 - 5, 10**12, 10**9) == pytest.approx(5e-9)
    assert age_s(10**9 - 5, 10**12, 10**9) == pytest.approx(5e-9)


def test_a_long_frame_whose_rows_may_be_stretched_is_dated_by_its_length(sensor: Sensor) -> None:
    sensor.frame_s = 0.4
    exposure = next_one(opened(sensor, timeout_ms=4000))
    wire_s = sensor.clock.now_s() - sensor.late_frames * sensor.frame_s
    assert exposure.ended_s == pytest.approx(wire_s + 0.04)


def test_a_camera_that_does_not_say_how_long_it_exposed_counts_its_longest_frame(sensor: Sensor) -> None:
    sensor.hidden = {"ExposureTime", "FrameDuration"}
    exposure = next_one(opened(sensor))
    wire_s = sensor.clock.now_s() - sensor.late_frames * sensor.frame_s
    assert exposure.started_s == pytest.approx(wire_s - 1.0 - 0.001)


def test_frames_without_a_date_are_refused(sensor: Sensor) -> None:
    sensor.hidden = {"SensorTimestamp"}
    with pytest.raises(CameraError, match="does not date its frames"):
        look(opened(sensor))


def test_a_frame_carries_its_settings(sensor: Sensor) -> None:
    frame = look(opened(sensor, **ISP, exposure_ms=7, options={"analogue_gain": 2, "colour_gains": [1.5, 2.5]}))
    assert frame.settings == {"exposure_us": 7000, "analogue_gain": 2, "colour_gains": (1.5, 2.5)}
    json.dumps(dict(frame.settings))


# Exposure, gain and white balance


def test_what_the_board_file_fixes_is_told_before_the_first_frame(sensor: Sensor) -> None:
    opened(sensor, exposure_ms=7)
    (_, told), *later = sensor.controls
    assert (told["AeEnable"], told["ExposureTime"], told["AnalogueGain"]) == (False, 7000, 1.0)
    assert (told["AwbEnable"], told["NoiseReductionMode"], told["Sharpness"]) == (False, 0, 0.0)
    assert told["FrameDurationLimits"] == (100, 100_000)
    assert later == []


def test_a_long_exposure_may_make_frames_as_long(sensor: Sensor) -> None:
    opened(sensor, exposure_ms=300)
    assert sensor.controls[0][1]["FrameDurationLimits"] == (100, 600_000)


def test_a_job_sees_one_exposure_gain_and_white_balance(sensor: Sensor) -> None:
    camera = opened(sensor, **ISP, **AUTO)
    sensor.changed = sensor.frame() - 20
    with camera.held():
        seen = [dict(look(camera).settings) for _ in range(3)]
    assert seen[0] == seen[1] == seen[2]
    assert seen[0] == {"exposure_us": 8995, "analogue_gain": 5.0, "colour_gains": (2.8, 1.5)}


def test_between_jobs_the_camera_regulates_itself(sensor: Sensor) -> None:
    camera = opened(sensor, **ISP, **AUTO)
    with camera.held():
        pass
    sensor.clock.sleep(1.0)
    sensor.changed = sensor.frame() - 10
    assert next_one(camera).settings["exposure_us"] < 8000


def test_raw_frames_have_no_white_balance_to_lock(sensor: Sensor) -> None:
    camera = opened(sensor, **AUTO)
    with camera.held():
        _, told = sensor.controls[-1]
    assert "ColourGains" not in told
    assert told["ExposureTime"] == 8995


def test_white_balance_alone_is_locked_where_exposure_is_fixed(sensor: Sensor) -> None:
    camera = opened(sensor, **ISP)
    with camera.held():
        _, told = sensor.controls[-1]
    assert (told["AwbEnable"], told["ColourGains"], told["ExposureTime"]) == (False, (2.8, 1.5), 8000)


def test_where_all_is_fixed_a_job_costs_no_frame(sensor: Sensor) -> None:
    camera = opened(sensor)
    began_s, told = sensor.clock.now_s(), len(sensor.controls)
    with camera.held():
        assert (sensor.clock.now_s(), len(sensor.controls)) == (began_s, told)


def test_a_regulation_at_rest_is_locked_at_once(sensor: Sensor) -> None:
    camera = opened(sensor, **AUTO)
    began = sensor.frame()
    with camera.held():
        assert sensor.frame() - began == 1


def test_what_the_camera_lets_nobody_set_is_not_locked(sensor: Sensor) -> None:
    del sensor.limits["ColourGains"]
    camera = opened(sensor, **ISP)
    with camera.held():
        sensor.changed = sensor.frame()
        assert look(camera).settings["colour_gains"] != (2.8, 1.5)


def test_a_light_that_never_rests_is_locked_as_it_is(sensor: Sensor) -> None:
    camera = opened(sensor, **AUTO)
    sensor.changed = sensor.frame() + 1000
    with camera.held():
        assert look(camera).settings["exposure_us"] == 4998


def test_frames_from_before_a_lock_took_effect_are_no_answer(sensor: Sensor) -> None:
    camera = opened(sensor, **AUTO)
    sensor.control_frames = 9
    with camera.held():
        sensor.changed = sensor.frame() - 4
        began = sensor.frame()
        assert next_one(camera).settings["exposure_us"] == 8995
    assert sensor.frame() - began > 5


def test_a_camera_that_does_as_it_likes_is_an_error_that_says_what(sensor: Sensor) -> None:
    camera = opened(sensor, exposure_ms=8)
    camera._device.set_controls({"ExposureTime": 3000})
    sensor.clock.sleep(0.5)
    with pytest.raises(CameraError, match="ExposureTime 2996 where 8000 was asked for"):
        look(camera)
    assert sensor.held == 0
