"""Ramps: limits are kept, every step has its pulse, and a train is the same forwards and backwards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware.motion import Limits, Ramp, train

STEP_UM = 0.05
GENTLE = Limits(400.0, 4000.0, 80000.0)


def speeds(times_s: np.ndarray) -> np.ndarray:
    return STEP_UM / np.diff(times_s)


@given(
    steps=st.integers(1, 5000),
    speed=st.floats(1.0, 2000.0),
    acceleration=st.floats(10.0, 1e5),
    jerk=st.floats(100.0, 1e7),
)
@settings(deadline=None, max_examples=200)
def test_every_step_has_one_pulse_and_no_limit_is_broken(
    steps: int, speed: float, acceleration: float, jerk: float
) -> None:
    times_s = train(steps, STEP_UM, Limits(speed, acceleration, jerk))
    assert len(times_s) == steps
    assert times_s[0] > 0
    assert (np.diff(times_s) > 0).all()
    assert (speeds(times_s) <= speed * (1 + 1e-6)).all()


def test_acceleration_and_jerk_stay_within_their_limits() -> None:
    times_s = train(4000, STEP_UM, GENTLE)
    middle_s = 0.5 * (times_s[1:] + times_s[:-1])
    acceleration = np.diff(speeds(times_s)) / np.diff(middle_s)
    # Differences of differences are rough where a step takes long: there the closed form is checked instead.
    jerk = np.diff(acceleration)[200:-200] / np.diff(0.5 * (middle_s[1:] + middle_s[:-1]))[200:-200]
    assert np.abs(acceleration).max() <= 4000 * (1 + 1e-6)
    assert np.abs(jerk).max() <= 80000 * 1.01


def test_a_train_reads_the_same_backwards() -> None:
    times_s = train(777, STEP_UM, GENTLE)
    assert np.allclose(np.diff(times_s), np.diff(times_s)[::-1], rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 100, 800, 801, 5000])
def test_a_move_is_as_short_as_its_limits_allow(steps: int) -> None:
    length_um, times_s = steps * STEP_UM, train(steps, STEP_UM, GENTLE)
    whole_s = times_s[0] + times_s[-1]
    fast = Ramp.to(400.0, GENTLE)
    if length_um >= 2 * fast.length_um:
        assert whole_s == pytest.approx(2 * fast.duration_s + (length_um - 2 * fast.length_um) / 400.0)
    else:
        longer_s = train(steps + 1, STEP_UM, GENTLE)
        assert whole_s < longer_s[0] + longer_s[-1]


def test_a_ramp_integrated_by_hand_goes_where_the_closed_form_says() -> None:
    ramp = Ramp.to(400.0, GENTLE)
    time_s = np.linspace(0, ramp.duration_s, 200_001)
    ends = np.cumsum([ramp.jerk_s, ramp.even_s])
    jerk = np.where(time_s < ends[0], GENTLE.jerk_um_s3, np.where(time_s < ends[1], 0.0, -GENTLE.jerk_um_s3))
    gap_s = time_s[1]
    z_um = np.cumsum(np.cumsum(np.cumsum(jerk) * gap_s) * gap_s) * gap_s
    asked_um = np.linspace(1.0, ramp.length_um - 0.5, 50)
    assert np.allclose(ramp.reach(asked_um), np.interp(asked_um, z_um, time_s), atol=1e-4)
    assert z_um[-1] == pytest.approx(ramp.length_um, rel=1e-3)


def test_a_slower_limit_is_never_a_faster_one() -> None:
    assert GENTLE.slower(20.0).speed_um_s == 20.0
    assert GENTLE.slower(900.0).speed_um_s == 400.0
