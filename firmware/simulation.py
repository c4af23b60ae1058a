"""World: the one small reality that simulated camera and simulated axis share without knowing each other.

A motor turns a screw with play; the screw carries the objective; under it lies a slide with many fields, each
with its own specimen, height and tilt. Everything drifts. Every flaw is seeded and has its own switch in the
board file's [simulation] table.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import ValidationError

from firmware.clock import Clock
from firmware.errors import ProfileError
from firmware.flaws import SimulationTable, unknown_kind
from firmware.frames import Pixels
from firmware.optics import Optics, PupilTable, depth_of_field_um
from firmware.processing import process
from firmware.profile import BoardProfile
from firmware.rendering import Field, Slide, make_slide, render
from firmware.specimens import KINDS
from firmware.table import explain

_REACH_UM = 60.0
# A stage that moves by less than this during an exposure, in depths of field, stands still.
_STANDS, _APART, _PARTS = 0.05, 0.1, 9


def read_simulation(profile: BoardProfile) -> SimulationTable:
    """The [simulation] table of a board, defaults where it is silent.

    Raises:
        ProfileError: It has an unknown key, an unknown specimen kind, or a value that cannot be.
    """
    try:
        return SimulationTable.model_validate(profile.simulation or {})
    except ValidationError as error:
        raise ProfileError(f"board {profile.name!r}, simulation: {explain(error)}") from error


class Stage:
    """Motor, screw and play: where the objective really is, in um (positive: away from the specimen).

    An axis that moves by itself says so by `follow`, which turns the motor to where it is now; whoever looks calls it.
    """

    def __init__(self, table: SimulationTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self._rng = np.random.default_rng([table.seed, 11])
        self._motor_um = 0.0
        self._carriage_um = 0.0
        self._moved_s = -math.inf
        self._swing_um = 0.0
        self.follow: Callable[[], None] | None = None

    @property
    def motor_um(self) -> float:
        """What the motor has turned."""
        self._catch_up()
        return self._motor_um

    @motor_um.setter
    def motor_um(self, z_um: float) -> None:
        self._motor_um = z_um

    @property
    def carriage_um(self) -> float:
        """Where the screw has carried the objective, ringing apart."""
        self._catch_up()
        return self._carriage_um

    @carriage_um.setter
    def carriage_um(self, z_um: float) -> None:
        self._carriage_um = z_um

    @property
    def moving(self) -> bool:
        """Whether it moves by itself, so that an exposure sees many heights."""
        return self.follow is not None

    def turn(self, distance_um: float, stops: bool = True) -> None:
        """Turn the motor; the carriage follows behind the play, and rings when it stops."""
        self._motor_um += distance_um * (1.0 + self._table.scale_error)
        half = self._table.backlash_um / 2
        self._carriage_um = min(max(self._carriage_um, self._motor_um - half), self._motor_um + half)
        self._moved_s = self._clock.now_s() if stops else -math.inf
        self._swing_um = math.copysign(self._table.vibration_um, distance_um)

    def slip(self) -> float:
        """How much of the coming leg the motor loses, in um (chance, seeded)."""
        lost = self._rng.uniform() < self._table.lost_step_chance
        return self._table.lost_step_um if lost else 0.0

    def z_um(self) -> float:
        """The objective's true height now, ringing included."""
        self._catch_up()
        since_s = self._clock.now_s() - self._moved_s
        if not math.isfinite(since_s):
            return self._carriage_um
        decay = math.exp(-since_s * 1e3 / self._table.vibration_decay_ms)
        phase = 2 * math.pi * self._table.vibration_hz * since_s
        return self._carriage_um + self._swing_um * decay * math.cos(phase)

    def _catch_up(self) -> None:
        follow = self.follow
        if follow is not None:
            follow()


@dataclass(frozen=True)
class Scene:
    """Everything a frame depends on, caught while it is exposed; rendering it can wait, or never happen.

    `defocus_um` is that of the slide's height 0 in the middle of the field, at mid-exposure; `way_um` is what it was
    throughout the exposure, at even distances of time, where the stage moved.
    """

    field: int
    kind: str
    defocus_um: float
    exposure_number: int
    way_um: tuple[float, ...] = ()


def passed_um(way_um: Sequence[float], depth_of_field_um: float) -> tuple[float, ...]:
    """The defoci whose light is averaged for an exposure on the way; one where they hardly differ.

    They lie a tenth of a depth of field apart at most, up to nine of them.
    """
    span_um = max(way_um) - min(way_um)
    if span_um <= _STANDS * depth_of_field_um:
        return (way_um[len(way_um) // 2],)
    count = min(math.ceil(span_um / (_APART * depth_of_field_um)) + 1, _PARTS)
    at = (np.arange(count) + 0.5) / count * len(way_um) - 0.5
    return tuple(np.interp(at, np.arange(len(way_um)), way_um).tolist())


@lru_cache(maxsize=4)
def _pupil_table(optics: Optics) -> PupilTable:
    """The table of one optics, which nobody changes: worlds of one kind often come one after the other."""
    return PupilTable(optics, _REACH_UM)


class World:
    """Slide, light and mechanics of a simulated board.

    `kind_of`, `truth_um` and `load_field` are the handle that tests, the demo and the simulation service
    hold; no driver touches them.
    """

    def __init__(self, profile: BoardProfile, clock: Clock) -> None:
        self.table = read_simulation(profile)
        self.stage = Stage(self.table, clock)
        self.field = 0
        self._profile = profile
        self._clock = clock
        self._began_s = clock.now_s()
        self._forced: dict[int, str] = {}
        self._exposures = 0
        self._lock = threading.Lock()
        self._slide: tuple[tuple[int, str, str], Slide, float] | None = None
        self._pupils: dict[str, PupilTable] = {}
        self._objective = profile.objective[0]
        self._sensor, self._processing = self.table.camera(profile.camera)
        if self._processing is not None and profile.camera.bits != 8:
            raise ProfileError(
                f"board {profile.name!r}: a camera that processes its frames gives 8 bits, not "
                f"{profile.camera.bits}; correct bits in [camera], or declare a raw or linear response"
            )

    def describe(self) -> dict[str, Any]:
        """The flaws as plain values, for Describe and the demo, with the aberrations of the objective in place."""
        waves, colour_um = self._aberrations()
        changed = {"spherical_waves": waves, "longitudinal_colour_um": colour_um}
        return self.table.model_copy(update=changed).model_dump(mode="json")

    def choose_objective(self, name: str) -> None:
        """Swing another of the board's objectives in; its parfocal offset shifts the focus."""
        self._objective = next(o for o in self._profile.objective if o.name == name)

    def load_field(self, field: int, kind: str = "") -> None:
        """Drive the slide to another field; `kind` overrides what chance put there.

        Raises:
            ProfileError: The number is negative, or there is no such kind of specimen.
        """
        if field < 0:
            raise ProfileError(f"fields are numbered from 0; there is no field {field}")
        if kind and kind not in KINDS:
            raise ProfileError(unknown_kind(kind))
        if kind:
            self._forced[field] = kind
        self.field = field

    def kind_of(self, field: int) -> str:
        """What lies in a field."""
        if field in self._forced:
            return self._forced[field]
        names, shares = list(self.table.kinds), np.asarray(list(self.table.kinds.values()))
        rng = np.random.default_rng([self.table.seed, 5, field])
        return str(rng.choice(names, p=shares / shares.sum()))

    def truth_um(self) -> float:
        """True defocus at the centre of the field, now, without ringing.

        A thick specimen is in focus where its mean height is, weighted by absorbance over the frame.
        """
        return self.stage.carriage_um - self._focus_um() - self._mean_height_um()

    def coverage(self) -> float:
        """Share of the field, seen sharply, that absorbs (or emits) more than 5 % in any colour."""
        return self._slide_of(self.field, self.kind_of(self.field))[0].frame_coverage()

    @property
    def depth_of_field_um(self) -> float:
        """Depth of field of the objective in place."""
        return self._objective.depth_of_field_um or depth_of_field_um(Optics().numerical_aperture)

    def defocus_um(self) -> float:
        """Of the slide's height 0 in the middle of the field, now, ringing included: what a camera sees."""
        return self.stage.z_um() - self._focus_um()

    def catch(self, way_um: Sequence[float] = ()) -> Scene:
        """Note what the camera sees now, or what it saw on the way: `defocus_um` at an odd number of moments."""
        with self._lock:
            self._exposures += 1
            number = self._exposures
        middle_um = way_um[len(way_um) // 2] if way_um else self.defocus_um()
        return Scene(self.field, self.kind_of(self.field), middle_um, number, tuple(way_um[1:] and way_um))

    def develop(self, scene: Scene) -> Pixels:
        """Render a scene as the board's camera hands it over: (H, W, 3), or (H, W) of one plane or a mosaic."""
        flaws, table = self.table, self._table_for_objective()
        slide, _ = self._slide_of(scene.field, scene.kind)
        field = Field((flaws.tilt_x_um, flaws.tilt_y_um), flaws.field_curvature_um, flaws.vignetting)
        heights_um = passed_um(scene.way_um or (scene.defocus_um,), self.depth_of_field_um)
        passed = [field.defocus_at(height_um, slide, table.optics.pixel_um) for height_um in heights_um]
        seed = (flaws.seed, 7, scene.exposure_number)
        counts = render(slide, table, passed, self._sensor, seed, field.vignetting)
        return counts if self._processing is None else process(counts, self._sensor, self._processing)

    def _mean_height_um(self) -> float:
        if self.table.layers == 1:
            return 0.0
        return self._slide_of(self.field, self.kind_of(self.field))[1]

    def _focus_um(self) -> float:
        """Height of best focus at the field's centre, now."""
        rng = np.random.default_rng([self.table.seed, 3, self.field])
        height = rng.uniform(-1, 1) * self.table.field_height_um
        drift = self.table.drift_um_per_min * (self._clock.now_s() - self._began_s) / 60.0
        return float(height) + drift + self._objective.parfocal_offset_um

    def _aberrations(self) -> tuple[float, tuple[float, float, float]]:
        """Spherical aberration and colour shifts as the objective in place declares them, or else [simulation]."""
        waves, colour_um = self._objective.spherical_waves, self._objective.longitudinal_colour_um
        return (
            self.table.spherical_waves if waves is None else waves,
            self.table.longitudinal_colour_um if colour_um is None else colour_um,
        )

    def _table_for_objective(self) -> PupilTable:
        name = self._objective.name
        if name not in self._pupils:
            known = self._profile.frame_optics(self._objective)
            if known.numerical_aperture is None or known.pixel_um is None:
                raise ProfileError(
                    f"board {self._profile.name!r}: to simulate light, the objective {name!r} needs "
                    "magnification and numerical_aperture, and the camera needs pixel_um"
                )
            optics = Optics(
                known.numerical_aperture,
                known.pixel_um,
                known.immersion_index,
                *self._aberrations(),
                coverslip_error_um=self.table.coverslip_error_um,
                condenser_ratio=self.table.condenser_ratio,
            )
            self._pupils[name] = _pupil_table(optics)
        return self._pupils[name]

    def _slide_of(self, field: int, kind: str) -> tuple[Slide, float]:
        """The slide in a field under the objective in place, and its mean height in um."""
        key, table = (field, kind, self._objective.name), self._table_for_objective()
        with self._lock:
            if self._slide is None or self._slide[0] != key:
                self._slide = None
                camera, flaws = self._profile.camera, self.table
                slide = make_slide(
                    kind,
                    (flaws.seed, 2, field),
                    table,
                    camera.height_px,
                    camera.width_px,
                    thickness_um=flaws.thickness_um,
                    layers=flaws.layers,
                )
                self._slide = (key, slide, slide.mean_height_um())
            return self._slide[1:]
