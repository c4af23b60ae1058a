"""The passport that a recipe's bundle will carry, and whether its evaluation sets show what that accepts."""

from __future__ import annotations

import numpy as np

from edge_app.passport import Passport, Range
from model_export.conditions import OpticsTable
from model_export.errors import BadRecipe
from model_export.evaluate import load_set
from model_export.recipe import Recipe


def passport_of(recipe: Recipe) -> Passport:
    """What the recipe's conditions cover, all together; `known` ones say where sigma holds for measured optics."""
    optics = [conditions.optics for conditions in recipe.conditions]
    known = [conditions.optics for conditions in recipe.conditions if conditions.known]
    return Passport(
        numerical_aperture=_hull([o.numerical_aperture for o in optics]),
        pixel_um=_hull([o.pixel_um for o in optics]),
        colour=not recipe.conditions[0].camera.monochrome,
        contrast=recipe.conditions[0].contrast,
        response=recipe.accepts,
        spherical_waves=_hull([o.spherical_waves for o in known]) if known else None,
        longitudinal_colour_um=_colours(known) if known else None,
        spherical_waves_accepted=_hull([o.spherical_waves for o in optics]),
        longitudinal_colour_um_accepted=_colours(optics),
        range_um=recipe.data.range_um,
    )


def _hull(ranges: list[Range]) -> Range:
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _colours(optics: list[OpticsTable]) -> tuple[Range, Range, Range]:
    """Longitudinal colour by channel over these optics, um, a hair wide so that rounding does not leave it."""
    colours_um = np.array(
        [np.multiply(o.longitudinal_colour_um, scale) for o in optics for scale in o.longitudinal_colour_scale]
    )
    red, green, blue = zip(
        (colours_um.min(axis=0) - 1e-6).tolist(), (colours_um.max(axis=0) + 1e-6).tolist(), strict=True
    )
    return red, green, blue


def check_sets(recipe: Recipe) -> None:
    """Hold the recipe's evaluation sets against its passport, before hours go into training.

    Raises:
        BadRecipe: There is no such set, or the bundle would refuse its frames or knows another range.
    """
    passport = passport_of(recipe)
    for wanted in map(load_set, recipe.sets):
        refusal = passport.check(wanted.frame_optics())
        why = refusal[1] if refusal else ""
        if not why and wanted.range_um != recipe.data.range_um:
            why = f"its range is +-{wanted.range_um:g} um, and the recipe's +-{recipe.data.range_um:g} um"
        if why:
            what = f"recipe {recipe.name}: its bundle could not be judged on the set {wanted.name!r}: {why}"
            cure = "In `sets` and `acceptance` name sets of the recipe's own microscope; a .toml file of yours will do"
            raise BadRecipe(f"{what}. {cure}")
