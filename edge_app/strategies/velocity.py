"""Steering by speed: grades on the way say which way and how fast, until one says in focus; one move, one check.

HH-Net's Algorithm 1: at distance index 4 (totally blurred) a default speed, otherwise 0.2 x default x index, whose
sign is the direction. The paper's default of 0.2237 mm/s was for its own objective, which is not known here; it is
read as that of a 10x/0.30 and scaled by depth of field, so that equal blur takes equal time: 37.7 depths of field a
second. (At the paper's 25 ms an image that is 0.94 depths of field between two images, just under half a class of
two.) Whatever the paper says, a latency of travel stays under half a class, so that no class is passed unseen.

What the paper leaves out is where this must not go. Every glide towards the specimen ends by itself, without another
look, one latency of travel beyond the middle of the class that was seen: half a class and that beyond focus at the
most. Totally blurred is either side, so there it goes away from the specimen until its side is known: by earlier
looks that saw a class, or because the frame grew blurrier on the way, or sharper. What the patches doubt between is no
knowledge: of one faint patch the network was seen to lean to the wrong side.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_app.answer import Floats, Verdict
from edge_app.strategy import GiveUp, Glide, Ground, Motion, MoveTo, Observation, Plan, Settled, sharper
from edge_app.tasks.quality import INDICES, NAMES, QualityGrade

SUMMARY = "graded by class on the way: faster the farther, until in focus, then one move and a check"
TASK = "quality"
_BLURRED = 4
# The paper's 223.7 um/s over the 5.94 um depth of field of a 10x/0.30.
_DEFAULT_DEPTHS_S = 37.7
_SHARE = 0.2
_HALF = 0.5
# Far from focus a trend over one class spacing tells the side: sharpness in a ratio.
_BLURRIER, _SHARPER = 0.95, 1.05
_AWAY_SPACINGS = 8.0
# Totally blurred on the way to focus, it must have grown sharper after so many spacings, play included.
_PROVEN_SPACINGS = 3.0
# What a class is given that a look all but rules out.
_HIDDEN = 0.02
# Under this certainty a grade is asked for twice before it leads towards the specimen; even between two it is 0.64.
_SURE = 0.5
# A look may be wrong by one class before the looks contradict each other.
_SPARE = 1.5
_TURNS, _REFINEMENTS = 3, 3
# Spacings above focus from which it is met again.
_ABOVE = 1.0
_CLOSE = 0.15
# How soft the border between two classes is, in spacings.
_EDGE = 0.08
# A way that is no way, in spacings; and how many looks in one place say that the axis does not move.
_NO_WAY, _STILL, _STILL_UM = 0.05, 5, 1e-6
_DEAF = (
    "the grades do not change as the objective moves; check that the motor turns, and whether this specimen is graded "
    "rightly (`parfocal measure --quality`)"
)
Walk = Generator[Motion, Observation, Observation | GiveUp]


@dataclass
class _Pilot:
    """What the looks of a job add up to: how fast it may go, where focus lies at most, and on which side it is.

    Focus lies between `low_um` and `high_um`, as far as the looks that saw a class know it. `since` is the look at
    which the present direction, `sign`, was taken up; `met` are position and class probabilities (7,) of the looks
    since then that saw a class.
    """

    ground: Ground
    spacing_um: float
    since: Observation
    sign: int = 0
    turns: int = 0
    low_um: float = -math.inf
    high_um: float = math.inf
    far: bool | None = None
    met: list[tuple[float, Floats]] = field(default_factory=list)
    latest_um: float = math.nan
    still: int = 0
    doubted: bool = False

    def speed_um_s(self, index: int) -> float:
        """Algorithm 1, slowed down so that a latency of travel stays under half a class."""
        default_um_s = _DEFAULT_DEPTHS_S * self.ground.depth_of_field_um
        wanted_um_s = default_um_s * (1.0 if index == _BLURRED else _SHARE * abs(index))
        latency_s = self.ground.latency_s
        slow_um_s = _HALF * self.spacing_um / latency_s if latency_s > 0 else math.inf
        return min(wanted_um_s, slow_um_s, self.ground.fastest_um_s or math.inf)

    def bound_um(self, index: int) -> float:
        """How far beyond focus it goes at most, towards the specimen, if no look came any more."""
        return _HALF * self.spacing_um + self.speed_um_s(index) * self.ground.latency_s

    def note(self, look: Observation) -> None:
        """Narrow down where focus is, and on which side of it this look was taken."""
        grade = _grade(look)
        self.still = self.still + 1 if abs(look.z_um - self.latest_um) <= _STILL_UM else 0
        self.latest_um = look.z_um
        if grade.index != _BLURRED:
            self.low_um = max(self.low_um, look.z_um - (grade.index + _SPARE) * self.spacing_um)
            self.high_um = min(self.high_um, look.z_um - (grade.index - _SPARE) * self.spacing_um)
            self.far = None
            self.met.append((look.z_um, _mean(grade)))
        elif look.z_um > self.high_um + self.spacing_um:
            self.far = True
        elif look.z_um < self.low_um - self.spacing_um:
            self.far = False
        elif self.far is None:
            self.far = self._by_trend(look)

    def forget(self, look: Observation) -> None:
        """Take the looks before this one for taken elsewhere: the play was not out, or one of them was wrong."""
        self.met, self.sign, self.since, self.turns = [], 0, look, 0
        self.low_um, self.high_um = -math.inf, math.inf

    def way(self, look: Observation) -> Motion | GiveUp:
        """Where to go now, and how fast."""
        index = _grade(look).index
        if self._contradicted(look, index):
            return GiveUp(Verdict.DISAGREEMENT, _DEAF)
        away = index < 0 or (index == _BLURRED and not self.far)
        self.doubted = not away and self.sign >= 0 and not self.doubted and _grade(look).certainty < _SURE
        if self.doubted:
            return MoveTo(look.z_um, f"{NAMES[index]}, but unsure: once more at rest, before it turns to the specimen")
        self._turn(1 if away else -1, look)
        speed_um_s = self.speed_um_s(index)
        to_um = self._away_to(look, index) if away else self._towards_to(look, index)
        left_um = to_um - look.z_um if away else look.z_um - to_um
        if left_um <= _NO_WAY * self.spacing_um or self.still >= _STILL:
            return self._no_way(index)
        side = "away" if away else f"towards, {self.bound_um(index):.1f} um beyond focus at most"
        return Glide(to_um, speed_um_s, f"{NAMES[index]}: {speed_um_s:.1f} um/s {side}")

    def focus_um(self) -> float:
        """Where focus is, by all looks in `met`: the mean of what their classes leave possible, to a hundredth of one.

        A class says that focus is within half a spacing of its middle and no more, so it is where two looks fall into
        two classes, and where one look is torn between two, that tells the place.
        """
        near_um = self.met[-1][0]
        offsets = np.arange(-6.0, 6.0, 0.01)
        chances = np.zeros(len(offsets))
        for z_um, mean in self.met:
            expected = np.log(_expected((z_um - near_um) / self.spacing_um - offsets) + _HIDDEN)
            chances += expected @ mean
        weights = np.exp(chances - chances.max())
        return near_um + self.spacing_um * float((weights * offsets).sum() / weights.sum())

    def left_um(self, look: Observation) -> float:
        """How far this look was above focus, by all of them, and within a class of what it was graded itself."""
        index, left = _grade(look).index, (look.z_um - self.focus_um()) / self.spacing_um
        return self.spacing_um * min(max(left, index - 1.0), index + 1.0)

    def _towards_to(self, look: Observation, index: int) -> float:
        """One latency of travel beyond the middle of the class, and never below where earlier looks put focus."""
        travel_um = self.speed_um_s(index) * self.ground.latency_s
        middle_um = look.z_um - index * self.spacing_um
        return max(middle_um - travel_um, self.low_um - travel_um, self.ground.low_um)

    def _away_to(self, look: Observation, index: int) -> float:
        if index == _BLURRED and self.far is None:
            return min(self.since.z_um + _AWAY_SPACINGS * self.spacing_um, self.ground.high_um)
        travel_um = self.speed_um_s(index) * self.ground.latency_s
        return min(look.z_um + abs(index) * self.spacing_um + travel_um, self.ground.high_um)

    def _turn(self, sign: int, look: Observation) -> None:
        """Take up a direction; play shifts what was known, by up to a spacing."""
        if sign == self.sign:
            return
        if self.sign:
            self.turns += 1
            self.low_um -= self.spacing_um
            self.high_um += self.spacing_um
            self.met = self.met[-1:]
        self.sign, self.since = sign, look

    def _by_trend(self, look: Observation) -> bool | None:
        """Too far, if it grew blurrier on the way away from the specimen; too close, if sharper; else not known."""
        if self.sign <= 0 or look.z_um - self.since.z_um < self.spacing_um:
            return None
        ratio = sharper(self.since, look)
        return True if ratio < _BLURRIER else False if ratio > _SHARPER else None

    def _contradicted(self, look: Observation, index: int) -> bool:
        """Whether it grew blurrier, or totally blurred no sharper, on a way towards the specimen."""
        way_um = self.since.z_um - look.z_um
        if self.sign >= 0 or way_um < self.spacing_um:
            return False
        proven = index != _BLURRED or way_um < _PROVEN_SPACINGS * self.spacing_um
        return sharper(self.since, look) < (_BLURRIER if proven else _SHARPER)

    def _no_way(self, index: int) -> GiveUp:
        if index == _BLURRED and self.far is None:
            why = "totally blurred, and a way away from the specimen does not show on which side of focus"
            return GiveUp(Verdict.SIGN_UNCERTAIN, f"{why}; use the strategy sweep")
        if self.ground.low_um < self.low_um <= self.ground.high_um:
            return GiveUp(Verdict.DISAGREEMENT, _DEAF)
        return GiveUp(Verdict.OUT_OF_RANGE, f"still {NAMES[index]} at the end of this job's travel; use sweep")


def plan(first: Observation, ground: Ground) -> Plan:
    """Glide until a look is in focus, go there, check."""
    if _grade(first).verdict is not Verdict.OK:
        return GiveUp(_grade(first).verdict, _grade(first).sentence)
    pilot = _Pilot(ground, _grade(first).spacing_um, first)
    found = yield from _approach(first, pilot)
    if isinstance(found, Observation) and pilot.sign > 0:
        found = yield from _from_above(found, pilot)
    if isinstance(found, GiveUp):
        return found
    return (yield from _check(found, pilot))


def _approach(look: Observation, pilot: _Pilot) -> Walk:
    """Glide by the grades until one says in focus, or the direction changed so often that it must be close."""
    while True:
        if _grade(look).verdict is not Verdict.OK:
            look = yield MoveTo(look.z_um, f"{_grade(look).sentence}; once more at rest")
            if _grade(look).verdict is not Verdict.OK:
                return GiveUp(_grade(look).verdict, _grade(look).sentence)
        pilot.note(look)
        if _grade(look).index == 0:
            return look
        if pilot.turns > _TURNS:
            return look if abs(_grade(look).index) == 1 else GiveUp(Verdict.DISAGREEMENT, _DEAF)
        way = pilot.way(look)
        if isinstance(way, GiveUp):
            return way
        look = yield way


def _from_above(look: Observation, pilot: _Pilot) -> Walk:
    """Having come from below, go on beyond focus and meet it again towards the specimen, with the play out."""
    above_um = min(look.z_um + _ABOVE * pilot.spacing_um, pilot.ground.high_um)
    above = yield MoveTo(above_um, "in focus on the way up; once more from above, with the play out")
    if _grade(above).verdict is not Verdict.OK:
        above = yield MoveTo(look.z_um, f"{_grade(above).sentence}; back to where it was in focus")
    pilot.forget(above)
    return (yield from _approach(above, pilot))


def _check(look: Observation, pilot: _Pilot) -> Plan:
    """Rest where the looks put focus, look again, and step by what that changes."""
    moved = pilot.sign != 0
    for attempt in range(_REFINEMENTS + 1):
        left_um = pilot.left_um(look)
        if not moved and abs(left_um) <= _CLOSE * pilot.spacing_um and _grade(look).index == 0:
            return Settled(f"in focus, {abs(left_um):.2f} um from where the grades put it")
        target_um = min(max(look.z_um - left_um, pilot.ground.low_um), pilot.ground.high_um)
        look = yield MoveTo(target_um, "one more step" if attempt else "rest where the grades put focus, and check")
        moved = False
        if _grade(look).verdict is not Verdict.OK:
            return GiveUp(_grade(look).verdict, _grade(look).sentence)
        if _grade(look).index:
            pilot.forget(look)
        pilot.note(look)
        if _grade(look).index == _BLURRED:
            return GiveUp(Verdict.DISAGREEMENT, f"in focus on the way, totally blurred at rest; {_DEAF}")
    if _grade(look).index:
        return GiveUp(Verdict.DISAGREEMENT, f"still {NAMES[_grade(look).index]} after {_REFINEMENTS} steps; {_DEAF}")
    return Settled("in focus, as near to the middle of its class as the grades tell")


def _expected(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the classes' probabilities should be so far from focus: (N,) spacings to (N, 7)."""
    edges = np.array(INDICES[:-1]) - _HALF
    beyond = 1 / (1 + np.exp((np.append(edges, -2.5) - distances[:, None]) / _EDGE))
    inner = np.diff(beyond, axis=1)
    return np.concatenate([beyond[:, :1] + 1 - beyond[:, -1:], inner], axis=1)


def _mean(grade: QualityGrade) -> Floats:
    """Of the patches that were asked: (7,)."""
    mean: Floats = grade.probabilities[grade.informative].mean(axis=0)
    return mean


def _grade(look: Observation) -> QualityGrade:
    if not isinstance(look.answer, QualityGrade):
        raise TypeError("velocity needs a model's grade in every look")
    return look.answer
