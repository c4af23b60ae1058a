"""Steering by speed: the strategy alone on a stage of arithmetic, and the whole line on the simulated board."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from conftest import small_board
from grader import Source, graded, grader, probabilities

from edge_app.answer import Verdict
from edge_app.controller import Controller
from edge_app.job import Ending, Look
from edge_app.patches import PatchGrid
from edge_app.strategies import velocity
from edge_app.strategy import Decision, GiveUp, Glide, Ground, MoveTo, Observation, Settled, shown_better
from edge_app.tasks import quality
from firmware.clock import ManualClock
from firmware.errors import AxisError, CameraError
from firmware.microscope import Microscope, open_microscope, with_simulation
from firmware.simulation import World

GRID, ALL = PatchGrid(1, 1, 0, 0), np.ones(1, bool)
DEPTH_UM = 0.95
SPACING_UM = 2 * DEPTH_UM
LATENCY_S = 0.06
GROUND = Ground(-30.0, 40.0, DEPTH_UM, 3.0, 0.6, 24.0, 400.0, LATENCY_S)
Distance = Callable[[float], float]


def truth(defocus_um: float) -> float:
    return defocus_um / SPACING_UM


@dataclass
class Bench:
    """A stage without mass or play that is looked at every `LATENCY_S`; focus lies at zero.

    `distance` is what is graded, in spacings, by the true defocus; `blur` is the defocus that sharpness shows. `held`
    keeps the stage from moving; above `blank_above_um` there is nothing to see.
    """

    z_um: float
    distance: Distance = truth
    blur: Distance = abs
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    doubt: float = 0.1
    held: bool = False
    blank_above_um: float = math.inf
    path: list[float] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    def look(self) -> Observation:
        blank = self.z_um > self.blank_above_um
        verdict = self.verdicts.get(len(self.path), Verdict.NO_CONTENT if blank else Verdict.OK)
        self.path.append(self.z_um)
        if verdict is Verdict.OK:
            chances = probabilities(np.array([self.distance(self.z_um)]), self.doubt)
            answer = graded(chances, SPACING_UM, GRID, ALL)
        else:
            answer = quality.refuse(verdict, "nothing to see", GRID)
        sharp = np.array([1.0 / (1.0 + self.blur(self.z_um) ** 2)], np.float32)
        return Observation(self.z_um, answer, sharp, ALL)

    def obey(self, decision: MoveTo | Glide) -> Observation:
        if isinstance(decision, Glide):
            way_um = decision.z_um - self.z_um
            step_um = min(abs(way_um), decision.speed_um_s * LATENCY_S)
            to_um = self.z_um + math.copysign(step_um, way_um)
        else:
            to_um = decision.z_um
        if not self.held:
            self.z_um = to_um
        return self.look()

    def run(self, ground: Ground = GROUND) -> Settled | GiveUp:
        self.first = self.look()
        plan, seen = velocity.plan(self.first, ground), self.first
        try:
            decision = next(plan)
            for _ in range(2000):
                self.decisions.append(decision)
                assert ground.low_um <= decision.z_um <= ground.high_um
                seen = self.obey(decision)
                decision = plan.send(seen)
        except StopIteration as ended:
            self.improved = shown_better(self.first, seen)
            end: Settled | GiveUp = ended.value
            return end
        raise AssertionError("the strategy never ends")

    @property
    def glides(self) -> list[Glide]:
        return [decision for decision in self.decisions if isinstance(decision, Glide)]

    @property
    def lowest_um(self) -> float:
        return min(self.path)


@pytest.mark.parametrize("start_um", np.linspace(-8 * DEPTH_UM, 8 * DEPTH_UM, 17).tolist())
def test_it_ends_in_focus_from_eight_depths_of_field_on_either_side(start_um: float) -> None:
    bench = Bench(start_um)
    assert isinstance(bench.run(), Settled)
    assert abs(bench.z_um) < 0.45 * DEPTH_UM
    assert bench.lowest_um >= min(start_um, 0.0) - 0.5 * SPACING_UM


def test_a_start_in_focus_is_left_alone() -> None:
    bench = Bench(0.1)
    assert isinstance(bench.run(), Settled)
    assert bench.path == [0.1]


@pytest.mark.parametrize(("index", "share"), [(4, 1.0), (3, 0.6), (2, 0.4), (1, 0.2), (-1, 0.2), (-2, 0.4)])
def test_the_speed_is_that_of_algorithm_1_where_the_latency_allows_it(index: int, share: float) -> None:
    bench = Bench(index * SPACING_UM)
    bench.run(Ground(-30.0, 40.0, DEPTH_UM, 3.0, 0.6, 24.0, 400.0, 0.001))
    assert bench.glides[0].speed_um_s == pytest.approx(share * 223.7 / 5.94 * DEPTH_UM, rel=0.01)


@pytest.mark.parametrize("latency_s", [0.02, 0.1, 1.0])
def test_a_latency_of_travel_stays_under_half_a_class(latency_s: float) -> None:
    bench = Bench(6.0)
    bench.run(Ground(-30.0, 40.0, DEPTH_UM, 3.0, 0.6, 24.0, 400.0, latency_s))
    assert max(glide.speed_um_s for glide in bench.glides) * latency_s <= 0.5 * SPACING_UM + 1e-9


def test_it_is_never_faster_than_the_axis() -> None:
    bench = Bench(6.0)
    bench.run(Ground(-30.0, 40.0, DEPTH_UM, 3.0, 0.6, 24.0, 5.0, LATENCY_S))
    assert max(glide.speed_um_s for glide in bench.glides) == 5.0


@pytest.mark.parametrize("start_um", [2.0, 5.5, 8.0, -8.0, -3.0])
def test_every_glide_towards_the_specimen_would_end_within_its_bound_if_no_look_came_any_more(start_um: float) -> None:
    bench = Bench(start_um)
    bench.run()
    for glide, from_um in zip(bench.decisions, bench.path, strict=False):
        if isinstance(glide, Glide) and glide.z_um < from_um:
            assert glide.z_um >= -0.5 * SPACING_UM - glide.speed_um_s * LATENCY_S - 0.05
            assert "beyond focus at most" in glide.why


@pytest.mark.parametrize("start_um", [-20.0, -8.0, 8.0, 20.0])
def test_totally_blurred_it_goes_away_from_the_specimen_first(start_um: float) -> None:
    bench = Bench(start_um)
    bench.run()
    assert bench.glides[0].z_um > start_um


def test_totally_blurred_on_an_unknown_side_it_never_goes_towards_the_specimen() -> None:
    bench = Bench(20.0, blur=lambda _: 3.0)
    end = bench.run()
    assert isinstance(end, GiveUp)
    assert end.verdict is Verdict.SIGN_UNCERTAIN
    assert "sweep" in end.why
    assert bench.lowest_um == 20.0
    assert max(bench.path) == pytest.approx(20.0 + 8 * SPACING_UM)


def test_what_the_patches_doubt_between_is_not_taken_for_a_side() -> None:
    bench = Bench(-2.6 * SPACING_UM, distance=lambda um: 3.6 if truth(um) < -2.5 else truth(um), doubt=0.6)
    assert isinstance(bench.run(), Settled)
    assert bench.lowest_um == pytest.approx(-2.6 * SPACING_UM)


@pytest.mark.parametrize("start_um", [-3.0, 3.0])
def test_a_grade_that_is_unsure_is_asked_for_twice_before_it_leads_towards_the_specimen(start_um: float) -> None:
    def unsure_at_first(defocus_um: float) -> float:
        bench.doubt = 4.0 if len(bench.path) == 1 else 0.1
        return 1.0 if len(bench.path) == 1 else truth(defocus_um)

    bench = Bench(start_um, distance=unsure_at_first)
    assert isinstance(bench.run(), Settled)
    assert bench.decisions[0] == MoveTo(start_um, bench.decisions[0].why)
    assert bench.lowest_um >= min(start_um, 0.0) - 0.5 * SPACING_UM


def test_totally_blurred_on_the_way_to_focus_it_has_to_grow_sharper() -> None:
    def once_seen(_: float) -> float:
        return 3.0 if len(bench.path) == 1 else 9.0

    bench = Bench(-8.0, distance=once_seen, blur=lambda _: 3.0)
    end = bench.run()
    assert isinstance(end, GiveUp)
    assert bench.lowest_um >= -8.0 - 5 * SPACING_UM


def test_once_seen_on_the_far_side_totally_blurred_leads_towards_the_specimen() -> None:
    def once_seen(defocus_um: float) -> float:
        return 3.0 if len(bench.path) == 1 else truth(defocus_um)

    bench = Bench(6 * SPACING_UM, distance=once_seen)
    bench.run()
    assert isinstance(bench.decisions[0], Glide)
    assert bench.decisions[0].z_um < 6 * SPACING_UM


@pytest.mark.parametrize("start_um", [-2.4 * SPACING_UM, -1.5 * SPACING_UM])
def test_a_grade_of_the_wrong_side_is_found_out_by_the_blur_that_grows(start_um: float) -> None:
    bench = Bench(start_um, distance=lambda um: abs(truth(um)))
    end = bench.run()
    assert isinstance(end, GiveUp)
    assert end.verdict is Verdict.DISAGREEMENT
    assert bench.lowest_um >= start_um - 2 * SPACING_UM


def test_grades_that_never_change_end_within_what_the_first_one_allowed() -> None:
    bench = Bench(6.0, distance=lambda _: 2.0, blur=lambda _: 3.0)
    end = bench.run()
    assert isinstance(end, GiveUp)
    assert end.verdict is Verdict.DISAGREEMENT
    assert bench.lowest_um >= 6.0 - 4.0 * SPACING_UM


def test_a_stage_that_does_not_move_is_given_up() -> None:
    bench = Bench(4.0, held=True)
    assert isinstance(bench.run(), GiveUp)
    assert len(bench.path) < 12


@pytest.mark.parametrize("start_um", [-8.0, 8.0])
def test_it_stays_within_the_travel_of_the_job(start_um: float) -> None:
    narrow = Ground(start_um - 2.0, start_um + 2.5, DEPTH_UM, 3.0, 0.6, 24.0, 400.0, LATENCY_S)
    end = Bench(start_um).run(narrow)
    assert isinstance(end, GiveUp)
    assert end.verdict is Verdict.OUT_OF_RANGE


def test_a_blank_field_is_left_alone() -> None:
    bench = Bench(5.0, verdicts={0: Verdict.NO_CONTENT})
    assert bench.run() == GiveUp(Verdict.NO_CONTENT, "nothing to see")
    assert bench.path == [5.0]


def test_one_look_without_an_answer_is_taken_again_at_rest_and_two_are_the_end() -> None:
    bench = Bench(5.0, verdicts={3: Verdict.NO_CONTENT})
    assert isinstance(bench.run(), Settled)
    again = Bench(5.0, verdicts={3: Verdict.NO_CONTENT, 4: Verdict.NO_CONTENT})
    assert again.run() == GiveUp(Verdict.NO_CONTENT, "nothing to see")
    assert isinstance(again.decisions[-1], MoveTo)


def test_where_nothing_can_be_seen_from_above_it_goes_back_to_where_it_was_in_focus() -> None:
    bench = Bench(-5.0, blank_above_um=1.0)
    assert isinstance(bench.run(), Settled)
    assert max(bench.path) > 1.0
    assert abs(bench.z_um) < 0.5 * SPACING_UM


def test_no_move_leads_farther_than_a_class_from_what_the_look_before_it_was_graded() -> None:
    for start_um in np.linspace(-8.0, 8.0, 9).tolist():
        bench = Bench(start_um)
        bench.run()
        for decision, from_um in zip(bench.decisions, bench.path, strict=False):
            if isinstance(decision, MoveTo) and decision.z_um < from_um:
                assert from_um - decision.z_um <= (round(truth(from_um)) + 1.0) * SPACING_UM + 1e-9


def test_grades_that_say_now_this_side_now_that_end_with_a_move_by_the_centre() -> None:
    def dithering(_: float) -> float:
        return 0.8 * (-1) ** len(bench.path) if len(bench.path) < 8 else 0.0

    bench = Bench(0.5, distance=dithering)
    assert isinstance(bench.run(), Settled)
    assert len(bench.glides) <= 6


def test_without_a_grade_it_says_what_it_needs() -> None:
    nothing = Observation(0.0, None, np.ones(1, np.float32), ALL)
    with pytest.raises(TypeError, match="a model's grade"):
        next(velocity.plan(nothing, GROUND))


def silent(_number: int, _look: Look, _decision: Decision) -> None:
    return


@pytest.fixture
def microscope() -> Iterator[Microscope]:
    with open_microscope(with_simulation(small_board(), seed=5), ManualClock()) as opened:
        world_of(opened).load_field(1, "tissue")
        yield opened


def world_of(microscope: Microscope) -> World:
    assert microscope.world is not None
    return microscope.world


def controller_of(microscope: Microscope, defocus_um: float) -> Controller:
    world = world_of(microscope)
    for _ in range(2):
        microscope.axis.move_by(defocus_um - world.truth_um())
    return Controller(microscope, None, Source(grader(world, microscope.clock)))  # type: ignore[arg-type]


@pytest.mark.parametrize("defocus_um", [7.6, -7.6])
def test_the_whole_line_reaches_focus_from_either_side(microscope: Microscope, defocus_um: float) -> None:
    outcome = controller_of(microscope, defocus_um).focus("velocity", silent)
    assert outcome.ending is Ending.FOCUSED
    assert abs(world_of(microscope).truth_um()) < 0.6
    assert not microscope.axis.moving


def test_looks_are_taken_on_the_way_and_judged_as_they_come(microscope: Microscope) -> None:
    moving: list[bool] = []

    def note(_number: int, look: Look, _decision: Decision) -> None:
        assert look.frame.fresh
        moving.append(microscope.axis.moving)

    outcome = controller_of(microscope, 5.0).focus("velocity", note)
    assert moving[0] is False
    assert sum(moving) >= 3
    assert outcome.frames == len(moving)
    assert outcome.moves <= 3


def test_a_job_is_charged_for_its_glides(microscope: Microscope) -> None:
    focus = microscope.profile.focus.model_copy(update={"path_um": 12.0})
    microscope.profile = microscope.profile.model_copy(update={"focus": focus})
    controller = controller_of(microscope, 7.6)
    before_um = microscope.axis.z_um
    outcome = controller.focus("velocity", silent)
    assert outcome.ending in (Ending.RETURNED, Ending.STAYED)
    assert microscope.axis.z_um == pytest.approx(before_um)
    assert "travel" in outcome.sentence


@pytest.mark.parametrize("looks", [1, 4])
def test_a_stop_on_the_way_leaves_the_axis_at_rest(microscope: Microscope, looks: int) -> None:
    def halt(number: int, _look: Look, _decision: Decision) -> None:
        if number == looks:
            microscope.axis.stop()

    outcome = controller_of(microscope, 7.6).focus("velocity", halt)
    assert outcome.ending is Ending.STOPPED
    assert not microscope.axis.moving
    at_um = microscope.axis.z_um
    microscope.clock.sleep(1.0)
    assert microscope.axis.z_um == at_um == pytest.approx(outcome.end_um)


def test_a_camera_that_vanishes_on_the_way_brings_the_axis_back(microscope: Microscope) -> None:
    controller = controller_of(microscope, 7.6)
    before_um = microscope.axis.z_um

    def unplug(number: int, _look: Look, _decision: Decision) -> None:
        if number == 4:
            microscope.camera.close()

    with pytest.raises(CameraError):
        controller.focus("velocity", unplug)
    assert microscope.axis.z_um == pytest.approx(before_um)
    assert not microscope.axis.moving


def test_an_axis_that_cannot_glide_says_so_and_the_job_ends_where_it_began(microscope: Microscope) -> None:
    controller = controller_of(microscope, 5.0)
    before_um = microscope.axis.z_um

    def refuse(*_: object) -> None:
        raise AxisError("only goes from place to place")

    microscope.axis.glide = refuse  # type: ignore[assignment,method-assign]
    with pytest.raises(AxisError, match="place to place"):
        controller.focus("velocity", silent)
    assert microscope.axis.z_um == pytest.approx(before_um)


def test_grades_of_the_wrong_side_end_where_the_job_began(microscope: Microscope) -> None:
    world = world_of(microscope)
    for _ in range(2):
        microscope.axis.move_by(-4.0 - world.truth_um())
    before_um = microscope.axis.z_um
    lies = grader(world, microscope.clock, wrong=abs)
    outcome = Controller(microscope, None, Source(lies)).focus("velocity", silent)  # type: ignore[arg-type]
    assert outcome.ending is Ending.RETURNED
    assert microscope.axis.z_um == pytest.approx(before_um)
