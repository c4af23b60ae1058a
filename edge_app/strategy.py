"""Strategy: the part that decides. Pure: no hardware, no clocks, no threads; looks go in, moves come out.

A strategy is one file in strategies/ with a generator `plan(first, ground)`: it is given the first look, yields
the moves it wants, is sent the look taken after each, and returns how it ended.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_app.estimate import DefocusEstimate, Verdict

PROOF = 1.01
_NOTHING = 1e-9


@dataclass(frozen=True)
class Observation:
    """One look: where it was taken, what the model said, and how sharp each patch was.

    `sharpness` and `informative` are (N,) over the patch grid; `estimate` is None if no model was asked.
    """

    z_um: float
    estimate: DefocusEstimate | None
    sharpness: NDArray[np.float32]
    informative: NDArray[np.bool_]
    fresh: bool = True


@dataclass(frozen=True)
class Ground:
    """What a strategy may know of the instrument: where it may go and how fine it is, um."""

    low_um: float
    high_um: float
    depth_of_field_um: float
    coarse_um: float
    fine_um: float
    half_range_um: float


@dataclass(frozen=True)
class MoveTo:
    """Go there and look again."""

    z_um: float
    why: str


@dataclass(frozen=True)
class Settled:
    """The strategy holds that the present position is in focus."""

    why: str


@dataclass(frozen=True)
class GiveUp:
    """The strategy cannot focus this; the verdict says why."""

    verdict: Verdict
    why: str


Plan = Generator[MoveTo, Observation, Settled | GiveUp]


def sharper(before: Observation, after: Observation) -> float:
    """Sharpness of `after` over `before` on the same patches: those informative in either, or all if none is."""
    both = before.informative | after.informative
    if not both.any():
        both = np.ones_like(both)
    return float((after.sharpness[both].mean() + _NOTHING) / (before.sharpness[both].mean() + _NOTHING))


def shown_better(first: Observation, last: Observation) -> bool:
    """Whether a job has evidence, beyond the estimate itself, that it ends better than it began."""
    return sharper(first, last) >= PROOF
