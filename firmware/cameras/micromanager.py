"""The Micro-Manager camera: one snap for every frame, through whatever device adapter the configuration names."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from firmware import micromanager
from firmware.camera import Camera, Exposure
from firmware.clock import Clock
from firmware.errors import CameraError, CameraTimeout
from firmware.micromanager import CoreOptions, Share
from firmware.profile import BoardProfile
from firmware.simulation import World

_PATIENCE_S = 1.0


class _Snap(threading.Thread):
    """One snap, on a thread of its own: a call into a device adapter cannot be interrupted, only left behind.

    It holds the core by itself, so that nobody unloads a device that is still in a call.
    """

    def __init__(self, share: Share, clock: Clock) -> None:
        super().__init__(name="parfocal-snap", daemon=True)
        self._share = share
        self._clock = clock
        self.began_s = self.ended_s = clock.now_s()
        self.pixels: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Expose, then read out."""
        try:
            self.began_s = self._clock.now_s()
            self._share.core.snapImage()
            self.ended_s = self._clock.now_s()
            self.pixels = self._share.core.getImage()
        except Exception as error:  # noqa: BLE001 - who waits must hear of it
            self.error = error
        finally:
            self._share.release()


class MicroManagerCamera(Camera):
    """Grey (H, W) uint8 or uint16, or colour (H, W, 3) RGB, as the device's pixel type says.

    Every frame is a snap, not one of a running sequence: a snap's exposure begins after the call, while images of
    a sequence carry the time at which they reached the core, and how long before that they were exposed is the
    adapter's secret. So every frame is fresh; the price is the device's start-up time for each. (An adapter that
    answers a snap with an image it already had breaks its own contract, and cannot be noticed here.)

    A device that failed is unloaded and loaded anew before the next frame, which leaves the stage alone.
    """

    def __init__(self, profile: BoardProfile, clock: Clock, share: Share, label: str) -> None:
        super().__init__(profile.camera, clock, profile.name)
        self._share = share
        self._label = label
        self._late: _Snap | None = None
        self._failed = False
        self._origin = micromanager.origin_of(share.core, label)
        self._exposure_s = self._start()

    def close(self) -> None:
        """Let go of the device; a snap that hangs lets go when it comes back."""
        super().close()
        if self._late is not None:
            self._late.join(_PATIENCE_S)
        self._share.release()

    def _next(self, timeout_s: float) -> Exposure:
        deadline_s = self._clock.now_s() + timeout_s
        self._settle_late(timeout_s)
        if self._failed:
            self._revive()
        snap = _Snap(self._share.again(), self._clock)
        snap.start()
        snap.join(max(0.0, deadline_s - self._clock.now_s()))
        if snap.is_alive():
            self._late = snap
            raise TimeoutError
        self._check(snap)
        # A snap also opens a shutter and waits for it; the exposure is what came last.
        began_s = max(snap.began_s, snap.ended_s - self._exposure_s)
        pixels, settings = snap.pixels, {"device": self._label}
        return Exposure(began_s, began_s + self._exposure_s, lambda: np.ascontiguousarray(pixels), settings)

    def _settle_late(self, timeout_s: float) -> None:
        """Wait for a snap that did not come in its time; what it brings is old and is thrown away."""
        if self._late is None:
            return
        self._late.join(timeout_s)
        if self._late.is_alive():
            raise CameraTimeout(
                f"the camera {self._label!r} hangs: Micro-Manager still waits for an earlier frame; check its "
                "cable, switch it off and on, and start parfocal again"
            )
        late, self._late = self._late, None
        self._failed = late.error is not None

    def _check(self, snap: _Snap) -> None:
        self._failed = snap.error is not None
        if snap.error is not None:
            said = micromanager.plain(snap.error)
            raise CameraError(f"the camera {self._label!r} took no frame: {said}") from snap.error

    def _revive(self) -> None:
        with micromanager.told(CameraError, f"the camera {self._label!r} failed and does not start again"):
            micromanager.load_anew(self._share.core, self._origin)
        self._exposure_s = self._start()
        self._failed = False

    def _start(self) -> float:
        """Make the device the core's camera and set its exposure.

        Returns:
            The exposure that the device took on, in seconds.
        """
        core = self._share.core
        with micromanager.told(CameraError, f"the camera {self._label!r} does not start"):
            core.setCameraDevice(self._label)
            core.setExposure(self._label, self.profile.exposure_ms)
            return float(core.getExposure(self._label)) / 1e3


def missing() -> str:
    """What is not installed, or ""."""
    return micromanager.missing()


def open_camera(profile: BoardProfile, clock: Clock, world: World | None) -> Camera:
    """Open a camera of a Micro-Manager configuration.

    Raises:
        MissingDriver: Micro-Manager or its device adapters are not installed.
        ProfileError: The configuration cannot be loaded, or has no such camera.
        CameraError: The device does not start.
    """
    del world
    options = CoreOptions.model_validate(profile.camera.options)
    share = micromanager.share(profile, options)
    try:
        label = micromanager.device_label(share.core, "Camera", options.device)
        return MicroManagerCamera(profile, clock, share, label)
    except BaseException:
        share.release()
        raise
