"""The handcrafted features: eighteen numbers that describe a whole frame, which HH-Net reads beside its patches.

The list is the HH-Net paper's. Where its text leaves a choice open, or is misprinted, this is what is done here:

- Grey is OpenCV's luma of the RGB counts. The histogram's variance, skewness and kurtosis (3 for a Gaussian) are
  central; in a frame of one grey they are 0.
- The co-occurrence matrix has 128 grey levels and counts each pixel with its right and with its lower neighbour. Of
  it only the distributions of the neighbours' sum and of their absolute difference are needed, and these are counted
  directly. Entropies are in nats.
- Misprint: difference histograms run over 0..Ng-1, as |a - b| does, not over 2..2Ng as sums do.
- Misprint: the difference variance is centred on the mean of the differences, not on another statistic's.
- Misprint: a correlation coefficient divides the covariance by both standard deviations (equation 13), not by
  variances. That of a crop without any contrast is 0.
- The four crops of 100x100 pixels lie in the middle of the frame's quadrants, so that a frame always gives the same
  features.
- The region of interest is the largest connected set of what is darker than Otsu's threshold of the green channel,
  averaged over about 8x8 pixels and then smoothed: in bright field, specimen. A frame whose two sides of that
  threshold differ by less than 3 counts has none, and its four shape features are 0.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.errors import GridTooLarge

Floats = NDArray[np.float64]
Grey = NDArray[np.uint8]

NAMES = (
    *("mean", "variance", "skewness", "kurtosis"),
    *("sum_entropy", "sum_average", "difference_variance", "difference_entropy"),
    *("convexity", "compactness", "aspect_ratio", "area_ratio"),
    *("correlation_12", "correlation_13", "correlation_14", "correlation_23", "correlation_24", "correlation_34"),
)
"""Of the features, in order; crops are numbered in reading order."""
WIDTH = len(NAMES)
LEVELS = 128
"""Grey levels of the co-occurrence matrix: two of them add up to what still fits into a byte."""
CROP_PX = 100
_BIN_PX = 8
_SMOOTH_BINS = 5
_APART = 3.0


def handcrafted(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The features of a frame (H, W, 3) uint8, at least 200 pixels high and wide: (18,) float32 in the order of NAMES.

    Raises:
        GridTooLarge: The frame is too small for the four crops.
    """
    if min(rgb.shape[:2]) < 2 * CROP_PX:
        raise GridTooLarge(
            f"a frame of {rgb.shape[1]}x{rgb.shape[0]} pixels is too small for four crops of {CROP_PX}x{CROP_PX}; "
            "use a larger frame"
        )
    grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    parts = [histogram_features(grey), texture_features(grey), shape_features(region_of_interest(rgb))]
    return np.concatenate([*parts, crop_features(grey)]).astype(np.float32)


def histogram_features(grey: Grey) -> Floats:
    """Mean, variance, skewness and kurtosis of the counts (H, W) uint8: (4,)."""
    mean, variance, third, fourth = _moments(_shares(grey, 256))
    if variance < 1e-9:
        return np.array([mean, 0.0, 0.0, 0.0])
    return np.array([mean, variance, third / variance**1.5, fourth / variance**2])


def texture_features(grey: Grey) -> Floats:
    """Sum entropy, sum average, difference variance and difference entropy of neighbours in (H, W) uint8: (4,)."""
    coarse = np.right_shift(grey, 1)
    beside, below = (coarse[:, :-1], coarse[:, 1:]), (coarse[:-1], coarse[1:])
    sums = _mean_shares([cv2.add(*pair) for pair in (beside, below)], 2 * LEVELS - 1)
    differences = _mean_shares([cv2.absdiff(*pair) for pair in (beside, below)], LEVELS)
    return np.array([_entropy(sums), _moments(sums)[0], _moments(differences)[1], _entropy(differences)])


def region_of_interest(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The specimen in a frame (H, W, 3) uint8, seen in bins of about 8x8 pixels: (h, w) uint8, 1 where it is.

    All zero where the frame shows nothing that is darker than the rest.
    """
    bins = tuple(max(side // _BIN_PX, 1) for side in (rgb.shape[1], rgb.shape[0]))
    # Every other row is enough for a mean over eight, and costs half.
    green = cv2.extractChannel(cv2.resize(rgb[::2], bins, interpolation=cv2.INTER_AREA), 1)
    smooth = cv2.GaussianBlur(green, (_SMOOTH_BINS, _SMOOTH_BINS), 0)
    _, dark = cv2.threshold(smooth, 0, 1, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)
    inside = dark.astype(bool)
    if not inside.any() or inside.all() or smooth[~inside].mean() - smooth[inside].mean() < _APART:
        return np.zeros_like(dark)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=8)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return np.asarray(labels == largest, np.uint8)


def shape_features(mask: NDArray[np.uint8]) -> Floats:
    """Convexity, compactness, aspect ratio and area ratio of a mask (h, w) uint8 of one connected region: (4,).

    All are 0 to 1: the perimeter of the convex hull by that of the region, 4 pi area by perimeter squared, the short
    side of the smallest turned rectangle around it by the long one, and the region's share of the frame. Perimeter and
    area are those of the outline through its outermost pixels, half a pixel wider: holes do not count.
    """
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return np.zeros(4)
    outline: Any = max(outlines, key=cv2.contourArea)
    hull = cv2.convexHull(outline)
    # An outline runs through the middles of the outermost pixels; half a pixel all round makes lines and dots areas.
    around = cv2.arcLength(outline, True) + 4
    area = cv2.contourArea(outline) + cv2.arcLength(outline, True) / 2 + 1
    convex = (cv2.arcLength(hull, True) + 4) / around
    sides = sorted(side + 1 for side in cv2.minAreaRect(outline)[1])
    compact = 4 * math.pi * area / around**2
    return np.array([min(convex, 1.0), min(compact, 1.0), sides[0] / sides[1], float(mask.mean())])


def crop_features(grey: Grey) -> Floats:
    """Pearson's correlation coefficients of each two of the four crops of (H, W) uint8: (6,)."""
    crops = np.stack([crop.astype(np.float64).ravel() for crop in _crops(grey)])
    crops -= crops.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.square(crops).mean(axis=1))
    scaled = crops / np.where(spread > 0, spread, 1.0)[:, None]
    pairs = itertools.combinations(range(4), 2)
    return np.array([float(np.mean(scaled[one] * scaled[other])) for one, other in pairs])


def _crops(grey: Grey) -> list[Grey]:
    """The middles of the four quadrants, in reading order."""
    high, wide = grey.shape
    rows, columns = ([side // 4 - CROP_PX // 2, side - side // 4 - CROP_PX // 2] for side in (high, wide))
    return [grey[top : top + CROP_PX, left : left + CROP_PX] for top in rows for left in columns]


def _shares(values: Any, levels: int) -> Floats:
    """The distribution of bytes: (levels,), summing to 1."""
    counted = cv2.calcHist([values], [0], None, [levels], [0, levels]).ravel().astype(np.float64)
    return np.asarray(counted / counted.sum())


def _mean_shares(images: list[Any], levels: int) -> Floats:
    return np.asarray(np.mean([_shares(image, levels) for image in images], axis=0))


def _moments(shares: Floats) -> tuple[float, float, float, float]:
    """Mean, and second to fourth central moment, of a distribution over 0, 1, 2, ..."""
    levels = np.arange(len(shares))
    mean = float(levels @ shares)
    second, third, fourth = (float((levels - mean) ** power @ shares) for power in (2, 3, 4))
    return mean, second, third, fourth


def _entropy(shares: Floats) -> float:
    """In nats."""
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())
