"""Feed: what a network is given: patches, and beside them numbers for each; held against what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_app.bundle import Manifest
from edge_app.errors import RuntimeFailed

Beside = Mapping[str, NDArray[np.float32]]
"""(N, width) float32 by input: a row for each patch, in the order of the patches."""

NOTHING: Beside = MappingProxyType({})
"""For a network that takes patches only."""

Feed = dict[str, NDArray[Any]]
"""All inputs by name, N rows each."""


@dataclass(frozen=True)
class Intake:
    """What a network takes: patches as the input `counts`, and beside them inputs of so many floats a patch."""

    label: str
    counts: str
    also: tuple[tuple[str, int], ...] = ()

    def feed(self, counts: NDArray[np.uint8], also: Beside) -> Feed:
        """Patches (N, P, P, 3) uint8, and what is beside them with its rows one after the other in memory.

        Raises:
            RuntimeFailed: What is beside them is not (N, width) float32 for exactly the inputs that are taken.
        """
        wanted = {name: f"({len(counts)}, {width}) float32" for name, width in self.also}
        given = {name: f"{rows.shape} {rows.dtype}" for name, rows in also.items()}
        if given != wanted:
            what = f"{self.label} takes {_told(wanted)} beside {len(counts)} patches, and was given {_told(given)}"
            raise RuntimeFailed(f"{what}; use a bundle that was made for this version of parfocal")
        return {self.counts: counts, **{name: np.ascontiguousarray(also[name]) for name in wanted}}


def intake_of(manifest: Manifest) -> Intake:
    """What a bundle's network takes."""
    return Intake(manifest.label, manifest.input.name, tuple((each.name, each.width) for each in manifest.input.also))


def rows_of(feed: Feed, rows: slice) -> Feed:
    """The same rows of every input."""
    return {name: values[rows] for name, values in feed.items()}


def _told(shapes: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
