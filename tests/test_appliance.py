"""The appliance: one hardware thread, one mover at a time, measurers that share, a stop from anywhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import HeldClock, open_bench, small_board
from numpy.typing import NDArray
from oracle import Oracle

from edge_app.appliance import Appliance
from edge_app.controller import Controller
from edge_app.errors import Busy, JobStopped, RuntimeFailed
from edge_app.job import Ending, Outcome
from edge_app.line import MAX_WAITING
from edge_app.patches import RegionOfInterest
from firmware.camera import Camera, Exposure
from firmware.cameras.simulated import SimulatedCamera
from firmware.errors import CameraError, MotionStopped
from firmware.microscope import open_microscope

if TYPE_CHECKING:
    from conftest import Bench

WAIT_S = 20.0
CHUNK_UM = 1.6


def focus(bench: Bench) -> Outcome:
    job = bench.appliance.focus("single_shot", lambda *_: None)
    outcome: Outcome = job.result.result(WAIT_S)
    return outcome


def test_a_focus_job_ends_at_the_true_focal_plane(bench: Bench) -> None:
    bench.microscope.axis.move_to(9.0)
    outcome = focus(bench)
    assert outcome.ending is Ending.FOCUSED
    assert abs(bench.world.truth_um()) < 0.5 * bench.world.depth_of_field_um


def test_a_second_mover_is_told_busy_at_once_and_by_whom(bench: Bench) -> None:
    end = bench.block()
    with pytest.raises(Busy, match="block is running"):
        bench.appliance.run("move", lambda c: c.microscope.axis.move_to(5.0))
    end()
    assert bench.z_um == 0.0


def test_stop_in_mid_move_leaves_the_axis_at_rest_where_it_was_halted(bench: Bench) -> None:
    bench.clock.hold(3)
    job = bench.appliance.run("move", lambda c: c.microscope.axis.move_to(40.0))
    assert bench.clock.reached.wait(WAIT_S)
    assert bench.appliance.stop() is job
    bench.clock.release()
    with pytest.raises(MotionStopped):
        job.result.result(WAIT_S)
    assert bench.z_um == pytest.approx(3 * CHUNK_UM)
    assert bench.world.stage.motor_um == pytest.approx(bench.z_um)


def test_the_axis_moves_again_after_a_stop(bench: Bench) -> None:
    test_stop_in_mid_move_leaves_the_axis_at_rest_where_it_was_halted(bench)
    job = bench.appliance.run("move", lambda c: c.microscope.axis.move_to(2.0))
    job.result.result(WAIT_S)
    assert bench.z_um == pytest.approx(2.0)


def test_a_stopped_focus_job_says_so_and_rests_where_it_was_halted(bench: Bench) -> None:
    bench.microscope.axis.move_to(20.0)
    job = bench.appliance.focus("single_shot", lambda *_: bench.clock.hold(2))
    assert bench.clock.reached.wait(WAIT_S)
    bench.appliance.stop(job)
    bench.clock.release()
    outcome = job.result.result(WAIT_S)
    assert outcome.ending is Ending.STOPPED
    assert outcome.end_um == bench.z_um
    assert bench.z_um < 20.0


def test_stopping_a_job_that_has_ended_does_not_stop_the_next_one(bench: Bench) -> None:
    first = bench.appliance.run("first", lambda _: None)
    first.result.result(WAIT_S)
    end = bench.block()
    assert bench.appliance.stop(first) is None
    assert not bench.halted.is_set()
    end()


def test_a_stop_that_came_too_early_is_not_lost(bench: Bench) -> None:
    bench.clock.hold(1)
    looking = bench.appliance.measure()
    assert bench.clock.reached.wait(WAIT_S)
    job = bench.appliance.run("move", lambda c: c.microscope.axis.move_to(5.0))
    bench.appliance.stop()
    bench.clock.release()
    with pytest.raises(JobStopped, match="before it began"):
        job.result.result(WAIT_S)
    assert looking.result(WAIT_S).frame.z_um == bench.z_um == 0.0


def test_stop_with_nothing_running_is_harmless(bench: Bench) -> None:
    assert bench.appliance.stop() is None
    bench.appliance.run("move", lambda c: c.microscope.axis.move_to(3.0)).result.result(WAIT_S)
    assert bench.z_um == pytest.approx(3.0)


def test_sixteen_measurers_share_one_look(bench: Bench) -> None:
    end = bench.block()
    asked = [bench.appliance.measure() for _ in range(16)]
    end()
    looks = [future.result(WAIT_S) for future in asked]
    assert len({id(look) for look in looks}) == 1


def test_measurers_of_different_regions_do_not_share(bench: Bench) -> None:
    end = bench.block()
    whole, part = bench.appliance.measure(), bench.appliance.measure(RegionOfInterest(0, 0, 224, 224))
    end()
    assert whole.result(WAIT_S) is not part.result(WAIT_S)


def test_the_line_of_measurers_is_bounded(bench: Bench) -> None:
    end = bench.block()
    asked = [bench.appliance.measure() for _ in range(MAX_WAITING)]
    with pytest.raises(Busy, match="ask less often"):
        bench.appliance.measure()
    end()
    assert all(future.result(WAIT_S).seen.estimate for future in asked)


def test_withdrawn_measurements_free_their_places(bench: Bench) -> None:
    end = bench.block()
    withdrawn = [bench.appliance.measure() for _ in range(MAX_WAITING)]
    assert all(future.cancel() for future in withdrawn)
    asked = bench.appliance.measure()
    end()
    assert asked.result(WAIT_S).seen.estimate is not None


def test_a_measurer_is_answered_while_a_focus_job_runs(bench: Bench) -> None:
    bench.microscope.axis.move_to(15.0)
    job = bench.appliance.focus("single_shot", lambda *_: bench.clock.hold(1))
    assert bench.clock.reached.wait(WAIT_S)
    asked = bench.appliance.measure()
    bench.clock.release()
    assert asked.result(WAIT_S).frame.z_um != pytest.approx(15.0)
    job.result.result(WAIT_S)


def test_a_plain_frame_needs_no_model_but_a_measurement_does(bare_bench: Bench) -> None:
    end = bare_bench.block()
    plain, judged = bare_bench.appliance.measure(task=""), bare_bench.appliance.measure()
    end()
    assert plain.result(WAIT_S).seen.estimate is None
    with pytest.raises(RuntimeFailed, match="no model"):
        judged.result(WAIT_S)


def test_a_job_that_fails_tells_its_caller_and_the_next_one_runs(bench: Bench) -> None:
    job = bench.appliance.run("fail", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        job.result.result(WAIT_S)
    bench.appliance.run("move", lambda c: c.microscope.axis.move_to(1.0)).result.result(WAIT_S)
    assert bench.z_um == pytest.approx(1.0)


def test_closing_stops_the_job_refuses_those_who_wait_and_ends_the_thread(bench: Bench) -> None:
    bench.clock.hold(3)
    job = bench.appliance.run("move", lambda c: c.microscope.axis.move_to(40.0))
    assert bench.clock.reached.wait(WAIT_S)
    waiting = bench.appliance.measure()
    bench.appliance.stop()
    bench.clock.release()
    bench.appliance.close()
    assert isinstance(job.result.exception(WAIT_S), MotionStopped)
    assert waiting.done()
    with pytest.raises(JobStopped, match="being closed"):
        bench.appliance.measure()


# A model that fails for good.


def test_a_model_that_fails_is_noted_once_until_it_answers_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(Oracle, "infer", out_of_memory)
    for _ in range(2):
        assert isinstance(bench.appliance.measure().exception(WAIT_S), RuntimeFailed)
    job = bench.appliance.focus("single_shot", lambda *_: None)
    assert isinstance(job.result.exception(WAIT_S), RuntimeFailed)
    assert "out of memory" in bench.appliance.ailing
    bench.appliance.measure(task="").result(WAIT_S)
    assert bench.appliance.ailing
    monkeypatch.undo()
    for _ in range(2):
        bench.appliance.measure().result(WAIT_S)
    assert bench.appliance.ailing == ""
    events = [message for message in caplog.messages if message.startswith("model")]
    assert events == ["model failed", "model answers again"]


def out_of_memory(_oracle: Oracle, _counts: NDArray[np.uint8], _also: object = None) -> dict[str, NDArray[np.float32]]:
    raise MemoryError("the accelerator is out of memory")


def test_a_focus_job_shows_too_that_a_model_fails_and_that_it_answers_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Oracle, "infer", out_of_memory)
    job = bench.appliance.focus("single_shot", lambda *_: None)
    assert isinstance(job.result.exception(WAIT_S), RuntimeFailed)
    assert bench.appliance.ailing
    monkeypatch.undo()
    focus(bench)
    assert bench.appliance.ailing == ""


def test_a_board_without_a_model_does_not_ail(bare_bench: Bench) -> None:
    assert isinstance(bare_bench.appliance.measure().exception(WAIT_S), RuntimeFailed)
    assert bare_bench.appliance.ailing == ""


# A camera that is unplugged and plugged in again.


@dataclass
class Cable:
    """Whether the camera is plugged in, and what was opened behind it; `late` frames never come."""

    plugged: bool = True
    late: int = 0
    opened: list[Camera] = field(default_factory=list)
    tried: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def check(self) -> None:
        if not self.plugged:
            raise CameraError("no such camera; check its cable and power")


class CabledCamera(SimulatedCamera):
    """A simulated camera on a cable."""

    cable: Cable

    def _next(self, timeout_s: float) -> Exposure:
        self.cable.check()
        if self.cable.late:
            self.cable.late -= 1
            raise TimeoutError
        return super()._next(timeout_s)


@contextmanager
def on_a_cable(tick_s: float = 3600.0) -> Iterator[tuple[Bench, Cable]]:
    """The bench, its camera on a cable; an idle thread looks for a lost camera at every tick."""
    bench, cable = open_bench(), Cable()
    bench.appliance.close()
    microscope = bench.microscope
    microscope.axis.release()

    def reopen() -> Camera:
        cable.tried.release()
        cable.check()
        camera = CabledCamera(microscope.profile, bench.clock, bench.world)
        camera.cable = cable
        cable.opened.append(camera)
        return camera

    microscope.camera, microscope.reopen = reopen(), reopen
    with Appliance(bench.appliance.controller, tick_s) as bench.appliance:
        yield bench, cable
        bench.clock.release()


def look_fails(bench: Bench) -> None:
    assert isinstance(bench.appliance.measure(task="").exception(WAIT_S), CameraError)


def test_a_camera_that_was_plugged_in_again_is_opened_anew_before_the_next_look() -> None:
    with on_a_cable() as (bench, cable):
        bench.microscope.axis.move_to(7.0)
        cable.plugged = False
        look_fails(bench)
        assert "no such camera" in bench.appliance.blind
        cable.plugged = True
        look = bench.appliance.measure(task="").result(WAIT_S)
        assert len(cable.opened) == 2
        assert bench.microscope.camera is cable.opened[1]
        assert cable.opened[0]._closed
        assert bench.appliance.blind == ""
        assert look.frame.z_um == pytest.approx(7.0)


def test_a_camera_that_is_opened_anew_looks_at_the_same_world() -> None:
    bench = open_bench()
    with bench.appliance:
        before = bench.microscope.camera
        bench.appliance.run("fail", raises_camera_error).result.exception(WAIT_S)
        bench.appliance.measure(task="").result(WAIT_S)
        after = bench.microscope.camera
        assert after is not before
        assert isinstance(after, SimulatedCamera)
        assert after._world is bench.world


def raises_camera_error(_: object) -> None:
    raise CameraError("gone")


def test_a_focus_job_opens_a_lost_camera_before_it_holds_its_exposure() -> None:
    with on_a_cable() as (bench, cable):
        cable.plugged = False
        look_fails(bench)
        cable.plugged = True
        assert focus(bench).ending is not Ending.STOPPED
        assert len(cable.opened) == 2


def test_an_idle_thread_finds_a_camera_that_came_back_by_itself() -> None:
    with on_a_cable(tick_s=0.01) as (bench, cable):
        cable.plugged = False
        look_fails(bench)
        for _ in range(3):
            assert cable.tried.acquire(timeout=WAIT_S)
        assert bench.appliance.blind
        cable.plugged = True
        while bench.appliance.blind:
            cable.tried.acquire(timeout=0.05)
        assert bench.microscope.camera is cable.opened[-1]


def test_a_camera_that_opens_but_gives_no_frame_is_not_back() -> None:
    with on_a_cable() as (bench, cable):
        cable.plugged = False
        look_fails(bench)
        cable.plugged, cable.late = True, 1
        look_fails(bench)
        assert "no frame" in bench.appliance.blind


def test_one_late_frame_is_no_lost_camera_but_three_in_a_row_are() -> None:
    with on_a_cable() as (bench, cable):
        cable.late = 1
        look_fails(bench)
        bench.appliance.measure(task="").result(WAIT_S)
        cable.late = 2
        look_fails(bench)
        look_fails(bench)
        assert (bench.appliance.blind, len(cable.opened)) == ("", 1)
        cable.late = 1
        look_fails(bench)
        assert "no frame" in bench.appliance.blind


def test_the_axis_moves_and_keeps_its_position_while_the_camera_is_lost() -> None:
    with on_a_cable() as (bench, cable):
        cable.plugged = False
        look_fails(bench)
        bench.appliance.run("move", lambda c: c.microscope.axis.move_to(4.0)).result.result(WAIT_S)
        cable.plugged = True
        assert bench.appliance.measure(task="").result(WAIT_S).frame.z_um == pytest.approx(4.0)


def test_a_closing_appliance_whose_camera_hangs_lets_go_of_the_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, let_go = HeldClock(), threading.Event()
    microscope = open_microscope(small_board(), clock)
    monkeypatch.setattr(microscope.axis, "close", let_go.set)
    appliance = Appliance(Controller(microscope, None), close_s=0.05)
    clock.hold(1)
    looking = appliance.measure(task="")
    assert clock.reached.wait(WAIT_S)
    assert not appliance.close()
    assert let_go.is_set()
    assert microscope.axis._halt.is_set()
    clock.release()
    looking.result(WAIT_S)
    appliance._thread.join(WAIT_S)
    microscope.close()
