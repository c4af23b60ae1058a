"""Classical focus measures, whole frame or per patch: what `sweep` climbs and what verifies an estimate.

Brenner: J. F. Brenner et al., J. Histochem. Cytochem. 24, 100 (1976). Tenengrad: J. M. Tenenbaum, thesis,
Stanford (1970). Variance of the Laplacian: J. L. Pech-Pacheco et al., ICPR (2000). All are computed on the
green (or only) channel, smoothed by a Gaussian of one pixel and divided by the squared mean, so that noise
and lamp count less.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.patches import PatchGrid

Floats = NDArray[np.float32]
_SQUARES = (np.arange(256, dtype=np.float32) ** 2)[None, :]


def brenner(grey: NDArray[np.uint8]) -> Floats:
    """Squared difference over two pixels, across and down: (H, W) uint8 to (H, W) float32."""
    across = cv2.LUT(cv2.absdiff(grey[:, 2:], grey[:, :-2]), _SQUARES)
    down = cv2.LUT(cv2.absdiff(grey[2:], grey[:-2]), _SQUARES)
    out = np.zeros(grey.shape, np.float32)
    out[:, 1:-1] = across
    out[1:-1] += down
    return out


def tenengrad(grey: NDArray[np.uint8]) -> Floats:
    """Squared Sobel gradient: (H, W) uint8 to (H, W) float32."""
    dx = cv2.Sobel(grey, cv2.CV_32F, 1, 0)
    dy = cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    return np.asarray(dx * dx + dy * dy, np.float32)


def laplacian(grey: NDArray[np.uint8]) -> Floats:
    """Squared Laplacian (its mean is the variance, as the Laplacian of a large area has no mean)."""
    edge = cv2.Laplacian(grey, cv2.CV_32F)
    return np.asarray(edge * edge, np.float32)


MEASURES: dict[str, Callable[[NDArray[np.uint8]], Floats]] = {
    "brenner": brenner,
    "tenengrad": tenengrad,
    "laplacian": laplacian,
}


def sharpness(rgb: NDArray[np.uint8], grid: PatchGrid, measure: str = "brenner") -> Floats:
    """One measure on every patch of a frame (H, W, 3) uint8: (N,) float32, larger is sharper."""
    green = cv2.extractChannel(grid.region(rgb), 1)
    grey: NDArray[np.uint8] = np.asarray(cv2.GaussianBlur(green, (5, 5), 1.0), np.uint8)
    mean = grid.per_patch(grey.astype(np.float32))
    return np.asarray(grid.per_patch(MEASURES[measure](grey)) / np.maximum(mean, 1.0) ** 2, np.float32)
