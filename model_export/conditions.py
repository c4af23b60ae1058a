"""Conditions: the microscopes, cameras and slides that a recipe trains on or an evaluation set tests, as ranges.

One draw is one slide under one microscope before one camera. Recipes and evaluation sets state the same table,
so that what is trained and what is tested differ in numbers only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from edge_app.linear import rgb8
from firmware.frames import Frame, FrameOptics, Pixels
from firmware.optics import Optics
from firmware.processing import Processing, process
from firmware.response import Pattern, Response
from firmware.sensor import Sensor
from firmware.specimens import KINDS

Range = tuple[float, float]
_PATTERNS: tuple[Pattern, ...] = ("RGGB", "BGGR", "GRBG", "GBRG")


class OpticsTable(BaseModel):
    """The light path. A pair is a range to draw from; lengths in um.

    `longitudinal_colour_um` is that of the typical objective (red, green, blue), `longitudinal_colour_scale`
    what it is multiplied by. `wavelength_shift_nm` moves each colour's lines up to so far. `exposure` is the
    share of full scale that clear glass reaches.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    magnification: float
    camera_pixel_um: float
    numerical_aperture: Range
    pixel_um: Range
    spherical_waves: Range
    longitudinal_colour_um: tuple[float, float, float] = (0.5, 0.0, -0.4)
    longitudinal_colour_scale: Range
    wavelength_shift_nm: float
    coverslip_error_um: Range = (0.0, 0.0)
    condenser_ratio: Range = (0.0, 0.0)
    exposure: Range
    gain_spread: float
    full_well_e: Range
    read_noise_e: Range

    def middle(self, share: float) -> OpticsTable:
        """The same with every range cut to this share of it, around its middle."""
        cut: dict[str, Range | float] = {"wavelength_shift_nm": self.wavelength_shift_nm * share}
        for name, value in self:
            if isinstance(value, tuple) and len(value) == 2:
                middle, half = (value[0] + value[1]) / 2, share * (value[1] - value[0]) / 2
                cut[name] = (middle - half, middle + half)
        return self.model_copy(update=cut)

    def draw(self, rng: np.random.Generator) -> Optics:
        """One microscope."""
        nominal = Optics()
        shift = rng.uniform(-1, 1, 3) * self.wavelength_shift_nm
        shifted = [np.add(lines, s) for lines, s in zip(nominal.lines_nm, shift, strict=True)]
        colour = rng.uniform(*self.longitudinal_colour_scale) * np.asarray(self.longitudinal_colour_um)
        return Optics(
            numerical_aperture=rng.uniform(*self.numerical_aperture),
            pixel_um=rng.uniform(*self.pixel_um),
            spherical_waves=rng.uniform(*self.spherical_waves),
            longitudinal_colour_um=(float(colour[0]), float(colour[1]), float(colour[2])),
            lines_nm=tuple(tuple(lines.tolist()) for lines in shifted),
            coverslip_error_um=rng.uniform(*self.coverslip_error_um),
            condenser_ratio=rng.uniform(*self.condenser_ratio),
        )


class CameraTable(BaseModel):
    """The camera's electronics.

    `response` is what the board file declares: `linear` (three full planes), `raw` (a mosaic of `bits` with a
    black level in counts), `unknown` (a mosaic that the camera itself turns into an 8-bit picture: white balance,
    saturation, sRGB curve or gamma, contrast, sharpening, JPEG). Red and blue pixels are weaker by the white
    balance's gains, so that clear glass comes out about grey. `plain_share` of the unknown cameras hand over
    linear frames without saying so. `monochrome` cameras have one plane.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    response: Literal["linear", "raw", "unknown"] = "linear"
    monochrome: bool = False
    bits: int = 8
    black_level: Range = (0.0, 0.0)
    white_balance: Range = (1.0, 1.0)
    saturation: Range = (1.0, 1.0)
    gamma: Range = (2.2, 2.2)
    srgb_share: float = 1.0
    contrast: Range = (0.0, 0.0)
    sharpening: Range = (0.0, 0.0)
    sharpening_radius_px: Range = (1.0, 1.0)
    jpeg_quality: tuple[int, int] = (0, 0)
    plain_share: float = 0.0


class SlideTable(BaseModel):
    """The specimens: shares of their kinds, how thick, how tilted, and how unevenly lit.

    `thick_share` of the slides have `layers` within a thickness drawn from `thickness_um`; the others are thin.
    `tilt_um` is the largest rise from edge to edge of a frame, `field_curvature_um` the largest extra defocus
    in a corner, `vignetting` the share of light lost there. `blank_at_least` is the share of a frame's patches
    of 224 pixels that are covered to less than 2 %; slides that have fewer are drawn again.

    The last four shape whole frames; training, which draws tiles, does not know them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kinds: dict[str, float]
    thick_share: float = 0.0
    thickness_um: Range = (0.0, 0.0)
    layers: int = 3
    tilt_um: float = 0.0
    field_curvature_um: float = 0.0
    vignetting: Range = (0.0, 0.0)
    blank_at_least: float = Field(default=0.0, ge=0, le=1)

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: dict[str, float]) -> dict[str, float]:
        known = ", ".join(KINDS)
        if not kinds:
            raise ValueError(f"give the share of at least one kind of specimen; the kinds are: {known}")
        for kind, share in kinds.items():
            if kind not in KINDS:
                raise ValueError(f"there is no kind of specimen {kind!r}; the kinds are: {known}")
            if not 0 < share < float("inf"):
                raise ValueError(f"the share of {kind!r} must be above 0; leave the kind out if there is none")
        return kinds


class Conditions(BaseModel):
    """What is drawn from; `share` is its weight among a recipe's conditions.

    `known` says that the board file would declare these optics' aberrations.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(default=1.0, gt=0)
    known: bool = False
    contrast: Literal["brightfield", "fluorescence"] = "brightfield"
    optics: OpticsTable
    camera: CameraTable = CameraTable()
    slide: SlideTable

    def thicker(self) -> Conditions:
        """The same with thick slides from the thicker half of their range."""
        low, high = self.slide.thickness_um
        return self.model_copy(
            update={"slide": self.slide.model_copy(update={"thickness_um": ((low + high) / 2, high)})}
        )

    def middle(self, share: float) -> Conditions:
        """The same with the optics' ranges cut to this share of them, around their middle."""
        return self.model_copy(update={"optics": self.optics.middle(share)})

    def draw(self, rng: np.random.Generator, quantile: float | None = None) -> Setting:
        """One slide under one microscope before one camera.

        Args:
            rng: The source of chance.
            quantile: Which kind of specimen, 0 to 1 along the shares of the kinds, for a stratified set.
        """
        slide = self.slide
        shares = np.cumsum(list(slide.kinds.values()))
        place = rng.uniform() if quantile is None else quantile
        kind = list(slide.kinds)[int(np.searchsorted(shares, place * shares[-1]))]
        thick = rng.uniform() < slide.thick_share
        optics = self.optics.draw(rng)
        sensor, processing, response = self.draw_camera(rng)
        tilt = rng.uniform(-1, 1, 2) * slide.tilt_um
        return Setting(
            conditions=self,
            kind=kind,
            optics=optics,
            sensor=sensor,
            processing=processing,
            response=response,
            thickness_um=rng.uniform(*slide.thickness_um) if thick else 0.0,
            tilt_um=(float(tilt[0]), float(tilt[1])),
            field_curvature_um=rng.uniform(-1, 1) * slide.field_curvature_um,
            vignetting=rng.uniform(*slide.vignetting),
        )

    def draw_camera(self, rng: np.random.Generator) -> tuple[Sensor, Processing | None, Response]:
        """A camera's sensor, what it does to its counts, and what the board file declares of both."""
        light, camera = self.optics, self.camera
        gains = 1 + rng.uniform(-1, 0, 3) * light.gain_spread
        sensor = Sensor(
            full_well_e=rng.uniform(*light.full_well_e),
            read_noise_e=rng.uniform(*light.read_noise_e),
            exposure=rng.uniform(*light.exposure),
            gains=(float(gains[0]), float(gains[1]), float(gains[2])),
            bits=camera.bits,
            black_level=float(round(rng.uniform(*camera.black_level))),
            pattern="mono" if camera.monochrome else "",
        )
        pattern = _PATTERNS[int(rng.integers(len(_PATTERNS)))]
        if camera.monochrome or camera.response == "linear":
            kind: Literal["linear", "unknown"] = "unknown" if camera.response == "unknown" else "linear"
            return sensor, None, Response(kind=kind, black_level=sensor.black_level)
        if camera.response == "raw":
            mosaic = Response(kind="raw", pattern=pattern, black_level=sensor.black_level)
            return replace(sensor, pattern=pattern), None, mosaic
        if rng.uniform() < camera.plain_share:
            return replace(sensor, bits=8, black_level=0.0), None, Response()
        red, blue = rng.uniform(*camera.white_balance, 2).tolist()
        weak = (sensor.gains[0] / red, sensor.gains[1], sensor.gains[2] / blue)
        return replace(sensor, pattern=pattern, gains=weak), self._processing(rng, red, blue), Response()

    def _processing(self, rng: np.random.Generator, red: float, blue: float) -> Processing:
        camera = self.camera
        srgb = rng.uniform() < camera.srgb_share
        low, high = camera.jpeg_quality
        return Processing(
            white_balance=(red, 1.0, blue),
            saturation=rng.uniform(*camera.saturation),
            curve="srgb" if srgb else "gamma",
            gamma=1.0 if srgb else rng.uniform(*camera.gamma),
            contrast=rng.uniform(*camera.contrast),
            sharpening=rng.uniform(*camera.sharpening),
            sharpening_radius_px=rng.uniform(*camera.sharpening_radius_px),
            jpeg_quality=int(rng.integers(low, high + 1)),
        )


@dataclass(frozen=True)
class Setting:
    """One draw: a kind of specimen, the optics above it and the camera on top."""

    conditions: Conditions
    kind: str
    optics: Optics
    sensor: Sensor
    processing: Processing | None
    response: Response
    thickness_um: float
    tilt_um: tuple[float, float]
    field_curvature_um: float
    vignetting: float

    def frame_optics(self) -> FrameOptics:
        """What the board file would say of these optics: the type of the objective, not its deviations."""
        table = self.conditions.optics
        return FrameOptics(
            numerical_aperture=round(float(np.mean(table.numerical_aperture)), 4),
            pixel_um=table.camera_pixel_um / table.magnification,
            colour=not self.conditions.camera.monochrome,
            response=self.response.kind,
            contrast=self.conditions.contrast,
            spherical_waves=float(np.mean(table.spherical_waves)) if self.conditions.known else None,
            longitudinal_colour_um=table.longitudinal_colour_um if self.conditions.known else None,
        )

    def with_camera(self, rng: np.random.Generator) -> Setting:
        """The same slide and optics before another camera."""
        sensor, processing, response = self.conditions.draw_camera(rng)
        return replace(self, sensor=sensor, processing=processing, response=response)

    def frame(self, counts: Pixels) -> Frame:
        """The frame that a camera driver would hand over, of the sensor's counts."""
        pixels: Pixels = counts if self.processing is None else process(counts, self.sensor, self.processing)
        bits = self.sensor.bits if self.processing is None else 8
        return Frame(pixels, 0.0, 0.0, 1.0, bits, optics=self.frame_optics(), response=self.response)

    def seen(self, counts: Pixels) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 as a network sees the sensor's counts, by the line that serves."""
        return rgb8(self.frame(counts))
