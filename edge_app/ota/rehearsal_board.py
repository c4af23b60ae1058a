"""The simulated places of a rehearsal: a microscope with a passport's optics, as like the real board as it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_app.errors import UpdateRefused
from edge_app.model import Model
from edge_app.passport import Passport, Range
from firmware.clock import ManualClock
from firmware.microscope import Microscope, open_microscope, with_simulation
from firmware.optics import depth_of_field_um
from firmware.profile import BoardProfile, CameraProfile, Objective, load_profile
from firmware.response import Kind, Response

KINDS = {
    "brightfield": ("tissue", "tissue", "smear", "tissue", "tissue", "smear", "tissue", "sparse"),
    "fluorescence": ("fluorescence",),
}
"""What lies in a rehearsal's fields, by contrast, in turns; a focus curve is recorded on the first."""
REACH_SHARE = 0.9
"""From how far out jobs begin, of the range that a passport states."""
_APERTURE, _PIXEL_UM, _MAGNIFICATION = 0.75, 0.1725, 20.0
_WAVES, _COLOUR_UM, _DEPTH_UM = 0.15, (0.5, 0.0, -0.4), 0.95
_ROOM_UM = 30.0
_LEAST_PX, _LARGE_PX = 384, 400
_TRIES = 3
# A colour camera of unknown response, amid what the factory's model for such cameras was taught.
_PROCESSED = {
    "white_balance": (1.4, 1.0, 1.4),
    "saturation": 1.15,
    "curve": "srgb",
    "contrast": 0.15,
    "sharpening": 0.25,
    "jpeg_quality": 90,
}
_RESPONSES: dict[Kind, tuple[Response, int]] = {
    "linear": (Response(kind="linear"), 8),
    "raw": (Response(kind="raw", pattern="RGGB", black_level=256), 12),
    "tone": (Response(kind="tone", curve="srgb"), 8),
    "unknown": (Response(), 8),
}


@dataclass(frozen=True)
class Stage:
    """What a rehearsal needs to know of the board; nothing of it is opened.

    `profile` is the real board's, with its measured mechanics. `state` is its state folder, in whose `stacks` recorded
    z-stacks lie. The same `seed` and the same two bundles give the same rehearsal. `objective` names the one in place;
    "" is the first that the new passport accepts. `flaws` are keys of [simulation], laid over the rehearsal's world.
    """

    profile: BoardProfile
    state: Path | None = None
    seed: int = 0
    objective: str = ""
    flaws: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Simulated:
    """A field of the simulated world, and a start."""

    profile: BoardProfile
    number: int
    kind: str
    start_um: float

    @property
    def name(self) -> str:
        """Field, specimen and start."""
        return f"field {self.number}, {self.kind}, from {self.start_um:+.2f} um"

    @property
    def depth_um(self) -> float:
        """Depth of field, um."""
        return depth_um(self.profile)

    @contextmanager
    def open(self) -> Iterator[tuple[Microscope, Callable[[], float]]]:
        """The microscope at its start."""
        with open_microscope(self.profile, ManualClock()) as microscope:
            world = microscope.world
            assert world is not None
            world.load_field(self.number, self.kind)
            for _ in range(_TRIES):  # play and drift leave a little at first
                microscope.axis.move_by(self.start_um - world.truth_um())
            yield microscope, world.truth_um


def simulated(where: Stage, new: Model, patch_px: int, reach_um: float) -> BoardProfile:
    """A simulated board for a rehearsal: the real board's optics where the new passport accepts them, else its middle.

    Args:
        where: The real board.
        new: The model whose passport it is.
        patch_px: Side of the larger patches of the two models; frames are a few patches large.
        reach_um: How far from focus jobs begin, to both sides.

    Raises:
        UpdateRefused: The passport contradicts itself, so that no optics can be made that it accepts.
    """
    passport = new.bundle.manifest.passport
    real = objective_of(where, passport)
    seen = where.profile.frame_optics(real)
    pixel_um = _own(seen.pixel_um, passport.pixel_um, _PIXEL_UM)
    magnification = real.magnification or _MAGNIFICATION
    objective = real.model_copy(
        update={
            "magnification": magnification,
            "numerical_aperture": _own(seen.numerical_aperture, passport.numerical_aperture, _APERTURE),
            "immersion_index": passport.immersion_index or real.immersion_index,
            "parfocal_offset_um": 0.0,
            **_aberrations(real, passport),
        }
    )
    camera = _camera(where.profile.camera, passport, patch_px).model_copy(
        update={"pixel_um": pixel_um * magnification}
    )
    made = _board(objective, camera, reach_um).model_copy(
        update={"contrast": passport.contrast or where.profile.contrast}
    )
    made = with_simulation(made, **_world(made, passport, objective), **where.flaws)
    refusal = new.refusal(made.frame_optics(objective))
    if refusal is not None:
        raise UpdateRefused(
            f"{new.label} cannot be rehearsed, since its passport takes no optics that can be simulated: {refusal[1]}"
        )
    return made


def objective_of(where: Stage, passport: Passport) -> Objective:
    """The objective in place, or the first that a passport accepts, or the first."""
    profile = where.profile
    named = [objective for objective in profile.objective if objective.name == where.objective]
    fitting = [o for o in profile.objective if passport.check(profile.frame_optics(o)) is None]
    return (named or fitting or list(profile.objective))[0]


def depth_um(profile: BoardProfile) -> float:
    """Depth of field of a board's first objective, um."""
    return profile.objective[0].depth_of_field_um or depth_of_field_um(_APERTURE)


def _board(objective: Objective, camera: CameraProfile, reach_um: float) -> BoardProfile:
    """The smallest simulated board with room for jobs that begin so far from focus."""
    base = load_profile("simulated_tiny")
    room_um = reach_um + _ROOM_UM
    axis = base.axis.model_copy(update={"low_um": -2 * room_um, "high_um": 2 * room_um})
    focus = base.focus.model_copy(update={"towards_um": room_um, "away_um": room_um, "path_um": 12 * room_um})
    return base.model_copy(
        update={"name": "rehearsal", "objective": (objective,), "camera": camera, "axis": axis, "focus": focus}
    )


def _camera(real: CameraProfile, passport: Passport, patch_px: int) -> CameraProfile:
    """Frames of a few patches, of a response and colours that the passport accepts."""
    response, bits = real.response, real.bits
    colour = real.colour if passport.colour is None else passport.colour
    if response.kind not in passport.response or colour != real.colour:
        response, bits = _RESPONSES[passport.response[0]]
    wide_px = max(2 * patch_px, _LEAST_PX)
    return CameraProfile(
        driver="simulated",
        width_px=wide_px,
        height_px=patch_px if patch_px > _LARGE_PX else wide_px,
        colour=colour,
        bits=bits,
        response=response,
    )


def _aberrations(real: Objective, passport: Passport) -> dict[str, Any]:
    """What the objective declares, drawn into what the passport accepts; what it does not declare stays undeclared."""
    waves, colour_um = real.spherical_waves, real.longitudinal_colour_um
    accepted = passport.longitudinal_colour_um_accepted or (None,) * 3
    return {
        "spherical_waves": None if waves is None else _own(waves, passport.spherical_waves_accepted, _WAVES),
        "longitudinal_colour_um": None
        if colour_um is None
        else tuple(_own(value, bounds, value) for value, bounds in zip(colour_um, accepted, strict=True)),
    }


def _world(made: BoardProfile, passport: Passport, objective: Objective) -> dict[str, Any]:
    """The flaws of the rehearsal's world: the aberrations that the objective does not declare, and the camera's."""
    scale = (objective.depth_of_field_um or _DEPTH_UM) / _DEPTH_UM
    colour = passport.longitudinal_colour_um or passport.longitudinal_colour_um_accepted
    usual = tuple(scale * value for value in _COLOUR_UM)
    flaws: dict[str, Any] = {
        "spherical_waves": _own(None, passport.spherical_waves or passport.spherical_waves_accepted, _WAVES),
        "longitudinal_colour_um": usual if colour is None else tuple(_own(None, bounds, 0.0) for bounds in colour),
    }
    processed = made.camera.response.kind == "unknown" and made.camera.colour and made.camera.bits == 8
    return flaws | (_PROCESSED if processed else {})


def _own(own: float | None, accepted: Range | None, otherwise: float) -> float:
    """The board's own value where it is accepted, else the middle of what is, else a usual one."""
    if accepted is None:
        return otherwise if own is None else own
    return own if own is not None and accepted[0] <= own <= accepted[1] else 0.5 * (accepted[0] + accepted[1])
