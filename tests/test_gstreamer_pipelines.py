"""The GStreamer camera's pipelines as text: one for every source, and the board files that cannot have one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from gst_board import RGB, RGGB, SINK, SIZE, a_board

from firmware.clock import ManualClock
from firmware.errors import ProfileError
from firmware.gst import GstreamerOptions, describe
from firmware.microscope import open_microscope

QUEUE = "queue leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0"
ARGUS = 'nvarguscamerasrc name=source sensor-id="{}" exposuretimerange="8000000 8000000" tnr-mode="0" ee-mode="0"'
NVMM = f"video/x-raw(memory:NVMM),format=NV12,{SIZE}"
CONTROLS = (
    "c,auto_exposure=1,exposure_auto=1,exposure_time_absolute=80,exposure_absolute=80,"
    "white_balance_automatic=0,white_balance_temperature_auto=0"
)
V4L2 = f'v4l2src name=source device="/dev/video0" extra-controls="{CONTROLS}'
LIBCAMERA = 'libcamerasrc name=source camera-name="/base/imx477@1a" ae-enable="false" exposure-time="8000"'
TEST = 'videotestsrc name=source is-live="true" pattern="red"'
GREY, DEEP = (f"video/x-raw,format={name}" for name in ("GRAY8", "GRAY16_LE"))
PIPELINES: list[tuple[dict[str, Any], dict[str, Any], Sequence[str]]] = [
    (
        {"source": "nvarguscamerasrc", "device": 1},
        {},
        (ARGUS.format(1), NVMM, QUEUE, "nvvidconv", "video/x-raw,format=BGRx", "videoconvert", RGB),
    ),
    (
        {"source": "nvarguscamerasrc", "gain": 2.5},
        {"colour": False},
        (ARGUS.format(0) + ' gainrange="2.5 2.5" ispdigitalgainrange="1 1"', NVMM, QUEUE, "nvvidconv", GREY),
    ),
    ({"source": "v4l2src"}, {}, (V4L2 + '"', f"video/x-raw,{SIZE}", QUEUE, "videoconvert", RGB)),
    (
        {"source": "v4l2src", "format": "YUY2", "gain": 7},
        {"colour": False},
        (V4L2 + ',gain=7"', f"video/x-raw,format=YUY2,{SIZE}", QUEUE, "videoconvert", GREY),
    ),
    (
        {"source": "v4l2src", "format": "MJPG"},
        {},
        (V4L2 + '"', f"image/jpeg,{SIZE}", QUEUE, "jpegdec", "videoconvert", RGB),
    ),
    ({"source": "v4l2src"}, {"colour": False, "bits": 12}, (V4L2 + '"', f"{DEEP},{SIZE}", QUEUE, DEEP)),
    (
        {"source": "v4l2src"},
        {"response": RGGB},
        (V4L2 + '"', f"video/x-bayer,format=rggb,{SIZE}", QUEUE, "video/x-bayer,format=rggb"),
    ),
    (
        {"source": "libcamerasrc", "device": "/base/imx477@1a", "gain": 1.5},
        {},
        (LIBCAMERA + ' analogue-gain="1.5"', f"video/x-raw,{SIZE}", QUEUE, "videoconvert", RGB),
    ),
    (
        {"source": "videotestsrc", "pattern": "red"},
        {},
        (TEST, f"video/x-raw,{SIZE}", QUEUE, "videoconvert", RGB),
    ),
]


def launch_of(options: dict[str, Any], **camera: Any) -> str:
    return describe(a_board(options, **camera).camera, GstreamerOptions.model_validate(options))


@pytest.mark.parametrize(("options", "camera", "steps"), PIPELINES)
def test_every_source_has_its_pipeline(options: dict[str, Any], camera: dict[str, Any], steps: Sequence[str]) -> None:
    assert launch_of(options, **camera).split(" ! ") == [*steps, SINK]


@pytest.mark.parametrize(
    ("framerate", "caps"),
    [(30, "30/1"), (7.5, "15/2"), ("30000/1001", "30000/1001"), ("12.5", "25/2")],
)
def test_a_framerate_is_a_whole_number_a_decimal_or_a_fraction(framerate: object, caps: str) -> None:
    options = {"source": "videotestsrc", "framerate": framerate}
    assert f"framerate={caps} !" in launch_of(options)


def test_a_device_cannot_break_out_of_its_quotes() -> None:
    launch = launch_of({"source": "libcamerasrc", "device": 'a\\b" ! filesink'})
    assert 'camera-name="a\\\\b\\" ! filesink" ' in launch


@pytest.mark.parametrize(
    ("options", "camera", "why"),
    [
        ({"source": "v4l2src"}, {"response": RGGB, "bits": 10}, "a mosaic comes in 8 bits"),
        ({"source": "v4l2src"}, {"bits": 12}, "colour comes in 8 bits"),
        ({"source": "nvarguscamerasrc"}, {"response": RGGB}, "Argus gives 8 bits from the ISP"),
        ({"source": "nvarguscamerasrc"}, {"colour": False, "bits": 12}, "Argus gives 8 bits from the ISP"),
        ({"source": "nvarguscamerasrc", "format": "YUY2"}, {}, "format goes with 8 bits"),
        ({"source": "v4l2src", "format": "MJPG"}, {"response": RGGB}, "format goes with 8 bits"),
        ({"source": "v4l2src"}, {"exposure_ms": 50}, "50 ms do not fit into a frame of 33.3333 ms"),
        ({"source": "nvarguscamerasrc"}, {"exposure_ms": 0.03}, r"Argus exposes for 0\.034"),
        ({"source": "nvarguscamerasrc", "framerate": 2}, {"exposure_ms": 400}, r"Argus exposes for 0\.034"),
        ({"source": "nvarguscamerasrc", "gain": 0.5}, {}, "Argus has a gain of 1 to 16"),
        ({"source": "v4l2src", "gain": 1.5}, {}, "whole units"),
        ({"source": "nvarguscamerasrc", "device": "/dev/video0"}, {}, "by number"),
        ({"source": "v4l2src", "device": 0}, {}, "by name"),
        ({"source": "v4l2src", "pattern": "red"}, {}, "only videotestsrc takes a pattern"),
        ({"source": "videotestsrc", "device": "/dev/video0"}, {}, "and no device"),
    ],
)
def test_what_a_source_cannot_hand_over_is_refused(options: dict[str, Any], camera: dict[str, Any], why: str) -> None:
    with pytest.raises(ProfileError, match=why):
        launch_of(options, **camera)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "source"),
        ({"source": "filesrc"}, "source"),
        ({"source": "v4l2src", "devise": "/dev/video1"}, "devise: unknown key"),
        ({"source": "v4l2src", "framerate": 0}, "framerate: give frames per second"),
        ({"source": "v4l2src", "format": "RGB ! filesink"}, "format"),
        ({"source": "videotestsrc", "pattern": "red ! x"}, "pattern"),
        ({"source": "v4l2src", "latency_ms": -1}, "latency_ms"),
    ],
)
def test_options_that_are_not_as_they_should_be_make_a_wrong_board_file(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ProfileError, match=rf"camera\.options: {why}"):
        open_microscope(a_board(options), ManualClock())
