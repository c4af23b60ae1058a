"""Counts: photon statistics, quantisation, colour mixing, mosaics and black levels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from firmware.bayer import PATTERNS
from firmware.sensor import Floats, Sensor, expose

IDEAL = Sensor(crosstalk=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
STEADY = dataclasses.replace(Sensor(), full_well_e=1e9, read_noise_e=0.0, bits=16)
RED = 0


def counts_of(level: float, sensor: Sensor) -> NDArray[np.float64]:
    """(200, 200, 3) or (200, 200) counts of an even field."""
    light = np.full((3, 200, 200), level, np.float32)
    return expose(light, sensor, np.random.default_rng(4)).astype(np.float64)


@pytest.mark.parametrize("level", [0.1, 0.5, 1.0])
def test_noise_is_that_of_the_photons_and_the_reading(level: float) -> None:
    sensor = dataclasses.replace(IDEAL, bits=16)
    electrons = counts_of(level, sensor) * sensor.full_well_e / 65535
    charge = level * sensor.exposure * sensor.full_well_e
    assert electrons.mean() == pytest.approx(charge, rel=0.002)
    assert electrons.var() == pytest.approx(charge + sensor.read_noise_e**2, rel=0.03)


def test_eight_and_sixteen_bits_show_the_same_light() -> None:
    eight, sixteen = (counts_of(0.4, dataclasses.replace(IDEAL, bits=bits)) for bits in (8, 16))
    assert eight.mean() / 255 == pytest.approx(sixteen.mean() / 65535, abs=0.002)
    assert sixteen.max() > 255


def test_twelve_bits_end_at_4095() -> None:
    assert counts_of(2.0, dataclasses.replace(IDEAL, bits=12)).max() == 4095


def test_too_much_light_clips_and_no_light_does_not_wrap() -> None:
    assert counts_of(3.0, IDEAL).min() == 255
    assert counts_of(0.0, IDEAL).max() < 3


def test_colours_mix_and_keep_white_white() -> None:
    red = np.zeros((3, 50, 50), np.float32)
    red[RED] = 1.0
    mixed = expose(red, Sensor(), np.random.default_rng(5)).mean(axis=(0, 1))
    assert mixed / mixed[RED] == pytest.approx([1.0, 0.06 / 0.9, 0.02 / 0.9], abs=0.01)
    white = counts_of(1.0, Sensor()).mean(axis=(0, 1))
    assert white == pytest.approx([255 * 0.82] * 3, rel=0.005)


def test_gains_weigh_the_channels() -> None:
    seen = counts_of(0.5, dataclasses.replace(IDEAL, gains=(1.0, 0.5, 0.25))).mean(axis=(0, 1))
    assert seen / seen[RED] == pytest.approx([1.0, 0.5, 0.25], rel=0.02)


def test_the_same_seed_exposes_the_same_counts() -> None:
    assert np.array_equal(counts_of(0.3, Sensor()), counts_of(0.3, Sensor()))


@pytest.fixture
def coloured() -> Floats:
    return np.random.default_rng(6).uniform(0.1, 1.0, (3, 8, 10)).astype(np.float32)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_mosaic_holds_at_each_pixel_the_colour_its_pattern_names(pattern: str, coloured: Floats) -> None:
    full = expose(coloured, STEADY, np.random.default_rng(1)).astype(np.float64)
    mosaic = expose(coloured, dataclasses.replace(STEADY, pattern=pattern), np.random.default_rng(2))
    assert mosaic.shape == (8, 10)
    for place, letter in enumerate(pattern):
        row, column = divmod(place, 2)
        wanted = full[row::2, column::2, "RGB".index(letter)]
        assert mosaic[row::2, column::2] == pytest.approx(wanted, abs=12)


@pytest.mark.parametrize("origin_px", [(0, 1), (1, 0), (3, 5)])
def test_a_tile_of_a_mosaic_keeps_the_phase_of_its_place(origin_px: tuple[int, int], coloured: Floats) -> None:
    sensor = dataclasses.replace(STEADY, pattern="GRBG")
    top, left = origin_px
    whole = expose(coloured, sensor, np.random.default_rng(1))[top:, left:].astype(np.float64)
    tile = expose(coloured[:, top:, left:], sensor, np.random.default_rng(2), origin_px)
    assert tile == pytest.approx(whole, abs=12)


def test_a_monochrome_sensor_sums_the_colours_by_its_response() -> None:
    light = np.array([0.2, 0.5, 0.8], np.float32)[:, None, None] * np.ones((3, 40, 40), np.float32)
    seen = expose(light, dataclasses.replace(STEADY, pattern="mono"), np.random.default_rng(1))
    assert seen.shape == (40, 40)
    assert seen.mean() / 65535 == pytest.approx(0.82 * (0.3 * 0.2 + 0.45 * 0.5 + 0.25 * 0.8), rel=1e-3)


def test_the_black_level_is_where_no_light_is_and_full_scale_stays() -> None:
    sensor = Sensor(bits=12, black_level=64.0)
    dark = counts_of(0.0, sensor)
    assert dark.mean() == pytest.approx(64.0, abs=0.1)
    assert dark.std() == pytest.approx(8.0 / 9000 * (4095 - 64), rel=0.03)
    assert counts_of(1.0, sensor).mean() == pytest.approx(64 + 0.82 * (4095 - 64), rel=0.002)
    assert counts_of(2.0, sensor).max() == 4095


def test_noise_of_a_mosaic_is_that_of_the_photons() -> None:
    sensor = dataclasses.replace(IDEAL, pattern="RGGB", bits=16)
    electrons = counts_of(0.5, sensor) * sensor.full_well_e / 65535
    assert electrons.var() == pytest.approx(0.5 * 0.82 * 9000 + 64, rel=0.04)


@pytest.mark.parametrize("wrong", [{"pattern": "RGBG"}, {"black_level": 255.0}, {"black_level": -1.0}])
def test_a_sensor_that_cannot_be_is_refused(wrong: dict[str, str | float]) -> None:
    with pytest.raises(ValueError, match=r"pattern|black level"):
        Sensor(**wrong)  # type: ignore[arg-type]
