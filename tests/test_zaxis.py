"""The promises of ZAxis, kept by a driver that is nothing but a counter of steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from counter import NEVER, an_axis, homed, profile
from pydantic import ValidationError

from firmware.errors import AxisError, MotionStopped, NotTrusted, OutOfLimits, TravelSpent
from firmware.travel import Travel, Trust


def test_a_move_ends_where_it_was_asked_to_end() -> None:
    axis = homed()
    move = axis.move_to(12.3)
    assert move.from_um == 0.0
    assert move.to_um == pytest.approx(12.3)
    assert axis.position == 123


def test_every_approach_ends_towards_the_specimen() -> None:
    axis = homed()
    for target in (10.0, 5.0, 5.5, 5.4, -20.0, -19.9, 30.0):
        axis.move_to(target)
        assert axis.visited[-2] == axis.position + 1


def test_going_up_overshoots_by_the_backlash_and_comes_back() -> None:
    axis = homed()
    move = axis.move_to(10.0)
    assert max(axis.visited) == 120
    assert move.legs == 2


def test_going_further_down_needs_no_overshoot() -> None:
    axis = homed()
    axis.move_to(10.0)
    sent = axis.sent
    axis.move_to(9.9)
    assert axis.sent == sent + 1


@pytest.mark.parametrize("target", [50.0, 49.95, 49.0, -50.0])
def test_the_overshoot_never_leaves_the_limits(target: float) -> None:
    axis = homed()
    axis.move_to(target)
    assert min(axis.visited) >= -500
    assert max(axis.visited) <= 500


@pytest.mark.parametrize("limit", [50.06, 50.09])
def test_rounding_to_a_step_never_leaves_the_limits(limit: float) -> None:
    axis = homed(low_um=-limit, high_um=limit)
    axis.move_to(limit)
    assert axis.z_um <= limit
    axis.move_to(-limit)
    assert axis.z_um >= -limit


def test_play_that_the_ceiling_left_over_is_taken_out_by_the_next_move() -> None:
    axis = homed()
    axis.move_to(49.9)
    axis.move_to(49.0)
    assert axis.visited[-10:] == list(range(499, 489, -1))
    assert max(axis.visited) == 500


def test_play_is_still_there_after_a_stop_on_the_way_back() -> None:
    axis = homed()
    axis.halt_after = 120 + 3
    with pytest.raises(MotionStopped):
        axis.move_to(10.0)
    axis.halt_after = NEVER
    axis.release()
    axis.move_to(11.6)
    assert axis.visited[-18:] == list(range(133, 115, -1))


@pytest.mark.parametrize("beyond", [50.1, -50.1, 1e9])
def test_a_move_beyond_the_limits_is_refused_and_nothing_moves(beyond: float) -> None:
    axis = homed()
    with pytest.raises(OutOfLimits, match="nothing moved"):
        axis.move_to(beyond)
    assert axis.sent == 0


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_number_is_no_position(nonsense: float) -> None:
    axis = homed()
    with pytest.raises(OutOfLimits):
        axis.move_to(nonsense, axis.travel(10, 10, 100))
    with pytest.raises(OutOfLimits):
        axis.move_by(nonsense)
    assert axis.sent == 0


def test_an_axis_that_was_never_homed_moves_a_little_in_all_and_then_refuses() -> None:
    axis = an_axis(backlash_um=0)
    for _ in range(5):
        axis.move_by(1.0)
    with pytest.raises(NotTrusted, match=r"never homed.*home it first"):
        axis.move_by(-0.1)
    assert axis.position == 50


def test_going_back_and_forth_does_not_win_blind_travel() -> None:
    axis = an_axis(backlash_um=0)
    axis.move_by(2.0)
    axis.move_by(-2.0)
    with pytest.raises(NotTrusted):
        axis.move_by(2.0)


def test_a_refused_job_costs_no_blind_travel() -> None:
    axis = an_axis(backlash_um=0)
    with pytest.raises(TravelSpent):
        axis.move_by(4.0, Travel(-10, 10, path_um=3.0))
    axis.move_by(5.0)
    assert axis.position == 50


def test_a_broken_driver_costs_the_trust_and_far_moves_are_refused() -> None:
    axis = homed()
    axis.fails_after = 7
    with pytest.raises(AxisError, match="'counter' failed: no answer from the motor"):
        axis.move_to(-20.0)
    with pytest.raises(NotTrusted, match="position lost"):
        axis.move_to(-20.0)
    assert axis.trust is Trust.LOST


def test_homing_restores_the_trust() -> None:
    axis = homed()
    axis.distrust()
    axis.home()
    axis.move_to(-20.0)
    assert axis.trust is Trust.HOMED
    assert axis.position == -200


def test_a_driver_that_leaves_steps_out_costs_the_trust() -> None:
    axis = homed()
    axis.short_by = 2
    with pytest.raises(AxisError, match="did not send -2 of -200 steps"):
        axis.move_to(-20.0)
    assert axis.trust is Trust.LOST


def test_failing_again_and_again_does_not_win_blind_travel() -> None:
    axis = homed(backlash_um=0)
    axis.short_by = 1
    with pytest.raises(AxisError):
        axis.move_by(-1.0)
    for _ in range(4):
        with pytest.raises(AxisError, match="did not send"):
            axis.move_by(-1.0)
    with pytest.raises(NotTrusted):
        axis.move_by(-2.0)


def test_frames_are_stale_until_a_failed_move_has_settled() -> None:
    axis = homed(settle_ms=80)
    axis.fails_after = 7
    with pytest.raises(AxisError):
        axis.move_to(-20.0)
    assert axis.at_rest_since_s == pytest.approx(axis.clock.now_s() + 0.08)


def test_a_broken_switch_costs_the_trust() -> None:
    axis = homed()
    axis.fails_after = 0
    with pytest.raises(AxisError, match="the switch is not connected"):
        axis.home()
    assert axis.trust is Trust.LOST


def test_a_stop_while_homing_leaves_the_position_lost() -> None:
    axis = homed()
    axis.halt_after = 0
    with pytest.raises(MotionStopped, match="home it"):
        axis.home()
    assert axis.trust is Trust.LOST


def test_travel_clamps_the_target_to_its_window() -> None:
    axis = homed()
    travel = axis.travel(towards_um=3, away_um=8, path_um=1000)
    assert axis.move_to(40.0, travel).to_um == pytest.approx(8.0)
    assert axis.move_to(-40.0, travel).to_um == pytest.approx(-3.0)


def test_a_travel_window_ends_at_the_limits() -> None:
    axis = homed()
    axis.move_to(45.0)
    assert axis.travel(200, 200, 1).low_um == -50
    assert axis.travel(200, 200, 1).high_um == 50


def test_a_spent_travel_refuses_and_nothing_moves() -> None:
    axis = homed()
    travel = axis.travel(50, 50, path_um=20.0)
    axis.move_to(-15.0, travel)
    with pytest.raises(TravelSpent, match=r"5\.0 um of travel left"):
        axis.move_to(-25.0, travel)
    assert axis.z_um == pytest.approx(-15.0)


def test_the_overshoot_is_paid_from_the_travel() -> None:
    axis = homed()
    travel = axis.travel(50, 50, path_um=100.0)
    axis.move_to(10.0, travel)
    assert travel.path_um == pytest.approx(100.0 - 12.0 - 2.0)


def test_a_stop_from_elsewhere_halts_and_the_steps_really_sent_are_counted() -> None:
    axis = homed()
    axis.halt_after = 37
    with pytest.raises(MotionStopped, match=r"rests at -3\.70 um"):
        axis.move_to(-20.0)
    assert axis.position == -37
    assert axis.z_um == pytest.approx(-3.7)
    assert axis.trust is Trust.HOMED


def test_motion_is_refused_until_release() -> None:
    axis = homed()
    axis.stop()
    acts: list[Callable[[], object]] = [lambda: axis.move_by(1.0), lambda: axis.move_by(0.0), axis.home]
    for act in acts:
        with pytest.raises(MotionStopped):
            act()
    axis.release()
    assert axis.move_by(1.0).to_um == pytest.approx(1.0)


def test_a_refused_move_on_a_stopped_axis_costs_no_travel() -> None:
    axis = homed()
    travel = axis.travel(50, 50, path_um=100.0)
    axis.stop()
    with pytest.raises(MotionStopped):
        axis.move_to(10.0, travel)
    assert travel.path_um == 100.0


def test_closing_stops() -> None:
    axis = homed()
    axis.close()
    with pytest.raises(MotionStopped):
        axis.move_by(1.0)


def test_the_position_at_a_past_moment_is_interpolated() -> None:
    axis = homed(backlash_um=0)
    began_s = axis.clock.now_s()
    axis.move_to(20.0)
    assert axis.z_at(began_s + 0.05) == pytest.approx(5.0)
    assert axis.z_at(began_s + 0.15) == pytest.approx(15.0)


def test_before_and_after_the_record_the_position_is_that_of_its_ends() -> None:
    axis = homed()
    axis.move_to(-20.0)
    assert axis.z_at(-100.0) == 0.0
    assert axis.z_at(axis.clock.now_s() + 100.0) == pytest.approx(-20.0)


def test_a_move_ends_when_the_stage_has_settled() -> None:
    axis = homed(settle_ms=80)
    before_s = axis.clock.now_s()
    axis.move_to(-10.0)
    assert axis.at_rest_since_s == pytest.approx(before_s + 0.1 + 0.08)


def test_a_move_to_where_the_axis_stands_takes_no_time() -> None:
    axis = homed()
    axis.move_to(-10.0)
    rested_s = axis.at_rest_since_s
    assert axis.move_to(-10.0).legs == 0
    assert axis.at_rest_since_s == rested_s


def test_moving_is_true_only_while_steps_are_sent() -> None:
    axis = homed()
    axis.move_to(-1.0)
    assert axis.seen_moving == {True}
    assert not axis.moving


def test_an_axis_with_a_switch_is_homed_and_not_set_to_zero() -> None:
    axis = an_axis(homing="switch")
    with pytest.raises(AxisError, match="use home"):
        axis.set_zero()
    assert axis.trust is Trust.UNKNOWN


def test_an_axis_without_a_switch_is_set_to_zero_and_not_homed() -> None:
    axis = an_axis(homing="window")
    axis.move_by(-3.0)
    with pytest.raises(AxisError, match="use set-zero"):
        axis.home()
    axis.set_zero()
    assert axis.z_um == 0.0
    assert axis.trust is Trust.ZEROED


@pytest.mark.parametrize("step_um", [0.05, 0.0488281])
def test_a_hundred_thousand_small_moves_do_not_drift(step_um: float) -> None:
    axis = homed(backlash_um=0, settle_ms=0, um_per_step=step_um)
    for _ in range(50_000):
        axis.move_by(0.05)
        axis.move_by(-0.05)
    assert axis.z_um == 0.0
    assert axis.position == 0


def test_beyond_a_limit_every_step_back_is_welcome_and_none_farther() -> None:
    axis = homed(backlash_um=0)
    axis.move_to(50.0)
    axis.adopt(axis.profile.model_copy(update={"high_um": 20.0, "homing": "window"}))
    axis.set_zero()
    axis._steps = 400
    with pytest.raises(OutOfLimits):
        axis.move_by(0.1)
    assert axis.move_by(-5.0).to_um == pytest.approx(35.0)


def test_measured_mechanics_leave_the_zero_of_a_window_where_it_is() -> None:
    axis = an_axis(homing="window", backlash_um=0)
    axis.set_zero()
    axis.move_to(-10.0)
    axis.adopt(axis.profile.model_copy(update={"um_per_step": 0.11, "direction": -1}))
    assert axis.z_um == pytest.approx(11.0)
    axis.move_to(0.0)
    assert axis.position == 0


def test_measured_mechanics_cost_the_trust_of_an_axis_that_was_homed() -> None:
    axis = homed()
    axis.adopt(axis.profile.model_copy(update={"um_per_step": 0.11}))
    assert axis.trust is Trust.LOST


def test_limits_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="low_um must lie below high_um"):
        profile(low_um=10, high_um=10)


def test_going_back_needs_no_blind_budget_and_stays_inside_the_limits() -> None:
    axis = an_axis(blind_um=4.0)
    axis.move_to(3.0)
    axis.go_back(0.0, axis.losses)
    assert axis.z_um == pytest.approx(0.0)


def test_nobody_goes_back_on_an_axis_that_is_lost() -> None:
    axis = homed()
    before = axis.losses
    axis.distrust()
    with pytest.raises(NotTrusted, match="way back is not known"):
        axis.go_back(1.0, before)


def test_a_job_that_began_without_trust_goes_back_all_the_same() -> None:
    axis = homed()
    axis.distrust()
    before = axis.losses
    axis.move_by(-2.0)
    assert axis.go_back(0.0, before).to_um == pytest.approx(0.0)


def test_frames_after_measured_mechanics_know_the_new_um() -> None:
    axis = homed(backlash_um=0)
    axis.move_to(-20.0)
    axis._clock.sleep(5.0)
    axis.adopt(axis.profile.model_copy(update={"um_per_step": 0.11}))
    assert axis.z_at(axis._clock.now_s()) == axis.z_um == pytest.approx(-22.0)


def test_frames_after_set_zero_know_the_new_zero() -> None:
    axis = an_axis(homing="window")
    axis.move_by(2.0)
    axis._clock.sleep(10.0)
    axis.set_zero()
    assert axis.z_at(axis._clock.now_s()) == 0.0
    assert axis.at_rest_since_s == axis._clock.now_s()


def test_an_interrupted_driver_costs_the_trust_too() -> None:
    axis = homed()

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    axis.clock.sleep = interrupted  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        axis.move_to(-20.0)
    assert axis.trust is Trust.LOST
