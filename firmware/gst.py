"""The pipeline of a GStreamer camera, as gst-launch writes it: source, newest frame only, conversion, sink."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from firmware.errors import ProfileError
from firmware.profile import CameraProfile
from firmware.table import Table

Source = Literal["nvarguscamerasrc", "v4l2src", "libcamerasrc", "videotestsrc"]

# At most how many frames lie between the end of the first row's exposure and the time stamp.
# nvarguscamerasrc stamps a buffer when it leaves the element (do-timestamp), after read-out, ISP and a copy.
# v4l2src passes on what the driver stamped: at the end of the frame, or for USB at its first packet, which a
# camera that compresses or processes sends a frame late. libcamerasrc gives the start of the frame, but only
# the end of it where the sensor does not tell. videotestsrc paints a frame, then waits for its time.
_FRAMES_LATE: dict[Source, int] = {"nvarguscamerasrc": 3, "v4l2src": 2, "libcamerasrc": 1, "videotestsrc": 1}
# A conversion that is slower than the camera must not let frames queue up inside the source: there they would
# be stamped late, or all of the camera's buffers would be taken.
_NEWEST = "queue leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0"
_SINK = "appsink name=sink sync=false drop=true max-buffers=1 enable-last-sample=false"


class GstreamerOptions(Table):
    """The camera's options.

    `device` is /dev/videoN, an Argus sensor's number or libcamera's name of the camera. `format` is what the
    source is asked for (YUY2, MJPG, ...); absent, GStreamer chooses. Without `gain` Argus regulates it between
    jobs; other sources keep the camera's. `latency_ms`, once measured, replaces the careful guess of how long
    before its time stamp a frame's first row was exposed.
    """

    source: Source
    device: int | str | None = None
    framerate: Annotated[str, BeforeValidator(str)] = "30"
    format: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_]+$")
    gain: float | None = Field(default=None, ge=0)
    latency_ms: float | None = Field(default=None, ge=0)
    pattern: str = Field(default="smpte", pattern=r"^[a-z0-9-]+$")

    @field_validator("framerate")
    @classmethod
    def _is_a_rate(cls, value: str) -> str:
        if not re.fullmatch(r"\d+(\.\d+)?|\d+/[1-9]\d*", value) or not Fraction(value):
            raise ValueError('give frames per second, such as 30, 7.5 or "30000/1001"')
        return value

    @property
    def rate(self) -> Fraction:
        """Frames per second."""
        return Fraction(self.framerate)

    @property
    def late_s(self) -> float:
        """How long before the time stamp the exposure may have ended."""
        if self.latency_ms is not None:
            return self.latency_ms / 1e3
        return float(_FRAMES_LATE[self.source] / self.rate)


def describe(camera: CameraProfile, options: GstreamerOptions) -> str:
    """The pipeline in gst-launch's notation.

    Raises:
        ProfileError: GStreamer's sources cannot hand over what the profile asks for.
    """
    _check(camera, options)
    rate = options.rate
    size = f"width={camera.width_px},height={camera.height_px},framerate={rate.numerator}/{rate.denominator}"
    given, convert, wanted = _formats(camera, options)
    properties = " ".join(f"{name}={_quoted(value)}" for name, value in _properties(camera, options).items())
    steps = (f"{options.source} name=source {properties}", f"{given},{size}", _NEWEST, *convert, wanted, _SINK)
    return " ! ".join(steps)


def _check(camera: CameraProfile, options: GstreamerOptions) -> None:
    argus, v4l2, test = (options.source == name for name in ("nvarguscamerasrc", "v4l2src", "videotestsrc"))
    raw, deep = camera.response.kind == "raw", camera.bits > 8
    ms, period_ms, gain = camera.exposure_ms, float(1000 / options.rate), options.gain
    findings = {
        "a mosaic comes in 8 bits; set bits = 8": raw and deep,
        "colour comes in 8 bits; set bits = 8": camera.colour and deep and not raw,
        "Argus gives 8 bits from the ISP; set bits = 8 and no raw response": argus and (raw or deep),
        "format goes with 8 bits that are converted; remove it": bool(options.format) and (raw or deep or argus),
        f"{ms:g} ms do not fit into a frame of {period_ms:g} ms; lower exposure_ms or framerate": ms > period_ms,
        # What it cannot set it passes over, and regulates instead.
        "Argus exposes for 0.034 to 358.7 ms; correct exposure_ms": argus and not 0.034 <= ms <= 358.7,
        "Argus has a gain of 1 to 16; correct gain": argus and gain is not None and not 1 <= gain <= 16,
        "v4l2src wants the gain in the camera's whole units; correct gain": v4l2 and (gain or 0) % 1 > 0,
        "Argus knows its sensors by number; set device = 0": argus and isinstance(options.device, str),
        "v4l2src and libcamerasrc know cameras by name; put device in quotes": not argus
        and isinstance(options.device, int),
        "only videotestsrc takes a pattern, and no device; remove it": (
            options.device is not None if test else "pattern" in options.model_fields_set
        ),
    }
    for finding, wrong in findings.items():
        if wrong:
            raise ProfileError(f"the GStreamer camera cannot do what [camera] says: {finding}")


def _formats(camera: CameraProfile, options: GstreamerOptions) -> tuple[str, tuple[str, ...], str]:
    """What the source gives, the steps that convert it, and what comes out."""
    if camera.response.kind == "raw":
        mosaic = f"video/x-bayer,format={str(camera.response.pattern).lower()}"
        return mosaic, (), mosaic
    if camera.bits > 8:
        # Converting would stretch the counts to 16 bits, whatever `bits` says.
        return "video/x-raw,format=GRAY16_LE", (), "video/x-raw,format=GRAY16_LE"
    wanted = f"video/x-raw,format={'RGB' if camera.colour else 'GRAY8'}"
    if options.source == "nvarguscamerasrc":
        out_of_nvmm = ("nvvidconv", "video/x-raw,format=BGRx", "videoconvert") if camera.colour else ("nvvidconv",)
        return "video/x-raw(memory:NVMM),format=NV12", out_of_nvmm, wanted
    if options.format == "MJPG":
        return "image/jpeg", ("jpegdec", "videoconvert"), wanted
    given = f"video/x-raw,format={options.format}" if options.format else "video/x-raw"
    return given, ("videoconvert",), wanted


def _properties(camera: CameraProfile, options: GstreamerOptions) -> Mapping[str, Any]:
    """What the source element is told; noise reduction over time would mix in light from before a move."""
    ns, gain, device = round(camera.exposure_ms * 1e6), options.gain, options.device
    match options.source:
        case "nvarguscamerasrc":
            fixed = {} if gain is None else {"gainrange": f"{gain:g} {gain:g}", "ispdigitalgainrange": "1 1"}
            exposure = {"exposuretimerange": f"{ns} {ns}", "tnr-mode": 0, "ee-mode": 0}
            return {"sensor-id": device or 0, **exposure, **fixed}
        case "v4l2src":
            return {"device": device or "/dev/video0", "extra-controls": _v4l2_controls(ns, gain)}
        case "libcamerasrc":
            name = {} if device is None else {"camera-name": device}
            fixed = {} if gain is None else {"analogue-gain": f"{gain:g}"}
            return {**name, "ae-enable": "false", "exposure-time": round(ns / 1e3), **fixed}
        case "videotestsrc":
            return {"is-live": "true", "pattern": options.pattern}


def _v4l2_controls(exposure_ns: int, gain: float | None) -> str:
    """Everything fixed, in the kernel's names since 5.15 and in those before; v4l2src passes over the unknown."""
    units = max(1, round(exposure_ns / 1e5))
    exposure = f"auto_exposure=1,exposure_auto=1,exposure_time_absolute={units},exposure_absolute={units}"
    white = "white_balance_automatic=0,white_balance_temperature_auto=0"
    return f"c,{exposure},{white}" + ("" if gain is None else f",gain={round(gain)}")


def _quoted(value: object) -> str:
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
