"""A recipe: every number that decides a model, read once from TOML."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_app.patches import PATCH_PX
from firmware.response import Kind
from model_export.conditions import Conditions
from model_export.errors import BadRecipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parent / "recipes"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataTable(_Table):
    """How many specimens, how large a tile of each, and at which defocus.

    Depths are drawn over 1.2 x `range_um`, more of them near focus; `far_share` of the specimens are seen at
    `range_um` to `far_um`.
    """

    range_um: float = Field(gt=0)
    far_um: float
    far_share: float
    tile_px: int
    depths_per_specimen: int
    train_specimens: int
    validation_specimens: int


class TrainingTable(_Table):
    """The optimiser's numbers.

    `feature_noise` is added to standardised features, in standard deviations. An error counts relative to
    `error_floor` (in tenths of the range) plus `error_slope` times |z|.
    """

    batch: int
    steps: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    clip_um: float
    checkpoint_every: int
    feature_noise: float = 0.0
    error_floor: float = 0.4
    error_slope: float = 0.1


class CalibrationFrames(_Table):
    """On how many frames sigma is calibrated: specimens, depths of each, and the frames' size."""

    specimens: int = Field(default=48, gt=0)
    depths: int = Field(default=4, gt=0)
    frame_px: tuple[int, int] = (1344, 1568)


class AcceptanceTable(_Table):
    """Limits that a bundle must keep on held-out specimens, or export refuses it."""

    patch_mae_um: float
    frame_mae_um: float
    sign: float


class Recipe(_Table):
    """One model from nothing: family, seed, conditions, data, network, training, calibration, acceptance.

    `patches_at_most` is how many patches of a frame serving asks about (0: all that show something),
    `min_contrast` the contrast below which it counts them as blank; training goes down to two thirds of it.
    `accepts` are the kinds of camera response that the bundle's passport will accept; `sets` are the evaluation
    sets that its card reports, the first being the one that acceptance is judged by.
    """

    name: str
    version: str
    family: str
    description: str
    seed: int
    patches_at_most: int = 0
    min_contrast: float
    accepts: tuple[Kind, ...] = ("linear",)
    sets: tuple[str, ...] = Field(min_length=1)
    conditions: tuple[Conditions, ...] = Field(min_length=1)
    data: DataTable
    network: dict[str, Any]
    training: TrainingTable
    calibration: CalibrationFrames = CalibrationFrames()
    acceptance: AcceptanceTable

    def pick(self, rng: np.random.Generator) -> Conditions:
        """One of its conditions, by share."""
        shares = np.array([conditions.share for conditions in self.conditions])
        return self.conditions[int(rng.choice(len(shares), p=shares / shares.sum()))]

    @property
    def patch_px(self) -> int:
        """Side of the patches that the network takes: its own argument `patch_px`, where it has one."""
        return int(self.network.get("patch_px", PATCH_PX))

    @property
    def training_contrast(self) -> float:
        """The contrast of the faintest patches that are trained on."""
        return self.min_contrast * 2 / 3

    @property
    def unit_um(self) -> float:
        """A tenth of the range: the scale on which errors of this model are weighed."""
        return self.data.range_um / 10

    @property
    def sha256(self) -> str:
        """Of all the numbers that it states, as hexadecimal digits."""
        return hashlib.sha256(self.model_dump_json(exclude_unset=True).encode()).hexdigest()


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
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise BadRecipe(f"{path}: {error}") from error


def recipe_names() -> list[str]:
    """The recipes that ship."""
    return sorted(p.stem for p in RECIPES.glob("*.toml"))
