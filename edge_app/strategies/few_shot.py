"""A few looks around the start, matched to the calibrated curve of the blur score: one move, one check.

After A. Shajkofci and M. Liebling, "DeepFocus: a few-shot microscope slide auto-focus using a sample invariant
CNN-based sharpness function", ISBI 2020 (arXiv 2001.00667): three looks, at the start and on both sides (by one width
of the curve; the paper has two); as soon as they bend upwards with the vertex inside the bracket, each region's focus
is where its scores match the curve, and the objective goes to the middle of them; until then the bracket moves or
narrows by the golden section.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_app.answer import Floats, Verdict
from edge_app.bracketing import Looks, answer_of, bracket, fits
from edge_app.curve import match
from edge_app.estimate import centre_of, places_of
from edge_app.strategy import GiveUp, Ground, Motion, MoveTo, Observation, Plan, Settled

SUMMARY = "a few looks around the start, matched to the curve of `parfocal calibrate focus`; one move, one check"
TASK = "sharpness"
CALIBRATE = "run `parfocal calibrate focus` with this objective in place, on any flat textured specimen"
_OFF_CURVE = 0.25
_APART = 0.25
_CLOSE = 0.1
_SURE = 0.5
_MOVES = 2
_ALIKE, _NOISES = 0.1, 3.0
_BEYOND = 0.5
_MIRROR = 0.7, 2.5, 1.25
# What the width came to under 10x/0.3 and 20x/0.75, a little more.
_DEPTHS = 8.0
_TINY = 1e-9
Doubles = NDArray[np.float64]
Checking = Generator[Motion, Observation, Observation | GiveUp]


@dataclass(frozen=True)
class _Found:
    """Where focus lies: in the middle of the grid, and for each patch (N,); NaN where that is unknown.

    `off_curve` is how far the looks lie off the curve, in parts of its height, and `spread_um` how far the patches lie
    apart once the slope of a tilted slide is taken out.
    """

    focus_um: float
    patches_um: Doubles
    off_curve: float
    spread_um: float

    def shifts_um(self, look: Observation) -> Floats:
        """(N,) how far each patch's focus lies from a look."""
        return np.asarray(self.patches_um - look.z_um, np.float32)


def plan(first: Observation, ground: Ground) -> Plan:
    """Bracket, match, move, check; refine once."""
    curve, said = ground.curve, answer_of(first)
    if said.verdict is not Verdict.OK:
        return GiveUp(said.verdict, said.sentence)
    if curve is None:
        return GiveUp(Verdict.OPTICS_UNKNOWN, f"this objective has no focus curve for {said.model}; {CALIBRATE}")
    if said.model != curve.model:
        return GiveUp(
            Verdict.OPTICS_UNKNOWN, f"the focus curve is of {curve.model}, but {said.model} is in use; {CALIBRATE}"
        )
    looks = Looks(curve, ground.low_um, ground.high_um, [first])
    last = yield from bracket(looks)
    if isinstance(last, GiveUp):
        return last
    return (yield from _approach(looks, last, ground))


def _approach(looks: Looks, last: Observation, ground: Ground) -> Plan:
    """Look on the other side of the focus that was found, go there, look, and refine once if that says otherwise."""
    found = _match(looks, ground)
    for offset_um in () if _doubt(found, looks) else _mirrored(looks, found, ground):
        why = f"matched ({fits(looks)}); a look {offset_um:+.1f} um from there"
        moved = yield from _moved(looks, found.focus_um + offset_um, why, found.shifts_um(last))
        if isinstance(moved, GiveUp):
            return moved
        last = moved
    found = _match(looks, ground)
    for attempt in range(_MOVES + 1):
        away_um = found.focus_um - last.z_um
        there = abs(away_um) <= (_CLOSE if attempt < _MOVES else _SURE) * _depth_um(looks, ground)
        doubt = _doubt(found, looks) or (_unproven(looks, last) if there or attempt == _MOVES else "")
        if doubt:
            return GiveUp(Verdict.DISAGREEMENT, doubt)
        if there:
            return Settled(f"within {abs(away_um):.2f} um of focus", found.shifts_um(last))
        if attempt == _MOVES:
            break
        why = f"{'refine' if attempt else f'matched ({fits(looks)}), move'} by {away_um:+.2f} um"
        moved = yield from _moved(looks, found.focus_um, why, found.shifts_um(last))
        if isinstance(moved, GiveUp):
            return moved
        last, found = moved, _match(looks, ground)
    return GiveUp(Verdict.DISAGREEMENT, f"after two moves focus still seems {abs(away_um):.2f} um away")


def _moved(looks: Looks, target_um: float, why: str, shifts_um: Floats) -> Checking:
    """Go somewhere and look; a look that shows nothing ends the job."""
    look = yield MoveTo(target_um, why, shifts_um)
    said = answer_of(look)
    if said.verdict is not Verdict.OK:
        return GiveUp(said.verdict, said.sentence)
    looks.add(look)
    return look


def _mirrored(looks: Looks, found: _Found, ground: Ground) -> list[float]:
    """Where to look so that two looks lie as far from focus on either side, relative to it, um; upper ones first.

    What a specimen does to the score it does on both sides alike: of such a pair the halves of it cancel. Where a look
    lies at a fit distance already, its mirror image is enough.
    """
    least_um, most_um, best_um = (depths * _depth_um(looks, ground) for depths in _MIRROR)
    away_um = looks.z_um - found.focus_um
    fit = away_um[(np.abs(away_um) >= least_um) & (np.abs(away_um) <= most_um)]
    wanted = [-float(fit[np.abs(np.abs(fit) - best_um).argmin()])] if len(fit) else [best_um, -best_um]
    return [offset for offset in wanted if ground.low_um <= found.focus_um + offset <= ground.high_um]


def _match(looks: Looks, ground: Ground) -> _Found:
    """Each patch's focus, and the middle of them: their median, freed from the slope of a tilted slide."""
    z, curve, near = looks.z_um, looks.curve, looks.near
    spare_um = _BEYOND * curve.bracket_um
    low_um, high_um = max(z[near][0] - spare_um, ground.low_um), min(z[near][-1] + spare_um, ground.high_um)
    matched = match(curve, z[near], looks.scores[near], low_um, high_um)
    known = np.isfinite(matched.focus_um)
    if not known.any():
        return _Found(math.nan, matched.focus_um, math.inf, math.inf)
    values = np.asarray(matched.focus_um[known], np.float32)
    weights = np.asarray(np.maximum(matched.agreement[known], _TINY), np.float32)
    places = places_of(known, answer_of(looks.seen[0]).grid)
    focus_um, slopes = centre_of(values, weights, places, _CLOSE * _depth_um(looks, ground))
    level = values - places @ slopes
    patches_um = np.where(matched.inside, matched.focus_um, np.nan)
    left = looks.levels[near] - curve.at_um(z[near] - focus_um)
    off_curve = float(np.std(left)) / curve.height
    return _Found(focus_um, patches_um, off_curve, 1.4826 * float(np.median(np.abs(level - focus_um))))


def _depth_um(looks: Looks, ground: Ground) -> float:
    """The depth of field; a share of the curve's width where that is more, as where no aperture is known."""
    return max(ground.depth_of_field_um, looks.curve.width_um / _DEPTHS)


def _doubt(found: _Found, looks: Looks) -> str:
    """Why the match is not to be believed, or ""."""
    if not math.isfinite(found.focus_um):
        return "no region shows structure in three looks; move the slide to a place with more specimen"
    if found.off_curve > _OFF_CURVE:
        return (
            f"the scores lie {found.off_curve:.0%} of its height off the calibrated curve; this specimen is not one "
            "flat layer, or the curve is of another instrument: calibrate again on this one"
        )
    if found.spread_um > _APART * looks.curve.width_um:
        return f"the regions' focus lies {found.spread_um:.1f} um apart; the specimen may be thick"
    return ""


def _unproven(looks: Looks, last: Observation) -> str:
    """Why the last look does not show focus, or "": it has to be the least blurred of all, or as good as that."""
    levels = looks.levels
    here = float(levels[np.abs(looks.z_um - last.z_um).argmin()])
    alike = max(_ALIKE * looks.curve.height, _NOISES * looks.curve.noise)
    if here <= levels.min() + alike:
        return ""
    return (
        "the look at the focus that was found is more blurred than one beside it: the score is too noisy on this "
        "specimen, or the stage did not go where it was sent"
    )
