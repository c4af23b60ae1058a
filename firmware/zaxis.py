"""ZAxis: what every focus axis promises, whatever turns the screw.

Micrometres outside, steps inside. `z_um` grows away from the specimen. A driver only sends steps (`_drive`)
and finds its switch (`_seek_home`); the base owns limits, trust, backlash, settling, the record of where the
axis was when, and stop.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise

from firmware.clock import Clock
from firmware.errors import AxisError, FirmwareError, MotionStopped, NotTrusted, OutOfLimits
from firmware.ledger import Ledger, Rest
from firmware.profile import AxisProfile
from firmware.travel import Move, Travel, Trust

_HISTORY = 4096
_ROUNDING_UM = 1e-6
# Ramps, late pulses and a device that is asked whether it is still busy make a way longer than its length says.
_SLOWER, _LEG_SPARE_S = 2.0, 30.0
# Homing goes to the switch fast and once more slowly.
_HOMING_WINDOWS, _HOMING_SPARE_S = 4.0, 120.0


class ZAxis(ABC):
    """The focus axis of one board.

    Promises: every position, the backlash overshoot included, stays inside the soft limits; an axis without trust in
    its position moves `blind_um` in all, counted anew after each start and each loss, and then refuses; the final
    approach is always towards the specimen, so backlash is taken out and the overshoot goes away from it; `stop` may
    be called from any thread and holds until `release`; a failing driver costs the trust and raises one error. Before
    the axis moves, `expect` is told for how long at most.
    """

    def __init__(self, profile: AxisProfile, clock: Clock) -> None:
        self.profile = profile
        self._clock = clock
        self._steps = 0
        self._trust = Trust.UNKNOWN
        self._blind_um = 0.0
        self._overshoot = round(profile.backlash_um / profile.um_per_step)
        self._play = self._overshoot
        self._losses = 0
        self._halt = threading.Event()
        self._moving = False
        self._rested_s = clock.now_s()
        self._ledger: Ledger | None = None
        self._past: deque[tuple[float, float]] = deque([(self._rested_s, 0.0)], maxlen=_HISTORY)
        self.expect: Callable[[float], None] = lambda _within_s: None

    def remember(self, ledger: Ledger) -> None:
        """Record every rest in a ledger from now on, and go on where its last one says, if that can be believed.

        Only a stage that stays where it is without power (`holds_without_power`) is believed to have stayed.
        """
        self._ledger = ledger
        rest = ledger.last(self.profile.position_key)
        if rest is None or not self.profile.holds_without_power:
            return
        self._record()
        self._steps, self._play, self._trust = rest.steps, rest.play, Trust[rest.trusted]
        self._record()

    def adopt(self, profile: AxisProfile) -> None:
        """Count by measured mechanics from now on; the zero of an axis without a switch stays where it is.

        An axis that was homed has to be homed again: its switch lies elsewhere in the new um.
        """
        self._record()
        self._steps *= profile.direction * self.profile.direction
        self.profile = profile
        self._overshoot = round(profile.backlash_um / profile.um_per_step)
        self._play = self._overshoot
        self._record()
        self._rested_s = self._clock.now_s()
        if self._trust is Trust.HOMED:
            self.distrust()
        self._note_rest()

    @property
    def z_um(self) -> float:
        """Where the axis believes it is."""
        return self._steps * self.profile.um_per_step

    @property
    def motor_steps(self) -> int:
        """The motor's own count, from the axis's zero: positive where it turns forwards."""
        return self.profile.direction * self._steps

    @property
    def trust(self) -> Trust:
        """Whether that belief is worth something."""
        return self._trust

    @property
    def trusted(self) -> bool:
        """Whether it may move far."""
        return self._trust in (Trust.HOMED, Trust.ZEROED)

    @property
    def losses(self) -> int:
        """How often the position was lost so far; a place is only the same place while this stays the same."""
        return self._losses

    @property
    def moving(self) -> bool:
        """Whether steps are being sent right now."""
        return self._moving

    @property
    def at_rest_since_s(self) -> float:
        """When the last move had settled (board clock); frames exposed later show its result."""
        return self._rested_s

    @property
    def limits_um(self) -> tuple[float, float]:
        """The soft limits."""
        return self.profile.low_um, self.profile.high_um

    def lines(self) -> Mapping[str, bool]:
        """Its input lines by what they do (`upper_switch`, `fault`), True where active; {} where it has none."""
        return {}

    def travel(self, towards_um: float, away_um: float, path_um: float) -> Travel:
        """A job's travel around the present position, inside the limits."""
        low, high = self.limits_um
        return Travel(max(low, self.z_um - towards_um), min(high, self.z_um + away_um), path_um)

    def z_at(self, time_s: float) -> float:
        """Position at a past moment of the board clock, um; between records it is interpolated."""
        past = list(self._past)
        after = bisect_right(past, (time_s, math.inf))
        if after == 0:
            return past[0][1]
        if after == len(past):
            return past[-1][1]
        (t0, z0), (t1, z1) = past[after - 1], past[after]
        return z0 + (z1 - z0) * (time_s - t0) / max(t1 - t0, 1e-9)

    def move_to(self, z_um: float, travel: Travel | None = None) -> Move:
        """Go to a position and wait until the stage has settled there.

        With `travel` (a job's budget) the target is clamped to it; without, a target outside the limits is
        refused.

        Raises:
            OutOfLimits: The target is not a number, or outside the limits; nothing moved.
            NotTrusted: The axis does not know where it is and the move would be far; nothing moved.
            TravelSpent: The job's budget is used up; nothing moved.
            MotionStopped: `stop` was called; the axis rests where it was halted.
            AxisError: The driver failed; the position is no longer trusted.
        """
        if not math.isfinite(z_um):
            raise OutOfLimits(f"{z_um} is not a position; nothing moved")
        self._be_ready()
        legs = self._legs(self._permitted(z_um, travel))
        length_um = self._length_um(legs)
        self._check_trust(length_um)
        if travel is not None:
            travel.spend(length_um)
        self._blind_um += length_um
        return self._visit(z_um, legs)

    def go_back(self, z_um: float, losses: int) -> Move:
        """Return to where the axis was before: clamped to the limits, and free of the blind budget.

        Args:
            z_um: Where that was.
            losses: What `losses` said there.

        Raises:
            NotTrusted: The position was lost since, so that nobody knows where "back" is; nothing moved.
            MotionStopped, AxisError: As `move_to`.
        """
        if self._losses > losses:
            raise NotTrusted(f"the way back is not known, because the position was lost on it; {self._cure} first")
        self._be_ready()
        low, high = self.limits_um
        return self._visit(z_um, self._legs(min(max(z_um, low), high)))

    def _visit(self, z_um: float, legs: list[int]) -> Move:
        start_um = self.z_um
        try:
            for leg in legs:
                self._go(leg)
        finally:
            self._note_rest()
        if legs:
            self._settle()
        return Move(start_um, z_um, self.z_um, len(legs))

    def move_by(self, dz_um: float, travel: Travel | None = None) -> Move:
        """Move by a distance; positive is away from the specimen. Raises as `move_to`."""
        return self.move_to(self.z_um + dz_um, travel)

    def step_to(self, steps: int, travel: Travel) -> None:
        """Send the motor straight to a count of its own steps, play left in: for who measures the mechanics.

        Motor steps count from the axis's zero. The job's travel takes the place of the blind budget, so that an
        axis whose direction is not known yet can be measured; it must be a small one.

        Raises:
            OutOfLimits: That lies outside the travel; nothing moved.
            TravelSpent, MotionStopped, AxisError: As `move_to`.
        """
        target = self.profile.direction * steps
        z_um = target * self.profile.um_per_step
        if not travel.low_um - _ROUNDING_UM <= z_um <= travel.high_um + _ROUNDING_UM:
            raise OutOfLimits(f"{z_um:.2f} um is outside this job's {travel.low_um:.1f} to {travel.high_um:.1f} um")
        self._be_ready()
        travel.spend(abs(target - self._steps) * self.profile.um_per_step)
        self._visit(z_um, [target] if target != self._steps else [])

    def home(self) -> None:
        """Find the limit switch and trust the position again.

        Raises:
            AxisError: This axis has no switch, or the driver failed.
            MotionStopped: `stop` was called; if that was on the way, the position is no longer trusted.
        """
        if self.profile.homing == "window":
            raise AxisError("this axis has no limit switch; move it to the middle by hand and use set-zero")
        self._be_ready()
        window_um = self.profile.high_um - self.profile.low_um
        self.expect(_HOMING_WINDOWS * window_um / self.profile.speed_um_s + _HOMING_SPARE_S)
        self._run(lambda: self._seek_home(self._halt))
        if self._halt.is_set():
            self.distrust()
            raise MotionStopped("stopped on the way to the switch; the position is lost, home it again")
        self._trust, self._blind_um, self._play = Trust.HOMED, 0.0, self._overshoot
        self._note_rest()
        self._settle()

    def glide(self, to_um: float, speed_um_s: float, travel: Travel | None = None) -> None:
        """Be on the way at a set speed, and return at once, as a `GlidingAxis` does; others raise AxisError."""
        del to_um, speed_um_s, travel
        cannot = f"the axis driver {self.profile.driver!r} only goes from place to place, not at a set speed"
        raise AxisError(f"{cannot}; use another strategy: single_shot, few_shot or sweep")

    def rest(self) -> Move:
        """End a glide, if there is one: slow down, rest, settle."""
        return Move(self.z_um, self.z_um, self.z_um, 0)

    def set_zero(self) -> None:
        """Declare the present position to be zero, the middle of the declared window."""
        if self.profile.homing != "window":
            raise AxisError("this axis knows where its zero is; use home instead of set-zero")
        self._record()
        self._steps = 0
        self._trust, self._blind_um = Trust.ZEROED, 0.0
        self._record()
        self._note_rest()
        self._rested_s = self._clock.now_s()

    def distrust(self) -> None:
        """Note that the position can no longer be believed (lost steps, a hand on the knob).

        Raises:
            AxisError: The ledger cannot be written.
        """
        if self.trusted:
            self._blind_um = 0.0
        self._losses += 1
        self._trust, self._play = Trust.LOST, self._overshoot
        if self._ledger is not None:
            self._ledger.under_way()

    def stop(self) -> None:
        """Halt within one step, from any thread; motion is refused until `release`."""
        self._halt.set()

    def release(self) -> None:
        """Allow motion again after a stop."""
        self._halt.clear()

    def close(self) -> None:
        """Bring the axis to rest and let go of the device."""
        self.stop()
        if self._ledger is not None:
            self._ledger.close()

    @abstractmethod
    def _drive(self, steps: int, halt: threading.Event) -> int:
        """Send signed motor steps (the profile's `direction` is applied) until `halt` is set; return those sent."""

    def _seek_home(self, halt: threading.Event) -> int:
        """Run to the switch and back off, give up when `halt` is set; return the position in steps."""
        raise NotImplementedError(f"{type(self).__name__} has no homing")

    def _permitted(self, z_um: float, travel: Travel | None) -> float:
        low, high = self.limits_um
        if travel is not None:
            return travel.clamp(min(max(z_um, low), high))
        # Beyond a limit every step back is welcome.
        low, high = min(low, self.z_um), max(high, self.z_um)
        if not low - _ROUNDING_UM <= z_um <= high + _ROUNDING_UM:
            raise OutOfLimits(f"{z_um:.2f} um is outside this axis's limits {low:.1f} to {high:.1f} um; nothing moved")
        return z_um

    def _legs(self, target_um: float) -> list[int]:
        """Positions to visit, in steps; the last leg runs towards the specimen until no play is left.

        An axis without trust goes straight: it may move only a little, and its play is unknown anyway.
        """
        per = self.profile.um_per_step
        floor = min(math.ceil(self.profile.low_um / per - 1e-9), self._steps)
        ceiling = max(math.floor(self.profile.high_um / per + 1e-9), self._steps)
        target = min(max(round(target_um / per), floor), ceiling)
        if self._steps - target >= self._play or not self.trusted:
            visits = [self._steps, target]
        else:
            visits = [self._steps, min(target + self._overshoot, ceiling), target]
        return [after for before, after in pairwise(visits) if after != before]

    def _length_um(self, legs: list[int]) -> float:
        path, at = 0, self._steps
        for leg in legs:
            path, at = path + abs(leg - at), leg
        return path * self.profile.um_per_step

    def _check_trust(self, distance_um: float) -> None:
        if not self.trusted and self._blind_um + distance_um > self.profile.blind_um:
            raise NotTrusted(
                f"the axis does not know where it is ({self._trust.value}) and may move only "
                f"{self.profile.blind_um:.1f} um in all, of which {max(self._blind_um, 0.0):.1f} are used; "
                f"{self._cure} first; nothing moved"
            )

    @property
    def _cure(self) -> str:
        return "use set-zero in the middle of its range" if self.profile.homing == "window" else "home it"

    def _be_ready(self) -> None:
        """Called before every move."""
        self._check_halt()

    def _check_halt(self) -> None:
        if self._halt.is_set():
            lost = f", but was halted at speed: its position is lost, {self._cure}"
            raise MotionStopped(f"stopped; the axis rests at {self.z_um:.2f} um{lost * (self._trust is Trust.LOST)}")

    def _go(self, target: int) -> None:
        self._check_halt()
        steps = target - self._steps
        turn = self.profile.direction
        way_s = abs(steps) * self.profile.um_per_step / self.profile.speed_um_s
        self.expect(_SLOWER * way_s + self.profile.settle_ms / 1e3 + _LEG_SPARE_S)
        self._run(lambda: self._steps + turn * self._drive(turn * steps, self._halt))
        self._check_halt()
        if self._steps != target:
            self.distrust()
            missing = f"{target - self._steps} of {steps} steps"
            raise AxisError(f"the driver did not send {missing}; the position is lost, {self._cure}")

    def _run(self, driver: Callable[[], int]) -> None:
        """Let the driver move, to the position in steps that it returns; keep the books of time and play."""
        before = self._steps
        if self._ledger is not None:
            self._ledger.under_way()
        self._record()
        self._moving = True
        try:
            self._steps = driver()
            self._play = min(max(self._play + self._steps - before, 0), self._overshoot)
        except BaseException as error:
            self.distrust()
            if isinstance(error, FirmwareError) or not isinstance(error, Exception):
                raise
            what = f"the axis driver {self.profile.driver!r} failed: {error}"
            raise AxisError(f"{what}; the position is lost, {self._cure}") from error
        finally:
            self._moving = False
            self._record()
            self._rested_s = self._clock.now_s() + self.profile.settle_ms / 1e3

    def _settle(self) -> None:
        self._clock.sleep(self._rested_s - self._clock.now_s())
        self._rested_s = self._clock.now_s()

    def _note_rest(self) -> None:
        """Record a position that is worth recording; without a record a restart knows that it does not know."""
        if self._ledger is None or not self.trusted:
            return
        with suppress(AxisError):
            rest = Rest(self._steps, self._play, self._trust.name)
            self._ledger.at_rest(self.profile.position_key, rest)

    def _record(self) -> None:
        self._past.append((self._clock.now_s(), self.z_um))
