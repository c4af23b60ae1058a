"""Calibration of focus: the line from one recorded stack to the curve that the strategy few_shot goes by."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_app.answer import Verdict
from edge_app.controller import Controller
from edge_app.curve import FEWEST, FocusCurve, NoCurve, curve_of
from edge_app.errors import BadRequest
from edge_app.estimate import centre_of, places_of
from edge_app.job import Look
from edge_app.model import Model
from edge_app.patches import PatchGrid
from edge_app.tasks.sharpness import BlurScores
from firmware.errors import FirmwareError, TravelSpent
from firmware.travel import Travel

TASK = "sharpness"
RANGE_DEPTHS, STEP_DEPTHS = 12.0, 0.5
"""How far the stack goes to both sides of focus, and how far its slices lie apart, in depths of field."""
MOST = 400
_SLACK = 0.25
_LEVEL = 0.05


@dataclass(frozen=True)
class Wish:
    """How far a stack goes to both sides and how far its slices lie apart, um; zero for what fits the objective."""

    range_um: float = 0.0
    step_um: float = 0.0


@dataclass(frozen=True)
class FocusCalibrated:
    """What a calibration came to: a curve, or None and why; where it is kept, if it is; where the objective is, um."""

    sentence: str
    z_um: float
    curve: FocusCurve | None = None
    kept_in: Path | None = None
    adopted: bool = False


@dataclass(frozen=True)
class Slice:
    """One look of a stack: its number from 1, how many there will be as far as is known, and what it is for."""

    number: int
    expected: int
    why: str


OnSlice = Callable[[Slice, Look], None]


@dataclass
class _Stack:
    """What was recorded so far: positions and the patches' scores (N,) there."""

    controller: Controller
    travel: Travel
    on_slice: OnSlice
    z_um: list[float] = field(default_factory=list)
    scores: list[NDArray[np.float32]] = field(default_factory=list)
    grid: PatchGrid | None = None
    cut: bool = False

    def look(self, why: str, expected: int) -> BlurScores:
        """Look where the objective is."""
        look = self.controller.look(TASK)
        said = look.seen.answer
        assert isinstance(said, BlurScores)
        self.z_um.append(look.seen.z_um)
        self.scores.append(said.scores)
        self.grid = said.grid
        self.on_slice(Slice(len(self.z_um), max(expected, len(self.z_um)), why), look)
        return said

    def record(self, wanted: NDArray[np.float64], why: str) -> None:
        """Look at positions from the top down, as every approach goes; those out of reach cut the stack."""
        reachable = [float(z) for z in wanted if self.travel.low_um <= z <= self.travel.high_um]
        self.cut = self.cut or len(reachable) < len(wanted)
        expected = len(self.z_um) + len(reachable)
        for z in sorted(reachable, reverse=True):
            try:
                self.controller.microscope.axis.move_to(z, self.travel)
            except TravelSpent:
                self.cut = True
                return
            self.look(why, expected)


def calibrate_focus(controller: Controller, wish: Wish, keep: bool, on_slice: OnSlice) -> FocusCalibrated:
    """Record a stack of a flat textured specimen around here, and go by its curve from now on.

    The stack is made longer on one side where focus turns out to lie off its middle. The objective ends in focus, or
    where it began if there is no curve or focus is no sharper. It stays within what one job may use.

    Args:
        controller: Holds the board, the model and the curves.
        wish: How long the stack is and how fine.
        keep: Whether to go by the curve and keep it, or only to say it.
        on_slice: Called with each look.

    Raises:
        BadRequest: The wish cannot be, or the objective's depth of field is not known and nothing is wished.
        AppError: There is no sharpness model, or the curve cannot be written; the old one still holds.
        FirmwareError: Camera or axis failed; the axis is at rest.
    """
    model, axis = controller.model_for(TASK), controller.microscope.axis
    range_um, step_um = _stated(controller, wish)
    if keep:
        controller.curves.check()
    start_um, losses = axis.z_um, axis.losses
    stack = _Stack(controller, controller.microscope.job_travel(), on_slice)
    with controller.microscope.camera.held():
        try:
            axis.move_to(start_um, stack.travel)
            found = _recorded(stack, model, start_um, range_um, step_um)
            if isinstance(found, str):
                axis.go_back(start_um, losses)
                return FocusCalibrated(f"{found}; went back to the start", axis.z_um)
            curve, focus_um = found
            where = _go_to_focus(stack, focus_um, start_um, losses)
        except Exception:
            with suppress(FirmwareError):
                axis.go_back(start_um, losses)
            raise
    kept_in = controller.curves.keep(curve) if keep else None
    return FocusCalibrated(_told(stack, curve, where, keep, kept_in), axis.z_um, curve, kept_in, keep)


def _stated(controller: Controller, wish: Wish) -> tuple[float, float]:
    """Range and step in um, by the objective where nothing is wished."""
    depth_um = controller.microscope.objective.depth_of_field_um
    if depth_um is None and 0.0 in (wish.range_um, wish.step_um):
        raise BadRequest(
            "the objective's numerical aperture is not known, so neither is its depth of field; give --range-um and "
            "--step-um"
        )
    range_um = wish.range_um or RANGE_DEPTHS * (depth_um or 0.0)
    step_um = wish.step_um or STEP_DEPTHS * (depth_um or 0.0)
    slices = 2 * range_um / step_um + 1 if step_um > 0 else math.inf
    if range_um < 0 or not FEWEST <= slices <= MOST:
        raise BadRequest(
            f"a stack of +-{range_um:.3g} um in steps of {step_um:.3g} um cannot be recorded; choose them for "
            f"{FEWEST} to {MOST} slices"
        )
    return range_um, step_um


def _recorded(
    stack: _Stack, model: Model, start_um: float, range_um: float, step_um: float
) -> tuple[FocusCurve, float] | str:
    """Record until focus has slices on both sides; gives the curve and where focus lies, or why there is none."""
    steps = math.floor(range_um / step_um + 1e-6)
    offsets = step_um * np.arange(-steps, steps + 1, dtype=np.float64)
    said = stack.look("the start", len(offsets))
    if said.verdict is not Verdict.OK:
        return f"the model cannot read here: {said.sentence}"
    stack.record(start_um + offsets[offsets != 0], "a slice of the stack")
    found = _curve(stack, model)
    middle_um = found[1] if not isinstance(found, str) else _lowest(stack)
    missing = _missing(middle_um + offsets, stack.z_um, step_um)
    if len(missing):
        stack.cut = False
        stack.record(missing, "a slice on the shorter side")
        found = _curve(stack, model)
    if isinstance(found, str) and stack.cut:
        return f"{found} (soft limits or the travel of a job cut the stack short)"
    return found


def _curve(stack: _Stack, model: Model) -> tuple[FocusCurve, float] | str:
    """The curve of what was recorded, and the position of focus in the middle of the grid."""
    controller = stack.controller
    found = curve_of(
        np.asarray(stack.z_um),
        np.stack(stack.scores).astype(np.float64),
        controller.microscope.objective.name,
        model.label,
        model.bundle.sha256,
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    if isinstance(found, NoCurve):
        return found.sentence
    curve, patches_um = found
    known = np.isfinite(patches_um)
    assert stack.grid is not None
    values = np.asarray(patches_um[known], np.float32)
    focus_um, _ = centre_of(values, np.ones_like(values), places_of(known, stack.grid), _LEVEL * curve.width_um)
    return curve, focus_um


def _lowest(stack: _Stack) -> float:
    """Where the median score is lowest."""
    levels = [float(np.nanmedian(s)) if np.isfinite(s).any() else math.inf for s in stack.scores]
    return stack.z_um[int(np.argmin(levels))]


def _missing(wanted: NDArray[np.float64], seen: list[float], step_um: float) -> NDArray[np.float64]:
    """Those positions that lie more than a step beyond what was seen."""
    beyond = (wanted < min(seen) - _SLACK * step_um) | (wanted > max(seen) + _SLACK * step_um)
    return np.asarray(wanted[beyond], np.float64)


def _go_to_focus(stack: _Stack, focus_um: float, start_um: float, losses: int) -> str:
    """Go to focus and look; back to the start if it is not sharper there. Says which."""
    axis, curve_looks = stack.controller.microscope.axis, len(stack.z_um)
    axis.go_back(focus_um, losses)
    there = stack.look("focus", curve_looks + 1)
    nearest = int(np.argmin(np.abs(np.asarray(stack.z_um[:curve_looks]) - start_um)))
    both = np.isfinite(there.scores) & np.isfinite(stack.scores[nearest])
    if both.any() and np.median(there.scores[both]) <= np.median(stack.scores[nearest][both]):
        return f"in focus, {focus_um - start_um:+.2f} um from the start"
    axis.go_back(start_um, losses)
    return "back at the start, which is no less sharp than the focus that was found"


def _told(stack: _Stack, curve: FocusCurve, where: str, keep: bool, kept_in: Path | None) -> str:
    known = f"known from {curve.z_um[0]:+.1f} to {curve.z_um[-1]:+.1f} um around focus"
    cut = ", cut short by soft limits or the travel of a job" if stack.cut else ""
    if not keep:
        kept = "not kept, as asked"
    else:
        kept = f"kept in {kept_in}" if kept_in else "forgotten after this process, as no --state folder is named"
    return f"a curve {curve.width_um:.2f} um wide, {known}{cut}; {where}; {kept}"
