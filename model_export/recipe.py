"""A recipe: every number that decides a model, read once from TOML."""

from __future__ import annotations

import hashlib
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from edge_app.patches import PATCH_PX
from firmware import plugins
from firmware.response import Kind
from firmware.table import explain
from model_export.conditions import Conditions
from model_export.errors import BadRecipe
from model_export.evaluate import set_names
from model_export.teaching import teaching_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parent / "recipes"


class Table(BaseModel):
    """One table of a recipe: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingTable(Table):
    """The optimiser's numbers.

    `feature_noise` is added to standardised features, in standard deviations. In the task defocus, an error counts
    relative to `error_floor` (in tenths of the range) plus `error_slope` times |z|, and beyond `clip_um` not at all;
    what other tasks' objectives need stands in their own table, `[objective]`.
    """

    batch: int
    steps: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    clip_um: float = math.inf
    checkpoint_every: int
    feature_noise: float = 0.0
    error_floor: float = 0.4
    error_slope: float = 0.1


class Recipe(Table):
    """One model from nothing: task, family, seed, conditions, data, network, training, calibration, acceptance.

    What `data`, `calibration`, `objective` and the tables of `acceptance` may state is the task's own: its file in
    teaching/ declares them.

    `patches_at_most` is how many patches of a frame serving asks about (0: all that show something),
    `min_contrast` the contrast below which it counts them as blank.
    `accepts` are the kinds of camera response that the bundle's passport will accept; `sets` are the evaluation
    sets that its card reports, `acceptance` the limits on some of them.
    """

    name: str
    version: str
    family: str
    task: str = "defocus"
    description: str
    seed: int
    patches_at_most: int = 0
    min_contrast: float
    accepts: tuple[Kind, ...] = ("linear",)
    sets: tuple[str, ...] = Field(min_length=1)
    conditions: tuple[Conditions, ...] = Field(default=(), validate_default=True)
    data: Any
    network: dict[str, Any]
    training: TrainingTable
    calibration: Any = Field(default={}, validate_default=True)
    objective: Any = Field(default={}, validate_default=True)
    acceptance: dict[str, Any] = {}

    @field_validator("task")
    @classmethod
    def _known(cls, task: str) -> str:
        known = plugins.names("model_export.teaching")
        if task not in known:
            raise ValueError(f"there is no task {task!r} in model_export/teaching; it has: {', '.join(known)}")
        return task

    @field_validator("sets")
    @classmethod
    def _existing(cls, sets: tuple[str, ...]) -> tuple[str, ...]:
        for name in sets:
            if name not in set_names() and not name.endswith(".toml"):
                raise ValueError(f"there is no evaluation set {name!r}; the sets are: {', '.join(set_names())}")
        return sets

    @field_validator("conditions")
    @classmethod
    def _trainable(cls, conditions: tuple[Conditions, ...], info: ValidationInfo) -> tuple[Conditions, ...]:
        if "task" in info.data:
            teaching_of(info.data["task"]).check_conditions(conditions)
        return conditions

    @field_validator("data", "calibration", "objective")
    @classmethod
    def _of_the_task(cls, stated: Any, info: ValidationInfo) -> Any:
        if "task" not in info.data:
            return stated
        teaching = teaching_of(info.data["task"])
        tables = {"data": teaching.Data, "calibration": teaching.Calibration, "objective": teaching.Objective}
        return _parsed(tables[str(info.field_name)], stated)

    @field_validator("acceptance")
    @classmethod
    def _limits(cls, stated: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "task" not in info.data:
            return stated
        table = teaching_of(info.data["task"]).Acceptance
        return {name: _parsed(table, limits, f"{name}.") for name, limits in stated.items()}

    @model_validator(mode="after")
    def _reported(self) -> Recipe:
        others = [name for name in self.acceptance if name not in self.sets]
        if others:
            raise ValueError(f"acceptance has limits for {', '.join(others)}; add it to sets, or remove the limits")
        return self

    def pick(self, rng: np.random.Generator) -> Conditions:
        """One of its conditions, by share."""
        shares = np.array([conditions.share for conditions in self.conditions])
        return self.conditions[int(rng.choice(len(shares), p=shares / shares.sum()))]

    @property
    def patch_px(self) -> int:
        """Side of the patches that the network takes: its own argument `patch_px`, where it has one."""
        return int(self.network.get("patch_px", PATCH_PX))

    @property
    def sha256(self) -> str:
        """Of all that it states but the limits, which decide nothing; hexadecimal digits."""
        return self._digest({"acceptance"})

    @property
    def trains(self) -> str:
        """Of what decides the trained network, and neither its calibration nor how it is served or judged."""
        served = {"description", "version", "patches_at_most", "min_contrast", "accepts"}
        return self._digest(served | {"calibration", "sets", "acceptance"})

    def _digest(self, exclude: set[str]) -> str:
        stated = self.model_dump_json(exclude_unset=True, exclude=exclude)
        return hashlib.sha256(stated.encode()).hexdigest()


def load_recipe(name: str) -> Recipe:
    """Read a recipe by name (from recipes/) or by path.

    Raises:
        BadRecipe: There is none of that name, or it has an unknown key or a value that cannot be.
    """
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(recipe_names())
        raise BadRecipe(f"cannot read the recipe {name!r} ({error}); the names are: {known}") from error
    except ValidationError as error:
        raise BadRecipe(f"{path}: {explain(error)}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadRecipe(f"{path}: {error}") from error


def recipe_names() -> list[str]:
    """The recipes that ship."""
    return sorted(p.stem for p in RECIPES.glob("*.toml"))


def _parsed(table: type[Table], stated: Any, where: str = "") -> Table:
    """A task's table, checked; findings as one sentence, since pydantic does not take them in from within."""
    try:
        return table.model_validate(stated)
    except ValidationError as error:
        raise ValueError(f"{where}{explain(error)}") from error
