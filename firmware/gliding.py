"""GlidingAxis: an axis that can be on its way at a set speed while others look, and come to rest when told.

`glide` begins or changes the motion and returns; `rest` ends it. A driver begins a train, changes it, brakes, and says
how far it came; this base owns limits, trust, budgets, play and the record of where the axis was when.
"""

from __future__ import annotations

import math
import threading
from abc import abstractmethod
from contextlib import suppress
from dataclasses import dataclass

from firmware.clock import Clock
from firmware.errors import FirmwareError, OutOfLimits
from firmware.profile import AxisProfile
from firmware.travel import Move, Travel
from firmware.zaxis import ZAxis

_SLOWER, _SPARE_S = 2.0, 30.0
_APART_S = 1e-3
Marks = list[tuple[float, int]]
"""When (board clock), and how many signed motor steps from where the glide began."""


@dataclass
class _Glide:
    """A glide under way: steps of the axis where it began and is to end, and what it was asked."""

    start: int
    target: int
    from_um: float
    asked_um: float
    travel: Travel | None
    ending: bool = False


class GlidingAxis(ZAxis):
    """A ZAxis that also moves at a set speed.

    All that ZAxis promises holds: a glide ends at its target by itself, inside the soft limits; the whole way to the
    target is charged to the budgets when it begins, and what was not travelled is given back; `stop` halts it from any
    thread. Whatever `glide` or `rest` raises, the axis rests. Any other move ends a glide first.

    Play: a glide is one way, straight to its target, so a glide away from the specimen is seen, and ends, with the
    play still in the screw: the objective is up to `backlash_um` lower than `z_um` says. A glide towards the specimen
    has it out once it has gone `backlash_um`. What has to be exact is looked at after a `move_to`, which ends towards
    the specimen.
    """

    def __init__(self, profile: AxisProfile, clock: Clock) -> None:
        super().__init__(profile, clock)
        self._glide: _Glide | None = None
        self._books = threading.RLock()

    @property
    def z_um(self) -> float:
        """Where the axis believes it is, also on the way."""
        self._keep_up()
        return super().z_um

    @property
    def moving(self) -> bool:
        """Whether steps are being sent right now."""
        return self._moving or (self._glide is not None and self._gliding())

    def z_at(self, time_s: float) -> float:
        """Position at a past moment of the board clock, um; between records it is interpolated."""
        self._keep_up()
        return super().z_at(time_s)

    def glide(self, to_um: float, speed_um_s: float, travel: Travel | None = None) -> None:
        """Be on the way to a position at a set speed, and return at once.

        A glide in the same direction that is under way already goes on, at the new speed and to the new target; where
        it can no longer stop there, or the direction changes, the axis rests first. It is never faster than the
        profile's speed. At the target the axis rests by itself; `rest` is called all the same.

        Raises:
            OutOfLimits: Target or speed is no number, the speed is not above 0, or the target is outside the limits.
            NotTrusted: The axis does not know where it is and the way would be far.
            TravelSpent: The job's budget does not reach to the target.
            MotionStopped: `stop` was called.
            AxisError: The driver failed, or what it met on the way ended the glide; the position is lost.
        """
        try:
            self._be_on_the_way(to_um, speed_um_s, travel)
        except BaseException:
            with suppress(FirmwareError):
                self._end()
            raise

    def rest(self) -> Move:
        """End a glide, if there is one: slow down, rest, settle.

        Raises:
            MotionStopped: `stop` was called; the axis rests where it was halted.
            AxisError: The driver failed, or what it met on the way ended the glide; the position is lost.
        """
        glide = self._glide
        if glide is None:
            return super().rest()
        self._end()
        self._settle()
        self._check_halt()
        return Move(glide.from_um, glide.asked_um, self.z_um)

    @abstractmethod
    def braking_um(self, speed_um_s: float) -> float:
        """How far it goes on at most once a rest is asked for, never faster than this since its last change."""

    @abstractmethod
    def _begin(self, steps: int, speed_um_s: float) -> None:
        """Begin to send signed motor steps, from rest to rest, until `stop` is called, and return."""

    @abstractmethod
    def _steer(self, steps: int, speed_um_s: float) -> bool:
        """Go on at another speed to so many signed motor steps from the start; False where that needs a rest first."""

    @abstractmethod
    def _brake(self) -> int:
        """Slow down and wait for the rest; give the signed motor steps sent."""

    @abstractmethod
    def _gliding(self) -> bool:
        """Whether it is still on the way; from any thread."""

    @abstractmethod
    def _progress(self) -> Marks:
        """Where it was since this was asked last, oldest first, also after a failure; one thread at a time."""

    def _be_ready(self) -> None:
        self._end()
        self._check_halt()

    def _be_on_the_way(self, to_um: float, speed_um_s: float, travel: Travel | None) -> None:
        if not (math.isfinite(to_um) and math.isfinite(speed_um_s) and speed_um_s > 0):
            raise OutOfLimits(f"{to_um} um at {speed_um_s} um/s is no way to go; the axis rests")
        if self._halt.is_set():
            self._end()
        self._check_halt()
        self._keep_up()
        legs = self._legs(self._permitted(to_um, travel))
        target = legs[-1] if legs else self._steps
        speed_um_s = min(speed_um_s, self.profile.speed_um_s)
        if not self._goes_on(target, to_um, speed_um_s, travel):
            self._end()
            self._check_halt()
            self._begin_anew(target, to_um, speed_um_s, travel)

    def _goes_on(self, target: int, asked_um: float, speed_um_s: float, travel: Travel | None) -> bool:
        """Have the glide under way, if there is one, go on to another target; False where it has to rest first."""
        with self._books:
            glide = self._glide
            if glide is None or not self._gliding() or (target - self._steps) * (glide.target - glide.start) <= 0:
                return False
            anew = _Glide(glide.start, target, glide.from_um, asked_um, travel)
            self._give_back(glide)
            try:
                self._admit(anew)
                went_on = self._steer(self.profile.direction * (target - glide.start), speed_um_s)
            except BaseException:
                self._charge(glide)
                raise
            if went_on:
                self._glide = anew
                self._expect(target, speed_um_s)
            else:
                self._give_back(anew)
                self._charge(glide)
            return went_on

    def _begin_anew(self, target: int, asked_um: float, speed_um_s: float, travel: Travel | None) -> None:
        steps = target - self._steps
        if not steps:
            return
        glide = _Glide(self._steps, target, self.z_um, asked_um, travel)
        self._admit(glide)
        self._expect(target, speed_um_s)

        def begin() -> int:
            self._begin(self.profile.direction * steps, speed_um_s)
            return glide.start

        try:
            self._run(begin)
        except BaseException:
            self._give_back(glide)
            raise
        self._rested_s = self._clock.now_s()
        self._glide = glide

    def _end(self) -> None:
        """Bring the axis to rest, and the books up to date; without a glide there is nothing to do."""
        with self._books:
            self._keep_up()
            glide = self._glide
            if glide is None:
                return
            glide.ending = True
        self._expect(glide.target, self.profile.speed_um_s)

        def brake() -> int:
            try:
                return glide.start + self.profile.direction * self._brake()
            finally:
                marks = self._progress()
                self._note(glide, marks)
                if marks:
                    self._steps = glide.start + self.profile.direction * marks[-1][1]

        try:
            self._run(brake)
        finally:
            self._glide = None
            self._give_back(glide)
            self._note_rest()

    def _admit(self, glide: _Glide) -> None:
        """Take the way that is left to a glide's target out of the budgets, if they allow it."""
        left_um = self._left_um(glide)
        self._check_trust(left_um)
        if glide.travel is not None:
            glide.travel.spend(left_um)
        self._blind_um += left_um

    def _charge(self, glide: _Glide, sign: int = 1) -> None:
        """Take it out again, whatever they say."""
        self._blind_um += sign * self._left_um(glide)
        if glide.travel is not None:
            glide.travel.path_um -= sign * self._left_um(glide)

    def _give_back(self, glide: _Glide) -> None:
        """Give back the way that was not travelled; one that went beyond its target is charged for that."""
        self._charge(glide, -1)

    def _left_um(self, glide: _Glide) -> float:
        sign = 1 if glide.target > glide.start else -1
        return sign * (glide.target - self._steps) * self.profile.um_per_step

    def _expect(self, target: int, speed_um_s: float) -> None:
        way_s = abs(target - self._steps) * self.profile.um_per_step / speed_um_s
        self.expect(_SLOWER * way_s + self.profile.settle_ms / 1e3 + _SPARE_S)

    def _keep_up(self) -> None:
        """Bring count, play and record up to now while a glide is under way; from any thread."""
        with self._books:
            glide = self._glide
            if glide is None or glide.ending:
                return
            marks = self._progress()
            self._note(glide, marks)
            if marks:
                steps = glide.start + self.profile.direction * marks[-1][1]
                self._play = min(max(self._play + steps - self._steps, 0), self._overshoot)
                self._steps = steps

    def _note(self, glide: _Glide, marks: Marks) -> None:
        """Record where a glide was, a millisecond apart and at its latest."""
        for number, (time_s, sent) in enumerate(marks, 1):
            if time_s - self._past[-1][0] >= _APART_S or number == len(marks):
                z_um = (glide.start + self.profile.direction * sent) * self.profile.um_per_step
                self._past.append((time_s, z_um))
