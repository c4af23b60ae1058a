"""Course: a way at a set speed that ends at rest, and how a speed is changed on the way (pure).

Every change of speed is an S-curve of `firmware.motion`: jerk and acceleration stay within their limits. A change that
has begun is finished before the next one begins, so that no course ever begins with the motor accelerating.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware.motion import Limits, Ramp, Seconds

_KNOTS = 240
_BISECTIONS = 40
_NO_CHANGE_UM_S = 1e-9


@dataclass(frozen=True)
class Course:
    """Where a motor is when: `ways_um` (K,) at `times_s` (K,), straight between these knots, both from 0 and rising.

    From `even_s[0]` to `even_s[1]` it goes at `speed_um_s`; after that it slows down, to rest at the last knot.
    """

    times_s: Seconds
    ways_um: Seconds
    speed_um_s: float
    even_s: tuple[float, float]

    @staticmethod
    def plan(length_um: float, speed_um_s: float, limits: Limits, from_um_s: float = 0.0) -> Course:
        """The course of so many um, at a speed or at what the length leaves room for.

        Args:
            length_um: From here to where it rests.
            speed_um_s: Above 0.
            limits: The speed in them counts too.
            from_um_s: How fast it goes already; it must be able to stop within the length.
        """
        top_um_s = _fitting_speed(length_um, min(speed_um_s, limits.speed_um_s), limits, from_um_s)
        change, brake = _change(from_um_s, top_um_s, limits), _change(top_um_s, 0.0, limits)
        even_um = max(length_um - change[1][-1] - brake[1][-1], 0.0)
        began_s, until_s = change[0][-1], change[0][-1] + even_um / top_um_s
        times_s = np.concatenate([change[0], until_s + brake[0]])
        ways_um = np.concatenate([change[1], change[1][-1] + even_um + brake[1]])
        return Course(times_s, ways_um, top_um_s, (float(began_s), float(until_s)))

    @property
    def ends_s(self) -> float:
        """When it rests."""
        return float(self.times_s[-1])

    def way_um(self, time_s: float) -> float:
        """How far it has gone."""
        return float(np.interp(time_s, self.times_s, self.ways_um))

    def reach_s(self, ways_um: NDArray[np.floating]) -> Seconds:
        """When it has gone so far: (N,) um to (N,) s."""
        return np.asarray(np.interp(ways_um, self.ways_um, self.times_s))

    def then(self, after: Course, time_s: float) -> Course:
        """This course until a moment, and another one, which begins as fast as this one goes then, from there on."""
        before = self.times_s < time_s
        times_s = np.concatenate([self.times_s[before], time_s + after.times_s])
        ways_um = np.concatenate([self.ways_um[before], self.way_um(time_s) + after.ways_um])
        even_s = (time_s + after.even_s[0], time_s + after.even_s[1])
        return Course(times_s, ways_um, after.speed_um_s, even_s)


class Steering:
    """A train of pulses whose speed and end may be changed while it is sent.

    `plan` and `renew` belong to the thread that sends the pulses, `ask` and `brake` to whoever commands. `count` is
    how many pulses there are to be in all.
    """

    def __init__(self, count: int, speed_um_s: float, um_per_step: float, limits: Limits) -> None:
        self.count = count
        self._speed_um_s, self._step_um, self._limits = speed_um_s, um_per_step, limits
        self._lock = threading.Lock()
        self._wanted: tuple[int, float] | None = None
        self._course = Course.plan(count * um_per_step, speed_um_s, limits)
        self._first, self._lead = 0, 0.5

    def plan(self, left: int) -> Seconds:
        """When the pulses that are left come, from rest: (left,) s."""
        with self._lock:
            self._course = Course.plan(left * self._step_um, self._speed_um_s, self._limits)
            self._first, self._lead = self.count - left, 0.5
            return self._course.reach_s((np.arange(left) + 0.5) * self._step_um)

    def renew(self, sent: int) -> Seconds | None:
        """When the pulses that are left come, counted from the one sent last, if that is to change now; (left,) s."""
        if self._wanted is None:
            return None
        with self._lock:
            now_s = self._time_of(sent)
            if now_s < self._course.even_s[0]:
                return None
            (count, speed_um_s), self._wanted = self._wanted, None
            if now_s > self._course.even_s[1]:
                return None
            return self._changed(sent, count, speed_um_s)

    def ask(self, sent: int, count: int, speed_um_s: float) -> bool:
        """Go on to so many pulses in all, at another speed; False if it cannot stop there, or slows down already."""
        with self._lock:
            # By the time the thread knows, some more may be sent.
            room_um = (count - sent - 1) * self._step_um
            faster_um_s = max(self._course.speed_um_s, self._speed_um_s)
            if self._time_of(sent) > self._course.even_s[1] or room_um < 2 * braking_um(faster_um_s, self._limits):
                return False
            self._wanted = (count, speed_um_s)
            return True

    def brake(self) -> None:
        """Slow down as soon as the speed is even, and rest."""
        with self._lock:
            self._wanted = (0, 0.0)

    def _time_of(self, sent: int) -> float:
        way_um = (sent - self._first - 1 + self._lead) * self._step_um
        return float(self._course.reach_s(np.array([way_um]))[0])

    def _changed(self, sent: int, count: int, speed_um_s: float) -> Seconds | None:
        """Take up a new course at the pulse sent last: to its end, which lies half a step behind its last pulse."""
        now_um_s = self._course.speed_um_s
        stop_um = braking_um(now_um_s, self._limits)
        shortest = math.ceil(stop_um / self._step_um - 0.5)
        if not speed_um_s:
            count = min(sent + max(shortest, 0), self.count)
        left = count - sent
        if left < shortest:
            return None
        self.count, self._speed_um_s = count, speed_um_s or now_um_s
        length_um = (left + 0.5) * self._step_um
        self._course = Course.plan(length_um, self._speed_um_s, self._limits, now_um_s)
        self._first, self._lead = sent, 1.0
        return self._course.reach_s(np.arange(1, left + 1) * self._step_um)


def braking_um(speed_um_s: float, limits: Limits) -> float:
    """How far it goes on from a speed until it rests."""
    return Ramp.to(speed_um_s, limits).length_um if speed_um_s > _NO_CHANGE_UM_S else 0.0


def changing_um(speed_um_s: float, limits: Limits) -> float:
    """How far it goes on at most, never faster than this, once a rest is asked for: a change may have to end first."""
    if speed_um_s <= _NO_CHANGE_UM_S:
        return 0.0
    return braking_um(speed_um_s, limits) + speed_um_s * Ramp.to(speed_um_s, limits).duration_s


def _fitting_speed(length_um: float, wanted_um_s: float, limits: Limits, from_um_s: float) -> float:
    """The speed to go at: what is wanted, or the greatest from which it can still stop in time."""
    if _shortest_um(wanted_um_s, limits, from_um_s) <= length_um:
        return wanted_um_s
    if wanted_um_s <= from_um_s:
        return from_um_s
    low, high = from_um_s, wanted_um_s
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _shortest_um(middle, limits, from_um_s) <= length_um else (low, middle)
    return low


def _shortest_um(speed_um_s: float, limits: Limits, from_um_s: float) -> float:
    """What it takes to change to a speed, and from that to rest."""
    change = abs(speed_um_s - from_um_s)
    duration_s = Ramp.to(change, limits).duration_s if change > _NO_CHANGE_UM_S else 0.0
    return 0.5 * (speed_um_s + from_um_s) * duration_s + braking_um(speed_um_s, limits)


def _change(from_um_s: float, to_um_s: float, limits: Limits) -> tuple[Seconds, Seconds]:
    """Times (K,) s and ways (K,) um of one change of speed, both from 0."""
    step_um_s = abs(to_um_s - from_um_s)
    if step_um_s <= _NO_CHANGE_UM_S:
        return np.zeros(1), np.zeros(1)
    ramp = Ramp.to(step_um_s, limits)
    times_s = np.linspace(0.0, ramp.duration_s, _KNOTS)
    gained_um = math.copysign(1.0, to_um_s - from_um_s) * _gained(ramp, times_s)
    return times_s, from_um_s * times_s + gained_um


def _gained(ramp: Ramp, times_s: Seconds) -> Seconds:
    """How far a ramp from rest has gone: (K,) s to (K,) um."""
    rising_s = np.minimum(times_s, ramp.jerk_s)
    even_s = np.clip(times_s - ramp.jerk_s, 0.0, ramp.even_s)
    most, turn_um_s = ramp.jerk_um_s3 * ramp.jerk_s, 0.5 * ramp.jerk_um_s3 * ramp.jerk_s**2
    gone_um = ramp.jerk_um_s3 * rising_s**3 / 6 + turn_um_s * even_s + 0.5 * most * even_s**2
    left_s = np.clip(ramp.duration_s - times_s, 0.0, ramp.jerk_s)
    falling_um = ramp.length_um - ramp.speed_um_s * left_s + ramp.jerk_um_s3 * left_s**3 / 6
    return np.where(times_s > ramp.jerk_s + ramp.even_s, falling_um, gone_um)
