"""Curve picture: a focus curve with its points, its fit and its width."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_app.curve import FocusCurve


def draw(curve: FocusCurve, path: Path) -> None:
    """Draw a curve.

    Args:
        curve: What was recorded.
        path: Where to write; the suffix gives the format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    z_um = np.linspace(curve.z_um[0], curve.z_um[-1], 400)
    half = curve.fitted.base + curve.fitted.height / 2
    left_um = curve.fitted.centre_um - curve.width_um / 2
    axes.plot(z_um, curve.fitted.at(z_um), color="0.6", linewidth=4, label=f"Moffat fit, R² {curve.explained:.3f}")
    axes.plot(z_um, curve.at_um(z_um), color="C0", linewidth=1, label="what few_shot goes by")
    axes.plot(curve.z_um, curve.score, "o", color="C0", markersize=4, label="slices, median over the patches")
    axes.hlines(half, left_um, left_um + curve.width_um, color="C3", label=f"width {curve.width_um:.2f} µm")
    axes.axvline(0, color="0.8", linewidth=1, zorder=0)
    for side in (-1, 1):
        axes.axvline(side * curve.bracket_um, color="0.8", linewidth=1, linestyle=":", zorder=0)
    axes.set_xlabel("distance from focus (µm); positive: objective too far; dotted: the first looks to both sides")
    axes.set_ylabel("blur score")
    axes.set_title(f"{curve.objective}, {curve.model}, {curve.at}", fontsize=10)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
