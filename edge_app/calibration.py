"""Calibration of the mechanics: the line from a reversing scan to what the board goes by afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from edge_app.answer import DEFOCUS, Verdict
from edge_app.controller import Controller
from edge_app.errors import UnfitRuler
from edge_app.estimate import level_um
from edge_app.job import Look
from edge_app.measured import Measured
from edge_app.mechanics import Mechanics, Reading, ScanGround
from edge_app.model import Model
from edge_app.scan import Inconclusive, scan
from firmware.errors import FirmwareError
from firmware.travel import Travel

_CLEAR_UM = 1.0

OnReading = Callable[[int, Look, int, str], None]
"""Number from 1, look, motor steps from the start, what it is for."""


@dataclass(frozen=True)
class Calibrated:
    """What a calibration came to: a record, or None and why; where it is kept, if it is."""

    sentence: str
    record: Measured | None = None
    kept_in: Path | None = None
    adopted: bool = False
    rehome: bool = False


def calibrate_mechanics(controller: Controller, keep: bool, on_reading: OnReading) -> Calibrated:
    """Measure direction, backlash and um per step, with the model's signed defocus as the ruler, and go by them.

    The objective ends where it began: by the ruler, since the motor's count alone would leave out the play. After an
    inconclusive scan the motor is back at its count. The axis need not know where it is: the scan stays within what a
    job may use towards the specimen, on both sides.

    Args:
        controller: Holds the board, the model and what the board remembers.
        keep: Whether to adopt and keep it, or only to say it.
        on_reading: Called with each look.

    Raises:
        UnfitRuler: The model was tuned on this stage's own z.
        RuntimeFailed: There is no model.
        StateUnusable: The result cannot be written; the old mechanics still hold.
        FirmwareError: Camera or axis failed; the axis is at rest.
    """
    microscope, axis = controller.microscope, controller.microscope.axis
    ruler = _ruler(controller)
    if keep:
        controller.memory.check()
    start = axis.motor_steps
    room_um = _room_um(controller)
    travel = axis.travel(room_um, room_um, microscope.profile.focus.path_um)
    ground = ScanGround(
        um_per_step=axis.profile.um_per_step,
        back_um=room_um,
        ahead_um=room_um,
        depth_of_field_um=microscope.objective.depth_of_field_um or microscope.profile.focus.sweep_fine_um,
        range_um=ruler.bundle.manifest.passport.range_um or 0.0,
    )
    with microscope.camera.held():
        try:
            found, began = _scanned(controller, ground, travel, on_reading)
            if isinstance(found, Mechanics) and began is not None:
                _return(controller, found, began, start, _unspent(travel))
            else:
                axis.step_to(start, _unspent(travel))
        except Exception:
            with suppress(FirmwareError):
                axis.step_to(start, _unspent(travel))
            raise
    if isinstance(found, Inconclusive):
        return Calibrated(found.sentence)
    memory = controller.memory
    record = memory.record_of(found, ruler.label, datetime.now(timezone.utc).isoformat(timespec="seconds"))
    if not keep:
        return Calibrated(f"{found.sentence}; not kept, as asked", record)
    rehome = axis.profile.homing == "switch"
    kept_in = memory.keep(record)
    microscope.adopt(memory.profile.axis)
    if axis.profile.homing == "device":
        axis.home()
    controller.watch.reset()
    return Calibrated(_told(found.sentence, kept_in, rehome), record, kept_in, adopted=True, rehome=rehome)


def _told(sentence: str, kept_in: Path | None, rehome: bool) -> str:
    where = f"kept in {kept_in}" if kept_in else "forgotten after this process, as no --state folder is named"
    return f"{sentence}; {where}{'; home the axis again' if rehome else ''}"


def _scanned(
    controller: Controller, ground: ScanGround, travel: Travel, on_reading: OnReading
) -> tuple[Mechanics | Inconclusive, Reading | None]:
    """Do what the scan asks for until it knows; gives the first reading too."""
    axis = controller.microscope.axis
    start, number = axis.motor_steps, 1
    look = controller.look()
    on_reading(number, look, 0, "the first look")
    first = _reading(look, 0, ground.depth_of_field_um)
    if first is None:
        assert look.seen.estimate is not None
        said = look.seen.estimate
        return Inconclusive(f"the ruler cannot read here: {said.sentence or said.verdict.value}", 1), None
    plan = scan(first, ground)
    wanted = next(plan)
    while True:
        axis.step_to(start + wanted.motor_steps, travel)
        look, number = controller.look(), number + 1
        on_reading(number, look, wanted.motor_steps, wanted.why)
        try:
            wanted = plan.send(_reading(look, axis.motor_steps - start, ground.depth_of_field_um))
        except StopIteration as ended:
            found: Mechanics | Inconclusive = ended.value
            return found, first


def _return(controller: Controller, found: Mechanics, began: Reading, start: int, travel: Travel) -> None:
    """Come down to where the first look was taken, as every approach does: from above, so that no play is left."""
    axis, near_um = controller.microscope.axis, controller.microscope.objective.depth_of_field_um or 1.0
    play = found.direction * math.ceil((found.backlash_ci_um[1] + _CLEAR_UM) / found.um_per_step)
    axis.step_to(start + play, travel)
    axis.step_to(start, travel)
    now = _reading(controller.look(), 0, near_um)
    if now is None:
        return
    down = found.direction * round((now.defocus_um - began.defocus_um) / found.um_per_step)
    if down * found.direction < 0:
        axis.step_to(start - down + play, travel)
    axis.step_to(start - down, travel)


def _reading(look: Look, motor_steps: int, near_um: float) -> Reading | None:
    """A look as a reading of the ruler; None where the model gives no number.

    Within `near_um` of focus a look whose side does not show is a reading too, of no more doubt than its distance.
    """
    seen = look.seen.estimate
    if seen is None:
        return None
    if seen.verdict is Verdict.OK:
        sigma_um = seen.sigma_um
    elif seen.verdict is Verdict.SIGN_UNCERTAIN and seen.defocus_um <= near_um:
        sigma_um = max(seen.sigma_um, seen.defocus_um)
    else:
        return None
    patches = seen.patches.defocus_um
    return Reading(motor_steps, look.frame.captured_at_s, level_um(seen.patches), sigma_um, patches)


def _ruler(controller: Controller) -> Model:
    model = controller.model_for(DEFOCUS)
    stage = model.bundle.manifest.training.stage
    if stage:
        raise UnfitRuler(
            f"{model.label} was tuned on the z of the stage {stage!r}, so it would only find what that stage believes "
            "already; start with --bundle factory to measure mechanics"
        )
    return model


def _room_um(controller: Controller) -> float:
    """How far the scan may run either way: which way is towards the specimen is not known yet."""
    focus, axis = controller.microscope.profile.focus, controller.microscope.axis
    room_um = min(focus.towards_um, focus.away_um)
    if axis.trusted:
        low_um, high_um = axis.limits_um
        room_um = min(room_um, axis.z_um - low_um, high_um - axis.z_um)
    return max(room_um, 0.0)


def _unspent(travel: Travel) -> Travel:
    """The same window, with a path that is long enough to come back."""
    return Travel(travel.low_um, travel.high_um, 2 * (travel.high_um - travel.low_um))
