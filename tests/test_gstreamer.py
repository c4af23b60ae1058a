"""The GStreamer camera: its pipelines as text, its dating by a scripted stream, and videotestsrc for real."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from firmware.camera import Exposure
from firmware.cameras import gstreamer
from firmware.cameras.gstreamer import GstreamerCamera, Stream
from firmware.clock import Clock, ManualClock, SystemClock
from firmware.errors import CameraError, CameraTimeout, MissingDriver, ProfileError
from firmware.frames import Frame, FrameOptics
from firmware.gst import GstreamerOptions, describe
from firmware.microscope import open_microscope
from firmware.profile import BoardProfile, CameraProfile, load_profile

DISTRIBUTION = Path("/usr/lib/python3/dist-packages")
RGGB = {"kind": "raw", "pattern": "RGGB"}
QUEUE = "queue leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0"
SINK = "appsink name=sink sync=false drop=true max-buffers=1 enable-last-sample=false"
SIZE = "width=33,height=10,framerate=30/1"
LIVE = "videotestsrc name=source is-live=true pattern=red"
RED = f"video/x-raw,format=RGB,{SIZE}"
"""What the test source gives between LIVE and SINK."""

Opened = Callable[..., GstreamerCamera]


def a_board(options: dict[str, Any], **camera: Any) -> BoardProfile:
    given = {"width_px": 33, "height_px": 10, "exposure_ms": 8.0, "timeout_ms": 2000, **camera}
    profile = CameraProfile.model_validate({"driver": "gstreamer", "options": options, **given})
    return load_profile("simulated_tiny").model_copy(update={"camera": profile})


def launch_of(options: dict[str, Any], **camera: Any) -> str:
    return describe(a_board(options, **camera).camera, GstreamerOptions.model_validate(options))


ARGUS = 'nvarguscamerasrc name=source sensor-id="{}" exposuretimerange="8000000 8000000" tnr-mode="0" ee-mode="0"'
NVMM = f"video/x-raw(memory:NVMM),format=NV12,{SIZE}"
CONTROLS = (
    "c,auto_exposure=1,exposure_auto=1,exposure_time_absolute=80,exposure_absolute=80,"
    "white_balance_automatic=0,white_balance_temperature_auto=0"
)
V4L2 = f'v4l2src name=source device="/dev/video0" extra-controls="{CONTROLS}'
LIBCAMERA = 'libcamerasrc name=source camera-name="/base/imx477@1a" ae-enable="false" exposure-time="8000"'
TEST = 'videotestsrc name=source is-live="true" pattern="red"'
RGB, GREY, DEEP = (f"video/x-raw,format={name}" for name in ("RGB", "GRAY8", "GRAY16_LE"))
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


class Script:
    """A stream whose samples are ages in seconds, None for one that has no stamp, or what is raised."""

    def __init__(self, clock: ManualClock, samples: list[float | Exception | None]) -> None:
        self.clock, self.samples = clock, samples
        self.told: dict[str, object] = {}
        self.stops = 0

    def pull(self, timeout_s: float) -> Any:
        del timeout_s
        self.clock.sleep(0.1)
        sample = self.samples.pop(0)
        if isinstance(sample, Exception):
            raise sample
        return sample

    def age_s(self, sample: Any) -> Any:
        self.clock.sleep(5.0)
        return sample

    def set(self, name: str, value: object) -> None:
        self.told[name] = value

    def stop(self) -> None:
        self.stops += 1


class Scripted(GstreamerCamera):
    """A camera on a script instead of a pipeline; it counts how often it connects."""

    def __init__(self, samples: list[float | Exception | None], **options: Any) -> None:
        self.clock = ManualClock(100.0)
        self.script = Script(self.clock, samples)
        self.connected = 0
        chosen = {"source": "nvarguscamerasrc", **options}
        super().__init__(a_board(chosen), self.clock, GstreamerOptions.model_validate(chosen), "")

    def _connect(self) -> Stream:
        self.connected += 1
        return self.script  # type: ignore[return-value]


def next_of(camera: GstreamerCamera) -> Exposure:
    return camera._next(1.0)


@pytest.mark.parametrize(
    ("options", "late_s"),
    [
        ({"source": "nvarguscamerasrc"}, 0.1),
        ({"source": "nvarguscamerasrc", "framerate": 60}, 0.05),
        ({"source": "v4l2src"}, 2 / 30),
        ({"source": "libcamerasrc"}, 1 / 30),
        ({"source": "nvarguscamerasrc", "latency_ms": 20}, 0.02),
        ({"source": "v4l2src", "latency_ms": 0}, 0.0),
    ],
)
def test_the_exposure_ended_as_long_before_the_stamp_as_the_source_may_be_late(
    options: dict[str, Any], late_s: float
) -> None:
    exposure = next_of(Scripted([0.03], **options))
    assert exposure.ended_s == pytest.approx(100.1 - 0.03 - late_s)
    assert exposure.ended_s - exposure.started_s == pytest.approx(0.008)


def test_a_pause_while_the_clocks_are_read_makes_a_frame_no_younger() -> None:
    camera = Scripted([0.0], latency_ms=0)
    assert next_of(camera).ended_s == pytest.approx(100.1)
    assert camera.clock.now_s() == pytest.approx(105.1)


def test_a_frame_without_a_stamp_is_as_old_as_the_last_look() -> None:
    camera = Scripted([None, None], latency_ms=0)
    assert next_of(camera).ended_s == pytest.approx(100.0)
    camera.clock.sleep(60.0)
    second = next_of(camera)
    assert second.ended_s == pytest.approx(100.0)
    assert second.settings == {"dated_by": "arrival"}


def test_a_frame_says_when_it_was_dated_by_its_stamp() -> None:
    assert next_of(Scripted([0.0])).settings == {"dated_by": "timestamp"}


@pytest.mark.parametrize("fault", [TimeoutError(), CameraError("unplugged")])
def test_after_a_fault_the_camera_connects_anew(fault: Exception) -> None:
    camera = Scripted([fault, 0.0])
    with pytest.raises(type(fault)):
        next_of(camera)
    assert (camera.script.stops, camera.connected) == (1, 1)
    next_of(camera)
    assert (camera.script.stops, camera.connected) == (1, 2)


@pytest.mark.parametrize(
    ("source", "locked", "free"),
    [
        ("nvarguscamerasrc", {"aelock": True, "awblock": True}, {"aelock": False, "awblock": False}),
        ("libcamerasrc", {"awb-enable": False}, {"awb-enable": True}),
        ("v4l2src", {}, {}),
    ],
)
def test_what_a_source_regulates_is_locked_while_held(
    source: str, locked: dict[str, bool], free: dict[str, bool]
) -> None:
    camera = Scripted([], source=source)
    with camera.held():
        assert camera.script.told == locked
    assert camera.script.told == free


def test_a_stream_that_is_gone_is_not_told_to_unlock() -> None:
    camera = Scripted([TimeoutError()])
    with camera.held(), pytest.raises(TimeoutError):
        next_of(camera)
    assert camera.script.told == {"aelock": True, "awblock": True}


def test_a_missing_gi_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(MissingDriver, match=r"apt install python3-gi gir1\.2-gst-plugins-base-1\.0 .*site-packages"):
        gstreamer.open_camera(a_board({"source": "videotestsrc"}), ManualClock(), None)
    assert "python3-gi" in gstreamer.missing()


def test_a_missing_description_of_gstreamer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = ModuleType("gi")
    monkeypatch.setitem(sys.modules, "gi", bare)

    def require_version(name: str, version: str) -> None:
        raise ValueError(f"Namespace {name} not available for version {version}")

    monkeypatch.setattr(bare, "require_version", require_version, raising=False)
    assert "(Namespace Gst not available for version 1.0): apt install" in gstreamer.missing()


@pytest.mark.parametrize(
    ("words", "kind", "cure"),
    [
        ('no element "nvarguscamerasrc"', MissingDriver, "comes with JetPack"),
        ('no element "jpegdec"', MissingDriver, r"install gstreamer1\.0-plugins-good"),
        ('no element "libcamerasrc"', MissingDriver, r"install gstreamer1\.0-libcamera"),
        ('no element "videoconvert"', MissingDriver, r"install gstreamer1\.0-plugins-base"),
        ('no property "ae-enable" in element "libcamerasrc"', MissingDriver, r"install libcamera 0\.4"),
        ('could not set property "pattern"', CameraError, r"correct \[camera\.options\]"),
    ],
)
def test_a_pipeline_that_cannot_be_built_says_what_to_do(words: str, kind: type[Exception], cure: str) -> None:
    error = gstreamer._not_understood(words)
    assert isinstance(error, kind)
    with pytest.raises(kind, match=cure):
        raise error


class OnlyGi:
    """Finds the distribution's gi, and nothing else of what lies beside it."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        del path, target
        return PathFinder.find_spec(name, [str(DISTRIBUTION)]) if name == "gi" else None


@pytest.fixture(scope="module")
def gst() -> Iterator[None]:
    """GStreamer for real; the distribution's gi will do where it was built for this very Python."""
    with ExitStack() as stack:
        fits = (DISTRIBUTION / "gi" / f"_gi{sysconfig.get_config_var('EXT_SUFFIX')}").exists()
        if importlib.util.find_spec("gi") is None and fits:
            sys.meta_path.append(OnlyGi)
            stack.callback(sys.meta_path.remove, OnlyGi)
        if why := gstreamer.missing():
            pytest.skip(why)
        Gst = gstreamer._sdk()[0]
        if not all(Gst.ElementFactory.find(name) for name in ("v4l2src", "jpegenc")):
            pytest.skip("apt install gstreamer1.0-plugins-good")
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
