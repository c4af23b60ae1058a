"""The task `quality`: certainty, the three ways to vote, and what a grade says of a frame."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from oracle import manifest

from edge_app import verbs
from edge_app.answer import Verdict
from edge_app.errors import BundleCorrupt
from edge_app.patches import PatchGrid
from edge_app.stubs.parfocal.v1 import focus_pb2
from edge_app.tasks.quality import (
    INDICES,
    NAMES,
    VOTES,
    QualityGrade,
    also,
    answer,
    centre_of,
    certainty,
    certainty_based,
    class_of,
    grade,
    hard,
    linear,
    probabilities_of,
    refuse,
    spacing_um,
)
from firmware.frames import FrameOptics

GRID = PatchGrid(1, 3, 0, 0, 300)
ALL = np.ones(3, bool)


def certain_of(index: int, share: float = 0.9) -> list[float]:
    """One patch's probabilities: `share` for a class, the rest even."""
    rest = (1 - share) / 6
    return [share if each == index else rest for each in INDICES]


def graded(*rows: list[float], vote: str = "certainty") -> QualityGrade:
    grid = PatchGrid(1, len(rows), 0, 0, 300)
    return grade(np.array(rows, np.float32), np.ones(len(rows), bool), grid, 1.9, "model@1", vote)


def test_every_class_has_a_name_and_comes_once() -> None:
    assert len(set(INDICES)) == 7
    assert set(NAMES) == set(INDICES)


def test_a_patch_that_is_sure_has_certainty_one_and_one_that_knows_nothing_zero() -> None:
    sure, lost = np.eye(7)[2], np.full(7, 1 / 7)
    assert certainty(np.stack([sure, lost])) == pytest.approx([1.0, 0.0])


def test_between_two_classes_certainty_is_one_less_log_two_by_log_seven() -> None:
    assert certainty(np.array([0.5, 0.5, 0, 0, 0, 0, 0])) == pytest.approx(1 - math.log(2) / math.log(7))


def test_hard_votes_count_heads() -> None:
    votes = hard(np.array([certain_of(1, 0.4), certain_of(1, 0.4), certain_of(0, 0.99)], np.float32))
    assert INDICES[int(votes.argmax())] == 1
    assert votes.sum() == pytest.approx(1.0)
    assert votes[INDICES.index(1)] == pytest.approx(2 / 3)


def test_linear_votes_divide_by_probability() -> None:
    rows = np.array([certain_of(1, 0.4), certain_of(1, 0.4), certain_of(0, 0.99)], np.float32)
    assert linear(rows) == pytest.approx(rows.mean(axis=0))
    assert INDICES[int(linear(rows).argmax())] == 0


def test_a_certain_patch_outvotes_many_that_hesitate() -> None:
    hesitant = [0.11, 0.11, 0.11, 0.30, 0.15, 0.11, 0.11]
    rows = np.array([*[hesitant] * 8, certain_of(0, 1.0)], np.float32)
    assert INDICES[int(hard(rows).argmax())] == 1
    assert INDICES[int(linear(rows).argmax())] == 1
    assert INDICES[int(certainty_based(rows).argmax())] == 0


def test_patches_that_know_nothing_vote_evenly_and_break_nothing() -> None:
    rows = np.full((3, 7), 1 / 7, np.float32)
    assert certainty_based(rows) == pytest.approx(np.full(7, 1 / 7), abs=1e-6)


@pytest.mark.parametrize("vote", VOTES)
def test_a_grade_carries_what_was_voted_and_by_which_vote(vote: str) -> None:
    told = graded(certain_of(2), certain_of(2), certain_of(1), vote=vote)
    assert (told.index, told.vote, told.verdict, told.model) == (2, vote, Verdict.OK, "model@1")
    assert told.sentence == ""


def test_the_centre_is_the_mean_index_and_in_um_it_is_the_distance_from_focus() -> None:
    told = graded([0, 0, 0, 0.5, 0.5, 0, 0], [0, 0, 0, 1, 0, 0, 0])
    assert told.centre == pytest.approx(0.75)
    assert told.centre_um == pytest.approx(0.75 * 1.9)


def test_beside_a_class_below_focus_total_blur_counts_as_the_next_on_that_side() -> None:
    mean = np.array([0.5, 0, 0, 0, 0, 0, 0.5])
    assert centre_of(mean, -2) == pytest.approx(-2.5)
    assert centre_of(mean, 3) == pytest.approx(1.0)


def test_total_blur_says_that_its_side_is_not_known() -> None:
    told = graded(certain_of(4, 0.999), certain_of(4, 0.999))
    assert (told.index, told.verdict, told.side) == (4, Verdict.OK, 0)
    assert "both sides" in told.sentence


@pytest.mark.parametrize("leaning", [3, -2])
def test_total_blur_that_leans_to_a_side_does_not_tell_it(leaning: int) -> None:
    row = [0.8 if each == 4 else 0.2 if each == leaning else 0.0 for each in INDICES]
    assert graded(row, row).side == 0


@pytest.mark.parametrize(("index", "side"), [(3, 1), (1, 1), (0, 0), (-1, -1), (-2, -1)])
def test_every_other_class_has_its_side(index: int, side: int) -> None:
    assert graded(certain_of(index)).side == side


def test_patches_far_apart_disagree() -> None:
    told = graded(certain_of(3, 0.99), certain_of(0, 0.98), certain_of(-2, 0.98))
    assert told.verdict is Verdict.DISAGREEMENT
    assert "region of interest" in told.sentence


def test_neighbouring_classes_and_both_ends_do_not_disagree() -> None:
    tilted = graded(certain_of(1), certain_of(0), certain_of(-1))
    ends = graded(certain_of(4, 0.99), certain_of(-2), certain_of(-2))
    assert (tilted.verdict, ends.verdict) == (Verdict.OK, Verdict.OK)


def test_patches_that_were_not_asked_have_no_probabilities() -> None:
    asked = np.array([True, False, True])
    told = grade(np.array([certain_of(0), certain_of(0)], np.float32), asked, GRID, 1.9, "")
    assert np.isnan(told.probabilities[1]).all()
    assert np.isfinite(told.probabilities[asked]).all()


def test_a_refusal_has_no_numbers() -> None:
    told = refuse(Verdict.NO_CONTENT, "blank", GRID)
    assert math.isnan(told.centre)
    assert math.isnan(told.spacing_um)
    assert told.side == 0
    assert not told.informative.any()


def test_defocus_falls_into_the_nearest_class_and_beyond_the_ends_into_total_blur() -> None:
    z = [4.4, 3.6, 3.4, 2.0, 0.49, 0.0, -0.49, -0.51, -2.4, -2.6, -9.0]
    assert [INDICES[k] for k in class_of(np.array(z))] == [4, 4, 3, 2, 0, 0, 0, -1, -2, 4, 4]


def test_logits_become_probabilities_however_large_they_are() -> None:
    given = probabilities_of(np.array([[1000.0, 0, 0, 0, 0, 0, 0], [0.0] * 7]))
    assert given[0] == pytest.approx(np.eye(7)[0])
    assert given[1] == pytest.approx(np.full(7, 1 / 7))


def test_an_answer_states_the_spacing_by_the_optics_in_place() -> None:
    stated = manifest().model_copy(update={"facts": {"spacing_depths": 2.0}})
    logits = 10 * np.eye(7, dtype=np.float32)[[4, 4, 4]]
    told = answer({"logits": logits}, ALL, GRID, stated, FrameOptics(numerical_aperture=0.75))
    assert told.spacing_um == pytest.approx(2 * 0.535 / 0.75**2)
    assert told.index == 0
    assert told.model == "oracle@1"


def test_without_a_known_aperture_there_is_no_spacing() -> None:
    stated = manifest().model_copy(update={"facts": {"spacing_depths": 2.0}})
    assert math.isnan(spacing_um(stated, FrameOptics()))


def test_a_bundle_that_does_not_state_its_spacing_is_refused() -> None:
    with pytest.raises(BundleCorrupt, match="spacing_depths"):
        spacing_um(manifest(), FrameOptics(numerical_aperture=0.75))


def test_what_a_model_reads_of_a_frame_are_the_handcrafted_features() -> None:
    read = also(np.full((300, 300, 3), 90, np.uint8))
    assert set(read) == {"handcrafted"}
    assert read["handcrafted"].shape == (18,)


def test_a_grade_is_a_value() -> None:
    told = graded(certain_of(0))
    assert replace(told, vote="hard").vote == "hard"


def test_the_line_of_a_grade_says_class_certainty_and_distance() -> None:
    told = focus_pb2.Quality(
        verdict=focus_pb2.VERDICT_OK,
        distance_index=2,
        name="out of focus II",
        mean_index=1.9,
        certainty=0.82,
        spacing_um=1.9,
        patches_used=40,
        patches_total=48,
    )
    line = verbs.quality_line(told)
    assert line == "out of focus II (class 2), certainty 0.82 from 40 of 48 patches; about +3.6 um from focus"


def test_the_line_of_total_blur_gives_no_distance_and_says_why() -> None:
    told = focus_pb2.Quality(
        verdict=focus_pb2.VERDICT_OK,
        distance_index=4,
        name="totally blurred",
        mean_index=4.0,
        certainty=0.9,
        spacing_um=1.9,
        sentence="its side is not known",
    )
    line = verbs.quality_line(told)
    assert "um from focus" not in line
    assert line.endswith("its side is not known")


def test_the_line_of_a_refusal_says_only_why() -> None:
    told = focus_pb2.Quality(verdict=focus_pb2.VERDICT_NO_CONTENT, sentence="nothing to see; move the slide")
    assert verbs.quality_line(told) == "no content: nothing to see; move the slide"
