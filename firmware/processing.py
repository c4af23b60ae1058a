"""Processing: what a camera does to its raw counts before it hands them over (pure).

In this order: black level, demosaic, denoising, white balance, saturation (linear light, clipped to 0..1);
curve and contrast (one look-up table); sharpening (display values); eight bits; JPEG's loss.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware.bayer import PATTERNS, demosaic
from firmware.jpeg import recompress
from firmware.response import Curve, to_curve
from firmware.sensor import Counts, Sensor

Floats = NDArray[np.float32]
_BAND_PX = 64
_STEPS = 16384
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Processing:
    """A camera's settings; the defaults change nothing but the number of bits.

    `white_balance` are the gains of red, green and blue. `saturation` s gives Y + s (colour - Y) around BT.601's
    luma Y of linear light. `curve` with `gamma` are those of `response.to_curve`; where nothing else is set,
    `response.inverse_lut` undoes them up to quantisation. `contrast` c between -1 and 1 bends
    display values v to v + c (3 v^2 - 2 v^3 - v). `sharpening` is the amount of an unsharp mask on luma with a
    Gaussian of `sharpening_radius_px` (sigma). `denoise_px` is the sigma of a Gaussian over all colours.
    `jpeg_quality` is 1 to 100, 0 is none; `chroma_subsampling` is 4:2:0.
    """

    white_balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    saturation: float = 1.0
    curve: Curve = "linear"
    gamma: float = 1.0
    contrast: float = 0.0
    sharpening: float = 0.0
    sharpening_radius_px: float = 1.0
    denoise_px: float = 0.0
    jpeg_quality: int = 0
    chroma_subsampling: bool = True


def process(counts: Counts, sensor: Sensor, processing: Processing) -> NDArray[np.uint8]:
    """What the camera hands over.

    Args:
        counts: A whole frame from `expose`: (H, W, 3), or (H, W) behind a pattern.
        sensor: Where the counts come from.
        processing: The camera's settings.

    Returns:
        (H, W, 3) uint8 RGB; (H, W) behind a monochrome sensor, for which white balance and saturation are void.
    """
    height, width = counts.shape[:2]
    out = np.empty((height, width) if sensor.pattern == "mono" else (height, width, 3), np.uint8)
    lut = _lut(processing)
    reach = 2 + _radius(processing.denoise_px) + _radius(processing.sharpening_radius_px)
    halo = reach + reach % 2

    def develop(top: int) -> None:
        first, end = max(top - halo, 0), min(top + _BAND_PX, height)
        planes = _linear(counts[first : end + halo], sensor, processing)
        shown = _shown(planes, lut, processing)[:, top - first : end - first]
        out[top:end] = shown[0] if out.ndim == 2 else np.moveaxis(shown, 0, 2)

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="process") as pool:
        list(pool.map(develop, range(0, height, _BAND_PX)))
    return recompress(out, processing.jpeg_quality, processing.chroma_subsampling) if processing.jpeg_quality else out


def _linear(counts: Counts, sensor: Sensor, processing: Processing) -> Floats:
    """(C, h, W) linear light; 0 is black and 1 is full scale."""
    light = counts.astype(np.float32)
    light -= np.float32(sensor.black_level)
    light *= np.float32(1.0 / (sensor.full_scale - sensor.black_level))
    if sensor.pattern == "mono":
        return _blurred(light[None], processing.denoise_px)
    planes = demosaic(light, sensor.pattern) if sensor.pattern in PATTERNS else np.moveaxis(light, 2, 0).copy()
    planes = _blurred(planes, processing.denoise_px)
    if processing.white_balance != (1.0, 1.0, 1.0):
        planes *= np.asarray(processing.white_balance, np.float32)[:, None, None]
    if processing.saturation != 1.0:
        luma = np.tensordot(_LUMA, planes, axes=1)
        planes -= luma
        planes *= np.float32(processing.saturation)
        planes += luma
    return planes


def _shown(planes: Floats, lut: Floats, processing: Processing) -> Floats | NDArray[np.uint8]:
    """(C, h, W) counts as they are shown, 0..255."""
    planes *= np.float32(_STEPS - 1)
    planes += np.float32(0.5)
    np.clip(planes, 0, _STEPS - 1, out=planes)
    index = planes.astype(np.uint16)
    if not processing.sharpening:
        return np.take((lut + np.float32(0.5)).astype(np.uint8), index)
    shown: Floats = np.take(lut, index)
    luma = np.tensordot(_LUMA, shown, axes=1)[None] if len(shown) == 3 else shown
    shown += np.float32(processing.sharpening) * (luma - _blurred(luma, processing.sharpening_radius_px))
    shown += np.float32(0.5)
    return np.clip(shown, 0, 255, out=shown)


def _lut(processing: Processing) -> Floats:
    """Curve and contrast of `_STEPS` levels of linear light: float32, 0..255."""
    shown = to_curve(np.linspace(0.0, 1.0, _STEPS), processing.curve, processing.gamma)
    shown = shown + processing.contrast * (3 * shown**2 - 2 * shown**3 - shown)
    return np.asarray(255.0 * shown, np.float32)


def _radius(sigma_px: float) -> int:
    return math.ceil(3.0 * sigma_px)


def _blurred(planes: Floats, sigma_px: float) -> Floats:
    """A Gaussian over the last two axes; edges are repeated."""
    if sigma_px <= 0.0:
        return planes
    radius = _radius(sigma_px)
    weights = np.exp(-0.5 * (np.arange(radius + 1) / sigma_px) ** 2)
    weights /= 2 * weights.sum() - weights[0]
    for axis in (1, 2):
        beside = [(0, 0), (0, 0), (0, 0)]
        beside[axis] = (radius, radius)
        padded, length = np.pad(planes, beside, mode="edge"), planes.shape[axis]
        shifted = [padded[(slice(None),) * axis + (slice(k, k + length),)] for k in range(2 * radius + 1)]
        planes = planes * np.float32(weights[0])
        for k in range(1, radius + 1):
            planes += (shifted[radius - k] + shifted[radius + k]) * np.float32(weights[k])
    return planes
