"""Courses at a set speed: their ramps, their ends, and changes on the way, down to the single pulse."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from firmware.course import Course, Steering, braking_um, changing_um
from firmware.motion import Limits, train

LIMITS = Limits(400.0, 4000.0, 80000.0)
STEP_UM = 0.05


def speeds(course: Course) -> NDArray[np.float64]:
    times_s = np.linspace(0.0, course.ends_s, 20_000)
    return np.gradient(np.interp(times_s, course.times_s, course.ways_um), times_s)


@pytest.mark.parametrize("steps", [1, 3, 50, 400, 3000])
def test_from_rest_at_full_speed_a_course_is_an_ordinary_train(steps: int) -> None:
    times_s = Steering(steps, 400.0, STEP_UM, LIMITS).plan(steps)
    assert np.allclose(times_s, train(steps, STEP_UM, LIMITS), atol=2e-5)


@pytest.mark.parametrize(("from_um_s", "to_um_s"), [(0.0, 20.0), (100.0, 20.0), (20.0, 100.0), (50.0, 50.0)])
def test_a_course_goes_over_to_its_speed_keeps_it_and_ends_at_rest(from_um_s: float, to_um_s: float) -> None:
    course = Course.plan(60.0, to_um_s, LIMITS, from_um_s)
    middle = speeds(course)[8_000:12_000]
    assert course.ways_um[-1] == pytest.approx(60.0)
    assert middle == pytest.approx(np.full(4_000, to_um_s), rel=1e-3)
    assert speeds(course)[0] == pytest.approx(from_um_s, abs=0.2)
    assert speeds(course)[-1] == pytest.approx(0.0, abs=0.2)


def test_acceleration_and_jerk_stay_within_their_limits() -> None:
    first = Course.plan(60.0, 300.0, LIMITS)
    course = first.then(Course.plan(20.0, 80.0, LIMITS, 300.0), first.even_s[0] + 0.01)
    times_s = np.arange(0.0, course.ends_s, 5e-3)
    ways_um = np.interp(times_s, course.times_s, course.ways_um)
    acceleration = np.diff(ways_um, 2) / 25e-6
    assert np.abs(acceleration).max() <= 1.02 * LIMITS.acceleration_um_s2
    assert np.abs(np.diff(acceleration)).max() / 5e-3 <= 1.1 * LIMITS.jerk_um_s3


def test_a_speed_that_the_way_leaves_no_room_for_is_not_reached() -> None:
    course = Course.plan(2.0, 400.0, LIMITS)
    assert course.ways_um[-1] == pytest.approx(2.0)
    assert course.speed_um_s < 100.0


def test_too_late_for_another_speed_it_goes_on_and_stops_in_time() -> None:
    course = Course.plan(braking_um(100.0, LIMITS) + 0.01, 400.0, LIMITS, 100.0)
    assert course.ways_um[-1] == pytest.approx(braking_um(100.0, LIMITS) + 0.01)
    assert course.speed_um_s == pytest.approx(100.0, rel=0.01)


def sent_with(steering: Steering, count: int, at: dict[int, tuple[int, float]]) -> NDArray[np.float64]:
    """The times of all pulses, with what is asked after so many of them; a speed of 0 brakes."""
    times_s, planned, before_s = [], list(steering.plan(count)), 0.0
    while planned:
        times_s.append(before_s + planned.pop(0))
        sent = len(times_s)
        if sent in at:
            wanted = at[sent]
            steering.ask(sent, *wanted) if wanted[1] else steering.brake()
        anew = steering.renew(sent)
        if anew is not None:
            before_s, planned = times_s[-1], list(anew)
    return np.asarray(times_s)


@pytest.mark.parametrize("count", [700, 1000, 1600])
@pytest.mark.parametrize("speed_um_s", [15.0, 60.0, 200.0])
def test_a_train_that_is_changed_on_the_way_has_exactly_its_new_count(count: int, speed_um_s: float) -> None:
    steering = Steering(1000, 50.0, STEP_UM, LIMITS)
    times_s = sent_with(steering, 1000, {300: (count, speed_um_s)})
    assert len(times_s) == steering.count == count
    assert STEP_UM / np.diff(times_s)[count // 2 - 20] == pytest.approx(speed_um_s, rel=0.02) or count == 700
    assert np.diff(times_s).min() >= STEP_UM / max(speed_um_s, 50.0) * 0.999


def test_a_change_that_is_asked_for_during_another_waits_for_its_end() -> None:
    steering = Steering(2000, 50.0, STEP_UM, LIMITS)
    times_s = sent_with(steering, 2000, {300: (2000, 200.0), 310: (2000, 20.0)})
    gaps_s = np.diff(times_s)
    assert STEP_UM / gaps_s.min() == pytest.approx(200.0, rel=0.02)
    assert STEP_UM / gaps_s[1000] == pytest.approx(20.0, rel=0.01)
    acceleration = np.diff(STEP_UM / gaps_s[20:-20]) / gaps_s[20:-21]
    assert np.abs(acceleration).max() <= 1.1 * LIMITS.acceleration_um_s2


@pytest.mark.parametrize("speed_um_s", [5.0, 50.0, 300.0])
def test_a_brake_ends_the_train_within_what_braking_promises(speed_um_s: float) -> None:
    steering = Steering(4000, speed_um_s, STEP_UM, LIMITS)
    times_s = sent_with(steering, 4000, {2000: (0, 0.0)})
    assert 0 < len(times_s) - 2000 <= changing_um(speed_um_s, LIMITS) / STEP_UM + 2
    assert np.diff(times_s)[-1] > 2 * STEP_UM / speed_um_s or speed_um_s < 10.0


def test_braking_just_after_the_start_ends_the_train_soon() -> None:
    assert len(sent_with(Steering(4000, 300.0, STEP_UM, LIMITS), 4000, {2: (0, 0.0)})) < 1000


def test_near_its_end_a_train_takes_no_more_orders_and_ends_where_it_was_to() -> None:
    steering = Steering(1000, 50.0, STEP_UM, LIMITS)
    assert not steering.ask(998, 2000, 80.0)
    assert len(sent_with(steering, 1000, {998: (0, 0.0)})) == 1000


def test_a_train_cannot_end_where_it_could_not_stop() -> None:
    steering = Steering(1000, 300.0, STEP_UM, LIMITS)
    steering.plan(1000)
    assert not steering.ask(500, 510, 300.0)


def test_after_a_pause_that_slowed_the_motor_the_rest_begins_from_rest() -> None:
    steering = Steering(1000, 50.0, STEP_UM, LIMITS)
    steering.plan(1000)
    assert np.allclose(steering.plan(400), Steering(400, 50.0, STEP_UM, LIMITS).plan(400))
    assert steering.renew(601) is None
