"""The GStreamer camera on GStreamer for real: videotestsrc's pixels, its freshness, and the faults of a stream."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gst_board import RGB, RGGB, SINK, SIZE, a_board, next_of, real_gstreamer

from firmware.cameras import gstreamer
from firmware.cameras.gstreamer import GstreamerCamera
from firmware.clock import Clock, ManualClock, SystemClock
from firmware.errors import CameraError, CameraTimeout, MissingDriver
from firmware.frames import Frame, FrameOptics
from firmware.gst import GstreamerOptions, describe
from firmware.microscope import open_microscope

LIVE = "videotestsrc name=source is-live=true pattern=red"
RED = f"{RGB},{SIZE}"
"""What the test source gives between LIVE and SINK."""

Opened = Callable[..., GstreamerCamera]


@pytest.fixture(scope="module")
def gst() -> Iterator[None]:
    """GStreamer for real, or a skip."""
    with real_gstreamer():
        yield


@pytest.fixture
def opened(gst: None) -> Iterator[Opened]:
    """Opens test cameras on the system's clock, from options or from a pipeline of one's own."""
    with ExitStack() as stack:

        def open_one(launch: str = "", clock: Clock | None = None, **given: Any) -> GstreamerCamera:
            options = {"source": "videotestsrc", **given.pop("options", {})}
            board = a_board(options, **given)
            table = GstreamerOptions.model_validate(options)
            camera = GstreamerCamera(board, clock or SystemClock(), table, launch or describe(board.camera, table))
            stack.callback(camera.close)
            return camera

        yield open_one


def look(camera: GstreamerCamera, not_before_s: float = 0.0) -> Frame:
    return camera.capture(not_before_s, lambda _time_s: 0.0, FrameOptics())


def take(camera: GstreamerCamera, count: int) -> None:
    for _ in range(count):
        next_of(camera)


def stream_of(camera: GstreamerCamera) -> Any:
    assert camera._stream is not None
    return camera._stream


@pytest.mark.parametrize("width_px", [32, 33, 34, 35])
def test_red_is_red_at_any_width(opened: Opened, width_px: int) -> None:
    pixels = look(opened(options={"pattern": "red"}, width_px=width_px)).pixels
    assert pixels.shape == (10, width_px, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == [255, 0, 0]).all()


@pytest.mark.parametrize(("form", "width_px"), [("BGRx", 33), ("BGRx", 35), ("YUY2", 34)])
def test_colour_that_is_converted_stays_in_its_place(opened: Opened, form: str, width_px: int) -> None:
    pixels = look(opened(options={"pattern": "red", "format": form}, width_px=width_px)).pixels
    assert pixels.shape == (10, width_px, 3)
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 4


def test_a_jpeg_is_decoded(opened: Opened) -> None:
    source = f"{LIVE} ! {RED.replace('33', '32')}"
    camera = opened(f"{source} ! videoconvert ! jpegenc ! jpegdec ! videoconvert ! {RGB} ! {SINK}", width_px=32)
    assert np.abs(look(camera).pixels.astype(int) - [255, 0, 0]).max() <= 8


@pytest.mark.parametrize("width_px", [32, 33, 34, 35])
@pytest.mark.parametrize(("bits", "kind"), [(8, np.uint8), (16, np.uint16)])
def test_grey_rows_stay_apart(opened: Opened, width_px: int, bits: int, kind: type) -> None:
    pixels = look(opened(options={"pattern": "gradient"}, width_px=width_px, colour=False, bits=bits)).pixels
    assert pixels.shape == (10, width_px)
    assert pixels.dtype == kind
    assert (np.ptp(pixels, axis=1) == 0).all()
    assert (np.diff(pixels[:, 0].astype(int)) > 2 ** (bits - 5)).all()


@pytest.mark.parametrize("width_px", [32, 34])
def test_a_mosaic_comes_as_it_is(opened: Opened, width_px: int) -> None:
    pixels = look(opened(options={"pattern": "red"}, width_px=width_px, response=RGGB)).pixels
    assert pixels.shape == (10, width_px)
    assert (pixels[::2, ::2] == 255).all()
    assert pixels.sum() == 255 * pixels.size // 4


def shine(camera: GstreamerCamera, red: int, green: int) -> None:
    colour = 0xFF000000 | red << 16 | green << 8
    stream_of(camera).source.set_property("foreground-color", colour)


@pytest.mark.parametrize("delayed", [0, 3])
def test_a_frame_shows_the_light_from_after_the_move(opened: Opened, delayed: int) -> None:
    source = f"{LIVE.replace('red', 'solid-color')} foreground-color=0xffff0000 ! {RED}"
    camera = opened(f"{source} ! queue min-threshold-buffers={delayed + 1} ! {SINK}", flush_frames=12)
    assert look(camera, SystemClock().now_s()).pixels[0, 0].tolist() == [255, 0, 0]
    shine(camera, 0, 255)
    moved_s = SystemClock().now_s()
    assert next_of(camera).started_s < moved_s
    frame = look(camera, moved_s)
    assert frame.fresh
    assert (frame.pixels == [0, 255, 0]).all()


def test_frames_that_nobody_took_are_dropped(opened: Opened) -> None:
    camera, clock = opened(options={"framerate": 60}), SystemClock()
    look(camera)
    clock.sleep(0.4)
    assert clock.now_s() - next_of(camera).ended_s < 0.3


def test_a_board_clock_of_another_origin_dates_frames_too(opened: Opened) -> None:
    camera = opened(clock=ManualClock(7000.0))
    assert 6999.0 < next_of(camera).started_s < 7000.0 - 1 / 30


@pytest.mark.parametrize(("stamped_s", "age_s"), [(None, None), (60.0, None), (-0.5, pytest.approx(0.5, abs=0.3))])
def test_a_stamp_is_believed_unless_it_is_missing_or_lies_ahead(opened: Opened, stamped_s: Any, age_s: Any) -> None:
    stream = stream_of(opened())
    Gst, pipeline = stream._gst, stream._pipeline
    buffer, segment = Gst.Buffer.new(), Gst.Segment.new()
    segment.init(Gst.Format.TIME)
    segment.base = 10 * Gst.SECOND
    pipeline.set_base_time(pipeline.get_clock().get_time() - 10 * Gst.SECOND - Gst.SECOND)
    if stamped_s is not None:
        buffer.pts = round((1.0 + stamped_s) * 1e9)
    assert stream.age_s(Gst.Sample.new(buffer, None, segment, None)) == age_s


def test_a_stalled_camera_times_out_and_comes_back(opened: Opened) -> None:
    camera = opened(f"{LIVE} ! {RED} ! valve name=valve ! {SINK}", timeout_ms=300)
    look(camera)
    stream_of(camera)._pipeline.get_by_name("valve").set_property("drop", True)
    with pytest.raises(CameraTimeout, match="no frame within 300 ms"):
        look(camera, SystemClock().now_s())
    assert look(camera).pixels.shape == (10, 33, 3)


def test_an_unplugged_camera_says_so_in_gstreamers_words_and_comes_back(opened: Opened) -> None:
    camera = opened(f"{LIVE} ! {RED} ! identity name=usb error-after=3 ! {SINK}")
    with pytest.raises(CameraError, match=r"GStreamer's usb says: Failed after iterations as requested; check"):
        take(camera, 4)
    assert next_of(camera).settings == {"dated_by": "timestamp"}


def test_a_fault_that_does_not_end_the_stream_is_heard_too(opened: Opened) -> None:
    camera = opened()
    stream = stream_of(camera)
    Gst, _, GLib = gstreamer._sdk()
    fault = GLib.Error.new_literal(Gst.CoreError.quark(), "Argus is busy", 1)
    stream.source.post_message(Gst.Message.new_error(stream.source, fault, ""))
    with pytest.raises(CameraError, match="GStreamer's source says: Argus is busy; check"):
        look(camera)


def test_a_stream_that_ends_is_a_fault_and_begins_anew(opened: Opened) -> None:
    camera = opened(f"{LIVE} num-buffers=1 ! {RED} ! {SINK}")
    next_of(camera)
    with pytest.raises(CameraError, match="ended its stream"):
        next_of(camera)
    assert next_of(camera).settings == {"dated_by": "timestamp"}


def test_frames_that_the_camera_does_not_offer_name_the_keys_to_correct(opened: Opened) -> None:
    other = "video/x-raw,format=RGB,width=44"
    camera = opened(f"{LIVE} ! {RED} ! funnel ! {other} ! {SINK}")
    with pytest.raises(CameraError, match=r"does not offer this; correct width_px, height_px, framerate or format"):
        look(camera)


def test_a_device_that_is_not_there_cannot_be_opened(gst: None) -> None:
    board = a_board({"source": "v4l2src", "device": "/dev/no-such-camera"})
    with pytest.raises(CameraError, match=r"/dev/no-such-camera'? .*No such file or directory.*; check"):
        gstreamer.open_camera(board, SystemClock(), None)


def test_an_element_that_does_not_exist_is_a_missing_driver(opened: Opened) -> None:
    with pytest.raises(MissingDriver, match="no element 'nosuchsrc'; install"):
        opened(f"nosuchsrc name=source ! {SINK}")


def test_a_property_that_does_not_exist_is_refused(opened: Opened) -> None:
    with pytest.raises(CameraError, match='no property "colour" in element "videotestsrc"'):
        opened(f"videotestsrc colour=red ! {SINK}")


def test_the_source_is_told_what_it_knows(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gstreamer._LOCKS, "videotestsrc", {"aelock": True, "flip": True})
    camera = opened()
    source = stream_of(camera).source
    with camera.held():
        assert source.get_property("flip")
    assert not source.get_property("flip")


def test_a_camera_is_let_go_and_may_be_closed_twice(opened: Opened) -> None:
    camera = opened()
    stream = stream_of(camera)
    camera.close()
    camera.close()
    assert stream._pipeline.get_state(0).state == stream._gst.State.NULL
    with pytest.raises(CameraError, match="closed"):
        look(camera)


THROWING = """
import sys
from firmware.cameras import gstreamer
sys.path.append(sys.argv[1])
assert gstreamer.missing() == ""
from matplotlib import ft2font
print(hasattr(ft2font, "nothing"))
"""


def test_cpp_that_is_loaded_after_gstreamer_can_still_throw(gst: None, tmp_path: Path) -> None:
    """It once aborted; matplotlib's font library answers for a missing name with an exception in C++."""
    (tmp_path / "gi").symlink_to(Path(sys.modules["gi"].__path__[0]))
    script = [sys.executable, "-c", THROWING, str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


def test_a_board_with_this_driver_opens_and_looks(gst: None) -> None:
    board = a_board({"source": "videotestsrc", "pattern": "blue", "framerate": 60})
    with open_microscope(board, SystemClock()) as microscope:
        frame = microscope.capture()
    assert frame.fresh
    assert (frame.pixels == [0, 0, 255]).all()
