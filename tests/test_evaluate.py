"""Evaluation sets and their figures: frames whose truth is known, and scores that can be worked out by hand."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from edge_app.estimate import Calibration
from edge_app.patches import PatchGrid
from firmware import specimens
from firmware.frames import FrameOptics
from firmware.optics import PupilTable
from firmware.rendering import Slide
from model_export.conditions import Conditions
from model_export.errors import BadRecipe, NoData
from model_export.evaluate import SETS, EvaluationSet, answer_set, fused, guess, load_set, score, set_names
from model_export.frames import Answered, Subject, Truth, answer_all, frames_of, slide_of

NAMES = {
    *("nominal", "optics", "raw", "jpeg", "thick", "sparse", "40x", "10x", "fluorescence", "symmetric"),
}
SMALL = (448, 672)
GRID = PatchGrid(2, 3, 0, 0)
PLAIN = Calibration(10.0, floor_um=0.1)
OPTICS = FrameOptics(numerical_aperture=0.75, pixel_um=0.1725)


def with_slide(**changes: object) -> Conditions:
    """The nominal conditions with another slide."""
    conditions = load_set("nominal").conditions
    return conditions.model_copy(update={"slide": conditions.slide.model_copy(update=changes)})


def frames(conditions: Conditions, seed: int = 1, specimens: int = 1, depths: int = 1) -> list[Truth]:
    return list(frames_of(conditions, 4.0, (seed,), specimens, depths, SMALL))


def answered(
    truth_um: float,
    said_um: float,
    covered: float | list[float] = 1.0,
    informative: list[bool] | None = None,
    **outputs: float,
) -> Answered:
    """A frame of six patches, whose informative ones all say the same."""
    mask = np.array(informative if informative is not None else [True] * 6)
    told = {"defocus_um": said_um, "log_sigma": np.log(0.2)} | outputs
    return Answered(
        truth_um,
        np.full(6, truth_um, np.float32),
        np.broadcast_to(np.asarray(covered, np.float32), (6,)),
        mask,
        mask,
        {name: np.full(mask.sum(), value, np.float32) for name, value in told.items()} if mask.any() else {},
        GRID,
        OPTICS,
    )


def test_the_sets_that_were_promised_are_there() -> None:
    assert set(set_names()) >= NAMES


@pytest.mark.parametrize("name", set_names())
def test_every_set_can_be_drawn_from(name: str) -> None:
    wanted = load_set(name)
    assert wanted.description
    assert set(wanted.conditions.slide.kinds) <= set(specimens.KINDS)
    assert wanted.frame_optics().numerical_aperture is not None


def test_an_unknown_set_is_told_what_there_is() -> None:
    with pytest.raises(BadRecipe, match=r"no evaluation set 'soup'; the sets are: .*nominal"):
        load_set("soup")


def test_every_stratum_of_the_range_has_a_frame() -> None:
    truths = np.array([truth.truth_um for truth in frames(with_slide(), specimens=2, depths=3)]).reshape(2, 3)
    edges = np.array([-4, -4 / 3, 4 / 3, 4])
    assert (truths >= edges[:-1]).all()
    assert (truths <= edges[1:]).all()
    assert truths[0] != pytest.approx(truths[1])


def test_a_level_slide_is_as_far_off_everywhere() -> None:
    (truth,) = frames(with_slide())
    assert truth.patch_truth_um == pytest.approx(np.full(6, truth.truth_um), abs=1e-5)


def test_a_tilted_slide_is_not_but_is_in_the_middle() -> None:
    (truth,) = frames(with_slide(tilt_um=2.0))
    assert np.ptp(truth.patch_truth_um) > 0.1
    assert truth.patch_truth_um.mean() == pytest.approx(truth.truth_um, abs=1e-5)


def test_a_tilt_shows_in_the_pixels_too() -> None:
    (level,), (tilted,) = frames(with_slide()), frames(with_slide(tilt_um=2.0))
    assert not np.array_equal(level.frame.pixels, tilted.frame.pixels)


def test_depth_is_counted_from_what_absorbs() -> None:
    (truth,) = frames(with_slide(thick_share=1.0, thickness_um=(2.0, 2.0)))
    assert np.ptp(truth.patch_truth_um) > 0.0
    assert np.abs(truth.patch_truth_um - truth.truth_um).max() < 1.0


def test_the_same_seed_gives_the_same_frames_and_another_seed_others() -> None:
    (one,), (again,), (other,) = (frames(with_slide(), seed) for seed in (1, 1, 2))
    assert np.array_equal(one.frame.pixels, again.frame.pixels)
    assert one.truth_um == again.truth_um
    assert not np.array_equal(one.frame.pixels, other.frame.pixels)


def test_blank_glass_covers_nothing_and_tissue_much() -> None:
    (blank,), (tissue,) = frames(with_slide(kinds={"blank": 1.0})), frames(with_slide(kinds={"tissue": 1.0}))
    assert blank.covered.max() == 0.0
    assert tissue.covered.mean() > 0.2


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_sparse_set_is_as_blank_as_it_says(seed: int) -> None:
    (truth,) = frames(load_set("sparse").conditions, seed)
    assert (truth.covered < 0.02).mean() >= 0.6


def slide(least: float, kind: str = "sparse", attempts: int = 8) -> Slide:
    """A slide of which at least so much shall be blank, drawn of one seed."""
    setting = with_slide(kinds={kind: 1.0}, blank_at_least=least).draw(np.random.default_rng(2))
    return slide_of(setting, (2,), PupilTable(setting.optics, 0.1), SMALL, 1.0, attempts)


def blank_share(of: Slide) -> float:
    grid = PatchGrid.fit(*SMALL)
    return float((of.coverage(grid.patch_px, grid.rows, grid.columns, grid.top_px, grid.left_px) < 0.02).mean())


def test_a_slide_is_drawn_again_only_where_it_is_not_blank_enough() -> None:
    plain, enough, other = slide(0.0), slide(0.5), slide(0.6)
    assert 0.5 <= blank_share(plain) < 0.6 <= blank_share(other)
    assert np.array_equal(plain.layers[0].light, enough.layers[0].light)


def test_a_kind_that_is_never_so_blank_is_refused_in_words() -> None:
    with pytest.raises(BadRecipe, match=r"each of 3 slides of the kind 'tissue'.*lower blank_at_least"):
        slide(1.0, "tissue", 3)


def test_only_informative_patches_are_asked_and_progress_is_told() -> None:
    shapes, told = [], []

    def predict(counts: np.ndarray) -> dict[str, np.ndarray]:
        shapes.append(counts.shape)
        return {"defocus_um": np.zeros(len(counts), np.float32), "log_sigma": np.zeros(len(counts), np.float32)}

    seen = answer_all(iter(frames(with_slide(), depths=2)), Subject(predict, 2, 0.018), lambda: told.append(1))
    assert shapes == [(a.informative.sum(), 224, 224, 3) for a in seen]
    assert all(a.chosen.sum() == 2 and len(a.asked()[0]["defocus_um"]) == 2 for a in seen)
    assert len(told) == 2


def test_a_blank_frame_is_not_asked_about() -> None:
    def refuse(counts: np.ndarray) -> dict[str, np.ndarray]:
        raise AssertionError(counts.shape)

    (seen,) = answer_all(iter(frames(with_slide(kinds={"blank": 1.0}))), Subject(refuse, 0, 0.018), lambda: None)
    assert not seen.outputs
    assert fused(seen, PLAIN) is None


def truth_of(wanted: EvaluationSet, seed: int) -> float:
    """The defocus of a set's first frame."""

    def nothing(counts: np.ndarray) -> dict[str, np.ndarray]:
        return {"defocus_um": np.zeros(len(counts), np.float32), "log_sigma": np.zeros(len(counts), np.float32)}

    return answer_set(wanted, Subject(nothing, 0, 0.018), seed, lambda: None, 1, 1)[0].truth_um


def test_sets_of_one_seed_do_not_share_their_specimens() -> None:
    plain = load_set("nominal").model_copy(update={"frame_px": SMALL})
    assert truth_of(plain, 1) != truth_of(plain.model_copy(update={"name": "another"}), 1)


def test_any_integer_is_a_seed() -> None:
    small = load_set("nominal").model_copy(update={"frame_px": SMALL})
    truths = [truth_of(small, seed) for seed in (-1, -1, 1, 0, -(2**70) - 5, 2**70)]
    assert truths[0] == truths[1]
    assert len(set(truths)) == 5


def test_a_seed_from_zero_on_is_taken_as_it_is() -> None:
    small = load_set("nominal").model_copy(update={"frame_px": SMALL})
    (truth,) = frames_of(small.conditions, small.range_um, (7, 1000, zlib.crc32(b"nominal")), 1, 1, SMALL)
    assert truth_of(small, 7) == truth.truth_um


def test_an_answer_that_is_the_truth_has_no_error() -> None:
    figures = score([answered(z, z) for z in (-3.0, -1.0, 2.0, 5.0)], PLAIN)
    for unit in ("patch", "frame"):
        assert figures[unit] == {
            "mae_um": 0.0,
            "median_um": 0.0,
            "p95_um": 0.0,
            "sign": 1.0,
            "coverage_68": 1.0,
            "coverage_95": 1.0,
        }
    assert (figures["frames"], figures["patches"], figures["abstained"]) == (4, 24, 0.0)


def test_errors_are_counted_as_they_are() -> None:
    figures = score([answered(3.0, 3.5), answered(2.0, 1.9), answered(-1.0, 1.1)], PLAIN)
    assert figures["frame"]["mae_um"] == pytest.approx((0.5 + 0.1 + 2.1) / 3, abs=1e-3)
    assert figures["frame"]["median_um"] == pytest.approx(0.5, abs=1e-3)
    assert figures["frame"]["sign"] == pytest.approx(2 / 3, abs=1e-3)
    assert figures["patch"]["coverage_68"] == pytest.approx(1 / 3, abs=1e-3)


def test_near_focus_the_sign_does_not_count() -> None:
    assert score([answered(0.2, -0.2), answered(3.0, 3.0)], PLAIN)["frame"]["sign"] == 1.0


def test_a_share_of_nothing_is_none() -> None:
    figures = score([answered(0.2, -0.2), answered(-0.1, -0.1)], PLAIN)
    assert figures["patch"]["sign"] is figures["frame"]["sign"] is None
    assert figures["blank"] == {"precision": None, "recall": None, "patches": 0}


def test_blank_patches_that_are_all_missed_have_a_recall_but_no_precision() -> None:
    blank = score([answered(2.0, 2.0, [0, 0, 1, 1, 1, 1])], PLAIN)["blank"]
    assert blank == {"precision": None, "recall": 0.0, "patches": 2}


def test_a_patch_is_scored_with_the_calibrated_sigma() -> None:
    wide = Calibration(10.0, patch_scale=10.0)
    assert score([answered(3.0, 3.5)], wide)["patch"]["coverage_68"] == 1.0
    assert score([answered(3.0, 3.5)], PLAIN)["patch"]["coverage_68"] == 0.0


def test_patches_that_are_hardly_covered_do_not_count() -> None:
    frame = answered(3.0, 3.0, [1.0, 1.0, 0.1, 0.1, 0.0, 0.0])
    frame.outputs["defocus_um"][2:] = 9.0
    figures = score([frame], PLAIN)
    assert figures["patches"] == 2
    assert figures["patch"]["mae_um"] == 0.0


def test_frames_without_specimen_do_not_count() -> None:
    blank = answered(3.0, 0.0, 0.0, [False] * 6)
    assert score([blank, answered(2.0, 2.0)], PLAIN)["frames"] == 1


def test_a_frame_that_is_taken_for_blank_counts_as_a_guess_of_zero() -> None:
    missed = answered(3.0, 0.0, 1.0, [False] * 6)
    figures = score([missed, answered(2.0, 2.0)], PLAIN)
    assert figures["abstained"] == 0.5
    assert figures["frame"]["mae_um"] == pytest.approx(1.5)


def test_a_model_that_asks_about_nothing_cannot_be_scored() -> None:
    with pytest.raises(NoData, match="take more specimens"):
        score([answered(3.0, 0.0, 1.0, [False] * 6)], PLAIN)


def test_a_model_that_asks_only_about_what_does_not_count_cannot_be_scored() -> None:
    missed = answered(3.0, 3.0, [0.5, 0.1, 0.1, 0.1, 0.1, 0.1], [False, True, True, True, True, True])
    with pytest.raises(NoData, match="take more specimens"):
        score([missed], PLAIN)


def test_blank_patches_are_told_as_precision_and_recall() -> None:
    called = [answered(2.0, 2.0, [0, 0, 0, 0.1, 0.5, 0.5], [False, False, True, False, False, True])]
    blank = score(called, PLAIN)["blank"]
    assert blank["recall"] == pytest.approx(2 / 3, abs=1e-3)
    assert blank["precision"] == pytest.approx(2 / 3, abs=1e-3)
    assert blank["patches"] == 3


@pytest.mark.parametrize(("said_um", "error_um"), [(2.5, 0.5), (-2.5, 5.5)])
def test_a_frame_whose_side_does_not_show_counts_with_its_best_guess(said_um: float, error_um: float) -> None:
    frame = answered(3.0, said_um, side=0.0, distance_um=2.5)
    figures = score([frame], PLAIN)
    assert (figures["abstained"], figures["sign_uncertain"]) == (1.0, 1.0)
    assert figures["frame"]["mae_um"] == pytest.approx(error_um, abs=1e-3)


def test_a_frame_perhaps_out_of_range_is_not_abstained_on() -> None:
    figures = score([answered(9.9, 12.0), answered(3.0, 3.0)], PLAIN)
    assert (figures["abstained"], figures["out_of_range"]) == (0.0, 0.5)


def test_nothing_seen_is_guessed_to_be_in_focus() -> None:
    assert guess(None) == 0.0


def test_figures_are_plain_numbers() -> None:
    figures = json.loads(json.dumps(score([answered(3.0, 3.5)], PLAIN), allow_nan=False))
    assert (figures["frames"], figures["patch_px"]) == (1, 224)


def test_a_misspelt_set_is_refused() -> None:
    table = load_set("nominal").model_dump()
    with pytest.raises(ValueError, match="range"):
        EvaluationSet.model_validate({**table, "range": 3.0})


def test_a_set_may_be_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes((SETS / "10x.toml").read_bytes())
    assert load_set(str(path)) == load_set("10x").model_copy(update={"name": "mine"})
    with pytest.raises(BadRecipe, match="there is no evaluation set"):
        load_set(str(tmp_path / "none.toml"))
