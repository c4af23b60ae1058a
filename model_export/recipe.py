"""A recipe: every number that decides a model, read once from TOML."""

from __future__ import annotations

import hashlib
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edge_app.patches import PATCH_PX
from firmware.response import Kind
from firmware.table import explain
from model_export.conditions import Conditions, Range, SlideTable
from model_export.errors import BadRecipe
from model_export.evaluate import Figures, set_names

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parent / "recipes"
_OF_FRAMES = ("tilt_um", "field_curvature_um", "vignetting", "blank_at_least")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataTable(_Table):
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
    """On how many frames sigma is calibrated: specimens, depths of each, and the frames' size.

    Where the board declares the objective's aberrations its optics come from the `middle` share of the conditions'
    ranges: training draws tolerances more widely than measured objectives differ.
    """

    specimens: int = Field(default=96, gt=0)
    depths: int = Field(default=4, gt=0)
    frame_px: tuple[int, int] = (1344, 1568)
    middle: float = Field(default=0.5, ge=0, le=1)


class AcceptanceTable(_Table):
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


class Recipe(_Table):
    """One model from nothing: family, seed, conditions, data, network, training, calibration, acceptance.

    `patches_at_most` is how many patches of a frame serving asks about (0: all that show something),
    `min_contrast` the contrast below which it counts them as blank.
    `accepts` are the kinds of camera response that the bundle's passport will accept; `sets` are the evaluation
    sets that its card reports, `acceptance` the limits on some of them.
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
    acceptance: dict[str, AcceptanceTable] = {}

    @field_validator("sets")
    @classmethod
    def _existing(cls, sets: tuple[str, ...]) -> tuple[str, ...]:
        for name in sets:
            if name not in set_names() and not name.endswith(".toml"):
                raise ValueError(f"there is no evaluation set {name!r}; the sets are: {', '.join(set_names())}")
        return sets

    @field_validator("conditions")
    @classmethod
    def _trainable(cls, conditions: tuple[Conditions, ...]) -> tuple[Conditions, ...]:
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
        return conditions

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
    def unit_um(self) -> float:
        """A tenth of the range: the scale on which errors of this model are weighed."""
        return self.data.range_um / 10

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
