"""The eighteen handcrafted features: against their definitions written out, and on frames whose answer is known."""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
import pytest

from edge_app.errors import GridTooLarge
from edge_app.handcrafted import (
    CROP_PX,
    LEVELS,
    NAMES,
    WIDTH,
    crop_features,
    handcrafted,
    histogram_features,
    region_of_interest,
    shape_features,
    texture_features,
)


def clouds(high: int = 320, wide: int = 400, seed: int = 1) -> np.ndarray:
    """Coloured clouds: (H, W, 3) uint8."""
    noise = np.random.default_rng(seed).normal(size=(high, wide, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3.0)
    return np.clip(150 + 300 * smooth + 5 * noise, 0, 255).astype(np.uint8)


def grey_of(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))


def co_occurrence(grey: np.ndarray) -> np.ndarray:
    """The symmetric grey-level co-occurrence matrix (LEVELS, LEVELS) of right and lower neighbours, summing to 1."""
    coarse = (grey // 2).astype(int)
    matrix = np.zeros((LEVELS, LEVELS))
    for one, other in ((coarse[:, :-1], coarse[:, 1:]), (coarse[:-1], coarse[1:])):
        half = np.zeros((LEVELS, LEVELS))
        np.add.at(half, (one.ravel(), other.ravel()), 1.0)
        matrix += (half + half.T) / half.sum() / 4
    return matrix


def disc(radius: int, side: int = 200) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    cv2.circle(mask, (side // 2, side // 2), radius, 1, -1)
    return mask


def test_a_frame_has_eighteen_features_each_with_a_name() -> None:
    given = handcrafted(clouds())
    assert given.shape == (18,)
    assert given.dtype == np.float32
    assert WIDTH == len(set(NAMES)) == 18
    assert np.isfinite(given).all()


def test_the_same_frame_gives_the_same_features_every_time() -> None:
    assert np.array_equal(handcrafted(clouds()), handcrafted(clouds()))


def test_moments_of_the_histogram_are_those_of_the_counts() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    grey = grey_of(clouds())
    values = grey.astype(float).ravel()
    expected = [
        values.mean(),
        values.var(),
        scipy_stats.skew(values),
        scipy_stats.kurtosis(values, fisher=False),
    ]
    assert histogram_features(grey) == pytest.approx(expected, rel=1e-6)


def test_texture_is_that_of_the_co_occurrence_matrix() -> None:
    grey = grey_of(clouds())
    matrix = co_occurrence(grey)
    i, j = np.indices(matrix.shape)
    sums = np.bincount((i + j).ravel(), matrix.ravel())
    differences = np.bincount(np.abs(i - j).ravel(), matrix.ravel(), minlength=LEVELS)
    k = np.arange(LEVELS)
    centred = ((k - k @ differences) ** 2) @ differences
    entropy = [-(p[p > 0] * np.log(p[p > 0])).sum() for p in (sums, differences)]
    expected = [entropy[0], np.arange(len(sums)) @ sums, centred, entropy[1]]
    assert texture_features(grey) == pytest.approx(expected, rel=1e-6)


def test_differences_start_at_zero_so_that_stripes_two_levels_apart_have_no_difference_variance() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 4
    across_only = texture_features(stripes[:1].repeat(64, axis=0))
    # Half of the pairs (downwards) are equal, half (across) differ by two levels: variance 1 around a mean of 1.
    assert across_only[2] == pytest.approx(1.0)
    assert across_only[3] == pytest.approx(math.log(2))


def test_blur_lowers_the_difference_entropy() -> None:
    sharp = clouds()
    blurred = cv2.GaussianBlur(sharp, (0, 0), 4.0)
    assert texture_features(grey_of(blurred))[3] < texture_features(grey_of(sharp))[3]


def test_a_disc_is_convex_and_compact() -> None:
    convexity, compactness, aspect, area = shape_features(disc(60))
    assert convexity == pytest.approx(1.0, abs=0.06)
    assert compactness == pytest.approx(1.0, abs=0.2)  # an outline of pixels is longer than a circle
    assert aspect == pytest.approx(1.0, abs=0.03)
    assert area == pytest.approx(math.pi * 60**2 / 200**2, rel=0.03)


def test_a_thin_bar_is_convex_and_neither_compact_nor_square() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[90:100, 20:180] = 1
    convexity, compactness, aspect, area = shape_features(mask)
    assert convexity == pytest.approx(1.0)
    assert aspect == pytest.approx(10 / 160)
    assert compactness == pytest.approx(4 * math.pi * 1600 / 340**2, rel=0.01)
    assert area == pytest.approx(1600 / 200**2)


def test_a_cross_is_less_convex_than_its_hull() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[90:110, 20:180] = mask[20:180, 90:110] = 1
    assert shape_features(mask)[0] < 0.85


def test_the_region_of_interest_is_the_largest_dark_thing() -> None:
    frame = np.full((400, 480, 3), 220, np.uint8)
    cv2.circle(frame, (160, 200), 90, (150, 60, 150), -1)
    cv2.circle(frame, (420, 60), 30, (150, 60, 150), -1)
    mask = region_of_interest(frame)
    assert mask.shape == (50, 60)
    assert mask[25, 20] == 1
    assert mask[7, 52] == 0
    assert shape_features(mask)[2] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_frame_of_one_grey_has_no_region_no_spread_and_no_correlation(level: int) -> None:
    given = dict(zip(NAMES, handcrafted(np.full((300, 300, 3), level, np.uint8)).tolist(), strict=True))
    assert given["mean"] == level
    assert all(given[name] == 0 for name in NAMES if name not in ("mean", "sum_average"))


def test_camera_noise_alone_is_no_region_of_interest() -> None:
    noise = np.random.default_rng(3).normal(200, 3, (400, 400, 3))
    assert not region_of_interest(noise.astype(np.uint8)).any()


def test_correlations_are_pearsons_of_the_middles_of_the_quadrants() -> None:
    grey = grey_of(clouds(400, 600))
    corners = [(50, 100), (50, 400), (250, 100), (250, 400)]
    crops = [grey[top : top + CROP_PX, left : left + CROP_PX].ravel() for top, left in corners]
    expected = [np.corrcoef(one, other)[0, 1] for one, other in itertools.combinations(crops, 2)]
    assert crop_features(grey) == pytest.approx(expected, abs=1e-9)


def test_a_crop_is_fully_correlated_with_its_like_however_strong_its_contrast() -> None:
    crop = grey_of(clouds(CROP_PX, CROP_PX)).astype(float)
    weak = (100 + (crop - crop.mean()) / 4).round().astype(np.uint8)
    grey = np.block([[weak, crop.astype(np.uint8)], [crop.astype(np.uint8), weak]])
    assert crop_features(grey) == pytest.approx(np.ones(6), abs=0.01)


def test_a_frame_too_small_for_four_crops_is_refused_with_what_to_do() -> None:
    with pytest.raises(GridTooLarge, match="use a larger frame"):
        handcrafted(clouds(199, 400))
