"""Response: how a camera's counts follow from light, as its board file declares it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from firmware.table import Table

Kind = Literal["linear", "raw", "tone", "unknown"]
Pattern = Literal["RGGB", "BGGR", "GRBG", "GBRG"]
Curve = Literal["linear", "srgb", "gamma"]
_ALL = {"pattern", "black_level", "curve", "gamma"}
_KEYS: dict[Kind, set[str]] = {
    "linear": {"black_level"},
    "raw": {"pattern", "black_level"},
    "tone": {"curve", "gamma"},
    "unknown": set(),
}


class Response(Table):
    """The [camera.response] table.

    `linear`: counts above `black_level` are in proportion to light. `raw`: likewise, one colour a pixel;
    `pattern` names those of the first two pixels of the first row, then of the second. `tone`: shaped by
    `curve` (`gamma` is its exponent), with whatever else the camera does. `unknown`: nothing is declared.
    `black_level` is the count at zero light.
    """

    kind: Kind = "unknown"
    pattern: Pattern | None = None
    black_level: float = Field(default=0.0, ge=0)
    curve: Curve | None = None
    gamma: float = Field(default=2.2, gt=0)

    @model_validator(mode="after")
    def _whole(self) -> Response:
        fields = type(self).model_fields
        stray = [key for key in sorted(_ALL - _KEYS[self.kind]) if getattr(self, key) != fields[key].default]
        if stray:
            takes = " and ".join(sorted(_KEYS[self.kind])) or "no other key"
            raise ValueError(f'{stray[0]} means nothing for kind = "{self.kind}", which takes {takes}; remove it')
        if self.kind == "raw" and self.pattern is None:
            raise ValueError('kind = "raw" needs a pattern: RGGB, BGGR, GRBG or GBRG')
        if self.kind == "tone" and self.curve is None:
            raise ValueError('kind = "tone" needs a curve: linear, srgb or gamma; if it is not known, say "unknown"')
        if self.curve != "gamma" and self.gamma != fields["gamma"].default:
            raise ValueError('gamma goes with curve = "gamma"; remove it, or change the curve')
        return self


UNDECLARED = Response()


def to_curve(linear: NDArray[np.floating], curve: Curve, gamma: float = 1.0) -> NDArray[np.floating]:
    """Display values 0..1 of linear light 0..1.

    `linear` is the identity, `gamma` is v = x^(1/gamma), `srgb` is IEC 61966-2-1's transfer function.
    """
    if curve == "srgb":
        return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)
    return linear ** (1.0 / gamma) if curve == "gamma" else linear


def from_curve(display: NDArray[np.floating], curve: Curve, gamma: float = 1.0) -> NDArray[np.floating]:
    """Linear light 0..1 of display values 0..1: the inverse of `to_curve`."""
    if curve == "srgb":
        return np.where(display <= 0.04045, display / 12.92, (np.maximum(display + 0.055, 0) / 1.055) ** 2.4)
    return display**gamma if curve == "gamma" else display


def inverse_lut(curve: Curve, gamma: float = 1.0) -> NDArray[np.float32]:
    """Linear light 0..1 of every 8-bit count: (256,) float32."""
    return from_curve(np.arange(256) / 255.0, curve, gamma).astype(np.float32)
