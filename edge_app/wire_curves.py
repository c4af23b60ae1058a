"""Focus curves as messages and back."""

from __future__ import annotations

import numpy as np

from edge_app.curve import FocusCurve
from edge_app.focus_calibration import FocusCalibrated, Slice
from edge_app.job import Look
from edge_app.moffat import Moffat
from edge_app.stubs.parfocal.v1 import microscope_pb2
from edge_app.tasks.sharpness import BlurScores


def slice_to(slice_: Slice, look: Look) -> microscope_pb2.CalibrateFocusEvent:
    """One look of a stack; the job counts from 1, the wire from 0."""
    said = look.seen.answer
    known = isinstance(said, BlurScores) and bool(np.isfinite(said.score))
    message = microscope_pb2.StackLook(
        index=slice_.number - 1,
        expected=slice_.expected,
        z_um=look.frame.z_um,
        score=said.score if known and isinstance(said, BlurScores) else None,
        why=slice_.why,
    )
    return microscope_pb2.CalibrateFocusEvent(look=message)


def calibrated_to(calibrated: FocusCalibrated) -> microscope_pb2.CalibrateFocusEvent:
    """How a focus calibration ended."""
    message = microscope_pb2.FocusCalibrationResult(
        curve=None if calibrated.curve is None else curve_to(calibrated.curve),
        sentence=calibrated.sentence,
        adopted=calibrated.adopted,
        kept_in=str(calibrated.kept_in or ""),
        z_um=calibrated.z_um,
    )
    return microscope_pb2.CalibrateFocusEvent(result=message)


def curve_to(curve: FocusCurve) -> microscope_pb2.FocusCurve:
    """A curve with its points and its fit."""
    fitted = curve.fitted
    return microscope_pb2.FocusCurve(
        objective=curve.objective,
        model=curve.model,
        model_sha256=curve.model_sha256,
        recorded_at=curve.at,
        points=[
            microscope_pb2.CurvePoint(z_um=z, score=score)
            for z, score in zip(curve.z_um.tolist(), curve.score.tolist(), strict=True)
        ],
        width_um=curve.width_um,
        explained=curve.explained,
        base=fitted.base,
        height=fitted.height,
        alpha_um=fitted.alpha_um,
        beta=fitted.beta,
        centre_um=fitted.centre_um,
    )


def curve_from(message: microscope_pb2.FocusCurve) -> FocusCurve:
    """A curve as it was."""
    return FocusCurve(
        z_um=np.asarray([point.z_um for point in message.points]),
        score=np.asarray([point.score for point in message.points]),
        fitted=Moffat(message.base, message.height, message.alpha_um, message.beta, message.centre_um),
        explained=message.explained,
        objective=message.objective,
        model=message.model,
        model_sha256=message.model_sha256,
        at=message.recorded_at,
    )
