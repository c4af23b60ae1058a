"""JPEG's loss: what a picture looks like after baseline JPEG and back, without the file in between.

Colour difference, averaging of chroma, cosine transform and quantisation lose something; the entropy coding
behind them does not, so it is left out.

Sources: ITU-T T.81, A.3.3 (transform) and Annex K, tables K.1 and K.2 (quantisation); ITU-T T.871 (JFIF's
YCbCr, which is BT.601 at full range); libjpeg 6b: jcparam.c (quality scale), jcsample.c (averaging) and
jdsample.c ("fancy", that is linear, upsampling).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
_BAND_PX = 64
_HALF = np.float32(0.5005)
"""libjpeg rounds halves away from zero; a little more than a half, so that float32 finds them too."""
_LUMINANCE = """
16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99
"""
_CHROMINANCE = """
17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99  24 26 56 99 99 99 99 99  47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99
"""
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def _cosines() -> Floats:
    k, x = np.arange(8)[:, None], np.arange(8)[None, :]
    basis = 0.5 * np.cos((2 * x + 1) * k * np.pi / 16)
    basis[0] /= np.sqrt(2.0)
    return basis.astype(np.float32)


_DCT = _cosines()


def quantisation(quality: int) -> tuple[Floats, Floats]:
    """Step sizes for luminance and chrominance, (8, 8) each, at libjpeg's quality 1 to 100."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    luminance, chrominance = (
        np.clip((np.array(table.split(), int).reshape(8, 8) * percent + 50) // 100, 1, 255).astype(np.float32)
        for table in (_LUMINANCE, _CHROMINANCE)
    )
    return luminance, chrominance


def recompress(picture: Bytes, quality: int, chroma_subsampling: bool = True) -> Bytes:
    """Code and decode a picture.

    Args:
        picture: (H, W, 3) uint8 RGB, or (H, W) uint8 grey.
        quality: 1 to 100, as libjpeg counts.
        chroma_subsampling: Whether chroma is averaged over 2x2 pixels (4:2:0) or kept (4:4:4).

    Returns:
        What the decoder gives: the same shape, uint8.
    """
    height, width = picture.shape[:2]
    factor = 2 if chroma_subsampling and picture.ndim == 3 else 1
    unit = 8 * factor
    high, wide = -(-height // unit) * unit, -(-width // unit) * unit
    steps = quantisation(quality)
    luma = np.empty((high, wide), np.uint8)
    chroma = np.empty((2, high // factor, wide // factor), np.uint8)
    out = np.empty_like(picture)

    def code(top: int) -> None:
        bottom = min(top + _BAND_PX, high)
        band = _padded(picture[top : min(bottom, height)], bottom - top, wide)
        luma[top:bottom] = _coded(_component(band, 0), steps[0])
        if picture.ndim == 3:
            for c in range(2):
                plane = _averaged(_component(band, c + 1)) if factor == 2 else _component(band, c + 1)
                chroma[c, top // factor : bottom // factor] = _coded(plane, steps[1])

    def decode(top: int) -> None:
        rows = slice(top, min(top + _BAND_PX, height))
        if picture.ndim == 2:
            out[rows] = luma[rows, :width]
            return
        if factor == 2:
            small = chroma[:, : -(-height // 2), : -(-width // 2)]
            differences = [_widened(plane, rows.start, rows.stop)[:, :width] for plane in small]
        else:
            differences = [plane[rows, :width].astype(np.float32) for plane in chroma]
        _mix(luma[rows, :width], differences, out[rows])

    _in_bands(code, height)
    _in_bands(decode, height)
    return out


def _in_bands(work: Callable[[int], None], height: int) -> None:
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="jpeg") as pool:
        list(pool.map(work, range(0, height, _BAND_PX)))


def _padded(band: Bytes, high: int, wide: int) -> Bytes:
    """Whole blocks: the last row and column are repeated."""
    missing = ((0, high - band.shape[0]), (0, wide - band.shape[1]), (0, 0))[: band.ndim]
    return np.pad(band, missing, mode="edge") if band.shape[:2] != (high, wide) else band


def _component(band: Bytes, c: int) -> Floats:
    """Y, Cb or Cr of (h, w, 3) RGB, in whole counts with zero in the middle; grey is its own Y."""
    if band.ndim == 2:
        return band.astype(np.float32) - np.float32(128)
    plane = band[..., 0] * np.float32(_TO_YCC[c][0])
    plane += band[..., 1] * np.float32(_TO_YCC[c][1])
    plane += band[..., 2] * np.float32(_TO_YCC[c][2])
    if c == 0:
        plane -= np.float32(128)
    return np.asarray(np.rint(plane, out=plane), np.float32)


def _averaged(plane: Floats) -> Floats:
    """Means of 2x2 pixels; halves are rounded up in every other column, as libjpeg does it."""
    total = plane[0::2] + plane[1::2]
    mean: Floats = total[:, 0::2] + total[:, 1::2]
    mean *= np.float32(0.25)
    mean[:, 0::2] += np.float32(0.25)
    mean[:, 1::2] += np.float32(0.5)
    return np.floor(mean, out=mean)


def _coded(plane: Floats, steps: Floats) -> Bytes:
    """Blocks of 8x8 transformed, quantised and transformed back: (h, w) float32 around 0 to (h, w) uint8."""
    high, wide = plane.shape
    coefficients = np.matmul(_DCT, plane.reshape(-1, 8, wide)).reshape(-1, 8) @ _DCT.T
    blocks = coefficients.reshape(high // 8, 8, wide // 8, 8)
    blocks *= (1 / steps)[None, :, None, :]
    blocks += np.copysign(_HALF, blocks)
    np.trunc(blocks, out=blocks)
    blocks *= steps[None, :, None, :]
    back: Floats = np.matmul(_DCT.T, (coefficients @ _DCT).reshape(-1, 8, wide)).reshape(high, wide)
    back += np.float32(128.5)
    np.clip(back, 0, 255, out=back)
    return back.astype(np.uint8)


def _widened(plane: Bytes, top: int, bottom: int) -> Floats:
    """Rows `top` to `bottom` (top even) of a plane at twice the size: 3/4 of the nearer, 1/4 of the farther."""
    first, last = top // 2, -(-bottom // 2)
    rows = np.clip(np.arange(first - 1, last + 1), 0, plane.shape[0] - 1)
    columns = np.pad(plane[rows].astype(np.float32), ((0, 0), (1, 1)), mode="edge")
    middle = columns[1:-1] * np.float32(0.75)
    wide = np.empty((2 * (last - first), 2 * plane.shape[1]), np.float32)
    for half, beyond in ((0, columns[:-2]), (1, columns[2:])):
        tall = middle + beyond * np.float32(0.25)
        centre = tall[:, 1:-1] * np.float32(0.75)
        wide[half::2, 0::2] = centre + tall[:, :-2] * np.float32(0.25)
        wide[half::2, 1::2] = centre + tall[:, 2:] * np.float32(0.25)
    return wide[: bottom - top]


def _mix(luma: Bytes, differences: list[Floats], out: Bytes) -> None:
    """YCbCr to RGB: (h, w) uint8 and two (h, w) float32 around 128, into (h, w, 3) uint8."""
    blue, red = (np.rint(plane) - np.float32(128) for plane in differences)
    y = luma + np.float32(0.5)
    red_part, blue_part = y + red * np.float32(1.402), y + blue * np.float32(1.772)
    y -= blue * np.float32(0.344136)
    y -= red * np.float32(0.714136)
    for c, plane in enumerate((red_part, y, blue_part)):
        out[..., c] = np.clip(plane, 0, 255, out=plane)
