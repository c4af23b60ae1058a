"""Domain values as messages and back; the only place that knows both vocabularies."""

from __future__ import annotations

import math
from collections.abc import Iterable

from google.protobuf.message import Message

from edge_app import wire_answers
from edge_app.bundle import Manifest, ModelBundle
from edge_app.calibration import Calibrated
from edge_app.errors import BadRequest
from edge_app.job import Ending, Look, Outcome
from edge_app.measured import Measured
from edge_app.patches import RegionOfInterest
from edge_app.strategy import Decision, Glide, MoveTo
from edge_app.stubs.parfocal.v1 import focus_pb2, microscope_pb2, models_pb2, simulation_pb2
from edge_app.watch import Kind
from firmware.frames import FrameOptics
from firmware.microscope import Microscope
from firmware.profile import Objective
from firmware.simulation import World
from firmware.travel import Trust

ENDINGS = {ending: focus_pb2.OutcomeKind.Value(f"OUTCOME_KIND_{ending.name}") for ending in Ending}
FAULTS = {kind: focus_pb2.MotionFaultKind.Value(f"MOTION_FAULT_KIND_{kind.name}") for kind in Kind}
TRUSTS = {trust: microscope_pb2.AxisTrust.Value(f"AXIS_TRUST_{trust.name}") for trust in Trust}


def refuse_nonsense(message: Message, path: str = "") -> None:
    """Refuse a request that holds a number which is none, at any depth.

    Raises:
        BadRequest: A field is NaN or infinite, or a region is empty.
    """
    for descriptor, value in message.ListFields():
        name = f"{path}{descriptor.name}"
        for item in value if descriptor.is_repeated else (value,):
            if isinstance(item, Message):
                refuse_nonsense(item, f"{name}.")
            elif isinstance(item, float) and not math.isfinite(item):
                raise BadRequest(f"{name} is {item}; give a finite number")
    if isinstance(message, focus_pb2.RegionOfInterest) and 0 in (message.width_px, message.height_px):
        raise BadRequest(f"{path.rstrip('.')} is empty; give it a width_px and a height_px, or leave it out")


def region_from(request: focus_pb2.MeasureRequest | focus_pb2.FocusRequest) -> RegionOfInterest | None:
    """The region that a request names, or None for the whole frame."""
    if not request.HasField("roi"):
        return None
    roi = request.roi
    return RegionOfInterest(roi.x_px, roi.y_px, roi.width_px, roi.height_px)


def look_to(number: int, look: Look, decision: Decision) -> focus_pb2.FocusEvent:
    """One look of a job; the controller counts from 1, the wire from 0."""
    message = focus_pb2.Look(
        index=number - 1,
        sharpness=mean_sharpness(look),
        z_um=look.frame.z_um,
        decision=decision.why,
        planned_move_um=decision.z_um - look.frame.z_um if isinstance(decision, (MoveTo, Glide)) else None,
        speed_um_s=decision.speed_um_s if isinstance(decision, Glide) else None,
    )
    wire_answers.add(message, look, shifts_um=None if isinstance(decision, Glide) else decision.shifts_um)
    return focus_pb2.FocusEvent(look=message)


def outcome_to(outcome: Outcome, last: focus_pb2.Estimate | None) -> focus_pb2.FocusEvent:
    """The end of a job, with the estimate of its last look."""
    message = focus_pb2.Outcome(
        kind=ENDINGS[outcome.ending],
        verdict=wire_answers.VERDICTS[outcome.verdict],
        sentence=outcome.sentence,
        start_z_um=outcome.start_um,
        end_z_um=outcome.end_um,
        frames=outcome.frames,
        moves=outcome.moves,
        duration_s=outcome.duration_s,
        final_estimate=last,
        strategy=outcome.strategy,
        motion_faults=[
            focus_pb2.MotionFault(kind=FAULTS[found.kind], size=found.size, sentence=found.sentence)
            for found in outcome.findings
        ],
    )
    return focus_pb2.FocusEvent(outcome=message)


def mean_sharpness(look: Look) -> float:
    """Mean over the informative patches, or over all where none is."""
    seen = look.seen
    chosen = seen.sharpness[seen.informative] if seen.informative.any() else seen.sharpness
    return float(chosen.mean())


def objective_to(microscope: Microscope, objective: Objective) -> microscope_pb2.Objective:
    """An objective; zero where the profile does not know a value."""
    return microscope_pb2.Objective(
        name=objective.name,
        magnification=objective.magnification or 0.0,
        numerical_aperture=objective.numerical_aperture or 0.0,
        immersion_index=objective.immersion_index,
        pixel_um=microscope.profile.frame_optics(objective).pixel_um or 0.0,
        parfocal_offset_um=objective.parfocal_offset_um,
        depth_of_field_um=objective.depth_of_field_um or 0.0,
        selected=objective.name == microscope.objective.name,
    )


def describe_to(
    microscope: Microscope, strategies: Iterable[str], measured: Measured | None
) -> microscope_pb2.DescribeReply:
    """What a board is; the caller adds what concerns the model."""
    profile, axis = microscope.profile, microscope.axis
    camera = microscope_pb2.Camera(
        driver=profile.camera.driver,
        width_px=microscope.camera.shape[1],
        height_px=microscope.camera.shape[0],
        bit_depth=profile.camera.bits,
        colour=profile.camera.colour,
        response=profile.camera.response.kind,
    )
    reply = microscope_pb2.DescribeReply(
        board=profile.name,
        description=profile.description,
        objectives=[objective_to(microscope, o) for o in profile.objective],
        camera=camera,
        axis=microscope_pb2.Axis(
            driver=profile.axis.driver,
            low_um=axis.limits_um[0],
            high_um=axis.limits_um[1],
            um_per_step=profile.axis.um_per_step,
            trust=TRUSTS[axis.trust],
            settle_ms=profile.axis.settle_ms,
            backlash_um=profile.axis.backlash_um,
            direction=profile.axis.direction,
            mechanics=None if measured is None else mechanics_to(measured),
        ),
        strategies=strategies,
        is_simulated=microscope.world is not None,
        contrast=profile.contrast,
    )
    if microscope.world is not None:
        reply.world.update(microscope.world.describe())
    return reply


def mechanics_to(record: Measured) -> microscope_pb2.Mechanics:
    """What a board measured of its own mechanics."""
    return microscope_pb2.Mechanics(
        direction=record.direction,
        backlash_um=record.backlash_um,
        backlash_low_um=record.backlash_ci_um[0],
        backlash_high_um=record.backlash_ci_um[1],
        um_per_step=record.um_per_step,
        um_per_step_low=record.um_per_step_ci[0],
        um_per_step_high=record.um_per_step_ci[1],
        scans=record.scans,
        readings=record.readings,
        measured_at=record.at,
        model=record.model,
    )


def calibration_look_to(number: int, look: Look, steps: int, why: str) -> microscope_pb2.CalibrateMechanicsEvent:
    """One look of a calibration; it counts from 1, the wire from 0."""
    assert look.seen.estimate is not None
    message = microscope_pb2.CalibrationLook(
        index=number - 1, motor_steps=steps, estimate=wire_answers.estimate_to(look.seen.estimate, look.frame), why=why
    )
    return microscope_pb2.CalibrateMechanicsEvent(look=message)


def calibrated_to(calibrated: Calibrated) -> microscope_pb2.CalibrateMechanicsEvent:
    """How a calibration ended."""
    record = calibrated.record
    message = microscope_pb2.CalibrationResult(
        mechanics=None if record is None else mechanics_to(record),
        sentence=calibrated.sentence,
        adopted=calibrated.adopted,
        kept_in=str(calibrated.kept_in or ""),
        rehome=calibrated.rehome,
    )
    return microscope_pb2.CalibrateMechanicsEvent(result=message)


def model_to(bundle: ModelBundle, optics: FrameOptics, preferred: bool) -> models_pb2.Model:
    """An installed model, and whether it may judge frames through these optics."""
    manifest = bundle.manifest
    refusal = manifest.passport.check(optics)
    return models_pb2.Model(
        name=manifest.name,
        version=manifest.version,
        task=manifest.task,
        family=manifest.family,
        optics=_passport_to(manifest),
        sha256=manifest.sha256.get("model.onnx", ""),
        size_bytes=len(bundle.onnx),
        parameters=manifest.parameters,
        fits_this_board=refusal is None,
        why_not=None if refusal is None else refusal[1],
        manifest_json=manifest.model_dump_json(),
        preferred=preferred,
    )


def truth_to(world: World) -> simulation_pb2.Truth:
    """What only a simulated world can know."""
    kind = world.kind_of(world.field)
    return simulation_pb2.Truth(
        field=world.field,
        kind=kind,
        defocus_um=world.truth_um(),
        depth_of_field_um=world.depth_of_field_um,
        has_content=world.coverage() > 0.02,
    )


def _passport_to(manifest: Manifest) -> models_pb2.OpticsPassport:
    passport = manifest.passport
    return models_pb2.OpticsPassport(
        numerical_aperture_low=_end(passport.numerical_aperture, 0),
        numerical_aperture_high=_end(passport.numerical_aperture, 1),
        pixel_low_um=_end(passport.pixel_um, 0),
        pixel_high_um=_end(passport.pixel_um, 1),
        range_um=passport.range_um or 0.0,
        responses=passport.response,
        contrast=passport.contrast or "",
        colour=passport.colour is not False,
        grey=not passport.colour,
    )


def _end(bounds: tuple[float, float] | None, which: int) -> float:
    return bounds[which] if bounds is not None else 0.0
