"""A frame: pixels, and everything that must be known about how they came to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""(H, W, 3) RGB or (H, W) grey; 8 or 16 bit; larger is brighter."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class FrameOptics:
    """What is known of the optics behind a frame; None where it is not known.

    `pixel_um` is the camera's pixel seen in the specimen; `colour` is False behind a monochrome camera.
    """

    numerical_aperture: float | None = None
    pixel_um: float | None = None
    immersion_index: float = 1.0
    objective: str = "unknown"
    colour: bool = True


@dataclass(frozen=True)
class Frame:
    """One exposure.

    Full scale is `2**bits - 1` counts. `z_um` is the axis position at mid-exposure (`captured_at_s`, board
    clock). `fresh` is False when the
    camera could not show that the exposure began after it was asked for.
    """

    pixels: Pixels
    z_um: float
    captured_at_s: float
    exposure_ms: float
    bits: int = 8
    fresh: bool = True
    board: str = ""
    optics: FrameOptics = FrameOptics()
    settings: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    @property
    def height_px(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    @property
    def width_px(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])

    def as_rgb8(self) -> NDArray[np.uint8]:
        """The frame as (H, W, 3) uint8: full scale becomes 255 in every frame, grey is repeated."""
        pixels = self.pixels
        if self.bits != 8:
            scale = np.float32(255.0 / (2**self.bits - 1))
            pixels = np.minimum(pixels * scale + np.float32(0.5), 255).astype(np.uint8)
        if pixels.ndim == 2:
            return np.repeat(pixels[:, :, None], 3, axis=2).astype(np.uint8, copy=False)
        return pixels.astype(np.uint8, copy=False)
