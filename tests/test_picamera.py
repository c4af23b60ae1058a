"""The picamera driver on a stand-in with the real library's signatures: its pixels, and what a board file promises."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import fake_picamera2
import numpy as np
import pytest
from fake_picamera2 import Sensor
from pi_board import AUTO, ISP, RAW, a_sensor, board, look, opened
from record_picamera2 import committed, described_calls

from firmware.cameras import picamera
from firmware.cameras.picamera import open_camera
from firmware.clock import ManualClock
from firmware.errors import CameraError, MissingDriver, ProfileError
from firmware.pistream import check_counts, unpacked

RAMP = np.arange(12 * 16).reshape(12, 16)

sensor = pytest.fixture(a_sensor)


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


# The library


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
