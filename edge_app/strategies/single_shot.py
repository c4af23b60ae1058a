"""One look, one move, one check: the signed estimate says where to go, a second kind of evidence says it worked."""

from __future__ import annotations

import math
from collections.abc import Generator

from edge_app.answer import Verdict
from edge_app.estimate import DefocusEstimate
from edge_app.strategies import sweep
from edge_app.strategy import PROOF, GiveUp, Ground, MoveTo, Observation, Plan, Settled, sharper

SUMMARY = "one look with the model, one move, one check; at most two refinements; sweeps when out of range"
TASK = "defocus"
_REFINEMENTS = 2
_CLOSE = 0.25
_FLOOR_UM = 0.5
_SIGMAS = 4.0
_DEAF = "twice the estimate did not change by the move that was made; check that the motor turns, and its coupling"

Walk = Generator[MoveTo, Observation, Observation]


def plan(first: Observation, ground: Ground) -> Plan:
    """Move by the estimate, check, refine; hand over to the sweep where the model says it cannot know."""
    look: Observation = first
    if _verdict(look) is Verdict.SIGN_UNCERTAIN and not _near_whichever_side(look, ground):
        look = yield from _decide_sign(look, ground)
    elif _verdict(look) is Verdict.OUT_OF_RANGE:
        look = yield from _leap(look, ground)
    if _verdict(look) is not Verdict.OK:
        return (yield from _without_estimate(look, ground))
    best, surprises = look, 0
    for attempt in range(1 + _REFINEMENTS):
        distance_um = _estimate(look).defocus_um
        if abs(distance_um) <= _CLOSE * ground.depth_of_field_um:
            return Settled(f"within {abs(distance_um):.2f} um of focus")
        target = _within(look.z_um - distance_um, ground)
        if abs(target - (look.z_um - distance_um)) > _CLOSE * ground.depth_of_field_um:
            return GiveUp(Verdict.OUT_OF_RANGE, f"focus seems {-distance_um:+.1f} um away, beyond this job's travel")
        moved = yield MoveTo(target, f"{'refine' if attempt else 'move'} by {-distance_um:+.2f} um")
        if _verdict(moved) is not Verdict.OK:
            return (yield from _without_estimate(moved, ground))
        if not _as_moved(look, moved) and sharper(look, moved) < PROOF:
            surprises += 1
            if surprises > 1:
                return GiveUp(Verdict.DISAGREEMENT, _DEAF)
        look = moved
        if sharper(best, look) >= 1.0:
            best = look
    near_um = max(0.5 * ground.depth_of_field_um, 2 * _estimate(look).sigma_um)
    if abs(_estimate(look).defocus_um) > near_um:
        return (yield from sweep.plan(look, ground))
    return (yield from _rest_at_best(look, best))


def _rest_at_best(look: Observation, best: Observation) -> Plan:
    """After the last refinement: stay, unless an earlier look of this job was clearly sharper."""
    if best is not look and sharper(look, best) > PROOF:
        yield MoveTo(best.z_um, "back to the sharpest look")
        return Settled("the sharpest of the looks")
    return Settled("refined")


def _without_estimate(look: Observation, ground: Ground) -> Plan:
    """A look that no move can be taken from: sweep if there is something to see, else say why not."""
    if _near_whichever_side(look, ground):
        return Settled(f"within {_estimate(look).defocus_um:.2f} um of focus, on whichever side")
    if _verdict(look) in (Verdict.OUT_OF_RANGE, Verdict.DISAGREEMENT, Verdict.SIGN_UNCERTAIN):
        return (yield from sweep.plan(look, ground))
    return GiveUp(_verdict(look), _estimate(look).sentence)


def _near_whichever_side(look: Observation, ground: Ground) -> bool:
    """Whether the side does not show and, within half a depth of field, does not matter."""
    estimate = _estimate(look)
    return estimate.verdict is Verdict.SIGN_UNCERTAIN and estimate.defocus_um <= 0.5 * ground.depth_of_field_um


def _leap(look: Observation, ground: Ground) -> Walk:
    """From beyond the range the side is likely known: one long move, kept only if it made things sharper."""
    guess = _estimate(look)
    if abs(guess.defocus_um) < 2 * guess.sigma_um:
        return look
    landed = yield MoveTo(
        _within(look.z_um - guess.defocus_um, ground), f"out of range; leap {-guess.defocus_um:+.1f} um"
    )
    return landed if sharper(look, landed) > PROOF else look


def _decide_sign(look: Observation, ground: Ground) -> Walk:
    """One known small move, away from the specimen where there is room: above focus it blurs, below it sharpens."""
    size_um = _estimate(look).defocus_um
    probe_um = min(max(ground.depth_of_field_um, 0.3 * size_um), 3.0)
    away = look.z_um + probe_um <= ground.high_um
    probe_at = look.z_um + probe_um if away else _within(look.z_um - probe_um, ground)
    probed = yield MoveTo(probe_at, "a small move decides the side")
    if _verdict(probed) not in (Verdict.OK, Verdict.SIGN_UNCERTAIN):
        return probed
    above = (sharper(look, probed) < 1.0) == away
    target = _within(look.z_um - (size_um if above else -size_um), ground)
    return (yield MoveTo(target, f"the side is {'above' if above else 'below'} focus"))


def _within(z_um: float, ground: Ground) -> float:
    return min(max(z_um, ground.low_um), ground.high_um)


def _as_moved(before: Observation, after: Observation) -> bool:
    """Whether the estimate changed by the distance that was really travelled."""
    a, b = _estimate(before), _estimate(after)
    surprise_um: float = abs((a.defocus_um - b.defocus_um) - (before.z_um - after.z_um))
    return surprise_um <= _FLOOR_UM + 0.2 * abs(a.defocus_um) + _SIGMAS * math.hypot(a.sigma_um, b.sigma_um)


def _verdict(look: Observation) -> Verdict:
    return _estimate(look).verdict


def _estimate(look: Observation) -> DefocusEstimate:
    if look.estimate is None:
        raise ValueError("single_shot needs a model's estimate in every look")
    return look.estimate
