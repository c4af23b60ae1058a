"""A Bayer mosaic: which colour stands at which pixel, and how the two that are missing are filled in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")


def colour_at(pattern: str, row: int, column: int) -> int:
    """Which colour a pixel sees: 0 red, 1 green, 2 blue.

    Args:
        pattern: One of `PATTERNS`: the colours of the first row's first two pixels, then the second row's.
        row: Of the pixel in the sensor.
        column: Likewise.
    """
    return "RGB".index(pattern[2 * (row % 2) + column % 2])


def demosaic(mosaic: Floats, pattern: str) -> Floats:
    """Fill in the missing colours by bilinear interpolation: the mean of the nearest pixels of that colour.

    Beyond its edges the mosaic is mirrored about its outermost pixels, so that the colours keep their places.

    Args:
        mosaic: (H, W) float32, both at least 2, pixel (0, 0) being the first of the pattern.
        pattern: One of `PATTERNS`.

    Returns:
        (3, H, W) float32.
    """
    height, width = mosaic.shape
    padded = np.pad(mosaic, 1, mode="reflect")
    across = padded[:, :-2] + padded[:, 2:]
    beside = across[1:-1] * np.float32(0.5)
    above = (padded[:-2, 1:-1] + padded[2:, 1:-1]) * np.float32(0.5)
    cross = (beside + above) * np.float32(0.5)
    diagonal = (across[:-2] + across[2:]) * np.float32(0.25)
    planes = np.empty((3, height, width), np.float32)
    for row in range(2):
        for column in range(2):
            here = (slice(row, None, 2), slice(column, None, 2))
            own, other = colour_at(pattern, row, column), colour_at(pattern, row, column + 1)
            planes[own][here] = mosaic[here]
            if own == 1:
                planes[other][here] = beside[here]
                planes[2 - other][here] = above[here]
            else:
                planes[1][here] = cross[here]
                planes[2 - own][here] = diagonal[here]
    return planes
