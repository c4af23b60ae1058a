"""The task `quality` as it is learnt: seven focus classes from patches and their frame's handcrafted features."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.table import Table as Rows

from edge_app.handcrafted import WIDTH, handcrafted
from edge_app.tasks.quality import INDICES, SPACING, VOTES, class_of
from edge_app.tasks.quality import spacing_um as spacing_of
from firmware.optics import depth_of_field_um
from model_export import graded, quality_card
from model_export.errors import BadRecipe
from model_export.evaluate import load_set
from model_export.passport import passport_of
from model_export.recipe import Recipe, Table
from model_export.synthesis import specimen_tiles
from model_export.teaching import Asked, Figures, Made, Measured, Progress, defocus

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from edge_app.bundle import Manifest
    from edge_app.passport import Passport
    from model_export.frames import Subject

TRUTHS = ("z",)
TURNS = True
Calibration = Table
check_conditions = defocus.check_conditions
_BEYOND = 4.5


class Data(defocus.Data):
    """As for defocus, and how far the classes' centres lie apart, in depths of field.

    Depths are drawn over +-4.5 spacings, one in every stratum, and `range_um` says what that is; `far_share` of the
    specimens are seen from there to `far_um`.
    """

    spacing_depths: float = Field(gt=0)


class Objective(Table):
    """`blend` is the share of a spacing over which one class passes into the next, in what a network should say."""

    blend: float = Field(gt=0, le=1)


class Acceptance(Table):
    """Shares at least to be right on one evaluation set, 0 to 1: of patches and of frames, at the centres."""

    patch: float | None = None
    frame: float | None = None

    def missed(self, figures: Figures) -> list[str]:
        """The limits that a set's figures do not keep, in words; a figure that is None keeps none."""
        centres = figures["centres"]
        judged = (("patch", centres["patch"], self.patch), ("frame", centres["certainty"], self.frame))
        return [
            f"{name} {'not scored' if share is None else f'{share:g}'} (at least {limit:g})"
            for name, share, limit in judged
            if limit is not None and (share is None or share < limit)
        ]


def check_recipe(recipe: Recipe) -> None:
    """Its sets show what its passport accepts, and its range is that of its classes."""
    if abs(recipe.data.range_um - _BEYOND * spacing_um(recipe)) > 0.01:
        what = f"recipe {recipe.name}: data.range_um is {recipe.data.range_um:g}"
        raise BadRecipe(f"{what}; {_BEYOND:g} spacings are {_BEYOND * spacing_um(recipe):.2f} um: state that")
    for wanted in map(load_set, recipe.sets):
        refusal = passport(recipe).check(wanted.frame_optics())
        if refusal:
            what = f"recipe {recipe.name}: its bundle could not be judged on the set {wanted.name!r}: {refusal[1]}"
            raise BadRecipe(f"{what}. Name sets of the recipe's own microscope")


def spacing_um(recipe: Recipe) -> float:
    """How far the classes' centres lie apart behind the objective that the recipe's conditions are about, um."""
    aperture = round(float(np.mean(recipe.conditions[0].optics.numerical_aperture)), 4)
    return float(recipe.data.spacing_depths) * depth_of_field_um(aperture)


def draw_depths(rng: np.random.Generator, data: defocus.Data) -> NDArray[np.float64]:
    """Defocus values for one specimen, um: one in every stratum of +-4.5 spacings, or all beyond."""
    many = data.depths_per_specimen
    if rng.uniform() < data.far_share:
        return rng.choice([-1.0, 1.0], many) * rng.uniform(data.range_um, data.far_um, many)
    return ((np.arange(many) + rng.uniform(0, 1, many)) / many * 2 - 1) * data.range_um


def make(recipe: Recipe, split: str, index: int) -> Made:
    """The features of a specimen's informative patches and of their tiles, and their defocus, um."""
    from model_export.data import reduce

    specimen = specimen_tiles(recipe, split, index, draw_depths)
    made, z_um, tile = reduce(recipe, specimen, index)
    frames = np.stack([handcrafted(seen) for seen in specimen.tiles])
    return {**made, "also.handcrafted": frames[tile], "z": z_um}


def golden(recipe: Recipe, index: int) -> Asked:
    """The first corner that shows something of every other validation specimen: a bundle is to stay under 2 MB."""
    from model_export.data import is_informative

    side = recipe.patch_px
    told = []
    if index % 2 == 0:
        tiles = specimen_tiles(recipe, "validation", index, draw_depths).tiles
        told = [tile for tile in tiles if is_informative(tile[:side, :side], recipe.min_contrast)][:1]
    frames = np.array([handcrafted(tile) for tile in told], np.float32).reshape(-1, WIDTH)
    counts = np.array([tile[:side, :side] for tile in told], np.uint8).reshape(-1, side, side, 3)
    return Asked(counts, {"handcrafted": frames})


def objective(answers: dict[str, Tensor], truth: dict[str, Tensor], recipe: Recipe) -> Tensor:
    """Cross-entropy with classes that pass into each other linearly, `blend` of a spacing wide, at their edges."""
    import torch

    wanted = torch.stack(_shares(truth["z"] / spacing_um(recipe), recipe.objective.blend), dim=1)
    return -(wanted * torch.log_softmax(answers["logits"], dim=1)).sum(dim=1).mean()


def _shares(z: Tensor, blend: float) -> list[Tensor]:
    """How much each class has of defocus in spacings, (N,) each, in the order of INDICES."""
    above = [((z - (index - 0.5)) / blend + 0.5).clamp(0.0, 1.0) for index in INDICES]
    between = [one - other for one, other in zip(above[1:], above, strict=False)]
    return [above[0] + 1.0 - above[-1], *between]


def validate(recipe: Recipe, answers: Made, truth: Made) -> str:
    """How many are told their class, and how many of those near a centre."""
    z = truth["z"] / spacing_um(recipe)
    right = class_of(z) == np.argmax(answers["logits"], axis=1)
    near = np.abs(z - np.rint(z)) <= graded.WITHIN
    return f"{right.mean():.1%} are told their class, {right[near].mean():.1%} of those near a centre"


def calibrate(recipe: Recipe, subject: Subject, progress: Progress) -> None:
    """Nothing: the probabilities are taken as they are."""


def passport(recipe: Recipe) -> Passport:
    """What the recipe's conditions cover; total blur has no end."""
    return passport_of(recipe).model_copy(update={"range_um": None})


def facts(recipe: Recipe) -> dict[str, float]:
    """How far the classes lie apart."""
    return {SPACING: recipe.data.spacing_depths}


def measure(
    manifest: Manifest, subject: Subject, name: str, seed: int, amount: tuple[int, int], progress: Progress
) -> Measured:
    """Score frames that no training has seen; `amount` are specimens and frames of each, at every centre in turn."""
    wanted = load_set(name)
    optics = wanted.frame_optics()
    apart_um, done, total = spacing_of(manifest, optics), count(1), amount[0] * amount[1]
    voted = []
    for truth, even in graded.frames_of_set(wanted, apart_um, seed, amount, subject.patch_px):
        voted.append(graded.ask(truth, even, subject, apart_um))
        progress(next(done), total)
    refusal = manifest.passport.check(optics)
    note = f"on the board this bundle would refuse these frames: {refusal[1]}" if refusal else ""
    return Measured(graded.score(voted, apart_um), note, partial(quality_card.draw, voted))


def show(metrics: Mapping[str, Figures], out: Console) -> None:
    """A table of shares that are right, by patch and by vote."""
    table = Rows("set", "frames at", "frames", "patches", "patch", *(f"{vote} vote" for vote in VOTES))
    for name, figures in metrics.items():
        for where, words in quality_card.WHERE.items():
            of = figures[where]
            counts = (str(of["frames"]), str(of["patches"]))
            table.add_row(name, words, *counts, *(quality_card.cell(of[unit]) for unit in ("patch", *VOTES)))
    out.print(table)
    for name, figures in metrics.items():
        out.print(f"{name}: frames at the centres by class: {quality_card.by_class(figures)}", highlight=False)
        left, split = (quality_card.cell(figures[share]) for share in ("without_content", "disagreement"))
        error = f"mean error of the real-valued centre {figures['centre_mae_um']} um"
        out.print(f"{name}: without content {left}, disagreement {split}, {error}", highlight=False)


def card(manifest: Manifest) -> str:
    """Its optics, its classes, and how many it tells right."""
    return quality_card.sections(manifest)
