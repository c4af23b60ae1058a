"""The task `quality`: which of seven ordered focus classes a frame is in, by a vote of its patches.

The certainty of a distribution p over the classes is 1 - H / log 7 with its entropy H = -sum p log p: 1 where one
class has all of it, 0 where every class has a seventh. (The HH-Net paper misprints it.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_app.answer import Floats, Mask, Verdict
from edge_app.bundle import Manifest
from edge_app.errors import BundleCorrupt
from edge_app.handcrafted import handcrafted
from edge_app.patches import PatchGrid
from firmware.frames import FrameOptics
from firmware.optics import depth_of_field_um

OUTPUTS = ("logits",)
"""What every model of this task answers, (N, 7): one for each class, in the order of INDICES."""

INDICES = (4, 3, 2, 1, 0, -1, -2)
"""The classes' distance indices: positive where the objective is too far; 4 is totally blurred, on either side."""

NAMES = {
    4: "totally blurred",
    3: "out of focus III",
    2: "out of focus II",
    1: "out of focus I",
    0: "in focus",
    -1: "too close I",
    -2: "too close II",
}
SPACING = "spacing_depths"
"""The fact of a manifest that says how far the classes' centres lie apart, in depths of field."""
VOTE = "certainty"
_AGREE = 0.5
_NO_SIDE = (
    "the frame is totally blurred, which it is on both sides of focus; step away from the specimen and look again"
)
_DISAGREE = "the patches see different classes, far apart; choose a region of interest, or a flatter place"


@dataclass(frozen=True)
class QualityGrade:
    """One frame's focus class; NaN where the verdict allows no number.

    `probabilities` (N, 7) are the patches', NaN where a patch was not asked; `index` is the class that they voted for
    by `vote`, `centre` the mean distance index by their mean probabilities, `certainty` 1 - H / log 7 of these.
    `spacing_um` is how far two classes' centres lie apart, NaN where the optics do not say. Total blur comes with a
    sentence too: its side is not known.
    """

    verdict: Verdict
    sentence: str
    index: int
    centre: float
    certainty: float
    probabilities: Floats
    spacing_um: float
    grid: PatchGrid
    informative: Mask
    vote: str = ""
    model: str = ""

    def figures(self) -> dict[str, float]:
        """Its numbers by name."""
        return {"index": self.index, "centre": self.centre, "certainty": self.certainty}

    @property
    def centre_um(self) -> float:
        """The mean distance from focus, um, positive where the objective is too far; at index 4 it means nothing."""
        return self.centre * self.spacing_um

    @property
    def side(self) -> int:
        """1 where the objective is too far, -1 where it is too close, 0 in focus or where the side is not known.

        That of a totally blurred frame is not: which side its patches lean to is wrong too often to steer by.
        """
        if not math.isfinite(self.centre) or self.index in (INDICES[0], 0):
            return 0
        return 1 if self.index > 0 else -1


def answer(
    outputs: dict[str, NDArray[Any]],
    informative: NDArray[np.bool_],
    grid: PatchGrid,
    manifest: Manifest,
    optics: FrameOptics,
) -> QualityGrade:
    """One grade from the outputs for the asked patches, (K, 7), of a frame through these optics.

    Raises:
        BundleCorrupt: The manifest does not say how far the classes lie apart.
    """
    return grade(probabilities_of(outputs["logits"]), informative, grid, spacing_um(manifest, optics), manifest.label)


def refuse(verdict: Verdict, sentence: str, grid: PatchGrid, informative: Mask | None = None) -> QualityGrade:
    """An answer without a number."""
    mask = informative if informative is not None else np.zeros(grid.count, bool)
    nothing = np.full((grid.count, len(INDICES)), np.nan, np.float32)
    nan = float("nan")
    return QualityGrade(verdict, sentence, INDICES[0], nan, nan, nothing, nan, grid, mask)


def also(rgb: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """What the network reads of the whole frame (H, W, 3) uint8 beside patches: (18,) float32."""
    return {"handcrafted": handcrafted(rgb)}


def grade(
    probabilities: Floats, informative: Mask, grid: PatchGrid, class_um: float, model: str, vote: str = VOTE
) -> QualityGrade:
    """Let the asked patches vote.

    Args:
        probabilities: Of the K patches that were asked, (K, 7).
        informative: (N,) which patches of the grid these are.
        grid: Where the patches lie.
        class_um: How far the centres of two classes lie apart, um.
        model: Its name, for the record.
        vote: A key of VOTES.
    """
    mean = linear(probabilities)
    index = INDICES[int(np.argmax(VOTES[vote](probabilities)))]
    verdict, sentence = Verdict.OK, _NO_SIDE if index == INDICES[0] else ""
    if float(mean[_within_one(index)].sum()) < _AGREE:
        verdict, sentence = Verdict.DISAGREEMENT, _DISAGREE
    full = np.full((grid.count, len(INDICES)), np.nan, np.float32)
    full[informative] = probabilities
    certain = float(certainty(mean))
    return QualityGrade(
        verdict, sentence, index, centre_of(mean, index), certain, full, class_um, grid, informative, vote, model
    )


def hard(probabilities: Floats) -> NDArray[np.float64]:
    """Each patch has one vote for its most probable class: (K, 7) to shares, (7,)."""
    return np.bincount(np.argmax(probabilities, axis=1), minlength=len(INDICES)) / len(probabilities)


def linear(probabilities: Floats) -> NDArray[np.float64]:
    """Each patch divides its vote by its probabilities: (K, 7) to shares, (7,)."""
    return np.asarray(np.asarray(probabilities, np.float64).mean(axis=0))


def certainty_based(probabilities: Floats) -> NDArray[np.float64]:
    """The same, and a patch's vote weighs as much as it is certain: (K, 7) to shares, (7,)."""
    weights = np.maximum(certainty(probabilities), 1e-6)
    return np.asarray(weights @ np.asarray(probabilities, np.float64) / weights.sum())


VOTES: dict[str, Callable[[Floats], NDArray[np.float64]]] = {
    "hard": hard,
    "linear": linear,
    "certainty": certainty_based,
}
"""Ways to make one distribution over the classes of several; where two classes are even, the first of INDICES wins."""


def certainty(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """1 - H / log 7 of distributions (..., 7): (...), 0 to 1."""
    p = np.asarray(probabilities, np.float64)
    entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1)
    return np.asarray(1.0 - entropy / math.log(len(INDICES)))


def centre_of(mean: NDArray[np.float64], index: int) -> float:
    """The mean distance index under a distribution (7,); total blur counts as 4, but as -3 if a class below 0 won."""
    values = np.array(INDICES, np.float64)
    if index < 0:
        values[0] = INDICES[-1] - 1
    return float(mean @ values)


def probabilities_of(logits: NDArray[Any]) -> Floats:
    """Softmax over the classes: (K, 7) to (K, 7) float32."""
    raised = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)


def spacing_um(manifest: Manifest, optics: FrameOptics) -> float:
    """How far the centres of two classes lie apart under these optics, um; NaN where their aperture is not known.

    Raises:
        BundleCorrupt: The manifest does not say it in depths of field.
    """
    if SPACING not in manifest.facts:
        raise BundleCorrupt(f"{manifest.label} does not state {SPACING} among its facts; use another bundle")
    if optics.numerical_aperture is None:
        return float("nan")
    return float(manifest.facts[SPACING]) * depth_of_field_um(optics.numerical_aperture, optics.immersion_index)


def class_of(z: NDArray[Any]) -> NDArray[np.int64]:
    """Positions in INDICES of defocus in spacings, (N,) to (N,): the nearest, total blur beyond 3.5 and -2.5."""
    nearest = np.rint(np.asarray(z, np.float64))
    inside = (nearest <= INDICES[1]) & (nearest >= INDICES[-1])
    return np.where(inside, INDICES[0] - nearest, 0).astype(np.int64)


def _within_one(index: int) -> list[int]:
    """Positions of a class and its neighbours; what lies beyond the last on the near side is total blur, too."""
    place = INDICES.index(index)
    return [(place + step) % len(INDICES) for step in (-1, 0, 1)]


def lacks(manifest: Manifest) -> list[str]:
    """What a manifest must state for this task and does not."""
    return [] if SPACING in manifest.facts else [f"the fact {SPACING}"]
