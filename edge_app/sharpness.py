"""Sharpness of every patch at camera speed: what `sweep` climbs and what verifies an estimate.

Brenner, Tenengrad and the Laplacian of `measures.py`, in whole numbers. All are computed on the green (or only)
channel, smoothed by a Gaussian of one pixel and divided by the squared mean, so that noise and lamp count less.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.patches import PatchGrid

Floats = NDArray[np.float32]
_HALO_PX = 2
Responses = tuple[NDArray[np.integer[Any] | np.floating[Any]], ...]


def brenner(grey: NDArray[np.uint8]) -> Responses:
    """Differences over two pixels, across (H, W - 2) and down (H - 2, W), of (H, W) uint8."""
    return cv2.absdiff(grey[:, 2:], grey[:, :-2]), cv2.absdiff(grey[2:], grey[:-2])


def tenengrad(grey: NDArray[np.uint8]) -> Responses:
    """Sobel gradients across and down, (H, W) each."""
    return cv2.Sobel(grey, cv2.CV_16S, 1, 0), cv2.Sobel(grey, cv2.CV_16S, 0, 1)


def laplacian(grey: NDArray[np.uint8]) -> Responses:
    """Laplacian (H, W); its mean square is its variance, as it has no mean over a large area."""
    return (cv2.Laplacian(grey, cv2.CV_16S),)


RESPONSES: dict[str, Callable[[NDArray[np.uint8]], Responses]] = {
    "brenner": brenner,
    "tenengrad": tenengrad,
    "laplacian": laplacian,
}


def sharpness(rgb: NDArray[np.uint8], grid: PatchGrid, measure: str = "brenner") -> Floats:
    """One measure on every patch of a frame (H, W, 3) uint8: (N,) float32, larger is sharper.

    The responses' squares are summed inside each patch, without what reaches over its edge, and divided by its
    area and its squared mean. Every core takes a row of patches at a time, so that the work stays in its cache.
    """
    p = grid.patch_px
    green = grid.region(rgb)[:, :, 1]
    values = np.empty((grid.rows, grid.columns), np.float32)

    def measure_row(row: int) -> None:
        top = max(row * p - _HALO_PX, 0)
        strip = np.ascontiguousarray(green[top : (row + 1) * p + _HALO_PX])
        smooth = cv2.GaussianBlur(strip, (5, 5), 1.0)[row * p - top :][:p]
        grey: NDArray[np.uint8] = np.asarray(smooth, np.uint8)
        responses = RESPONSES[measure](grey)
        for column in range(grid.columns):
            left = column * p
            mean = max(cv2.mean(grey[:, left : left + p])[0], 1.0)
            energy = 0.0
            for response in responses:
                edge = 1 if response.shape == grey.shape else 0
                right = left + p - (grey.shape[1] - response.shape[1]) - edge
                inside = response[edge : response.shape[0] - edge, left + edge : right]
                energy += cv2.norm(inside, cv2.NORM_L2SQR)
            values[row, column] = energy / (p * mean) ** 2

    with ThreadPoolExecutor(min(os.cpu_count() or 1, grid.rows), thread_name_prefix="sharpness") as pool:
        list(pool.map(measure_row, range(grid.rows)))
    return values.reshape(-1)
