"""The recorded places of a rehearsal: slices of z-stacks that were taken on this very board, for tuned bundles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_app.errors import UpdateError, UpdateRefused
from edge_app.model import Model
from edge_app.ota.rehearsal_board import REACH_SHARE, Stage, depth_um, objective_of
from edge_app.patches import PATCH_PX, PatchGrid
from edge_app.sharpness import sharpness
from firmware.clock import ManualClock
from firmware.errors import StackError
from firmware.microscope import Microscope, open_microscope
from firmware.profile import BoardProfile, CameraProfile
from firmware.response import Response
from firmware.stacks import Stack, open_stack, replay_profile

FOLDER = "stacks"
"""Inside the state folder."""
_PATTERNS = ("*.tif", "*.tiff")


@dataclass(frozen=True)
class Recorded:
    """A slice of a stack to begin from; `sharpest_um` is where the stack's sharpest slice lies, on the same axis."""

    profile: BoardProfile
    stack: str
    start_um: float
    sharpest_um: float

    @property
    def name(self) -> str:
        """Stack and start."""
        return f"stack {self.stack}, from {self.start_um - self.sharpest_um:+.2f} um"

    @property
    def depth_um(self) -> float:
        """Depth of field, um."""
        return depth_um(self.profile)

    @contextmanager
    def open(self) -> Iterator[tuple[Microscope, Callable[[], float]]]:
        """The stack as a microscope, at the slice."""
        with open_microscope(self.profile, ManualClock()) as microscope:
            axis = microscope.axis
            axis.move_to(self.start_um)
            yield microscope, lambda: axis.z_um - self.sharpest_um


def recorded_places(where: Stage, new: Model, wanted: int) -> list[Recorded]:
    """Slices to begin from, spread evenly over the model's range in every stack of this board that its passport takes.

    Raises:
        UpdateError: There is no such stack; the message says how to record one.
        UpdateRefused: It is of the task sharpness, which would need a focus curve of the stack too.
    """
    if new.bundle.manifest.task == "sharpness":
        raise UpdateRefused(
            f"{new.label} was tuned on {new.bundle.manifest.training.stage}, and a tuned bundle of the task sharpness "
            "cannot be rehearsed on recorded stacks; publish one that was trained on simulated light"
        )
    folder = where.state / FOLDER if where.state is not None else None
    paths = sorted(path for pattern in _PATTERNS for path in folder.glob(pattern)) if folder is not None else []
    fitting: list[list[Recorded]] = []
    passed_over = []
    for path in paths:
        found = _starts(path, where, new)
        if isinstance(found, str):
            passed_over.append(f"{path.name}: {found}")
        else:
            fitting.append(found)
    if not fitting:
        here = f"none of {len(paths)} in {folder} can be used ({passed_over[0]})" if paths else f"none is in {folder}"
        raise UpdateError(
            f"{new.label} was tuned on {new.bundle.manifest.training.stage}, so it is rehearsed on z-stacks that this "
            f"board recorded, and {here}; record one through focus as docs/rehearsal.md says, then update again"
        )
    each = -(-wanted // len(fitting))
    return [start for starts in fitting for start in _spread(starts, each)][:wanted]


def reading_recorded(model: Model) -> Model:
    """The same model, which takes what a raw camera's mosaic was filled in to, as it is fed with anyway."""
    passport = model.bundle.manifest.passport
    if "raw" not in passport.response or "linear" in passport.response:
        return model
    wider = passport.model_copy(update={"response": (*passport.response, "linear")})
    manifest = model.bundle.manifest.model_copy(update={"passport": wider})
    return replace(model, bundle=replace(model.bundle, manifest=manifest))


def _starts(path: Path, where: Stage, new: Model) -> list[Recorded] | str:
    """Every slice well within the model's range; or why the stack cannot be used."""
    try:
        stack = open_stack(path)
        profile = _profile(path, stack, where, new)
        why = _unfit(stack, profile, new)
        if why:
            return why
        sharpest_um = stack.positions[_sharpest(stack)]
    except StackError as error:
        return str(error)
    reach_um = REACH_SHARE * (new.bundle.manifest.passport.range_um or np.inf)
    within = sorted(z for z in stack.positions if abs(z - sharpest_um) <= reach_um)
    return [Recorded(profile, stack.name, z, sharpest_um) for z in within]


def _unfit(stack: Stack, profile: BoardProfile, new: Model) -> str:
    """Why a stack cannot be used for a model, or ""."""
    needed_px = max(new.patch_px, PATCH_PX)
    if stack.z_um is None:
        return "nothing states where its slices lie; write z_step_um into a .json beside it"
    if min(stack.height_px, stack.width_px) < needed_px:
        return f"its frames are smaller than a patch of {needed_px} pixels; record whole frames"
    refusal = new.refusal(profile.frame_optics(profile.objective[0]))
    return "" if refusal is None else refusal[1]


def _profile(path: Path, stack: Stack, where: Stage, new: Model) -> BoardProfile:
    """The board that replays a stack, with what the real board knows of its light where the file says nothing.

    The axis keeps the file's own z, and steps finer than its slices.
    """
    replayed, real = replay_profile(path), objective_of(where, new.bundle.manifest.passport)
    noted = replayed.objective[0]
    objective = real.model_copy(
        update={
            "numerical_aperture": noted.numerical_aperture or real.numerical_aperture,
            "magnification": noted.magnification or real.magnification,
            "parfocal_offset_um": 0.0,
        }
    )
    camera = replayed.camera.model_copy(
        update={
            "pixel_um": replayed.camera.pixel_um or where.profile.camera.pixel_um,
            "response": _response(where.profile.camera, stack),
        }
    )
    return replayed.model_copy(
        update={"objective": (objective,), "camera": camera, "contrast": where.profile.contrast}
    )


def _response(real: CameraProfile, stack: Stack) -> Response:
    """How the slices' counts follow from light: as the camera's, but `capture` has filled in a raw camera's mosaic."""
    if real.response.kind == "raw":
        return Response(kind="linear")
    if real.response.kind == "linear":
        return Response(kind="linear", black_level=real.response.black_level if stack.dtype == "uint8" else 0.0)
    return real.response


def _spread(starts: list[Recorded], count: int) -> list[Recorded]:
    """So many of them, evenly from the lowest to the highest; all where there are fewer."""
    places = np.unique(np.linspace(0, len(starts) - 1, min(count, len(starts))).round().astype(int))
    return [starts[place] for place in places.tolist()]


def _sharpest(stack: Stack) -> int:
    """The slice with the highest sharpness over the whole frame."""
    scores = []
    for index in range(stack.count):
        pixels = stack.pixels(index)
        rgb = np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels
        scores.append(float(sharpness(rgb, PatchGrid.fit(*rgb.shape[:2])).mean()))
    return int(np.argmax(scores))
