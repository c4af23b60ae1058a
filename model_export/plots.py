"""Pictures of an evaluation: error against z, whether sigma means what it says, and a map of one frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edge_app.estimate import Calibration
from edge_app.tasks.defocus import answers_of
from model_export.evaluate import INFORMATIVE, fused, guess
from model_export.frames import Answered

Array = NDArray[np.float64]
_LEVELS = np.linspace(0.05, 0.99, 40)


def draw(answered: list[Answered], calibration: Calibration, title: str, folder: Path) -> list[Path]:
    """Write the three pictures as PNG into a folder.

    Args:
        answered: A set's frames and a model's answers.
        calibration: Of the model.
        title: What was evaluated on what.
        folder: Made if it is not there.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"error": _error, "calibration": _calibration, "map": _map}
    paths = []
    for name, picture in pictures.items():
        figure = Figure(figsize=(9, 4.5), layout="constrained")
        picture(figure, answered, calibration)
        figure.suptitle(title)
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def _frames(answered: list[Answered], calibration: Calibration) -> tuple[Array, Array, Array]:
    """Truth, error and sigma of the frames that were answered."""
    rows = []
    for a in answered:
        estimate = fused(a, calibration)
        if estimate is not None and (a.covered > INFORMATIVE).any():
            rows.append((a.truth_um, guess(estimate) - a.truth_um, estimate.sigma_um))
    truth, error, sigma = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return truth, error, sigma


def _patches(answered: list[Answered], calibration: Calibration) -> tuple[Array, Array, Array]:
    """Truth, error and sigma of the patches that are covered."""
    parts = []
    for a in answered:
        if a.informative.any():
            counts = (a.covered > INFORMATIVE)[a.informative]
            told = answers_of(a.outputs)
            truth = a.patch_truth_um[a.informative]
            parts.append(
                np.stack([truth, told.defocus_um - truth, told.sigma_um * calibration.patch_scale])[:, counts]
            )
    truth, error, sigma = np.concatenate(parts, axis=1).astype(np.float64)
    return truth, error, sigma


def _error(figure: Figure, answered: list[Answered], calibration: Calibration) -> None:
    for axes, name, (truth, error, _) in zip(
        figure.subplots(1, 2),
        ("patches", "frames"),
        (_patches(answered, calibration), _frames(answered, calibration)),
        strict=True,
    ):
        axes.axhline(0, color="0.7", lw=0.8)
        axes.plot(truth, error, ".", ms=2 if name == "patches" else 5, alpha=0.4)
        limit = float(np.percentile(np.abs(error), 99)) * 1.2 + 1e-6
        axes.set(ylim=(-limit, limit), xlabel="true defocus, um", ylabel="error, um (99 % shown)")
        axes.set_title(f"{len(truth)} {name}, mean |error| {np.abs(error).mean():.3f} um", fontsize="medium")


def _calibration(figure: Figure, answered: list[Answered], calibration: Calibration) -> None:
    left, right = figure.subplots(1, 2)
    quantiles = _normal_quantiles(_LEVELS)
    for name, (_, error, sigma) in {
        "patches": _patches(answered, calibration),
        "frames": _frames(answered, calibration),
    }.items():
        ratio = np.abs(error) / sigma
        left.plot(_LEVELS, [(ratio <= q).mean() for q in quantiles], label=name)
        right.loglog(sigma, np.abs(error) + 1e-4, ".", ms=2 if name == "patches" else 5, alpha=0.4, label=name)
    left.plot([0, 1], [0, 1], color="0.6", lw=0.8)
    left.set(xlabel="stated share within the interval", ylabel="observed share")
    left.legend()
    right.set(xlabel="stated sigma, um", ylabel="|error|, um")
    right.axline((0.1, 0.1), (1, 1), color="0.6", lw=0.8)


def _normal_quantiles(levels: Array) -> Array:
    """How many sigmas either side hold a share of a normal distribution, by interpolating its integral."""
    x = np.linspace(0, 5, 2001)
    density = np.exp(-(x**2) / 2)
    held = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * (x[1] - x[0]))])
    return np.asarray(np.interp(levels, held / held[-1], x))


def _map(figure: Figure, answered: list[Answered], calibration: Calibration) -> None:
    """The frame with most patches asked near a third of the range: what is true, what was answered."""
    wanted = calibration.range_um / 3
    shown = max(answered, key=lambda a: float(a.informative.mean()) - abs(a.truth_um - wanted) / wanted)
    values = np.full(shown.grid.count, np.nan)
    if shown.informative.any():
        values[shown.informative] = answers_of(shown.outputs).defocus_um
    shape = (shown.grid.rows, shown.grid.columns)
    limits = (float(shown.patch_truth_um.min()) - wanted / 4, float(shown.patch_truth_um.max()) + wanted / 4)
    estimate = fused(shown, calibration)
    said = "nothing" if estimate is None else f"{estimate.defocus_um:+.2f} +- {estimate.sigma_um:.2f} um"
    titles = (f"true defocus: {shown.truth_um:+.2f} um", f"answered: {said}")
    axes: Axes
    for axes, title, image in zip(figure.subplots(1, 2), titles, (shown.patch_truth_um, values), strict=True):
        drawn = axes.imshow(image.reshape(shape), vmin=limits[0], vmax=limits[1], cmap="viridis")
        axes.set(title=title, xticks=[], yticks=[])
    figure.colorbar(drawn, ax=figure.axes, label="um", shrink=0.7)
