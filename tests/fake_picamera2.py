"""A stand-in for picamera2: one sensor on a clock, read out row by row, whose controls take effect some frames later.

`test_picamera.py` holds its calls against those recorded from the real library.
"""

from __future__ import annotations

import concurrent.futures
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware.clock import ManualClock

LIMITS: dict[str, tuple[Any, Any, Any]] = {
    "AeEnable": (False, True, True),
    "AnalogueGain": (1.0, 16.0, 1.0),
    "AwbEnable": (False, True, True),
    "ColourGains": (0.0, 32.0, None),
    "ExposureTime": (60, 500_000, 20_000),
    "FrameDurationLimits": (16_000, 1_000_000, 33_333),
    "NoiseReductionMode": (0, 4, 0),
    "Sharpness": (0.0, 16.0, 1.0),
}


@dataclass
class Sensor:
    """The physical camera, and the handles that only tests hold.

    Frame k is on the wire from `k * frame_s` for `readout_s`, and handed over `late_frames` later.
    """

    clock: ManualClock
    model: str = "imx477"
    size: tuple[int, int] = (16, 12)
    order: str = "RGGB"
    bits: int = 12
    pi5: bool = False
    gives_raw: bool = True
    frame_s: float = 0.02
    readout_s: float = 0.016
    late_frames: int = 3
    control_frames: int = 4
    asleep_s: float = 0.0  # how long the machine has slept: CLOCK_BOOTTIME runs ahead of CLOCK_MONOTONIC by it
    stamps_boottime: bool = False
    packing: str = ""
    flipped: str = ""  # what the order becomes where libcamera turns the picture
    padding: int = 6
    stalled: bool = False
    vanished: bool = False
    lost_starts: int = 0  # how many starts lose every buffer
    late_frame: bool = False  # the frame comes just after the caller gave up
    refuses: set[str] = field(default_factory=set)
    hangs: set[str] = field(default_factory=set)
    woken: threading.Event = field(default_factory=threading.Event)
    limits: dict[str, tuple[Any, Any, Any]] = field(default_factory=lambda: dict(LIMITS))
    hidden: set[str] = field(default_factory=set)  # metadata that the camera does not give
    calls: list[str] = field(default_factory=list)
    held: int = 0
    most_held: int = 0
    copied: int = 0
    counts: int | None = None
    changed: int = 0  # the frame since which the light is another
    controls: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)

    def library(self) -> Any:
        """What `import picamera2` gives."""
        sensor = self

        class Attached(Picamera2):
            _sensor = sensor

        return SimpleNamespace(Picamera2=Attached)

    def kernel_clocks(self) -> tuple[int, int]:
        """CLOCK_BOOTTIME and CLOCK_MONOTONIC, ns; the board's clock is the latter, as on a board."""
        monotonic_ns = round(self.clock.now_s() * 1e9)
        return monotonic_ns + round(self.asleep_s * 1e9), monotonic_ns

    def say(self, verb: str) -> None:
        """Note a call, and be what the test wants the camera to be."""
        self.calls.append(verb)
        if verb in self.hangs:
            self.woken.wait()
        name = verb.split(maxsplit=1)[0]
        if name in self.refuses or (self.vanished and name in ("open", "start")):
            raise RuntimeError(f"camera did not {name}")

    def frame(self) -> int:
        """The frame that is handed over next."""
        return int(self.clock.now_s() / self.frame_s + 1e-6) + 1

    def settings(self, index: int) -> dict[str, Any]:
        """What frame `index` was taken with."""
        told: dict[str, Any] = {}
        for since, controls in self.controls:
            told.update(controls if since <= index else {})
        # Regulation goes on for 40 frames, one step each; sensors expose whole rows.
        drift = min(max(index - self.changed, 0), 40)
        exposure, gain = told.get("ExposureTime", 0), told.get("AnalogueGain", 0)
        return {
            "ExposureTime": (exposure or 5000 + 100 * drift) // 7 * 7,
            "AnalogueGain": gain or 1.0 + 0.1 * drift,
            "ColourGains": (2.0 + 0.02 * drift, 1.5)
            if told.get("AwbEnable", True)
            else told.get("ColourGains", (1, 1)),
            "AeState": 2 if drift == 40 or exposure else 1,
        }

    def metadata(self, index: int) -> dict[str, Any]:
        """As libcamera gives it with a request."""
        stamp_s = (index - self.late_frames) * self.frame_s + (self.asleep_s if self.stamps_boottime else 0.0)
        found = {
            **self.settings(index - self.late_frames),
            "SensorTimestamp": round(stamp_s * 1e9),
            "FrameDuration": round(self.frame_s * 1e6),
            "SensorBlackLevels": (4096, 4096, 4096, 4096),
        }
        return {name: value for name, value in found.items() if name not in self.hidden}

    def native_format(self) -> str:
        """As libcamera lists the sensor's modes."""
        return f"{'' if self.order == 'R' else 'S'}{self.order}{self.bits}_CSI2P"

    def raw_format(self, asked: str) -> str:
        """What the Pi 4 and the Pi 5 make of a format: the order that was asked for stands, be it right or wrong."""
        order = self.flipped or asked.split("_", maxsplit=1)[0].rstrip("0123456789")
        return f"{order}{16 if self.pi5 else self.bits}{self.packing}"

    def raw(self) -> NDArray[np.uint8]:
        """Rows of bytes: black level, then a ramp; what pads them is bright."""
        width, height = self.configuration["raw"]["size"]
        black = 4096 >> (16 - self.bits)
        ramp = black + np.arange(height * width).reshape(height, width) if self.counts is None else self.counts
        counts = np.broadcast_to(ramp, (height, width)) << (16 - self.bits if self.pi5 else 0)
        rows = counts.astype("<u2" if self.pi5 or self.bits > 8 else np.uint8).view(np.uint8)
        return np.pad(rows, ((0, 0), (0, self.padding)), constant_values=0xEE)


class Job:
    """A request that is waited for."""

    def __init__(self, device: Picamera2) -> None:
        self._device = device
        self._done: CompletedRequest | None = None
        self.cancelled = False

    def get_result(self, timeout: Any = None) -> Any:
        """The next frame, once it was read out; waiting turns the clock."""
        sensor = self._device._sensor
        if self._done is not None:
            return self._done
        if self.cancelled:
            raise concurrent.futures.CancelledError
        due = sensor.frame()
        wait_s = due * sensor.frame_s - sensor.clock.now_s()
        silent = sensor.stalled or sensor.vanished or self._device.lost or sensor.held >= self._device.buffers
        if silent or sensor.late_frame or (timeout is not None and wait_s > timeout):
            assert timeout is not None, "this would wait for ever"
            sensor.clock.sleep(timeout)
            if sensor.late_frame:
                self._done = CompletedRequest(sensor, due)
            raise concurrent.futures.TimeoutError
        sensor.clock.sleep(wait_s)
        self._device.jobs.remove(self)
        self._done = CompletedRequest(sensor, due)
        return self._done


class CompletedRequest:
    """A frame in one of the camera's buffers, until it is released."""

    def __init__(self, sensor: Sensor, index: int) -> None:
        self._sensor = sensor
        self._metadata: dict[str, Any] | None = sensor.metadata(index)
        sensor.held += 1
        sensor.most_held = max(sensor.most_held, sensor.held)

    def get_metadata(self) -> dict[str, Any]:
        """How it was taken."""
        assert self._metadata is not None, "used after its release"
        return self._metadata

    def make_array(self, name: str) -> NDArray[np.uint8]:
        """A copy of a stream's bytes, as picamera2 shapes them."""
        assert self._metadata is not None, "used after its release"
        self._sensor.say("copy")
        self._sensor.copied += 1
        stream = self._sensor.configuration[name]
        width, height = stream["size"]
        if name == "raw":
            return self._sensor.raw()
        if stream["format"] == "BGR888":
            return np.tile(np.array([10, 20, 30], np.uint8), (height, width, 1))
        luma = np.arange(height * width, dtype=np.uint8).reshape(height, width)
        return np.pad(luma, ((0, height // 2), (0, self._sensor.padding)), constant_values=0xEE)

    def release(self) -> None:
        """Give the buffer back."""
        assert self._metadata is not None, "released twice"
        self._metadata = None
        self._sensor.held -= 1
        self._sensor.say("release")


class Picamera2:
    """The camera as picamera2 shows it; `_sensor` is what it looks through."""

    _sensor: Sensor

    def __init__(
        self, camera_num: int = 0, verbose_console: Any = None, tuning: Any = None, allocator: Any = None
    ) -> None:
        self._sensor.say(f"open {camera_num}")
        assert camera_num < len(self.global_camera_info())
        self.buffers = 0
        self.jobs: list[Job] = []
        self.lost = False
        self._running = False

    @staticmethod
    def global_camera_info() -> list[dict[str, Any]]:
        """The two cameras that are attached."""
        return [{"Model": "imx477", "Id": "/i2c/a", "Num": 0}, {"Model": "ov9281", "Id": "/i2c/b", "Num": 1}]

    @property
    def camera_controls(self) -> dict[str, tuple[Any, Any, Any]]:
        """Least, most and default of each control."""
        return self._sensor.limits

    def create_preview_configuration(  # noqa: PLR0917
        self,
        main: Any = {},  # noqa: B006 - as the real one has it
        lores: Any = None,
        raw: Any = {},  # noqa: B006
        transform: Any = ...,
        colour_space: Any = ...,
        buffer_count: int = 4,
        controls: Any = {},  # noqa: B006
        display: Any = "main",
        encode: Any = "main",
        queue: bool = True,
        sensor: Any = {},  # noqa: B006
        use_case: str = "preview",
    ) -> dict[str, Any]:
        """A configuration as asked for."""
        if raw is not None:
            raw = {"format": self._sensor.native_format(), **raw} if self._sensor.gives_raw else None
        return {"main": main, "raw": raw, "sensor": sensor, "buffer_count": buffer_count, "queue": queue}

    def configure(self, camera_config: Any = None) -> None:
        """Settle on the nearest that the sensor and the ISP have."""
        assert not self._running, "Camera must be stopped before configuring"
        self._sensor.asked = camera_config
        settled = dict(camera_config)
        if settled["raw"] is not None:
            settled["raw"] = {
                **settled["raw"],
                "format": self._sensor.raw_format(settled["raw"]["format"]),
                "size": self._sensor.size,
            }
        settled["sensor"] = {"bit_depth": self._sensor.bits, "output_size": self._sensor.size}
        self._sensor.configuration = settled
        self.buffers = settled["buffer_count"]

    def camera_configuration(self) -> dict[str, Any]:
        """What was settled on."""
        return self._sensor.configuration

    def set_controls(self, controls: Any) -> None:
        """Tell the camera something; it hears it some frames later, or at once before it runs."""
        for name in controls:
            assert name in self._sensor.limits, f"Control {name} is not advertised by libcamera"
        delay = self._sensor.control_frames if self._running else -(10**6)
        self._sensor.controls.append((self._sensor.frame() + delay, dict(controls)))

    def start(self, config: Any = None, show_preview: Any = False) -> None:
        """Let frames come."""
        self._sensor.say("start")
        self._running = True
        self.lost = self._sensor.lost_starts > 0
        self._sensor.lost_starts -= self.lost

    def stop(self) -> None:
        """No more frames; waits behind the jobs that wait for one, for ever where none comes."""
        assert not self.jobs, "this would wait for ever"
        self._sensor.say("stop")
        self._running = False

    def capture_request(self, wait: Any = None, signal_function: Any = None, flush: Any = None) -> Job:
        """Ask for the next frame."""
        assert wait is False, "this would wait for ever"
        assert self._running, "not started"
        self.jobs.append(Job(self))
        return self.jobs[-1]

    def cancel_all_and_flush(self) -> None:
        """Give up on everything that waits."""
        for job in self.jobs:
            job.cancelled = True
        self.jobs.clear()

    def close(self) -> None:
        """Let go of the camera."""
        self._sensor.say("close")
        self._running = False
