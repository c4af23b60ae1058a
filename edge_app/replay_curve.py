"""Replaying few_shot: a focus curve from a recorded stack, and stacks of which only every second slice is shown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from edge_app.controller import Controller
from edge_app.curve import FocusCurve, NoCurve, curve_of
from edge_app.errors import BadRequest
from edge_app.model import ModelSource
from edge_app.tasks.sharpness import BlurScores
from firmware.clock import ManualClock
from firmware.microscope import open_microscope
from firmware.profile import BoardProfile
from firmware.stacks import Stack, open_stack, replay_profile

TASK = "sharpness"
_EVEN = 1e-3


@dataclass(frozen=True)
class CurveWish:
    """Where the curve comes from: another stack, or the one that is focused.

    With `hold_out` it comes from every second slice of that, and only the others are focused.
    """

    on: Path | None = None
    hold_out: bool = False


@dataclass(frozen=True)
class Shown:
    """A stack as it is replayed: the file, its positions, and which slice of the original each of its slices is."""

    path: Path
    z_um: list[float]
    indices: list[int]

    def nearest(self, z_um: float) -> int:
        """The original's slice that is shown at a position."""
        return self.indices[int(np.argmin(np.abs(np.asarray(self.z_um) - z_um)))]

    @property
    def profile(self) -> BoardProfile:
        """Its board; where the slices lie evenly the axis steps from one to the next, and is never between two."""
        profile = replay_profile(self.path, self.z_um)
        gaps = np.diff(sorted(self.z_um))
        if np.ptp(gaps) > _EVEN * gaps.mean():
            return profile
        axis = profile.axis.model_copy(update={"um_per_step": float(gaps.mean())})
        return profile.model_copy(update={"axis": axis})


def whole(stack: Stack) -> Shown:
    """All slices, the lowest at zero."""
    low = min(stack.positions)
    return Shown(stack.layout.path, [z - low for z in stack.positions], list(range(stack.count)))


def half(stack: Stack, first: int, folder: Path) -> Shown:
    """Every second slice by height, from the first or the second on, as a file of its own in a folder."""
    indices = list(stack.order)[first::2]
    low = min(stack.positions)
    path = folder / f"{stack.name}-{first}.tif"
    pages = np.stack([stack.layout.read(index) for index in indices])
    tifffile.imwrite(path, pages, photometric="rgb" if stack.channels == 3 else "minisblack")
    notes = stack.notes
    known = {
        "pixel_size_um": notes.pixel_um,
        "numerical_aperture": notes.numerical_aperture,
        "magnification": notes.magnification,
    }
    path.with_name(f"{path.name}.json").write_text(json.dumps(known), encoding="utf-8")
    return Shown(path, [stack.positions[index] - low for index in indices], indices)


def record_curve(shown: Shown, source: ModelSource) -> FocusCurve:
    """The focus curve of a recorded stack, by the whole appliance.

    Raises:
        BadRequest: The stack has none, or its model refuses it.
        StackError, AppError: As `replay`.
    """
    profile = shown.profile
    with open_microscope(profile, ManualClock()) as microscope:
        controller = Controller(microscope, None, source)
        scores, why = [], ""
        for z in shown.z_um:
            microscope.axis.move_to(z)
            said = controller.look(TASK).seen.answer
            assert isinstance(said, BlurScores)
            scores.append(said.scores.astype(np.float64))
            why = said.sentence or why
        model = controller.model_for(TASK)
        names = (microscope.objective.name, model.label, model.bundle.sha256)
    if not np.isfinite(np.stack(scores)).any():
        raise BadRequest(f"{shown.path.stem} gives no focus curve: {why}")
    found = curve_of(np.asarray(shown.z_um), np.stack(scores), *names)
    if isinstance(found, NoCurve):
        raise BadRequest(f"{shown.path.stem} gives no focus curve: {found.sentence}")
    return found[0]


def stacks_of(stack: Path, wish: CurveWish, z: tuple[list[float] | None, float | None], folder: Path) -> list[Shown]:
    """What is focused, and what the curve comes from."""
    recorded = open_stack(stack, *z)
    if wish.hold_out:
        return [half(recorded, 1, folder), half(recorded, 0, folder)]
    if wish.on is None:
        return [whole(recorded), whole(recorded)]
    return [whole(recorded), whole(open_stack(wish.on, None, z[1]))]
