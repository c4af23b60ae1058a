"""Random textures on a grid: noise, ridges, grain and steps, in place or some rows at a time.

A texture of a whole frame takes 40 MB, so that copies of it would be most of what a simulated board needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Shape = tuple[int, int]
_STRIP = 64
_SIDE = 512
_BETWEEN = 2


def times(field: Floats, factor: float | np.float32) -> Floats:
    """The field itself, multiplied: fields of a frame are worked on in place, for each takes tens of megabytes."""
    field *= np.float32(factor)
    return field


class Steps:
    """Smooth steps from 0 to 1 where a field rises through an edge: a byte a point, and what lies between aside."""

    def __init__(self, field: Floats, edge: float, width: float) -> None:
        self._level = np.empty(field.shape, np.uint8)
        between = []
        for rows in _strips(field):
            x: Floats = np.clip((field[rows] - np.float32(edge)) / np.float32(width) + np.float32(0.5), 0, 1)
            step = x * x * (3 - 2 * x)
            self._level[rows] = np.where((step != 0) & (step != 1), _BETWEEN, step)
            between.append(step[self._level[rows] == _BETWEEN])
        self._between = np.concatenate(between)
        self._ends = np.cumsum([np.count_nonzero(row == _BETWEEN) for row in self._level])

    def __getitem__(self, place: tuple[int, int]) -> np.float32:
        """The step at one row and column."""
        y, x = place
        level = self._level[y]
        if level[x] != _BETWEEN:
            return np.float32(level[x])
        value: np.float32 = self._between[self._ends[y] - np.count_nonzero(level[x:] == _BETWEEN)]
        return value

    def multiply(self, field: Floats) -> None:
        """Multiply a field of the same shape, in place."""
        for rows in _strips(field):
            level = self._level[rows]
            step = level.astype(np.float32)
            last = self._ends[rows][-1]
            here = level == _BETWEEN
            step[here] = self._between[last - np.count_nonzero(here) : last]
            field[rows] *= step


def ridges(field: Floats, width: float) -> Floats:
    """1 where a field crosses zero, falling off within `width`, in place."""
    field /= np.float32(width)
    np.square(field, out=field)
    np.negative(field, out=field)
    return np.exp(field, out=field)


def _strips(field: NDArray[Any]) -> Iterator[slice]:
    """Rows of a field, a few at a time."""
    return (slice(top, top + _STRIP) for top in range(0, len(field), _STRIP))


def noise(rng: np.random.Generator, shape: Shape, pitch_um: float, scale_um: float, stretch: float = 1.0) -> Floats:
    """Smooth noise of unit variance: white noise on a coarse grid, interpolated by cubic B-splines."""
    rows = _spline(rng, shape[0], pitch_um, scale_um / 2)
    columns = _spline(rng, shape[1], pitch_um, scale_um * stretch / 2)
    coarse = rng.standard_normal((rows.shape[1], columns.shape[1]), dtype=np.float32)
    return times(np.asarray((rows @ coarse) @ columns.T, np.float32), 2.1)


def _spline(rng: np.random.Generator, length: int, pitch_um: float, knot_um: float) -> Floats:
    x = np.arange(length) * (pitch_um / knot_um) + rng.uniform(0, 1)
    knots = np.arange(int(x[-1]) + 4)
    weights = np.empty((length, len(knots)), np.float32)
    for rows in _strips(x):
        distance = np.abs(x[rows, None] - knots[None, :] + 1)
        near = 2 / 3 - distance**2 + distance**3 / 2
        far = np.maximum(2 - distance, 0) ** 3 / 6
        weights[rows] = np.where(distance < 1, near, far)
    return weights


def grain(rng: np.random.Generator, pitch_um: float) -> Floats:
    """Fine grain of unit variance, (512, 512), power falling as f^-2.4 above 0.15 cycles per um."""
    n = _SIDE
    f = np.hypot(np.fft.fftfreq(n, pitch_um)[:, None], np.fft.rfftfreq(n, pitch_um)[None, :])
    spectrum = np.fft.rfft2(rng.standard_normal((n, n), dtype=np.float32))
    spectrum *= (1 / (0.15 + f) ** 1.2).astype(np.float32)
    tile = np.fft.irfft2(spectrum, s=(n, n)).astype(np.float32, copy=False)
    tile -= tile.mean()
    tile /= tile.std()
    return tile


def add_repeated(into: Floats, strength: float, tile: Floats) -> None:
    """Add a square tile, side by side with itself until the field is full."""
    side = len(tile)
    scaled = np.float32(strength) * tile
    for top in range(0, into.shape[0], side):
        for left in range(0, into.shape[1], side):
            part = into[top : top + side, left : left + side]
            part += scaled[: part.shape[0], : part.shape[1]]
