"""Answers as messages: what each task makes of a frame, in the words of the wire, and a map of patches back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_app.answer import Answer, Verdict
from edge_app.estimate import DefocusEstimate, PatchMap
from edge_app.job import Look
from edge_app.patches import PATCH_PX, PatchGrid
from edge_app.stubs.parfocal.v1 import focus_pb2
from edge_app.tasks.quality import NAMES, QualityGrade
from edge_app.tasks.sharpness import BlurScores
from firmware.frames import Frame

VERDICTS = {verdict: focus_pb2.Verdict.Value(f"VERDICT_{verdict.name}") for verdict in Verdict}
Carrier = focus_pb2.MeasureReply | focus_pb2.Look


def add(message: Carrier, look: Look, with_map: bool = False, shifts_um: NDArray[np.float32] | None = None) -> None:
    """Put a look's answer into the message, under the name of its task; `shifts_um` (N,) are its regions' own."""
    message.z_um = look.frame.z_um
    answer = look.seen.answer
    if isinstance(answer, DefocusEstimate):
        message.estimate.CopyFrom(estimate_to(answer, look.frame, with_map))
    elif isinstance(answer, BlurScores):
        message.scores.CopyFrom(scores_to(answer, with_map, shifts_um))
    elif isinstance(answer, QualityGrade):
        message.quality.CopyFrom(quality_to(answer, with_map))


def estimate_to(estimate: DefocusEstimate, frame: Frame, with_map: bool = False) -> focus_pb2.Estimate:
    """An estimate and when and where its frame was taken; NaN becomes absence."""
    patches = estimate.patches
    return focus_pb2.Estimate(
        verdict=VERDICTS[estimate.verdict],
        sentence=estimate.sentence,
        defocus_um=_given(estimate.defocus_um),
        sigma_um=_given(estimate.sigma_um),
        patches_used=estimate.patches_used,
        patches_total=patches.grid.count,
        patch_px=patches.grid.patch_px,
        patches=[
            focus_pb2.PatchEstimate(
                **_place(estimate, index),
                defocus_um=_given(patches.defocus_um[index]),
                sigma_um=_given(patches.sigma_um[index]),
            )
            for index in range(patches.grid.count if with_map else 0)
        ],
        model=estimate.model,
        z_um=frame.z_um,
        captured_at_s=frame.captured_at_s,
        exposure_ms=frame.exposure_ms,
    )


def scores_to(scores: BlurScores, with_map: bool, shifts_um: NDArray[np.float32] | None) -> focus_pb2.Scores:
    """Blur scores, with the patches if they are asked for or their shifts are known."""
    wanted = scores.grid.count if with_map or shifts_um is not None else 0
    shifts = np.full(wanted, np.nan, np.float32) if shifts_um is None else shifts_um
    return focus_pb2.Scores(
        verdict=VERDICTS[scores.verdict],
        sentence=scores.sentence,
        score=_given(scores.score),
        patches_used=int(scores.informative.sum()),
        patches_total=scores.grid.count,
        patches=[
            focus_pb2.PatchScore(
                **_place(scores, index), score=_given(scores.scores[index]), shift_um=_given(shifts[index])
            )
            for index in range(wanted)
        ],
        model=scores.model,
        patch_px=scores.grid.patch_px,
    )


def quality_to(grade: QualityGrade, with_map: bool) -> focus_pb2.Quality:
    """A grade; what is NaN is absent, and so is the class where the verdict allows none."""
    known = math.isfinite(grade.centre)
    return focus_pb2.Quality(
        verdict=VERDICTS[grade.verdict],
        sentence=grade.sentence,
        distance_index=grade.index if known else None,
        name=NAMES[grade.index] if known else "",
        mean_index=_given(grade.centre),
        certainty=_given(grade.certainty),
        vote=grade.vote,
        spacing_um=_given(grade.spacing_um),
        patches_used=int(grade.informative.sum()),
        patches_total=grade.grid.count,
        patches=[
            focus_pb2.PatchQuality(
                **_place(grade, index),
                probabilities=[p for p in grade.probabilities[index].tolist() if math.isfinite(p)],
            )
            for index in range(grade.grid.count if with_map else 0)
        ],
        model=grade.model,
        patch_px=grade.grid.patch_px,
    )


def patch_map_from(estimate: focus_pb2.Estimate) -> PatchMap | None:
    """The patches of an estimate as arrays, or None if it carries none."""
    patches = estimate.patches
    if not patches:
        return None
    side = estimate.patch_px or PATCH_PX
    grid = PatchGrid(
        rows=1 + max(p.row for p in patches),
        columns=1 + max(p.column for p in patches),
        top_px=round(patches[0].y_px - side / 2),
        left_px=round(patches[0].x_px - side / 2),
        patch_px=side,
    )
    return PatchMap(
        grid,
        np.asarray([p.informative for p in patches], bool),
        np.asarray([p.defocus_um if p.HasField("defocus_um") else math.nan for p in patches], np.float32),
        np.asarray([p.sigma_um if p.HasField("sigma_um") else math.nan for p in patches], np.float32),
    )


def _place(answer: Answer, index: int) -> dict[str, Any]:
    """Where a patch lies, and whether it was asked, as every patch's message says it."""
    grid, half = answer.grid, answer.grid.patch_px / 2
    return {
        "row": index // grid.columns,
        "column": index % grid.columns,
        "x_px": grid.left_px + (index % grid.columns) * grid.patch_px + half,
        "y_px": grid.top_px + (index // grid.columns) * grid.patch_px + half,
        "informative": bool(answer.informative[index]),
    }


def _given(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
