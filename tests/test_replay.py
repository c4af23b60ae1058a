"""Replay: a recorded stack behaves as a board whose camera shows what lies at the axis's position."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from edge_app.controller import Controller
from edge_app.errors import GridTooLarge
from firmware.clock import ManualClock
from firmware.errors import OutOfLimits, ProfileError, StackError
from firmware.microscope import Microscope, open_microscope
from firmware.profile import BoardProfile, load_profile
from firmware.stacks import replay_profile
from firmware.travel import Trust

POSITIONS: dict[str, list[float] | None] = {
    "slices": None,
    "fine": [0.05 * k for k in range(7)],
    "falling": [30.0 - 4.0 * k for k in range(7)],
    "uneven": [1327.6, 1341.95, 1351.6, 1352.25, 1362.0, 1376.8, 1380.0],
    "shuffled": [5.0, -2.0, 9.0, 1.0, 0.0, 30.0, -7.5],
}


def stack(folder: Path, count: int = 7, side_px: int = 32, colour: bool = False) -> Path:
    """A stack whose slice k is all 10 k."""
    levels = 10 * np.arange(count, dtype=np.uint8)
    shape = (count, side_px, side_px + 4) + ((3,) if colour else ())
    pixels = np.ones(shape, np.uint8) * levels.reshape(-1, *[1] * (len(shape) - 1))
    tifffile.imwrite(folder / "ramp.tif", pixels, photometric="rgb" if colour else "minisblack")
    return folder / "ramp.tif"


def focus_stack(folder: Path, best: int, count: int = 11) -> Path:
    """A stack of one textured specimen, blurred more the farther a slice lies from `best`."""
    noise = np.random.default_rng(8).normal(0, 1, (230, 460)).astype(np.float32)
    grain = cv2.GaussianBlur(noise, (0, 0), 1.2) + cv2.GaussianBlur(noise, (0, 0), 20) * 20
    pixels = [cv2.GaussianBlur(grain, (0, 0), 0.3 + 0.9 * abs(k - best)) for k in range(count)]
    counts = np.clip(130 + 40 * np.array(pixels), 0, 255).astype(np.uint8)
    tifffile.imwrite(folder / "specimen.tif", counts, photometric="minisblack")
    return folder / "specimen.tif"


def opened(path: Path, z_um: list[float] | None = None) -> Microscope:
    return open_microscope(replay_profile(path, z_um), ManualClock())


def changed(profile: BoardProfile, **camera: Any) -> BoardProfile:
    return profile.model_copy(update={"camera": profile.camera.model_copy(update=camera)})


@pytest.mark.parametrize("case", POSITIONS)
def test_at_each_slices_position_the_camera_shows_that_slice(tmp_path: Path, case: str) -> None:
    z_um = POSITIONS[case]
    with opened(stack(tmp_path), z_um) as microscope:
        for index, z in enumerate(z_um or range(7)):
            microscope.axis.move_to(z)
            frame = microscope.capture()
            assert (frame.settings["slice"], int(frame.pixels.max())) == (index, 10 * index)
            assert frame.fresh
            assert frame.z_um == pytest.approx(z, abs=0.05 * 1.0 if case != "fine" else 0.002)


@pytest.mark.parametrize("case", POSITIONS)
def test_the_axis_reaches_the_stack_and_no_farther(tmp_path: Path, case: str) -> None:
    z = POSITIONS[case] or [float(k) for k in range(7)]
    gap = min(b - a for a, b in pairwise(sorted(z)))
    with opened(stack(tmp_path), POSITIONS[case]) as microscope:
        assert microscope.axis.trust is Trust.HOMED
        for beyond in (min(z) - 0.2 * gap, max(z) + 0.2 * gap):
            with pytest.raises(OutOfLimits):
                microscope.axis.move_to(beyond)


def test_between_two_slices_the_nearer_one_is_shown(tmp_path: Path) -> None:
    with opened(stack(tmp_path)) as microscope:
        seen = []
        for z in (2.25, 2.75):
            microscope.axis.move_to(z)
            seen.append(microscope.capture().settings["slice"])
    assert seen == [2, 3]


def test_going_through_the_whole_stack_takes_little_time(tmp_path: Path) -> None:
    with opened(stack(tmp_path), POSITIONS["uneven"]) as microscope:
        microscope.axis.move_to(1327.6)
        began_s = microscope.clock.now_s()
        microscope.axis.move_to(1380.0)
        microscope.capture()
        assert 0.0 < microscope.clock.now_s() - began_s < 0.25


def test_a_frame_says_what_z_means(tmp_path: Path) -> None:
    path = stack(tmp_path)
    units = []
    for z_um in (None, POSITIONS["falling"]):
        with opened(path, z_um) as microscope:
            units.append(microscope.capture().settings["z_unit"])
    assert units == ["slice", "um"]


def test_colour_and_size_come_from_the_stack(tmp_path: Path) -> None:
    profile = replay_profile(stack(tmp_path, colour=True))
    assert (profile.camera.height_px, profile.camera.width_px, profile.camera.colour) == (32, 36, True)
    with open_microscope(profile, ManualClock()) as microscope:
        assert microscope.capture().pixels.shape == (32, 36, 3)


def test_optics_are_unknown_unless_the_recording_states_them(tmp_path: Path) -> None:
    path = stack(tmp_path)
    with opened(path) as microscope:
        optics = microscope.capture().optics
    assert (optics.numerical_aperture, optics.pixel_um) == (None, None)
    (tmp_path / "ramp.tif.json").write_text(json.dumps({"numerical_aperture": 0.85, "pixel_size_um": 0.13}))
    with opened(path) as microscope:
        optics = microscope.capture().optics
    assert optics.numerical_aperture == 0.85
    assert optics.pixel_um == pytest.approx(0.13)


def test_a_stated_magnification_leaves_the_pixel_in_the_specimen_as_it_is(tmp_path: Path) -> None:
    path = stack(tmp_path)
    (tmp_path / "ramp.tif.json").write_text(json.dumps({"magnification": 40, "pixel_size_um": 0.2}))
    profile = replay_profile(path)
    assert profile.camera.pixel_um == pytest.approx(8.0)
    assert profile.frame_optics(profile.objective[0]).pixel_um == pytest.approx(0.2)


def test_without_a_stack_the_board_asks_for_one() -> None:
    with pytest.raises(ProfileError, match="needs a recorded z-stack; name one"):
        open_microscope(load_profile("replay"), ManualClock())


@pytest.mark.parametrize(
    ("camera", "says"),
    [
        ({"options": {"stack": "x.tif", "speed": 3}}, "speed: unknown key"),
        ({"options": {"stack": "x.tif", "z_step_um": float("nan")}}, "z_step_um"),
        ({"options": {"stack": 7}}, "stack"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, camera: dict[str, Any], says: str) -> None:
    with pytest.raises(ProfileError, match=f"camera.options: .*{says}"):
        open_microscope(changed(load_profile("replay"), **camera), ManualClock())


def test_a_frame_size_that_is_not_the_stacks_is_refused(tmp_path: Path) -> None:
    profile = changed(replay_profile(stack(tmp_path)), width_px=99)
    with pytest.raises(ProfileError, match="99x32 pixels, but ramp is 36x32"):
        open_microscope(profile, ManualClock())


def test_a_stack_that_is_gone_is_a_stack_error(tmp_path: Path) -> None:
    profile = replay_profile(stack(tmp_path))
    (tmp_path / "ramp.tif").unlink()
    with pytest.raises(StackError, match="cannot read"):
        open_microscope(profile, ManualClock())


@pytest.mark.parametrize("best", [1, 5, 8])
def test_a_focus_job_ends_on_the_sharpest_slice_from_every_slice(tmp_path: Path, best: int) -> None:
    with opened(focus_stack(tmp_path, best)) as microscope:
        ends = []
        for start in range(11):
            microscope.axis.move_to(float(start))
            Controller(microscope, None).focus("sweep", lambda *_: None)
            ends.append(microscope.capture().settings["slice"])
    assert ends == [best] * 11


def test_a_frame_smaller_than_a_patch_is_one_clear_error(tmp_path: Path) -> None:
    with opened(stack(tmp_path)) as microscope, pytest.raises(GridTooLarge, match="224x224 pixels"):
        Controller(microscope, None).look(task="")
