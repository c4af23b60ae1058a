"""A recipe: every number that decides a model, read once from TOML."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_export.errors import BadRecipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parent / "recipes"
Range = tuple[float, float]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OpticsTable(_Table):
    """The microscopes that a model must know; every pair is a range to draw from."""

    magnification: float
    camera_pixel_um: float
    numerical_aperture: Range
    pixel_um: Range
    spherical_waves: Range
    longitudinal_colour_scale: Range
    wavelength_shift_nm: float
    exposure: Range
    gain_spread: float
    full_well_e: Range
    read_noise_e: Range


class DataTable(_Table):
    """How many specimens, how large, and at which defocus."""

    range_um: float = Field(gt=0)
    far_um: float
    far_share: float
    tile_px: int
    depths_per_specimen: int
    train_specimens: int
    validation_specimens: int
    kinds: dict[str, float]


class TrainingTable(_Table):
    """The optimiser's numbers."""

    batch: int
    steps: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    clip_um: float
    checkpoint_every: int


class AcceptanceTable(_Table):
    """Limits that a bundle must keep on held-out specimens, or export refuses it."""

    patch_mae_um: float
    frame_mae_um: float
    sign: float


class Recipe(_Table):
    """One model from nothing: family, seed, optics, data, network, training, acceptance."""

    name: str
    version: str
    family: str
    description: str
    seed: int
    optics: OpticsTable
    data: DataTable
    network: dict[str, Any]
    training: TrainingTable
    acceptance: AcceptanceTable

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
