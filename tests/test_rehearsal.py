"""The rehearsal of a new model beside the one in service, and the rule that judges it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rehearsal_trial as trial
import tifffile
from conftest import small_board

from edge_app import bundle
from edge_app.appliance import Appliance
from edge_app.controller import Controller
from edge_app.errors import RuntimeFailed, UpdateError, UpdateRefused
from edge_app.feed import NOTHING, Beside
from edge_app.model import Model, open_model
from edge_app.ota.rehearsal import COURSES, Stage, rehearse
from edge_app.ota.rehearsal_board import objective_of, simulated
from edge_app.ota.rehearsal_rule import CAP, LOOKS_PRICE, MARGIN, Pair, Rehearsal, Trial, judge, upper_bound
from edge_app.ota.rehearsal_stacks import recorded_places
from edge_app.server import serving
from firmware.clock import ManualClock
from firmware.microscope import open_microscope
from firmware.profile import BoardProfile, load_profile

PAIRS = 4
GOOD = Trial(start=4.0, end=0.1, looks=1.0, claims=True)
RECORD = Path(__file__).parent.parent / "docs" / "rehearsal.md"


def quiet(done: int, planned: int, text: str) -> None:
    """Nobody watches."""


def model_of(name: str) -> Model:
    return open_model(bundle.find(name), "onnxruntime", threads=1)


@pytest.fixture(scope="module")
def served() -> Model:
    return model_of("spectral_20x")


def with_manifest(model: Model, **changes: Any) -> Model:
    """The same model under another page of its passport."""
    manifest = model.bundle.manifest
    passport = manifest.passport.model_copy(update=changes.pop("passport", {}))
    training = manifest.training.model_copy(update=changes.pop("training", {}))
    changed = manifest.model_copy(update={"passport": passport, "training": training, **changes})
    return replace(model, bundle=replace(model.bundle, manifest=changed))


def where(board: str = "simulated_tiny", **changes: Any) -> Stage:
    return Stage(load_profile(board), seed=3, **changes)


def rehearsed(old: Trial | None, new: Trial, pairs: int = 32) -> Rehearsal:
    done = tuple(Pair(str(k), old, new) for k in range(pairs))
    return Rehearsal("defocus", "single_shot", "the simulated microscope", "a@1" if old else "", "b@2", done, 1.0)


def test_the_same_model_does_the_same_and_is_accepted(served: Model) -> None:
    told: list[int] = []

    done = rehearse(served, served, where(), lambda k, _planned, _text: told.append(k), pairs=PAIRS)

    assert [pair.old for pair in done.pairs] == [pair.new for pair in done.pairs]
    assert all(pair.new.end < 0.5 for pair in done.pairs)
    assert judge(done).accepted
    assert told == [*range(PAIRS), PAIRS]


def test_two_rehearsals_of_one_seed_are_alike_and_of_another_are_not(served: Model) -> None:
    stage = where()
    first, again, other = (
        rehearse(None, served, one, quiet, pairs=2) for one in (stage, stage, replace(stage, seed=4))
    )

    assert first.pairs == again.pairs
    assert first.pairs != other.pairs


@pytest.mark.parametrize("how", ["sign flipped", "offset +1 DoF", "blind: always 0"])
def test_a_model_that_is_wrong_in_a_definite_way_is_refused(served: Model, how: str) -> None:
    done = rehearse(served, trial.bent(served, trial.BENDS["defocus"][how]), where(), quiet, pairs=PAIRS)

    assert not judge(done).accepted


def test_a_model_that_leaves_every_job_to_the_sweep_has_not_focused(served: Model) -> None:
    shy = trial.bent(served, lambda said, _: said | {"defocus_um": 0 * said["defocus_um"] + 30})

    done = rehearse(served, shy, where(), quiet, pairs=2)

    assert [(pair.new.helped, pair.new.looks) for pair in done.pairs] == [(True, 3.0)] * 2
    assert not judge(done).accepted


def test_jobs_begin_where_they_are_said_to_all_over_the_range(served: Model) -> None:
    done = rehearse(None, served, where(), quiet, pairs=PAIRS)
    said_um = [float(pair.where.split()[-2]) for pair in done.pairs]

    assert [pair.new.start * 0.951 for pair in done.pairs] == pytest.approx(np.abs(said_um), abs=0.1)
    assert sorted(np.digitize(said_um, [-4.5, 0.0, 4.5]).tolist()) == [0, 1, 2, 3]


def test_a_model_that_gives_no_answers_is_refused_with_its_own_words(served: Model) -> None:
    class Dead:
        name, note = "dead", ""

        def infer(self, counts: np.ndarray[Any, Any], also: Beside = NOTHING) -> dict[str, np.ndarray[Any, Any]]:
            raise RuntimeFailed("the graph has an operator that nobody knows")

    found = judge(rehearse(served, replace(served, runtime=Dead()), where(), quiet, pairs=2))

    assert not found.accepted
    assert "gave no answer in 2 of 2 jobs" in found.why
    assert "operator that nobody knows" in found.why


def test_where_no_model_serves_a_new_one_must_better_standing_still(served: Model) -> None:
    useless = trial.bent(served, trial.BENDS["defocus"]["blind: always 0"])

    assert judge(rehearse(None, served, where(), quiet, pairs=PAIRS)).accepted
    assert not judge(rehearse(None, useless, where(), quiet, pairs=PAIRS)).accepted


@pytest.mark.parametrize(("name", "board"), [("hh_net_20x", "simulated_tiny"), ("deepfocus", "simulated_tiny")])
def test_every_other_task_is_rehearsed_by_its_own_strategy(name: str, board: str) -> None:
    model = model_of(name)

    done = rehearse(None, model, where(board), quiet, pairs=2)

    assert done.strategy == COURSES[model.bundle.manifest.task].strategy
    assert [pair.new.claims for pair in done.pairs] == [True, True]
    assert all(pair.new.end < 1.0 for pair in done.pairs)


def test_a_task_that_focuses_nothing_cannot_be_rehearsed(served: Model) -> None:
    with pytest.raises(UpdateError, match="is for segment, which this version cannot rehearse; update parfocal"):
        rehearse(None, with_manifest(served, task="segment"), where(), quiet)


def ticking(step_s: float) -> Callable[[], float]:
    """A clock that goes on by so much whenever it is read."""
    readings = count()
    return lambda: step_s * next(readings)


def test_it_stops_in_time_between_two_pairs_and_refuses_where_that_was_too_few(served: Model) -> None:
    with pytest.raises(UpdateError, match=r"2 of the 3 pairs of jobs that are needed.*less busy"):
        rehearse(None, served, where(), quiet, limit_s=12.0, now_s=ticking(2.0), pairs=3)


def test_the_simulated_board_has_the_real_ones_optics_where_the_passport_takes_them(served: Model) -> None:
    real = load_profile("simulated")
    changed = real.objective[0].model_copy(update={"numerical_aperture": 0.74, "spherical_waves": 0.2})
    real = real.model_copy(update={"objective": (real.objective[1], changed)})

    made = simulated(Stage(real), served, 224, 9.0)
    seen = made.frame_optics(made.objective[0])

    assert (seen.objective, seen.numerical_aperture, seen.spherical_waves) == ("20x", 0.74, 0.2)
    assert served.refusal(seen) is None


@pytest.mark.parametrize("name", [path.stem for path in bundle.factory_bundles()])
@pytest.mark.parametrize("board", ["simulated", "raspberry_pi_5", "replay"])
def test_every_factory_bundle_can_be_rehearsed_whatever_the_real_board_is(name: str, board: str) -> None:
    checked = bundle.read(bundle.find(name))
    model = Model(checked, None, None)  # type: ignore[arg-type]

    made = simulated(Stage(load_profile(board)), model, model.patch_px, 9.0)

    assert model.refusal(made.frame_optics(made.objective[0])) is None
    assert made.camera.driver == "simulated"
    assert made.simulation is not None


def test_the_objective_in_place_is_the_one_that_is_rehearsed(served: Model) -> None:
    stage = where(objective="10x")

    assert objective_of(stage, served.bundle.manifest.passport).name == "10x"
    assert objective_of(where(), served.bundle.manifest.passport).name == "20x"


def test_what_a_caller_says_of_the_world_is_laid_over_it(served: Model) -> None:
    made = simulated(where(flaws={"coverslip_error_um": 20.0}), served, 224, 9.0)

    assert made.simulation is not None
    assert made.simulation["coverslip_error_um"] == 20.0


def record(profile: BoardProfile, folder: Path) -> Path:
    """A state folder with one stack of a board, recorded by what docs/rehearsal.md says."""
    found = re.search(r"```python\n(.*?)```", RECORD.read_text(), re.DOTALL)
    assert found is not None
    microscope = open_microscope(profile, ManualClock())
    world = microscope.world
    assert world is not None
    world.load_field(3, "tissue")
    with Appliance(Controller(microscope, None)) as appliance, serving(appliance, "127.0.0.1:0") as address:
        microscope.axis.move_by(0.4 - world.truth_um())
        given, sys.argv = sys.argv, ["record_stack.py", address, str(folder / "stacks" / "today.tif")]
        try:
            exec(compile(found.group(1), "record_stack.py", "exec"), {})
        finally:
            sys.argv = given
    return folder


def raw_board() -> BoardProfile:
    board = small_board()
    response = {"kind": "raw", "pattern": "RGGB", "black_level": 64}
    camera = board.camera.model_validate({**board.camera.model_dump(), "bits": 12, "response": response})
    return board.model_copy(update={"camera": camera})


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(small_board(), tmp_path_factory.mktemp("state"))


def tuned(model: Model) -> Model:
    return with_manifest(model, training={"stage": "simulated"})


def test_a_tuned_bundle_is_rehearsed_on_what_this_board_recorded(served: Model, state: Path) -> None:
    stage = Stage(small_board(), state)

    done = rehearse(served, tuned(served), stage, quiet, pairs=PAIRS)
    starts = [pair.new.start for pair in done.pairs]

    assert done.on == "stacks recorded on this board"
    assert 6 < min(starts[0], starts[-1]) < 9
    assert all(pair.new.end < 0.6 for pair in done.pairs)
    assert judge(done).accepted


def test_a_tuned_bundle_that_is_wrong_is_refused_there_too(served: Model, state: Path) -> None:
    flipped = trial.bent(tuned(served), trial.BENDS["defocus"]["sign flipped"])

    assert not judge(rehearse(served, flipped, Stage(small_board(), state), quiet, pairs=PAIRS)).accepted


def test_a_model_for_raw_frames_is_shown_what_was_filled_in_before(tmp_path: Path) -> None:
    model, board = tuned(model_of("spectral_20x_raw")), raw_board()

    done = rehearse(None, model, Stage(board, record(board, tmp_path)), quiet, pairs=PAIRS)

    assert [pair.new.end < 0.6 for pair in done.pairs[:-1]] == [True, True, True]


def test_without_a_stack_a_tuned_bundle_is_refused_and_told_how_to_record_one(served: Model, tmp_path: Path) -> None:
    with pytest.raises(UpdateError, match=r"none is in .*stacks; record one through focus as docs/rehearsal.md says"):
        rehearse(served, tuned(served), Stage(small_board(), tmp_path), quiet)


def test_a_tuned_bundle_of_the_task_sharpness_is_refused_for_good(tmp_path: Path) -> None:
    with pytest.raises(UpdateRefused, match="cannot be rehearsed on recorded stacks; publish one"):
        rehearse(None, tuned(model_of("deepfocus")), Stage(small_board(), tmp_path), quiet)


def test_stacks_that_cannot_be_used_are_named(served: Model, tmp_path: Path) -> None:
    def refused() -> str:
        with pytest.raises(UpdateError) as refusal:
            recorded_places(Stage(small_board(), tmp_path), tuned(served), 4)
        return str(refusal.value)

    path = tmp_path / "stacks" / "one.tif"
    path.parent.mkdir()
    path.write_bytes(b"II*\0")
    assert "none of 1 in " in refused()
    tifffile.imwrite(path, np.zeros((3, 224, 224, 3), np.uint8), photometric="rgb")
    assert "nothing states where its slices lie" in refused()
    tifffile.imwrite(path, np.zeros((3, 64, 64, 3), np.uint8), photometric="rgb")
    path.with_name("one.tif.json").write_text('{"z_step_um": 0.5}')
    assert "its frames are smaller than a patch of 224 pixels" in refused()


def test_the_loss_is_the_capped_distance_and_the_price_of_looks() -> None:
    assert GOOD.loss == pytest.approx(0.1 + LOOKS_PRICE)
    assert replace(GOOD, end=9.0).loss == pytest.approx(CAP + LOOKS_PRICE)
    assert replace(GOOD, helped=True).loss == pytest.approx(CAP + LOOKS_PRICE)
    assert replace(GOOD, failed="no").loss == pytest.approx(CAP + LOOKS_PRICE)


def test_a_mean_that_may_lie_beyond_the_margin_is_refused() -> None:
    def mixed(worse: float) -> Rehearsal:
        base = rehearsed(GOOD, GOOD)
        pairs = tuple(
            replace(pair, new=replace(GOOD, end=GOOD.end + worse + 0.1 * (-1) ** k))
            for k, pair in enumerate(base.pairs)
        )
        return replace(base, pairs=pairs)

    assert judge(mixed(MARGIN - 0.05)).accepted
    assert not judge(mixed(MARGIN - 0.02)).accepted
    assert "its mean loss is +0.13" in judge(mixed(MARGIN - 0.02)).why


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"start": 0.1, "end": 0.4}, "1 ended farther from focus than they began"),
        ({"end": 1.1}, "1 claimed a focus that was none"),
        ({"failed": "the runtime fell over"}, "gave no answer in 1 of 32 jobs"),
    ],
)
def test_one_job_more_that_ends_badly_is_one_too_many(change: dict[str, Any], told: str) -> None:
    base = rehearsed(GOOD, replace(GOOD, end=0.0))
    spoilt = replace(base.pairs[0], new=replace(GOOD, **change))

    found = judge(replace(base, pairs=(spoilt, *base.pairs[1:])))

    assert judge(base).accepted
    assert not found.accepted
    assert told in found.why


def test_as_many_bad_jobs_as_before_are_forgiven() -> None:
    bad = replace(GOOD, end=1.1)

    assert judge(rehearsed(bad, bad)).accepted


def test_a_single_pair_decides_nothing() -> None:
    assert not judge(rehearsed(GOOD, GOOD, pairs=1)).accepted


@pytest.mark.parametrize(("free", "quantile"), [(7, 1.8946), (15, 1.7531), (63, 1.6694)])
def test_the_interval_uses_the_quantiles_of_t(free: int, quantile: float) -> None:
    values = np.random.default_rng(1).normal(size=free + 1)

    expected = values.mean() + quantile * values.std(ddof=1) / np.sqrt(free + 1)

    assert upper_bound(values.tolist(), 0.05) == pytest.approx(expected, abs=1e-3)
