"""The frame as networks see it: (H, W, 3) uint8, in proportion to light wherever the camera's response is known.

Training and serving call this one function.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from firmware.frames import Frame
from firmware.response import Response, inverse_lut

_MOSAICS = {
    "RGGB": cv2.COLOR_BayerRGGB2RGB,
    "BGGR": cv2.COLOR_BayerBGGR2RGB,
    "GRBG": cv2.COLOR_BayerGRBG2RGB,
    "GBRG": cv2.COLOR_BayerGBRG2RGB,
}


def rgb8(frame: Frame, undo_tone: bool = True) -> NDArray[np.uint8]:
    """Convert a frame by its camera's response: the black level becomes 0 and full scale 255, grey is repeated.

    A raw mosaic is filled in bilinearly before it is scaled, a tone curve is inverted, and where the response
    is unknown counts are only scaled.

    Args:
        frame: As the camera gave it.
        undo_tone: Whether a tone curve is inverted; a model for unknown responses reads frames as they come.

    Returns:
        (H, W, 3) uint8 RGB; the frame's own pixels where nothing is to be done.
    """
    response, filled = frame.response, _filled(frame)
    counts = filled if frame.bits == 8 else _scaled(filled, frame)
    if response.kind == "tone" and not undo_tone:
        response = Response()
    if response.kind == "tone" or (frame.bits == 8 and response.black_level):
        counts = cv2.LUT(counts, _table(response))
    return cast("NDArray[np.uint8]", cv2.cvtColor(counts, cv2.COLOR_GRAY2RGB) if counts.ndim == 2 else counts)


def _filled(frame: Frame) -> Any:
    """The frame's own counts; a mosaic with its missing colours filled in, (H, W, 3) of its own type."""
    if frame.response.kind != "raw":
        return frame.pixels
    assert frame.response.pattern is not None
    return cv2.cvtColor(frame.pixels, _MOSAICS[frame.response.pattern])


def _scaled(counts: Any, frame: Frame) -> Any:
    """Counts of more than 8 bits as 0 to 255 from the black level to full scale, rounded; darker ones become 0."""
    # As one channel, and in place where the array is ours: fresh memory for a frame costs more than the sums.
    flat = counts.reshape(len(counts), -1)
    black, darkest = frame.response.black_level, cast("Any", round(frame.response.black_level))
    if darkest:
        flat = cv2.max(flat, darkest, dst=None if counts is frame.pixels else flat)
    gain = 255.0 / (2**frame.bits - 1 - black)
    return cv2.convertScaleAbs(flat, alpha=gain, beta=-gain * black).reshape(counts.shape)


@lru_cache(maxsize=16)
def _table(response: Response) -> NDArray[np.uint8]:
    """Linear counts of every 8-bit count: (256,) uint8."""
    if response.curve is not None:
        light = inverse_lut(response.curve, response.gamma)
    else:
        light = np.maximum(np.arange(256) - response.black_level, 0).astype(np.float32) / (255 - response.black_level)
    table: NDArray[np.uint8] = np.rint(255.0 * light).astype(np.uint8)
    return table
