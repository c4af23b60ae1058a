"""Coarse to fine on a classical measure: slow, needs no model, and works from far away."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from edge_app.estimate import Verdict
from edge_app.strategy import GiveUp, Ground, MoveTo, Observation, Plan, Settled

SUMMARY = "sweep coarse to fine on a classical sharpness measure"
NEEDS_MODEL = False
_PEAK_OVER_MEDIAN = 1.15
Samples = dict[float, Observation]
Walk = Generator[MoveTo, Observation, None]


def plan(first: Observation, ground: Ground) -> Plan:
    """Scan around the start, re-centre while the peak lies at an edge, scan finely, take the vertex."""
    seen: Samples = {first.z_um: first}
    centre = first.z_um
    for _ in range(4):
        low = max(ground.low_um, centre - ground.half_range_um)
        high = min(ground.high_um, centre + ground.half_range_um)
        yield from _scan(seen, low, high, ground.coarse_um, "coarse scan")
        centre = _best(seen)
        inside = min(seen) + 0.5 * ground.coarse_um < centre < max(seen) - 0.5 * ground.coarse_um
        at_the_end = min(seen) <= ground.low_um + 1e-6 and max(seen) >= ground.high_um - 1e-6
        if inside or at_the_end:
            break
    if not any(o.informative.any() for o in seen.values()):
        return GiveUp(Verdict.NO_CONTENT, "nothing came into view anywhere in the sweep")
    if not _has_peak(seen):
        return GiveUp(Verdict.DISAGREEMENT, "sharpness has no peak in reach; look at another field or widen the sweep")
    yield from _scan(seen, centre - ground.coarse_um, centre + ground.coarse_um, ground.fine_um, "fine scan")
    target = min(max(_vertex(seen), ground.low_um), ground.high_um)
    last = yield MoveTo(target, f"peak of sharpness at {target:.2f} um")
    seen[last.z_um] = last
    return Settled("the sweep's sharpest position")


def _scan(seen: Samples, low: float, high: float, step: float, why: str) -> Walk:
    """Look at every step from the top down that has not been seen; the axis approaches downwards anyway."""
    count = max(1, round((high - low) / step))
    for z in np.linspace(high, low, count + 1):
        if all(abs(z - known) > 0.25 * step for known in seen):
            looked = yield MoveTo(float(z), why)
            seen[looked.z_um] = looked


def _scores(seen: Samples) -> tuple[list[float], list[float]]:
    """Positions and mean sharpness over the patches that are informative anywhere in the sweep."""
    mask = np.logical_or.reduce([o.informative for o in seen.values()])
    if not mask.any():
        mask = np.ones_like(mask)
    positions = sorted(seen)
    return positions, [float(seen[z].sharpness[mask].mean()) for z in positions]


def _best(seen: Samples) -> float:
    positions, scores = _scores(seen)
    return positions[int(np.argmax(scores))]


def _has_peak(seen: Samples) -> bool:
    _, scores = _scores(seen)
    return max(scores) > _PEAK_OVER_MEDIAN * float(np.median(scores))


def _vertex(seen: Samples) -> float:
    """The top of the parabola through the best sample and its neighbours, kept between them."""
    positions, scores = _scores(seen)
    k = int(np.argmax(scores))
    if k in (0, len(positions) - 1):
        return positions[k]
    z, s = np.asarray(positions[k - 1 : k + 2]), np.log(np.asarray(scores[k - 1 : k + 2]) + 1e-12)
    a, b, _ = np.polyfit(z - z[1], s, 2)
    return float(np.clip(z[1] - b / (2 * a), z[0], z[2])) if a < 0 else float(z[1])
