"""Board files: what loads, and what is refused in words that help."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from firmware.clock import ManualClock
from firmware.errors import ProfileError
from firmware.microscope import open_microscope, with_simulation
from firmware.profile import BOARDS, board_names, load_profile
from firmware.simulation import read_simulation
from firmware.stacks import replay_profile

TINY = (BOARDS / "simulated_tiny.toml").read_text(encoding="utf-8")


def written(folder: Path, text: str) -> str:
    path = folder / "board.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", board_names())
def test_every_board_that_ships_loads(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.description


def test_a_board_loads_by_path(tmp_path: Path) -> None:
    assert load_profile(written(tmp_path, TINY)).name == "simulated_tiny"


def test_an_unknown_board_is_told_what_there_is() -> None:
    with pytest.raises(ProfileError, match=r"'nowhere'.*simulated, simulated_tiny"):
        load_profile("nowhere")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("exposure_ms", "exposure", "camera.exposure: unknown key"),
        ("[focus]", "[focusing]", "focusing: unknown key"),
        ("um_per_step = 0.05", "um_per_step = 0", "axis.um_per_step: Input should be greater than 0"),
        ("low_um = -60.0", "low_um = 60.0", "low_um must lie below high_um"),
        ("low_um = -60.0", "low_um = nan", "axis.low_um: Input should be a finite number"),
        ('name = "10x"', 'name = "20x"', "two objectives have one name"),
        ('homing = "switch"', 'homing = "hope"', "axis.homing: Input should be 'switch', 'window' or 'device'"),
        ("numerical_aperture = 0.30", "numerical_aperture = 3.0", "objective.1.numerical_aperture"),
        (
            "numerical_aperture = 0.30",
            "numerical_aperture = 1.30",
            "objective.1: numerical_aperture 1.3 must lie below immersion_index 1",
        ),
        ("[camera]", "[camera", "is not TOML"),
        ('kind = "linear"', 'kind = "raw"', 'camera.response: kind = "raw" needs a pattern'),
        ('kind = "linear"', 'kind = "log"', "camera.response.kind"),
        (
            '[[objective]]\nname = "20x"',
            'contrast = "phase"\n[[objective]]\nname = "20x"',
            "contrast: Input should be",
        ),
    ],
)
def test_a_wrong_board_is_refused_by_the_name_of_what_is_wrong(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert TINY.count(old) == 1
    with pytest.raises(ProfileError) as caught:
        load_profile(written(tmp_path, TINY.replace(old, new)))
    assert message in str(caught.value)


def test_a_board_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match="cannot read the board"):
        load_profile(str(path))


@pytest.mark.parametrize(
    ("flaws", "message"),
    [
        ({"backlash": 1.0}, "backlash: unknown key"),
        ({"kinds": {"moon": 1.0}}, "unknown specimen kind 'moon'; known: tissue"),
        ({"kinds": {}}, "one must be above zero"),
        ({"kinds": {"tissue": -1.0, "smear": 2.0}}, "must not be negative"),
        ({"stale_frames": 99}, "stale_frames: Input should be less than or equal to 16"),
        ({"white_balance": (1.8, 0.0, 1.6)}, "white_balance.1: Input should be greater than 0"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
    ],
)
def test_a_wrong_simulation_is_refused_by_the_name_of_what_is_wrong(flaws: dict[str, object], message: str) -> None:
    profile = with_simulation(load_profile("simulated_tiny"), **flaws)
    with pytest.raises(ProfileError) as caught:
        read_simulation(profile)
    assert message in str(caught.value)


def test_a_board_without_a_simulation_has_no_flaws_to_change() -> None:
    real = load_profile("simulated_tiny").model_copy(update={"simulation": None})
    with pytest.raises(ProfileError, match=r"no \[simulation\] table"):
        with_simulation(real, seed=3)
    with pytest.raises(ProfileError, match=r"needs a \[simulation\] table"):
        open_microscope(real, ManualClock())


def test_light_cannot_be_simulated_through_an_unknown_objective() -> None:
    profile = load_profile("simulated_tiny")
    blind = profile.objective[0].model_copy(update={"numerical_aperture": None})
    microscope = open_microscope(profile.model_copy(update={"objective": (blind,)}), ManualClock())
    with pytest.raises(ProfileError, match="needs magnification and numerical_aperture"):
        microscope.capture()


def test_a_frame_knows_the_pixel_in_the_specimen() -> None:
    profile = load_profile("simulated")
    optics = profile.frame_optics(profile.objective[0])
    assert optics.pixel_um == pytest.approx(0.1725)
    assert optics.objective == "20x"


def test_a_frame_knows_what_the_board_declares_of_camera_and_objective() -> None:
    profile = load_profile("simulated").model_copy(update={"contrast": "fluorescence"})
    twenty, ten = (profile.frame_optics(objective) for objective in profile.objective)
    assert (twenty.response, twenty.contrast) == ("linear", "fluorescence")
    assert (twenty.spherical_waves, twenty.longitudinal_colour_um) == (0.15, (0.5, 0.0, -0.4))
    assert (ten.spherical_waves, ten.longitudinal_colour_um) == (0.15, (3.0, 0.0, -2.4))


def test_an_oil_objective_loads_with_its_oil(tmp_path: Path) -> None:
    oil = "numerical_aperture = 1.30\nimmersion_index = 1.515"
    profile = load_profile(written(tmp_path, TINY.replace("numerical_aperture = 0.30", oil)))
    assert profile.objective[1].depth_of_field_um == pytest.approx(1.515 * 0.535 / 1.3**2)


@pytest.mark.parametrize(("aperture", "index"), [(0.95, 1.0), (1.0, 1.515), (1.45, 1.515), (1.55, 1.7)])
def test_a_stack_recorded_in_oil_is_replayed_in_oil(tmp_path: Path, aperture: float, index: float) -> None:
    tifffile.imwrite(tmp_path / "oil.tif", np.zeros((3, 32, 36), np.uint8), photometric="minisblack")
    (tmp_path / "oil.tif.json").write_text(f'{{"numerical_aperture": {aperture}}}', encoding="utf-8")
    (objective,) = replay_profile(tmp_path / "oil.tif").objective
    assert (objective.numerical_aperture, objective.immersion_index) == (aperture, index)


def test_the_pixel_in_the_specimen_is_unknown_where_the_magnification_is() -> None:
    profile = load_profile("simulated")
    plain = profile.objective[0].model_copy(update={"magnification": None})
    assert profile.frame_optics(plain).pixel_um is None
