"""Trials: what a system does on its own ground, measured by one command; the model's name is the key."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edge_app.bundle import find
from edge_app.model import Model, open_model
from model_export import focus_curves, focus_images, focus_trials
from model_export.errors import BadRecipe
from model_export.flat_world import OBJECTIVES, FlatWorld

TRIALS = ("deepfocus",)
EXPERIMENTS = ("accuracy", "curves", "images")
CALIBRATED_DEPTHS = 12.0
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Amount:
    """How many specimens, and from how many starts each is focused."""

    specimens: int
    starts: int


def asked_for(name: str, experiment: str) -> tuple[str, ...]:
    """The experiments that were asked for; "" are all of a system's.

    Raises:
        BadRecipe: There is no such system or experiment.
    """
    if name not in TRIALS or experiment not in ("", *EXPERIMENTS):
        told = f"{', '.join(TRIALS)}; its experiments: {', '.join(EXPERIMENTS)}"
        raise BadRecipe(f"there are no trials {f'{name} {experiment}'.strip()!r}; there are: {told}")
    return (experiment,) if experiment else EXPERIMENTS


def run_all(
    name: str,
    experiment: str,
    bundle: str,
    named: list[str],
    amount: Amount,
    out: Path,
    bar: Callable[[str], AbstractContextManager[Callable[..., None]]],
) -> dict[str, Any]:
    """The experiments that were asked for, by name, each under a progress bar of its own; otherwise as `run`."""
    results = {}
    for each in asked_for(name, experiment):
        with bar(each) as update:
            results[each] = run(each, bundle, named, amount, out, update)
    return results


def run(experiment: str, bundle: str, named: list[str], amount: Amount, out: Path, update: Progress) -> Any:
    """One experiment of DeepFocus with a bundle of the task sharpness; pictures go to `out`. The figures, as JSON.

    `named` are the objectives by the beginning of their names; none stands for all, of which `curves` and `images`
    take the first.
    """
    objectives = objectives_of(named)
    model = open_model(find(bundle))
    if experiment == "curves":
        return _curves(model, objectives[0], amount.specimens, out, update)
    if experiment == "images":
        return _images(model, objectives[0], amount, out, update)
    return {name: _accuracy(model, name, amount, out, update) for name in objectives}


def _accuracy(model: Model, objective: str, amount: Amount, out: Path, update: Progress) -> dict[str, Any]:
    from model_export.focus_plots import draw_jobs

    curve = focus_trials.calibrate(model, objective, CALIBRATED_DEPTHS)
    tick = _ticks(update, amount.specimens * amount.starts)
    jobs = focus_trials.accuracy(model, objective, curve, amount.specimens, amount.starts, tick)
    picture = draw_jobs(jobs, objective, out)
    width = {"curve_width_um": round(curve.width_um, 2), "bracket_um": round(curve.bracket_um, 2)}
    return {**focus_trials.summary(jobs), **width, "depth_of_field_um": _depth_um(objective), "picture": str(picture)}


def _curves(model: Model, objective: str, specimens: int, out: Path, update: Progress) -> dict[str, Any]:
    from model_export.focus_plots import draw_curves

    z_um, found = focus_curves.curves(model, objective, specimens, _ticks(update, specimens))
    return {**focus_curves.summary(z_um, found), "picture": str(draw_curves(z_um, found, out))}


def _images(model: Model, objective: str, amount: Amount, out: Path, update: Progress) -> dict[str, Any]:
    from model_export.focus_plots import draw_images

    curve = focus_trials.calibrate(model, objective, CALIBRATED_DEPTHS)
    tick = _ticks(update, amount.specimens * amount.starts)
    told = focus_images.errors(model, objective, curve, amount.specimens, amount.starts, tick)
    return {"errors_um": focus_images.summary(told), "picture": str(draw_images(told, objective, out))}


def show(results: dict[str, Any], out: Console) -> None:
    """Print the figures of experiments by name."""
    for objective, told in results.get("accuracy", {}).items():
        _show_accuracy(objective, told, out)
    if "curves" in results:
        _show_curves(results["curves"], out)
    if "images" in results:
        _show_images(results["images"], out)


def _show_accuracy(objective: str, told: dict[str, Any], out: Console) -> None:
    depth_um = told["depth_of_field_um"]
    table = Table("", "n", "mean, um", "median", "p95", "mean, depths of field", title=objective)
    rows = {f"end, {name}": row for name, row in told["final_um"].items()}
    rows["single regions"] = told["patch_um"]
    rows.update({f"end, {images} images and a check": row for images, row in told["final_by_images_um"].items()})
    rows.update({f"pointed at after {images} images": row for images, row in told["after_images_um"].items()})
    for name, row in rows.items():
        if row["n"]:
            cells = [f"{row[key]:.3f}" for key in ("mean", "median", "p95")]
            table.add_row(name, str(row["n"]), *cells, f"{row['mean'] / depth_um:.3f}")
    out.print(table)
    out.print(f"{told['jobs']} jobs, {told['gave_up']} gave up; images taken: {told['images']}", highlight=False)
    for refusal in told["refusals"]:
        out.print(f"  {refusal}", highlight=False)


def _show_curves(figures: dict[str, Any], out: Console) -> None:
    columns = ("SD within 50 um", "the same in um", "H(z | score), bits", "least at, um off")
    table = Table("score", *columns, title=f"curves of {figures['specimens']} specimens")
    for name, row in figures["table"].items():
        cells = (f"{row['sd']:.3f}", f"{row['sd_um']:.1f}", f"{row['entropy_bits']:.2f}", f"{row['off_um']:.1f}")
        table.add_row(name, *cells)
    out.print(table)


def _show_images(figures: dict[str, Any], out: Console) -> None:
    told = figures["errors_um"]
    table = Table("images", *(f"{name}, um" for name in told), title="mean (median) error")
    for images in next(iter(told.values())):
        rows = [told[name][images] for name in told]
        table.add_row(str(images), *(f"{row['mean']:.2f} ({row['median']:.2f})" for row in rows))
    out.print(table)


def objectives_of(named: list[str]) -> list[str]:
    """The objectives that were asked for, or all; "10x" stands for the only one of that magnification."""
    chosen = [name for name in OBJECTIVES for wanted in named if name.startswith(wanted)]
    return chosen or list(OBJECTIVES)


def _depth_um(objective: str) -> float:
    return round(FlatWorld(objective, 0, 0, 128, 1.0).depth_of_field_um, 4)


def _ticks(update: Progress, total: int) -> Callable[[], None]:
    counter = itertools.count(1)
    return lambda: update(next(counter), total)
