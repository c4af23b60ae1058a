"""Strategy: the part that decides. Pure: no hardware, no clocks, no threads; looks go in, moves come out.

A strategy is one file in strategies/ with a generator `plan(first, ground)`: it is given the first look, yields
the moves it wants, is sent the look taken after each, and returns how it ended.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_app.answer import Answer, Floats, Verdict
from edge_app.curve import FocusCurve
from edge_app.estimate import DefocusEstimate

PROOF = 1.01
_NOTHING = 1e-9


@dataclass(frozen=True)
class Observation:
    """One look: where it was taken, what the model said, and how sharp each patch was.

    `sharpness` and `informative` are (N,) over the patch grid; `answer` is None if no model was asked.
    """

    z_um: float
    answer: Answer | None
    sharpness: NDArray[np.float32]
    informative: NDArray[np.bool_]
    fresh: bool = True

    @property
    def estimate(self) -> DefocusEstimate | None:
        """The answer, if it is of the task defocus."""
        return self.answer if isinstance(self.answer, DefocusEstimate) else None


@dataclass(frozen=True)
class Ground:
    """What a strategy may know of the instrument: where it may go, how fine it is (um) and how fast (um/s).

    `latency_s` passed from the middle of the first look's exposure until it could be decided on; `curve` is the
    blur curve of the objective in place, None where it was never calibrated for the model in use.
    """

    low_um: float
    high_um: float
    depth_of_field_um: float
    coarse_um: float
    fine_um: float
    half_range_um: float
    fastest_um_s: float = 0.0
    latency_s: float = 0.0
    curve: FocusCurve | None = None


@dataclass(frozen=True)
class MoveTo:
    """Go there and look again.

    Here and below `shifts_um`, (N,) over the grid, says how far each region's focus lies from the look that is decided
    on; None, or NaN, where that is not known.
    """

    z_um: float
    why: str
    shifts_um: Floats | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Glide:
    """Be on the way there at a set speed, and look again meanwhile."""

    z_um: float
    speed_um_s: float
    why: str


@dataclass(frozen=True)
class Settled:
    """The strategy holds that the present position is in focus."""

    why: str
    shifts_um: Floats | None = field(default=None, compare=False)


@dataclass(frozen=True)
class GiveUp:
    """The strategy cannot focus this; the verdict says why."""

    verdict: Verdict
    why: str
    shifts_um: Floats | None = field(default=None, compare=False)


Motion = MoveTo | Glide
Decision = MoveTo | Glide | Settled | GiveUp
Plan = Generator[Motion, Observation, Settled | GiveUp]


def sharper(before: Observation, after: Observation) -> float:
    """Sharpness of `after` over `before` on the same patches: those informative in either, or all if none is."""
    both = before.informative | after.informative
    if not both.any():
        both = np.ones_like(both)
    return float((after.sharpness[both].mean() + _NOTHING) / (before.sharpness[both].mean() + _NOTHING))


def shown_better(first: Observation, last: Observation) -> bool:
    """Whether a job has evidence, beyond the estimate itself, that it ends better than it began."""
    return sharper(first, last) >= PROOF
