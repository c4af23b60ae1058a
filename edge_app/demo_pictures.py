"""The demo's three pictures: z over time, residuals, and a frame with its defocus map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from edge_app.client import Client
from edge_app.pictures import defocus_map, from_png
from edge_app.wire_answers import patch_map_from

if TYPE_CHECKING:
    from edge_app.demo import Done

_SHOWN = 7
_GREEN, _RED, _GREY, _BAND = "#1b7837", "#b2182b", "#8c8c8c", "#d9f0d3"


def draw(client: Client, done: Sequence[Done], out: Path) -> list[Path]:
    """Write z-over-time.png, residuals.png and defocus-map.png into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "z-over-time.png", out / "residuals.png", out / "defocus-map.png"]
    _z_over_time(done, paths[0])
    _residuals(done, paths[1])
    _map(client, paths[2])
    return paths


def _z_over_time(done: Sequence[Done], path: Path) -> None:
    """Distance from true focus at every look of some jobs, and what the model thought of it."""
    figure, axes = _figure(8.5, 5.0)
    depth_um = done[0].before.depth_of_field_um if done else 1.0
    axes.axhspan(-depth_um / 2, depth_um / 2, color=_BAND, label="depth of field")
    chosen = sorted((job for job in done if job.looks), key=lambda job: job.before.defocus_um)
    for job in [chosen[k] for k in np.unique(np.linspace(0, len(chosen) - 1, _SHOWN).astype(int))] if chosen else []:
        began_s = job.looks[0].estimate.captured_at_s
        times = [look.estimate.captured_at_s - began_s for look in job.looks]
        focus_z = job.looks[-1].z_um - job.after.defocus_um
        defocus = [look.z_um - focus_z for look in job.looks]
        line = axes.plot(times, defocus, "-o", markersize=4, linewidth=1.3)[0]
        judged = [k for k, look in enumerate(job.looks) if look.HasField("estimate") and look.estimate.sigma_um > 0]
        axes.errorbar(
            [times[k] for k in judged],
            [job.looks[k].estimate.defocus_um for k in judged],
            yerr=[job.looks[k].estimate.sigma_um for k in judged],
            fmt="none",
            ecolor=line.get_color(),
            capsize=3,
            alpha=0.6,
        )
    axes.set(
        xlabel="time since the first look (s)",
        ylabel="distance from true focus (µm)",
        title="Some jobs: where the objective was at each look (dots) and what the model said (bars, ±1 sigma)",
    )
    axes.title.set_fontsize(10)
    axes.legend(loc="upper right", frameon=False)
    figure.savefig(path, dpi=150)


def _residuals(done: Sequence[Done], path: Path) -> None:
    """Where every job began and where it ended, and the ends again from close by."""
    figure = Figure(figsize=(10.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    whole, close = figure.subplots(1, 2)
    depth_um = done[0].before.depth_of_field_um if done else 1.0
    groups = (
        ("content, start in range", _GREEN, [job for job in done if job.counts]),
        ("start beyond the range", _RED, [job for job in done if job.before.has_content and not job.counts]),
        ("blank field", _GREY, [job for job in done if not job.before.has_content]),
    )
    for axes in (whole, close):
        axes.axhspan(-depth_um / 2, depth_um / 2, color=_BAND, label="depth of field")
        for label, colour, jobs in groups:
            starts = [job.before.defocus_um for job in jobs]
            axes.scatter(starts, [job.after.defocus_um for job in jobs], color=colour, s=24, label=label, zorder=3)
        axes.set(xlabel="true defocus at the start (µm)", ylabel="true defocus at the end (µm)")
        axes.grid(alpha=0.25)
    reach_um = max(abs(edge) for edge in whole.get_xlim())
    whole.plot([-reach_um, reach_um], [-reach_um, reach_um], ":", color=_GREY, linewidth=1, label="left where it was")
    whole.set(xlim=(-reach_um, reach_um), ylim=(-reach_um, reach_um), title="Every job against the true focal plane")
    close.set(ylim=(-depth_um, depth_um), title="The same, within one depth of field")
    whole.legend(loc="upper left", frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def _map(client: Client, path: Path) -> None:
    """One frame of tissue out of focus, with what each patch says."""
    client.load_field(1, "tissue", 4.0)
    reply = client.measure(with_map=True, with_image=True)
    truth, patches = client.truth(), patch_map_from(reply.estimate)
    wide_px = client.describe().camera.width_px
    if patches is not None:
        said = f"{reply.estimate.defocus_um:+.2f} ± {reply.estimate.sigma_um:.2f} µm"
        title = f"One look at a tilted slide: {said}\nin truth {truth.defocus_um:+.2f} µm at the centre"
        defocus_map(from_png(reply.image_png), patches, wide_px, title, path)


def _figure(wide_in: float, high_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(wide_in, high_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()
