"""The picamera driver against a stand-in for picamera2 that is held against the real one's signatures."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_picamera2
import numpy as np
import pytest
from fake_picamera2 import Sensor
from record_picamera2 import committed, described_calls

from firmware.camera import Exposure
from firmware.cameras import picamera
from firmware.cameras.picamera import PicameraCamera, age_s, open_camera
from firmware.clock import ManualClock
from firmware.errors import CameraError, CameraTimeout, MissingDriver, ProfileError
from firmware.frames import Frame, FrameOptics
from firmware.pistream import check_counts, unpacked
from firmware.profile import BoardProfile

RAW = {"kind": "raw", "pattern": "RGGB", "black_level": 256}
AUTO = {"options": {"auto_exposure": True}}
ISP: dict[str, Any] = {"bits": 8, "response": {"kind": "unknown"}}
RAMP = np.arange(12 * 16).reshape(12, 16)


@pytest.fixture
def sensor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sensor]:
    """The camera that picamera2 finds."""
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


# The stand-in


def test_the_stand_in_has_the_signatures_of_the_real_library() -> None:
    owners = {name: getattr(fake_picamera2, name) for name in ("Picamera2", "Job", "CompletedRequest")}
    assert described_calls(owners) == committed()["calls"]


def test_the_driver_calls_nothing_that_was_not_recorded() -> None:
    source = Path(picamera.__file__).read_text(encoding="utf-8")
    found = re.findall(r"\b(?:_device|device|Picamera2|job|request|_request)\.([a-z]\w+)", source)
    recorded = {name.split(".")[1] for name in committed()["calls"]}
    assert set(found) == recorded - {"__init__"}


def test_the_driver_tells_and_reads_recorded_controls_only(sensor: Sensor) -> None:
    camera = opened(sensor, **ISP)
    told = set().union(*(controls for _, controls in sensor.controls))
    read = set(sensor.metadata(1)) | {"AeLocked"}
    assert told <= set(committed()["controls"])
    assert read <= set(committed()["controls"])
    camera.close()


@pytest.mark.parametrize("camera", [{}, ISP, {**ISP, "colour": False}])
def test_streams_are_asked_for_in_recorded_words(sensor: Sensor, camera: dict[str, Any]) -> None:
    opened(sensor, **camera).close()
    asked = sensor.asked
    streams = [asked[name] for name in ("main", "raw") if asked[name] is not None]
    assert {stream["format"] for stream in streams} <= set(committed()["formats"])
    assert set().union(*streams) <= set(committed()["stream_keys"])
    assert set(asked["sensor"]) <= set(committed()["sensor_keys"])
    assert (asked["queue"], asked["buffer_count"]) == (False, 4)


# Pixels


@pytest.mark.parametrize("pi5", [False, True])
def test_raw_counts_are_the_sensors_own_without_padding(sensor: Sensor, pi5: bool) -> None:
    sensor.pi5 = pi5
    frame = look(opened(sensor))
    assert frame.pixels.dtype == np.uint16
    assert np.array_equal(frame.pixels, 256 + RAMP)


@pytest.mark.parametrize(("bits", "pi5", "black"), [(10, False, 64), (10, True, 64), (8, False, 16), (8, True, 16)])
def test_a_monochrome_sensor_gives_linear_grey(sensor: Sensor, bits: int, pi5: bool, black: int) -> None:
    sensor.order, sensor.bits, sensor.pi5 = "R", bits, pi5
    frame = look(opened(sensor, bits=bits, colour=False, response={"kind": "linear", "black_level": black}))
    assert frame.pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert np.array_equal(frame.pixels, black + RAMP)


def test_the_isp_gives_red_green_blue(sensor: Sensor) -> None:
    frame = look(opened(sensor, **ISP))
    assert frame.pixels.shape == (12, 16, 3)
    assert frame.pixels[5, 5].tolist() == [10, 20, 30]
    assert sensor.asked["main"]["format"] == "BGR888"


def test_grey_isp_frames_are_the_luma_plane(sensor: Sensor) -> None:
    frame = look(opened(sensor, **ISP, colour=False))
    assert np.array_equal(frame.pixels, RAMP)


@pytest.mark.parametrize("brightest", [100, 5000])
def test_counts_that_are_justified_otherwise_are_noticed(brightest: int) -> None:
    with pytest.raises(CameraError, match=f"reach {brightest}, which cannot be with bits = 12"):
        check_counts(board().camera, np.full((12, 16), brightest, np.uint16))


@pytest.mark.parametrize(("counts", "pi5"), [(5000, False), (100, True)])
def test_a_frame_of_such_counts_is_no_frame(sensor: Sensor, counts: int, pi5: bool) -> None:
    sensor.counts, sensor.pi5 = counts, pi5
    with pytest.raises(CameraError, match="justifies its samples in another way"):
        look(opened(sensor))


@pytest.mark.parametrize("brightest", [230, 4095])
def test_a_black_and_a_white_frame_are_none_of_that(brightest: int) -> None:
    check_counts(board().camera, np.full((12, 16), brightest, np.uint16))


# What the board file promises


@pytest.mark.parametrize(
    ("camera", "physical", "message"),
    [
        ({}, {"order": "BGGR"}, 'pattern is "RGGB", but this camera gives "BGGR"; write pattern = "BGGR"'),
        ({}, {"flipped": "SBGGR"}, 'write pattern = "BGGR"'),
        ({}, {"order": "R"}, 'gives R12; write colour = false and kind = "linear"'),
        ({}, {"bits": 10}, "write bits = 10"),
        ({}, {"bits": 10, "pi5": True}, "write bits = 10"),
        ({}, {"size": (32, 24)}, "16x12, but the camera's nearest mode is 32x24"),
        (
            {"colour": False, "response": {"kind": "linear", "black_level": 256}},
            {},
            'write colour = true and kind = "raw"',
        ),
        ({"response": {**RAW, "black_level": 0}}, {}, "black_level is 0, but the camera reports 256 at 12 bits"),
        ({"response": {**RAW, "black_level": 4000}}, {}, "write black_level = 256"),
        ({"exposure_ms": 900}, {}, "camera.exposure_ms = 900, but this camera takes 0.06 to 500"),
        ({"options": {"analogue_gain": 40}}, {}, "camera.options.analogue_gain = 40, but this camera takes 1 to 16"),
    ],
)
def test_a_board_file_that_promises_other_pixels_is_told_the_right_value(
    sensor: Sensor, camera: dict[str, Any], physical: dict[str, Any], message: str
) -> None:
    for name, value in physical.items():
        setattr(sensor, name, value)
    with pytest.raises(ProfileError, match=re.escape(message)):
        opened(sensor, **camera)
    assert (sensor.calls[-1], sensor.held) == ("close", 0)


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        ({"response": {"kind": "linear"}}, "not to be had in colour"),
        ({"response": {"kind": "unknown"}}, "camera.bits = 12, but the ISP gives 8"),
        ({"bits": 14}, "camera.bits = 14, but raw frames have"),
        ({"width_px": 15}, "must be even"),
    ],
)
def test_what_no_pi_can_give_is_refused_before_the_camera_is_opened(
    sensor: Sensor, camera: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProfileError, match=message):
        opened(sensor, **camera)
    assert sensor.calls == []


def test_a_measured_black_level_may_differ_a_little(sensor: Sensor) -> None:
    assert look(opened(sensor, response={**RAW, "black_level": 240})).fresh


def test_packed_raw_frames_are_refused(sensor: Sensor) -> None:
    sensor.packing = "_CSI2P"
    with pytest.raises(CameraError, match=r"packs its raw frames \(SRGGB12_CSI2P\)"):
        opened(sensor)


def test_a_camera_without_raw_frames_says_so(sensor: Sensor) -> None:
    sensor.gives_raw = False
    with pytest.raises(CameraError, match="gives no raw frames"):
        opened(sensor)


@pytest.mark.parametrize(
    ("native", "bits", "asked"),
    [
        ("SBGGR12_CSI2P", 12, "SBGGR12"),
        ("GRBG_PISP_COMP1", 10, "SGRBG10"),
        ("MONO_PISP_COMP1", 10, "R10"),
        ("R8", 8, "R8"),
    ],
)
def test_raw_frames_are_asked_for_unpacked_in_the_sensors_own_order(native: str, bits: int, asked: str) -> None:
    assert unpacked(native, bits) == asked
    assert asked in committed()["formats"]


def test_exposure_has_one_master() -> None:
    with pytest.raises(ValueError, match="auto_exposure chooses the gain too"):
        picamera.PicameraOptions(auto_exposure=True, analogue_gain=2)


def test_a_camera_without_an_exposure_control_must_regulate_itself(sensor: Sensor) -> None:
    del sensor.limits["ExposureTime"]
    with pytest.raises(ProfileError, match=r"options.auto_exposure = true"):
        opened(sensor)
    assert look(opened(sensor, **AUTO)).fresh


@pytest.mark.parametrize(("wanted", "number"), [(0, 0), (1, 1), ("imx477", 0), ("ov9281", 1)])
def test_a_camera_is_chosen_by_number_or_model(sensor: Sensor, wanted: int | str, number: int) -> None:
    opened(sensor, options={"camera": wanted}).close()
    assert f"open {number}" in sensor.calls


@pytest.mark.parametrize("wanted", [2, -1, "imx219"])
def test_a_camera_that_is_not_there_is_told_what_is(sensor: Sensor, wanted: int | str) -> None:
    with pytest.raises(CameraError, match=r"attached: 0 \(imx477\), 1 \(ov9281\)"):
        opened(sensor, options={"camera": wanted})


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


def test_a_missing_library_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "picamera2", None)
    with pytest.raises(MissingDriver, match=r"apt install python3-picamera2.*--system-site-packages"):
        open_camera(board(), ManualClock(), None)
    assert "make setup EXTRAS=rpi" in picamera.missing()


def test_an_installed_library_is_not_missing(sensor: Sensor) -> None:
    assert picamera.missing() == ""


def test_opening_by_the_plug_in_looks_through_the_camera(sensor: Sensor) -> None:
    camera = open_camera(board(), sensor.clock, None)
    camera.close()
    assert sensor.calls == ["open 0", "start", "release", "close"]
