"""DeepFocus's trials: a flat world that the board's own line looks at, searches, and what is counted of them."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np
import pytest

from edge_app.bundle import find
from edge_app.curve import FocusCurve
from edge_app.model import Model, open_model
from edge_app.tasks.sharpness import BlurScores
from model_export.errors import BadRecipe
from model_export.flat_world import MODALITIES, FlatWorld
from model_export.focus_curves import RANGE_UM, STEP_UM, Z_BINS, entropy_bits, table
from model_export.focus_images import localmin
from model_export.focus_trials import Job, calibrate, focus, spread, summary
from model_export.trials import asked_for, objectives_of

SIDE_PX = 512
Z_UM = np.arange(-RANGE_UM, RANGE_UM + STEP_UM / 2, STEP_UM)


@lru_cache
def model() -> Model:
    return open_model(find("deepfocus"))


@lru_cache
def curve() -> FocusCurve:
    return calibrate(model(), "10x/0.30", 12.0, field_px=SIDE_PX)


@pytest.mark.parametrize("index", range(len(MODALITIES)))
def test_the_score_of_an_unseen_specimen_rises_on_both_sides_of_focus(index: int) -> None:
    world = FlatWorld("10x/0.30", index, 9, SIDE_PX, 60.0)
    for side in (-1, 1):
        answers = [world.look(model(), side * z).answer for z in (1.0, 6.0, 12.0, 24.0, 48.0)]
        scores = [answer.score for answer in answers if isinstance(answer, BlurScores)]
        assert len(scores) == 5
        assert all(near < far for near, far in itertools.pairwise(scores))


@pytest.mark.parametrize("index", range(len(MODALITIES)))
def test_few_shot_focuses_an_unseen_specimen_on_a_curve_of_another(index: int) -> None:
    world = FlatWorld("10x/0.30", index, 10, SIDE_PX, 240.0)
    job = focus(model(), world, curve(), 30.0)
    assert job.verdict == ""
    assert job.final_um < 1.0
    assert set(job.errors_um) <= set(range(3, job.looks + 1))


def test_one_network_calibrates_every_objective() -> None:
    found = calibrate(model(), "20x/0.75", 8.0, field_px=SIDE_PX)
    assert found.explained > 0.95
    assert 0.2 < found.width_um / (curve().width_um * 0.951 / 5.944) < 5


def test_a_photograph_is_the_same_at_the_same_place() -> None:
    world = FlatWorld("10x/0.30", 2, 11, 256, 20.0)
    first, other, again = world.photographs(np.array([3.0, 4.0, 3.0]))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_brents_search_finds_a_minimum_as_scipys_does() -> None:
    optimize = pytest.importorskip("scipy.optimize")

    def score(z: float) -> float:
        return -math.exp(-(((z - 7) / 20) ** 2))

    theirs: list[float] = []

    def recorded(z: float) -> float:
        theirs.append(z)
        return score(z)

    optimize.minimize_scalar(recorded, bounds=(-60, 50), method="bounded")
    search = localmin(-60.0, 50.0, 0.03)
    ours = [next(search)]
    for _ in range(5):
        ours.append(search.send(score(ours[-1])))
    assert ours == pytest.approx(theirs[:6], abs=0.02)


def test_a_score_that_hides_the_side_alone_leaves_one_bit_and_one_that_says_nothing_all() -> None:
    both = np.tile(np.abs(Z_UM) / RANGE_UM, (5, 1))
    assert entropy_bits(Z_UM, both) == pytest.approx(1.0, abs=0.5)
    assert entropy_bits(Z_UM, np.zeros((5, len(Z_UM)))) == pytest.approx(math.log2(Z_BINS))


def test_curves_that_are_alike_spread_less_and_the_table_begins_with_them() -> None:
    rng = np.random.default_rng(1)
    dip = 1 - np.exp(-((Z_UM / 25) ** 2))
    noisy = dip + rng.normal(0, 0.2, (30, len(Z_UM)))
    told = table(Z_UM, {"DeepFocus": dip + rng.normal(0, 0.01, (30, len(Z_UM))), "HPF": noisy})
    assert next(iter(told)).startswith("DeepFocus")
    assert told["HPF"]["sd"] > 3 * told["DeepFocus"]["sd"]


def test_jobs_that_gave_up_are_counted_and_not_averaged() -> None:
    good = Job(MODALITIES[0], 10.0, {3: 0.4, 4: 0.2}, 0.1, 5, 0.3)
    lost = Job(MODALITIES[1], 10.0, {}, math.nan, 4, math.nan, "out of range: no minimum")
    told = summary([good, lost])
    assert told["gave_up"] == 1
    assert told["final_um"]["all"] == {"n": 1, "mean": 0.1, "median": 0.1, "p95": 0.1}
    assert told["after_images_um"][4]["mean"] == 0.2
    assert told["refusals"] == ["out of range: no minimum"]
    assert spread([]) == {"n": 0}


def test_trials_that_there_are_not_are_told_what_there_is() -> None:
    with pytest.raises(BadRecipe, match="its experiments: accuracy, curves, images"):
        asked_for("deepfocus", "juggling")
    assert asked_for("deepfocus", "curves") == ("curves",)
    assert objectives_of(["20x"]) == ["20x/0.75"]
    assert len(objectives_of([])) == 3
