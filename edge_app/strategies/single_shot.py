"""One look, one move, one check: the signed estimate says where to go, a second kind of evidence says it worked."""

from __future__ import annotations

from collections.abc import Generator

from edge_app.estimate import DefocusEstimate, Verdict
from edge_app.strategies import sweep
from edge_app.strategy import GiveUp, Ground, MoveTo, Observation, Plan, Settled, sharper

SUMMARY = "one look with the model, one move, one check; at most two refinements; sweeps when out of range"
NEEDS_MODEL = True
_REFINEMENTS = 2
_CLOSE = 0.25
_SHARPER = 1.01
_FLOOR_UM = 0.5
_SIGMAS = 4.0

Decided = Generator[MoveTo, Observation, "Observation | GiveUp"]


def plan(first: Observation, ground: Ground) -> Plan:
    """Move by the estimate, check, refine; hand over to the sweep where the model says it cannot know."""
    look: Observation = first
    if _verdict(look) is Verdict.SIGN_UNCERTAIN:
        decided = yield from _decide_sign(look, ground)
        if isinstance(decided, GiveUp):
            return decided
        look = decided
    elif _verdict(look) in (Verdict.OUT_OF_RANGE, Verdict.DISAGREEMENT):
        return (yield from sweep.plan(look, ground))
    if _verdict(look) is not Verdict.OK:
        return _give_up(look)
    best = look
    for attempt in range(1 + _REFINEMENTS):
        distance_um = _estimate(look).defocus_um
        if abs(distance_um) <= _close_um(look, ground):
            return Settled(f"within {abs(distance_um):.2f} um of focus" if attempt else "already in focus")
        target = min(max(look.z_um - distance_um, ground.low_um), ground.high_um)
        moved = yield MoveTo(target, f"{'refine' if attempt else 'move'} by {-distance_um:+.2f} um")
        if _verdict(moved) is not Verdict.OK:
            return (yield from _after_surprise(moved, ground))
        if not _as_moved(look, moved) and sharper(look, moved) < _SHARPER:
            return GiveUp(Verdict.DISAGREEMENT, "the estimate did not change by the move that was made")
        look = moved
        if sharper(best, look) >= 1.0:
            best = look
    return (yield from _rest_at_best(look, best))


def _rest_at_best(look: Observation, best: Observation) -> Plan:
    """After the last refinement: stay, unless an earlier look of this job was clearly sharper."""
    if best is not look and sharper(look, best) > _SHARPER:
        yield MoveTo(best.z_um, "back to the sharpest look")
        return Settled("the sharpest of the looks")
    return Settled("refined")


def _after_surprise(moved: Observation, ground: Ground) -> Plan:
    """The look after a move is not OK: out of range or torn means sweep, anything else means stop."""
    if _verdict(moved) in (Verdict.OUT_OF_RANGE, Verdict.DISAGREEMENT, Verdict.SIGN_UNCERTAIN):
        return (yield from sweep.plan(moved, ground))
    return _give_up(moved)


def _decide_sign(look: Observation, ground: Ground) -> Decided:
    """One known small move away from the specimen: the magnitude grows above focus and shrinks below it."""
    size_um = _estimate(look).defocus_um
    probe_um = min(max(ground.depth_of_field_um, 0.3 * size_um), 3.0)
    probed = yield MoveTo(min(look.z_um + probe_um, ground.high_um), "a small move away decides the side")
    if _verdict(probed) not in (Verdict.OK, Verdict.SIGN_UNCERTAIN):
        return _give_up(probed)
    gained_um = probed.z_um - look.z_um
    sign = 1.0 if abs(_estimate(probed).defocus_um) > size_um else -1.0
    if sharper(look, probed) > 1.02:
        sign = -1.0
    elif sharper(look, probed) < 0.98:
        sign = 1.0
    target = min(max(look.z_um - sign * size_um, ground.low_um), ground.high_um)
    after = yield MoveTo(target, f"the side is {'above' if sign > 0 else 'below'} focus ({gained_um:+.1f} um probe)")
    if _verdict(after) is Verdict.SIGN_UNCERTAIN and sharper(look, after) < _SHARPER:
        return GiveUp(Verdict.SIGN_UNCERTAIN, "the side of focus stayed unknown after a small move")
    return after


def _as_moved(before: Observation, after: Observation) -> bool:
    """Whether the estimate changed by the distance that was really travelled."""
    a, b = _estimate(before), _estimate(after)
    surprise_um = abs((a.defocus_um - b.defocus_um) - (before.z_um - after.z_um))
    return surprise_um <= _FLOOR_UM + 0.2 * abs(a.defocus_um) + _SIGMAS * (a.sigma_um**2 + b.sigma_um**2) ** 0.5


def _close_um(look: Observation, ground: Ground) -> float:
    """Near enough to rest: a quarter of the depth of field, less than what the estimate can resolve."""
    del look
    return _CLOSE * ground.depth_of_field_um


def _verdict(look: Observation) -> Verdict:
    return _estimate(look).verdict


def _estimate(look: Observation) -> DefocusEstimate:
    if look.estimate is None:
        raise ValueError("single_shot needs a model's estimate in every look")
    return look.estimate


def _give_up(look: Observation) -> GiveUp:
    return GiveUp(_verdict(look), _estimate(look).sentence)
