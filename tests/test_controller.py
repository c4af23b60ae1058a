"""The line itself, on the simulated board with a model that knows the truth."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from oracle import oracle

from edge_app.answer import Verdict
from edge_app.controller import Controller
from edge_app.errors import GridTooLarge, RuntimeFailed, UnknownStrategy
from edge_app.job import Ending, Look
from edge_app.model import Model
from edge_app.patches import RegionOfInterest
from edge_app.strategy import MoveTo
from edge_app.watch import Finding, Kind
from firmware.clock import ManualClock
from firmware.errors import CameraError, TravelSpent
from firmware.microscope import Microscope, open_microscope, with_simulation
from firmware.profile import load_profile
from firmware.simulation import World
from firmware.travel import Trust


def silent(_number: int, _look: Look, _decision: object) -> None:
    return


@pytest.fixture
def microscope() -> Iterator[Microscope]:
    with open_microscope(with_simulation(load_profile("simulated_tiny"), seed=5), ManualClock()) as opened:
        world_of(opened).load_field(1, "tissue")
        yield opened


def world_of(microscope: Microscope) -> World:
    assert microscope.world is not None
    return microscope.world


def start_at(microscope: Microscope, defocus_um: float) -> None:
    for _ in range(2):
        microscope.axis.move_by(defocus_um - world_of(microscope).truth_um())


def test_one_look_one_move_one_check(microscope: Microscope) -> None:
    start_at(microscope, 7.0)
    outcome = Controller(microscope, oracle(world_of(microscope))).focus("single_shot", silent)
    assert (outcome.ending, outcome.verdict, outcome.frames) == (Ending.FOCUSED, Verdict.OK, 2)
    assert abs(world_of(microscope).truth_um()) < 0.3


def test_a_look_says_where_its_time_went(microscope: Microscope) -> None:
    look = Controller(microscope, oracle(world_of(microscope))).look()
    assert {"capture", "cut", "reject", "infer", "fuse"} <= set(look.stage_ms)


def test_a_model_that_lies_leaves_the_axis_where_it_began(microscope: Microscope) -> None:
    start_at(microscope, 3.0)
    before_um = microscope.axis.z_um
    outcome = Controller(microscope, oracle(world_of(microscope), scale=-1.0)).focus("single_shot", silent)
    assert outcome.ending is Ending.RETURNED
    assert microscope.axis.z_um == pytest.approx(before_um)


def test_a_blank_field_is_left_alone(microscope: Microscope) -> None:
    world_of(microscope).load_field(2, "blank")
    outcome = Controller(microscope, oracle(world_of(microscope))).focus("single_shot", silent)
    assert (outcome.ending, outcome.verdict, outcome.moves) == (Ending.STAYED, Verdict.NO_CONTENT, 0)


def test_foreign_optics_are_refused_and_nothing_moves(microscope: Microscope) -> None:
    microscope.objective = microscope.objective.model_copy(update={"numerical_aperture": 0.4})
    outcome = Controller(microscope, oracle(world_of(microscope))).focus("single_shot", silent)
    assert (outcome.verdict, outcome.moves) == (Verdict.WRONG_OPTICS, 0)


def test_unknown_optics_are_refused_with_what_would_fit(microscope: Microscope) -> None:
    microscope.objective = microscope.objective.model_copy(update={"numerical_aperture": None})
    outcome = Controller(microscope, oracle(world_of(microscope))).focus("single_shot", silent)
    assert outcome.verdict is Verdict.OPTICS_UNKNOWN
    assert "NA" in outcome.sentence


def test_a_camera_that_only_has_old_frames_gives_stale_frame() -> None:
    profile = with_simulation(load_profile("simulated_tiny"), stale_frames=12)
    with open_microscope(profile, ManualClock()) as microscope:
        world_of(microscope).load_field(1, "tissue")
        controller = Controller(microscope, oracle(world_of(microscope)))
        controller.look()
        microscope.axis.move_by(3.0)
        assert controller.look().seen.estimate.verdict is Verdict.STALE_FRAME  # type: ignore[union-attr]


def test_a_camera_that_vanishes_mid_job_brings_the_axis_back(microscope: Microscope) -> None:
    start_at(microscope, 6.0)
    before_um = microscope.axis.z_um

    def unplug(_number: int, _look: Look, _decision: object) -> None:
        microscope.camera.close()

    with pytest.raises(CameraError):
        Controller(microscope, oracle(world_of(microscope))).focus("single_shot", unplug)
    assert microscope.axis.z_um == pytest.approx(before_um)


def test_a_stop_during_a_job_leaves_the_axis_where_it_was_halted(microscope: Microscope) -> None:
    start_at(microscope, 6.0)

    def halt(_number: int, _look: Look, _decision: object) -> None:
        microscope.axis.stop()

    outcome = Controller(microscope, oracle(world_of(microscope))).focus("single_shot", halt)
    assert outcome.ending is Ending.STOPPED
    assert abs(world_of(microscope).truth_um() - 6.0) < 0.5


def test_a_job_never_leaves_its_travel(microscope: Microscope) -> None:
    start_at(microscope, 3.0)
    focus = microscope.profile.focus.model_copy(update={"towards_um": 1.0})
    microscope.profile = microscope.profile.model_copy(update={"focus": focus})
    start_um, lowest_um = microscope.axis.z_um, []

    def note(_number: int, look: Look, _decision: object) -> None:
        lowest_um.append(look.seen.z_um)

    outcome = Controller(microscope, oracle(world_of(microscope))).focus("single_shot", note)
    assert (outcome.ending, outcome.verdict) == (Ending.STAYED, Verdict.OUT_OF_RANGE)
    assert min(lowest_um) >= start_um - 1.0 - 0.03


def test_a_spent_travel_budget_goes_back_to_the_start(microscope: Microscope) -> None:
    focus = microscope.profile.focus.model_copy(update={"path_um": 60.0})
    microscope.profile = microscope.profile.model_copy(update={"focus": focus})
    before_um = microscope.axis.z_um
    outcome = Controller(microscope, None).focus("sweep", silent)
    assert outcome.ending is Ending.RETURNED
    assert microscope.axis.z_um == pytest.approx(before_um)
    assert "travel" in outcome.sentence


def test_a_start_in_focus_does_not_end_worse(microscope: Microscope) -> None:
    start_at(microscope, 0.1)
    before_um = abs(world_of(microscope).truth_um())
    Controller(microscope, oracle(world_of(microscope), bias_um=0.8)).focus("single_shot", silent)
    assert abs(world_of(microscope).truth_um()) <= before_um + 0.095


def test_the_sweep_needs_no_model(microscope: Microscope) -> None:
    start_at(microscope, -8.0)
    outcome = Controller(microscope, None).focus("sweep", silent)
    assert outcome.ending is Ending.FOCUSED
    assert abs(world_of(microscope).truth_um()) < 0.5


def test_a_strategy_that_asks_a_model_says_that_there_is_none(microscope: Microscope) -> None:
    with pytest.raises(RuntimeFailed, match="sweep"):
        Controller(microscope, None).focus("single_shot", silent)


def test_an_unknown_strategy_names_the_known_ones(microscope: Microscope) -> None:
    with pytest.raises(UnknownStrategy, match="single_shot"):
        Controller(microscope, None).focus("wish", silent)


def test_a_region_outside_the_frame_moves_nothing(microscope: Microscope) -> None:
    before_um = microscope.axis.z_um
    with pytest.raises(GridTooLarge):
        Controller(microscope, oracle(world_of(microscope))).focus(
            "single_shot", silent, RegionOfInterest(400, 0, 224, 224)
        )
    assert microscope.axis.z_um == before_um


def test_an_open_sign_is_decided_by_a_small_move(microscope: Microscope) -> None:
    start_at(microscope, -6.0)
    model = oracle(world_of(microscope), symmetric=True)
    outcome = Controller(microscope, model).focus("single_shot", silent)
    assert outcome.verdict is Verdict.SIGN_UNCERTAIN
    assert abs(world_of(microscope).truth_um()) < 0.6


def test_a_model_that_falls_far_short_ends_in_a_sweep_not_in_a_false_claim(microscope: Microscope) -> None:
    start_at(microscope, 9.0)
    outcome = Controller(microscope, oracle(world_of(microscope), scale=0.3)).focus("single_shot", silent)
    assert outcome.ending is Ending.FOCUSED
    assert abs(world_of(microscope).truth_um()) < 0.5


def test_a_model_for_larger_patches_is_asked_about_larger_patches(microscope: Microscope) -> None:
    estimate = Controller(microscope, for_larger_patches(oracle(world_of(microscope)))).look().seen.estimate
    assert estimate is not None
    assert (estimate.patches.grid.patch_px, estimate.patches.grid.count) == (448, 1)


SMALL = RegionOfInterest(0, 0, 224, 224)


def for_larger_patches(model: Model) -> Model:
    large = model.bundle.manifest.input.model_copy(update={"patch_px": 448})
    return replace(
        model, bundle=replace(model.bundle, manifest=model.bundle.manifest.model_copy(update={"input": large}))
    )


def test_a_frame_too_small_for_the_model_still_serves_looks_that_do_not_ask_it(microscope: Microscope) -> None:
    start_at(microscope, -8.0)
    controller = Controller(microscope, for_larger_patches(oracle(world_of(microscope))))
    assert controller.look(task="", roi=SMALL).seen.sharpness.shape == (1,)
    assert controller.focus("sweep", silent, SMALL).ending is Ending.FOCUSED
    with pytest.raises(GridTooLarge):
        controller.look(roi=SMALL)


def test_a_refusing_passport_is_heard_even_where_no_patch_of_the_model_fits(microscope: Microscope) -> None:
    microscope.objective = microscope.objective.model_copy(update={"numerical_aperture": 0.4})
    estimate = Controller(microscope, for_larger_patches(oracle(world_of(microscope)))).look(roi=SMALL).seen.estimate
    assert estimate is not None
    assert estimate.verdict is Verdict.WRONG_OPTICS


def test_going_back_is_checked_on_the_larger_patches_of_the_first_look(microscope: Microscope) -> None:
    start_at(microscope, 3.0)
    liar = for_larger_patches(oracle(world_of(microscope), scale=-1.0))
    outcome = Controller(microscope, liar).focus("single_shot", silent)
    assert outcome.ending is Ending.RETURNED
    assert microscope.axis.trust is not Trust.LOST


def test_a_frame_from_before_the_request_is_never_an_answer(microscope: Microscope) -> None:
    controller = Controller(microscope, oracle(world_of(microscope)))
    controller.look()
    microscope.clock.sleep(300.0)
    world_of(microscope).load_field(2, "blank")
    asked_s = microscope.clock.now_s()
    look = controller.look()
    assert look.frame.captured_at_s >= asked_s
    assert look.seen.estimate is not None
    assert look.seen.estimate.verdict is Verdict.NO_CONTENT


def test_no_strategy_decides_on_a_stale_frame() -> None:
    profile = with_simulation(load_profile("simulated_tiny"), stale_frames=12)
    with open_microscope(profile, ManualClock()) as microscope:
        world_of(microscope).load_field(1, "tissue")
        outcome = Controller(microscope, None).focus("sweep", silent)
    assert (outcome.ending, outcome.verdict) == (Ending.RETURNED, Verdict.STALE_FRAME)


def test_an_axis_that_lost_steps_on_the_way_back_is_no_longer_trusted(microscope: Microscope) -> None:
    start_at(microscope, 2.0)

    def nudge(number: int, _look: Look, _decision: object) -> None:
        if number == 2:
            world_of(microscope).stage.turn(9.0)

    outcome = Controller(microscope, oracle(world_of(microscope), scale=-1.0)).focus("single_shot", nudge)
    assert outcome.ending is Ending.RETURNED
    assert "lost steps" in outcome.sentence
    assert microscope.axis.trust is Trust.LOST


def test_play_is_taken_out_before_the_first_look_so_that_back_is_back(microscope: Microscope) -> None:
    start_at(microscope, 2.0)
    microscope.axis._play = 100
    seen_um: list[float] = []

    def note(_number: int, _look: Look, _decision: object) -> None:
        seen_um.append(world_of(microscope).truth_um())

    Controller(microscope, oracle(world_of(microscope), scale=-1.0)).focus("single_shot", note)
    assert world_of(microscope).truth_um() == pytest.approx(seen_um[0], abs=0.1)


def losing(microscope: Microscope, lost_um: float) -> None:
    """Let the next leg lose some um, once."""
    stage = world_of(microscope).stage
    losses = iter([lost_um])
    stage.slip = lambda: next(losses, 0.0)  # type: ignore[method-assign]


def test_a_move_that_lost_steps_is_found_out_and_costs_the_trust(microscope: Microscope) -> None:
    start_at(microscope, -6.0)
    controller = Controller(microscope, oracle(world_of(microscope)))
    microscope.axis.move_by(0.0)
    losing(microscope, 1.2)
    outcome = controller.focus("single_shot", silent)
    assert [found.kind for found in outcome.findings] == [Kind.LOST_STEPS]
    assert outcome.findings[0].size == pytest.approx(1.2, abs=0.3)
    assert outcome.ending is Ending.FOCUSED
    assert abs(world_of(microscope).truth_um()) < 0.3
    assert microscope.axis.trust is Trust.LOST


def test_steps_that_were_lost_cost_the_trust_also_where_the_camera_fails_on_the_last_look(
    microscope: Microscope,
) -> None:
    start_at(microscope, -6.0)
    microscope.axis.move_by(0.0)
    losing(microscope, 1.2)

    def fail(_number: int, _look: Look, decision: object) -> None:
        if not isinstance(decision, MoveTo):
            microscope.camera.close()
            raise TravelSpent("the travel is used up")

    with pytest.raises(CameraError):
        Controller(microscope, oracle(world_of(microscope))).focus("single_shot", fail)
    assert microscope.axis.trust is Trust.LOST


def test_sound_moves_bring_no_fault_to_light(microscope: Microscope) -> None:
    controller = Controller(microscope, oracle(world_of(microscope)))
    for start_um in (6.0, -6.0, 3.0, -9.0, 8.0):
        start_at(microscope, start_um)
        assert controller.focus("single_shot", silent).findings == ()


def test_a_coupling_that_slips_is_told_within_twenty_moves(microscope: Microscope) -> None:
    controller = Controller(microscope, oracle(world_of(microscope)))
    stage = world_of(microscope).stage
    turn = stage.turn
    stage.turn = lambda distance_um, stops=True: turn(0.96 * distance_um, stops)  # type: ignore[method-assign]
    found: list[Finding] = []
    for start_um in (8.0, -8.0, 6.0, -9.0, 9.0, -7.0, 8.0, -6.0, 9.0, -8.0):
        start_at(microscope, start_um)
        found += controller.focus("single_shot", silent).findings
    assert Kind.SLIPPING in {f.kind for f in found}


def test_the_camera_is_held_while_a_job_runs_and_freed_after_it(microscope: Microscope) -> None:
    held: list[bool] = []
    microscope.camera._hold = held.append  # type: ignore[method-assign,assignment]
    Controller(microscope, oracle(world_of(microscope))).focus("single_shot", lambda *_: held.append(held == [True]))
    assert (held[0], held[1], held[-1]) == (True, True, False)
