"""The picture of `demo-ota`: a lane for each board, its jobs over time, the versions as colours, and what happened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLOURS = ("#4d6f8f", "#1b7837", "#b2182b", "#d9a400", "#6a3d9a")
_BAND, _LINE, _WORD = "#e3f1e3", "#a0a0a0", "#222222"
_LEAST, _MOST = 0.005, 20.0
_ROWS, _LATE = 5, 0.72
Row = dict[str, Any]


def draw(jobs: dict[str, list[Row]], events: Sequence[Row], path: Path) -> None:
    """Draw the story.

    Args:
        jobs: By board: `at_s`, `model`, `end` (true defocus at the end, in depths of field), `in_focus`.
        events: `at_s`, `who`, `what`, `version`.
        path: The PNG file.
    """
    labels = sorted({job["model"] for of in jobs.values() for job in of if job["model"]}, key=_order)
    colours = {label: _COLOURS[index % len(_COLOURS)] for index, label in enumerate(labels)}
    end_s = max([job["at_s"] for of in jobs.values() for job in of] + [event["at_s"] for event in events], default=1.0)
    figure = Figure(figsize=(13.0, 1.6 + 3.7 * len(jobs)), layout="constrained")
    FigureCanvasAgg(figure)
    publisher, *lanes = figure.subplots(1 + len(jobs), 1, sharex=True, height_ratios=[1.3] + [3.7] * len(jobs))
    _marks(publisher, [event for event in events if event["who"] not in jobs], end_s, 0.86, 0.2)
    publisher.set(ylim=(0, 1), yticks=[], ylabel="publisher", xlim=(0, 1.02 * end_s))
    for axes, (board, of) in zip(lanes, jobs.items(), strict=True):
        _lane(axes, board, of, colours)
        _marks(axes, [event for event in events if event["who"] == board], end_s, 0.95, 0.065)
    lanes[-1].set_xlabel("seconds since the story began")
    figure.suptitle(
        "How far from true focus each job ended; the bar below is the version that serves, and "
        "the green band is half a depth of field",
        fontsize=11,
    )
    figure.savefig(path, dpi=130)


def spans(jobs: Sequence[Row]) -> list[tuple[float, float, str]]:
    """From when to when each model answered, as (begin, end, model); jobs that no model answered are passed over."""
    found: list[tuple[float, float, str]] = []
    for job in jobs:
        if not job["model"]:
            continue
        begin_s = found[-1][1] if found else job["at_s"]
        if found and found[-1][2] == job["model"]:
            begin_s = found.pop()[0]
        found.append((begin_s, job["at_s"], job["model"]))
    return found


def _lane(axes: Axes, board: str, jobs: Sequence[Row], colours: dict[str, str]) -> None:
    """One board: its jobs as points over its versions as a bar."""
    axes.axhspan(_LEAST, 0.5, color=_BAND, zorder=0)
    for begins_s, ends_s, label in spans(jobs):
        axes.axvspan(begins_s, ends_s, ymin=0.0, ymax=0.045, color=colours[label], zorder=1)
    for label, colour in colours.items():
        for good, marker, size in ((True, "o", 20), (False, "x", 46)):
            of = [job for job in jobs if job["model"] == label and job["in_focus"] is good]
            if of:
                ends = [min(max(abs(job["end"]), 1.6 * _LEAST), _MOST) for job in of]
                told = f"{label.partition('@')[2]}: {len(of)} {'say' if good else 'do not say'} in focus"
                axes.scatter(
                    [job["at_s"] for job in of], ends, s=size, color=colour, marker=marker, zorder=3, label=told
                )
    axes.set(yscale="log", ylim=(_LEAST, 3e3), ylabel=f"{board}\n(depths of field)")
    axes.set_yticks([0.01, 0.1, 1.0, 10.0], ["0.01", "0.1", "1", "10"])
    axes.minorticks_off()
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False, title="jobs")


def _marks(axes: Axes, events: Sequence[Row], end_s: float, top: float, step: float) -> None:
    """A line where something happened, with words that take turns in height, as shares of the lane's."""
    for number, event in enumerate(events):
        version, late = event["version"].partition("@")[2], event["at_s"] > _LATE * end_s
        axes.axvline(event["at_s"], color=_LINE, linewidth=0.8, zorder=1)
        axes.annotate(
            f"{event['what']}{f': {version}' if version else ''}",
            (event["at_s"], top - step * (number % _ROWS)),
            xycoords=("data", "axes fraction"),
            xytext=(-3 if late else 3, 0),
            textcoords="offset points",
            ha="right" if late else "left",
            va="center",
            fontsize=8,
            color=_WORD,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
            zorder=4,
        )


def _order(label: str) -> tuple[int, ...]:
    return tuple(int(part) for part in label.partition("@")[2].split("."))
