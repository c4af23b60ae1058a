"""Glides: motion at a set speed, on the simulated axis by the clock and on the step/direction axis by its thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from counter import homed
from physical_stage import Stage, a_stage, board, opened
from test_simulated_axis import FLAWLESS

from firmware.axes.step_dir import StepDirAxis
from firmware.clock import ManualClock
from firmware.errors import AxisError, LimitReached, MotionStopped, MotorFault, NotTrusted, OutOfLimits, TravelSpent
from firmware.gliding import GlidingAxis
from firmware.ledger import Ledger, Rest
from firmware.microscope import Microscope, open_microscope, with_simulation
from firmware.profile import load_profile
from firmware.simulation import Scene, World
from firmware.travel import Travel, Trust

PATIENCE_S = 20.0


def simulated(**flaws: object) -> tuple[Microscope, GlidingAxis, World]:
    microscope = open_microscope(with_simulation(load_profile("simulated_tiny"), **(FLAWLESS | flaws)), ManualClock())
    assert isinstance(microscope.axis, GlidingAxis)
    assert microscope.world is not None
    return microscope, microscope.axis, microscope.world


def test_a_glide_returns_at_once_and_the_stage_moves_as_time_passes() -> None:
    microscope, axis, world = simulated()
    before_s = microscope.clock.now_s()
    axis.glide(-20.0, 10.0)
    assert microscope.clock.now_s() == before_s
    microscope.clock.sleep(0.5)
    assert axis.z_um == pytest.approx(-5.0, abs=0.3)
    assert world.stage.motor_um == pytest.approx(axis.z_um)
    assert axis.moving


def test_a_frame_on_the_way_is_not_waited_for_as_after_a_move() -> None:
    microscope, axis, _ = simulated()
    microscope.clock.sleep(1.0)
    axis.glide(-20.0, 10.0)
    assert axis.at_rest_since_s <= microscope.clock.now_s()


def test_a_rest_ends_exactly_where_it_says() -> None:
    microscope, axis, world = simulated()
    axis.glide(-20.0, 10.0)
    microscope.clock.sleep(0.5)
    before_um = axis.z_um
    move = axis.rest()
    assert (move.from_um, move.asked_um) == (0.0, -20.0)
    assert move.to_um == axis.z_um == pytest.approx(world.stage.motor_um)
    assert 0.0 <= before_um - move.to_um <= axis.braking_um(10.0) + axis.profile.um_per_step
    assert not axis.moving
    assert axis.at_rest_since_s == microscope.clock.now_s()


def test_a_glide_ends_at_its_target_by_itself() -> None:
    microscope, axis, world = simulated()
    axis.glide(-7.3, 20.0)
    microscope.clock.sleep(10.0)
    assert not axis.moving
    assert world.stage.motor_um == pytest.approx(-7.3)
    assert axis.rest().to_um == pytest.approx(-7.3)


def test_a_rest_without_a_glide_changes_nothing() -> None:
    microscope, axis, _ = simulated()
    before_s = microscope.clock.now_s()
    assert axis.rest().legs == 0
    assert microscope.clock.now_s() == before_s


def test_another_speed_takes_over_on_the_way() -> None:
    microscope, axis, _ = simulated()
    axis.glide(-50.0, 10.0)
    microscope.clock.sleep(0.5)
    axis.glide(-50.0, 60.0)
    microscope.clock.sleep(0.2)
    a_um = axis.z_um
    microscope.clock.sleep(0.2)
    assert a_um - axis.z_um == pytest.approx(12.0, abs=0.1)


def test_a_glide_back_rests_first() -> None:
    microscope, axis, world = simulated()
    axis.glide(20.0, 40.0)
    microscope.clock.sleep(0.3)
    top_um = axis.z_um
    axis.glide(-20.0, 40.0)
    microscope.clock.sleep(0.3)
    assert axis.z_um < top_um
    assert axis.rest().to_um == pytest.approx(world.stage.motor_um)


def test_a_nearer_target_that_is_passed_already_is_gone_back_to() -> None:
    microscope, axis, world = simulated()
    axis.glide(-40.0, 100.0)
    microscope.clock.sleep(0.2)
    target_um = axis.z_um - 0.2
    axis.glide(target_um, 100.0)
    microscope.clock.sleep(1.0)
    assert axis.rest().to_um == pytest.approx(target_um, abs=0.03)
    assert world.stage.motor_um == pytest.approx(axis.z_um)


def test_speed_beyond_the_axis_is_not_gone() -> None:
    microscope, axis, _ = simulated()
    axis.glide(-50.0, 1e6)
    microscope.clock.sleep(0.05)
    assert axis.z_um >= -400.0 * 0.05


@pytest.mark.parametrize(
    ("to_um", "speed_um_s"), [(np.nan, 10.0), (5.0, np.nan), (5.0, 0.0), (5.0, -3.0), (61.0, 5.0)]
)
def test_what_is_no_way_to_go_is_refused_and_a_glide_under_way_rests(to_um: float, speed_um_s: float) -> None:
    microscope, axis, world = simulated()
    axis.glide(-20.0, 10.0)
    microscope.clock.sleep(0.3)
    with pytest.raises(OutOfLimits):
        axis.glide(to_um, speed_um_s)
    assert not axis.moving
    assert axis.z_um == pytest.approx(world.stage.motor_um)


def test_a_job_is_charged_for_what_was_really_travelled() -> None:
    microscope, axis, _ = simulated()
    travel = axis.travel(30, 30, 100.0)
    axis.glide(-25.0, 10.0, travel)
    assert travel.path_um == pytest.approx(75.0)
    microscope.clock.sleep(0.4)
    axis.glide(-28.0, 20.0, travel)
    microscope.clock.sleep(0.4)
    axis.glide(10.0, 20.0, travel)
    top_um = -axis.rest().from_um
    microscope.clock.sleep(0.1)
    assert travel.path_um == pytest.approx(100.0 - top_um - (axis.z_um + top_um))


def test_a_glide_is_clamped_to_the_window_of_its_job() -> None:
    microscope, axis, _ = simulated()
    axis.glide(-40.0, 100.0, axis.travel(3.0, 3.0, 100.0))
    microscope.clock.sleep(5.0)
    assert axis.rest().to_um == pytest.approx(-3.0)


def test_a_way_beyond_the_budget_is_refused_also_on_the_way_and_charged_to_where_it_rests() -> None:
    microscope, axis, _ = simulated()
    travel = axis.travel(60, 60, 20.0)
    axis.glide(-15.0, 10.0, travel)
    microscope.clock.sleep(0.5)
    with pytest.raises(TravelSpent):
        axis.glide(-30.0, 10.0, travel)
    assert not axis.moving
    assert travel.path_um == pytest.approx(20.0 + axis.z_um)


def test_an_axis_without_trust_glides_a_little_in_all() -> None:
    microscope, axis, _ = simulated()
    axis.distrust()
    for _ in range(4):
        axis.glide(axis.z_um - 2.0, 10.0)
        microscope.clock.sleep(0.1)
        axis.rest()
    with pytest.raises(NotTrusted):
        axis.glide(axis.z_um - 2.0, 10.0)
    assert -axis.profile.blind_um <= axis.z_um < -2.0


def test_a_stop_halts_at_once_however_late_anybody_looks() -> None:
    microscope, axis, world = simulated()
    axis.glide(-50.0, 20.0)
    microscope.clock.sleep(0.5)
    thread = threading.Thread(target=axis.stop)
    thread.start()
    thread.join()
    halted_um = axis.z_um
    microscope.clock.sleep(3.0)
    assert world.stage.motor_um == pytest.approx(halted_um) == pytest.approx(axis.z_um)
    with pytest.raises(MotionStopped, match=f"rests at {halted_um:.2f} um"):
        axis.rest()
    assert not axis.moving
    assert axis.trust is Trust.HOMED


def test_after_a_stop_no_glide_begins_or_changes() -> None:
    microscope, axis, _ = simulated()
    axis.glide(-50.0, 20.0)
    microscope.clock.sleep(0.1)
    axis.stop()
    for _ in range(2):
        with pytest.raises(MotionStopped):
            axis.glide(-50.0, 40.0)
    axis.release()
    assert axis.move_to(-3.0).to_um == pytest.approx(-3.0)


@pytest.mark.parametrize("command", ["move_to", "go_back", "home"])
def test_any_other_move_ends_a_glide_first(command: str) -> None:
    microscope, axis, world = simulated()
    axis.glide(-50.0, 20.0)
    microscope.clock.sleep(0.3)
    {"move_to": lambda: axis.move_to(4.0), "go_back": lambda: axis.go_back(4.0, 0), "home": axis.home}[command]()
    assert axis.z_um == pytest.approx(0.0 if command == "home" else 4.0)
    assert world.stage.motor_um == pytest.approx(axis.z_um)


def test_after_a_glide_away_the_play_is_taken_out_by_the_next_move() -> None:
    microscope, axis, world = simulated(backlash_um=2.0)
    axis.move_to(-10.0)
    reference_um = world.stage.carriage_um
    axis.glide(-4.0, 20.0)
    microscope.clock.sleep(1.0)
    assert axis.rest().to_um == pytest.approx(-4.0)
    assert world.stage.carriage_um == pytest.approx(reference_um + 6.0 - 2.0)
    axis.move_to(-10.0)
    assert world.stage.carriage_um == pytest.approx(reference_um)


def test_a_motor_that_loses_steps_in_a_glide_is_short_of_what_the_axis_believes() -> None:
    microscope, axis, world = simulated(lost_step_chance=1.0, lost_step_um=0.5)
    axis.glide(-4.0, 20.0)
    microscope.clock.sleep(1.0)
    assert axis.rest().to_um == pytest.approx(-4.0)
    assert world.stage.carriage_um == pytest.approx(-3.5)


def test_the_stage_rings_after_a_glide_and_not_on_the_way() -> None:
    microscope, axis, world = simulated(vibration_um=2.0, vibration_decay_ms=1e6)
    axis.glide(-4.0, 20.0)
    microscope.clock.sleep(0.1)
    assert world.stage.z_um() == world.stage.carriage_um
    axis.rest()
    assert abs(world.stage.z_um() - world.stage.carriage_um) > 0.0


class Disk:
    """A ledger's disk that keeps what is written."""

    def __init__(self) -> None:
        self.record = b""

    def read(self) -> bytes:
        return self.record

    def write(self, record: bytes) -> None:
        self.record = record

    def close(self) -> None:
        return


def test_the_ledger_says_under_way_until_the_axis_rests() -> None:
    microscope, axis, _ = simulated()
    disk = Disk()
    axis.remember(Ledger(disk))
    axis.glide(-4.0, 20.0)
    assert Ledger(disk).last(axis.profile.position_key) is None
    microscope.clock.sleep(1.0)
    axis.rest()
    assert Ledger(disk).last(axis.profile.position_key) == Rest(-80, 20, "HOMED")


def test_every_frame_of_a_glide_knows_its_z_at_mid_exposure() -> None:
    microscope, axis, world = simulated(stale_frames=2)
    scenes: list[Scene] = []
    catch = world.catch

    def note(way_um: Sequence[float] = ()) -> Scene:
        scenes.append(catch(way_um))
        return scenes[-1]

    world.catch = note  # type: ignore[method-assign]
    axis.glide(-20.0, 30.0)
    for number in range(6):
        frame = microscope.capture()
        seen_um = min((scene.defocus_um for scene in scenes), key=lambda um: abs(um - frame.z_um))
        assert frame.fresh
        assert seen_um == pytest.approx(frame.z_um, abs=0.051)
        axis.glide(-20.0, 30.0 + 5 * number)


def test_a_frame_that_is_exposed_on_the_way_sees_it_all_and_one_at_rest_one_place() -> None:
    microscope, axis, world = simulated()
    assert len(world.catch().way_um) == 0
    axis.glide(-50.0, 200.0)
    microscope.clock.sleep(0.1)
    exposure = microscope.camera._next(1.0)
    assert exposure.ended_s - exposure.started_s == pytest.approx(0.008)
    assert np.abs(microscope.axis.z_at(exposure.started_s) - microscope.axis.z_at(exposure.ended_s)) > 1.5
    assert world.stage.moving


def test_the_expected_time_is_told_before_it_moves_and_before_it_brakes() -> None:
    _, axis, _ = simulated()
    told: list[float] = []
    axis.expect = told.append
    axis.glide(-40.0, 2.0)
    assert told[-1] > 20.0
    axis.glide(-40.0, 100.0)
    axis.rest()
    assert len(told) == 3


def test_an_axis_that_only_goes_from_place_to_place_says_so() -> None:
    with pytest.raises(AxisError, match=r"'counter' only goes from place to place.*use another strategy"):
        homed().glide(-5.0, 10.0)
    assert homed().rest().legs == 0


@contextmanager
def halfway(stage: Stage, pulses: int) -> Iterator[threading.Event]:
    """Hold the thread that pulses, after so many from here; the event lets it go on."""
    reached, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        assert go_on.wait(PATIENCE_S)

    stage.halted, stage.halt_at = hold, stage.pulses + pulses
    try:
        yield go_on
        assert reached.is_set()
    finally:
        go_on.set()


def gliding(axis: StepDirAxis, stage: Stage, pulses: int, to_um: float, speed_um_s: float) -> None:
    """Begin a glide and wait until it is held."""
    axis.glide(to_um, speed_um_s)
    for _ in range(2000):
        if stage.pulses >= stage.halt_at:
            return
        threading.Event().wait(0.005)
    raise AssertionError("the motor did not come so far")


def where(axis: StepDirAxis, stage: Stage) -> float:
    return (stage.position - stage.top) * 0.05 + 110.0


def test_pulses_of_a_glide_come_at_its_speed_and_all_are_counted() -> None:
    stage = a_stage()
    with opened(stage) as axis:
        axis.home()
        before = stage.pulses
        axis.glide(40.0, 25.0)
        while axis.moving:
            threading.Event().wait(0.005)
        assert axis.rest().to_um == pytest.approx(40.0) == pytest.approx(where(axis, stage))
        gaps_s = np.diff(stage.at_s[before + 100 : -100])
        assert gaps_s == pytest.approx(np.full(len(gaps_s), 0.05 / 25.0), rel=1e-3)


def test_the_rate_of_a_train_is_changed_on_the_way_with_a_ramp_and_no_step_is_lost() -> None:
    stage = a_stage()
    with opened(stage) as axis:
        axis.home()
        stage.shortest_s = 0.05 / 105.0
        before = stage.pulses
        with halfway(stage, 400) as go_on:
            gliding(axis, stage, 400, 0.0, 25.0)
            axis.glide(-20.0, 100.0)
            go_on.set()
            while axis.moving:
                threading.Event().wait(0.005)
        assert axis.rest().to_um == pytest.approx(-20.0) == pytest.approx(where(axis, stage))
        gaps_s = np.diff(stage.at_s[before:])
        assert gaps_s[300] == pytest.approx(0.05 / 25.0, rel=1e-3)
        assert gaps_s[1200] == pytest.approx(0.05 / 100.0, rel=1e-3)
        assert stage.lost == 0


def test_a_rest_ends_a_train_on_the_way_and_its_count_is_exact() -> None:
    stage = a_stage()
    with opened(stage) as axis:
        axis.home()
        with halfway(stage, 400) as go_on:
            gliding(axis, stage, 400, 0.0, 100.0)
            held_um = axis.z_um
            threading.Timer(0.02, go_on.set).start()
            move = axis.rest()
        assert move.to_um == pytest.approx(where(axis, stage))
        assert 0.0 < held_um - move.to_um <= axis.braking_um(100.0) + 0.05
        assert axis.trust is Trust.HOMED
        axis.move_to(-10.0)
        assert axis.z_um == pytest.approx(where(axis, stage))


def test_a_stop_takes_hold_before_the_next_pulse_of_a_glide_and_at_speed_costs_the_trust() -> None:
    for start_um_s, trust in ((0.0, Trust.LOST), (400.0, Trust.HOMED)):
        stage = a_stage()
        with opened(stage, board(options={"start_um_s": start_um_s})) as axis:
            axis.home()
            stage.halted, stage.halt_at = axis.stop, stage.pulses + 500
            axis.glide(0.0, 100.0)
            while axis.moving:
                threading.Event().wait(0.005)
            with pytest.raises(MotionStopped):
                axis.rest()
            assert stage.pulses == stage.halt_at
            assert axis.z_um == pytest.approx(where(axis, stage))
            assert axis.trust is trust


@pytest.mark.parametrize("ended_by", ["switch", "fault"])
@pytest.mark.parametrize("command", ["rest", "glide"])
def test_what_ends_a_glide_on_the_way_is_told_by_the_next_command(ended_by: str, command: str) -> None:
    stage = a_stage(position=3900)
    with opened(stage, board({"homing": "window", "backlash_um": 0.0})) as axis:
        axis.set_zero()
        if ended_by == "fault":
            stage.halted, stage.halt_at = lambda: setattr(stage, "faulty", True), 50
        axis.glide(20.0, 25.0)
        while axis.moving:
            threading.Event().wait(0.005)
        with pytest.raises(LimitReached if ended_by == "switch" else MotorFault):
            axis.rest() if ended_by == command else axis.glide(30.0, 25.0)
        assert axis.trust is Trust.LOST
        assert axis.z_um == pytest.approx((stage.position - 3900) * 0.05)


def test_closing_ends_a_glide() -> None:
    stage = a_stage()
    with opened(stage) as axis:
        axis.home()
        with halfway(stage, 400) as go_on:
            gliding(axis, stage, 400, 0.0, 100.0)
            threading.Timer(0.02, go_on.set).start()
            axis.close()
        assert stage.pulses <= stage.halt_at + 1
    del stage


def test_a_travel_is_charged_for_a_train_that_was_cut_short() -> None:
    stage = a_stage()
    with opened(stage) as axis:
        axis.home()
        start_um, travel = axis.z_um, Travel(-100.0, 100.0, 200.0)
        with halfway(stage, 400) as go_on:
            axis.glide(0.0, 100.0, travel)
            while stage.pulses < stage.halt_at:
                threading.Event().wait(0.005)
            threading.Timer(0.02, go_on.set).start()
            axis.rest()
        assert travel.path_um == pytest.approx(200.0 - (start_um - axis.z_um))
