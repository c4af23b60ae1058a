"""The sensor: from light at its pixels to counts, with colour mixing, noise and quantisation (pure).

`count = black_level + charge * (full - black_level) / full_well_e`, rounded and clipped to 0 .. `full`, with
`full = 2**bits - 1`: no light gives the black level, a full well gives full scale, and read noise below zero
survives as far as the black level reaches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware.bayer import PATTERNS, colour_at

Floats = NDArray[np.float32]
Counts = NDArray[np.uint8] | NDArray[np.uint16]
_STRIP = 32


@dataclass(frozen=True)
class Sensor:
    """A camera as a counter of photons.

    `exposure` is the share of a full well that light 1.0 reaches: clear glass in bright field, the brightest
    stain in fluorescence. `gains` are the channels' relative responses; `crosstalk[i][j]` is the share of
    channel j that channel i sees. Charge is in electrons; `black_level` is in counts.

    `pattern` is "" for three full planes (red, green, blue), one of `bayer.PATTERNS` for a mosaic, "mono" for
    one plane that sums the colours with the weights `mono_response` (no filters: `gains` and `crosstalk` do
    not apply).
    """

    full_well_e: float = 9000.0
    read_noise_e: float = 8.0
    exposure: float = 0.82
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    crosstalk: tuple[tuple[float, float, float], ...] = (
        (0.90, 0.08, 0.02),
        (0.06, 0.88, 0.06),
        (0.02, 0.10, 0.88),
    )
    bits: int = 8
    pattern: str = ""
    black_level: float = 0.0
    mono_response: tuple[float, float, float] = (0.3, 0.45, 0.25)

    def __post_init__(self) -> None:
        if self.pattern not in ("", "mono", *PATTERNS):
            raise ValueError(f"unknown sensor pattern {self.pattern!r}; known: '', mono, {', '.join(PATTERNS)}")
        if not 0.0 <= self.black_level < self.full_scale:
            raise ValueError(f"a black level of {self.black_level:g} lies outside 0 to {self.full_scale} counts")

    @property
    def full_scale(self) -> int:
        """The largest count."""
        return int(2**self.bits - 1)

    def blank_frame(self, height_px: int, width_px: int) -> Counts:
        """Zeros for a frame: (H, W, 3), or (H, W) where one plane is measured; uint8 up to 8 bits, else uint16."""
        shape = (height_px, width_px) if self.pattern else (height_px, width_px, 3)
        return np.zeros(shape, np.uint8) if self.bits <= 8 else np.zeros(shape, np.uint16)


def expose(light: Floats, sensor: Sensor, rng: np.random.Generator, origin_px: tuple[int, int] = (0, 0)) -> Counts:
    """Turn light at the pixels into counts.

    Shot noise is Gaussian with the Poisson variance, which is exact enough above some ten electrons.

    Args:
        light: (3, H, W) float32, mean over each pixel; 1 is clear glass.
        sensor: The camera.
        rng: Of the noise.
        origin_px: Row and column of the sensor where this piece begins; decides the phase of a mosaic.

    Returns:
        (H, W, 3), or (H, W) where the sensor has a pattern; uint8 up to 8 bits, else uint16.
    """
    charge = _charge(light, sensor, origin_px)
    counts = np.empty(charge.shape, np.uint8 if sensor.bits <= 8 else np.uint16)
    for top in range(0, len(charge), _STRIP):
        rows = slice(top, top + _STRIP)
        counts[rows] = _counted(charge[rows], sensor, rng)
    return counts


def _counted(charge: Floats, sensor: Sensor, rng: np.random.Generator) -> Floats:
    """Counts of some rows, not cut to whole numbers yet, in place of their expected charge."""
    np.maximum(charge, 0.0, out=charge)
    spread = charge + np.float32(sensor.read_noise_e**2)
    np.sqrt(spread, out=spread)
    noise: Floats = rng.standard_normal(charge.shape, dtype=np.float32)
    noise *= spread
    charge += noise
    charge *= np.float32((sensor.full_scale - sensor.black_level) / sensor.full_well_e)
    charge += np.float32(sensor.black_level + 0.5)
    return np.clip(charge, 0.0, float(sensor.full_scale), out=charge)


def _charge(light: Floats, sensor: Sensor, origin_px: tuple[int, int]) -> Floats:
    """Expected charge in electrons at every pixel, in the shape of the counts."""
    electrons = np.float32(sensor.full_well_e * sensor.exposure)
    if sensor.pattern == "mono":
        weights = np.asarray(sensor.mono_response, np.float32) * electrons
        return np.asarray(np.tensordot(weights, light, axes=1), np.float32)
    mix = np.asarray(sensor.crosstalk, np.float32) * np.asarray(sensor.gains, np.float32)[:, None] * electrons
    if not sensor.pattern:
        return np.asarray(np.tensordot(light, mix, axes=([0], [1])), np.float32)
    charge = np.empty(light.shape[1:], np.float32)
    for row in range(2):
        for column in range(2):
            seen = colour_at(sensor.pattern, origin_px[0] + row, origin_px[1] + column)
            here = (slice(row, None, 2), slice(column, None, 2))
            charge[here] = np.tensordot(mix[seen], light[(slice(None), *here)], axes=1)
    return charge
