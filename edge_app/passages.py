"""Passages: how far a move is seen to have gone, by the looks before and after it."""

from __future__ import annotations

import math

from edge_app.answer import Verdict
from edge_app.estimate import level_um
from edge_app.strategy import Observation
from edge_app.watch import Passage, paired
from firmware.travel import Move


def passage_of(before: Observation, move: Move, after: Observation, last_dz_um: float) -> Passage | None:
    """A move and what was seen of it; `last_dz_um` is the move before it.

    None where nothing moved, or a look gives no number.
    """
    first, then = before.estimate, after.estimate
    if first is None or then is None or {first.verdict, then.verdict} != {Verdict.OK}:
        return None
    commanded_um = move.to_um - move.from_um
    turned = move.legs > 1 or commanded_um * last_dz_um < 0
    sigma_um = math.hypot(first.sigma_um, then.sigma_um)
    return Passage(commanded_um, level_um(then.patches) - level_um(first.patches), sigma_um, turned)


def returned_by(before: Observation, again: Observation) -> tuple[float, float] | None:
    """How much farther away the objective is at a place than it was there before, and one sigma of that, um.

    A look near focus, whose side does not show, will do: patches that doubt their side spread, and that is in sigma.
    """
    first, then = before.estimate, again.estimate
    if first is None or then is None or not {first.verdict, then.verdict} <= {Verdict.OK, Verdict.SIGN_UNCERTAIN}:
        return None
    return paired(first.patches.defocus_um, then.patches.defocus_um)
