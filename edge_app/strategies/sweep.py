"""Coarse to fine on a classical measure: slow, needs no model, and works from far away.

A patch votes with where its sharpness lies between its least and its most in this sweep (logarithms),
whatever its brightness or roughness; so a speck of dirt on one patch cannot outvote a specimen on several.
A patch that hardly changes has hardly a vote.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable

import numpy as np

from edge_app.answer import Verdict
from edge_app.strategy import GiveUp, Ground, MoveTo, Observation, Plan, Settled

SUMMARY = "sweep coarse to fine on a classical sharpness measure"
TASK = ""
_FULL_VOTE = 0.5
_PEAK = 0.1
_WORSE = 0.02
_FLOOR = 1e-6
_REACH = 3.0
Samples = dict[float, Observation]
Walk = Generator[MoveTo, Observation, None]


def plan(first: Observation, ground: Ground) -> Plan:
    """Scan around the start, follow a rise beyond the range, climb in fine steps, take the vertex."""
    seen: Samples = {first.z_um: first}
    yield from _scan(seen, first.z_um, ground)
    yield from _follow(seen, ground)
    flat = _flat(seen)
    if flat is not None:
        return flat
    yield from _climb(seen, ground)
    best = _best(seen)
    if best >= max(seen) or best <= min(seen):
        return GiveUp(Verdict.OUT_OF_RANGE, "sharpness still rises at the end of the travel")
    target = _vertex(seen, ground.fine_um)
    yield from _look(seen, [target], "peak of sharpness")
    scores = _scores(seen)
    best = _best(seen)
    if scores[best] - scores[_nearest(seen, target)] > _WORSE:
        yield from _look(seen, [best], "the sharpest look so far")
    return Settled("sharpness peaks here")


def _look(seen: Samples, wanted: Iterable[float], why: str) -> Walk:
    for z in wanted:
        looked = yield MoveTo(float(z), why)
        seen[looked.z_um] = looked


def _scan(seen: Samples, centre: float, ground: Ground) -> Walk:
    """Look at every coarse step around the start, from the top down: the axis approaches downwards."""
    low = max(ground.low_um, centre - ground.half_range_um)
    high = min(ground.high_um, centre + ground.half_range_um)
    steps = max(1, round((high - low) / ground.coarse_um))
    for z in np.linspace(high, low, steps + 1):
        if abs(z - _nearest(seen, z)) > 0.25 * ground.coarse_um:
            yield from _look(seen, [float(z)], "coarse scan")


def _follow(seen: Samples, ground: Ground) -> Walk:
    """While the best look lies next to an end of what was seen, look beyond it, up to `_REACH` ranges."""
    step = ground.coarse_um
    for _ in range(round(_REACH * ground.half_range_um / step)):
        best = _best(seen)
        if max(seen) - best < 1.5 * step:
            beyond = min(max(seen) + step, ground.high_um)
        elif best - min(seen) < 1.5 * step:
            beyond = max(min(seen) - step, ground.low_um)
        else:
            return
        if abs(beyond - _nearest(seen, beyond)) < 0.25 * step:
            return
        yield from _look(seen, [beyond], "following the rise")


def _climb(seen: Samples, ground: Ground) -> Walk:
    """Look in fine steps until the best look has a neighbour on both sides."""
    step = ground.fine_um
    top = _vertex(seen, ground.coarse_um)
    wanted = [z for z in (top + step, top, top - step) if ground.low_um <= z <= ground.high_um]
    yield from _look(seen, [z for z in wanted if abs(z - _nearest(seen, z)) > 0.5 * step], "fine scan")
    for _ in range(math.ceil(2 * ground.coarse_um / step)):
        best = _best(seen)
        sides = (min(best + step, ground.high_um), max(best - step, ground.low_um))
        unseen = [z for z in sides if abs(z - _nearest(seen, z)) > 0.5 * step]
        if not unseen:
            return
        yield from _look(seen, unseen[:1], "fine scan")


def _scores(seen: Samples) -> dict[float, float]:
    """Mean vote, 0 to 1, by position: of the patches that are informative anywhere, or of all if none is."""
    mask = np.logical_or.reduce([o.informative for o in seen.values()])
    if not mask.any():
        mask = np.ones_like(mask)
    sharp = np.log(np.stack([o.sharpness[mask] for o in seen.values()]) + _FLOOR)
    least, swing = sharp.min(axis=0), np.ptp(sharp, axis=0)
    votes = ((sharp - least) / np.maximum(swing, _FULL_VOTE)).mean(axis=1)
    return dict(zip(seen, votes.tolist(), strict=True))


def _best(seen: Samples) -> float:
    scores = _scores(seen)
    return max(scores, key=scores.__getitem__)


def _nearest(seen: Samples, z_um: float) -> float:
    return min(seen, key=lambda known: abs(known - z_um))


def _flat(seen: Samples) -> GiveUp | None:
    """A refusal if nothing stands out of the scan."""
    scores = sorted(_scores(seen).values())
    if scores[-1] - float(np.median(scores)) > _PEAK:
        return None
    if any(o.informative.any() for o in seen.values()):
        return GiveUp(Verdict.OUT_OF_RANGE, "sharpness has no peak in reach; widen the sweep")
    return GiveUp(Verdict.NO_CONTENT, "nothing came into view in the whole sweep; move the slide")


def _vertex(seen: Samples, step_um: float) -> float:
    """The top of the parabola through the looks within 1.5 steps of the best, kept within one step of it."""
    scores, best = _scores(seen), _best(seen)
    near = [z for z in seen if abs(z - best) < 1.5 * step_um]
    if len(near) < 3:
        return best
    a, b, _ = np.polyfit(np.asarray(near) - best, [scores[z] - scores[best] for z in near], 2)
    return best + float(np.clip(-b / (2 * a), -step_um, step_um)) if a < 0 else best
