"""The strategy alone, on a stage of arithmetic: no camera, no motor, no clock."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from edge_app.answer import Verdict
from edge_app.estimate import DefocusEstimate, PatchMap
from edge_app.patches import PatchGrid
from edge_app.strategies import single_shot
from edge_app.strategy import GiveUp, Ground, MoveTo, Observation, Settled, shown_better

GRID = PatchGrid(1, 1, 0, 0)
GROUND = Ground(-60.0, 60.0, 0.95, 3.0, 0.6, 24.0)
Judge = Callable[[float], tuple[Verdict, float, float]]


@dataclass
class Run:
    """What a plan did: where it looked, how it ended."""

    path: list[float]
    end: Settled | GiveUp
    improved: bool


def observe(z_um: float, judge: Judge, believed_um: float) -> Observation:
    verdict, defocus_um, sigma_um = judge(z_um)
    nothing = np.full(1, np.nan, np.float32)
    estimate = DefocusEstimate(
        verdict, "why", defocus_um, sigma_um, PatchMap(GRID, np.ones(1, bool), nothing, nothing)
    )
    sharp = np.array([1.0 / (1.0 + z_um**2)], np.float32)
    return Observation(believed_um, estimate, sharp, np.ones(1, bool))


def run(start_um: float, judge: Judge, slip: float = 1.0) -> Run:
    """Focus lies at zero; `slip` is the share of each move that really happens, the axis believes in all of it."""
    first = observe(start_um, judge, start_um)
    plan, path, last = single_shot.plan(first, GROUND), [start_um], first
    try:
        decision = next(plan)
        while True:
            assert isinstance(decision, MoveTo)
            assert GROUND.low_um <= decision.z_um <= GROUND.high_um
            path.append(path[-1] + slip * (decision.z_um - last.z_um))
            last = observe(path[-1], judge, decision.z_um)
            decision = plan.send(last)
    except StopIteration as ended:
        return Run(path, ended.value, shown_better(first, last))


def exact(z_um: float) -> tuple[Verdict, float, float]:
    return Verdict.OK, z_um, 0.1


def capped(z_um: float) -> tuple[Verdict, float, float]:
    far = abs(z_um) > 11.5
    return (Verdict.OUT_OF_RANGE if far else Verdict.OK), math.copysign(min(abs(z_um), 13.0), z_um), 0.3


@pytest.mark.parametrize("start_um", [-10.0, -2.5, 0.6, 9.9])
def test_a_good_model_needs_one_look_one_move_one_check(start_um: float) -> None:
    done = run(start_um, exact)
    assert isinstance(done.end, Settled)
    assert len(done.path) == 2
    assert done.path[-1] == pytest.approx(0.0, abs=1e-6)


def test_a_start_in_focus_is_left_alone() -> None:
    assert run(0.1, exact).path == [0.1]


def test_an_estimate_that_falls_short_is_refined_at_most_twice() -> None:
    done = run(8.0, lambda z: (Verdict.OK, 0.75 * z, 0.2))
    assert len(done.path) <= 4
    assert abs(done.path[-1]) < 0.5


def test_no_content_gives_up_without_moving() -> None:
    done = run(5.0, lambda _: (Verdict.NO_CONTENT, math.nan, math.nan))
    assert done.path == [5.0]
    assert done.end == GiveUp(Verdict.NO_CONTENT, "why")


@pytest.mark.parametrize("verdict", [Verdict.WRONG_OPTICS, Verdict.OPTICS_UNKNOWN, Verdict.STALE_FRAME])
def test_a_model_that_may_not_judge_moves_nothing(verdict: Verdict) -> None:
    done = run(5.0, lambda _: (verdict, math.nan, math.nan))
    assert done.path == [5.0]
    assert isinstance(done.end, GiveUp)


@pytest.mark.parametrize("start_um", [18.0, -18.0])
def test_beyond_the_range_one_leap_brings_it_back(start_um: float) -> None:
    done = run(start_um, capped)
    assert len(done.path) <= 4
    assert abs(done.path[-1]) < 0.3


@pytest.mark.parametrize("start_um", [18.0, -18.0])
def test_a_leap_to_the_wrong_side_ends_in_a_sweep_that_finds_focus(start_um: float) -> None:
    def wrong_side(z_um: float) -> tuple[Verdict, float, float]:
        verdict, value, sigma = capped(z_um)
        return verdict, (-value if verdict is Verdict.OUT_OF_RANGE else value), sigma

    done = run(start_um, wrong_side)
    assert isinstance(done.end, Settled)
    assert abs(done.path[-1]) < 0.6


def test_a_mirrored_model_is_caught_because_the_estimate_did_not_change_as_moved() -> None:
    done = run(4.0, lambda z: (Verdict.OK, -z, 0.1))
    assert isinstance(done.end, GiveUp)
    assert not done.improved


def test_a_stage_that_does_not_move_is_caught() -> None:
    done = run(4.0, exact, slip=0.0)
    assert isinstance(done.end, GiveUp)
    assert len(done.path) <= 3


@pytest.mark.parametrize("start_um", [5.0, -5.0])
def test_an_open_sign_is_decided_by_one_small_move(start_um: float) -> None:
    def symmetric(z_um: float) -> tuple[Verdict, float, float]:
        return (Verdict.SIGN_UNCERTAIN, abs(z_um), 0.2) if abs(z_um) > 1.5 else (Verdict.OK, z_um, 0.2)

    done = run(start_um, symmetric)
    assert isinstance(done.end, Settled)
    assert abs(done.path[1] - start_um) <= 3.0
    assert abs(done.path[-1]) < 0.3


def test_every_target_stays_inside_the_ground() -> None:
    done = run(55.0, lambda z: (Verdict.OK, -50.0, 0.1))
    assert max(done.path) <= GROUND.high_um


def test_a_side_that_never_shows_does_not_matter_within_half_a_depth_of_field() -> None:
    def sideless(z_um: float) -> tuple[Verdict, float, float]:
        return Verdict.SIGN_UNCERTAIN, max(abs(z_um), 0.35), 0.1

    done = run(5.0, sideless)
    assert isinstance(done.end, Settled)
    assert "on whichever side" in done.end.why
    assert abs(done.path[-1]) < 0.5
    assert len(done.path) == 3


@pytest.mark.parametrize(("start_um", "moves"), [(0.4, 0), (-0.4, 0), (0.6, 2)])
def test_a_first_look_within_half_a_depth_of_field_needs_no_side(start_um: float, moves: int) -> None:
    done = run(start_um, lambda z: (Verdict.SIGN_UNCERTAIN, abs(z), 0.1))
    assert isinstance(done.end, Settled)
    assert "on whichever side" in done.end.why
    assert len(done.path) == 1 + moves
