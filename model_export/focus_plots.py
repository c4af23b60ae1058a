"""Pictures of DeepFocus's trials: curves of many specimens, error against images, where jobs began and ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model_export.flat_world import MODALITIES
from model_export.focus_curves import NETWORK, SHORT, each_scaled
from model_export.focus_images import FEWEST, Errors
from model_export.focus_trials import Job

Doubles = NDArray[np.float64]
_DPI = 110


def draw_curves(z_um: Doubles, curves_of: dict[str, Doubles], folder: Path) -> Path:
    """b(z) of all specimens by method, each between its own least and largest value."""
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    axes = figure.subplots(2, 4, sharex=True, sharey=True).ravel()
    for place, name in zip(axes, (NETWORK, *SHORT), strict=False):
        values = each_scaled(curves_of[name])
        place.plot(z_um, values.T, color="0.6", linewidth=0.3, alpha=0.5)
        place.plot(z_um, values.mean(axis=0), color="tab:blue")
        place.set_title(name, fontsize=10)
    for place in axes[len(SHORT) + 1 :]:
        place.set_axis_off()
    figure.supxlabel("defocus, um")
    figure.supylabel("score, 0 to 1 for each specimen")
    return _saved(figure, folder / "deepfocus_curves.png")


def draw_images(told: Errors, objective: str, folder: Path) -> Path:
    """Mean error after each image, by method."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, jobs in told.items():
        values = np.array(jobs)
        images = FEWEST + np.arange(values.shape[1])
        axes.plot(images, values.mean(axis=0), marker="o", label=f"{name}, mean")
        axes.plot(images, np.median(values, axis=0), linestyle=":", color=axes.lines[-1].get_color())
    axes.set(xlabel="images", ylabel="|error|, um (dotted: median)", yscale="log", title=objective)
    axes.legend()
    axes.grid(alpha=0.3)
    return _saved(figure, folder / "deepfocus_images.png")


def draw_jobs(jobs: list[Job], objective: str, folder: Path) -> Path:
    """Where each job ended, against where it began."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in MODALITIES:
        some = [job for job in jobs if job.modality == name and not job.verdict]
        axes.scatter([job.start_um for job in some], [job.final_um for job in some], s=12, label=name)
    axes.set(xlabel="start, um from focus", ylabel="|error| at the end, um", title=objective)
    axes.legend()
    return _saved(figure, folder / f"deepfocus_accuracy_{objective.partition('/')[0]}.png")


def _saved(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
    return path
