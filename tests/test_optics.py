"""The forward model against what is known without it: formulas, SciPy, symmetry."""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from firmware.optics import (
    Floats,
    Optics,
    PupilTable,
    bessel_j0,
    depth_of_field_um,
    fine_ratio,
    good_size,
    image,
    spread_um,
)

PLAIN = Optics(spherical_waves=0.0, longitudinal_colour_um=(0.0, 0.0, 0.0), lines_nm=((620.0,), (535.0,), (460.0,)))
REAL = Optics()
RED, GREEN, BLUE = 0, 1, 2


@lru_cache
def table_of(optics: Optics, reach_um: float = 11.0) -> PupilTable:
    return PupilTable(optics, reach_um)


def strehl(table: PupilTable, defocus_um: NDArray[np.float64] | float) -> Floats:
    """(Z, C) height of the point image's middle, up to a factor: the OTF's volume."""
    return np.asarray(table.radial_otf(defocus_um) @ table.frequencies_per_um, np.float32)


def clear(side: int) -> Floats:
    return np.ones((3, side, side), np.float32)


@pytest.mark.parametrize("na", [0.4, 0.75, 0.95])
def test_in_focus_the_otf_is_the_diffraction_limit(na: float) -> None:
    table = table_of(dataclasses.replace(PLAIN, numerical_aperture=na))
    found = table.radial_otf(0.0)[0]
    for channel, (line_nm,) in enumerate(PLAIN.lines_nm):
        v = np.minimum(table.frequencies_per_um * line_nm * 1e-3 / (2 * na), 1.0)
        exact = 2 / math.pi * (np.arccos(v) - v * np.sqrt(1 - v * v))
        assert np.abs(found[channel] - exact).max() < 0.01


def test_oil_immersion_reaches_beyond_what_air_can() -> None:
    table = table_of(dataclasses.replace(PLAIN, numerical_aperture=1.3, immersion_index=1.515), 1.0)
    assert table.radial_otf(0.0)[0, GREEN, 200] > 0.2


def test_without_aberrations_both_sides_of_focus_are_the_same() -> None:
    table = table_of(PLAIN)
    assert table.radial_otf(3.0) == pytest.approx(table.radial_otf(-3.0), abs=1e-5)


def test_real_optics_tell_the_sides_of_focus_apart() -> None:
    table = table_of(REAL)
    assert np.abs(table.radial_otf(3.0) - table.radial_otf(-3.0)).max() > 0.05


def test_spherical_aberration_alone_tells_the_sides_of_focus_apart() -> None:
    table = table_of(dataclasses.replace(PLAIN, spherical_waves=0.3))
    assert np.abs(table.radial_otf(2.0) - table.radial_otf(-2.0)).max() > 0.05


def test_j0_is_that_of_scipy() -> None:
    x = np.linspace(0.0, 400.0, 200_001)
    assert np.abs(bessel_j0(x) - special.j0(x)).max() < 1e-7


@pytest.mark.parametrize("waves", [0.0, 0.15, 0.35])
def test_green_is_sharpest_at_zero_defocus(waves: float) -> None:
    table = table_of(dataclasses.replace(REAL, spherical_waves=waves))
    z = np.linspace(-1.0, 1.0, 81)
    assert z[strehl(table, z)[:, GREEN].argmax()] == pytest.approx(0.0, abs=0.08)


def test_red_focuses_farther_from_the_specimen_than_blue() -> None:
    z = np.linspace(-1.5, 1.5, 61)
    best = z[strehl(table_of(REAL), z).argmax(axis=0)]
    assert best == pytest.approx([0.5, 0.0, -0.4], abs=0.15)


def test_colour_turns_with_the_side_of_focus() -> None:
    above, below = strehl(table_of(REAL), np.array([1.5, -1.5]))
    assert above[RED] / above[BLUE] > 1.2 * below[RED] / below[BLUE]


def test_depth_of_field_is_wavelength_over_aperture_squared() -> None:
    assert depth_of_field_um(0.75) == pytest.approx(0.951, abs=0.001)
    assert depth_of_field_um(1.3, 1.515) == pytest.approx(1.515 * 0.535 / 1.69)


def test_light_spreads_like_the_cone() -> None:
    assert spread_um(-10.0, 0.75) == pytest.approx(10.0 * 0.75 / math.sqrt(1 - 0.75**2))


def test_a_defocus_beyond_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"12\.00 um is beyond this table's 11\.00 um"):
        table_of(REAL).radial_otf(np.array([0.0, -12.0]))


@pytest.mark.parametrize(("na", "pixel_um"), [(0.1, 1.7), (0.3, 0.345), (0.75, 0.1725), (0.75, 0.17), (0.95, 0.15)])
def test_the_render_pitch_is_fine_enough_for_every_objective(na: float, pixel_um: float) -> None:
    optics = Optics(numerical_aperture=na, pixel_um=pixel_um)
    a, b = fine_ratio(optics)
    assert pixel_um * a / b <= optics.shortest_um / (4 * na) + 1e-12


def test_pixels_that_are_far_too_coarse_are_refused() -> None:
    with pytest.raises(ValueError, match="undersamples"):
        fine_ratio(Optics(numerical_aperture=0.75, pixel_um=0.4))


@pytest.mark.parametrize(("a", "b"), [(1, 1), (5, 6), (4, 5), (3, 4), (2, 3), (3, 5), (1, 2)])
def test_a_good_size_divides_evenly_and_is_no_smaller_than_asked(a: int, b: int) -> None:
    for asked in (100, 347, 513):
        size = good_size(asked, a, b)
        assert asked <= size <= 1.3 * asked
        assert size % a == 0
        assert size % 2 == size // a * b % 2 == 0


@pytest.mark.parametrize("pixel_um", [0.15, 0.1725, 0.2, 0.25, 0.29])
def test_a_clear_field_images_to_one(pixel_um: float) -> None:
    table = table_of(dataclasses.replace(REAL, pixel_um=pixel_um))
    a, b = fine_ratio(table.optics)
    seen = image(clear(good_size(48, a, b) // a * b), table, table.radial_otf(4.0)[0])
    assert seen == pytest.approx(1.0, abs=1e-5)


def test_light_is_moved_about_but_not_lost() -> None:
    table = table_of(REAL)
    light = np.random.default_rng(1).uniform(0.1, 1.0, (3, 96, 96)).astype(np.float32)
    seen = image(light, table, table.radial_otf(-6.0)[0])
    assert seen.mean(axis=(1, 2)) == pytest.approx(light.mean(axis=(1, 2)), rel=1e-5)


@pytest.mark.parametrize("pixel_um", [0.14, 0.1725, 0.19, 0.2, 0.22, 0.25, 0.29])
def test_an_image_is_the_blurred_specimen_looked_up_at_every_pixel(pixel_um: float) -> None:
    table = table_of(dataclasses.replace(REAL, pixel_um=pixel_um))
    a, b = fine_ratio(table.optics)
    m = good_size(24, a, b)
    light = np.random.default_rng(2).uniform(0.0, 1.0, (3, m // a * b, m // a * b)).astype(np.float32)
    otf = table.radial_otf(1.5)[0]
    seen = image(light, table, otf)
    for y, x in ((0, 0), (1, m - 1), (m // 2, 3)):
        assert seen[GREEN, y, x] == pytest.approx(looked_up(light, table, otf, y, x), abs=2e-3)


def looked_up(light: Floats, table: PupilTable, otf: Floats, y: int, x: int) -> float:
    """Green at one pixel by a plain sum over every frequency of the specimen: no folding, no fast inverse."""
    optics = table.optics
    a, b = fine_ratio(optics)
    n = light.shape[-1]
    f = np.fft.fftfreq(n, optics.pixel_um * a / b)
    radial = np.interp(np.hypot(f[:, None], f[None, :]), table.frequencies_per_um, otf[GREEN], right=0.0)
    pixel = np.sinc(f * optics.pixel_um)
    spectrum = np.fft.fft2(light[GREEN].astype(np.float64)) * radial * pixel[:, None] * pixel[None, :]
    wave_y, wave_x = (np.exp(2j * np.pi * f * place * optics.pixel_um) for place in (y, x))
    return complex((wave_y @ spectrum @ wave_x).item()).real / float(n * n)


@pytest.mark.parametrize("defocus_um", [-10.0, 10.0])
def test_a_margin_of_the_spread_is_enough_that_nothing_wraps(defocus_um: float) -> None:
    table = table_of(REAL)
    a, b = fine_ratio(table.optics)
    core, margin = 48, int(spread_um(11.0, 0.75) / table.optics.pixel_um) + 8
    near, far = (good_size(core + 2 * edge, a, b) for edge in (margin, 2 * margin))
    light = np.random.default_rng(3).uniform(0.0, 1.0, (3, far // a * b, far // a * b)).astype(np.float32)
    otf = table.radial_otf(defocus_um)[0]
    off = (far - near) // 2 // a * a
    piece = light[:, off // a * b :, off // a * b :][:, : near // a * b, : near // a * b]
    inside = slice(margin, margin + core)
    cut = image(piece, table, otf)[:, inside, inside]
    whole = image(light, table, otf)[:, off:, off:][:, inside, inside]
    assert np.abs(cut - whole).max() < 2e-3


@pytest.mark.parametrize("na", [0.5, 0.75])
def test_the_shadow_of_a_point_grows_like_the_cone(na: float) -> None:
    optics = dataclasses.replace(PLAIN, numerical_aperture=na)
    slope = math.sqrt(-math.log(1 - na * na) / na**2 - 1)  # root mean square of tan(asin(NA r)) over the pupil
    for z in (-10.0, -5.0, 5.0, 10.0):
        assert shadow_radius_um(optics, z) == pytest.approx(slope * abs(z), rel=0.06)


def shadow_radius_um(optics: Optics, defocus_um: float) -> float:
    """Root mean square radius of what a point takes away from a clear field, inside twice the cone."""
    table = table_of(optics)
    a, b = fine_ratio(optics)
    m = good_size(240, a, b)
    light = clear(m // a * b)
    light[:, m // a * b // 2, m // a * b // 2] = 0.0
    shadow = 1.0 - image(light, table, table.radial_otf(defocus_um)[0])[GREEN].astype(np.float64)
    y, x = np.indices(shadow.shape)
    squared = ((y - m / 2) ** 2 + (x - m / 2) ** 2) * optics.pixel_um**2
    shadow[squared > (1.3 * spread_um(defocus_um, optics.numerical_aperture)) ** 2] = 0.0
    return float(np.sqrt((shadow * squared).sum() / shadow.sum()))


@pytest.mark.parametrize("error_um", [-8.0, 8.0])
def test_a_wrong_coverslip_tells_the_sides_of_focus_apart_in_each_single_colour(error_um: float) -> None:
    table = table_of(dataclasses.replace(PLAIN, coverslip_error_um=error_um))
    apart = np.abs(table.radial_otf(2.5) - table.radial_otf(-2.5)).max(axis=(0, 2))
    assert apart.min() > 0.05


def test_coverslips_too_thick_and_too_thin_are_mirror_images_of_each_other() -> None:
    thick, thin = (table_of(dataclasses.replace(PLAIN, coverslip_error_um=error)) for error in (6.0, -6.0))
    assert thick.radial_otf(2.0)[0, GREEN] == pytest.approx(thin.radial_otf(-2.0)[0, GREEN], abs=0.02)


@pytest.mark.parametrize("error_um", [-12.0, 5.0, 12.0])
def test_green_stays_sharpest_at_zero_defocus_behind_a_wrong_coverslip(error_um: float) -> None:
    table = table_of(dataclasses.replace(REAL, coverslip_error_um=error_um))
    z = np.linspace(-3.0, 3.0, 121)
    assert z[strehl(table, z)[:, GREEN].argmax()] == pytest.approx(0.0, abs=0.15)


def test_a_thicker_coverslip_is_the_spherical_aberration_of_the_textbook() -> None:
    na, error_um, glass = 0.5, 10.0, 1.515
    waves = error_um * na**4 * (glass**2 - 1) / (8 * glass**3) / 0.535
    plain = dataclasses.replace(PLAIN, numerical_aperture=na)
    cover = table_of(dataclasses.replace(plain, coverslip_error_um=error_um))
    seidel = table_of(dataclasses.replace(plain, spherical_waves=waves))
    for z in (-4.0, 0.0, 4.0):
        assert cover.radial_otf(z)[0, GREEN] == pytest.approx(seidel.radial_otf(z)[0, GREEN], abs=0.03)


def test_an_aperture_beyond_the_index_of_glass_needs_a_coverslip_without_error() -> None:
    wide = dataclasses.replace(PLAIN, numerical_aperture=1.55, immersion_index=1.7)
    assert wide.coverslip_spread_um == 0.0
    assert table_of(wide, 0.5).radial_otf(0.0)[0, GREEN, 100] > 0.2
    with pytest.raises(ValueError, match=r"NA 1\.55 does not pass a coverslip of index 1\.515"):
        dataclasses.replace(wide, coverslip_error_um=2.0)


def test_oil_of_the_glass_index_hides_a_wrong_coverslip() -> None:
    oil = dataclasses.replace(PLAIN, numerical_aperture=1.3, immersion_index=1.515)
    off = dataclasses.replace(oil, coverslip_error_um=20.0)
    assert table_of(off, 1.0).radial_otf(0.5) == pytest.approx(table_of(oil, 1.0).radial_otf(0.5), abs=1e-4)
