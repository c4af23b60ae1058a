"""The simulated mechanics: play, slips, ringing, drift, and the truth behind what the axis believes."""

from __future__ import annotations

import threading

import pytest

from firmware.clock import ManualClock
from firmware.errors import MotionStopped, ProfileError
from firmware.microscope import Microscope, open_microscope, with_simulation
from firmware.profile import BoardProfile, load_profile
from firmware.simulation import World

FLAWLESS: dict[str, object] = {
    "field_height_um": 0.0,
    "tilt_x_um": 0.0,
    "tilt_y_um": 0.0,
    "drift_um_per_min": 0.0,
    "backlash_um": 0.0,
    "vibration_um": 0.0,
    "stale_frames": 0,
}


def board(**flaws: object) -> BoardProfile:
    return with_simulation(load_profile("simulated_tiny"), **(FLAWLESS | flaws))


def opened(**flaws: object) -> tuple[Microscope, World]:
    microscope = open_microscope(board(**flaws), ManualClock())
    assert microscope.world is not None
    return microscope, microscope.world


class StopsAt(ManualClock):
    """A clock at whose given moment after `watch` another thread calls stop."""

    def __init__(self, until_s: float) -> None:
        super().__init__()
        self._until_s = until_s
        self._microscope: Microscope | None = None

    def watch(self, microscope: Microscope) -> Microscope:
        self._microscope, self._until_s = microscope, self.now_s() + self._until_s
        return microscope

    def sleep(self, duration_s: float) -> None:
        super().sleep(duration_s)
        if self._microscope is not None and self.now_s() >= self._until_s:
            stopper = threading.Thread(target=self._microscope.axis.stop)
            stopper.start()
            stopper.join()


@pytest.mark.parametrize("play_um", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_the_carriage_ends_at_one_place_from_either_side_whatever_the_play(play_um: float) -> None:
    microscope, world = opened(backlash_um=play_um)
    ends = set()
    for start in (-20.0, 20.0, 9.5, 10.5, 10.0):
        microscope.axis.move_to(start)
        microscope.axis.move_to(10.0)
        ends.add(round(world.stage.carriage_um, 6))
    assert len(ends) == 1


def test_the_play_of_a_bare_screw_is_felt() -> None:
    profile = board(backlash_um=2.0)
    careless = profile.model_copy(update={"axis": profile.axis.model_copy(update={"backlash_um": 0.0})})
    microscope = open_microscope(careless, ManualClock())
    assert microscope.world is not None
    microscope.axis.move_to(-10.0)
    from_above_um = microscope.world.stage.carriage_um
    microscope.axis.move_to(-20.0)
    microscope.axis.move_to(-10.0)
    assert from_above_um - microscope.world.stage.carriage_um == pytest.approx(2.0)


def test_homing_finds_the_middle_wherever_the_motor_was() -> None:
    microscope, world = opened(scale_error=0.02)
    microscope.axis.move_to(33.0)
    microscope.axis.distrust()
    microscope.axis.home()
    assert microscope.axis.z_um == 0.0
    assert world.stage.motor_um == pytest.approx(0.0, abs=1e-9)


def test_a_stop_on_the_way_to_the_switch_halts_within_a_chunk() -> None:
    clock = StopsAt(until_s=0.02)
    profile = board()
    waiting = profile.model_copy(update={"axis": profile.axis.model_copy(update={"home_at_start": False})})
    microscope = clock.watch(open_microscope(waiting, clock))
    with pytest.raises(MotionStopped):
        microscope.axis.home()
    assert microscope.world is not None
    assert microscope.world.stage.motor_um == pytest.approx(5 * 400 * 0.02, abs=5 * 400 * 0.004)


def test_a_stop_halts_within_a_chunk_and_the_steps_sent_are_counted() -> None:
    clock = StopsAt(until_s=0.05)
    microscope = clock.watch(open_microscope(board(), clock))
    with pytest.raises(MotionStopped):
        microscope.axis.move_to(-60.0)
    assert microscope.world is not None
    assert microscope.axis.z_um == pytest.approx(-400 * 0.05, abs=400 * 0.004 + 1e-6)
    assert microscope.axis.z_um == pytest.approx(microscope.world.stage.motor_um)


def test_lost_steps_leave_the_stage_short_of_what_the_axis_believes() -> None:
    microscope, world = opened(lost_step_chance=1.0, lost_step_um=0.5)
    microscope.axis.move_to(-20.0)
    assert microscope.axis.z_um == pytest.approx(-20.0)
    assert world.stage.carriage_um == pytest.approx(-19.5)


def test_a_scale_error_stretches_every_move() -> None:
    microscope, world = opened(scale_error=0.03)
    microscope.axis.move_to(-20.0)
    assert world.stage.carriage_um == pytest.approx(-20.6)


def test_ringing_decays_after_a_move() -> None:
    microscope, world = opened(vibration_um=2.0)
    world.stage.turn(-10.0)
    assert world.stage.z_um() == pytest.approx(-12.0)
    microscope.clock.sleep(10 / 35.0)
    assert abs(world.stage.z_um() + 10.0) < 0.01


def test_ringing_swings_at_its_frequency() -> None:
    microscope, world = opened(vibration_um=2.0, vibration_hz=50.0, vibration_decay_ms=1e6)
    world.stage.turn(10.0)
    microscope.clock.sleep(0.01)
    assert world.stage.z_um() == pytest.approx(8.0, abs=0.001)


def test_focus_drifts_with_time() -> None:
    microscope, world = opened(drift_um_per_min=2.0)
    before_um = world.truth_um()
    microscope.clock.sleep(90.0)
    assert world.truth_um() == pytest.approx(before_um - 3.0)


def test_the_truth_is_the_distance_from_the_fields_own_height() -> None:
    microscope, world = opened(field_height_um=3.0)
    height_um = -world.truth_um()
    assert 0.0 < abs(height_um) <= 3.0
    microscope.axis.move_to(7.0)
    assert world.truth_um() == pytest.approx(7.0 - height_um)


def test_every_field_has_its_own_height() -> None:
    _, world = opened(field_height_um=3.0)
    heights = set()
    for field in range(5):
        world.load_field(field)
        heights.add(world.truth_um())
    assert len(heights) == 5


def test_fields_come_in_the_shares_that_the_board_asks_for() -> None:
    _, world = opened(kinds={"sparse": 3.0, "blank": 1.0, "tissue": 0.0})
    kinds = [world.kind_of(field) for field in range(400)]
    assert set(kinds) == {"sparse", "blank"}
    assert 0.67 < kinds.count("sparse") / 400 < 0.83


def test_a_field_can_be_given_another_specimen_and_keeps_it() -> None:
    _, world = opened()
    world.load_field(3, "blank")
    world.load_field(4)
    assert world.kind_of(3) == "blank"


@pytest.mark.parametrize(("field", "kind", "message"), [(1, "moon", "tissue, smear"), (-1, "", "no field -1")])
def test_a_field_that_cannot_be_is_refused_and_the_old_one_stays(field: int, kind: str, message: str) -> None:
    _, world = opened()
    world.load_field(2)
    with pytest.raises(ProfileError, match=message):
        world.load_field(field, kind)
    assert world.field == 2


def test_another_objective_shifts_the_focus_by_its_offset_and_the_axis_follows() -> None:
    microscope, world = opened()
    before_um = world.truth_um()
    assert microscope.select_objective("10x") == 4.0
    assert microscope.axis.z_um == pytest.approx(4.0)
    assert world.truth_um() == pytest.approx(before_um)


def test_an_objective_that_is_not_there_is_refused() -> None:
    microscope, _ = opened()
    with pytest.raises(ProfileError, match="'40x'; it has: 20x, 10x"):
        microscope.select_objective("40x")


def test_leaving_the_microscope_leaves_the_hardware_at_rest() -> None:
    with opened()[0] as microscope:
        microscope.axis.move_by(-1.0)
    with pytest.raises(MotionStopped):
        microscope.axis.move_by(-1.0)


@pytest.mark.parametrize(("wired", "declared", "rises"), [(1, 1, True), (-1, -1, True), (-1, 1, False)])
def test_the_declared_direction_maps_the_motor_onto_z(wired: int, declared: int, rises: bool) -> None:
    profile = board(motor_direction=wired)
    axis = profile.axis.model_copy(update={"direction": declared, "home_at_start": False, "backlash_um": 0.0})
    microscope = open_microscope(profile.model_copy(update={"axis": axis}), ManualClock())
    assert microscope.world is not None
    before_um = microscope.world.stage.carriage_um
    microscope.axis.move_by(3.0)
    assert microscope.axis.z_um == pytest.approx(3.0)
    assert (microscope.world.stage.carriage_um > before_um) == rises
