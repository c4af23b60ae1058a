"""The flaws of a simulated board: its [simulation] table, and the camera that follows from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field, PositiveFloat, field_validator, model_validator

from firmware.processing import Processing
from firmware.profile import CameraProfile
from firmware.response import Curve
from firmware.sensor import Sensor
from firmware.specimens import KINDS
from firmware.table import Table

_INNER_BITS = 12
_INNER_BLACK = 64.0


class SimulationTable(Table):
    """The flaws of a simulated board; zero switches one off, and the defaults of the others change nothing.

    Lengths in um of objective travel. `kinds` are the shares of the specimens. `tilt_x_um` and `tilt_y_um`
    are the slide's rise from edge to edge of the frame. `backlash_um` is the screw's play;
    `motor_direction` is which way it turns for a positive step. `lost_step_chance`
    is per leg of a move. `stale_frames` is how many frames the camera's pipeline holds back.
    `field_height_um` is the spread of focus from field to field.

    `spherical_waves` and `longitudinal_colour_um` are those of objectives that declare none. `coverslip_error_um`
    is how much thicker the coverslip is than the objective expects. `condenser_ratio` is the condenser's aperture
    over the objective's; 0 is incoherent light, anything else takes some hundred times as long. `layers` of
    specimen lie within `thickness_um`. `field_curvature_um` is the extra defocus in the corners, `vignetting` the
    share of light lost there.

    From `white_balance` on it is what a camera whose response is unknown does to its frames: see `Processing`.
    If all of it is off, such a camera gives linear frames of three full planes. The sensor's colours are weaker
    by the `white_balance`, so that clear glass comes out grey.
    """

    seed: int = Field(default=0, ge=0)
    kinds: dict[str, float] = Field(default={"tissue": 0.65, "smear": 0.25, "sparse": 0.10})
    spherical_waves: float = 0.15
    longitudinal_colour_um: tuple[float, float, float] = (0.5, 0.0, -0.4)
    coverslip_error_um: float = Field(default=0.0, ge=-200, le=200)
    condenser_ratio: float = Field(default=0.0, ge=0, le=1)
    thickness_um: float = Field(default=0.0, ge=0)
    layers: int = Field(default=1, ge=1, le=16)
    exposure: float = Field(default=0.82, gt=0, le=2.0)
    full_well_e: float = Field(default=9000.0, gt=0)
    read_noise_e: float = Field(default=8.0, ge=0)
    field_height_um: float = Field(default=3.0, ge=0)
    field_curvature_um: float = 0.0
    vignetting: float = Field(default=0.0, ge=0, lt=1)
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
    white_balance: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (1.0, 1.0, 1.0)
    saturation: float = Field(default=1.0, ge=0)
    curve: Curve = "linear"
    gamma: float = Field(default=2.2, gt=0)
    contrast: float = Field(default=0.0, ge=-1, le=1)
    sharpening: float = Field(default=0.0, ge=0)
    jpeg_quality: int = Field(default=0, ge=0, le=100)

    @field_validator("kinds")
    @classmethod
    def _shares(cls, kinds: dict[str, float]) -> dict[str, float]:
        for kind in kinds.keys() - KINDS.keys():
            raise ValueError(unknown_kind(kind))
        if min(kinds.values(), default=0.0) < 0.0 or not sum(kinds.values()) > 0.0:
            raise ValueError("the shares must not be negative, and one must be above zero")
        return kinds

    @model_validator(mode="after")
    def _layered(self) -> SimulationTable:
        if self.thickness_um and self.layers == 1:
            raise ValueError("a thickness_um needs two layers or more")
        return self

    def camera(self, camera: CameraProfile) -> tuple[Sensor, Processing | None]:
        """The sensor behind a camera that responds as its board file says, and what is done to its counts.

        `raw` and `linear` cameras hand over what their sensor counts (None). `tone` and `unknown` ones have a
        mosaic of 12 bits inside; the first do what they declare and no more, the second what this table says.
        """
        response = camera.response
        processing = self._processing()
        if response.kind == "tone":
            processing = Processing(curve=response.curve or "linear", gamma=response.gamma)
        plain = Sensor(
            self.full_well_e,
            self.read_noise_e,
            self.exposure,
            bits=camera.bits,
            pattern="" if camera.colour else "mono",
            black_level=response.black_level,
        )
        if response.kind == "raw":
            return replace(plain, pattern=response.pattern or ""), None
        if response.kind == "linear" or processing == Processing():
            return plain, None
        pattern = "RGGB" if camera.colour else "mono"
        inner = replace(plain, bits=_INNER_BITS, black_level=_INNER_BLACK, pattern=pattern)
        return replace(inner, gains=_weakened(processing.white_balance)), processing

    def _processing(self) -> Processing:
        return Processing(
            white_balance=self.white_balance,
            saturation=self.saturation,
            curve=self.curve,
            gamma=self.gamma if self.curve == "gamma" else 1.0,
            contrast=self.contrast,
            sharpening=self.sharpening,
            jpeg_quality=self.jpeg_quality,
        )


def _weakened(white_balance: tuple[float, float, float]) -> tuple[float, float, float]:
    """The gains of a sensor that the white balance makes grey; none is above 1, where clear glass would clip."""
    red, green, blue = white_balance
    least = min(1.0, red, green, blue)
    return least / red, least / green, least / blue


def unknown_kind(kind: str) -> str:
    """What to say to somebody who asks for a specimen that there is none of."""
    return f"unknown specimen kind {kind!r}; known: {', '.join(KINDS)}"
