"""The promises of Camera: fresh frames, undeveloped stale ones, one error for whatever breaks."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from firmware.camera import Camera, Exposure
from firmware.clock import ManualClock
from firmware.errors import CameraError, CameraTimeout, ProfileError
from firmware.frames import FrameOptics, Pixels
from firmware.microscope import Microscope, open_microscope, with_simulation
from firmware.patience import within
from firmware.profile import CameraProfile, load_profile
from firmware.response import Response

GREY: Pixels = np.full((4, 6), 7, np.uint8)


class Reel(Camera):
    """A camera whose exposures of 10 ms begin at given moments; it counts those that are developed."""

    def __init__(self, starts_s: list[float], flush_frames: int = 8, response: Response | None = None) -> None:
        profile = CameraProfile(
            driver="reel",
            width_px=6,
            height_px=4,
            colour=response is not None,
            timeout_ms=100,
            flush_frames=flush_frames,
            response=response or Response(),
        )
        self.clock = ManualClock()
        super().__init__(profile, self.clock, "a board")
        self.starts_s = starts_s
        self.developed: list[float] = []
        self.timeouts_s: list[float] = []
        self.error: Exception | None = None
        self.develop_error: Exception | None = None

    def _next(self, timeout_s: float) -> Exposure:
        self.timeouts_s.append(timeout_s)
        if self.error is not None:
            raise self.error
        start_s = self.starts_s.pop(0)
        self.clock.sleep(0.01)

        def develop() -> Pixels:
            self.developed.append(start_s)
            if self.develop_error is not None:
                raise self.develop_error
            return GREY

        return Exposure(start_s, start_s + 0.01, develop, {"gain": 2})


def still(_time_s: float) -> float:
    return 1.5


@pytest.mark.parametrize("stale", [0, 2, 5, 7])
def test_frames_from_before_the_move_are_passed_over_and_never_developed(stale: int) -> None:
    camera = Reel([0.01 * k for k in range(20)])
    frame = camera.capture(0.01 * stale, still, FrameOptics())
    assert frame.fresh
    assert camera.developed == [pytest.approx(0.01 * stale)]


def test_a_camera_that_keeps_giving_old_frames_says_so() -> None:
    camera = Reel([-1.0] * 20, flush_frames=3)
    frame = camera.capture(0.0, still, FrameOptics())
    assert not frame.fresh
    assert len(camera.developed) == 1
    assert len(camera.starts_s) == 17


def test_a_camera_gives_old_frames_no_longer_than_its_timeout() -> None:
    camera = Reel([-1.0] * 50, flush_frames=40)
    assert not camera.capture(0.0, still, FrameOptics()).fresh
    assert camera.clock.now_s() == pytest.approx(0.11)


def test_each_wait_gets_what_is_left_of_the_timeout() -> None:
    camera = Reel([-1.0, -1.0, 1.0])
    camera.capture(0.0, still, FrameOptics())
    assert camera.timeouts_s == pytest.approx([0.1, 0.09, 0.08])


def test_an_axis_that_has_yet_to_settle_is_waited_for() -> None:
    camera = Reel([0.5])
    camera.capture(0.5, still, FrameOptics())
    assert camera.clock.now_s() == pytest.approx(0.51)


def test_a_frame_carries_its_circumstances() -> None:
    optics = FrameOptics(0.75, 0.1725, objective="20x")
    frame = Reel([0.2]).capture(0.0, still, optics)
    assert (frame.captured_at_s, frame.exposure_ms) == pytest.approx((0.205, 10.0))
    assert (frame.optics, frame.board, frame.settings) == (optics, "a board", {"gain": 2})
    assert (frame.height_px, frame.width_px) == (4, 6)


def test_the_position_is_asked_for_at_mid_exposure() -> None:
    frame = Reel([0.2]).capture(0.0, lambda time_s: 100 * time_s, FrameOptics())
    assert frame.z_um == pytest.approx(20.5)


def test_a_closed_camera_captures_nothing() -> None:
    camera = Reel([0.0])
    camera.close()
    with pytest.raises(CameraError, match="closed"):
        camera.capture(0.0, still, FrameOptics())
    assert camera.timeouts_s == []


def test_whatever_breaks_in_a_driver_is_a_camera_error_that_names_it() -> None:
    camera = Reel([0.0])
    camera.error = OSError("no such device")
    with pytest.raises(CameraError, match="'reel' failed: no such device; check its cable"):
        camera.capture(0.0, still, FrameOptics())


def test_what_breaks_in_developing_is_a_camera_error_too() -> None:
    camera = Reel([0.0])
    camera.develop_error = MemoryError("buffer")
    with pytest.raises(CameraError, match="buffer"):
        camera.capture(0.0, still, FrameOptics())


def test_a_drivers_timeout_is_a_camera_timeout() -> None:
    camera = Reel([0.0])
    camera.error = TimeoutError()
    with pytest.raises(CameraTimeout, match="no frame within 100 ms"):
        camera.capture(0.0, still, FrameOptics())


def test_a_fault_of_the_board_passes_as_it_is() -> None:
    camera = Reel([0.0])
    camera.error = ProfileError("the objective is unknown")
    with pytest.raises(ProfileError):
        camera.capture(0.0, still, FrameOptics())


def simulated(**flaws: object) -> Microscope:
    profile = with_simulation(load_profile("simulated_tiny"), **flaws)
    return open_microscope(profile, ManualClock())


@pytest.fixture
def developed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the worlds of this test developed: the defocus of each scene; nothing is rendered."""
    seen: list[float] = []

    def develop(_world: object, scene: object) -> Pixels:
        seen.append(scene.defocus_um)  # type: ignore[attr-defined]
        return np.zeros((448, 448, 3), np.uint8)

    monkeypatch.setattr("firmware.simulation.World.develop", develop)
    return seen


@pytest.mark.parametrize("stale", [0, 2, 5])
def test_a_simulated_pipeline_is_flushed_after_every_move(stale: int, developed: list[float]) -> None:
    microscope = simulated(stale_frames=stale, vibration_um=0.0, drift_um_per_min=0.0)
    assert microscope.world is not None
    for target in (-10.0, 5.0):
        microscope.axis.move_to(target)
        assert microscope.capture().fresh
        assert developed[-1] == pytest.approx(microscope.world.truth_um())
    assert len(developed) == 2


def test_a_pipeline_deeper_than_the_flush_gives_a_frame_that_is_not_fresh(developed: list[float]) -> None:
    microscope = simulated(stale_frames=12)
    microscope.capture()
    microscope.axis.move_to(5.0)
    assert not microscope.capture().fresh


def test_a_frame_taken_on_the_way_knows_where_the_axis_was(developed: list[float]) -> None:
    microscope = simulated()
    microscope.axis.move_to(-20.0)
    began_s = microscope.clock.now_s()
    microscope.axis.move_to(-40.0)
    frame = Reel([began_s + 0.02]).capture(0.0, microscope.axis.z_at, FrameOptics())
    assert frame.z_um == pytest.approx(-20.0 - 400.0 * 0.025)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 7), np.uint8), np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint16), np.zeros((4, 6)), None],
)
def test_pixels_that_the_board_file_does_not_promise_are_refused(pixels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reel = Reel([0.0])
    monkeypatch.setattr(reel, "_next", lambda _timeout_s: Exposure(0.0, 0.01, lambda: pixels))
    with pytest.raises(CameraError, match=r"correct width_px"):
        reel.capture(0.0, still, FrameOptics())


def test_a_raw_colour_camera_hands_over_a_mosaic_with_its_response() -> None:
    raw = Response(kind="raw", pattern="GRBG", black_level=4)
    frame = Reel([0.0], response=raw).capture(0.0, still, FrameOptics())
    assert frame.pixels.shape == (4, 6)
    assert (frame.response, frame.channels) == (raw, 3)


def test_a_colour_camera_that_is_not_raw_may_not_hand_over_a_mosaic() -> None:
    with pytest.raises(CameraError, match="colour, bits or response"):
        Reel([0.0], response=Response(kind="linear")).capture(0.0, still, FrameOptics())


def test_a_call_that_never_returns_is_given_up() -> None:
    gate = threading.Event()
    with pytest.raises(CameraError, match=r"the camera did not stop within 0\.01 s; switch the board off and on"):
        within(0.01, "the camera did not stop", gate.wait)
    gate.set()


def test_what_a_patient_call_raises_is_raised() -> None:
    def fail() -> None:
        raise OSError("no such device")

    with pytest.raises(OSError, match="no such device"):
        within(5.0, "the camera did not stop", fail)
