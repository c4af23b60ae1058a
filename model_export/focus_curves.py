"""Scores against defocus for many specimens: how alike the curves of the network are, and of the classical measures.

After the paper's Table 1. Every curve runs from 0 (sharpest) to 1; each specimen's own, between its least and its
largest value. `sd` is the standard deviation over the specimens, averaged over the slices within `SD_UM` of focus. A
curve that is flat but for a peak has little of it and says nothing about distance; so `sd_um` is that deviation in um
of distance from focus, by the slope of the mean curve, in the median slice;
`entropy_bits` is H(z | score) of all slices, from a histogram of `Z_BINS` (one for each slice) by `SCORE_BINS` cells:
with no knowledge at all it is log2 of `Z_BINS`, and a score that knows all but the side leaves 1 bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.measures import MEASURES
from edge_app.model import Model
from edge_app.patches import PatchGrid, content
from model_export.flat_world import FlatWorld

SHORT = {
    "HPF": "high_pass_energy",
    "Tenengrad": "tenengrad",
    "LAPV": "laplacian_variance",
    "EWC": "wavelet_energy",
    "SML": "modified_laplacian",
    "WS": "wavelet_sparsity",
}
"""The measures of the paper's Table 1."""
NETWORK, AS_IT_IS = "DeepFocus", "DeepFocus, one scale for all"
SMOOTHED = "{}, smoothed"
RANGE_UM, STEP_UM, SD_UM = 120.0, 6.0, 50.0
Z_BINS, SCORE_BINS = 41, 32
FIELD_PX = 384
_ENDS = (-RANGE_UM - STEP_UM / 2, RANGE_UM + STEP_UM / 2)
_FEWEST = 3
_LEAST_SLOPE = 1e-9
Doubles = NDArray[np.float64]


def curves(
    model: Model, objective: str, specimens: int, tick: Callable[[], None], seed: int = 62
) -> tuple[Doubles, dict[str, Doubles]]:
    """Score and measures of so many specimens that show something, (S, Z) by name, at (Z,) defocus values, um.

    Measures are turned round, so that all are least in focus; they see the whole field, as it is and after a Gaussian
    of one pixel. The network's is the median over the windows that show something in focus.
    """
    z_um = np.arange(-RANGE_UM, RANGE_UM + STEP_UM / 2, STEP_UM)
    found: list[dict[str, Doubles]] = []
    index = 0
    while len(found) < specimens:
        world = FlatWorld(objective, index, seed, FIELD_PX, RANGE_UM)
        one = _specimen(model, list(world.photographs(z_um)), int(np.abs(z_um).argmin()))
        index += 1
        if one is not None:
            found.append(one)
            tick()
    return z_um, {name: np.stack([one[name] for one in found]) for name in found[0]}


def _specimen(model: Model, frames: list[NDArray[np.uint8]], sharpest: int) -> dict[str, Doubles] | None:
    """All curves of one specimen, (Z,) each; None where too little is to be seen."""
    grid = PatchGrid.fit(FIELD_PX, FIELD_PX, model.patch_px)
    shows = content(frames[sharpest], grid, model.min_contrast).informative
    if shows.sum() < _FEWEST:
        return None
    made = {NETWORK: np.array([np.median(model.infer(grid.cut(frame, shows))["blur"]) for frame in frames])}
    grey = np.stack([frame[..., 1] for frame in frames]).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(plane, (0, 0), 1.0) for plane in grey])
    for short, name in SHORT.items():
        made[short] = -MEASURES[name](grey)
        made[SMOOTHED.format(short)] = -MEASURES[name](smooth)
    return made


def table(z_um: Doubles, curves_of: dict[str, Doubles]) -> dict[str, dict[str, float]]:
    """The figures of each: `sd`, `sd_um`, `entropy_bits` and `off_um`, how far its least value lies from focus."""
    scaled = {name: each_scaled(values) for name, values in curves_of.items()}
    scaled[AS_IT_IS] = _together(curves_of[NETWORK])
    near = np.abs(z_um) <= SD_UM
    told = {}
    for name, values in scaled.items():
        told[name] = {
            "sd": round(float(values.std(axis=0)[near].mean()), 4),
            "sd_um": round(_in_um(z_um, values, near), 2),
            "entropy_bits": round(entropy_bits(z_um, values), 3),
            "off_um": round(float(np.abs(z_um[values.argmin(axis=1)]).mean()), 2),
        }
    return dict(sorted(told.items(), key=lambda item: item[1]["sd"]))


def _in_um(z_um: Doubles, values: Doubles, near: NDArray[np.bool_]) -> float:
    """Median over the slices of the standard deviation divided by the slope of the mean curve."""
    slope = np.abs(np.gradient(values.mean(axis=0), z_um))
    return float(np.median((values.std(axis=0) / np.maximum(slope, _LEAST_SLOPE))[near]))


def entropy_bits(z_um: Doubles, values: Doubles) -> float:
    """H(z | score) over all specimens and slices, in bits; (S, Z) scores of 0 to 1."""
    z = np.broadcast_to(z_um, values.shape).ravel()
    cells, _, _ = np.histogram2d(z, values.ravel(), bins=(Z_BINS, SCORE_BINS), range=(_ENDS, (0.0, 1.0 + 1e-9)))
    share = cells / cells.sum()
    given = np.broadcast_to(share.sum(axis=0), share.shape)
    some = share > 0
    return float(-(share[some] * np.log2(share[some] / given[some])).sum())


def each_scaled(values: Doubles) -> Doubles:
    """Every curve between its own least and largest value."""
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    return np.asarray((values - low) / np.maximum(high - low, 1e-12), np.float64)


def _together(values: Doubles) -> Doubles:
    """All curves on one scale: between the least and the largest value of their mean."""
    mean = values.mean(axis=0)
    return np.asarray(np.clip((values - mean.min()) / (mean.max() - mean.min()), 0.0, 1.0), np.float64)


def summary(z_um: Doubles, curves_of: dict[str, Doubles]) -> dict[str, Any]:
    """The table with what it was made of."""
    bins = {"z_bins": Z_BINS, "z_bin_um": STEP_UM, "score_bins": SCORE_BINS}
    return {"specimens": len(curves_of[NETWORK]), "step_um": STEP_UM, **bins, "table": table(z_um, curves_of)}
