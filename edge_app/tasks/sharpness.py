"""The task `sharpness`: how blurred each patch is, as a score that no specimen and no objective changes much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_app.answer import Floats, Mask, Verdict
from edge_app.bundle import Manifest
from edge_app.patches import PatchGrid
from firmware.frames import FrameOptics

OUTPUTS = ("blur",)
"""What every model of this task answers, (N,) each: the defocus coefficient of the pupil, 0 or more."""


@dataclass(frozen=True)
class BlurScores:
    """How blurred a frame is, whichever the side; NaN where the verdict allows no number.

    `score` is the median of the asked patches, smallest in focus; `scores` (N,) are those of the patches, NaN where
    one was not asked.
    """

    verdict: Verdict
    sentence: str
    score: float
    scores: Floats
    grid: PatchGrid
    informative: Mask
    model: str = ""

    def figures(self) -> dict[str, float]:
        """Its number by name."""
        return {"score": self.score}


def answer(
    outputs: dict[str, NDArray[Any]],
    informative: Mask,
    grid: PatchGrid,
    manifest: Manifest,
    optics: FrameOptics,
) -> BlurScores:
    """The scores of the asked patches, (K,) each output, on the grid."""
    del optics  # the objective's own blur curve is what gives a score its unit
    scores = np.full(grid.count, np.nan, np.float32)
    scores[informative] = np.maximum(outputs["blur"], 0.0)
    median = float(np.median(scores[informative]))
    return BlurScores(Verdict.OK, "", median, scores, grid, informative, manifest.label)


def refuse(verdict: Verdict, sentence: str, grid: PatchGrid, informative: Mask | None = None) -> BlurScores:
    """An answer without a number."""
    mask = informative if informative is not None else np.zeros(grid.count, bool)
    return BlurScores(verdict, sentence, float("nan"), np.full(grid.count, np.nan, np.float32), grid, mask)


def lacks(manifest: Manifest) -> list[str]:
    """What a manifest must state for this task and does not: it asks for nothing."""
    del manifest
    return []
