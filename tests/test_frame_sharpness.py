"""Sharpness of the patches of a frame: what its measures must tell apart, and what must not move them."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_app.patches import PatchGrid
from edge_app.sharpness import RESPONSES, brenner, laplacian, sharpness, tenengrad

Counts = NDArray[np.uint8]
GRID = PatchGrid(2, 2, 0, 0, 64)


def texture(brightness: float = 1.0, contrast: float = 40.0) -> Counts:
    """(128, 128, 3) uint8: smooth noise, in focus."""
    noise = np.random.default_rng(3).normal(0, 1, (128, 128)).astype(np.float32)
    grain = cv2.GaussianBlur(noise, (0, 0), 1.5)
    counts = np.clip((120 + contrast * grain / grain.std()) * brightness, 0, 255).astype(np.uint8)
    return np.repeat(counts[:, :, None], 3, axis=2)


def blurred(rgb: Counts, sigma_px: float) -> Counts:
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma_px), np.uint8)


@pytest.mark.parametrize("measure", RESPONSES)
def test_every_measure_falls_with_every_bit_of_blur(measure: str) -> None:
    series = [sharpness(blurred(texture(), sigma), GRID, measure).mean() for sigma in (0.3, 1.0, 2.0, 4.0)]
    assert all(sharper > 1.2 * softer for sharper, softer in pairwise(series))


@pytest.mark.parametrize("measure", RESPONSES)
def test_a_dimmer_lamp_moves_no_measure_by_much(measure: str) -> None:
    full, dim = (sharpness(texture(lamp), GRID, measure).mean() for lamp in (1.0, 0.6))
    assert dim == pytest.approx(full, rel=0.05)


@pytest.mark.parametrize("measure", RESPONSES)
def test_only_the_patch_that_shows_something_counts(measure: str) -> None:
    frame = np.full((128, 128, 3), 120, np.uint8)
    frame[70:120, 6:58] = texture()[70:120, 6:58]
    values = sharpness(frame, GRID, measure)
    assert values.shape == (4,)
    assert values.dtype == np.float32
    assert values.argmax() == 2
    assert values[[0, 1, 3]].max() == 0.0


@pytest.mark.parametrize("measure", RESPONSES)
@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_frames_have_no_sharpness_and_no_accident(measure: str, level: int) -> None:
    frame = np.full((128, 128, 3), level, np.uint8)
    np.testing.assert_array_equal(sharpness(frame, GRID, measure), np.zeros(4, np.float32))


def test_the_measures_are_what_their_papers_say_at_a_step_edge() -> None:
    edge = np.zeros((9, 10), np.uint8)
    edge[:, 5:] = 10
    across, down = brenner(edge)
    assert across[4].tolist() == [0, 0, 0, 10, 10, 0, 0, 0]
    assert not down.any()
    assert tenengrad(edge)[0][4].tolist() == [0, 0, 0, 0, 40, 40, 0, 0, 0, 0]
    assert laplacian(edge)[0][4].tolist() == [0, 0, 0, 0, 10, -10, 0, 0, 0, 0]


@pytest.mark.parametrize("measure", RESPONSES)
def test_rows_count_as_columns_do(measure: str) -> None:
    turned = np.ascontiguousarray(texture().swapaxes(0, 1))
    upright = sharpness(texture(), GRID, measure).reshape(2, 2)
    np.testing.assert_allclose(sharpness(turned, GRID, measure).reshape(2, 2), upright.T, rtol=1e-5)


def test_the_value_is_the_mean_square_over_the_squared_mean() -> None:
    stripes = np.tile(np.array([100, 100, 140, 140], np.uint8), (64, 16))
    smooth = np.asarray(cv2.GaussianBlur(stripes, (5, 5), 1.0), np.float64)
    expected = np.square(smooth[:, 2:] - smooth[:, :-2]).sum() / 64**2 / smooth.mean() ** 2
    frame = np.repeat(stripes[:, :, None], 3, axis=2)
    assert sharpness(frame, PatchGrid(1, 1, 0, 0, 64))[0] == pytest.approx(expected, rel=1e-4)


def test_only_what_lies_inside_the_grid_counts() -> None:
    frame = np.full((148, 148, 3), 120, np.uint8)
    frame[:8], frame[:, :8] = texture()[:8, :1], 255
    assert sharpness(frame, PatchGrid(2, 2, 10, 10, 64)).max() == 0.0
