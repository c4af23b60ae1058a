"""Model families: one file each, its name is its key.

A file holds `Net`, built from a recipe's numbers; `TASK` and `OUTPUTS`, what its answers are; `READS`, what it is
trained on: `tiles` (random crops of them go through the whole network) or `features` (`Net.front` has nothing to
learn, so that shards keep what it gives; `Net.standardise` and `Net.answer` take it from there). A family that reads
more than patches says so in `ALSO`, a width by name: each is (N, width) float32, and `Net.forward`, `standardise` and
`answer` take them in that order after the patches or features, a parameter for each.
"""

from __future__ import annotations

from types import ModuleType

from firmware import plugins
from firmware.errors import UnknownPlugin
from model_export.errors import BadRecipe


def family_of(name: str) -> ModuleType:
    """A family's file.

    Raises:
        BadRecipe: There is none of that name.
    """
    try:
        return plugins.load(__name__, name)
    except UnknownPlugin as error:
        raise BadRecipe(str(error)) from error


def also_of(name: str) -> dict[str, int]:
    """What a family reads beside patches: (N, width) float32 by name; most read nothing.

    Raises:
        BadRecipe: There is no such family.
    """
    return dict(getattr(family_of(name), "ALSO", {}))
