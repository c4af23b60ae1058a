"""How good a model of the task `quality` is: frames at and between the class centres, and how their patches vote.

A frame's true class is that of its defocus in spacings: the nearest centre, total blur above 3.5 and below -2.5. Total
blur has a centre on either side, at 4 and at -3 spacings. Three frames in four lie within 30 % of a spacing around a
centre; the fourth is drawn evenly over -3.5 to 4.5 spacings, and these alone make the figures for contiguous z.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_app.answer import Verdict
from edge_app.linear import rgb8
from edge_app.patches import content
from edge_app.tasks.quality import INDICES, VOTES, QualityGrade, also, class_of, grade, probabilities_of
from model_export.errors import NoData
from model_export.evaluate import EvaluationSet
from model_export.frames import Subject, Truth, frames_at

FRAME_PX = (900, 900)
WITHIN = 0.3
"""How far from a centre a frame still counts as at it, in spacings."""
CENTRES = (-3, -2, -1, 0, 1, 2, 3, 4)
_EVERY = 4
_UNSEEN = 2000
_BELOW_ZERO = 2**63
Figures = dict[str, Any]


@dataclass(frozen=True)
class Voted:
    """One frame and what its patches say.

    `z` is its defocus in spacings, `patch_z` (K,) that of the K patches that were asked, `probabilities` (K, 7) their
    answers. `even` says that it was drawn evenly over z; `grade` is what serving would say, None where no patch shows
    anything.
    """

    z: float
    patch_z: NDArray[np.float64]
    probabilities: NDArray[np.float32]
    even: bool
    grade: QualityGrade | None


def draw_z(rng: np.random.Generator, count: int, turn: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Defocus of a slide's frames in spacings, (Z,), and which of them are drawn evenly, (Z,).

    All centres come in turn; which of them are drawn evenly goes round with `turn`, the number of the slide.
    """
    centre = np.resize(np.array(CENTRES, np.float64), count)
    even = (np.arange(count) // len(CENTRES) + np.arange(count) + turn) % _EVERY == _EVERY - 1
    return centre + rng.uniform(-0.5, 0.5, count) * np.where(even, 1.0, 2 * WITHIN), even


def frames_of_set(
    wanted: EvaluationSet, spacing_um: float, seed: int, amount: tuple[int, int], patch_px: int
) -> Iterator[tuple[Truth, bool]]:
    """A set's frames, and whether each is drawn evenly; training never draws from these seeds, any integer is one."""
    seeds = (seed if seed >= 0 else seed % _BELOW_ZERO, _UNSEEN, zlib.crc32(wanted.name.encode()))
    specimens, depths = amount
    for index in range(specimens):
        rng = np.random.default_rng([*seeds, index])
        setting = wanted.conditions.draw(rng, (index + 0.5) / specimens)
        z, even = draw_z(rng, depths, index)
        frames = frames_at(setting, z * spacing_um, (*seeds, index), FRAME_PX, patch_px)
        yield from zip(frames, even.tolist(), strict=True)


def ask(truth: Truth, even: bool, subject: Subject, spacing_um: float) -> Voted:
    """Let a model's patches vote on one frame, as serving would."""
    rgb = rgb8(truth.frame)
    asked = content(rgb, truth.grid, subject.min_contrast).informative
    z = truth.patch_truth_um.astype(np.float64)[asked] / spacing_um
    if not asked.any():
        return Voted(truth.truth_um / spacing_um, z, np.empty((0, len(INDICES)), np.float32), even, None)
    frame = {name: np.repeat(values[None], len(z), axis=0) for name, values in also(rgb).items()}
    probabilities = probabilities_of(subject.predict(truth.grid.cut(rgb, asked), frame)["logits"])
    graded = grade(probabilities, asked, truth.grid, spacing_um, "")
    return Voted(truth.truth_um / spacing_um, z, probabilities, even, graded)


def score(voted: list[Voted], spacing_um: float) -> Figures:
    """The figures of a set: shares of right classes, by patch and by frame with each way to vote.

    `centres` are those within WITHIN of a centre, `several` those of them on which two patches or more can vote, and
    `contiguous` those drawn evenly over z; `off_by_one` of these also counts a neighbouring class as right, total blur
    being the neighbour of both ends. `index` is by class, of the frames at the centres with the vote that serves.
    `centre_mae_um` is the mean error of the real-valued centre of contiguous frames that are neither in fact nor by
    vote totally blurred. Frames without content are left out, and counted.

    Raises:
        NoData: No frame shows anything at a centre, or none drawn evenly does.
    """
    told = [v for v in voted if v.grade is not None]
    at_centre = [v for v in told if abs(v.z - round(v.z)) <= WITHIN]
    even = [v for v in told if v.even]
    if not at_centre or not even:
        raise NoData("none of these frames shows specimen that the model asks about; take more specimens")
    return {
        "spacing_um": round(spacing_um, 4),
        "frame_px": list(FRAME_PX),
        "centres": _accuracy(at_centre, _at_centre, _same),
        "several": _accuracy([v for v in at_centre if len(v.patch_z) > 1], _at_centre, _same),
        "contiguous": _accuracy(even, _all, _same),
        "off_by_one": _accuracy(even, _all, _near),
        "index": {str(index): _of_class(at_centre, index) for index in INDICES},
        "centre_mae_um": _centre_error(even, spacing_um),
        "without_content": _share([v.grade is None for v in voted]),
        "disagreement": _share([v.grade.verdict is Verdict.DISAGREEMENT for v in told if v.grade is not None]),
    }


def confusion(voted: list[Voted]) -> NDArray[np.int64]:
    """Frames at the centres by true class and by vote, (7, 7), in the order of INDICES."""
    counts = np.zeros((len(INDICES), len(INDICES)), np.int64)
    for each in voted:
        if each.grade is not None and abs(each.z - round(each.z)) <= WITHIN:
            counts[_class(each.z), INDICES.index(each.grade.index)] += 1
    return counts


Right = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]


def _accuracy(voted: list[Voted], counts: Callable[[Voted], NDArray[np.bool_]], right: Right) -> Figures:
    """Shares that are right: of the patches that count, and of frames with each vote."""
    truths = np.array([_class(v.z) for v in voted])
    figures: Figures = {"frames": len(voted), "patches": 0}
    patches = [
        right(class_of(v.patch_z), np.argmax(v.probabilities, axis=1).astype(np.int64))[counts(v)] for v in voted
    ]
    figures["patches"] = sum(map(len, patches))
    figures["patch"] = _share([bool(flag) for of in patches for flag in of])
    for name, vote in VOTES.items():
        votes = np.array([int(np.argmax(vote(v.probabilities))) for v in voted])
        figures[name] = _share(right(truths, votes).tolist())
    return figures


def _at_centre(voted: Voted) -> NDArray[np.bool_]:
    return np.asarray(np.abs(voted.patch_z - np.rint(voted.patch_z)) <= WITHIN)


def _all(voted: Voted) -> NDArray[np.bool_]:
    return np.ones(len(voted.patch_z), bool)


def _same(truth: NDArray[np.int64], told: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(truth == told)


def _near(truth: NDArray[np.int64], told: NDArray[np.int64]) -> NDArray[np.bool_]:
    apart = np.abs(truth - told)
    return np.asarray(np.minimum(apart, len(INDICES) - apart) <= 1)


def _class(z: float) -> int:
    return int(class_of(np.array([z]))[0])


def _of_class(voted: list[Voted], index: int) -> float | None:
    return _share([v.grade.index == index for v in voted if v.grade is not None and INDICES[_class(v.z)] == index])


def _centre_error(voted: list[Voted], spacing_um: float) -> float | None:
    errors = [
        abs(v.grade.centre - v.z) * spacing_um
        for v in voted
        if v.grade is not None and v.grade.index != INDICES[0] and _class(v.z) != 0
    ]
    return round(float(np.mean(errors)), 4) if errors else None


def _share(flags: list[bool]) -> float | None:
    """How many of them are true, 0 to 1; None of nothing."""
    return round(float(np.mean(flags)), 4) if flags else None
