"""The Raspberry Pi's camera through picamera2: raw counts at the sensor's depth, or 8-bit frames from the ISP."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as NotInTime  # Python 3.10: not yet the built-in one
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from firmware.camera import Camera, Exposure
from firmware.clock import Clock
from firmware.errors import CameraError, FirmwareError, MissingDriver, ProfileError
from firmware.frames import Pixels
from firmware.needs import Device, Needs
from firmware.patience import within
from firmware.pistream import check_black_level, check_counts, isp_format, layout_of, stream_of, unpacked
from firmware.profile import BoardProfile
from firmware.simulation import World
from firmware.table import Table

_BUFFERS = 4  # one may be held here, and libcamera wants two or three in flight for the full frame rate
_SETTLING_FRAMES = 30  # a control takes some three to eleven frames through libcamera's queue to the sensor
_INTERRUPT_S = 1e-3  # how late an interrupt may read the clock: some 10 us, more on a busy board
_OLDEST_S = 10.0  # no frame waits longer in a queue

KernelClocks = Callable[[], tuple[int, int]]
"""CLOCK_BOOTTIME and CLOCK_MONOTONIC at one moment, ns."""


class PicameraOptions(Table):
    """The camera's options.

    `camera` is an index or a model ("imx477"). `analogue_gain` is by default the sensor's lowest. `colour_gains`
    (red, blue) fix the white balance of ISP frames. With `auto_exposure` the camera regulates exposure and gain
    between jobs, and `exposure_ms` says nothing.
    """

    camera: int | str = 0
    analogue_gain: float | None = Field(default=None, gt=0)
    colour_gains: tuple[float, float] | None = None
    auto_exposure: bool = False

    @model_validator(mode="after")
    def _one_master(self) -> PicameraOptions:
        if self.auto_exposure and self.analogue_gain is not None:
            raise ValueError("auto_exposure chooses the gain too; remove analogue_gain, or auto_exposure")
        return self


def age_s(stamp_ns: int, boottime_ns: int, monotonic_ns: int) -> float:
    """How long ago a SensorTimestamp was, in seconds.

    libcamera documents CLOCK_BOOTTIME, but the Pi's receivers stamp with ktime_get_ns(), which is CLOCK_MONOTONIC
    (rp1-cfe, cfe_sof_isr_handler; libcamera bug 254). The two part when the machine sleeps. A stamp from the future
    of one clock, or older than any queue, is the other's; where both may be meant the older one counts.
    """
    since_boot, since_monotonic = (boottime_ns - stamp_ns) * 1e-9, (monotonic_ns - stamp_ns) * 1e-9
    return since_boot if since_monotonic < 0 or since_boot < _OLDEST_S else since_monotonic


def _kernel_clocks() -> tuple[int, int]:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def _number(library: Any, wanted: int | str) -> int:
    """The camera's place in picamera2's list."""
    models = [str(info.get("Model", "?")) for info in library.Picamera2.global_camera_info()]
    if isinstance(wanted, int) and 0 <= wanted < len(models):
        return wanted
    if wanted in models:
        return models.index(str(wanted))
    has = ", ".join(f"{number} ({model})" for number, model in enumerate(models)) or "none"
    raise CameraError(f"there is no camera {wanted!r}; attached: {has}; check the cable, or correct options.camera")


class PicameraCamera(Camera):
    """Hands out requests in their order, and holds one at a time: the sensor never runs out of buffers.

    A frame counts only if its metadata show the exposure, gain and white balance that were asked for. After a
    stall the next frame first restarts the camera, after a second one reopens it.
    """

    SPARE_S = 30.0

    def __init__(
        self, board: BoardProfile, clock: Clock, kernel_clocks: KernelClocks = _kernel_clocks, patience_s: float = 5.0
    ) -> None:
        super().__init__(board.camera, clock, board.name)
        self._options = PicameraOptions.model_validate(board.camera.options)
        self._kernel_clocks = kernel_clocks
        self._patience_s = patience_s
        self._library = _picamera2()
        self._device: Any = None
        self._request: Any = None
        self._locked: dict[str, Any] = {}
        self._stalls = 0
        try:
            self._guarded(self._begin)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the camera, whatever state it is in; twice is once."""
        super().close()
        self._shut()

    def _begin(self) -> None:
        self._open()
        limit_s = self.profile.timeout_ms / 1e3
        try:
            metadata = self._take(limit_s)
        except TimeoutError:
            # picamera2 never gives back the buffers of frames that come before it has noted that it runs (start_
            # sets `started` last, release() looks at it). A restart does.
            metadata = self._take(limit_s)
        self._release()
        if self._layout.stream == "raw":
            check_black_level(self.profile, metadata)

    def _open(self) -> None:
        stream_of(self.profile)  # what no camera can give is refused before one is opened
        self._device = self._library.Picamera2(_number(self._library, self._options.camera))
        self._device.configure(self._configuration())
        self._layout = layout_of(self.profile, self._device.camera_configuration())
        self._limits = dict(self._device.camera_controls)
        self._fixed = self._values()
        self._start()

    def _configuration(self) -> dict[str, Any]:
        """What picamera2 is asked for; it always makes a main stream, small and unread where frames are raw."""
        size, bits = (self.profile.width_px, self.profile.height_px), self.profile.bits
        raw = stream_of(self.profile) == "raw"
        small = (min(640, size[0]), min(480, size[1]))
        configuration: dict[str, Any] = self._device.create_preview_configuration(
            main={"format": "YUV420", "size": small} if raw else {"format": isp_format(self.profile), "size": size},
            raw={"size": size} if raw else None,
            sensor={"output_size": size, "bit_depth": bits} if raw else {"output_size": size},
            buffer_count=_BUFFERS,
            queue=False,
            display=None,
            encode=None,
        )
        if raw and configuration["raw"] is None:
            raise CameraError('this camera gives no raw frames; take one of the Pi\'s, or response.kind = "unknown"')
        if raw:
            configuration["raw"]["format"] = unpacked(str(configuration["raw"]["format"]), bits)
        return configuration

    def _values(self) -> dict[str, Any]:
        """What the board file fixes, as metadata name it.

        Raises:
            ProfileError: The camera cannot be given that.
        """
        fixed: dict[str, Any] = {}
        if not self._options.auto_exposure:
            if "ExposureTime" not in self._limits:
                raise ProfileError("this camera takes no exposure time; write options.auto_exposure = true")
            fixed["ExposureTime"] = round(self.profile.exposure_ms * 1e3)
            self._check("exposure_ms", fixed["ExposureTime"], "ExposureTime", 1e-3)
            lowest = self._limits.get("AnalogueGain", (1.0,))[0]
            fixed["AnalogueGain"] = self._options.analogue_gain or lowest
            self._check("options.analogue_gain", fixed["AnalogueGain"], "AnalogueGain", 1.0)
        if self._options.colour_gains is not None:
            fixed["ColourGains"] = self._options.colour_gains
        return fixed

    def _check(self, key: str, value: float, control: str, unit: float) -> None:
        low, high = self._limits.get(control, (None, None))[:2]
        if high and not low <= value <= high:
            raise ProfileError(
                f"camera.{key} = {value * unit:g}, but this camera takes {low * unit:g} to {high * unit:g}; correct it"
            )

    def _controls(self) -> dict[str, Any]:
        """Everything that the camera is told, as far as it knows the control.

        Zero frees exposure and gain in picamera2. Sharpening and noise reduction change what focus is judged by.
        """
        values = {**self._locked, **self._fixed}
        longest_us = max(100_000, 2 * values.get("ExposureTime", 0))
        told: dict[str, Any] = {
            "AeEnable": "ExposureTime" not in values,
            "ExposureTime": 0,
            "AnalogueGain": 0.0,
            "AwbEnable": "ColourGains" not in values and self._layout.stream == "main",
            "FrameDurationLimits": (100, longest_us),
            "NoiseReductionMode": 0,
            "Sharpness": 0.0,
            **values,
        }
        return {name: value for name, value in told.items() if name in self._limits}

    def _start(self) -> None:
        self._device.set_controls(self._controls())
        within(self._patience_s, "picamera2 did not start", self._device.start)

    def _next(self, timeout_s: float) -> Exposure:
        deadline_s = self._clock.now_s() + timeout_s
        found = ""
        for _ in range(_SETTLING_FRAMES):
            try:
                metadata = self._take(deadline_s - self._clock.now_s())
            except TimeoutError:
                if found:
                    break
                raise
            found = self._mismatch(metadata)
            if not found:
                return self._dated(metadata)
        self._release()
        raise CameraError(f"the camera keeps giving frames with {found}; check exposure_ms and gains in [camera]")

    def _take(self, timeout_s: float) -> dict[str, Any]:
        """Hold the next request, and give its metadata.

        Raises:
            TimeoutError: None came; the camera is revived before the next one.
        """
        self._release()
        self._revive()
        self._stalls += 1  # taken back by success
        job = self._device.capture_request(wait=False)
        try:
            self._request = job.get_result(timeout=max(timeout_s, 0.0))
        except NotInTime:
            self._device.cancel_all_and_flush()
            # A frame that came just now has ended the job before it could be cancelled: its buffer must go back.
            with suppress(CancelledError, NotInTime):
                job.get_result(timeout=0.2).release()
            raise TimeoutError from None
        metadata = dict(self._request.get_metadata())
        self._stalls = 0
        return metadata

    def _release(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            request.release()

    def _mismatch(self, metadata: Mapping[str, Any]) -> str:
        """Whatever a frame was not taken with as asked; sensors round exposure to rows, and gain to their codes."""
        asked = {**self._locked, **self._fixed}
        for name, share, least in (
            ("ExposureTime", 0.02, 50.0),
            ("AnalogueGain", 0.07, 0.0),
            ("ColourGains", 0.02, 0.0),
        ):
            if name in asked and name in metadata:
                want, have = np.atleast_1d(asked[name]), np.atleast_1d(metadata[name])
                if np.any(np.abs(have - want) > np.maximum(share * want, least)):
                    return f"{name} {metadata[name]} where {asked[name]} was asked for"
        return ""

    def _dated(self, metadata: Mapping[str, Any]) -> Exposure:
        """When the held request was exposed: first row's start, or earlier, to last row's end, or later.

        A Pi's SensorTimestamp is taken in the interrupt at the start of the frame on the wire, that is when the
        first row's exposure is over and its readout begins (raspberrypi/picamera2 issue 821; wait_for_timestamp_ in
        picamera2 counts alike), though libcamera's documentation says "exposed". The interrupt may come late, never
        early. The last row follows by the readout, which takes no longer than the mode's shortest frame, or than a
        tenth of this one where a long exposure stretched the rows (the kernel's drivers then count more than ten
        times as many rows as there are).
        """
        if "SensorTimestamp" not in metadata:
            raise CameraError("the camera does not date its frames; take one with a SensorTimestamp")
        before_s = self._clock.now_s()
        age = age_s(metadata["SensorTimestamp"], *self._kernel_clocks())
        after_s = self._clock.now_s()
        shortest, longest = self._limits.get("FrameDurationLimits", (0, 0))[:2]
        frame_us = metadata.get("FrameDuration", longest)
        exposure_s = metadata.get("ExposureTime", frame_us) * 1e-6
        readout_s = max(shortest, frame_us / 10) * 1e-6
        names = {"exposure_us": "ExposureTime", "analogue_gain": "AnalogueGain", "colour_gains": "ColourGains"}
        settings = {ours: metadata[theirs] for ours, theirs in names.items() if theirs in metadata}
        develop = partial(self._develop, self._request)
        return Exposure(before_s - age - exposure_s - _INTERRUPT_S, after_s - age + readout_s, develop, settings)

    def _develop(self, request: Any) -> Pixels:
        try:
            pixels = self._layout.pixels(request.make_array(self._layout.stream))
        finally:
            self._release()
        if self._layout.stream == "raw":
            check_counts(self.profile, pixels)
        return pixels

    def _hold(self, held: bool) -> None:
        """Lock what the camera regulates to what the latest frame was taken with, or free it again."""
        regulated = [] if "ExposureTime" in self._fixed else ["ExposureTime", "AnalogueGain"]
        if self._layout.stream == "main" and "ColourGains" not in self._fixed:
            regulated.append("ColourGains")
        if not regulated:
            return
        self._locked = {}
        if held:
            metadata = self._regulated()
            self._locked = {name: metadata[name] for name in regulated if name in metadata and name in self._limits}
        self._device.set_controls(self._controls())

    def _regulated(self) -> dict[str, Any]:
        """The latest metadata, once the regulation came to rest; newer libcameras say AeState, older ones AeLocked."""
        for _ in range(_SETTLING_FRAMES):
            metadata = self._take(self.profile.timeout_ms / 1e3)
            self._release()
            if int(metadata.get("AeState", 2)) != 1 and metadata.get("AeLocked", True):
                break
        return metadata

    def _revive(self) -> None:
        """Restart a camera that stalled, or reopen it where that was or is no use."""
        if self._device is not None and self._stalls == 0:
            return
        if self._device is not None and self._stalls == 1:
            with suppress(Exception):
                within(self._patience_s, "picamera2 did not stop", self._device.stop)
                self._start()
                return
        self._shut()
        try:
            self._open()
        except FirmwareError:
            raise
        except Exception as error:
            raise CameraError(f"the camera is gone ({error}); check its cable and power") from error

    def _shut(self) -> None:
        device, self._device = self._device, None
        with suppress(Exception):
            self._release()
        if device is not None:
            with suppress(Exception):
                within(self._patience_s, "picamera2 did not close", device.close)


def _picamera2() -> Any:
    """The vendor's library.

    Raises:
        MissingDriver: It is not installed, or not for this Python and numpy.
    """
    try:
        import picamera2
    except (ImportError, ValueError) as error:  # ValueError: apt's modules were built for another numpy
        raise MissingDriver(
            f"picamera2 cannot be loaded ({error}); on the Pi run `sudo apt install python3-picamera2`, then "
            "`make setup EXTRAS=rpi VENV_FLAGS=--system-site-packages` with the system's own python3"
        ) from error
    return picamera2


def missing() -> str:
    """What to install before this driver can be used; empty when nothing is missing."""
    try:
        _picamera2()
    except MissingDriver as error:
        return str(error)
    return ""


def needs(profile: BoardProfile) -> Needs:
    """The receiver's and the ISP's devices."""
    del profile
    cure = "check the camera's cable with the board switched off; `rpicam-hello --list-cameras` lists cameras"
    return Needs((Device("/dev/media*", "video", cure), Device("/dev/video*", "video", cure)))


def open_camera(profile: BoardProfile, clock: Clock, world: World | None) -> Camera:
    """Open the camera of a Raspberry Pi and take one frame, so that a wrong board file shows at once.

    Raises:
        MissingDriver: picamera2 is not installed.
        ProfileError: The board file asks for what this camera does not give.
        CameraError: There is no such camera, or it delivers nothing.
    """
    del world
    return PicameraCamera(profile, clock)
