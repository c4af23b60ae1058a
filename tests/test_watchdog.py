"""The watchdog: a thread's word, who is fed while it holds, and what happens when it is broken."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CHUNK_UM, Bench, HeldClock, open_bench, small_board
from living import Heard, listening
from stand_in_systemd import rules_of, seconds

from edge_app.appliance import Appliance
from edge_app.config import Settings
from edge_app.controller import Controller
from edge_app.errors import BadSettings, NotReady
from edge_app.lifetime import LONGEST_STOP_S
from edge_app.opening import OPENING_S, Opening
from edge_app.supervisor import Supervisor
from edge_app.watchdog import Lease, Watchdog
from firmware.clock import ManualClock
from firmware.errors import MotionStopped
from firmware.microscope import JUDGING_S, Microscope, open_microscope

WAIT_S = 20.0


heard = pytest.fixture(listening)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# The word.


def test_a_word_holds_until_its_time_is_over(clock: ManualClock) -> None:
    lease = Lease(clock.now_s)
    lease.expect(5.0)
    clock.sleep(5.0)
    assert lease.holds
    clock.sleep(0.1)
    assert not lease.holds


def test_a_new_word_replaces_the_one_before_also_when_it_is_shorter(clock: ManualClock) -> None:
    lease = Lease(clock.now_s)
    lease.expect(100.0)
    lease.expect(1.0)
    clock.sleep(2.0)
    assert not lease.holds


def test_nobodys_word_always_holds(clock: ManualClock) -> None:
    lease = Lease(clock.now_s)
    clock.sleep(1e6)
    assert lease.holds
    lease.expect(1.0)
    lease.rest()
    clock.sleep(1e6)
    assert lease.holds


def test_the_stack_is_that_of_the_thread_that_gave_its_word() -> None:
    lease, gate, given = Lease(), threading.Event(), threading.Event()

    def hang_here() -> None:
        lease.expect(1.0)
        given.set()
        gate.wait(WAIT_S)

    thread = threading.Thread(target=hang_here)
    thread.start()
    assert given.wait(WAIT_S)
    stack = lease.stack()
    gate.set()
    thread.join()
    assert "hang_here" in stack


# Who is told.


def test_the_supervisor_is_fed_at_a_third_of_what_it_waits_and_only_while_the_word_holds(
    heard: Heard, clock: ManualClock
) -> None:
    lease, supervisor = Lease(clock.now_s), Supervisor(now_s=clock.now_s)
    expired: list[str] = []
    watchdog = Watchdog(lease, supervisor, expired.append)
    supervisor.ready()
    lease.expect(40.0)
    for _ in range(60):
        watchdog.look()
        clock.sleep(1.0)
    lease.expect(40.0)
    watchdog.look()
    assert supervisor.feed_every_s == 10.0
    assert heard() == ["READY=1", *["WATCHDOG=1"] * 5]
    assert len(expired) == 1
    assert "within the 40.0 s" in expired[0]
    supervisor.close()


def test_while_it_starts_or_ends_it_asks_for_more_time_instead(heard: Heard, clock: ManualClock) -> None:
    supervisor = Supervisor(now_s=clock.now_s)
    supervisor.feed()
    assert heard() == ["EXTEND_TIMEOUT_USEC=30000000", "WATCHDOG=1"]
    supervisor.ready()
    supervisor.stopping()
    clock.sleep(11.0)
    supervisor.feed()
    assert heard() == ["READY=1", "STOPPING=1", "EXTEND_TIMEOUT_USEC=30000000", "WATCHDOG=1"]
    supervisor.close()


def test_a_state_is_told_once_on_one_line_and_in_any_language(heard: Heard) -> None:
    supervisor = Supervisor()
    supervisor.status("serving µ\n日本 on 127.0.0.1:50051")
    supervisor.status("serving µ 日本 on 127.0.0.1:50051")
    assert heard() == ["STATUS=serving µ 日本 on 127.0.0.1:50051"]
    supervisor.close()


def test_without_a_supervisor_nothing_is_told_and_no_socket_is_opened() -> None:
    before = open_files()
    supervisor = Supervisor({})
    supervisor.ready()
    supervisor.feed()
    assert supervisor.feed_every_s == math.inf
    assert open_files() == before


def test_a_closed_supervisor_leaves_no_socket(heard: Heard) -> None:
    before = open_files()
    supervisor = Supervisor()
    assert open_files() == before + 1
    supervisor.close()
    supervisor.close()
    assert open_files() == before


def test_a_watchdog_that_is_meant_for_another_process_is_not_fed(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert Supervisor({**os.environ, "NOTIFY_SOCKET": ""}).feed_every_s == math.inf


async def test_an_event_loop_that_turns_looks_by_itself(heard: Heard) -> None:
    lease, supervisor = Lease(), Supervisor()
    expired = asyncio.Event()
    watching = asyncio.create_task(Watchdog(lease, supervisor, lambda _: expired.set()).watch())
    lease.expect(0.0)
    await asyncio.wait_for(expired.wait(), WAIT_S)
    watching.cancel()
    supervisor.close()


# What the hardware gives its word for.


class Words:
    """A lease on the board's own clock that notes what it was told."""

    def __init__(self, clock: ManualClock) -> None:
        self.lease = Lease(clock.now_s)
        self.given: list[float] = []
        self.broken = 0

    def expect(self, within_s: float) -> None:
        self.broken += not self.lease.holds
        self.given.append(within_s)
        self.lease.expect(within_s)


def worded(**axis: object) -> tuple[Microscope, Words]:
    """The small board with words on its own clock, so that simulated time breaks them as real time would."""
    clock = ManualClock()
    words = Words(clock)
    words.expect(30.0)
    profile = small_board()
    profile = profile.model_copy(update={"axis": profile.axis.model_copy(update=axis)})
    return open_microscope(profile, clock, expect=words.expect), words


def test_a_long_move_asks_for_as_long_as_it_takes() -> None:
    microscope, words = worded(speed_um_s=0.2)
    with microscope:
        words.given.clear()
        microscope.axis.move_to(-50.0)
        assert microscope.clock.now_s() > 250
        assert max(words.given) > 250
        assert words.lease.holds
    assert words.broken == 0


def test_a_slow_homing_asks_for_as_long_as_it_takes() -> None:
    microscope, words = worded(speed_um_s=0.05)
    with microscope:
        assert microscope.clock.now_s() > 400
        assert words.lease.holds
    assert words.broken == 0


def test_a_capture_asks_for_as_many_frames_as_it_may_flush() -> None:
    microscope, words = worded()
    with microscope:
        words.given.clear()
        microscope.capture()
    camera = microscope.profile.camera
    assert words.given[0] >= camera.flush_frames * camera.timeout_ms / 1e3
    assert words.given[-1] == JUDGING_S


def test_a_long_settling_is_part_of_the_move_that_waits_for_it() -> None:
    microscope, words = worded(settle_ms=90_000.0)
    with microscope:
        microscope.axis.move_to(5.0)
        assert words.lease.holds
    assert words.broken == 0


def test_an_idle_hardware_thread_is_heard_of_at_every_tick() -> None:
    microscope = open_microscope(small_board(), ManualClock())
    ticks = threading.Semaphore(0)
    microscope.expect = lambda _within_s: ticks.release()
    with Appliance(Controller(microscope, None), tick_s=0.01):
        assert all(ticks.acquire(timeout=WAIT_S) for _ in range(5))


def test_an_opening_that_hangs_breaks_its_word_too(clock: ManualClock) -> None:
    lease, gate, reading = Lease(clock.now_s), threading.Event(), threading.Event()

    def read() -> Settings:
        reading.set()
        gate.wait(WAIT_S)
        raise BadSettings("too late")

    opening = Opening(read, lease)
    assert reading.wait(WAIT_S)
    clock.sleep(OPENING_S + 1)
    assert not lease.holds
    gate.set()
    assert isinstance(opening.result.exception(WAIT_S), BadSettings)


def test_an_opening_that_failed_leaves_nobody_to_be_heard_of(clock: ManualClock) -> None:
    lease = Lease(clock.now_s)

    def read() -> Settings:
        raise BadSettings("no such board")

    Opening(read, lease).result.exception(WAIT_S)
    clock.sleep(1e6)
    assert lease.holds


# What happens when the word is broken.


def test_a_thread_that_hangs_breaks_its_word_and_the_motor_does_not_run_on() -> None:
    with open_bench().appliance as appliance:
        clock = appliance.controller.microscope.clock
        assert isinstance(clock, HeldClock)
        lease = Lease(clock.now_s)
        appliance.controller.microscope.axis.expect = lease.expect
        clock.hold(3)
        job = appliance.run("move", lambda c: c.microscope.axis.move_to(40.0))
        assert clock.reached.wait(WAIT_S)
        watchdog = Watchdog(lease, Supervisor({}), appliance.condemn)
        watchdog.look()
        assert not watchdog.expired
        ManualClock.sleep(clock, 60.0)
        watchdog.look()
        assert watchdog.expired
        clock.release()
        assert isinstance(job.result.exception(WAIT_S), MotionStopped)
        assert appliance.controller.microscope.axis.z_um == pytest.approx(3 * CHUNK_UM)


def test_a_condemned_appliance_refuses_movers_and_measurers_and_never_moves_again(bench: Bench) -> None:
    bench.appliance.condemn("the hardware thread hangs")
    with pytest.raises(NotReady, match="hangs"):
        bench.appliance.run("move", lambda c: c.microscope.axis.move_to(1.0))
    with pytest.raises(NotReady, match="hangs"):
        bench.appliance.measure()
    with pytest.raises(MotionStopped):
        bench.microscope.axis.move_to(1.0)


def test_a_job_that_ends_after_all_does_not_let_a_condemned_axis_go(bench: Bench) -> None:
    job = bench.appliance.run("late", lambda _: bench.appliance.condemn("the hardware thread hangs"))
    job.result.result(WAIT_S)
    bench.appliance._closing = True
    with bench.appliance._wake:
        bench.appliance._wake.notify()
    bench.appliance._thread.join(WAIT_S)
    assert bench.halted.is_set()


def test_nothing_comes_between_whether_an_axis_is_condemned_and_letting_it_go(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    appliance, axis, held = bench.appliance, bench.microscope.axis, []
    let_go, stop = axis.release, axis.stop

    def noting(call: Callable[[], None]) -> None:
        held.append(appliance._wake._is_owned())  # type: ignore[attr-defined]
        call()

    monkeypatch.setattr(axis, "release", lambda: noting(let_go))
    monkeypatch.setattr(axis, "stop", lambda: noting(stop))
    appliance.run("first", lambda _: None).result.result(WAIT_S)
    appliance.run("second", lambda _: None).result.result(WAIT_S)
    appliance.condemn("the hardware thread hangs")
    assert len(held) >= 2
    assert all(held)


# The stand-in that the service is tried with.


def test_the_stand_in_reads_time_spans_as_systemd_does() -> None:
    assert [seconds(text) for text in ("30", "30s", "1min 30s", "100ms")] == [30, 30, 90, 0.1]


def test_the_unit_allows_what_the_service_takes_to_stop_and_to_be_heard_of() -> None:
    rules = rules_of()
    assert rules.stop_s > LONGEST_STOP_S
    assert rules.watchdog_s >= 10.0
    assert rules.restart in ("always", "on-failure")
