"""Fusing: one honest number out of many patches, or a verdict that says why not."""

import numpy as np
import pytest

from edge_app.answer import Verdict, screen
from edge_app.estimate import (
    Answers,
    Calibration,
    DefocusEstimate,
    PatchMap,
    centre_of,
    fuse,
    level_um,
    levelled,
    places_of,
    weighted_median,
)
from edge_app.patches import Content, PatchGrid
from edge_app.tasks.defocus import answers_of

GRID = PatchGrid(8, 11, 0, 0)
ALL = np.ones(88, bool)


def fused(defocus: np.ndarray, sigma: float = 0.3, floor: float = 0.1) -> DefocusEstimate:
    values = defocus.astype(np.float32)
    answers = Answers(values, np.full(88, sigma, np.float32))
    return fuse(answers, ALL, GRID, Calibration(10.0, floor_um=floor), "m")


def told(defocus: np.ndarray, logit: float, distance_um: float) -> DefocusEstimate:
    """What comes of patches that all give one logit of "above", and one distance."""
    above = np.full(88, 1 / (1 + np.exp(-logit)), np.float32)
    distance = np.full(88, distance_um, np.float32)
    answers = Answers(defocus.astype(np.float32), np.full(88, 0.3, np.float32), above, distance)
    return fuse(answers, ALL, GRID, Calibration(10.0, floor_um=0.1), "m")


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
    estimate = fuse(Answers(values, sigma), ALL, GRID, Calibration(10.0), "m")
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
    estimate = fuse(Answers(three, three), mask, GRID, Calibration(10.0), "m")
    assert estimate.patches_used == 3
    assert np.isnan(estimate.patches.defocus_um[3:]).all()


def tilted(mask: np.ndarray, across: float, down: float, centre: float = 2.0) -> np.ndarray:
    """The values of a plane at the patches of a mask; slopes in um over half of the longer side of the grid."""
    plane: np.ndarray = centre + places_of(mask, GRID) @ np.array([across, down])
    return plane.astype(np.float32)


def one_half(side: str) -> np.ndarray:
    rows, columns = np.divmod(np.arange(88), 11)
    return {"left": columns < 6, "right": columns > 4, "upper": rows < 4, "lower": rows > 3}[side]


@pytest.mark.parametrize("side", ["left", "right", "upper", "lower"])
def test_where_half_of_a_tilted_slide_is_blank_the_answer_is_nearer_the_middle_than_a_median_is(side: str) -> None:
    mask = one_half(side)
    slope_um = {"left": (0.5, 0.0), "right": (0.5, 0.0), "upper": (0.0, 0.5), "lower": (0.0, 0.5)}[side]
    values = tilted(mask, *slope_um) + noisy(0.0, 0.05)[mask].astype(np.float32)
    weights = np.ones(len(values), np.float32)
    centre, _ = centre_of(values, weights, places_of(mask, GRID), 0.05)
    assert abs(centre - 2.0) < 0.95 * abs(weighted_median(values, weights) - 2.0)


def test_a_tilted_slide_does_not_widen_sigma() -> None:
    flat, tilt = noisy(2.0, 0.05), tilted(ALL, 2.0, -1.0, 0.0)
    assert fused(flat + tilt, sigma=0.05).sigma_um < 1.5 * fused(flat, sigma=0.05).sigma_um


def test_wrong_patches_in_a_corner_do_not_pass_for_a_tilt() -> None:
    values = noisy(3.0, 0.05)
    values[one_half("left") & one_half("upper")] = -4.0
    assert fused(values).defocus_um == pytest.approx(3.0, abs=0.3)


def test_six_patches_are_too_few_for_a_plane() -> None:
    mask = np.zeros(88, bool)
    mask[:6] = True
    values = np.arange(1.0, 7.0, dtype=np.float32)
    centre, slopes = centre_of(values, np.ones(6, np.float32), places_of(mask, GRID), 0.05)
    assert centre == pytest.approx(3.5)
    assert not slopes.any()


def test_four_patches_that_disagree_about_the_side_are_no_tilted_plane() -> None:
    grid = PatchGrid(2, 2, 0, 0)
    values = np.array([6.0, -6.0, 6.0, -6.0], np.float32)
    answers = Answers(values, np.full(4, 0.1, np.float32))
    estimate = fuse(answers, np.ones(4, bool), grid, Calibration(10.0), "")
    assert estimate.verdict is Verdict.SIGN_UNCERTAIN
    assert estimate.defocus_um == pytest.approx(6.0)


def test_patches_in_one_row_leave_the_other_slope_level() -> None:
    grid = PatchGrid(1, 9, 0, 0)
    places = places_of(np.ones(9, bool), grid)
    centre, slopes = centre_of(3.0 + places[:, 0], np.ones(9, np.float32), places, 0.05)
    assert centre == pytest.approx(3.0, abs=0.01)
    assert slopes[0] > 0.5
    assert slopes[1] == 0.0


def test_places_run_over_the_longer_side_from_the_middle() -> None:
    places = places_of(ALL, GRID)
    assert places[0] == pytest.approx([-10 / 11, -7 / 11])
    assert places.mean(axis=0) == pytest.approx([0, 0], abs=1e-6)


def test_a_side_that_does_not_show_leaves_the_sign_open_and_gives_the_distance() -> None:
    estimate = told(noisy(0.0, 0.3), logit=0.1, distance_um=4.0)
    assert estimate.verdict is Verdict.SIGN_UNCERTAIN
    assert estimate.defocus_um == pytest.approx(4.0, abs=0.1)
    assert "4.0 um away" in estimate.sentence


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_side_that_shows_is_answered(side: float) -> None:
    estimate = told(noisy(side * 4.0), logit=side * 4.0, distance_um=4.0)
    assert estimate.verdict is Verdict.OK
    assert estimate.defocus_um == pytest.approx(side * 4.0, abs=0.1)


def without_side(spread_um: float) -> DefocusEstimate:
    """Patches whose signed answers are worth 5 um, and whose distances lie about 4 um."""
    half, signed = np.full(88, 0.5, np.float32), noisy(0.0, 4.0).astype(np.float32)
    answers = Answers(signed, np.full(88, 5.0, np.float32), half, noisy(4.0, spread_um).astype(np.float32))
    return fuse(answers, ALL, GRID, Calibration(10.0, 1.0, 0.1, 0.5, 1.0, 1.0), "m")


def test_a_distance_without_its_side_is_as_certain_as_the_distances_agree() -> None:
    exact, spread = without_side(0.0), without_side(0.6)
    assert {exact.verdict, spread.verdict} == {Verdict.SIGN_UNCERTAIN}
    assert exact.sigma_um == pytest.approx(0.1)
    assert 0.11 < spread.sigma_um < 0.2


def test_levelling_gives_the_centre_and_the_parts_of_its_sigma() -> None:
    values = tilted(ALL, 2.0, -1.0, 3.0)
    answers = Answers(values, np.full(88, 0.5, np.float32))
    flat = levelled(answers, ALL, GRID, Calibration(10.0, patch_scale=2.0))
    assert flat.centre_um == pytest.approx(3.0, abs=0.05)
    assert np.ptp(flat.level_um) < 0.6 * np.ptp(values)
    assert flat.sigma_um == pytest.approx(np.ones(88))
    assert flat.parts[0] == pytest.approx(1.0)
    assert flat.parts[2] == 0.0


def test_near_focus_the_side_does_not_matter() -> None:
    assert told(noisy(0.0, 0.1), logit=0.0, distance_um=0.2).verdict is Verdict.OK


def test_one_side_that_does_not_show_far_away_is_not_called_out_of_range() -> None:
    assert told(noisy(0.0, 6.0), logit=0.0, distance_um=9.0).verdict is Verdict.SIGN_UNCERTAIN


def test_patches_whose_distances_differ_disagree_rather_than_leave_the_sign_open() -> None:
    values = np.random.default_rng(3).uniform(-9, 9, 88).astype(np.float32)
    half = np.full(88, 0.5, np.float32)
    answers = Answers(values, np.full(88, 0.2, np.float32), half, np.abs(values))
    assert fuse(answers, ALL, GRID, Calibration(10.0), "m").verdict is Verdict.DISAGREEMENT


def test_the_parts_of_a_frames_sigma_add_as_squares() -> None:
    values, sigma = np.full(88, 1.0, np.float32), np.full(88, 0.5, np.float32)
    answers, calibration = Answers(values, sigma), Calibration(10.0, 2.0, 0.3, 0.4, 0.0)
    assert fuse(answers, ALL, GRID, calibration, "m").sigma_um == pytest.approx(0.5)


@pytest.mark.parametrize(("thickness_um", "sigma_um"), [(1.5, 0.5), (0.0, 0.3), (-1.5, 0.3)])
def test_a_thick_specimen_makes_a_frame_less_certain(thickness_um: float, sigma_um: float) -> None:
    thickness = np.full(88, thickness_um, np.float32)
    thickness[:20] = 9.0
    answers = Answers(np.ones(88, np.float32), np.full(88, 0.1, np.float32), thickness_um=thickness)
    calibration = Calibration(10.0, 1.0, 0.3, 0.0, 0.0, 0.4 / 1.5)
    assert fuse(answers, ALL, GRID, calibration, "m").sigma_um == pytest.approx(sigma_um)


def test_a_patch_is_as_uncertain_as_calibration_says() -> None:
    answers = Answers(np.ones(88, np.float32), np.full(88, 0.5, np.float32))
    estimate = fuse(answers, ALL, GRID, Calibration(10.0, patch_scale=1.5), "m")
    assert estimate.patches.sigma_um == pytest.approx(np.full(88, 0.75))


def test_models_for_a_longer_range_judge_on_its_scale() -> None:
    short, long = fused(noisy(4.0)), fused(noisy(4.0) * 4)
    longer = fuse(
        Answers((noisy(4.0) * 4).astype(np.float32), np.full(88, 1.2, np.float32)),
        ALL,
        GRID,
        Calibration(40.0, floor_um=0.4),
        "m",
    )
    assert (short.verdict, longer.verdict, long.verdict) == (Verdict.OK, Verdict.OK, Verdict.OUT_OF_RANGE)
    assert longer.sigma_um == pytest.approx(4 * short.sigma_um, rel=1e-3)


def test_the_outputs_of_a_network_become_answers() -> None:
    zeros = np.zeros(3, np.float32)
    said = {"side": zeros + 100, "distance_um": zeros + 2, "thickness_um": zeros + 3}
    answers = answers_of({"defocus_um": zeros, "log_sigma": zeros} | said)
    assert answers.distance_um == pytest.approx([2, 2, 2])
    assert answers.thickness_um == pytest.approx([3, 3, 3])
    assert answers.above is not None
    assert answers.above == pytest.approx([1, 1, 1])
    assert answers.sigma_um == pytest.approx([1, 1, 1])
    assert answers_of({"defocus_um": zeros, "log_sigma": zeros}).above is None


def shown(contrast: float, brightness: float, saturated: float) -> Content:
    contrasts, counts, blown = (np.full(88, value, np.float32) for value in (contrast, brightness, saturated))
    return Content(contrasts, counts, blown)


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (shown(0.001, 200, 0), Verdict.NO_CONTENT),
        (shown(0.2, 3, 0), Verdict.TOO_DARK),
        (shown(0.001, 255, 1), Verdict.SATURATED),
    ],
)
def test_a_frame_not_worth_asking_about_says_why_and_what_to_do(seen: Content, verdict: Verdict) -> None:
    refusal = screen(seen)
    assert refusal is not None
    assert refusal[0] is verdict
    assert ";" in refusal[1]


def test_one_informative_patch_is_enough_to_ask() -> None:
    seen = shown(0.001, 200, 0)
    seen.contrast[5] = 0.2
    assert screen(seen) is None


def test_the_weighted_median_of_equal_weights_is_the_median() -> None:
    values = np.array([5.0, 1.0, 3.0], np.float32)
    assert weighted_median(values, np.ones(3, np.float32)) == pytest.approx(3.0)


def test_the_level_of_a_tilted_slide_is_that_of_its_middle_however_its_patches_weigh() -> None:
    tilted_um = np.asarray(5.0 + places_of(ALL, GRID) @ np.array([2.0, -1.0]), np.float32)
    # The nearer to focus, the surer a patch is: that draws a frame's own estimate towards focus.
    sigma_um = np.asarray(0.05 * tilted_um, np.float32)
    patches = PatchMap(GRID, ALL, tilted_um, sigma_um)
    assert level_um(patches) == pytest.approx(5.0, abs=0.005)


def test_patches_that_were_not_asked_have_no_say_in_the_level() -> None:
    values = np.full(88, np.nan, np.float32)
    values[::3] = 2.0
    patches = PatchMap(GRID, np.isfinite(values), values, np.full(88, 0.1, np.float32))
    assert level_um(patches) == pytest.approx(2.0)
