"""The Micro-Manager stage on a real core: where it is, where it goes and stops, and when it is no longer trusted."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from bent import PATIENCE_S, Bent, a_bent_core, a_microscope, board, core_of, opened

from firmware import micromanager
from firmware.axes.micromanager import AxisOptions, MicroManagerAxis
from firmware.errors import AxisError, MotionStopped, NotTrusted, ProfileError
from firmware.microscope import Microscope
from firmware.travel import Trust

microscope = pytest.fixture(a_microscope)
bent = pytest.fixture(a_bent_core)


def axis_of(bent: Bent, **table: Any) -> MicroManagerAxis:
    """An axis that knows where it is, unless it has a window."""
    profile = board(axis=table)
    options = AxisOptions.model_validate(profile.axis.options)
    axis = MicroManagerAxis(profile, bent.clock, micromanager.shared(bent), "Z", options)
    if profile.axis.homing == "device":
        axis.home()
    return axis


def test_moves_of_the_demonstration_stage_end_where_they_were_asked_to(microscope: Microscope) -> None:
    move = microscope.axis.move_to(12.3)
    assert move.to_um == pytest.approx(12.3)
    assert core_of(microscope).getPosition("Z") == pytest.approx(12.3)
    assert microscope.capture().z_um == pytest.approx(12.3)


def test_opening_asks_the_device_where_it_is_and_moves_nothing(bent: Bent) -> None:
    bent.put(33.3)
    axis = axis_of(bent)
    assert axis.z_um == pytest.approx(33.3)
    assert axis.trust is Trust.HOMED
    assert bent.sent_um == []


def test_a_stage_that_is_moving_is_waited_for_before_it_is_asked(bent: Bent) -> None:
    bent.speed_um_s = 100.0
    bent.setPosition("Z", 20.0)
    assert axis_of(bent).z_um == pytest.approx(20.0)


def test_the_board_file_says_which_way_a_stage_counts(bent: Bent) -> None:
    bent.put(5.0)
    axis = axis_of(bent, direction=-1)
    assert axis.z_um == pytest.approx(-5.0)
    axis.move_to(20.0)
    assert bent.sent_um == pytest.approx([-20.0])
    assert axis.z_um == pytest.approx(20.0)


def test_a_stage_outside_the_limits_is_not_driven(bent: Bent) -> None:
    bent.put(3000.0)
    with pytest.raises(AxisError, match=r"stands at 3000.00 um, outside this axis's limits -100.0 to 100.0 um; bring"):
        axis_of(bent)
    assert bent.sent_um == []


def test_a_stage_has_no_switch_to_home_to() -> None:
    with pytest.raises(ProfileError, match='set homing = "device"'):
        opened(axis={"homing": "switch"})
    assert not micromanager._cores


def test_roundings_of_the_device_do_not_add_up(bent: Bent) -> None:
    bent.grid_um = 0.03
    axis = axis_of(bent)
    for count in range(3000):
        axis.move_by(0.1 if count % 3 else -0.1)
        assert bent.getPosition("Z") == pytest.approx(axis.z_um, abs=0.031)
    assert axis.z_um == pytest.approx(100.0)


def test_moves_take_as_long_as_the_stage_needs(bent: Bent) -> None:
    bent.speed_um_s = 100.0
    axis = axis_of(bent)
    axis.move_to(50.0)
    assert axis.at_rest_since_s == pytest.approx(0.5, abs=0.02)
    assert bent.getPosition("Z") == pytest.approx(50.0)


def test_a_stop_from_another_thread_halts_the_stage_on_its_way(bent: Bent) -> None:
    bent.speed_um_s = 100.0
    axis = axis_of(bent)

    def stop_at_twenty() -> None:
        if bent.getPosition("Z") >= 20.0 and not bent.stops:
            thread = threading.Thread(target=axis.stop)
            thread.start()
            thread.join(PATIENCE_S)

    bent.while_busy = stop_at_twenty
    with pytest.raises(MotionStopped, match=r"rests at 2\d\.\d\d um"):
        axis.move_to(80.0)
    assert (bent.stops, axis.trust) == (1, Trust.HOMED)
    assert axis.z_um == pytest.approx(bent.getPosition("Z"), abs=0.05)
    assert axis.z_um == pytest.approx(20.0, abs=1.1)


def test_a_stop_just_before_a_move_sends_nothing(bent: Bent) -> None:
    axis = axis_of(bent)
    axis.stop()
    assert axis._drive(100, axis._halt) == 0
    assert bent.sent_um == []


def test_after_a_stop_the_axis_goes_on_from_where_it_was_halted(bent: Bent) -> None:
    bent.speed_um_s = 100.0
    axis = axis_of(bent)
    bent.while_busy = lambda: axis.stop() if bent.getPosition("Z") >= 20.0 else None
    with pytest.raises(MotionStopped):
        axis.move_to(80.0)
    bent.while_busy = lambda: None
    axis.release()
    assert axis.move_to(30.0).to_um == pytest.approx(30.0)
    assert bent.getPosition("Z") == pytest.approx(30.0)


def test_a_stage_that_cannot_be_stopped_says_so_once_it_rests(bent: Bent) -> None:
    bent.speed_um_s, bent.broken["stop"] = 100.0, "Operation not supported"
    axis = axis_of(bent)
    bent.while_busy = axis.stop
    with pytest.raises(AxisError, match="would not stop, and went on to its end: Operation not supported"):
        axis.move_to(80.0)
    assert (bent.getPosition("Z"), axis.trust) == (80.0, Trust.LOST)


def test_a_stage_that_stays_busy_is_stopped_and_no_longer_trusted(bent: Bent) -> None:
    axis = axis_of(bent, speed_um_s=50.0, options={"busy_timeout_s": 2.0})
    bent.stuck = True
    with pytest.raises(AxisError, match=r"still busy after 3.0 s; check that it is free to move"):
        axis.move_to(50.0)
    assert bent.clock.now_s() == pytest.approx(3.0, abs=0.02)
    assert (bent.stops, axis.trust) == (1, Trust.LOST)


@pytest.mark.parametrize("call", ["setPosition", "deviceBusy", "getPosition"])
def test_a_stage_that_fails_is_no_longer_trusted(bent: Bent, call: str) -> None:
    axis = axis_of(bent)
    bent.broken[call] = 'Error in device "Z":  Serial\nport closed (14)'
    with pytest.raises(AxisError, match=r"the stage 'Z' failed: Error in device \"Z\": Serial port closed \(14\)"):
        axis.move_to(5.0)
    assert axis.trust is Trust.LOST
    assert bent.stops == (0 if call == "getPosition" else 1)


def test_a_stage_that_vanishes_says_so(microscope: Microscope) -> None:
    core_of(microscope).unloadDevice("Z")
    with pytest.raises(AxisError, match="the stage 'Z' failed: No device with label \"Z\"; the device is gone"):
        microscope.axis.move_to(5.0)
    assert microscope.axis.trust is Trust.LOST


def test_a_stage_that_ends_elsewhere_is_no_longer_trusted_but_knows_where_it_is(bent: Bent) -> None:
    axis = axis_of(bent)
    bent.short_um = 1.0
    with pytest.raises(AxisError, match="did not send 10 of 50 steps"):
        axis.move_to(5.0)
    assert axis.z_um == pytest.approx(4.0)
    assert axis.trust is Trust.LOST


def test_a_stage_that_was_moved_by_hand_is_not_driven_until_it_is_homed(bent: Bent) -> None:
    axis = axis_of(bent)
    bent.put(40.0)
    with pytest.raises(AxisError, match=r"moved by 40.00 um since its last move .* nothing was sent; home it"):
        axis.move_to(5.0)
    assert bent.sent_um == []
    axis.home()
    assert axis.z_um == pytest.approx(40.0)


def test_an_axis_without_trust_moves_a_little_from_where_the_device_is(bent: Bent) -> None:
    axis = axis_of(bent)
    bent.put(40.0)
    axis.distrust()
    axis.move_by(2.0)
    assert bent.sent_um == pytest.approx([42.0])
    with pytest.raises(NotTrusted):
        axis.move_by(4.0)


def test_an_axis_with_a_window_counts_from_where_its_zero_was_set(bent: Bent) -> None:
    bent.put(731.05)
    axis = axis_of(bent, homing="window", direction=-1)
    axis.set_zero()
    axis.move_to(10.0)
    axis.set_zero()
    axis.move_to(3.0)
    assert bent.sent_um == pytest.approx([721.05, 718.05])
    assert axis.z_um == pytest.approx(3.0)


def test_a_measured_step_changes_what_a_move_is_worth_but_not_what_the_device_is_sent(bent: Bent) -> None:
    bent.put(10.0)
    axis = axis_of(bent, um_per_step=0.11, nominal_um_per_step=0.1)
    assert axis.z_um == pytest.approx(11.0)
    axis.move_to(22.0)
    assert bent.sent_um == pytest.approx([20.0])


def test_a_position_that_the_device_refuses_is_an_axis_error() -> None:
    with opened(axis={"high_um": 1e6}) as microscope:
        with pytest.raises(AxisError, match=r"Position out of range \(103\)"):
            microscope.axis.move_to(1e5)
        assert microscope.axis.trust is Trust.LOST
