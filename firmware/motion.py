"""Ramps and step trains: when each pulse of a move happens.

Speed follows an S-curve: jerk, acceleration and speed stay within their limits, so that a motor is never asked
for a torque or a change of torque that it does not have (Biagiotti and Melchiorri, Trajectory Planning for Automatic
Machines and Robots, 2008, section 3.4: the double S profile).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_NEWTON_ROUNDS = 8
_BISECTIONS = 60

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """What a motor and its screw can follow, in um and s."""

    speed_um_s: float
    acceleration_um_s2: float
    jerk_um_s3: float

    def slower(self, speed_um_s: float) -> Limits:
        """The same with a lower top speed."""
        return Limits(min(speed_um_s, self.speed_um_s), self.acceleration_um_s2, self.jerk_um_s3)


@dataclass(frozen=True)
class Ramp:
    """From rest to a speed: acceleration rises for `jerk_s`, is even for `even_s`, and falls for `jerk_s`."""

    speed_um_s: float
    jerk_um_s3: float
    jerk_s: float
    even_s: float

    @staticmethod
    def to(speed_um_s: float, limits: Limits) -> Ramp:
        """The shortest ramp to a speed."""
        jerk, most = limits.jerk_um_s3, limits.acceleration_um_s2
        jerk_s = min(most / jerk, math.sqrt(speed_um_s / jerk))
        return Ramp(speed_um_s, jerk, jerk_s, max(speed_um_s / (jerk * jerk_s) - jerk_s, 0.0))

    @property
    def duration_s(self) -> float:
        """How long it takes."""
        return 2 * self.jerk_s + self.even_s

    @property
    def length_um(self) -> float:
        """How far it goes: half of what the full speed would."""
        return 0.5 * self.speed_um_s * self.duration_s

    def reach(self, z_um: Seconds) -> Seconds:
        """When the ramp has gone so far: (K,) um to (K,) s, both from its beginning; `z_um` within its length."""
        rising_um = self.jerk_um_s3 * self.jerk_s**3 / 6
        speed_um_s, acceleration = 0.5 * self.jerk_um_s3 * self.jerk_s**2, self.jerk_um_s3 * self.jerk_s
        even_um = rising_um + speed_um_s * self.even_s + 0.5 * acceleration * self.even_s**2
        rising = np.cbrt(6 * z_um / self.jerk_um_s3)
        beyond_um = np.maximum(z_um - rising_um, 0.0)
        even = self.jerk_s + 2 * beyond_um / (speed_um_s + np.sqrt(speed_um_s**2 + 2 * acceleration * beyond_um))
        falling = self.duration_s - self._left(self.length_um - z_um)
        return np.where(z_um <= rising_um, rising, np.where(z_um <= even_um, even, falling))

    def _left(self, left_um: Seconds) -> Seconds:
        """How long before its end the ramp has still so far to go, in its last part: Newton's rounds on a cubic."""
        left_s = np.clip(left_um / self.speed_um_s, 0.0, self.jerk_s)
        for _ in range(_NEWTON_ROUNDS):
            gap_um = self.speed_um_s * left_s - self.jerk_um_s3 * left_s**3 / 6 - left_um
            slope = np.maximum(self.speed_um_s - 0.5 * self.jerk_um_s3 * left_s**2, 0.25 * self.speed_um_s)
            left_s = np.clip(left_s - gap_um / slope, 0.0, self.jerk_s)
        return left_s


def train(steps: int, um_per_step: float, limits: Limits) -> Seconds:
    """When each of `steps` pulses happens: (steps,) s from the start, rising, from rest to rest.

    A pulse is sent when half of its step is due, so that the first and the last lie half a step from rest.
    """
    length_um = steps * um_per_step
    ramp = Ramp.to(_top_speed(length_um, limits), limits)
    due_um = (np.arange(steps) + 0.5) * um_per_step
    cruise_s = (length_um - 2 * ramp.length_um) / ramp.speed_um_s
    ending_s = 2 * ramp.duration_s + cruise_s
    up = ramp.reach(np.minimum(due_um, ramp.length_um))
    level = ramp.duration_s + (due_um - ramp.length_um) / ramp.speed_um_s
    down = ending_s - ramp.reach(np.minimum(length_um - due_um, ramp.length_um))
    return np.where(due_um <= ramp.length_um, up, np.where(length_um - due_um <= ramp.length_um, down, level))


def _top_speed(length_um: float, limits: Limits) -> float:
    """The greatest speed that a move of this length reaches: the limit, or what both ramps leave room for."""
    if 2 * Ramp.to(limits.speed_um_s, limits).length_um <= length_um:
        return limits.speed_um_s
    low, high = 0.0, limits.speed_um_s
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if 2 * Ramp.to(middle, limits).length_um <= length_um else (low, middle)
    return low
