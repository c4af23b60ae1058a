"""Coarse to fine on a classical measure: slow, needs no model, and works from far away.

Scores are the mean logarithm of sharpness over patches, so that each patch counts by how much it changes, not by
how bright or how rough it is: one speck of dirt far from focus cannot outvote the specimen.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable

import numpy as np

from edge_app.estimate import Verdict
from edge_app.strategy import GiveUp, Ground, MoveTo, Observation, Plan, Settled

SUMMARY = "sweep coarse to fine on a classical sharpness measure"
NEEDS_MODEL = False
_PEAK = 0.08
_WORSE = 0.01
_FLOOR = 1e-6
_RANGES = 4
Samples = dict[float, Observation]
Walk = Generator[MoveTo, Observation, None]


def plan(first: Observation, ground: Ground) -> Plan:
    """Scan around the start, re-centre while the peak lies at an edge, climb in fine steps, take the vertex."""
    seen: Samples = {first.z_um: first}
    for _ in range(_RANGES):
        yield from _scan(seen, ground)
        if not _leaves_range(seen, ground):
            break
    flat = _flat(seen)
    if flat is not None:
        return flat
    yield from _climb(seen, ground)
    best = _best(seen)
    if best >= max(seen) or best <= min(seen):
        return GiveUp(Verdict.OUT_OF_RANGE, f"sharpness still rises at the end of the travel, at {best:.2f} um")
    target = _vertex(seen, ground.fine_um)
    yield from _look(seen, [target], "peak of sharpness")
    scores = _scores(seen)
    best = _best(seen)
    if scores[best] - scores[_nearest(seen, target)] > _WORSE:
        yield from _look(seen, [best], "the sharpest look so far")
    return Settled(f"sharpness peaks at {target:.2f} um")


def _look(seen: Samples, wanted: Iterable[float], why: str) -> Walk:
    for z in wanted:
        looked = yield MoveTo(float(z), why)
        seen[looked.z_um] = looked


def _scan(seen: Samples, ground: Ground) -> Walk:
    """Look at every coarse step around the best so far, from the top down: the axis approaches downwards."""
    centre = _best(seen)
    low = max(ground.low_um, centre - ground.half_range_um)
    high = min(ground.high_um, centre + ground.half_range_um)
    steps = max(1, round((high - low) / ground.coarse_um))
    for z in np.linspace(high, low, steps + 1):
        if abs(z - _nearest(seen, z)) > 0.25 * ground.coarse_um:
            yield from _look(seen, [float(z)], "coarse scan")


def _climb(seen: Samples, ground: Ground) -> Walk:
    """Look in fine steps until the best look has a neighbour on both sides."""
    step = ground.fine_um
    top = _vertex(seen, ground.coarse_um)
    wanted = [z for z in (top + step, top, top - step) if ground.low_um <= z <= ground.high_um]
    yield from _look(seen, [z for z in wanted if abs(z - _nearest(seen, z)) > 0.5 * step], "fine scan")
    for _ in range(math.ceil(2 * ground.coarse_um / step)):
        best = _best(seen)
        for z in (best + step, best - step):
            z = min(max(z, ground.low_um), ground.high_um)
            if abs(z - _nearest(seen, z)) > 0.5 * step:
                yield from _look(seen, [z], "fine scan")
                break
        else:
            return


def _scores(seen: Samples) -> dict[float, float]:
    """Mean log sharpness by position, over the patches that are informative anywhere, or over all if none is."""
    mask = np.logical_or.reduce([o.informative for o in seen.values()])
    if not mask.any():
        mask = np.ones_like(mask)
    return {z: float(np.log(o.sharpness[mask] + _FLOOR).mean()) for z, o in seen.items()}


def _best(seen: Samples) -> float:
    scores = _scores(seen)
    return max(scores, key=scores.__getitem__)


def _nearest(seen: Samples, z_um: float) -> float:
    return min(seen, key=lambda known: abs(known - z_um))


def _leaves_range(seen: Samples, ground: Ground) -> bool:
    """Whether the best look lies at an end of what was scanned, with travel left beyond it."""
    best, reach = _best(seen), 0.5 * ground.coarse_um
    return (best == max(seen) and best < ground.high_um - reach) or (
        best == min(seen) and best > ground.low_um + reach
    )


def _flat(seen: Samples) -> GiveUp | None:
    """A refusal if nothing stands out of the scan."""
    scores = sorted(_scores(seen).values())
    if scores[-1] - float(np.median(scores)) > _PEAK:
        return None
    if any(o.informative.any() for o in seen.values()):
        return GiveUp(Verdict.OUT_OF_RANGE, "sharpness has no peak in reach; widen the sweep, or try another field")
    return GiveUp(Verdict.NO_CONTENT, "nothing came into view anywhere in the sweep; move to a place with specimen")


def _vertex(seen: Samples, step_um: float) -> float:
    """The top of the parabola through the looks within 1.5 steps of the best, kept within one step of it."""
    scores, best = _scores(seen), _best(seen)
    near = [z for z in seen if abs(z - best) < 1.5 * step_um]
    if len(near) < 3:
        return best
    a, b, _ = np.polyfit(np.asarray(near) - best, [scores[z] - scores[best] for z in near], 2)
    return best + float(np.clip(-b / (2 * a), -step_um, step_um)) if a < 0 else best
