"""Answer: what a task makes of one frame, whichever task it is; the verdict says what it is worth."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_app.patches import Content, PatchGrid

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Refusal = tuple["Verdict", str]
"""A verdict other than OK, and why, with what to do about it, in a sentence."""

DEFOCUS = "defocus"
"""The task of a board's first model, which is also the ruler of its mechanics."""


class Verdict(Enum):
    """What an answer is worth; everything but OK comes with a sentence."""

    OK = "ok"
    NO_CONTENT = "no content"
    TOO_DARK = "too dark"
    SATURATED = "saturated"
    OUT_OF_RANGE = "out of range"
    DISAGREEMENT = "disagreement"
    SIGN_UNCERTAIN = "sign uncertain"
    STALE_FRAME = "stale frame"
    WRONG_OPTICS = "wrong optics"
    OPTICS_UNKNOWN = "optics unknown"


class Answer(Protocol):
    """One frame's answer; each task has its own, with its own numbers."""

    @property
    def verdict(self) -> Verdict:
        """What it is worth."""
        ...

    @property
    def sentence(self) -> str:
        """Why, where the verdict is not OK."""
        ...

    @property
    def model(self) -> str:
        """Name and version of the model that was asked, or ""."""
        ...

    @property
    def grid(self) -> PatchGrid:
        """Where the patches lie."""
        ...

    @property
    def informative(self) -> Mask:
        """(N,) the patches of the grid that were asked."""
        ...

    def figures(self) -> dict[str, float]:
        """Its own numbers by name, for the record; NaN where the verdict allows none."""
        ...


def screen(seen: Content) -> Refusal | None:
    """Why a frame needs no network to look at it; None if there is something to ask about."""
    if seen.informative.any():
        return None
    if (seen.saturated >= 0.5).mean() > 0.5:
        return Verdict.SATURATED, "most of the frame is blown out; shorten the exposure or dim the lamp"
    if float(np.median(seen.brightness)) <= 12.0:
        return Verdict.TOO_DARK, "the frame is nearly black; switch on the lamp or lengthen the exposure"
    return Verdict.NO_CONTENT, "no patch shows any structure; move the slide to a place with specimen"
