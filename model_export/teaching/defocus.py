"""The task `defocus` as it is learnt: signed defocus in um and its sigma, patch by patch, fused over frames."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.table import Table as Rows

from edge_app.bundle import Calibrations, Manifest
from model_export.calibrate import calibrate_recipe
from model_export.card import cell
from model_export.conditions import Conditions, Range, SlideTable
from model_export.defocus_card import sections
from model_export.evaluate import answer_set, load_set, score
from model_export.frames import Subject
from model_export.passport import check_sets, passport_of
from model_export.recipe import Recipe, Table
from model_export.synthesis import Specimen, specimen_tiles
from model_export.teaching import Asked, Figures, Made, Measured, Progress

if TYPE_CHECKING:
    from torch import Tensor

    from edge_app.passport import Passport

TRUTHS = ("thickness", "z")
TURNS = True
Objective = Table
_COLUMNS = {
    "mae_um": "mean, um",
    "median_um": "median",
    "p95_um": "p95",
    "sign": "sign",
    "coverage_68": "68 %",
    "coverage_95": "95 %",
}
_OF_FRAMES = ("tilt_um", "field_curvature_um", "vignetting", "blank_at_least")
_GOLDEN_TILES = 3


class Data(Table):
    """How many specimens, how large a tile of each, and at which defocus.

    Depths are drawn over 1.2 x `range_um`, more of them near focus; `far_share` of the specimens are seen at
    `range_um` to `far_um`. Patches below `min_contrast` are left out.
    """

    range_um: float = Field(gt=0)
    far_um: float
    far_share: float
    tile_px: int
    depths_per_specimen: int
    train_specimens: int
    validation_specimens: int
    min_contrast: float


class Calibration(Table):
    """On how many frames sigma is calibrated: specimens, depths of each, and the frames' size.

    Where the board declares the objective's aberrations its optics come from the `middle` share of the conditions'
    ranges: training draws tolerances more widely than measured objectives differ.
    """

    specimens: int = Field(default=96, gt=0)
    depths: int = Field(default=4, gt=0)
    frame_px: tuple[int, int] = (1344, 1568)
    middle: float = Field(default=0.5, ge=0, le=1)


class Acceptance(Table):
    """What a bundle must keep on one evaluation set, or export refuses it; what is not stated is not judged.

    Errors (um) and `abstained` are at most that, `sign` (of patches), `sign_uncertain`, `blank_precision` and
    `blank_recall` at least; the frames' coverage lies within a pair of bounds. Shares are 0 to 1.
    """

    patch_mae_um: float | None = None
    frame_mae_um: float | None = None
    frame_median_um: float | None = None
    sign: float | None = None
    sign_uncertain: float | None = None
    coverage_68: Range | None = None
    coverage_95: Range | None = None
    blank_precision: float | None = None
    blank_recall: float | None = None
    abstained: float | None = None

    def missed(self, figures: Figures) -> list[str]:
        """The limits that a set's figures do not keep, each in words; a figure that is NaN or None keeps none."""
        patch, frame, blank = figures["patch"], figures["frame"], figures["blank"]
        judged = (
            ("patch_mae_um", patch["mae_um"], _at_most(self.patch_mae_um)),
            ("frame_mae_um", frame["mae_um"], _at_most(self.frame_mae_um)),
            ("frame_median_um", frame["median_um"], _at_most(self.frame_median_um)),
            ("sign", patch["sign"], _at_least(self.sign)),
            ("sign_uncertain", figures["sign_uncertain"], _at_least(self.sign_uncertain)),
            ("coverage_68", frame["coverage_68"], self.coverage_68),
            ("coverage_95", frame["coverage_95"], self.coverage_95),
            ("blank_precision", blank["precision"], _at_least(self.blank_precision)),
            ("blank_recall", blank["recall"], _at_least(self.blank_recall)),
            ("abstained", figures["abstained"], _at_most(self.abstained)),
        )
        return [_miss(name, value, bounds) for name, value, bounds in judged if bounds and not _within(value, bounds)]


def check_conditions(conditions: tuple[Conditions, ...]) -> None:
    """One contrast and one kind of camera in at least one condition, and nothing that only whole frames have."""
    if not conditions:
        raise ValueError("there are none; state at least one [[conditions]]")
    if len({each.contrast for each in conditions}) > 1:
        raise ValueError("the conditions mix brightfield and fluorescence; write one recipe for each contrast")
    if len({each.camera.monochrome for each in conditions}) > 1:
        raise ValueError("the conditions mix monochrome and colour cameras; write one recipe for each")
    for number, each in enumerate(conditions):
        for name in _OF_FRAMES:
            if getattr(each.slide, name) != SlideTable.model_fields[name].default:
                raise ValueError(
                    f"conditions.{number}.slide.{name} shapes whole frames and training would ignore it; "
                    "remove it, or state it in an evaluation set"
                )


def check_recipe(recipe: Recipe) -> None:
    """Its sets show what its passport accepts, over its range."""
    check_sets(recipe)


def make(recipe: Recipe, split: str, index: int) -> Made:
    """A specimen's tiles, or the features of its informative patches, with their defocus and thickness."""
    return made_of(recipe, specimen_tiles(recipe, split, index), index)


def made_of(recipe: Recipe, specimen: Specimen, index: int) -> Made:
    """What a shard keeps of a specimen; `z` and `thickness` are (N,) float32 in um, a row for a tile or a patch."""
    from model_export.data import reduce

    made, z_um, _ = reduce(recipe, specimen, index)
    return {**made, "z": z_um, "thickness": np.full(len(z_um), specimen.thickness_um, np.float32)}


def golden(recipe: Recipe, index: int) -> Asked:
    """The first corners of a validation specimen's first tiles that show something."""
    from model_export.data import is_informative

    side = recipe.patch_px
    corners = [tile[:side, :side] for tile in specimen_tiles(recipe, "validation", index).tiles[:_GOLDEN_TILES]]
    told = [corner for corner in corners if is_informative(corner, recipe.min_contrast)]
    return Asked(np.stack(told) if told else np.empty((0, side, side, 3), np.uint8))


def objective(answers: dict[str, Tensor], truth: dict[str, Tensor], recipe: Recipe) -> Tensor:
    """Errors, the likelihood of sigma, and what a family answers besides."""
    from model_export.objective import objective as cost

    return cost(answers, truth["z"], truth["thickness"], recipe)


def validate(recipe: Recipe, answers: Made, truth: Made) -> str:
    """Mean and median absolute error on those within the recipe's range."""
    inside = np.abs(truth["z"]) <= recipe.data.range_um
    error = np.abs(answers["defocus_um"] - truth["z"])[inside]
    return f"the mean error is {error.mean():.2f} um, the median {np.median(error):.2f} um"


def calibrate(recipe: Recipe, subject: Subject, progress: Progress) -> Calibrations:
    """Sigma, behind objectives that were measured and behind others."""
    return calibrate_recipe(recipe, subject, progress)


def passport(recipe: Recipe) -> Passport:
    """What the recipe's conditions cover."""
    return passport_of(recipe)


def facts(recipe: Recipe) -> dict[str, float]:  # noqa: ARG001 - other tasks read it
    """None: the passport and the calibration say it all."""
    return {}


def measure(
    manifest: Manifest, subject: Subject, name: str, seed: int, amount: tuple[int, int], progress: Progress
) -> Measured:
    """Score whole frames that no training has seen."""
    wanted = load_set(name)
    optics = wanted.frame_optics()
    done, (specimens, depths) = count(1), amount
    tick = lambda: progress(next(done), specimens * depths)  # noqa: E731 - a callback that counts
    answered = answer_set(wanted, subject, seed, tick, specimens, depths)
    calibration = manifest.calibration_for(optics)
    refusal = manifest.passport.check(optics)
    note = f"on the board this bundle would refuse these frames: {refusal[1]}" if refusal else ""

    def pictures(title: str, folder: Path) -> list[Path]:
        from model_export.plots import draw

        return draw(answered, calibration, title, folder)

    return Measured(score(answered, calibration), note, pictures)


def show(metrics: Mapping[str, Figures], out: Console) -> None:
    """A table of errors in um, and what was abstained on and taken for blank."""
    table = Rows("set", "|error|", *_COLUMNS.values())
    for name, figures in metrics.items():
        for unit in ("patch", "frame"):
            table.add_row(name, unit, *(cell(figures[unit][key]) for key in _COLUMNS))
    out.print(table)
    for name, figures in metrics.items():
        blank = figures["blank"]
        told = f"blank patches: precision {cell(blank['precision'])}, recall {cell(blank['recall'])}"
        unsure = f"{cell(figures['abstained'])} of the frames (SIGN_UNCERTAIN: {cell(figures['sign_uncertain'])})"
        out.print(f"{name}: abstained on {unsure}; {told}")


def card(manifest: Manifest) -> str:
    """Its optics, its errors and how its sigma is made."""
    return sections(manifest)


def _at_most(limit: float | None) -> Range | None:
    return None if limit is None else (-math.inf, limit)


def _at_least(limit: float | None) -> Range | None:
    return None if limit is None else (limit, math.inf)


def _within(value: float | None, bounds: Range) -> bool:
    return value is not None and bounds[0] <= value <= bounds[1]


def _miss(name: str, value: float | None, bounds: Range) -> str:
    low, high = bounds
    wanted = f"{low:g} to {high:g}"
    if math.isinf(low):
        wanted = f"at most {high:g}"
    elif math.isinf(high):
        wanted = f"at least {low:g}"
    return f"{name} {'not scored' if value is None else f'{value:g}'} ({wanted})"
