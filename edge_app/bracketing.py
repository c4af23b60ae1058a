"""Bracketing: looks of a blur score around the start, until focus lies between them; pure, as strategies are.

After the paper's steps (see few_shot): three looks; where they do not bend upwards with the vertex between them, the
next golden section, beyond the end where the score is lowest or between two looks.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_app.answer import Verdict
from edge_app.curve import FocusCurve
from edge_app.strategy import GiveUp, Motion, MoveTo, Observation
from edge_app.tasks.sharpness import BlurScores

_GOLDEN = (1 + math.sqrt(5)) / 2
_MOST = 24
_RISE = 0.15
_SHARE = 0.25
_ROOM = 0.1
_SAME = 0.01
_HIDES, _WIDE = 0.6, 1.3
_TINY = 1e-9
Doubles = NDArray[np.float64]
Bracketing = Generator[Motion, Observation, Observation | GiveUp]


@dataclass
class Looks:
    """What was seen so far, from the lowest to the highest position, and between which walls there is more to see."""

    curve: FocusCurve
    low_um: float
    high_um: float
    seen: list[Observation] = field(default_factory=list)

    def add(self, look: Observation) -> None:
        """Another look, in its place; it takes the place of one that was taken there already."""
        same_um = _SAME * self.curve.bracket_um
        others = [known for known in self.seen if abs(known.z_um - look.z_um) > same_um]
        self.seen = sorted([*others, look], key=lambda known: known.z_um)

    def wall(self, z_um: float) -> None:
        """Nothing can be seen from there on."""
        if z_um > self.seen[-1].z_um:
            self.high_um = self.seen[-1].z_um + (z_um - self.seen[-1].z_um) / _GOLDEN
        elif z_um < self.seen[0].z_um:
            self.low_um = self.seen[0].z_um + (z_um - self.seen[0].z_um) / _GOLDEN

    @property
    def z_um(self) -> Doubles:
        """(K,) positions, rising."""
        return np.asarray([look.z_um for look in self.seen], np.float64)

    @property
    def scores(self) -> Doubles:
        """(K, N) of the patches, NaN where one was not asked."""
        return np.stack([answer_of(look).scores for look in self.seen]).astype(np.float64)

    @property
    def levels(self) -> Doubles:
        """(K,) the median score of each look: of the patches that all looks know, unless these are too few."""
        scores = self.scores
        known = np.isfinite(scores)
        common = known.all(axis=0)
        if common.sum() >= max(1.0, _SHARE * known.sum(axis=1).max()):
            scores = scores[:, common]
        return np.asarray(np.nanmedian(scores, axis=1), np.float64)

    @property
    def around(self) -> slice:
        """The lowest look and its neighbours; at an end, the three there."""
        start = min(max(int(self.levels.argmin()) - 1, 0), len(self.seen) - 3)
        return slice(start, start + 3)

    @property
    def near(self) -> NDArray[np.bool_]:
        """(K,) which looks to match: the lowest, its neighbours, and what lies as near to it as the curve is known."""
        near = np.abs(self.z_um - self.z_um[self.levels.argmin()]) <= self.curve.reach_um
        near[self.around] = True
        return np.asarray(near, bool)


def bracket(looks: Looks) -> Bracketing:
    """Look around until focus lies between looks; gives the last one."""
    start = last = looks.seen[0]
    reach_um = looks.curve.bracket_um
    wanted: list[float | None] = [start.z_um + reach_um, start.z_um - reach_um]
    for _ in range(_MOST):
        target_um = wanted.pop(0) if wanted else _next(looks)
        if target_um is None:
            return GiveUp(Verdict.OUT_OF_RANGE, _stuck(looks))
        target_um = min(max(target_um, looks.low_um), looks.high_um)
        if abs(looks.z_um - target_um).min() < _ROOM * reach_um:
            continue
        last = yield MoveTo(target_um, _about(looks, target_um))
        if answer_of(last).verdict is not Verdict.OK:
            looks.wall(last.z_um)
            continue
        looks.add(last)
        if not wanted and _bracketed(looks):
            return last
    return GiveUp(Verdict.OUT_OF_RANGE, _stuck(looks))


def _next(looks: Looks) -> float | None:
    """The next golden section: beyond the end where the score is lowest, or between looks; None if all is seen."""
    z, levels = looks.z_um, looks.levels
    lowest, gaps = int(levels.argmin()), np.diff(z)
    least_um = _ROOM * looks.curve.bracket_um
    last_gap_um = float(gaps[0 if lowest == 0 else -1]) if len(gaps) else looks.curve.bracket_um
    beyond_um = min(_GOLDEN * last_gap_um, looks.curve.bracket_um)
    down_um = max(z[0] - beyond_um, looks.low_um)
    up_um = min(z[-1] + beyond_um, looks.high_um)
    outside = [end for end, gap in ((down_um, z[0] - down_um), (up_um, up_um - z[-1])) if gap >= least_um]
    if lowest == 0 and down_um in outside:
        return float(down_um)
    if lowest == len(z) - 1 and up_um in outside:
        return float(up_um)
    inside = [k for k in (lowest - 1, lowest) if 0 <= k < len(gaps) and gaps[k] > _HIDES * looks.curve.width_um]
    if inside:
        widest = max(inside, key=lambda k: float(gaps[k]))
        step_um = float(gaps[widest]) * (1 - 1 / _GOLDEN)
        return float(z[lowest]) + (step_um if widest == lowest else -step_um)
    return float(min(outside, key=lambda end: abs(end - z[lowest]))) if outside else None


def _bracketed(looks: Looks) -> bool:
    """Whether the lowest look and its neighbours bend upwards, with the vertex between them.

    By more than noise, and not so far apart that the curve says nothing of them.
    """
    if len(looks.seen) < 3:
        return False
    z, three = looks.z_um[looks.around], looks.levels[looks.around]
    bend, slope, _ = np.polyfit(z - z[1], three, 2)
    known = np.diff(z).max() <= _WIDE * looks.curve.bracket_um
    if bend <= 0 or np.ptp(three) < _RISE * looks.curve.height or not known:
        return False
    return bool(z[0] < z[1] - slope / (2 * bend) < z[2])


def _about(looks: Looks, target_um: float) -> str:
    """What the next look is for."""
    if len(looks.seen) < 3:
        return f"a look {target_um - looks.seen[0].z_um:+.1f} um away, to bracket focus"
    return f"no minimum in the bracket ({fits(looks)}); next golden section"


def fits(looks: Looks) -> str:
    """The share of the scores' variance that a parabola explains, beside a line's."""
    z, levels = looks.z_um - looks.z_um[0], looks.levels
    total = float(((levels - levels.mean()) ** 2).sum()) + _TINY
    lefts = [levels - np.polyval(np.polyfit(z, levels, power), z) for power in (2, 1)]
    parabola, line = (1 - float((left**2).sum()) / total for left in lefts)
    return f"R2 of a parabola {parabola:.2f}, of a line {line:.2f}"


def _stuck(looks: Looks) -> str:
    low_um, high_um = looks.z_um[0], looks.z_um[-1]
    return (
        f"between {low_um:+.1f} and {high_um:+.1f} um the score has no minimum; move nearer to focus, or see that the "
        "specimen has texture"
    )


def answer_of(look: Observation) -> BlurScores:
    """What the sharpness model made of a look."""
    if not isinstance(look.answer, BlurScores):
        raise TypeError("few_shot needs the answer of a sharpness model in every look")
    return look.answer
