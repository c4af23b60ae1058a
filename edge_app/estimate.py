"""DefocusEstimate: many patches' opinions become one number that says how far it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from edge_app.patches import Content, PatchGrid

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
_OUTSIDE = 1.15
_AGREE_UM = 0.75
_MINORITY = 0.25


class Verdict(Enum):
    """What an answer is worth; everything but OK comes with a sentence."""

    OK = "ok"
    NO_CONTENT = "no content"
    TOO_DARK = "too dark"
    SATURATED = "saturated"
    OUT_OF_RANGE = "out of range"
    DISAGREEMENT = "disagreement"
    SIGN_UNCERTAIN = "sign uncertain"
    STALE_FRAME = "stale frame"
    WRONG_OPTICS = "wrong optics"
    OPTICS_UNKNOWN = "optics unknown"


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

    @property
    def patches_used(self) -> int:
        """Patches that were asked."""
        return int(self.patches.informative.sum())


@dataclass(frozen=True)
class Calibration:
    """What evaluation found out about a model's own sigma.

    `patch_scale` multiplies it; `frame_floor_um` is the error that all patches of a frame share.
    """

    range_um: float
    patch_scale: float = 1.0
    frame_floor_um: float = 0.0


def refuse(verdict: Verdict, sentence: str, grid: PatchGrid, informative: Mask | None = None) -> DefocusEstimate:
    """An answer without a number."""
    nothing = np.full(grid.count, np.nan, np.float32)
    mask = informative if informative is not None else np.zeros(grid.count, bool)
    return DefocusEstimate(verdict, sentence, float("nan"), float("nan"), PatchMap(grid, mask, nothing, nothing))


def screen(seen: Content, grid: PatchGrid) -> DefocusEstimate | None:
    """Refuse a frame that no network needs to look at; None if there is something to ask about."""
    if seen.informative.any():
        return None
    if (seen.saturated >= 0.5).mean() > 0.5:
        return refuse(Verdict.SATURATED, "most of the frame is blown out; shorten the exposure or dim the lamp", grid)
    if float(np.median(seen.brightness)) <= 12.0:
        return refuse(Verdict.TOO_DARK, "the frame is nearly black; switch on the lamp or lengthen the exposure", grid)
    return refuse(Verdict.NO_CONTENT, "no patch shows any structure; move the slide to a place with specimen", grid)


def fuse(
    defocus_um: Floats,
    sigma_um: Floats,
    informative: Mask,
    grid: PatchGrid,
    calibration: Calibration,
    model: str,
) -> DefocusEstimate:
    """Combine the informative patches' answers into one.

    Args:
        defocus_um: (K,) answers of the informative patches, um.
        sigma_um: (K,) their own standard deviations, um.
        informative: (N,) which patches of the grid were asked; K of them are True.
        grid: Where the patches lie.
        calibration: Of the model.
        model: Its name, for the record.

    The centre is a median weighted by 1/sigma^2 (a tilted slide and a few wrong patches do not move it); its
    uncertainty joins the patches' spread over sqrt(K) and the error that a frame's patches share.
    """
    sigma_um = sigma_um * np.float32(calibration.patch_scale)
    weights = np.asarray(1.0 / np.maximum(sigma_um, 0.05) ** 2, np.float32)
    centre = weighted_median(defocus_um, weights)
    distance = np.abs(defocus_um - centre)
    spread = 1.4826 * weighted_median(distance, weights)
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    sigma = float(
        np.hypot(calibration.frame_floor_um, 1.25 * max(spread, float(np.median(sigma_um)) * 0.5) / effective**0.5)
    )
    verdict, sentence, centre = _judge(defocus_um, sigma_um, weights, centre, sigma, calibration.range_um)
    full_defocus = np.full(grid.count, np.nan, np.float32)
    full_sigma = full_defocus.copy()
    full_defocus[informative], full_sigma[informative] = defocus_um, sigma_um
    return DefocusEstimate(
        verdict, sentence, centre, sigma, PatchMap(grid, informative, full_defocus, full_sigma), model
    )


def weighted_median(values: Floats, weights: Floats) -> float:
    """The value below which half of the weight lies, interpolated between its neighbours."""
    order = np.argsort(values)
    mass = np.cumsum(weights[order])
    middle = mass - 0.5 * weights[order]
    return float(np.interp(0.5 * mass[-1], middle, values[order]))


def _judge(
    defocus_um: Floats, sigma_um: Floats, weights: Floats, centre: float, sigma: float, range_um: float
) -> tuple[Verdict, str, float]:
    size = weighted_median(np.abs(defocus_um), weights)
    positive = float(weights[defocus_um > 0].sum() / weights.sum())
    tolerance = np.maximum(3 * sigma_um, _AGREE_UM + 0.15 * size)
    agreeing = float((np.abs(defocus_um - centre) <= tolerance).mean())
    same_size = float((np.abs(np.abs(defocus_um) - size) <= tolerance).mean())
    if size > 1.5 and min(positive, 1 - positive) > _MINORITY and same_size > 0.6:
        return (
            Verdict.SIGN_UNCERTAIN,
            f"about {size:.1f} um away, but the patches do not agree on the side",
            size,
        )
    if abs(centre) + 2 * sigma > _OUTSIDE * range_um:
        side = "above" if centre > 0 else "below"
        return (
            Verdict.OUT_OF_RANGE,
            f"perhaps farther {side} focus than the model knows (+-{range_um:.0f} um)",
            centre,
        )
    if len(defocus_um) > 2 and agreeing < 0.5:
        return (
            Verdict.DISAGREEMENT,
            f"only {agreeing:.0%} of the patches agree; the specimen may be thick",
            centre,
        )
    return Verdict.OK, "", centre
