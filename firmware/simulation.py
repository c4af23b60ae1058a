"""World: the one small reality that simulated camera and simulated axis share without knowing each other.

A motor turns a screw with play; the screw carries the objective; under it lies a slide with many fields, each
with its own specimen, height and tilt. Everything drifts. Every flaw is seeded and has its own switch in the
board file's [simulation] table.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, field_validator

from firmware.clock import Clock
from firmware.errors import ProfileError
from firmware.frames import Pixels
from firmware.optics import Optics, PupilTable, Sensor, depth_of_field_um
from firmware.profile import BoardProfile, Table, explain
from firmware.rendering import Slide, make_slide, render
from firmware.specimens import KINDS

_REACH_UM = 60.0


class SimulationTable(Table):
    """The flaws of a simulated board; zero switches one off.

    Lengths in um of objective travel. `kinds` are the shares of the specimens. `tilt_x_um` and `tilt_y_um`
    are the slide's rise from edge to edge of the frame. `backlash_um` is the screw's play;
    `motor_direction` is which way it turns for a positive step. `lost_step_chance`
    is per leg of a move. `stale_frames` is how many frames the camera's pipeline holds back.
    `field_height_um` is the spread of focus from field to field.
    """

    seed: int = Field(default=0, ge=0)
    kinds: dict[str, float] = Field(default={"tissue": 0.65, "smear": 0.25, "sparse": 0.10})
    spherical_waves: float = 0.15
    longitudinal_colour_um: tuple[float, float, float] = (0.5, 0.0, -0.4)
    exposure: float = Field(default=0.82, gt=0, le=2.0)
    full_well_e: float = Field(default=9000.0, gt=0)
    read_noise_e: float = Field(default=8.0, ge=0)
    field_height_um: float = Field(default=3.0, ge=0)
    tilt_x_um: float = 0.0
    tilt_y_um: float = 0.0
    drift_um_per_min: float = 0.0
    backlash_um: float = Field(default=0.0, ge=0)
    motor_direction: Literal[1, -1] = 1
    scale_error: float = Field(default=0.0, gt=-0.5, lt=0.5)
    lost_step_chance: float = Field(default=0.0, ge=0, le=1)
    lost_step_um: float = Field(default=0.0, ge=0)
    vibration_um: float = Field(default=0.0, ge=0)
    vibration_hz: float = Field(default=35.0, gt=0)
    vibration_decay_ms: float = Field(default=40.0, gt=0)
    stale_frames: int = Field(default=0, ge=0, le=16)

    @field_validator("kinds")
    @classmethod
    def _shares(cls, kinds: dict[str, float]) -> dict[str, float]:
        for kind in kinds.keys() - KINDS.keys():
            raise ValueError(_unknown(kind))
        if min(kinds.values(), default=0.0) < 0.0 or not sum(kinds.values()) > 0.0:
            raise ValueError("the shares must not be negative, and one must be above zero")
        return kinds


def _unknown(kind: str) -> str:
    return f"unknown specimen kind {kind!r}; known: {', '.join(KINDS)}"


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
    """Motor, screw and play: where the objective really is, in um (positive: away from the specimen)."""

    def __init__(self, table: SimulationTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self._rng = np.random.default_rng([table.seed, 11])
        self.motor_um = 0.0
        self.carriage_um = 0.0
        self._moved_s = -math.inf
        self._swing_um = 0.0

    def turn(self, distance_um: float) -> None:
        """Turn the motor; the carriage follows behind the play."""
        self.motor_um += distance_um * (1.0 + self._table.scale_error)
        half = self._table.backlash_um / 2
        self.carriage_um = min(max(self.carriage_um, self.motor_um - half), self.motor_um + half)
        self._moved_s = self._clock.now_s()
        self._swing_um = math.copysign(self._table.vibration_um, distance_um)

    def slip(self) -> float:
        """How much of the coming leg the motor loses, in um (chance, seeded)."""
        lost = self._rng.uniform() < self._table.lost_step_chance
        return self._table.lost_step_um if lost else 0.0

    def z_um(self) -> float:
        """The objective's true height now, ringing included."""
        since_s = self._clock.now_s() - self._moved_s
        if not math.isfinite(since_s):
            return self.carriage_um
        decay = math.exp(-since_s * 1e3 / self._table.vibration_decay_ms)
        phase = 2 * math.pi * self._table.vibration_hz * since_s
        return self.carriage_um + self._swing_um * decay * math.cos(phase)


@dataclass(frozen=True)
class Scene:
    """Everything a frame depends on, caught at mid-exposure; rendering it can wait, or never happen."""

    field: int
    kind: str
    defocus_um: float
    exposure_number: int


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
        self._slide: tuple[tuple[int, str, str], Slide] | None = None
        self._pupils: dict[str, PupilTable] = {}
        self._objective = profile.objective[0]

    def describe(self) -> dict[str, Any]:
        """The flaws as plain values, for Describe and the demo."""
        return self.table.model_dump(mode="json")

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
            raise ProfileError(_unknown(kind))
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
        """True defocus at the centre of the field, now, without ringing."""
        return self.stage.carriage_um - self._focus_um()

    def coverage(self) -> float:
        """Share of the field, seen sharply, that absorbs more than 5 % of any colour."""
        table = self._table_for_objective()
        light = self._slide_of(Scene(self.field, self.kind_of(self.field), 0.0, 0), table).light
        return float((light[:, ::8, ::8].min(axis=0) < 0.95).mean())

    @property
    def depth_of_field_um(self) -> float:
        """Depth of field of the objective in place."""
        return self._objective.depth_of_field_um or depth_of_field_um(Optics().numerical_aperture)

    def catch(self) -> Scene:
        """Note what the camera sees at this moment."""
        with self._lock:
            self._exposures += 1
            number = self._exposures
        return Scene(self.field, self.kind_of(self.field), self.stage.z_um() - self._focus_um(), number)

    def develop(self, scene: Scene) -> Pixels:
        """Render a scene: (H, W, 3) counts."""
        camera, table = self._profile.camera, self._table_for_objective()
        slide = self._slide_of(scene, table)
        high_um = camera.height_px * table.optics.pixel_um
        wide_um = camera.width_px * table.optics.pixel_um

        def defocus_at(x_um: float, y_um: float) -> float:
            rise = self.table.tilt_x_um * x_um / wide_um + self.table.tilt_y_um * y_um / high_um
            return scene.defocus_um - rise

        flaws = self.table
        sensor = Sensor(flaws.full_well_e, flaws.read_noise_e, flaws.exposure, bits=camera.bits)
        return render(slide, table, defocus_at, sensor, (flaws.seed, 7, scene.exposure_number))

    def _focus_um(self) -> float:
        """Height of best focus at the field's centre, now."""
        rng = np.random.default_rng([self.table.seed, 3, self.field])
        height = rng.uniform(-1, 1) * self.table.field_height_um
        drift = self.table.drift_um_per_min * (self._clock.now_s() - self._began_s) / 60.0
        return float(height) + drift + self._objective.parfocal_offset_um

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
                self.table.spherical_waves,
                self.table.longitudinal_colour_um,
            )
            self._pupils[name] = PupilTable(optics, _REACH_UM)
        return self._pupils[name]

    def _slide_of(self, scene: Scene, table: PupilTable) -> Slide:
        key = (scene.field, scene.kind, self._objective.name)
        with self._lock:
            if self._slide is None or self._slide[0] != key:
                self._slide = None
                high, wide = self._profile.camera.height_px, self._profile.camera.width_px
                seed = (self.table.seed, 2, scene.field)
                self._slide = (key, make_slide(scene.kind, seed, table, high, wide))
            return self._slide[1]
