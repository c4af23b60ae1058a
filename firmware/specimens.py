"""Procedural specimens: what a slide absorbs or emits, per colour, on a fine grid (pure functions of a seed).

Absorbance is natural (transmission = exp(-absorbance)). Stain colours follow A. C. Ruifrok and D. A.
Johnston, Anal. Quant. Cytol. Histol. 23, 291 (2001).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware.texture import Floats, Shape, Steps, add_repeated, grain, noise, ridges, times

_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.09, 0.95, 0.25])
_BLOOD = np.array([0.12, 0.75, 0.95])
_DAPI = np.array([0.02, 0.08, 0.85])
_GREEN_DYE = np.array([0.05, 0.80, 0.06])
_RED_DYE = np.array([0.85, 0.10, 0.02])
_CELL_GLOW = np.array([0.03, 0.12, 0.06])


Stains = list[tuple[NDArray[np.float64], Floats]]
"""Absorbance or emission of each stain in red, green and blue (3,), and its amount on the grid (H, W)."""


@dataclass(frozen=True)
class Specimen:
    """Stains, and the light that they let through, or emit if they glow: (3, H, W) float32 of 0 to 1.

    1 is clear glass, or the brightest stain. It reads like an array (`optics.Light`) and works out what is read:
    most specimens have two stains, and to keep three colours takes half as much memory again. `share` is what is
    left of its absorbance, or of its emission.
    """

    stains: Stains
    glows: bool = False
    share: float = 1.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Colours, rows and columns."""
        height, width = self.stains[0][1].shape
        return 3, height, width

    def __getitem__(self, where: Any) -> Specimen | Floats:
        """One colour's light (h, w); behind a `:` for the colours, the specimen of some rows and columns."""
        colour, *place = where
        if isinstance(colour, slice):
            return replace(self, stains=[(acts, amount[tuple(place)]) for acts, amount in self.stains])
        return self._light(colour, tuple(place))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The light of all of it."""
        del copy
        return np.stack([self._light(c, ()) for c in range(3)]).astype(dtype or np.float32, copy=False)

    def _light(self, colour: int, place: tuple[Any, ...]) -> Floats:
        sign = 1 if self.glows else -1
        (first, amount), *others = self.stains
        light: Floats = amount[place] * np.float32(sign * first[colour])
        for acts, amount in others:
            light += amount[place] * np.float32(sign * acts[colour])
        if self.glows:
            np.clip(light, 0.0, 1.0, out=light)
        else:
            np.exp(light, out=light)
        if self.share != 1.0:
            weaken = np.multiply if self.glows else np.power
            weaken(light, np.float32(self.share), out=light)
        return light


def make_specimen(kind: str, rng: np.random.Generator, shape: Shape, pitch_um: float) -> Specimen:
    """One random specimen.

    Args:
        kind: A key of `KINDS`.
        rng: The only source of chance.
        shape: Rows and columns of the grid.
        pitch_um: Grid pitch in the specimen, um.
    """
    return Specimen(KINDS[kind](rng, shape, pitch_um), kind in GLOWING)


def _tissue(rng: np.random.Generator, shape: Shape, pitch_um: float) -> Stains:
    body = Steps(noise(rng, shape, pitch_um, rng.uniform(30, 90)), rng.uniform(-1.4, -0.3), 0.25)
    eosin = noise(rng, shape, pitch_um, 18)
    eosin *= 0.35
    eosin += 1
    eosin += times(noise(rng, shape, pitch_um, 5), 0.22)
    fine = times(noise(rng, shape, pitch_um, 1.6), 0.18)
    add_repeated(fine, rng.uniform(0.1, 0.3), grain(rng, pitch_um))
    eosin += fine
    del fine
    np.maximum(eosin, 0, out=eosin)
    eosin *= np.float32(rng.uniform(0.10, 0.35))
    for _ in range(2):
        lines = noise(rng, shape, pitch_um, rng.uniform(5, 14), stretch=rng.uniform(1, 3))
        strength = rng.uniform(0.1, 0.5)
        eosin += times(ridges(lines, rng.uniform(0.05, 0.14)), strength)
        del lines
    body.multiply(eosin)
    nuclei = np.zeros(shape, np.float32)
    density = rng.uniform(1 / 400, 1 / 90)
    _scatter(nuclei, rng, pitch_um, density, (1.8, 4.2), (0.6, 1.7), allowed=body)
    return [(_jitter(rng, _HAEMATOXYLIN), nuclei), (_jitter(rng, _EOSIN), eosin)]


def _smear(rng: np.random.Generator, shape: Shape, pitch_um: float) -> Stains:
    cytoplasm, nuclei, blood = (np.zeros(shape, np.float32) for _ in range(3))
    crowd = Steps(noise(rng, shape, pitch_um, 60), rng.uniform(-0.4, 0.5), 0.3)
    density = rng.uniform(1 / 4000, 1 / 1200)
    _scatter(cytoplasm, rng, pitch_um, density, (7, 18), (0.08, 0.3), nuclei, allowed=crowd)
    _scatter(blood, rng, pitch_um, rng.uniform(1 / 2000, 1 / 250), (2.6, 3.8), (0.15, 0.4), allowed=crowd)
    return [
        (_jitter(rng, _HAEMATOXYLIN), nuclei),
        (_jitter(rng, _EOSIN), cytoplasm),
        (_jitter(rng, _BLOOD), blood),
    ]


def _sparse(rng: np.random.Generator, shape: Shape, pitch_um: float) -> Stains:
    nuclei, cytoplasm = (np.zeros(shape, np.float32) for _ in range(2))
    crowd = Steps(noise(rng, shape, pitch_um, 45), rng.uniform(0.7, 1.0), 0.2)
    _scatter(cytoplasm, rng, pitch_um, 1 / 500, (4, 12), (0.1, 0.4), nuclei, allowed=crowd)
    return [(_jitter(rng, _HAEMATOXYLIN), nuclei), (_jitter(rng, _EOSIN), cytoplasm)]


def _fluorescence(rng: np.random.Generator, shape: Shape, pitch_um: float) -> Stains:
    """Cells: nuclei in blue, filaments in green, puncta in red, all in one dim body, on a haze of 1 to 3 %."""
    body, nuclei, puncta = (np.zeros(shape, np.float32) for _ in range(3))
    crowd = Steps(noise(rng, shape, pitch_um, 50), rng.uniform(-1.3, -0.2), 0.3)
    density = rng.uniform(1 / 1500, 1 / 500)
    _scatter(body, rng, pitch_um, density, (7, 16), (0.3, 1.0), nuclei, allowed=crowd)
    del crowd
    inside = np.minimum(body, 1, out=body)
    filaments = np.float32(rng.uniform(0.05, 0.2)) * inside
    for _ in range(2):
        lines = noise(rng, shape, pitch_um, rng.uniform(3, 9), stretch=rng.uniform(1, 3))
        strength = rng.uniform(0.2, 0.7)
        times(ridges(lines, rng.uniform(0.05, 0.12)), strength)
        lines *= inside
        filaments += lines
        del lines
    density = rng.uniform(1 / 250, 1 / 40)
    _scatter(puncta, rng, pitch_um, density, (0.2, 0.6), (0.2, 1.0), allowed=inside)
    bright = np.float32(rng.uniform(0.3, 1.0))
    haze = rng.uniform(0.01, 0.03) * rng.uniform(0.8, 1.0, 3)
    return [
        (_jitter(rng, _DAPI), times(nuclei, np.float32(0.7) * bright)),
        (_jitter(rng, _GREEN_DYE), times(filaments, bright)),
        (_jitter(rng, _RED_DYE), times(puncta, bright)),
        (_jitter(rng, _CELL_GLOW), times(inside, bright)),
        (haze, np.broadcast_to(np.float32(1), shape)),
    ]


def _blank(rng: np.random.Generator, shape: Shape, pitch_um: float) -> Stains:
    del rng, pitch_um
    return [(_EOSIN, np.broadcast_to(np.float32(0), shape))]


KINDS: dict[str, Callable[[np.random.Generator, Shape, float], Stains]] = {
    "tissue": _tissue,
    "smear": _smear,
    "sparse": _sparse,
    "fluorescence": _fluorescence,
    "blank": _blank,
}
GLOWING = frozenset({"fluorescence"})
"""The kinds that emit light on a dark ground."""


def _jitter(rng: np.random.Generator, colour: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(colour * rng.uniform(0.85, 1.15, 3), 0.02, 1.2)


def _scatter(
    into: Floats,
    rng: np.random.Generator,
    pitch_um: float,
    density_per_um2: float,
    radius_um: tuple[float, float],
    depth: tuple[float, float],
    nuclei: Floats | None = None,
    *,
    allowed: Floats | Steps,
) -> None:
    """Drop ellipses with a rim and grain where `allowed` is above chance; give each a nucleus if asked."""
    height, width = into.shape
    speckle = grain(rng, pitch_um)
    for _ in range(rng.poisson(density_per_um2 * height * width * pitch_um**2)):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        if allowed[int(y), int(x)] < rng.uniform():
            continue
        radius = rng.uniform(*radius_um)
        _ellipse(into, rng, (y, x), radius / pitch_um, rng.uniform(*depth), speckle)
        if nuclei is not None:
            radius = min(radius * 0.45, rng.uniform(2, 4))
            _ellipse(nuclei, rng, (y, x), radius / pitch_um, rng.uniform(0.6, 1.5), speckle)


def _ellipse(
    into: Floats,
    rng: np.random.Generator,
    centre: tuple[float, float],
    radius_px: float,
    depth: float,
    speckle: Floats,
) -> None:
    stretch, angle = rng.uniform(1.0, 1.6), rng.uniform(0, np.pi)
    reach = int(radius_px * stretch + 3)
    top, left = max(int(centre[0]) - reach, 0), max(int(centre[1]) - reach, 0)
    window = into[top : int(centre[0]) + reach, left : int(centre[1]) + reach]
    if window.size == 0:
        return
    dy = (np.arange(top, top + window.shape[0], dtype=np.float32) - np.float32(centre[0]))[:, None]
    dx = (np.arange(left, left + window.shape[1], dtype=np.float32) - np.float32(centre[1]))[None, :]
    c, s = np.float32(np.cos(angle) / stretch), np.float32(np.sin(angle) / stretch)
    along, across = c * dx + s * dy, (c * dy - s * dx) * np.float32(stretch)
    r = np.sqrt(along * along + across * across) / np.float32(radius_px)
    soft = np.float32(rng.uniform(0.04, 0.12))
    inside = np.clip((1 - r) / soft + np.float32(0.5), 0, 1)
    rim = np.float32(rng.uniform(0, 0.8)) * np.exp(-np.square((r - np.float32(0.9)) / np.float32(0.1)))
    oy, ox = rng.integers(0, 512 - window.shape[0] % 512, 2) if max(window.shape) < 512 else (0, 0)
    patch = speckle[oy : oy + window.shape[0], ox : ox + window.shape[1]]
    if patch.shape != window.shape:
        patch = np.resize(speckle, window.shape)
    body = 1 + rim + np.float32(rng.uniform(0.1, 0.45)) * patch
    window += np.float32(depth) * inside * np.maximum(body, 0)
