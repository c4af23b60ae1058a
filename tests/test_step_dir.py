"""The step/direction axis over gpiozero's mock pins, with a physical stage behind them."""

from __future__ import annotations

import random
import threading

import pytest
from gpiozero import InputDevice
from physical_stage import ENABLE, LOWER, STEP, UPPER, Stage, a_stage, board, opened, stage_behind_pins

from firmware.errors import (
    AxisError,
    LimitReached,
    MissingDriver,
    MotionStopped,
    MotorFault,
    NotTrusted,
    ProfileError,
    UnknownPlugin,
)
from firmware.microscope import open_microscope
from firmware.profile import BoardProfile
from firmware.travel import Trust
from firmware.zaxis import ZAxis


def where_it_should_be(axis: ZAxis, stage: Stage) -> float:
    """The stage's true height in the axis's um: its switch closes at 110."""
    return axis.profile.direction * (stage.position - axis.profile.direction * stage.top) * 0.05 + 110.0


def test_homing_ends_off_the_switch_and_knows_where() -> None:
    stage = a_stage()
    with opened(stage) as axis:
        axis.home()
        assert axis.trust is Trust.HOMED
        assert axis.z_um == pytest.approx(where_it_should_be(axis, stage))
        assert stage.position < stage.top


def test_the_switch_is_met_slowly_the_second_time() -> None:
    stage = a_stage()
    with opened(stage) as axis:
        axis.home()
    closing = [later - sooner for sooner, later in zip(stage.at_s, stage.at_s[1:], strict=False)]
    assert max(closing[-600:-450]) == pytest.approx(0.05 / 20.0, rel=0.1)


def test_homing_starts_well_from_a_switch_that_is_closed_already() -> None:
    stage = a_stage(position=4100)
    with opened(stage) as axis:
        axis.home()
        assert axis.z_um == pytest.approx(where_it_should_be(axis, stage), abs=0.051)


@pytest.mark.parametrize("start", [-3500, 0, 3999])
def test_homing_finds_the_same_place_from_everywhere(start: int) -> None:
    stage = a_stage(position=start)
    with opened(stage, board(options={"home_travel_um": 420.0})) as axis:
        axis.home()
        assert axis.z_um == pytest.approx(where_it_should_be(axis, stage), abs=0.051)


def test_homing_to_the_lower_switch_of_a_motor_that_turns_the_other_way() -> None:
    stage = a_stage(top=4000, bottom=-4000)
    options = {"home_switch": "lower_switch", "home_um": -110.0}
    profile = board({"direction": -1}, options)
    low, high = stage.level, {24: LOWER, LOWER: 24}
    stage.level = lambda number: low(high.get(number, number))  # type: ignore[method-assign]
    with opened(stage, profile) as axis:
        axis.home()
        assert axis.z_um == pytest.approx(-90.0)
        assert stage.position == 4000 - 400


def test_moves_end_where_they_were_asked_and_every_pulse_is_a_step() -> None:
    stage, rng = a_stage(), random.Random(4)
    with opened(stage) as axis:
        axis.home()
        for _ in range(50):
            axis.move_to(rng.uniform(-100, 100))
            assert axis.z_um == pytest.approx(where_it_should_be(axis, stage), abs=1e-6)
        assert stage.pulses == axis.timing.pulses


def test_thousands_of_moves_by_an_awkward_step_do_not_drift() -> None:
    stage, rng = a_stage(), random.Random(5)
    with opened(stage, board({"backlash_um": 0.0, "settle_ms": 0.0, "um_per_step": 0.0488281})) as axis:
        axis.home()
        zero = stage.position - axis._steps
        for _ in range(3_000):
            axis.move_to(rng.uniform(-0.1, 0.1) if axis.z_um < 1 else 0.0)
        assert stage.position == axis._steps + zero
        assert axis.z_um == axis._steps * 0.0488281


def test_a_motor_that_stalls_above_a_speed_keeps_up_with_the_ramps() -> None:
    stage = a_stage(shortest_s=0.05 / 405.0)
    with opened(stage) as axis:
        axis.home()
        axis.move_to(-80.0)
        assert stage.lost == 0


def test_a_motor_that_is_driven_too_fast_loses_steps() -> None:
    stage = a_stage(shortest_s=0.05 / 200.0)
    with opened(stage, board({"homing": "window"})) as axis:
        axis.set_zero()
        axis.move_to(-80.0)
        assert stage.lost > 1000


def test_an_emergency_stop_takes_hold_before_the_next_step() -> None:
    stage = a_stage()
    with opened(stage) as axis:
        axis.home()
        stage.halted, stage.halt_at = axis.stop, stage.pulses + 123
        with pytest.raises(MotionStopped):
            axis.move_to(0.0)
        assert stage.pulses == stage.halt_at
        assert axis.z_um == pytest.approx(where_it_should_be(axis, stage))


def test_a_stop_at_speed_costs_the_trust_and_one_below_the_starting_speed_does_not() -> None:
    for starting_um_s, trust in ((0.0, Trust.LOST), (400.0, Trust.HOMED)):
        stage = a_stage()
        with opened(stage, board(options={"start_um_s": starting_um_s})) as axis:
            axis.home()
            stage.halted, stage.halt_at = axis.stop, stage.pulses + 900
            with pytest.raises(MotionStopped):
                axis.move_to(0.0)
            assert axis.trust is trust


def test_a_stop_while_homing_leaves_the_position_lost() -> None:
    stage = a_stage()
    with opened(stage) as axis:
        stage.halted, stage.halt_at = axis.stop, 100
        with pytest.raises(MotionStopped, match="home it again"):
            axis.home()
        assert stage.pulses == 100
        assert axis.trust is Trust.LOST


def test_a_limit_switch_ends_a_move_at_once_and_may_be_left_the_other_way_only() -> None:
    stage = a_stage(position=3900)
    with opened(stage, board({"homing": "window", "blind_um": 20.0, "backlash_um": 0.0})) as axis:
        with pytest.raises(LimitReached, match=r"upper switch is closed.*move away"):
            axis.move_by(15.0)
        assert stage.position == stage.top
        with pytest.raises(LimitReached):
            axis.move_by(1.0)
        axis.move_by(-1.0)
        assert stage.position == stage.top - 20


def test_a_fault_of_the_driver_stops_the_motor_and_cuts_its_power() -> None:
    stage = a_stage()
    with opened(stage) as axis:
        axis.home()
        stage.faulty = True
        with pytest.raises(MotorFault, match=r"fault line is active.*home it"):
            axis.move_to(0.0)
        assert stage.pins[ENABLE]._state
        assert not axis.trusted
        stage.faulty = False
        axis.home()
        assert axis.trusted


def test_a_switch_that_never_closes_is_told_after_the_whole_travel() -> None:
    stage = a_stage(top=10**6, bottom=-(10**6))
    with opened(stage) as axis, pytest.raises(AxisError, match="did not close within 240 um; check its wires"):
        axis.home()


def test_a_switch_that_is_stuck_is_told_after_backing_off_and_the_axis_goes_back() -> None:
    stage = a_stage(stuck=True)
    with opened(stage) as axis:
        for _ in range(5):
            with pytest.raises(AxisError, match=r"still closed 20 um away.*went back; it is stuck"):
                axis.home()
        assert stage.position == 0


def test_two_closed_switches_are_no_place_and_nothing_moves() -> None:
    stage = a_stage(stuck=True, bottom=0)
    with opened(stage) as axis, pytest.raises(AxisError, match=r"both limit switches are closed.*nothing moved"):
        axis.home()
    assert stage.pulses == 0


@pytest.mark.parametrize("act", ["home", "move"])
def test_a_wrong_direction_ends_at_the_other_switch_and_not_behind_it(act: str) -> None:
    stage = a_stage(bottom=-200)
    with opened(stage, board({"direction": -1, "homing": "window" if act == "move" else "switch"})) as axis:
        if act == "move":
            axis.set_zero()
            with pytest.raises(LimitReached):
                axis.move_to(90.0)
        else:
            with pytest.raises(LimitReached, match="`parfocal calibrate mechanics` finds the direction"):
                axis.home()
        assert stage.position == stage.bottom
        assert not axis.trusted


def test_noise_on_a_switch_line_is_no_switch() -> None:
    stage = a_stage()
    level, readings = stage.level, iter(range(10**9))
    stage.level = lambda number: False if number == UPPER and next(readings) % 50 == 7 else level(number)  # type: ignore[method-assign]
    with opened(stage) as axis:
        axis.home()
        assert axis.z_um == pytest.approx(where_it_should_be(axis, stage), abs=0.051)


def test_a_contact_that_bounces_when_it_is_left_does_not_end_the_way() -> None:
    stage = a_stage()
    with opened(stage, board({"homing": "window", "blind_um": 20.0, "backlash_um": 0.0})) as axis:
        stage.position = stage.top
        level = stage.level
        stage.level = lambda number: number != UPPER and level(number) if stage.pulses in (3, 6, 9) else level(number)  # type: ignore[method-assign]
        axis.move_by(-5.0)
        assert stage.position == stage.top - 100


def test_the_position_after_a_fault_counts_the_steps_that_were_sent() -> None:
    stage = a_stage(position=3900)
    with opened(stage, board({"homing": "window", "blind_um": 20.0, "backlash_um": 0.0})) as axis:
        with pytest.raises(LimitReached):
            axis.move_by(15.0)
        assert axis.z_um == pytest.approx(5.0)


def test_an_axis_without_a_switch_is_used_after_set_zero_inside_its_window() -> None:
    stage = a_stage()
    with opened(stage, board({"homing": "window"})) as axis:
        with pytest.raises(NotTrusted):
            axis.move_by(30.0)
        axis.set_zero()
        axis.move_by(30.0)
        assert stage.position == 600
        with pytest.raises(AxisError, match="limits"):
            axis.move_to(101.0)


def test_the_motor_has_power_only_from_its_first_move_on_and_none_after_closing() -> None:
    stage = a_stage()
    with opened(stage) as axis:
        assert stage.pins[ENABLE]._state
        axis.home()
        assert not stage.pins[ENABLE]._state
    assert stage.lost == 0


def test_the_motor_loses_its_power_at_rest_and_has_it_again_for_the_next_move() -> None:
    stage = a_stage()
    off = threading.Event()
    with opened(stage, board({"holds_without_power": True}, {"power_off_after_s": 0.02})) as axis:
        idle = axis._thread._idle
        axis._thread._idle = lambda: (idle(), off.set())  # type: ignore[assignment,func-returns-value]
        axis.home()
        off.clear()
        assert off.wait(10.0)
        assert stage.pins[ENABLE]._state
        axis.move_to(0.0)
        assert stage.lost == 0


def test_a_step_pulse_is_never_left_high() -> None:
    stage = a_stage()
    with opened(stage) as axis:
        axis.home()
        assert not stage.pins[STEP]._state


@pytest.mark.parametrize(
    ("axis", "options", "message"),
    [
        ({}, {"gpio": "abacus"}, "no 'abacus' in firmware/gpio/"),
        ({}, {"speed": 3}, "axis.options: speed: unknown key"),
        ({}, {"home_switch": "side"}, "home_switch"),
        (
            {},
            {"pins": {"step": {"line": 1}, "direction": {"line": 2}}},
            "needs the line axis.options.pins.upper_switch",
        ),
        ({}, {"power_off_after_s": 1}, "set holds_without_power = true"),
        (
            {"homing": "window"},
            {"pins": {"step": {"line": 1}, "direction": {"line": 2}}, "power_off_after_s": 1},
            "power_off_after_s needs the line pins.enable",
        ),
    ],
)
def test_a_board_file_that_cannot_be_is_told_by_its_key(
    axis: dict[str, object], options: dict[str, object], message: str
) -> None:
    stage = a_stage()
    with (
        stage_behind_pins(stage),
        pytest.raises((ProfileError, UnknownPlugin), match=message),
        open_microscope(board(axis, options), stage.clock),
    ):
        pass


def opening(profile: BoardProfile, stage: Stage) -> None:
    with stage_behind_pins(stage):
        open_microscope(profile, stage.clock)


def test_lines_that_are_in_use_are_told() -> None:
    stage = a_stage()
    told = r"GPIO chip 'mock' cannot be had.*in use.*two tasks, or this program"
    with stage_behind_pins(stage), InputDevice(UPPER, pull_up=True), pytest.raises(AxisError, match=told):
        open_microscope(board(), stage.clock)


def test_a_line_does_one_thing() -> None:
    twice = {**board().axis.options["pins"], "direction": {"line": STEP}}
    with pytest.raises(ProfileError, match="the line 17 is both step and direction; give each its own"):
        opening(board(options={"pins": twice}), a_stage())


def test_a_home_switch_inside_the_window_is_refused() -> None:
    with pytest.raises(ProfileError, match="home_um = 90 lies inside the window"):
        opening(board(options={"home_um": 90.0}), a_stage())


def test_without_gpiozero_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gpiozero", None)
    stage = Stage(a_stage().clock)
    with pytest.raises(MissingDriver, match="gpiozero"), open_microscope(board(), stage.clock):
        pass
