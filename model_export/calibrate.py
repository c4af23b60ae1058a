"""Calibration: making a model's sigma mean what it says, on frames that it was not trained on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from edge_app.answer import Verdict
from edge_app.bundle import Calibrations, CalibrationTable
from edge_app.estimate import Calibration, fuse, levelled
from edge_app.tasks.defocus import answers_of
from model_export.errors import NoData
from model_export.frames import Answered, Subject, answer_all, frames_of
from model_export.recipe import Recipe

_APART = 77
_FREEDOM = 4
_ONE_SIGMA = 68.3
Array = NDArray[np.float64]
_FLOORS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.045, 0.065, 0.09, 0.13, 0.18, 0.25)
_SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 0.9, 1.3)
_SPREADS = (0.0, 0.35, 0.7, 1.0, 1.4, 2.0, 3.0)
_THICKS = (0.0, 0.02, 0.035, 0.05, 0.07, 0.1, 0.12, 0.14, 0.17, 0.2, 0.25)


def calibrate_recipe(recipe: Recipe, subject: Subject, progress: Callable[[int, int], None]) -> Calibrations:
    """Calibrate on frames of a recipe's conditions, apart for objectives that were measured and others.

    Every condition gives frames by its share; a recipe that has only one of the two uses it for both. Thick slides
    come from the thicker half: that a specimen is thick shows, how thick hardly does.

    Raises:
        NoData: No frame shows anything.
    """
    amount = recipe.calibration
    groups: dict[bool, list[Answered]] = {True: [], False: []}
    done = itertools.count(1)
    shares = {known: sum(c.share for c in recipe.conditions if c.known is known) for known in groups}
    present = sum(share > 0 for share in shares.values())
    total = present * amount.specimens * amount.depths
    for number, conditions in enumerate(recipe.conditions):
        drawn = conditions.thicker()
        if conditions.known:
            drawn = drawn.middle(amount.middle)
        specimens = max(round(amount.specimens * conditions.share / shares[conditions.known]), 1)
        seed = (recipe.seed, _APART, number)
        frame_px, patch_px = amount.frame_px, recipe.patch_px
        truths = frames_of(drawn, recipe.data.range_um, seed, specimens, amount.depths, frame_px, patch_px)
        told = answer_all(truths, subject, lambda: progress(next(done), total))
        groups[conditions.known] += [answered for answered in told if answered.informative.any()]
    measured, others = groups[True] or groups[False], groups[False] or groups[True]
    if not measured:
        raise NoData("no calibration frame shows anything; give the recipe other kinds of specimen or more light")
    range_um = recipe.data.range_um
    return Calibrations(known=_table(calibrate(measured, range_um)), unknown=_table(calibrate(others, range_um)))


def _table(calibration: Calibration) -> CalibrationTable:
    parts = ("patch_scale", "floor_um", "patch_share", "spread_share", "thick_share")
    return CalibrationTable(**{part: getattr(calibration, part) for part in parts})


def calibrate(answered: list[Answered], range_um: float) -> Calibration:
    """Find the patch scale with which 68 % of patch errors lie within one sigma, and the parts of a frame's sigma.

    The parts maximise the likelihood of the frames' errors (Student's t with 4 degrees of freedom, which a few frames
    far off do not move: Lange, Little and Taylor, JASA 84, 1989); their common scale then balances the 68 % interval
    against the 95 % one.
    """
    scale = _patch_scale(answered)
    plain = Calibration(range_um, scale)
    error, parts = zip(*(_parts(a, plain) for a in answered), strict=True)
    errors, squares = np.array(error), np.square(np.array(parts))
    unit = range_um / 10
    grid = product((floor * unit for floor in _FLOORS), _SHARES, _SPREADS, _THICKS)
    best = min(grid, key=lambda shares: _cost(errors, _sigma(squares, shares)))
    stretch = _stretch(errors / _sigma(squares, best))
    floor, share, of_error, of_thick = (round(part * stretch, 4) for part in best)
    return Calibration(range_um, round(scale, 4), floor, share, of_error, of_thick)


def _patch_scale(answered: list[Answered]) -> float:
    ratios = [
        np.abs(a.outputs["defocus_um"] - a.patch_truth_um[a.informative]) / answers_of(a.outputs).sigma_um
        for a in answered
    ]
    return float(np.percentile(np.concatenate(ratios), _ONE_SIGMA))


def _parts(answered: Answered, plain: Calibration) -> tuple[float, tuple[float, ...]]:
    """A frame's error, and what its sigma is made of, the floor's 1 first.

    Where the side does not show the error is the distance's, and only the spread of the distances counts: the whole
    sigma under the `plain` calibration, which has no other share.
    """
    outputs, chosen = answered.asked()
    answers = answers_of(outputs)
    estimate = fuse(answers, chosen, answered.grid, plain, "")
    if estimate.verdict is Verdict.SIGN_UNCERTAIN:
        return abs(estimate.defocus_um - abs(answered.truth_um)), (1.0, 0.0, estimate.sigma_um, 0.0)
    flat = levelled(answers, chosen, answered.grid, plain)
    return abs(flat.centre_um - answered.truth_um), (1.0, *flat.parts)


def _sigma(squares: Array, shares: tuple[float, ...]) -> Array:
    """(F,) of the frames' squared parts (F, 4)."""
    return np.asarray(np.sqrt(squares @ np.square(shares)))


def _cost(error: Array, sigma: Array) -> float:
    return float(np.mean(np.log(sigma) + (_FREEDOM + 1) / 2 * np.log1p(np.square(error / sigma) / _FREEDOM)))


def _stretch(ratio: Array) -> float:
    one, two = np.percentile(ratio, _ONE_SIGMA), np.percentile(ratio, 95) / 1.96
    low, high = np.percentile(ratio, (65, 72))
    return float(np.clip(np.sqrt(one * two), low, high))
