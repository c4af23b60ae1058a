"""Fusing: one honest number out of many patches, or a verdict that says why not."""

import numpy as np
import pytest

from edge_app.estimate import Calibration, DefocusEstimate, Verdict, fuse, screen, weighted_median
from edge_app.patches import Content, PatchGrid

GRID = PatchGrid(8, 11, 0, 0)
ALL = np.ones(88, bool)


def fused(defocus: np.ndarray, sigma: float = 0.3, floor: float = 0.1) -> DefocusEstimate:
    values = defocus.astype(np.float32)
    return fuse(values, np.full(88, sigma, np.float32), ALL, GRID, Calibration(10.0, 1.0, floor), "m")


def noisy(centre: float, spread: float = 0.3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(centre, spread, 88)


def test_agreeing_patches_give_their_centre() -> None:
    estimate = fused(noisy(3.0))
    assert estimate.verdict is Verdict.OK
    assert estimate.defocus_um == pytest.approx(3.0, abs=0.1)


def test_wrong_patches_in_the_minority_do_not_move_the_answer() -> None:
    values = noisy(3.0)
    values[:20] = -6.0
    assert fused(values).defocus_um == pytest.approx(3.0, abs=0.3)


def test_a_tilted_slide_gives_the_defocus_of_its_middle() -> None:
    tilt = np.tile(np.linspace(-0.75, 0.75, 11), 8)
    assert fused(noisy(2.0, 0.05) + tilt).defocus_um == pytest.approx(2.0, abs=0.05)


def test_sigma_never_falls_below_what_a_frames_patches_share() -> None:
    assert fused(noisy(1.0, 0.01), sigma=0.05, floor=0.2).sigma_um >= 0.2


def test_more_spread_means_less_certainty() -> None:
    assert fused(noisy(1.0, 1.0)).sigma_um > fused(noisy(1.0, 0.1)).sigma_um


def test_confident_patches_count_more() -> None:
    values = np.r_[np.full(50, 4.0), np.full(38, 1.0)].astype(np.float32)
    sigma = np.r_[np.full(50, 3.0), np.full(38, 0.1)].astype(np.float32)
    estimate = fuse(values, sigma, ALL, GRID, Calibration(10.0), "m")
    assert estimate.defocus_um == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("centre", [12.5, -12.5])
def test_far_beyond_the_range_says_so_and_keeps_the_side(centre: float) -> None:
    estimate = fused(noisy(centre))
    assert estimate.verdict is Verdict.OUT_OF_RANGE
    assert np.sign(estimate.defocus_um) == np.sign(centre)


def test_a_guess_too_wide_to_exclude_beyond_is_out_of_range() -> None:
    assert fused(noisy(6.0), floor=3.0).verdict is Verdict.OUT_OF_RANGE


def test_patches_torn_between_two_sides_of_one_size_leave_the_sign_open() -> None:
    values = noisy(4.0, 0.2)
    values[::2] *= -1
    estimate = fused(values)
    assert estimate.verdict is Verdict.SIGN_UNCERTAIN
    assert estimate.defocus_um == pytest.approx(4.0, abs=0.2)


def test_both_signs_close_to_focus_are_no_matter() -> None:
    assert fused(noisy(0.0, 0.4)).verdict is Verdict.OK


def test_patches_all_over_the_place_disagree() -> None:
    assert fused(np.random.default_rng(1).uniform(0, 9, 88), sigma=0.2).verdict is Verdict.DISAGREEMENT


def test_patches_that_were_not_asked_stay_unknown_in_the_map() -> None:
    mask = np.zeros(88, bool)
    mask[:3] = True
    three = np.ones(3, np.float32)
    estimate = fuse(three, three, mask, GRID, Calibration(10.0), "m")
    assert estimate.patches_used == 3
    assert np.isnan(estimate.patches.defocus_um[3:]).all()


def shown(contrast: float, brightness: float, saturated: float) -> Content:
    return Content(*(np.full(88, value, np.float32) for value in (contrast, brightness, saturated)))


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (shown(0.001, 200, 0), Verdict.NO_CONTENT),
        (shown(0.2, 3, 0), Verdict.TOO_DARK),
        (shown(0.001, 255, 1), Verdict.SATURATED),
    ],
)
def test_a_frame_not_worth_asking_about_says_why_and_what_to_do(seen: Content, verdict: Verdict) -> None:
    estimate = screen(seen, GRID)
    assert estimate is not None
    assert estimate.verdict is verdict
    assert ";" in estimate.sentence


def test_one_informative_patch_is_enough_to_ask() -> None:
    seen = shown(0.001, 200, 0)
    seen.contrast[5] = 0.2
    assert screen(seen, GRID) is None


def test_the_weighted_median_of_equal_weights_is_the_median() -> None:
    values = np.array([5.0, 1.0, 3.0], np.float32)
    assert weighted_median(values, np.ones(3, np.float32)) == pytest.approx(3.0)
