"""Tasks as they are learnt: one file each, its name is the task's key; `Teaching` is what a file holds.

A recipe names its task (`task`, "defocus" if it says nothing); the task's file here says what the recipe's tables
may state, what a specimen gives to learn from, what a wrong answer costs, and how good a model is. Everything else
(shards, the training loop, ONNX, golden answers, the bundle) is the same for all tasks. These files are read wherever
a recipe is read, also where torch is not installed: import torch, and `data` and `objective`, which stand on it, only
within functions, and types under TYPE_CHECKING.

Tables. `Data`, `Acceptance`, `Calibration` and `Objective` are subclasses of `model_export.recipe.Table` (frozen, no
unknown keys) for `[data]`, `[acceptance.SET]`, `[calibration]` and `[objective]`; where a task has none of a kind it
says `Calibration = Table`. They are found parsed as `recipe.data` and so on. `Data` has at least `train_specimens`,
`validation_specimens` and `min_contrast` (crops below it are not learnt from; 0 takes all); a task whose specimens
come from `synthesis.specimen_tiles` subclasses `teaching.defocus.Data`. `Acceptance` has `missed(figures) ->
list[str]`: the limits that a set's figures do not keep, in words. A recipe's `sets` are files of sets/, or paths.

Shards. `make` gives the arrays of one specimen, a row for a tile or a patch: under the name that its family READS,
`tiles` ((T, S, S, 3) uint8, S at least `recipe.patch_px`) or `features` ((N, F) float32); under `also.NAME`
((N, width) float32) what the family reads beside them (its ALSO); under the names in TRUTHS what is true of each row,
(N,) or (N, W); and `specimen` ((N,) int32, the index). `data.reduce` makes the first and the last of these of what
`synthesis.specimen_tiles` drew, and says the z of each row and its tile; `data.features_of` is a family's front end.

Training. A batch is `data.Batch(seen, also, truth)`: patches (B, P, P, 3) uint8, cropped at random (and turned, where
TURNS), or features (B, F); `also` by name; `truth` by the names in TRUTHS. The network is asked `net(seen, *also)`
(under bf16 autocast) or `net.answer(features, *also)`, in the order of ALSO; a family that READS features has
`net.standardise(features, *also)` too. `objective` is given its answers by output name, in fp32, and the truths.

Judging. `calibrate` makes what a manifest states as calibration, or None. `measure` scores a model on one evaluation
set: of the bundle's manifest all but `metrics` is filled in. `show` prints the figures of several sets; `card` writes
the part of the model card that stands between its head and "Where it comes from".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from firmware import plugins
from firmware.errors import UnknownPlugin
from model_export.errors import BadRecipe

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from edge_app.bundle import Calibrations, Manifest
    from edge_app.passport import Passport
    from model_export.conditions import Conditions
    from model_export.frames import Subject
    from model_export.recipe import Recipe, Table

Made = dict[str, NDArray[Any]]
"""The arrays of a specimen or of a shard by name, a row for a tile or a patch."""
Figures = dict[str, Any]
"""What one evaluation set gave: JSON, a share of nothing is None."""
Progress = Callable[[int, int], None]
"""Told (done, total)."""


@dataclass(frozen=True)
class Asked:
    """Patches (N, P, P, 3) uint8, and by name what the network reads beside them, (N, width) float32."""

    counts: NDArray[np.uint8]
    also: dict[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """One evaluation set's figures; `note` is what to say beside them; `draw(title, folder)` gives pictures' paths."""

    figures: Figures
    note: str = ""
    draw: Callable[[str, Path], list[Path]] = lambda _title, _folder: []


class Teaching(Protocol):
    """What a file of this folder holds, at module level.

    TRUTHS are the names of the truths in shards; the last is written last: a shard without it is not there.
    TURNS says whether they hold for a crop in any of its eight orientations.
    """

    TRUTHS: tuple[str, ...]
    TURNS: bool
    Data: type[Table]
    Acceptance: type[Table]
    Calibration: type[Table]
    Objective: type[Table]

    def check_conditions(self, conditions: tuple[Conditions, ...]) -> None:
        """Refuse conditions that the task cannot be trained on (none given is ()); what it says names the key.

        Raises:
            ValueError: It is so.
        """

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse a recipe whose evaluation sets cannot judge its bundle, before hours go into training.

        Raises:
            BadRecipe: It is so.
        """

    def make(self, recipe: Recipe, split: str, index: int) -> Made:
        """What a shard keeps of one specimen of "train" or "validation"; the same for the same arguments."""
        ...

    def golden(self, recipe: Recipe, index: int) -> Asked:
        """Patches of a validation specimen, none or more, on which the exported graph is held against the network."""
        ...

    def objective(self, answers: dict[str, Tensor], truth: dict[str, Tensor], recipe: Recipe) -> Tensor:
        """Mean cost of a batch's answers."""
        ...

    def validate(self, recipe: Recipe, answers: Made, truth: Made) -> str:
        """How good these answers are for validation patches, as words after "on single patches ...": a clause."""
        ...

    def calibrate(self, recipe: Recipe, subject: Subject, progress: Progress) -> Calibrations | None:
        """What the bundle's manifest states as calibration."""
        ...

    def passport(self, recipe: Recipe) -> Passport:
        """The passport that the recipe's bundle will carry."""
        ...

    def facts(self, recipe: Recipe) -> dict[str, float]:
        """What serving needs to know of the model beside: the manifest's `facts`."""
        ...

    def measure(
        self, manifest: Manifest, subject: Subject, name: str, seed: int, amount: tuple[int, int], progress: Progress
    ) -> Measured:
        """Score a model on one evaluation set, by name: so many specimens, each at so many depths.

        `subject.predict(counts, also)` gives outputs by name, (K,) or (K, W) float32; `also` is (K, width) by name.
        """
        ...

    def show(self, metrics: Mapping[str, Figures], out: Console) -> None:
        """Print the figures of some sets."""

    def card(self, manifest: Manifest) -> str:
        """The model card's sections on what the model is for and how well it did, in Markdown."""
        ...


def teaching_of(task: str) -> Teaching:
    """A task's file.

    Raises:
        BadRecipe: There is none of that name.
    """
    try:
        return cast(Teaching, plugins.load(__name__, task))
    except UnknownPlugin as error:
        raise BadRecipe(str(error)) from error
