"""Calibrating focus: a stack on the simulated world, kept on the board, gone by afterwards, never ending worse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from blur_oracle import BlurSource, blur_model
from conftest import HeldClock

from edge_app import verbs
from edge_app.appliance import Appliance
from edge_app.client import Client
from edge_app.controller import Controller
from edge_app.errors import BadRequest, RuntimeFailed, StateUnusable
from edge_app.focus_calibration import FocusCalibrated, Wish, calibrate_focus
from edge_app.job import Ending
from edge_app.measured import Memory
from edge_app.server import serving
from firmware.microscope import Microscope, open_microscope
from firmware.profile import BoardProfile, load_profile
from firmware.simulation import World

DEPTH_UM = 0.95


def board(**changes: Any) -> BoardProfile:
    """The tiny board with frames of nine patches of 128 pixels."""
    profile = load_profile("simulated_tiny")
    camera = profile.camera.model_copy(update={"width_px": 400, "height_px": 400})
    axis = profile.axis.model_copy(update=changes)
    return profile.model_copy(update={"camera": camera, "axis": axis})


@contextmanager
def opened(
    folder: Path | None = None, defocus_um: float = 2.0, kind: str = "tissue", rise: float = 0.2, **changes: Any
) -> Iterator[tuple[Controller, World]]:
    profile = board(**changes)
    microscope: Microscope = open_microscope(profile, HeldClock())
    with microscope:
        world = microscope.world
        assert world is not None
        world.load_field(3, kind)
        source = BlurSource(blur_model(world, rise))
        controller = Controller(microscope, None, source, Memory(profile, folder))
        microscope.axis.move_by(defocus_um - world.truth_um())
        yield controller, world


def nobody(*_: object) -> None:
    return


def calibrated(controller: Controller, keep: bool = True, **wish: float) -> FocusCalibrated:
    return calibrate_focus(controller, Wish(**wish), keep, nobody)


@pytest.mark.parametrize("defocus_um", [-2.0, 0.3, 5.0])
def test_the_curve_reaches_as_far_to_both_sides_wherever_it_began_and_the_job_ends_in_focus(defocus_um: float) -> None:
    with opened(defocus_um=defocus_um) as (controller, world):
        done = calibrated(controller)
        assert done.curve is not None
        assert done.curve.reach_um == pytest.approx(12 * DEPTH_UM, abs=DEPTH_UM)
        assert done.curve.step_um == pytest.approx(DEPTH_UM / 2, abs=0.05)
        assert abs(world.truth_um()) < 0.25 * DEPTH_UM or done.sentence.count("back at the start") == 1


def test_few_shot_goes_by_the_curve_that_was_kept_also_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as (controller, _):
        done = calibrated(controller)
        assert done.kept_in is not None
        assert done.adopted
    with opened(tmp_path, defocus_um=6.0) as (controller, world):
        outcome = controller.focus("few_shot", nobody)
        assert outcome.ending is Ending.FOCUSED
        assert abs(world.truth_um()) < 0.25 * DEPTH_UM


def test_without_a_curve_few_shot_moves_nothing_and_names_the_command() -> None:
    with opened() as (controller, _):
        outcome = controller.focus("few_shot", nobody)
        assert outcome.ending is Ending.STAYED
        assert "parfocal calibrate focus" in outcome.sentence


def test_a_dry_run_keeps_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as (controller, _):
        done = calibrated(controller, keep=False)
        assert done.curve is not None
        assert not done.adopted
        assert "not kept, as asked" in done.sentence
        assert not list(tmp_path.iterdir())
        assert controller.focus("few_shot", nobody).ending is Ending.STAYED


def test_a_blank_field_gives_no_curve_and_moves_nothing() -> None:
    with opened(kind="blank") as (controller, _):
        before_um = controller.microscope.axis.z_um
        done = calibrated(controller)
        assert done.curve is None
        assert "no patch shows any structure" in done.sentence
        assert controller.microscope.axis.z_um == pytest.approx(before_um, abs=0.05)


def test_a_score_without_a_dip_gives_no_curve_and_ends_where_it_began() -> None:
    with opened(rise=0.0) as (controller, world):
        before_um = world.truth_um()
        done = calibrated(controller)
        assert done.curve is None
        assert "no dip" in done.sentence
        assert world.truth_um() == pytest.approx(before_um, abs=0.2)


def test_a_stack_that_the_soft_limits_cut_short_says_so() -> None:
    with opened() as (probe, world):
        focus_um = probe.microscope.axis.z_um - world.truth_um()
    with opened(low_um=focus_um - 4.0) as (controller, _):
        done = calibrated(controller)
        assert done.curve is not None
        assert done.curve.z_um[0] > -4.6
        assert "cut short by soft limits" in done.sentence


def test_the_stack_is_as_wished_and_goes_downwards_only() -> None:
    seen: list[tuple[int, float]] = []
    with opened(defocus_um=0.0) as (controller, _):
        start_um = controller.microscope.axis.z_um
        calibrate_focus(controller, Wish(6.0, 1.0), True, lambda s, look: seen.append((s.number, look.seen.z_um)))
    z_um = [z for _, z in seen[1:-1]]
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    assert z_um[0] - start_um == pytest.approx(6.0, abs=0.1)
    assert z_um[:12] == sorted(z_um[:12], reverse=True)


@pytest.mark.parametrize(("range_um", "step_um"), [(1.0, 1.0), (100.0, 0.01), (-3.0, 0.1)])
def test_a_stack_that_cannot_be_is_refused(range_um: float, step_um: float) -> None:
    with opened() as (controller, _), pytest.raises(BadRequest, match="choose them for 7 to 400 slices"):
        calibrated(controller, range_um=range_um, step_um=step_um)


def test_an_unknown_aperture_needs_a_range_and_a_step() -> None:
    with opened() as (controller, _):
        objective = controller.microscope.objective.model_copy(update={"numerical_aperture": None})
        controller.microscope.objective = objective
        with pytest.raises(BadRequest, match="give --range-um and --step-um"):
            calibrated(controller)


def test_without_a_sharpness_model_it_says_what_to_do() -> None:
    with open_microscope(board(), HeldClock()) as microscope, pytest.raises(RuntimeFailed, match="no model is loaded"):
        calibrated(Controller(microscope, None))


def test_a_folder_that_takes_nothing_is_found_out_before_anything_moves(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("x")
    profile = board()
    with open_microscope(profile, HeldClock()) as microscope:
        assert microscope.world is not None
        controller = Controller(microscope, None, BlurSource(blur_model(microscope.world)))
        controller.curves.folder = tmp_path / "state"
        before_um = microscope.axis.z_um
        with pytest.raises(StateUnusable, match="cannot be written"):
            calibrated(controller)
        assert microscope.axis.z_um == before_um


@pytest.fixture
def client() -> Iterator[Client]:
    with (
        opened() as (controller, _),
        Appliance(controller) as appliance,
        serving(appliance, "127.0.0.1:0") as address,
        Client(address) as connected,
    ):
        yield connected


def test_over_the_wire_come_the_looks_and_then_the_curve(client: Client, tmp_path: Path) -> None:
    said: list[tuple[int, int, str]] = []
    result = verbs.calibrate_focus(client, "", (0.0, 0.0), False, lambda *step: said.append(step))
    verbs.draw_curve(result, tmp_path / "curve.png")
    assert result.curve.objective == "20x"
    assert result.curve.width_um > 0
    assert "Moffat fit explains" in verbs.curve_lines(result)
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    assert said[-1][0] == said[-1][1] == len(said)
    assert "um: score " in said[3][2]


def test_a_picture_of_no_known_kind_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"ends in \.png"):
        verbs.check_picture(Path("curve.gif"))


def test_leaving_the_loop_stops_the_job(client: Client) -> None:
    for event in client.calibrate_focus():
        if event.look.index == 3:
            break
    assert client.position().busy_with in ("", "calibrate focus")
    client.stop()
    assert not client.position().moving
