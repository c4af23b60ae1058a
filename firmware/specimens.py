"""Procedural specimens: what a slide absorbs or emits, per colour, on a fine grid (pure functions of a seed).

Absorbance is natural (transmission = exp(-absorbance)). Stain colours follow A. C. Ruifrok and D. A.
Johnston, Anal. Quant. Cytol. Histol. 23, 291 (2001).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Shape = tuple[int, int]
_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.09, 0.95, 0.25])
_BLOOD = np.array([0.12, 0.75, 0.95])
_DAPI = np.array([0.02, 0.08, 0.85])
_GREEN_DYE = np.array([0.05, 0.80, 0.06])
_RED_DYE = np.array([0.85, 0.10, 0.02])
_CELL_GLOW = np.array([0.03, 0.12, 0.06])


def transmission(kind: str, rng: np.random.Generator, shape: Shape, pitch_um: float) -> Floats:
    """Light that one random specimen sends to the objective: let through, or emitted by the kinds that glow.

    Args:
        kind: A key of `KINDS`.
        rng: The only source of chance.
        shape: Rows and columns of the grid.
        pitch_um: Grid pitch in the specimen, um.

    Returns:
        (3, H, W) float32 for red, green and blue, 0 to 1: 1 is clear glass, or the brightest stain.
    """
    stains = KINDS[kind](rng, shape, pitch_um)
    light = np.zeros((3, *shape), np.float32)
    for colour, amount in stains:
        for c in range(3):
            light[c] -= np.float32(colour[c]) * amount
    if kind in GLOWING:
        return np.clip(np.negative(light, out=light), 0.0, 1.0, out=light)
    return np.exp(light, out=light)


Stains = list[tuple[NDArray[np.float64], Floats]]


def _tissue(rng: np.random.Generator, shape: Shape, pitch_um: float) -> Stains:
    body = _smoothstep(_noise(rng, shape, pitch_um, rng.uniform(30, 90)), rng.uniform(-1.4, -0.3), 0.25)
    ground = 1 + 0.35 * _noise(rng, shape, pitch_um, 18) + 0.22 * _noise(rng, shape, pitch_um, 5)
    fine = 0.18 * _noise(rng, shape, pitch_um, 1.6)
    ground += fine + rng.uniform(0.1, 0.3) * _texture(rng, shape, pitch_um)
    eosin = np.maximum(ground, 0) * np.float32(rng.uniform(0.10, 0.35))
    for _ in range(2):
        lines = _noise(rng, shape, pitch_um, rng.uniform(5, 14), stretch=rng.uniform(1, 3))
        eosin += np.float32(rng.uniform(0.1, 0.5)) * np.exp(-np.square(lines / rng.uniform(0.05, 0.14)))
    eosin *= body
    nuclei = np.zeros(shape, np.float32)
    density = rng.uniform(1 / 400, 1 / 90)
    _scatter(nuclei, rng, pitch_um, density, (1.8, 4.2), (0.6, 1.7), allowed=body)
    return [(_jitter(rng, _HAEMATOXYLIN), nuclei), (_jitter(rng, _EOSIN), eosin)]


def _smear(rng: np.random.Generator, shape: Shape, pitch_um: float) -> Stains:
    cytoplasm, nuclei, blood = (np.zeros(shape, np.float32) for _ in range(3))
    crowd = _smoothstep(_noise(rng, shape, pitch_um, 60), rng.uniform(-0.4, 0.5), 0.3)
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
    crowd = _smoothstep(_noise(rng, shape, pitch_um, 45), rng.uniform(0.7, 1.0), 0.2)
    _scatter(cytoplasm, rng, pitch_um, 1 / 500, (4, 12), (0.1, 0.4), nuclei, allowed=crowd)
    return [(_jitter(rng, _HAEMATOXYLIN), nuclei), (_jitter(rng, _EOSIN), cytoplasm)]


def _fluorescence(rng: np.random.Generator, shape: Shape, pitch_um: float) -> Stains:
    """Cells: nuclei in blue, filaments in green, puncta in red, all in one dim body, on a haze of 1 to 3 %."""
    body, nuclei, puncta = (np.zeros(shape, np.float32) for _ in range(3))
    crowd = _smoothstep(_noise(rng, shape, pitch_um, 50), rng.uniform(-1.3, -0.2), 0.3)
    density = rng.uniform(1 / 1500, 1 / 500)
    _scatter(body, rng, pitch_um, density, (7, 16), (0.3, 1.0), nuclei, allowed=crowd)
    inside = np.minimum(body, 1)
    filaments = np.float32(rng.uniform(0.05, 0.2)) * inside
    for _ in range(2):
        lines = _noise(rng, shape, pitch_um, rng.uniform(3, 9), stretch=rng.uniform(1, 3))
        filaments += np.float32(rng.uniform(0.2, 0.7)) * np.exp(-np.square(lines / rng.uniform(0.05, 0.12))) * inside
    density = rng.uniform(1 / 250, 1 / 40)
    _scatter(puncta, rng, pitch_um, density, (0.2, 0.6), (0.2, 1.0), allowed=inside)
    bright = np.float32(rng.uniform(0.3, 1.0))
    haze = rng.uniform(0.01, 0.03) * rng.uniform(0.8, 1.0, 3)
    return [
        (_jitter(rng, _DAPI), nuclei * (np.float32(0.7) * bright)),
        (_jitter(rng, _GREEN_DYE), filaments * bright),
        (_jitter(rng, _RED_DYE), puncta * bright),
        (_jitter(rng, _CELL_GLOW), inside * bright),
        (haze, np.ones(shape, np.float32)),
    ]


def _blank(rng: np.random.Generator, shape: Shape, pitch_um: float) -> Stains:
    del rng, pitch_um
    return [(_EOSIN, np.zeros(shape, np.float32))]


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


def _smoothstep(field: Floats, edge: float, width: float) -> Floats:
    x: Floats = np.clip((field - np.float32(edge)) / np.float32(width) + np.float32(0.5), 0, 1)
    return x * x * (3 - 2 * x)


def _noise(rng: np.random.Generator, shape: Shape, pitch_um: float, scale_um: float, stretch: float = 1.0) -> Floats:
    """Smooth noise of unit variance: white noise on a coarse grid, interpolated by cubic B-splines."""
    rows = _spline(rng, shape[0], pitch_um, scale_um / 2)
    columns = _spline(rng, shape[1], pitch_um, scale_um * stretch / 2)
    coarse = rng.standard_normal((rows.shape[1], columns.shape[1]), dtype=np.float32)
    return np.asarray((rows @ coarse) @ columns.T * np.float32(2.1), np.float32)


def _spline(rng: np.random.Generator, length: int, pitch_um: float, knot_um: float) -> Floats:
    x = np.arange(length) * (pitch_um / knot_um) + rng.uniform(0, 1)
    distance = np.abs(x[:, None] - np.arange(int(x[-1]) + 4)[None, :] + 1)
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    return np.asarray(np.where(distance < 1, near, far), np.float32)


def _texture(rng: np.random.Generator, shape: Shape, pitch_um: float) -> Floats:
    """Fine grain of unit variance, power falling as f^-2.4 above 0.15 cycles per um; 512 points, repeated."""
    n = 512
    f = np.hypot(np.fft.fftfreq(n, pitch_um)[:, None], np.fft.rfftfreq(n, pitch_um)[None, :])
    spectrum = np.fft.rfft2(rng.standard_normal((n, n), dtype=np.float32))
    spectrum *= (1 / (0.15 + f) ** 1.2).astype(np.float32)
    tile = np.fft.irfft2(spectrum, s=(n, n)).astype(np.float32, copy=False)
    tile -= tile.mean()
    tile /= tile.std()
    wall: Floats = np.tile(tile, (-(-shape[0] // n), -(-shape[1] // n)))
    return wall[: shape[0], : shape[1]]


def _scatter(
    into: Floats,
    rng: np.random.Generator,
    pitch_um: float,
    density_per_um2: float,
    radius_um: tuple[float, float],
    depth: tuple[float, float],
    nuclei: Floats | None = None,
    *,
    allowed: Floats,
) -> None:
    """Drop ellipses with a rim and grain where `allowed` is above chance; give each a nucleus if asked."""
    height, width = into.shape
    grain = _texture(rng, (512, 512), pitch_um)
    for _ in range(rng.poisson(density_per_um2 * height * width * pitch_um**2)):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        if allowed[int(y), int(x)] < rng.uniform():
            continue
        radius = rng.uniform(*radius_um)
        _ellipse(into, rng, (y, x), radius / pitch_um, rng.uniform(*depth), grain)
        if nuclei is not None:
            radius = min(radius * 0.45, rng.uniform(2, 4))
            _ellipse(nuclei, rng, (y, x), radius / pitch_um, rng.uniform(0.6, 1.5), grain)


def _ellipse(
    into: Floats,
    rng: np.random.Generator,
    centre: tuple[float, float],
    radius_px: float,
    depth: float,
    grain: Floats,
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
    patch = grain[oy : oy + window.shape[0], ox : ox + window.shape[1]]
    if patch.shape != window.shape:
        patch = np.resize(grain, window.shape)
    body = 1 + rim + np.float32(rng.uniform(0.1, 0.45)) * patch
    window += np.float32(depth) * inside * np.maximum(body, 0)
