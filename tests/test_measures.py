"""The classical measures: each against its equation worked by hand, and what all of them must do."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_app.errors import GridTooLarge
from edge_app.measures import D6, MEASURES, Grey, _decomposed, windows
from edge_app.patches import PatchGrid
from firmware.optics import Optics, PupilTable, fine_ratio, good_size
from firmware.rendering import make_slide, see
from firmware.sensor import Sensor, expose

EVERY = pytest.mark.parametrize("name", MEASURES)
DEPTHS_UM = np.arange(-6.0, 7.0)


def measured(name: str, grey: Grey) -> NDArray[np.float64]:
    return MEASURES[name](grey)


def texture(height_px: int = 96, width_px: int = 128, seed: int = 3) -> Grey:
    """(H, W) counts of smooth noise about 120."""
    noise = np.random.default_rng(seed).normal(0, 1, (height_px, width_px))
    grain = cv2.GaussianBlur(noise, (0, 0), 1.0)
    return np.asarray(120 + 25 * grain / grain.std(), np.float32)


def edge() -> Grey:
    """(16, 16): 100 on the left, 140 on the right; its mean is 120."""
    counts = np.full((16, 16), 100, np.float32)
    counts[:, 8:] = 140
    return counts


def wave(period_px: int, amplitude: float) -> Grey:
    """(64 + 12, 64 + 12): a cosine along x about 120."""
    x = np.arange(76, dtype=np.float32)
    return np.asarray(np.tile(120 + amplitude * np.cos(2 * np.pi * x / period_px), (76, 1)), np.float32)


@lru_cache
def rendered(seed: int) -> Grey:
    """(13, 256, 256) of stained tissue at 20x/0.75 with a real sensor's noise, in focus in the middle."""
    table = PupilTable(Optics(), 8.0)
    slide = make_slide("tissue", (seed, 2), table, 256, 256, margin_um=14.0)
    size = good_size(256 + 2 * 45, *fine_ratio(table.optics))
    rim = (size - 256) // 2
    frames = [
        expose(see(slide, table, (slide.margin_px - rim,) * 2, size, z), Sensor(), np.random.default_rng(n))
        for n, z in enumerate(DEPTHS_UM)
    ]
    return np.asarray(np.stack(frames)[:, rim : rim + 256, rim : rim + 256, 1], np.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("brenner", (2 * 40**2 / 14) / 120**2),
        ("tenengrad", (2 * 160**2 / 14) / 120**2),
        ("laplacian", (2 * 40**2 / 14) / 120**2),
        ("laplacian_variance", (2 * 40**2 / 14) / 120**2),
        ("modified_laplacian", (2 * 40 / 14) / 120),
        ("modulus_difference", (40 / 15) / 120),
        ("variance", 20**2 / 120**2),
        ("standard_deviation", 20 / 120),
        ("entropy", 1.0),
        ("vollath_f4", 20**2 * ((14 - 1) / 15 - (12 - 2) / 14) / 120**2),
        ("vollath_f5", 20**2 * ((14 - 1) / 15 + 1) / 120**2),
    ],
)
def test_a_measure_is_its_equation_at_an_edge(name: str, expected: float) -> None:
    assert measured(name, edge()) == pytest.approx(expected, rel=1e-5)
    assert measured(name, edge().T) == pytest.approx(expected, rel=1e-5)


def test_variance_of_the_laplacian_leaves_out_the_mean_that_its_energy_has() -> None:
    bowl = np.square(np.arange(20, dtype=np.float32))[None].repeat(20, axis=0)
    assert measured("laplacian", bowl) == pytest.approx(2**2 / bowl.mean() ** 2)
    assert measured("laplacian_variance", bowl) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("period_px", [4, 8, 16, 32])
def test_the_high_pass_lets_a_wave_through_as_a_gaussian_leaves_it(period_px: int) -> None:
    passed = 1 - np.exp(-2 * (np.pi * 2.0 / period_px) ** 2)
    expected = (10**2 / 2) * passed**2 / 120**2
    assert measured("high_pass_energy", wave(period_px, 10)) == pytest.approx(expected, rel=0.05)


def test_the_wavelets_taps_are_orthonormal_and_have_three_vanishing_moments() -> None:
    detail = D6[::-1] * (-1.0) ** np.arange(6)
    assert D6.sum() == pytest.approx(np.sqrt(2))
    for taps, other, same in ((D6, D6, 1.0), (detail, detail, 1.0), (D6, detail, 0.0)):
        products = [taps[shift:] @ other[: 6 - shift] for shift in (0, 2, 4)]
        np.testing.assert_allclose(products, [same, 0, 0], atol=1e-12)
    moments = [np.arange(6.0) ** power @ detail for power in range(4)]
    np.testing.assert_allclose(moments[:3], 0, atol=1e-10)
    assert abs(moments[3]) > 0.1


def test_the_wavelets_bands_hold_the_images_energy() -> None:
    grey = np.zeros((40, 48), np.float32)
    grey[10:30, 10:38] = texture(20, 28)
    bands, rest = _decomposed(grey)
    energy = sum(float(np.square(band, dtype=np.float64).sum()) for band in (*bands, rest))
    assert energy == pytest.approx(float(np.square(grey, dtype=np.float64).sum()), rel=1e-5)


@pytest.mark.parametrize("name", ["wavelet_energy", "wavelet_transform"])
def test_wavelets_see_no_shading_up_to_the_second_power(name: str) -> None:
    x = np.linspace(0, 1, 64)
    shading = np.asarray(100 + 40 * x[None] ** 2 - 30 * x[:, None] * x[None], np.float32)
    assert measured(name, shading) < 1e-6 * measured(name, texture())


def test_magnitude_and_energy_of_the_wavelet_are_those_of_its_bands() -> None:
    grey = texture()
    bands, _ = _decomposed(grey - grey.mean())
    squares, sizes = (sum(float(f(band).mean()) for band in bands) for f in (np.square, np.abs))
    assert measured("wavelet_energy", grey) == pytest.approx(squares / grey.mean() ** 2, rel=1e-4)
    assert measured("wavelet_transform", grey) == pytest.approx(sizes / grey.mean(), rel=1e-4)


def test_sparsity_of_noise_is_the_gaussians_tail_and_that_of_a_point_is_nearly_one() -> None:
    noise = np.random.default_rng(1).normal(120, 10, (512, 512)).astype(np.float32)
    point = np.full((256, 256), 100, np.float32)
    point[101, 120] = 200
    assert measured("wavelet_sparsity", noise) == pytest.approx(0.0845, abs=0.003)
    assert measured("wavelet_sparsity", point) > 0.99


def test_entropy_counts_the_levels_that_are_used() -> None:
    steps = np.arange(256, dtype=np.float32).reshape(16, 16)
    assert measured("entropy", steps) == pytest.approx(8.0)
    assert measured("entropy", steps // 16) == pytest.approx(4.0)


@EVERY
def test_every_measure_is_largest_within_a_depth_of_field_of_focus_on_tissue(name: str) -> None:
    curve = measured(name, rendered(7))
    assert abs(DEPTHS_UM[curve.argmax()]) <= 1.0
    assert curve.max() > 1.001 * curve[[0, -1]].max()


def test_entropy_alone_is_led_astray_where_blur_fills_the_histogram_of_sparse_tissue() -> None:
    found = {name: abs(DEPTHS_UM[measured(name, rendered(2)).argmax()]) for name in MEASURES}
    assert found.pop("entropy") >= 4.0
    assert max(found.values()) <= 1.0


@pytest.mark.parametrize("name", sorted(MEASURES.keys() - {"wavelet_sparsity"}))
def test_every_measure_but_sparsity_falls_with_every_bit_of_blur_on_texture(name: str) -> None:
    blurred = [np.asarray(cv2.GaussianBlur(texture(), (0, 0), sigma), np.float32) for sigma in (0.3, 1.0, 2.0, 4.0)]
    series = [float(measured(name, grey)) for grey in blurred]
    assert all(sharper > 1.05 * softer for sharper, softer in pairwise(series))


@EVERY
def test_windows_count_as_they_do_one_by_one(name: str) -> None:
    stack = np.stack([texture(seed=1), texture(seed=2)])
    together = measured(name, windows(stack, 32))
    assert together.shape == (2, 12)
    assert together.dtype == np.float64
    alone = [[float(measured(name, one)) for one in windows(grey, 32)] for grey in stack]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_windows_lie_where_the_patches_of_a_frame_lie() -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (75, 110, 3), dtype=np.uint8)
    expected = PatchGrid.fit(75, 110, 32).cut(rgb)[..., 1]
    np.testing.assert_array_equal(windows(rgb[..., 1].astype(np.float32), 32), expected)


def test_a_window_larger_than_the_frame_is_refused() -> None:
    with pytest.raises(GridTooLarge, match="200x200"):
        windows(texture(), 200)


@EVERY
@pytest.mark.parametrize("level", [0.0, 120.3, 255.0])
def test_a_constant_image_has_no_sharpness_and_no_accident(name: str, level: float) -> None:
    values = measured(name, np.full((3, 16, 20), level, np.float32))
    np.testing.assert_allclose(values, np.zeros(3), atol=1e-9)


@EVERY
def test_a_dimmer_lamp_moves_nothing_but_entropy(name: str) -> None:
    full, dim = float(measured(name, texture())), float(measured(name, texture() * np.float32(0.6)))
    assert (dim == pytest.approx(full, rel=1e-3)) == (name != "entropy")


@EVERY
def test_rows_count_as_columns_do(name: str) -> None:
    upright = float(measured(name, texture()))
    assert float(measured(name, np.ascontiguousarray(texture().T))) == pytest.approx(upright, rel=1e-4)


@EVERY
def test_a_larger_field_of_the_same_texture_counts_the_same(name: str) -> None:
    field = texture(512, 512)
    parts = float(measured(name, windows(field, 256)).mean())
    assert parts == pytest.approx(float(measured(name, field)), rel=0.05)
