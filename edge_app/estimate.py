"""DefocusEstimate: many patches' opinions become one number that says how far it can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_app.answer import Floats, Mask, Verdict
from edge_app.patches import PatchGrid

_OUTSIDE = 1.15
_AGREE = 0.75
_NEAR, _MINORITY = 0.25, 0.25
_NEAR_WITHOUT_SIDE, _MINORITY_WITHOUT_SIDE = 1.5, 0.3
_FEW = 6
_ROUNDS = 6
_LEVEL = 0.1
_SOFT_UM, _FREE = 0.1, 1e-4
# A third of the patches may look thicker: where cells lie in one layer each, many patches look thin.
_THICKER = 2 / 3


@dataclass(frozen=True)
class PatchMap:
    """Every patch's answer in reading order, all (N,); NaN where a patch was not asked."""

    grid: PatchGrid
    informative: Mask
    defocus_um: Floats
    sigma_um: Floats


@dataclass(frozen=True)
class DefocusEstimate:
    """Signed defocus of one frame, um; NaN where the verdict allows none.

    With SIGN_UNCERTAIN `defocus_um` is the magnitude; with OUT_OF_RANGE its sign is the likely side.
    """

    verdict: Verdict
    sentence: str
    defocus_um: float
    sigma_um: float
    patches: PatchMap
    model: str = ""

    def figures(self) -> dict[str, float]:
        """Its numbers by name."""
        return {"defocus_um": self.defocus_um, "sigma_um": self.sigma_um}

    @property
    def grid(self) -> PatchGrid:
        """Where the patches lie."""
        return self.patches.grid

    @property
    def informative(self) -> Mask:
        """(N,) the patches that were asked."""
        return self.patches.informative

    @property
    def patches_used(self) -> int:
        """Patches that were asked."""
        return int(self.patches.informative.sum())


@dataclass(frozen=True)
class Calibration:
    """What evaluation found out about a model's own sigma.

    `patch_scale` multiplies a patch's. A frame's joins, as root of the sum of squares, `floor_um` (the error that
    all its patches share), `patch_share` of its patches' typical sigma, `spread_share` of the standard error of
    their median, and `thick_share` of how thick the specimen looks.
    """

    range_um: float
    patch_scale: float = 1.0
    floor_um: float = 0.0
    patch_share: float = 0.0
    spread_share: float = 1.0
    thick_share: float = 0.0


@dataclass(frozen=True)
class Answers:
    """What a network said of the patches it was asked about, all (K,).

    `above` is the probability that the objective is too far, `distance_um` the distance to focus whatever the
    side, `thickness_um` how far the specimen's layers lie apart; None where the model does not say.
    """

    defocus_um: Floats
    sigma_um: Floats
    above: Floats | None = None
    distance_um: Floats | None = None
    thickness_um: Floats | None = None


@dataclass(frozen=True)
class Levelled:
    """The asked patches' answers, freed from the slope of a tilted slide.

    `centre_um` is in the middle of the grid, `level_um` (K,) are the answers without the slope, `weights` (K,) are
    1/sigma^2, `sigma_um` (K,) the patches' own, scaled, and `parts` what `sigma_parts` makes of them all and how
    thick the specimen looks, um.
    """

    centre_um: float
    level_um: Floats
    weights: Floats
    sigma_um: Floats
    parts: tuple[float, float, float]


def refuse(verdict: Verdict, sentence: str, grid: PatchGrid, informative: Mask | None = None) -> DefocusEstimate:
    """An answer without a number."""
    nothing = np.full(grid.count, np.nan, np.float32)
    mask = informative if informative is not None else np.zeros(grid.count, bool)
    return DefocusEstimate(verdict, sentence, float("nan"), float("nan"), PatchMap(grid, mask, nothing, nothing))


def fuse(
    answers: Answers, informative: Mask, grid: PatchGrid, calibration: Calibration, model: str
) -> DefocusEstimate:
    """Combine the asked patches' answers into one, for the middle of the grid.

    Args:
        answers: Of the K patches that were asked.
        informative: (N,) which patches of the grid these are; K of them are True.
        grid: Where the patches lie.
        calibration: Of the model.
        model: Its name, for the record.

    The centre is a median weighted by 1/sigma^2, freed from the slope of a tilted slide (`centre_of`): a few wrong
    patches do not move it.
    """
    flat = levelled(answers, informative, grid, calibration)
    sigma = _sigma_of_frame(flat.parts, calibration)
    verdict, sentence, centre = _judge(answers, flat, sigma, calibration.range_um)
    if verdict is Verdict.SIGN_UNCERTAIN:
        sigma = _sigma_of_distance(_distances(answers) - centre, flat.weights, calibration)
    full_defocus = np.full(grid.count, np.nan, np.float32)
    full_sigma = full_defocus.copy()
    full_defocus[informative], full_sigma[informative] = answers.defocus_um, flat.sigma_um
    return DefocusEstimate(
        verdict, sentence, centre, sigma, PatchMap(grid, informative, full_defocus, full_sigma), model
    )


def levelled(answers: Answers, informative: Mask, grid: PatchGrid, calibration: Calibration) -> Levelled:
    """Find the centre of the K asked patches, and what its sigma is made of. Arguments as `fuse`."""
    sigma_um = answers.sigma_um * np.float32(calibration.patch_scale)
    unit = calibration.range_um / 10
    weights = np.asarray(1.0 / np.maximum(sigma_um, 0.05 * unit) ** 2, np.float32)
    places = places_of(informative, grid)
    centre, slopes = centre_of(answers.defocus_um, weights, places, 0.05 * unit)
    level = answers.defocus_um - places @ slopes
    typical, error = sigma_parts(np.asarray(np.abs(level - centre), np.float32), weights, sigma_um)
    thick = 0.0 if answers.thickness_um is None else max(float(np.quantile(answers.thickness_um, _THICKER)), 0.0)
    parts = typical, error, thick
    return Levelled(centre, np.asarray(level, np.float32), weights, sigma_um, parts)


def places_of(informative: Mask, grid: PatchGrid) -> Floats:
    """Where the asked patches lie, across and down, (K, 2): -1 to 1 over the longer side of the grid."""
    index = np.flatnonzero(informative)
    half = max(grid.rows, grid.columns) / 2
    across = index % grid.columns - (grid.columns - 1) / 2
    down = index // grid.columns - (grid.rows - 1) / 2
    return np.asarray(np.stack([across, down], axis=1) / half, np.float32)


def centre_of(
    values: Floats, weights: Floats, places: Floats, soft: float, held: float = _LEVEL
) -> tuple[float, NDArray[np.float64]]:
    """The level in the middle and the slopes (2,) of the plane through the values with the least absolute error.

    Iteratively reweighted least squares, the absolute error being soft within `soft`. The slopes are held towards
    zero, by `held` and the more so the less of the grid the patches cover; with six patches or fewer the plane is
    level.
    """
    level, slopes = weighted_median(values, weights), np.zeros(2)
    if len(values) <= _FEW:
        return level, slopes
    design = np.concatenate([np.ones((len(values), 1)), places], axis=1)
    for _ in range(_ROUNDS):
        pull = weights / np.maximum(np.abs(values - level - places @ slopes), soft)
        normal = (design * pull[:, None]).T @ design
        normal[1, 1] += held * pull.sum()
        normal[2, 2] += held * pull.sum()
        level, *tilt = np.linalg.solve(normal, design.T @ (pull * values)).tolist()
        slopes = np.asarray(tilt)
    return float(level), slopes


def level_um(patches: PatchMap) -> float:
    """The defocus in the middle of the frame, freed from the whole tilt of the slide.

    A frame's own estimate trusts a tilt only so far. Its patches weigh the more the nearer to focus they are, so
    that it reads some 0.6 % short of the way where the slide is tilted by 1 um: little for focusing, not for a ruler.
    """
    asked = np.isfinite(patches.defocus_um)
    values, sigma_um = patches.defocus_um[asked], patches.sigma_um[asked]
    level, _ = centre_of(
        values, np.asarray(1 / sigma_um**2, np.float32), places_of(asked, patches.grid), _SOFT_UM, held=_FREE
    )
    return level


def weighted_median(values: Floats, weights: Floats) -> float:
    """The value below which half of the weight lies, interpolated between its neighbours."""
    order = np.argsort(values)
    mass = np.cumsum(weights[order])
    middle = mass - 0.5 * weights[order]
    return float(np.interp(0.5 * mass[-1], middle, values[order]))


def sigma_parts(distance_um: Floats, weights: Floats, sigma_um: Floats) -> tuple[float, float]:
    """What a frame's sigma is made of, um: its patches' typical sigma, and the standard error of their median.

    Args:
        distance_um: (K,) of the patches' answers from the centre.
        weights: (K,) of the patches.
        sigma_um: (K,) the patches' own, scaled.
    """
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    spread = 1.4826 * weighted_median(distance_um, weights)
    typical = float((weights @ sigma_um) / weights.sum())
    error = 1.25 * max(spread, 0.5 * typical) / effective**0.5
    return typical, error


def _sigma_of_frame(parts: tuple[float, float, float], calibration: Calibration) -> float:
    shares = (calibration.floor_um, calibration.patch_share, calibration.spread_share, calibration.thick_share)
    return float(np.sqrt(np.square(np.array([1.0, *parts]) * shares).sum()))


def _sigma_of_distance(residual_um: Floats, weights: Floats, calibration: Calibration) -> float:
    """Of a distance whose side does not show: floor and spread alone, for the patches' sigma doubts the side."""
    _, error = sigma_parts(np.abs(residual_um), weights, np.zeros_like(weights))
    return math.hypot(calibration.floor_um, calibration.spread_share * error)


def _distances(answers: Answers) -> Floats:
    """(K,) to focus, whatever the side."""
    return np.abs(answers.defocus_um) if answers.distance_um is None else answers.distance_um


def _judge(answers: Answers, flat: Levelled, sigma: float, range_um: float) -> tuple[Verdict, str, float]:
    unit, centre, values = range_um / 10, flat.centre_um, flat.level_um
    size, above = _distance(answers, flat.weights)
    tolerance = np.maximum(3 * flat.sigma_um, _AGREE * unit + 0.15 * size)
    agreeing = float((np.abs(values - centre) <= tolerance).mean())
    near, minority = _NEAR, _MINORITY
    if answers.above is None:
        near, minority = _NEAR_WITHOUT_SIDE, _MINORITY_WITHOUT_SIDE
    one_size = float((np.abs(_distances(answers) - size) <= tolerance).mean()) > 0.6
    if size > near * unit and min(above, 1 - above) > minority and one_size:
        return (
            Verdict.SIGN_UNCERTAIN,
            f"about {size:.1f} um away, but on which side does not show",
            size,
        )
    if abs(centre) + 2 * sigma > _OUTSIDE * range_um:
        side = "above" if centre > 0 else "below"
        return (
            Verdict.OUT_OF_RANGE,
            f"perhaps farther {side} focus than the model knows (+-{range_um:.0f} um)",
            centre,
        )
    if len(values) > 2 and agreeing < 0.5:
        return (
            Verdict.DISAGREEMENT,
            f"only {agreeing:.0%} of the patches agree; the specimen may be thick",
            centre,
        )
    return Verdict.OK, "", centre


def _distance(answers: Answers, weights: Floats) -> tuple[float, float]:
    """The distance to focus whatever the side, um, and the share of opinion that it is above."""
    if answers.above is None or answers.distance_um is None:
        size = weighted_median(np.abs(answers.defocus_um), weights)
        return size, float(weights[answers.defocus_um > 0].sum() / weights.sum())
    above = float((weights @ answers.above) / weights.sum())
    return max(float(np.median(answers.distance_um)), 0.0), above
