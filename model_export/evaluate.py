"""How good a model is: whole frames of specimens and optics it never saw, by patch and by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_app.estimate import Calibration, DefocusEstimate, Verdict, fuse
from edge_app.patches import PatchGrid, content
from edge_app.tasks.defocus import sigma_of
from firmware.optics import Optics, PupilTable, Sensor, depth_of_field_um
from firmware.rendering import make_slide, render
from model_export.recipe import Recipe
from model_export.synthesis import draw_optics, draw_sensor

SETS = ("specimens", "optics", "calibration")
FRAME_PX = (1120, 1344)
Predict = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Answered:
    """One frame's truth and the raw answers of its informative patches, (K,) each."""

    truth_um: float
    defocus_um: NDArray[np.float32]
    log_sigma: NDArray[np.float32]
    informative: NDArray[np.bool_]
    grid: PatchGrid


def evaluation_frames(
    recipe: Recipe, name: str, seed: int, specimens: int, depths: int
) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Frames of one evaluation set: (true defocus um, (H, W, 3) uint8), z stratified over the range.

    `specimens`: unseen specimens behind the nominal optics. `optics`: unseen specimens, each behind its own
    unseen optics and camera. `calibration`: like `optics`, from seeds of its own.
    """
    for index in range(specimens):
        rng = np.random.default_rng([seed, 1000 + SETS.index(name), index])
        optics = Optics() if name == "specimens" else draw_optics(rng, recipe.optics)
        sensor = Sensor() if name == "specimens" else draw_sensor(rng, recipe.optics)
        kind = ("tissue", "tissue", "smear", "tissue", "sparse", "tissue")[index % 6]
        edge = recipe.data.range_um
        z = (np.arange(depths) + rng.uniform(0, 1, depths)) / depths * 2 * edge - edge
        table = PupilTable(optics, edge + 0.1)
        slide = make_slide(kind, (seed, 2000 + SETS.index(name), index), table, *FRAME_PX, margin_um=14.0)
        for k, depth in enumerate(z.tolist()):
            frame = render(slide, table, _level(depth), sensor, (seed, index, k))
            yield depth, frame.astype(np.uint8, copy=False)


def answer_all(
    predict: Predict, recipe: Recipe, name: str, seed: int, specimens: int, depths: int, progress: Progress
) -> list[Answered]:
    """Ask a model about every frame of a set; frames without content are left out."""
    answered = []
    frames = evaluation_frames(recipe, name, seed, specimens, depths)
    for done, (truth_um, rgb) in enumerate(frames, 1):
        grid = PatchGrid.fit(*rgb.shape[:2])
        informative = content(rgb, grid).informative
        if informative.any():
            answered.append(Answered(truth_um, *predict(grid.cut(rgb, informative)), informative, grid))
        progress(done, specimens * depths)
    return answered


def calibrate(answered: list[Answered], range_um: float) -> Calibration:
    """Find the patch scale and the frame floor with which 68 % of the errors lie within one sigma."""
    ratios = np.concatenate([np.abs(a.defocus_um - a.truth_um) / sigma_of(a.log_sigma) for a in answered])
    scale = float(np.percentile(ratios, 68.3))
    low, high = 0.0, 5.0
    for _ in range(30):
        floor = 0.5 * (low + high)
        estimates = [_fused(a, Calibration(range_um, scale, floor)) for a in answered]
        pairs = zip(estimates, answered, strict=True)
        covered = np.mean([abs(e.defocus_um - a.truth_um) <= e.sigma_um for e, a in pairs])
        low, high = (floor, high) if covered < 0.683 else (low, floor)
    return Calibration(range_um, scale, 0.5 * (low + high))


def score(answered: list[Answered], calibration: Calibration, depth_um: float) -> dict[str, object]:
    """The figures of a set: per patch and per frame, and how often it abstained.

    It abstains with a verdict other than OK and OUT_OF_RANGE.

    `sign` counts where |z| exceeds half a depth of field. Frames on which it abstained count with their best
    guess.
    """
    patch_truth = np.concatenate([np.full(len(a.defocus_um), a.truth_um) for a in answered])
    patch_value = np.concatenate([a.defocus_um for a in answered])
    patch_sigma = np.concatenate([sigma_of(a.log_sigma) for a in answered]) * calibration.patch_scale
    estimates = [_fused(a, calibration) for a in answered]
    truth = np.array([a.truth_um for a in answered])
    value = np.array([e.defocus_um for e in estimates])
    sigma = np.array([e.sigma_um for e in estimates])
    abstained = np.mean([e.verdict not in (Verdict.OK, Verdict.OUT_OF_RANGE) for e in estimates])
    return {
        "frames": len(answered),
        "patches": len(patch_value),
        "patch": _figures(patch_value, patch_truth, patch_sigma, depth_um),
        "frame": _figures(value, truth, sigma, depth_um),
        "abstained": round(float(abstained), 4),
    }


def nominal_depth_um(recipe: Recipe) -> float:
    """The depth of field of a recipe's nominal objective, um."""
    return depth_of_field_um(float(np.mean(recipe.optics.numerical_aperture)))


def _level(depth_um: float) -> Callable[[float, float], float]:
    return lambda _x_um, _y_um: depth_um


def _fused(answered: Answered, calibration: Calibration) -> DefocusEstimate:
    sigma = sigma_of(answered.log_sigma)
    return fuse(answered.defocus_um, sigma, answered.informative, answered.grid, calibration, "")


def _figures(
    value: NDArray[np.floating], truth: NDArray[np.floating], sigma: NDArray[np.floating], depth_um: float
) -> dict[str, float]:
    error = np.abs(value - truth)
    far = np.abs(truth) > 0.5 * depth_um
    near = np.abs(truth) <= 2.0
    figures = {
        "mae_um": error.mean(),
        "median_um": np.median(error),
        "p95_um": np.percentile(error, 95),
        "near_focus_mae_um": error[near].mean() if near.any() else float("nan"),
        "sign": (np.sign(value) == np.sign(truth))[far].mean(),
        "coverage_68": (error <= sigma).mean(),
        "coverage_95": (error <= 1.96 * sigma).mean(),
    }
    return {name: round(float(figure), 4) for name, figure in figures.items()}
