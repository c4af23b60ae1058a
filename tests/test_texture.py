"""Textures: steps kept small are what they would be in full, and grain fills its field."""

from __future__ import annotations

import numpy as np
import pytest

from firmware.texture import Floats, Steps, add_repeated, grain, noise, ridges


def field(height: int = 150, width: int = 170) -> Floats:
    return noise(np.random.default_rng(2), (height, width), 0.15, 8.0)


def in_full(values: Floats, edge: float, width: float) -> Floats:
    x = np.clip((values - np.float32(edge)) / np.float32(width) + np.float32(0.5), 0, 1)
    return np.asarray(x * x * (3 - 2 * x), np.float32)


@pytest.mark.parametrize("edge", [-9.0, 0.1, 9.0])
def test_steps_are_those_of_the_whole_field_to_the_last_bit(edge: float) -> None:
    whole, steps = in_full(field(), edge, 0.4), Steps(field(), edge, 0.4)
    assert np.array_equal([[steps[y, x] for x in range(170)] for y in range(150)], whole)
    multiplied = field()
    steps.multiply(multiplied)
    assert np.array_equal(multiplied, field() * whole)


def test_a_field_rises_through_its_steps() -> None:
    steps = Steps(np.array([[-1.0, -0.5, 0.0, 0.25, 0.5, 1.0]], np.float32), 0.0, 1.0)
    assert [float(steps[0, x]) for x in range(6)] == [0.0, 0.0, 0.5, 0.84375, 1.0, 1.0]


def test_noise_has_no_preferred_level_and_unit_variance() -> None:
    values = noise(np.random.default_rng(1), (600, 600), 0.15, 2.0)
    assert abs(float(values.mean())) < 0.1
    assert float(values.std()) == pytest.approx(1.0, abs=0.15)


def test_ridges_follow_the_zeros_of_a_field() -> None:
    assert ridges(np.array([[0.0, 0.1, -0.1, 5.0]], np.float32), 0.1)[0] == pytest.approx(
        [1, np.exp(-1), np.exp(-1), 0]
    )


def test_a_tile_is_repeated_to_the_edges_of_the_field() -> None:
    into, tile = np.ones((600, 1100), np.float32), grain(np.random.default_rng(3), 0.15)
    add_repeated(into, 0.5, tile)
    wall = np.tile(tile, (2, 3))[:600, :1100]
    assert np.array_equal(into, 1 + np.float32(0.5) * wall)
