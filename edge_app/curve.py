"""FocusCurve: how the blur score of one model rises on both sides of focus under one objective; pure arithmetic.

The stack of a calibration becomes a curve (`curve_of`); a few scores at known positions become the position of focus
(`match`). Both work on any number of patches at once and know neither hardware nor clocks. After A. Shajkofci and
M. Liebling, "DeepFocus: a few-shot microscope slide auto-focus using a sample invariant CNN-based sharpness function",
ISBI 2020 (arXiv 2001.00667).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edge_app.moffat import Moffat, fit

Doubles = NDArray[np.float64]

SQUARED, CORRELATED = "squared distance", "normalised correlation"
METHODS = (SQUARED, CORRELATED)
METHOD = SQUARED
"""What few_shot goes by: the better of the two in docs/few_shot.md."""
FEWEST = 7
"""Slices that a curve needs at least."""
_CANDIDATES = 601
_SHARE = 0.5
_EXPLAINED = 0.8
_NOISES = 4.0
_SIDE = 0.15
_BOTTOM = 0.15
_STEPS = 4
_END = 4
_TINY = 1e-9
_FAR = 0.5
"""Where a score counts half, as a share of the curve's highest."""


@dataclass(frozen=True)
class FocusCurve:
    """Blur score over the distance from focus: b(z), smallest at zero.

    `z_um` (M,) are the recorded distances, rising, positive where the objective is too far; `score` (M,) the medians
    over the patches there. `fitted` is the Moffat function through them, whose own centre lies off zero where the
    sides are not alike, and `explained` the share of the scores' variance that it explains. `objective`, `model` (its
    label), `model_sha256` and `at` (ISO 8601) say what was calibrated, and when; the specimen does not matter.
    """

    z_um: Doubles
    score: Doubles
    fitted: Moffat
    explained: float
    objective: str
    model: str
    model_sha256: str
    at: str = ""

    @property
    def width_um(self) -> float:
        """Full width at half maximum of the dip, um."""
        return self.fitted.width_um

    @property
    def height(self) -> float:
        """How far the score rises within the stack."""
        return float(np.ptp(self.score))

    @property
    def bracket_um(self) -> float:
        """How far to both sides the first looks lie: a width, but so that three of them stay where it is known.

        With focus half-way between two looks, the third is one and a half of these away from it.
        """
        return min(self.width_um, self.reach_um / 1.5)

    @property
    def reach_um(self) -> float:
        """How far from focus it is known on both sides."""
        return min(-float(self.z_um[0]), float(self.z_um[-1]))

    @property
    def noise(self) -> float:
        """Standard deviation of the points from the fit."""
        return float(np.std(self._left))

    @property
    def step_um(self) -> float:
        """The usual distance between two of its points."""
        return float(np.median(np.diff(self.z_um)))

    @cached_property
    def _left(self) -> Doubles:
        """What the fit leaves of each point, (M,)."""
        return np.asarray(self.score - self.fitted.at(self.z_um), np.float64)

    @cached_property
    def _rises(self) -> tuple[float, float]:
        """How steeply the score rises outwards at the lower and at the upper end, per um; never less than zero."""
        ends = (slice(None, _END), slice(-_END, None))
        low, high = (float(np.polyfit(self.z_um[end], self.score[end], 1)[0]) for end in ends)
        return max(-low, 0.0), max(high, 0.0)

    def at_um(self, z_um: Doubles) -> Doubles:
        """The score at distances from focus, of any shape: the fit, corrected by what it leaves of the points.

        Beyond the stack the score goes on as straight as it left it.
        """
        z = np.clip(z_um, self.z_um[0], self.z_um[-1])
        inside = self.fitted.at(z) + np.interp(z, self.z_um, self._left)
        below, above = np.minimum(z_um - z, 0.0), np.maximum(z_um - z, 0.0)
        return np.asarray(inside - self._rises[0] * below + self._rises[1] * above, np.float64)


@dataclass(frozen=True)
class NoCurve:
    """Why a stack gives no curve, and what to do."""

    sentence: str


@dataclass(frozen=True)
class Matched:
    """Where each patch has its focus, by its few scores.

    `focus_um` (N,) are positions of the axis, NaN where a patch has no scores to go by; `inside` (N,) is False where
    that is an end of where it was looked for; `agreement` (N,) is 1 where the scores lie on the curve, and 0 where
    they have nothing to do with it.
    """

    focus_um: Doubles
    inside: NDArray[np.bool_]
    agreement: Doubles


def curve_of(
    z_um: Doubles, scores: Doubles, objective: str, model: str, model_sha256: str, at: str = ""
) -> tuple[FocusCurve, Doubles] | NoCurve:
    """Make a curve of a stack of a flat specimen, whatever its tilt.

    Each slice's score is the median over its patches; then the patches are shifted onto that curve, and the median is
    taken again, so that a tilted slide does not round the dip off.

    Args:
        z_um: (M,) positions of the slices, in any order.
        scores: (M, N) of the patches; NaN where a patch is blank.
        objective: Its name.
        model: The model's label.
        model_sha256: Of the model's network.
        at: When, in ISO 8601.

    Returns:
        The curve and the position of each patch's focus, (N,) um, or why there is none.
    """
    order = np.argsort(z_um)
    z, raw = np.asarray(z_um, np.float64)[order], np.asarray(scores, np.float64)[order]
    seen = np.isfinite(raw).any(axis=1)
    z, raw = z[seen], raw[seen]
    if len(z) < FEWEST:
        return NoCurve(
            f"only {len(z)} slices show structure, and a curve needs {FEWEST}; record more, on a textured specimen"
        )
    found = _through(z, _median(raw), objective, model, model_sha256, at)
    if isinstance(found, NoCurve):
        return found
    curve, centre_um = found
    focus_um = np.full(raw.shape[1], centre_um)
    for _ in range(2):
        shifted = match(curve, z, raw, z[0], z[-1], SQUARED)
        good = shifted.inside & (shifted.agreement > _SHARE)
        if not good.any():
            break
        focus_um = np.where(good, shifted.focus_um, np.nan)
        again = _through(z, _aligned(z, raw, focus_um - np.nanmedian(focus_um)), objective, model, model_sha256, at)
        if isinstance(again, NoCurve):
            break
        curve, centre_um = again
    return curve, focus_um


def match(
    curve: FocusCurve, z_um: Doubles, scores: Doubles, low_um: float, high_um: float, method: str = METHOD
) -> Matched:
    """Find where each patch has its focus between two positions.

    Args:
        curve: Of the model and the objective that the scores come from.
        z_um: (K,) where the looks were taken, three or more.
        scores: (K, N) of the patches; NaN where a patch was not asked.
        low_um: Focus is looked for from here ...
        high_um: ... to here.
        method: `SQUARED`: the sum over the looks of the squared distance from the curve is least; `CORRELATED`: the
            correlation with the curve is greatest, whatever gain and offset this specimen has.
    """
    grid = np.linspace(low_um, high_um, _CANDIDATES)
    table = curve.at_um(np.asarray(z_um, np.float64)[None, :] - grid[:, None])
    known = np.isfinite(scores)
    whole = np.where(known, scores, 0.0)
    counts = known.sum(axis=0)
    cost, agreement = (_squared if method == SQUARED else _correlated)(table, whole, known.astype(np.float64))
    best = cost.argmin(axis=0)
    focus_um = grid[best] + (grid[1] - grid[0]) * _vertex(cost, best)
    usable = counts >= 3
    inside = usable & (best > 0) & (best < len(cost) - 1)
    chosen = agreement[best, np.arange(cost.shape[1])]
    agreement = np.where(usable, np.clip(chosen, 0.0, 1.0), np.nan)
    return Matched(np.where(usable, focus_um, np.nan), inside, agreement)


def _squared(table: Doubles, scores: Doubles, known: Doubles) -> tuple[Doubles, Doubles]:
    """Cost and agreement (S, N) of candidates (S, K) for scores (K, N), with their gain and offset as calibrated.

    Where score and candidate are both high they count less: far from focus specimens differ most.
    """
    far = _FAR * max(float(table.max()), _TINY)
    low = np.minimum(table[:, :, None], scores[None])
    cost = np.einsum("skn,skn->sn", known / (1 + (low / far) ** 4), (table[:, :, None] - scores) ** 2)
    weights = known / (1 + (scores / far) ** 4)
    total = np.maximum(weights.sum(axis=0), _TINY)
    spread = (scores**2 * weights).sum(axis=0) - (scores * weights).sum(axis=0) ** 2 / total
    return cost, 1 - cost / np.maximum(spread, _TINY)


def _correlated(table: Doubles, scores: Doubles, known: Doubles) -> tuple[Doubles, Doubles]:
    """As `_squared`, with gain and offset free: agreement is the squared correlation, none if it is negative."""
    counts = np.maximum(known.sum(axis=0), 1.0)
    mean_scores, mean_table = (scores * known).sum(axis=0) / counts, table @ known / counts
    both = table @ scores - counts * mean_table * mean_scores
    spread_scores = (scores**2 * known).sum(axis=0) - counts * mean_scores**2
    spread_table = (table**2) @ known - counts * mean_table**2
    correlation = both / np.sqrt(np.maximum(spread_scores * spread_table, _TINY**2))
    return -correlation, np.where(correlation > 0, correlation**2, 0.0)


def _vertex(cost: Doubles, best: NDArray[np.intp]) -> Doubles:
    """Where between the candidates the least cost lies, (N,) in candidates from `best`."""
    inside = np.clip(best, 1, len(cost) - 2)
    columns = np.arange(cost.shape[1])
    before, here, after = (cost[inside + k, columns] for k in (-1, 0, 1))
    bend = before - 2 * here + after
    offset = np.where(bend > _TINY, 0.5 * (before - after) / np.maximum(bend, _TINY), 0.0)
    return np.asarray(np.where(inside == best, np.clip(offset, -0.5, 0.5), 0.0), np.float64)


def _through(
    z: Doubles, score: Doubles, objective: str, model: str, model_sha256: str, at: str
) -> tuple[FocusCurve, float] | NoCurve:
    """A curve through one score a slice, with its centre at zero, and where that was; or why there is none."""
    missing = _missing_dip(z, score)
    if missing is not None:
        return NoCurve(missing)
    fitted, explained = fit(z, score)
    step_um = float(np.median(np.diff(z)))
    if explained < _EXPLAINED:
        return NoCurve(
            f"the scores are too noisy: a smooth dip explains {explained:.0%} of their changes, and {_EXPLAINED:.0%} "
            "are needed; use a flat specimen with more texture, or more light"
        )
    if fitted.width_um < 2 * step_um:
        return NoCurve(
            f"the stack is too coarse: the dip is {fitted.width_um:.3g} um wide, and its slices are {step_um:.3g} um "
            f"apart; take a step of {fitted.width_um / 4:.2g} um or less"
        )
    focus_um = _lowest(z, score, fitted)
    if not z[1] <= focus_um <= z[-2]:
        return NoCurve(_AT_AN_END)
    centred = replace(fitted, centre_um=fitted.centre_um - focus_um)
    return FocusCurve(z - focus_um, score, centred, explained, objective, model, model_sha256, at), focus_um


def _lowest(z: Doubles, score: Doubles, fitted: Moffat) -> float:
    """Where the score is lowest: the vertex of the parabola through the bottom of the dip, whatever its sides do."""
    step_um, focus_um = float(np.median(np.diff(z))), float(z[score.argmin()])
    reach_um = max(2.5 * step_um, _BOTTOM * fitted.width_um)
    for _ in range(_STEPS):
        near = np.abs(z - focus_um) <= reach_um
        bend, slope, _ = np.polyfit(z[near] - focus_um, score[near], 2)
        if bend <= 0:
            return float(fitted.centre_um)
        focus_um += float(np.clip(-slope / (2 * bend), -step_um, step_um))
    return focus_um


_AT_AN_END = "focus lies at an end of the stack; start nearer to focus, or widen the range"


def _missing_dip(z: Doubles, score: Doubles) -> str | None:
    """Why a stack shows no dip with two sides, or None if it does."""
    smooth = np.convolve(np.pad(score, 1, mode="edge"), np.full(3, 1 / 3), mode="valid")
    noise = 1.4826 * float(np.median(np.abs(score - smooth))) + _TINY
    rise, lowest = float(np.ptp(smooth)), int(smooth.argmin())
    if rise < _NOISES * noise or rise < _TINY * max(1.0, float(np.abs(score).max())):
        return (
            f"the score has no dip over these {z[-1] - z[0]:.3g} um; see that the specimen has texture and the range "
            "contains focus"
        )
    sides = float(smooth[: lowest + 1].max() - smooth[lowest]), float(smooth[lowest:].max() - smooth[lowest])
    return _AT_AN_END if min(sides) < _SIDE * rise else None


def _median(scores: Doubles) -> Doubles:
    return np.asarray(np.nanmedian(scores, axis=1), np.float64)


def _aligned(z: Doubles, scores: Doubles, shift_um: Doubles) -> Doubles:
    """The median over the patches, (M,), each shifted so that all have their focus where the median patch has it."""
    columns = []
    for patch in np.flatnonzero(np.isfinite(shift_um)):
        known = np.isfinite(scores[:, patch])
        if known.sum() >= FEWEST:
            moved = np.interp(z + shift_um[patch], z[known], scores[known, patch], left=math.nan, right=math.nan)
            columns.append(moved)
    stacked = np.stack(columns, axis=1) if columns else scores
    whole = _median(scores)
    some = np.isfinite(stacked).any(axis=1)
    whole[some] = _median(stacked[some])
    return whole
