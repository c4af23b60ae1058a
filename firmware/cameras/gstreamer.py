"""The GStreamer camera: a Jetson's CSI sensor, a USB camera, or whatever else a GStreamer source hands over."""

from __future__ import annotations

import ctypes
import re
import warnings
from contextlib import suppress
from typing import Any

import numpy as np

from firmware.camera import Camera, Exposure
from firmware.clock import Clock
from firmware.errors import CameraError, MissingDriver
from firmware.frames import Pixels
from firmware.gst import GstreamerOptions, Source, describe
from firmware.needs import Device, Needs
from firmware.patience import within
from firmware.profile import BoardProfile
from firmware.simulation import World

INSTALL = (
    "apt install python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good, "
    "in an environment with --system-site-packages"
)
_PACKAGES = {
    "nvarguscamerasrc": "nvidia-l4t-gstreamer, which comes with JetPack",
    "nvvidconv": "nvidia-l4t-gstreamer, which comes with JetPack",
    "v4l2src": "gstreamer1.0-plugins-good",
    "jpegdec": "gstreamer1.0-plugins-good",
    "libcamerasrc": "gstreamer1.0-libcamera",
}
_LOCKS: dict[Source, dict[str, bool]] = {
    "nvarguscamerasrc": {"aelock": True, "awblock": True},
    "libcamerasrc": {"awb-enable": False},
}
_LOOK_NS = 100_000_000
_PATIENCE_S = 5.0
_DEVICES: dict[Source, tuple[str, str]] = {
    "nvarguscamerasrc": ("/tmp/argus_socket", "start the camera daemon: sudo systemctl restart nvargus-daemon"),  # noqa: S108 - NVIDIA's place
    "libcamerasrc": ("/dev/media*", "check the camera's cable with the board switched off; `cam -l` lists cameras"),
}
_NO_VIDEO = "plug the camera in; `v4l2-ctl --list-devices` lists cameras, options.device names one"


def _sdk() -> tuple[Any, Any, Any]:
    """Gst, GstVideo and GLib, ready for use."""
    # GStreamer brings libunwind along, for all to see: C++ that is loaded later (an inference runtime) would take
    # half of its exception handling from there, and the first exception would abort the process.
    with suppress(OSError):
        ctypes.CDLL("libgcc_s.so.1", ctypes.RTLD_GLOBAL)
    try:
        with warnings.catch_warnings():
            # PyGObject before 3.44 imports in a way that Python has come to warn of.
            warnings.filterwarnings("ignore", "DynamicImporter", ImportWarning)
            import gi

            gi.require_version("Gst", "1.0")
            gi.require_version("GstVideo", "1.0")
            from gi.repository import GLib, Gst, GstVideo
    except (ImportError, ValueError) as error:
        raise MissingDriver(f"the GStreamer camera cannot be used ({error}): {INSTALL}") from error
    Gst.init(None)
    return Gst, GstVideo, GLib


class Stream:
    """A running pipeline, of which only the newest frame is kept.

    Raises:
        MissingDriver: GStreamer, or an element of the pipeline, is not installed.
        CameraError: It does not start; with GStreamer's own words.
    """

    def __init__(self, launch: str) -> None:
        self._gst, self._video, GLib = _sdk()
        Gst = self._gst
        try:
            self._pipeline = Gst.parse_launch(launch)
        except GLib.Error as error:
            raise _not_understood(error.message) from error
        self._sink = self._pipeline.get_by_name("sink")
        self.source = self._pipeline.get_by_name("source")
        if self._pipeline.set_state(Gst.State.PLAYING) == Gst.StateChangeReturn.FAILURE:
            try:
                self._raise_faults()
                raise CameraError("GStreamer could not start the camera; check its cable and power")
            finally:
                self.stop()

    def pull(self, timeout_s: float) -> Any:
        """The next sample; raises TimeoutError when none comes, CameraError when GStreamer reports a fault."""
        left_ns = max(0, round(timeout_s * 1e9))
        while True:
            # Looking for faults also empties the bus, which nobody else reads.
            self._raise_faults()
            sample = self._sink.emit("try-pull-sample", min(left_ns, _LOOK_NS))
            if sample is not None:
                return sample
            if self._sink.get_property("eos"):
                self._raise_faults()
                raise CameraError("the camera ended its stream; check its cable and power")
            left_ns -= _LOOK_NS
            if left_ns <= 0:
                raise TimeoutError

    def age_s(self, sample: Any) -> float | None:
        """How long ago a sample was stamped; None where its stamp is missing or lies in the future."""
        Gst, clock = self._gst, self._pipeline.get_clock()
        pts = sample.get_buffer().pts
        if clock is None or pts == Gst.CLOCK_TIME_NONE:
            return None
        running_ns = sample.get_segment().to_running_time(Gst.Format.TIME, pts)
        age_ns = clock.get_time() - self._pipeline.get_base_time() - running_ns
        return age_ns / 1e9 if age_ns >= 0 else None

    def pixels(self, sample: Any, shape: tuple[int, ...], kind: type[np.uint8 | np.uint16]) -> Pixels:
        """A copy of a sample's pixels, without what GStreamer pads its rows with."""
        buffer = sample.get_buffer()
        meta, size = self._video.buffer_get_video_meta(buffer), buffer.get_size()
        stride, offset = (meta.stride[0], meta.offset[0]) if meta is not None else (size // shape[0], 0)
        wire = np.dtype(kind).newbyteorder("<")
        within = np.empty((1, *shape[1:]), wire).strides[1:]
        data = buffer.extract_dup(0, size)
        padded: Any = np.ndarray(shape, wire, data, offset, (stride, *within))
        copied: Pixels = padded.astype(kind)
        return copied

    def set(self, name: str, value: object) -> None:
        """Set a property of the source element, where this version of it has it."""
        if self.source.find_property(name) is not None:
            self.source.set_property(name, value)

    def stop(self) -> None:
        """Let go of the device; a dead Argus daemon never answers."""
        within(_PATIENCE_S, "GStreamer did not stop", lambda: self._pipeline.set_state(self._gst.State.NULL))

    def _raise_faults(self) -> None:
        message = self._pipeline.get_bus().pop_filtered(self._gst.MessageType.ERROR)
        if message is None:
            return
        error, debug = message.parse_error()
        detail = (debug or "").partition("\n")[2].strip()
        words = f"GStreamer's {message.src.get_name()} says: {error.message.rstrip('.')}"
        if "not-negotiated" in detail:
            cure = "the camera does not offer this; correct width_px, height_px, framerate or format in [camera]"
        else:
            cure = "check the camera's cable and power, and source and device in [camera.options]"
        raise CameraError(words + (f" ({detail})" if detail else "") + f"; {cure}")


def _not_understood(words: str) -> MissingDriver | CameraError:
    """GStreamer's refusal to build a pipeline, with what to do."""
    if element := re.search(r'no element "(\w+)"', words):
        package = _PACKAGES.get(element[1], "gstreamer1.0-plugins-base")
        return MissingDriver(f"GStreamer has no element {element[1]!r}; install {package}")
    if "libcamerasrc" in words and "no property" in words:
        return MissingDriver(f"this libcamera is too old ({words}); install libcamera 0.4 or newer")
    return CameraError(f"GStreamer cannot build the pipeline: {words}; correct [camera.options]")


class GstreamerCamera(Camera):
    """Frames dated by their time stamps; `settings` tells where that could not be: {"dated_by": "arrival"}."""

    SPARE_S = 30.0

    def __init__(self, profile: BoardProfile, clock: Clock, options: GstreamerOptions, launch: str) -> None:
        super().__init__(profile.camera, clock, profile.name)
        self._options = options
        self._launch = launch
        self._looked_s = clock.now_s()
        self._stream: Stream | None = self._connect()

    def close(self) -> None:
        """Stop the pipeline and let go of the device."""
        super().close()
        self._disconnect()

    def _connect(self) -> Stream:
        return Stream(self._launch)

    def _disconnect(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.stop()

    def _hold(self, held: bool) -> None:
        # A pipeline that is started anew after a fault stays free: locked at once, it would keep the
        # exposure and the colours that it happens to begin with.
        if self._stream is not None:
            for name, locked in _LOCKS.get(self._options.source, {}).items():
                self._stream.set(name, locked if held else not locked)

    def _next(self, timeout_s: float) -> Exposure:
        looked_s, self._looked_s = self._looked_s, self._clock.now_s()
        stream = self._stream = self._stream or self._connect()
        try:
            sample = stream.pull(timeout_s)
        except (TimeoutError, CameraError):
            self._disconnect()
            raise
        # The board's clock first: a pause between the two readings then makes the frame older, never younger.
        now_s = self._clock.now_s()
        age_s = stream.age_s(sample)
        # Without a stamp all that is known is that the frame came after the last look, which left none behind.
        stamped_s = looked_s if age_s is None else now_s - age_s
        ended_s = stamped_s - self._options.late_s
        shape, kind = self.profile.frame_shape, np.uint8 if self.profile.bits == 8 else np.uint16
        return Exposure(
            ended_s - self.profile.exposure_ms / 1e3,
            ended_s,
            lambda: stream.pixels(sample, shape, kind),
            {"dated_by": "arrival" if age_s is None else "timestamp"},
        )


def missing() -> str:
    """What stands in the way of using GStreamer, or ""."""
    try:
        Gst, _, _ = _sdk()
    except MissingDriver as error:
        return str(error)
    lacks = [name for name in ("appsink", "videoconvert") if Gst.ElementFactory.find(name) is None]
    return f"GStreamer has no element {lacks[0]!r}: {INSTALL}" if lacks else ""


def needs(profile: BoardProfile) -> Needs:
    """The device of the source that the board file names."""
    options = GstreamerOptions.model_validate(profile.camera.options)
    describe(profile.camera, options)
    if options.source == "videotestsrc":
        return Needs()
    paths, cure = _DEVICES.get(options.source, (str(options.device or "/dev/video0"), _NO_VIDEO))
    return Needs((Device(paths, "video", cure),))


def open_camera(profile: BoardProfile, clock: Clock, world: World | None) -> Camera:
    """Open a camera through GStreamer; it runs from now on.

    Raises:
        ProfileError: The sources of GStreamer cannot hand over what the board file asks for.
        MissingDriver: GStreamer, or an element that the source needs, is not installed.
        CameraError: The camera does not start.
    """
    del world
    options = GstreamerOptions.model_validate(profile.camera.options)
    return GstreamerCamera(profile, clock, options, describe(profile.camera, options))
