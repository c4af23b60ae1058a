"""The focus curve: found in stacks that have one, refused by name where there is none, and matched to few looks."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_app.curve import METHODS, FocusCurve, NoCurve, curve_of, match
from edge_app.moffat import Moffat, fit

Doubles = NDArray[np.float64]
PATCHES = 40
TILT_UM = np.linspace(-1.5, 1.5, PATCHES)


def vee(z_um: Doubles) -> Doubles:
    return np.hypot(z_um, 1.0) / 8


def stack(z_um: Doubles, focus_um: Doubles | float = 0.0, noise: float = 0.01) -> Doubles:
    """(M, N) scores of patches with their focus there."""
    rng = np.random.default_rng(2)
    places = np.broadcast_to(np.asarray(focus_um, np.float64), (PATCHES,))
    return vee(z_um[:, None] - places) + rng.normal(0, noise, (len(z_um), PATCHES))


def found(z_um: Doubles, scores: Doubles) -> tuple[FocusCurve, Doubles]:
    curve = curve_of(z_um, scores, "20x", "deepfocus@1", "0" * 64)
    assert not isinstance(curve, NoCurve), curve.sentence
    return curve


def refused(z_um: Doubles, scores: Doubles) -> str:
    curve = curve_of(z_um, scores, "20x", "deepfocus@1", "0" * 64)
    assert isinstance(curve, NoCurve)
    return curve.sentence


Z = np.linspace(-7.6, 7.6, 33)


@pytest.mark.parametrize("beta", [0.8, 1.0, 2.5])
@pytest.mark.parametrize("centre_um", [-1.3, 0.4])
def test_the_fit_finds_a_moffat_function_again(beta: float, centre_um: float) -> None:
    truth = Moffat(0.2, 0.9, 2.5, beta, centre_um)
    values = truth.at(Z) + np.random.default_rng(1).normal(0, 0.003, len(Z))
    fitted, explained = fit(Z, values)
    assert fitted.centre_um == pytest.approx(centre_um, abs=0.02)
    assert fitted.width_um == pytest.approx(truth.width_um, rel=0.05)
    assert explained > 0.99


def test_a_few_wild_slices_do_not_move_the_fit() -> None:
    truth = Moffat(0.2, 0.9, 2.5, 1.0, 0.4)
    values = truth.at(Z)
    values[[3, 20, 28]] += [1.0, 0.6, -0.9]
    fitted, _ = fit(Z, values)
    assert fitted.centre_um == pytest.approx(0.4, abs=0.02)
    assert fitted.width_um == pytest.approx(truth.width_um, rel=0.05)


def test_the_width_is_where_the_dip_is_half_as_deep() -> None:
    dip = Moffat(0.2, 0.9, 2.5, 0.8)
    assert dip.at(np.array([dip.width_um / 2])) == pytest.approx(0.2 + 0.45)


def test_the_zero_of_a_curve_is_the_minimum_of_its_stack() -> None:
    curve, focus_um = found(Z, stack(Z, 1.7))
    assert np.median(focus_um) == pytest.approx(1.7, abs=0.05)
    assert curve.z_um[0] == pytest.approx(-7.6 - 1.7, abs=0.05)
    assert curve.at_um(np.array([-6.0, 0.0, 5.0])) == pytest.approx(vee(np.array([-6.0, 0.0, 5.0])), abs=0.02)


def test_a_tilted_slide_gives_the_curve_of_a_flat_one() -> None:
    flat, _ = found(Z, stack(Z))
    tilted, focus_um = found(Z, stack(Z, TILT_UM))
    near = np.linspace(-1.5, 1.5, 13)
    assert tilted.at_um(near) == pytest.approx(flat.at_um(near), abs=0.02)
    assert focus_um - np.median(focus_um) == pytest.approx(TILT_UM, abs=0.3)


def test_blank_patches_and_slices_in_any_order_make_no_difference() -> None:
    scores = stack(Z)
    scores[:, ::3] = np.nan
    order = np.random.default_rng(3).permutation(len(Z))
    curve, focus_um = found(Z[order], scores[order])
    assert np.isnan(focus_um[::3]).all()
    assert (np.diff(curve.z_um) > 0).all()


def test_the_first_looks_lie_a_width_away_where_the_curve_is_known_so_far() -> None:
    z = np.linspace(-30, 30, 61)
    narrow, _ = found(z, Moffat(0.2, 1.0, 2.0, 1.0).at(z)[:, None] * np.ones(PATCHES))
    wide, _ = found(Z, stack(Z))
    assert narrow.bracket_um == pytest.approx(narrow.width_um)
    assert wide.bracket_um == pytest.approx(wide.reach_um / 1.5)


@pytest.mark.parametrize(
    ("z_um", "scores", "says"),
    [
        (Z[::6], vee(Z[::6]), "only 6 slices show structure, and a curve needs 7"),
        (Z, np.full(33, 0.4), "no dip over these 15.2 um"),
        (Z, 0.4 + np.random.default_rng(5).normal(0, 0.05, 33), "no dip"),
        (Z, vee(Z - 9.0), "at an end of the stack"),
        (Z, vee(Z + 7.0), "at an end of the stack"),
        (Z, Moffat(0.2, 1.0, 0.3, 2.0).at(Z), "too coarse"),
        (Z, vee(Z) + np.random.default_rng(6).normal(0, 0.3, 33), "noisy"),
    ],
)
def test_a_stack_without_a_curve_is_refused_in_a_sentence(z_um: Doubles, scores: Doubles, says: str) -> None:
    sentence = refused(z_um, scores[:, None] * np.ones(PATCHES))
    assert says in sentence
    assert ";" in sentence


def test_blank_slices_do_not_count() -> None:
    scores = stack(Z)
    scores[6:] = np.nan
    assert "only 6 slices" in refused(Z, scores)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("focus_um", [-3.0, 0.0, 2.2])
def test_three_looks_find_focus_between_them(method: str, focus_um: float) -> None:
    curve, _ = found(Z, stack(Z))
    z = np.array([-5.0, 0.0, 5.0])
    matched = match(curve, z, stack(z, focus_um + TILT_UM, 0.005), -5.0, 5.0, method)
    assert matched.focus_um == pytest.approx(focus_um + TILT_UM, abs=0.35)
    assert np.median(matched.focus_um) == pytest.approx(focus_um, abs=0.05)
    assert np.median(matched.agreement) > 0.9


def test_correlation_does_not_mind_a_specimen_with_its_own_gain_and_offset() -> None:
    curve, _ = found(Z, stack(Z))
    z = np.array([-5.0, 0.0, 5.0])
    matched = match(curve, z, 0.1 + 0.7 * stack(z, 1.5, 0.002), -5.0, 5.0, "normalised correlation")
    assert np.median(matched.focus_um) == pytest.approx(1.5, abs=0.05)


def test_a_patch_that_was_seen_twice_has_no_focus_and_one_beyond_the_looks_is_not_inside() -> None:
    curve, _ = found(Z, stack(Z))
    z = np.array([-5.0, 0.0, 5.0])
    scores = stack(z, 1.0)
    scores[1, 0] = np.nan
    scores[:, 1] = vee(z - 9.0)
    matched = match(curve, z, scores, -5.0, 5.0, "squared distance")
    assert np.isnan(matched.focus_um[0])
    assert not matched.inside[:2].any()
    assert matched.inside[2:].all()


def test_beyond_its_stack_a_curve_goes_on_as_it_left_it() -> None:
    curve, _ = found(Z, stack(Z, noise=0.0))
    assert curve.at_um(np.array([-12.0, 12.0])) == pytest.approx(vee(np.array([-12.0, 12.0])), abs=0.03)
