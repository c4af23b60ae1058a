"""The pulse thread: every step once, none hurried, late ones move all that follow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from firmware.clock import ManualClock, SystemClock
from firmware.errors import AxisError
from firmware.motion import Limits, Seconds, train
from firmware.pulses import Order, PulseThread, Timing

LIMITS = Limits(50.0, 2000.0, 80000.0)


class BusyClock(ManualClock):
    """Wakes up late by what a test says, at the waking of that number."""

    def __init__(self, late_s: dict[int, float]) -> None:
        super().__init__()
        self._late_s, self._wakings = late_s, 0

    def wake_at(self, time_s: float) -> None:
        super().wake_at(time_s + self._late_s.get(self._wakings, 0.0))
        self._wakings += 1


def plan(count: int) -> Seconds:
    return train(count, 0.05, LIMITS)


def nothing() -> None:
    return


def order(count: int, pulse: Callable[[], None], blocked: Callable[[], str] = lambda: "") -> Order:
    return Order(count, nothing, plan, blocked, pulse, nothing)


@contextmanager
def a_thread(clock: ManualClock) -> Iterator[PulseThread]:
    thread = PulseThread(clock)
    try:
        yield thread
    finally:
        thread.close()


def sent_at(clock: ManualClock, count: int) -> tuple[np.ndarray, Timing]:
    at_s: list[float] = []
    with a_thread(clock) as thread:
        done = thread.send(order(count, lambda: at_s.append(clock.now_s())))
        assert done.sent == count
    return np.asarray(at_s), thread.timing


def test_pulses_come_when_they_are_due() -> None:
    at_s, timing = sent_at(ManualClock(), 300)
    assert np.allclose(at_s, plan(300))
    assert (timing.pulses, timing.late) == (300, 0)
    assert timing.worst_s == pytest.approx(0.0, abs=1e-9)


def test_a_late_pulse_moves_all_that_follow_and_none_is_lost_or_hurried() -> None:
    at_s, timing = sent_at(BusyClock({150: 0.0008}), 300)
    assert len(at_s) == 300
    assert np.allclose(at_s[150:], plan(300)[150:] + 0.0008)
    assert (timing.late, timing.ramped_again) == (1, 0)


def test_a_pulse_that_comes_much_too_late_begins_a_new_ramp_for_the_rest() -> None:
    at_s, timing = sent_at(BusyClock({150: 0.030}), 300)
    assert len(at_s) == 300
    assert np.allclose(at_s[151:] - at_s[150], plan(149))
    assert timing.ramped_again == 1


def test_a_pulse_that_is_held_up_itself_does_not_hurry_the_next() -> None:
    clock, at_s = ManualClock(), list[float]()

    def held_up() -> None:
        clock.sleep(0.004 if len(at_s) == 150 else 0.0)
        at_s.append(clock.now_s())

    with a_thread(clock) as thread:
        thread.send(order(300, held_up))
    assert np.diff(at_s).min() >= np.diff(plan(300)).min() - 1e-9


def test_whatever_comes_late_no_gap_is_shorter_than_planned() -> None:
    rng = np.random.default_rng(3)
    late_s = {int(n): float(s) for n, s in zip(rng.integers(0, 500, 80), rng.exponential(2e-3, 80), strict=True)}
    at_s, _ = sent_at(BusyClock(late_s), 500)
    assert len(at_s) == 500
    assert np.diff(at_s).min() >= np.diff(plan(500)).min() - 1e-9


def test_a_train_is_blocked_before_the_next_pulse() -> None:
    at_s: list[float] = []
    with a_thread(ManualClock()) as thread:
        done = thread.send(order(50, lambda: at_s.append(0.0), lambda: "wall" if len(at_s) == 7 else ""))
    assert (done.sent, done.why, len(at_s)) == (7, "wall", 7)


def test_a_pulse_that_fails_is_told_to_whoever_waits_and_the_thread_lives_on() -> None:
    def break_down() -> None:
        raise OSError("the chip is gone")

    with a_thread(ManualClock()) as thread:
        with pytest.raises(OSError, match="the chip is gone"):
            thread.send(order(5, break_down))
        assert thread.send(order(5, nothing)).sent == 5


def test_an_idle_thread_says_so_once_and_from_itself() -> None:
    called: list[str] = []
    idle = threading.Event()

    def note() -> None:
        called.append(threading.current_thread().name)
        idle.set()

    thread = PulseThread(ManualClock(), note, idle_s=0.01)
    assert idle.wait(10.0)
    assert thread.send(order(3, nothing)).sent == 3
    thread.close()
    assert called[0] == "parfocal-pulses"


def test_real_pulses_are_all_sent_in_no_less_than_the_planned_time() -> None:
    clock, count = SystemClock(), 200
    thread = PulseThread(clock)
    began_s = clock.now_s()
    done = thread.send(order(count, nothing))
    took_s = clock.now_s() - began_s
    thread.close()
    assert done.sent == thread.timing.pulses == count
    assert took_s >= plan(count)[-1]


def test_timing_can_be_told_apart_by_moves() -> None:
    before = Timing(pulses=3, late=1, worst_s=0.2, sum_s=0.3)
    after = Timing(pulses=5, late=1, worst_s=0.2, sum_s=0.4)
    assert after.since(before).pulses == 2
    assert after.since(before).mean_s == pytest.approx(0.05)


def test_an_idle_call_that_fails_is_told_to_who_sends_next_and_the_thread_lives_on() -> None:
    idle = threading.Event()

    def fail() -> None:
        if not idle.is_set():
            idle.set()
            raise OSError("the line is gone")

    thread = PulseThread(ManualClock(), fail, idle_s=0.01)
    assert idle.wait(10.0)
    with pytest.raises(OSError, match="the line is gone"):
        thread.send(order(3, nothing))
    assert thread.send(order(3, nothing)).sent == 3
    thread.close()


def test_a_closed_thread_refuses_a_train() -> None:
    thread = PulseThread(ManualClock())
    thread.close()
    with pytest.raises(AxisError, match="open the microscope again"):
        thread.send(order(3, nothing))


class Interrupted(threading.Event):
    """Ctrl-C at the first waiting; at the second the motor, held at its sixth pulse, may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.motor = threading.Event()
        self.waited = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waited += 1
        if self.waited == 1:
            raise KeyboardInterrupt
        self.motor.set()
        return super().wait(timeout)


def test_an_interrupted_sender_stops_the_motor() -> None:
    done = Interrupted()
    with a_thread(ManualClock()) as thread:
        waiting = order(10_000, lambda: None if waiting.sent != 5 else await_motor(done))
        waiting.done = done
        with pytest.raises(KeyboardInterrupt):
            thread.send(waiting)
    assert waiting.sent <= 6
    assert done.is_set()


def await_motor(done: Interrupted) -> None:
    assert done.motor.wait(10.0)


def test_a_pulse_counts_from_its_rising_edge() -> None:
    def stuck() -> None:
        raise OSError("the line stays high")

    with a_thread(ManualClock()) as thread:
        broken = order(5, nothing)
        broken.fall = stuck
        with pytest.raises(OSError, match="stays high"):
            thread.send(broken)
        assert broken.sent == 1
