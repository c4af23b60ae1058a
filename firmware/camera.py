"""Camera: what every camera promises, whatever takes the picture.

A driver only hands over exposures in the order in which they come (`_next`); the base decides which of them
began late enough to be an answer, develops that one alone, and turns a driver's failure into one error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from firmware.clock import Clock
from firmware.errors import CameraError, CameraTimeout, FirmwareError
from firmware.frames import Frame, FrameOptics, Pixels
from firmware.profile import CameraProfile

# A camera that regulates itself may look at so many frames until it has settled.
_HOLD_FRAMES = 30

Expect = Callable[[float], None]
"""Told before a step how many seconds it may take at most."""


def unwatched(within_s: float) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Exposure:
    """A frame still in the driver's hands: when it was exposed (board clock) and how to get its pixels."""

    started_s: float
    ended_s: float
    develop: Callable[[], Pixels]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def middle_s(self) -> float:
        """Mid-exposure."""
        return 0.5 * (self.started_s + self.ended_s)


class Camera(ABC):
    """A camera of one board.

    `SPARE_S` is what a driver may take beyond waiting for its frames; more where it opens a stalled camera anew.

    Promise: `capture` returns a frame whose exposure began after `not_before_s`, or one marked `fresh=False`
    when the camera kept handing out older ones; frames that are passed over are never developed. Before it waits for
    the driver, `expect` is told for how long at most.
    """

    SPARE_S = 5.0

    def __init__(self, profile: CameraProfile, clock: Clock, board: str = "") -> None:
        self.profile = profile
        self._clock = clock
        self._board = board
        self._closed = False
        self.expect: Expect = unwatched

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        return self.profile.height_px, self.profile.width_px

    def capture(self, not_before_s: float, z_at: Callable[[float], float], optics: FrameOptics) -> Frame:
        """Take the first frame exposed after a moment.

        Args:
            not_before_s: Board clock; normally when the axis came to rest.
            z_at: Axis position in um at a time on the board clock.
            optics: What stands before the camera, written into the frame.

        Raises:
            CameraTimeout: No frame came within the profile's timeout.
            CameraError: The driver failed or the camera is gone.
        """
        if self._closed:
            raise CameraError("the camera is closed; open the microscope again")
        wait_s = max(0.0, not_before_s - self._clock.now_s())
        exposures_s = 2 * self.profile.exposure_ms / 1e3
        self.expect(wait_s + exposures_s + self.profile.flush_frames * self.profile.timeout_ms / 1e3 + self.SPARE_S)
        self._clock.sleep(wait_s)
        deadline = self._clock.now_s() + self.profile.timeout_ms / 1e3
        for _ in range(self.profile.flush_frames):
            exposure = self._guarded(lambda: self._next(deadline - self._clock.now_s()))
            fresh = exposure.started_s >= not_before_s
            if fresh or self._clock.now_s() > deadline:
                break
        pixels = self._checked(self._guarded(exposure.develop))
        return Frame(
            pixels=pixels,
            z_um=z_at(exposure.middle_s),
            captured_at_s=exposure.middle_s,
            exposure_ms=(exposure.ended_s - exposure.started_s) * 1e3,
            bits=self.profile.bits,
            fresh=fresh,
            board=self._board,
            optics=optics,
            response=self.profile.response,
            settings=exposure.settings,
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep exposure, gain and white balance as they are while the block runs, so that looks can be compared.

        Raises:
            CameraError: The driver failed.
        """
        self.expect(_HOLD_FRAMES * self.profile.timeout_ms / 1e3 + self.SPARE_S)
        try:
            self._guarded(lambda: self._hold(True))
            yield
        finally:
            # What failed here fails again at the next frame, and says so there.
            with suppress(Exception):
                self._hold(False)

    def close(self) -> None:
        """Let go of the device; capturing afterwards is an error."""
        self._closed = True

    def _hold(self, held: bool) -> None:  # noqa: B027 - a camera that regulates nothing has nothing to lock
        """Lock, or free again, what the camera regulates by itself."""

    @abstractmethod
    def _next(self, timeout_s: float) -> Exposure:
        """The next exposure in the camera's own order; raise TimeoutError when none comes in time."""

    def _checked(self, pixels: Any) -> Pixels:
        """The pixels, if they are what the profile promises: (H, W, 3) or (H, W), 8 or 16 bit."""
        wanted = self.profile.frame_shape
        kind = np.uint8 if self.profile.bits == 8 else np.uint16
        if not isinstance(pixels, np.ndarray) or pixels.shape != wanted or pixels.dtype != kind:
            found = f"{pixels.shape} {pixels.dtype}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise CameraError(
                f"the camera driver {self.profile.driver!r} gave {found} where the board file promises "
                f"{wanted} {np.dtype(kind)}; correct width_px, height_px, colour, bits or response in [camera]"
            )
        return cast("Pixels", pixels)

    def _guarded(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except FirmwareError:
            raise
        except TimeoutError as error:
            late = f"the camera delivered no frame within {self.profile.timeout_ms:.0f} ms"
            message = f"{late}; check its cable and power, or raise timeout_ms in [camera]"
            raise CameraTimeout(message) from error
        except Exception as error:
            message = f"the camera driver {self.profile.driver!r} failed: {error}; check its cable and power"
            raise CameraError(message) from error
