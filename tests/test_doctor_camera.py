"""doctor on what a board sees: its camera's light, age and response, and the model that judges the frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examination import at_the_stage, examined, failed, swept
from physical_stage import a_stage, board
from updating import install, repacked

from edge_app.ota.depot import Depot
from firmware import plugins
from firmware.camera import Camera, Exposure
from firmware.clock import Clock
from firmware.profile import BoardProfile
from firmware.simulation import World

pytestmark = pytest.mark.usefixtures("clean_environment")
Pixels = Callable[[], Any]


class Studio(Camera):
    """A camera that hands over whatever it is told, or raises it; `age_s` makes its frames old."""

    def __init__(self, profile: BoardProfile, clock: Clock, pixels: Pixels, age_s: float) -> None:
        super().__init__(profile.camera, clock, profile.name)
        self._pixels, self._age_s = pixels, age_s

    def _next(self, timeout_s: float) -> Exposure:
        began_s = self._clock.now_s() - self._age_s
        return Exposure(began_s, began_s + 0.01, self._pixels)


@pytest.fixture
def studio(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a camera of ours in the place of the simulated one."""

    def put(pixels: Pixels, age_s: float = 0.0) -> None:
        def open_camera(profile: BoardProfile, clock: Clock, world: World | None) -> Camera:
            return Studio(profile, clock, pixels, age_s)

        monkeypatch.setattr(plugins.load("firmware.cameras", "simulated"), "open_camera", open_camera)

    return put


def raw(profile: BoardProfile, pattern: str, black_level: float = 0.0) -> BoardProfile:
    """The board with a raw camera of 8 bits."""
    response = {"kind": "raw", "pattern": pattern, "black_level": black_level}
    camera = type(profile.camera).model_validate({**profile.camera.model_dump(), "response": response})
    return profile.model_copy(update={"camera": camera})


# The camera


def grey(level: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((224, 224, 3), level, np.uint8)


def test_a_camera_that_raises_is_told_in_its_own_words(studio: Callable[..., None]) -> None:
    def raises() -> None:
        raise OSError("the cable is out")

    studio(raises)
    found = at_the_stage(a_stage(), swept(board()))
    assert failed(found) == {("camera", "simulated")}
    assert "the cable is out; check its cable and power" in found["camera", "simulated"].detail


@pytest.mark.parametrize(
    ("level", "told"), [(2, "switch the lamp on, take off the lens cap"), (255, "dim the lamp, or lower exposure_ms")]
)
def test_a_frame_that_is_too_dark_or_too_bright_says_what_to_turn(
    studio: Callable[..., None], level: int, told: str
) -> None:
    studio(lambda: grey(level))
    found = at_the_stage(a_stage(), swept(board()))
    assert failed(found) == {("camera", "light")}
    assert told in found["camera", "light"].detail


def test_brightness_is_counted_above_the_black_level(studio: Callable[..., None]) -> None:
    studio(lambda: np.full((224, 224), 66, np.uint8))
    found = at_the_stage(a_stage(), swept(raw(board(), "RGGB", 64.0)))
    assert ("camera", "light") in failed(found)


def test_old_frames_are_told(studio: Callable[..., None]) -> None:
    studio(lambda: grey(120), age_s=9.0)
    found = at_the_stage(a_stage(), swept(board()))
    assert failed(found) == {("camera", "simulated")}
    assert "raise flush_frames" in found["camera", "simulated"].detail


@pytest.mark.parametrize(("pattern", "agrees"), [("RGGB", True), ("BGGR", True), ("GRBG", False), ("GBRG", False)])
def test_a_mosaic_whose_greens_lie_elsewhere_is_told(studio: Callable[..., None], pattern: str, agrees: bool) -> None:
    tile = np.array([[180, 100], [100, 40]], np.uint8)
    studio(lambda: np.tile(tile, (112, 112)))
    found = at_the_stage(a_stage(), swept(raw(board(), pattern)))
    assert found["camera", "response"].ok is agrees
    assert agrees or "RGGB or BGGR" in found["camera", "response"].detail


def test_a_black_level_above_the_frame_is_told(studio: Callable[..., None]) -> None:
    studio(lambda: np.full((224, 224), 40, np.uint8))
    found = at_the_stage(a_stage(), swept(raw(board(), "RGGB", 64.0)))
    assert "black_level is 64, but the frame goes down to 40" in found["camera", "response"].detail


def test_a_camera_is_tried_though_the_axis_cannot_be_opened() -> None:
    found = examined(swept(board({"driver": "micromanager", "options": {"device": "Z"}})), a_stage().clock)
    assert ("axis", "micromanager") in failed(found)
    assert found["camera", "simulated"].ok


# The model


def test_a_model_that_refuses_says_why_and_that_the_sweep_needs_none() -> None:
    weak = board().objective[0].model_copy(update={"numerical_aperture": 0.4})
    found = at_the_stage(a_stage(), board().model_copy(update={"objective": (weak,)}), bundle="factory")
    (told,) = [finding for (what, _), finding in found.items() if what == "model"]
    assert not told.ok
    assert "refuses the objective 20x" in told.detail
    assert 'write strategy = "sweep"' in told.detail


def test_a_board_that_sweeps_works_without_a_model() -> None:
    assert at_the_stage(a_stage(), swept(board()))["model", "none"].ok
    assert not at_the_stage(a_stage(), board())["model", "none"].ok


def test_a_model_is_asked_about_the_frame() -> None:
    found = at_the_stage(a_stage(), bundle="factory")
    assert found["model", "verdict"].ok
    assert "judged in" in found["model", "verdict"].detail


def test_the_model_that_updates_put_into_service_is_the_one_that_is_examined(tmp_path: Path) -> None:
    ships = at_the_stage(a_stage(), bundle="factory")
    name = next(name for what, name in ships if what == "model" and "@" in name).partition("@")[0]
    install(Depot(tmp_path), repacked("1.9.0", name), "1.9.0", name)
    assert ("model", f"{name}@1.9.0") in at_the_stage(a_stage(), bundle="factory", state=tmp_path)


def test_a_black_frame_gets_its_verdict(studio: Callable[..., None]) -> None:
    studio(lambda: grey(2))
    found = at_the_stage(a_stage(), bundle="factory")
    assert found["model", "verdict"].detail.startswith("too dark: the frame is nearly black; switch on the lamp")


def test_a_bundle_that_is_not_there_is_told() -> None:
    found = at_the_stage(a_stage(), bundle="nothing")
    assert ("model", "nothing") in failed(found)
