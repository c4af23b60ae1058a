"""The board file: what is bolted to this microscope, read from TOML with unknown keys refused."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from firmware.errors import ProfileError
from firmware.frames import Contrast, FrameOptics
from firmware.optics import depth_of_field_um
from firmware.response import UNDECLARED, Response
from firmware.table import Table, explain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BOARDS = Path(__file__).parent / "boards"


class Objective(Table):
    """One objective; `magnification` and `numerical_aperture` may be unknown (a recording without them).

    `spherical_waves` (Seidel's W040 at 535 nm) and `longitudinal_colour_um` (where red, green and blue focus,
    positive: farther from the specimen) are given once they have been measured. A simulated board simulates what
    is given here, and for the rest what its [simulation] table says.
    """

    name: str
    magnification: float | None = Field(default=None, gt=0)
    numerical_aperture: float | None = Field(default=None, gt=0, lt=1.6)
    immersion_index: float = Field(default=1.0, ge=1.0, le=1.7)
    parfocal_offset_um: float = 0.0
    spherical_waves: float | None = None
    longitudinal_colour_um: tuple[float, float, float] | None = None

    @model_validator(mode="after")
    def _can_gather_so(self) -> Objective:
        aperture, index = self.numerical_aperture, self.immersion_index
        if aperture is not None and aperture >= index:
            raise ValueError(
                f"numerical_aperture {aperture:g} must lie below immersion_index {index:g}; correct either "
                "(oil has 1.515)"
            )
        return self

    @property
    def depth_of_field_um(self) -> float | None:
        """Depth of field at 535 nm, or None where the aperture is unknown."""
        if self.numerical_aperture is None:
            return None
        return depth_of_field_um(self.numerical_aperture, self.immersion_index)


class CameraProfile(Table):
    """A camera: `pixel_um` is the pitch on the sensor; `options` go to the driver, which checks them.

    `response` says what the driver hands over: a mosaic (H, W) where it is raw, else (H, W, 3) or grey (H, W).
    """

    driver: str
    width_px: int = Field(gt=0)
    height_px: int = Field(gt=0)
    pixel_um: float | None = Field(default=None, gt=0)
    colour: bool = True
    bits: int = Field(default=8, ge=8, le=16)
    exposure_ms: float = Field(default=8.0, gt=0)
    timeout_ms: float = Field(default=4000.0, gt=0)
    flush_frames: int = Field(default=8, ge=1)
    response: Response = UNDECLARED
    options: dict[str, Any] = Field(default={})

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """(H, W, 3) for colour, (H, W) for grey and for a mosaic."""
        planes = (3,) if self.colour and self.response.kind != "raw" else ()
        return (self.height_px, self.width_px, *planes)

    @model_validator(mode="after")
    def _can_respond_so(self) -> CameraProfile:
        full = 2**self.bits - 1
        if self.response.kind == "raw" and not self.colour:
            raise ValueError('a raw response needs colour = true; grey counts in proportion to light are "linear"')
        if self.response.kind == "tone" and self.bits != 8:
            raise ValueError(f"a tone curve needs frames of 8 bits, not {self.bits}; take 8 bits, or raw frames")
        if self.response.black_level >= full:
            raise ValueError(f"response.black_level must lie below full scale, {full} counts")
        return self


class AxisProfile(Table):
    """A Z axis. `z_um` grows away from the specimen; `direction` maps the motor's positive steps onto it.

    `homing` says how the axis learns where it is: a limit switch, `set-zero` inside a declared window, or a device
    that knows it by itself and is asked when it is opened.
    `backlash_um` is what the final approach takes out, always towards the specimen, so that the overshoot
    goes away from it. An axis that does not know where it is may move `blind_um` in all.
    `holds_without_power` says that the stage stays where it is while the motor has no power (a screw that locks
    itself, and no hand on it), so that a position may be believed after a restart. `nominal_um_per_step` is what the
    board file said of a step before it was measured; only a device that is sent micrometres needs it.
    """

    driver: str
    um_per_step: float = Field(gt=0)
    direction: Literal[1, -1] = 1
    low_um: float
    high_um: float
    homing: Literal["switch", "window", "device"] = "switch"
    home_at_start: bool = False
    backlash_um: float = Field(default=0.0, ge=0)
    settle_ms: float = Field(default=80.0, ge=0)
    speed_um_s: float = Field(default=400.0, gt=0)
    blind_um: float = Field(default=5.0, gt=0)
    holds_without_power: bool = False
    nominal_um_per_step: float | None = Field(default=None, gt=0)
    options: dict[str, Any] = Field(default={})

    @property
    def um_per_step_sent(self) -> float:
        """What a step is in the micrometres of a device that counts in its own."""
        return self.nominal_um_per_step or self.um_per_step

    @property
    def position_key(self) -> str:
        """What a count of steps means; a position that was counted by another is worth nothing.

        The zero of an axis with a switch hangs on its limits, at one of which the switch is.
        """
        parts = [self.driver, self.direction, self.um_per_step, self.homing, sorted(self.options.items())]
        if self.homing == "switch":
            parts += [self.low_um, self.high_um]
        return f"{self.driver}-{zlib.crc32(repr(parts).encode()):08x}"

    @model_validator(mode="after")
    def _ordered(self) -> AxisProfile:
        if not self.low_um < self.high_um:
            raise ValueError("low_um must lie below high_um")
        if self.home_at_start and self.homing != "switch":
            raise ValueError("home_at_start needs a limit switch; an axis with a window is used after set-zero")
        return self


class FocusProfile(Table):
    """How far a job may go from where it starts (less towards the specimen), and how a sweep steps."""

    strategy: str = "single_shot"
    towards_um: float = Field(default=30.0, gt=0)
    away_um: float = Field(default=60.0, gt=0)
    path_um: float = Field(default=1000.0, gt=0)
    sweep_coarse_um: float = Field(default=3.0, gt=0)
    sweep_fine_um: float = Field(default=0.5, gt=0)
    sweep_half_range_um: float = Field(default=30.0, gt=0)


class BoardProfile(Table):
    """Everything that is particular about one board; `contrast` is how the specimen is made visible."""

    name: str
    description: str
    contrast: Contrast = "brightfield"
    objective: tuple[Objective, ...] = Field(min_length=1)
    camera: CameraProfile
    axis: AxisProfile
    focus: FocusProfile = FocusProfile()
    simulation: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _distinct_objectives(self) -> BoardProfile:
        names = [o.name for o in self.objective]
        if len(set(names)) != len(names):
            raise ValueError("two objectives have one name")
        return self

    def frame_optics(self, objective: Objective) -> FrameOptics:
        """What a frame through this objective carries along."""
        camera, magnification = self.camera.pixel_um, objective.magnification
        return FrameOptics(
            numerical_aperture=objective.numerical_aperture,
            pixel_um=camera / magnification if camera and magnification else None,
            immersion_index=objective.immersion_index,
            objective=objective.name,
            colour=self.camera.colour,
            response=self.camera.response.kind,
            contrast=self.contrast,
            spherical_waves=objective.spherical_waves,
            longitudinal_colour_um=objective.longitudinal_colour_um,
        )


def load_profile(name: str) -> BoardProfile:
    """Read a board by name (from boards/) or by the path of a TOML file.

    Raises:
        ProfileError: There is none, it is not TOML, or a key or value is wrong; the message names it.
    """
    path = Path(name) if name.endswith(".toml") else BOARDS / f"{name}.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        choice = f"give a .toml file or one of: {', '.join(board_names())}"
        raise ProfileError(f"cannot read the board {name!r} ({error}); {choice}") from error
    try:
        return BoardProfile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise ProfileError(f"{path}: {explain(error)}") from error


def board_names() -> list[str]:
    """The boards that ship."""
    return sorted(p.stem for p in BOARDS.glob("*.toml"))
