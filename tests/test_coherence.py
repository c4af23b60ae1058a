"""Partially coherent light: clear fields, Abbe's limits, and agreement with the OTF where both hold."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np
import pytest

from firmware import coherence
from firmware.optics import Floats, Optics, PupilTable, fine_ratio, good_size, image

PLAIN = Optics(spherical_waves=0.0, longitudinal_colour_um=(0.0, 0.0, 0.0), lines_nm=((620.0,), (535.0,), (460.0,)))
GREEN = 1


@lru_cache
def table_of(ratio: float, optics: Optics = PLAIN) -> PupilTable:
    return PupilTable(dataclasses.replace(optics, condenser_ratio=ratio), 11.0)


def grating(optics: Optics, cycles: int, depth: float, side_px: int = 96) -> Floats:
    """Stripes of so many periods across a square of `side_px` pixels, mean 1 - depth: (3, n, n)."""
    a, b = fine_ratio(optics)
    n = good_size(side_px, a, b) // a * b
    wave = 1.0 - depth + depth * np.cos(2 * np.pi * cycles * np.arange(n) / n)
    return np.broadcast_to(wave, (3, n, n)).astype(np.float32)


def contrast(light: Floats, cycles: int) -> float:
    """Amplitude of so many periods in the green rows, relative to their mean."""
    row = light[GREEN].mean(axis=0, dtype=np.float64)
    spectrum = np.fft.rfft(row)
    return float(2 * abs(spectrum[cycles]) / abs(spectrum[0]))


@pytest.mark.parametrize("ratio", [0.1, 0.6, 1.0])
@pytest.mark.parametrize("defocus_um", [0.0, -7.0])
def test_a_clear_field_gives_one(ratio: float, defocus_um: float) -> None:
    table = table_of(ratio, Optics())
    a, b = fine_ratio(table.optics)
    clear = np.ones((3, 48 // a * b, 48 // a * b), np.float32)
    assert coherence.image(clear, table, defocus_um) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("cycles", [3, 10, 20, 30])
@pytest.mark.parametrize("defocus_um", [0.0, 1.0])
def test_a_full_condenser_shows_weak_gratings_as_the_otf_does(cycles: int, defocus_um: float) -> None:
    table = table_of(1.0)
    weak = grating(table.optics, cycles, 0.02)
    abbe = contrast(coherence.image(weak, table, defocus_um), cycles)
    incoherent = contrast(image(weak, table, table.radial_otf(defocus_um)[0]), cycles)
    assert abbe == pytest.approx(incoherent, abs=0.04 * contrast(weak, cycles))


def test_a_narrow_condenser_passes_more_below_the_coherent_limit_and_nothing_above_it() -> None:
    table, optics = table_of(0.1), PLAIN
    limit_cycles = optics.numerical_aperture / 0.535 * 96 * optics.pixel_um
    for share, kept in ((0.7, 1.0), (1.3, 0.0)):
        cycles = int(share * limit_cycles)
        weak = grating(optics, cycles, 0.02)
        pixel = np.sinc(cycles / 96)
        assert contrast(coherence.image(weak, table, 0.0), cycles) == pytest.approx(
            kept * pixel * contrast(weak, cycles), abs=0.002
        )


def test_a_narrow_condenser_keeps_the_contrast_of_what_is_out_of_focus() -> None:
    seen = {
        ratio: contrast(coherence.image(grating(PLAIN, 8, 0.02), table_of(ratio), 6.0), 8) for ratio in (0.1, 0.4, 1.0)
    }
    assert seen[0.1] > 1.5 * seen[0.4] > 1.5 * seen[1.0]


def test_both_sides_of_focus_are_alike_without_aberrations_and_differ_with_them() -> None:
    rng = np.random.default_rng(1)
    a, b = fine_ratio(PLAIN)
    light = rng.uniform(0.3, 1.0, (3, 48 // a * b, 48 // a * b)).astype(np.float32)
    for optics, differs in ((PLAIN, False), (Optics(), True)):
        above, below = (coherence.image(light, table_of(0.6, optics), z) for z in (2.0, -2.0))
        assert (np.abs(above - below).max() > 0.02) == differs


def test_source_points_fill_the_condensers_disc_evenly_and_grow_with_defocus() -> None:
    optics = dataclasses.replace(PLAIN, condenser_ratio=0.7)
    near, far = coherence.source_points(optics, 0.0), coherence.source_points(optics, 10.0)
    assert len(far) > len(near)
    for points in (near, far):
        radius = np.hypot(*points.T)
        assert radius.max() < 0.7
        assert np.square(radius).mean() == pytest.approx(0.7**2 / 2, rel=0.01)
        assert points.mean(axis=0) == pytest.approx([0.0, 0.0], abs=1e-12)


def test_a_condenser_wider_than_the_objective_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.2 lies outside 0 to 1"):
        Optics(condenser_ratio=1.2)
