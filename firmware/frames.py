"""A frame: pixels, and everything that must be known about how they came to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from firmware.response import UNDECLARED, Kind, Response

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""(H, W, 3) RGB, or (H, W) grey or a mosaic; 8 or 16 bit; larger is brighter."""

Contrast = Literal["brightfield", "fluorescence"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class FrameOptics:
    """What is known of the optics behind a frame; None where it is not known.

    `pixel_um` is the camera's pixel seen in the specimen; `colour` is False behind a monochrome camera;
    `response` is the kind that the camera declares. `spherical_waves` and `longitudinal_colour_um` are those
    of an objective that was measured.
    """

    numerical_aperture: float | None = None
    pixel_um: float | None = None
    immersion_index: float = 1.0
    objective: str = "unknown"
    colour: bool = True
    response: Kind = "unknown"
    contrast: Contrast = "brightfield"
    spherical_waves: float | None = None
    longitudinal_colour_um: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Frame:
    """One exposure.

    Full scale is `2**bits - 1` counts; `response` says how they follow from light. `z_um` is the axis position
    at mid-exposure (`captured_at_s`, board clock). `fresh` is False when the camera could not show that the
    exposure began after it was asked for.
    """

    pixels: Pixels
    z_um: float
    captured_at_s: float
    exposure_ms: float
    bits: int = 8
    fresh: bool = True
    board: str = ""
    optics: FrameOptics = FrameOptics()
    response: Response = UNDECLARED
    settings: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    @property
    def height_px(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    @property
    def width_px(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])

    @property
    def channels(self) -> int:
        """Colours at each pixel, once a mosaic is filled in: 1 or 3."""
        return 1 if self.pixels.ndim == 2 and self.response.kind != "raw" else 3
