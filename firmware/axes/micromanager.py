"""The Micro-Manager axis: any focus stage, sent to absolute positions and asked where it ended."""

from __future__ import annotations

import threading
from contextlib import suppress

from pydantic import Field

from firmware import micromanager
from firmware.clock import Clock
from firmware.errors import AxisError, ProfileError
from firmware.micromanager import CoreOptions, Share
from firmware.profile import BoardProfile
from firmware.simulation import World
from firmware.zaxis import ZAxis

_SPARE_S = 15.0
_POLL_S = 0.005


class AxisOptions(CoreOptions):
    """The stage's own keys.

    `busy_timeout_s` is how long the device may stay busy beyond what the way takes at `speed_um_s`.
    """

    busy_timeout_s: float = Field(default=10.0, gt=0)


class MicroManagerAxis(ZAxis):
    """A focus stage of a Micro-Manager core.

    A motor step is the board file's `um_per_step` of the device's own micrometres, also when the true travel was
    measured to be another; take it no finer than the device holds a
    position. Which way those grow is a convention that adapters do not keep: usually towards the specimen, and
    the core's `getFocusDirection` says 0, unknown, unless somebody told it. So the board file decides: `direction = 1`
    where the device's positions grow away from the specimen, -1 where they grow towards it; `low_um` and `high_um`
    are the device's positions with that sign.

    It opens only where the device stands inside the limits: limits that do not fit the device protect nothing.

    With `homing = "device"` the device's zero is the axis's zero, and `home` asks where it is without moving it.
    With "window" the zero is where `set-zero` was called. A stage that was moved by something else (a hand on
    its knob, a continuous-focus unit) is noticed before the next move, which is then refused.

    Moves can be stopped on the way if the adapter moves in the background; most do. One that only returns from
    its call at the end of the way cannot be stopped through Micro-Manager.
    """

    def __init__(self, profile: BoardProfile, clock: Clock, share: Share, label: str, options: AxisOptions) -> None:
        super().__init__(profile.axis, clock)
        self._share = share
        self._label = label
        self._busy_timeout_s = options.busy_timeout_s
        self._step_um = profile.axis.um_per_step_sent
        self._zero_um: float | None = None

    def set_zero(self) -> None:
        """Declare the present position to be zero, the middle of the declared window.

        Raises:
            AxisError: This axis has a zero of its own, or the device does not say where it is.
        """
        with micromanager.told(AxisError, f"the stage {self._label!r} does not say where it is"):
            here_um = self._device_um()
        super().set_zero()
        self._zero_um = here_um

    def close(self) -> None:
        """Bring the axis to rest and let go of the device."""
        super().close()
        self._share.release()

    def _drive(self, steps: int, halt: threading.Event) -> int:
        counted = self.profile.direction * self._steps
        with micromanager.told(AxisError, f"the stage {self._label!r} failed"):
            zero_um = self._zero_for(counted)
            # To a place, not by a distance: what is rounded off a move must not add up over many.
            self._go_to(zero_um + (counted + steps) * self._step_um, abs(steps) * self.profile.um_per_step, halt)
            return round((self._device_um() - zero_um) / self._step_um) - counted

    def _seek_home(self, halt: threading.Event) -> int:
        """Ask the device where it is, once it rests."""
        with micromanager.told(AxisError, f"the stage {self._label!r} failed"):
            self._await_rest(halt, self._busy_timeout_s)
            here = self.profile.direction * round(self._device_um() / self._step_um)
        (low_um, high_um), per_um = self.limits_um, self.profile.um_per_step
        if not low_um - per_um <= here * per_um <= high_um + per_um:
            raise AxisError(
                f"the stage {self._label!r} stands at {here * per_um:.2f} um, outside this axis's limits {low_um:.1f} "
                f"to {high_um:.1f} um; bring it inside with its own controls, or correct [axis] in the board file"
            )
        self._zero_um = 0.0
        return here

    def _zero_for(self, counted: int) -> float:
        """Where the count's zero lies, in the device's um; an axis without trust counts from where the device is."""
        fitting_um = self._device_um() - counted * self._step_um
        if self._zero_um is None or not self.trusted:
            self._zero_um = fitting_um
        moved_um = fitting_um - self._zero_um
        if abs(moved_um) > self._step_um:
            raise AxisError(
                f"the stage {self._label!r} moved by {moved_um:.2f} um since its last move (a hand on its knob, or "
                f"continuous focus?); nothing was sent; {self._cure}"
            )
        return self._zero_um

    def _go_to(self, device_um: float, distance_um: float, halt: threading.Event) -> None:
        if halt.is_set():
            return
        try:
            self._share.core.setPosition(self._label, device_um)
            self._await_rest(halt, distance_um / self.profile.speed_um_s + self._busy_timeout_s)
        except BaseException:
            with suppress(RuntimeError):
                self._share.core.stop(self._label)
            raise

    def _await_rest(self, halt: threading.Event, allowed_s: float) -> None:
        """Wait until the device is no longer busy, and stop it when `halt` is set."""
        self.expect(allowed_s + _SPARE_S)
        core, deadline_s = self._share.core, self._clock.now_s() + allowed_s
        stopped, refusal = False, ""
        while True:
            if halt.is_set() and not stopped:
                stopped = True
                try:
                    core.stop(self._label)
                except RuntimeError as error:
                    refusal = micromanager.plain(error)
            if not core.deviceBusy(self._label):
                break
            if self._clock.now_s() > deadline_s:
                raise AxisError(
                    f"the stage {self._label!r} is still busy after {allowed_s:.1f} s; check that it is free to move, "
                    "and correct speed_um_s or options.busy_timeout_s in [axis]"
                )
            self._clock.sleep(_POLL_S)
        if refusal:
            raise AxisError(f"the stage {self._label!r} would not stop, and went on to its end: {refusal}")

    def _device_um(self) -> float:
        return float(self._share.core.getPosition(self._label))


def missing() -> str:
    """What is not installed, or ""."""
    return micromanager.missing()


def identity(profile: BoardProfile) -> str:
    """The stage of a configuration."""
    options = AxisOptions.model_validate(profile.axis.options)
    return f"{options.config.resolve() if options.config else 'demo'}-{options.device}"


def open_axis(profile: BoardProfile, clock: Clock, world: World | None) -> ZAxis:
    """Open the focus stage of a Micro-Manager configuration; nothing moves.

    Raises:
        MissingDriver: Micro-Manager or its device adapters are not installed.
        ProfileError: The configuration cannot be loaded, has no such stage, or `homing` is "switch".
    """
    del world
    options = AxisOptions.model_validate(profile.axis.options)
    if profile.axis.homing == "switch":
        raise ProfileError(
            f"board {profile.name!r}: parfocal sees no switch of a Micro-Manager stage; in [axis] set "
            'homing = "device", or "window" if its zero is wherever it was switched on'
        )
    if profile.axis.homing == "window" and profile.axis.holds_without_power:
        raise ProfileError(
            f"board {profile.name!r}: a Micro-Manager stage can be moved by other programs, so its zero is not "
            'believed after a restart; set homing = "device", or holds_without_power = false'
        )
    share = micromanager.share(profile, options)
    try:
        label = micromanager.device_label(share.core, "Stage", options.device)
        return MicroManagerAxis(profile, clock, share, label, options)
    except BaseException:
        share.release()
        raise
