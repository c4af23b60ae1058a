"""Calibrating the mechanics: on the simulated world, over the wire, kept on the board, and never by a bad ruler."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import Bench, small_board
from numpy.typing import NDArray
from oracle import Oracle, manifest, oracle

from edge_app.calibration import Calibrated, calibrate_mechanics
from edge_app.client import Client
from edge_app.controller import Controller
from edge_app.errors import RuntimeFailed, StateUnusable, UnfitRuler
from edge_app.feed import NOTHING, Beside
from edge_app.measured import Memory
from edge_app.model import Model
from firmware.clock import ManualClock
from firmware.errors import CameraError, MotionStopped
from firmware.microscope import Microscope, axis_identity, open_microscope, with_simulation
from firmware.simulation import World
from firmware.travel import Trust

SEEDS = range(20)


class Ruler(Oracle):
    """The truth with what a network adds: a smooth bias through focus, the same for all frames, and noise of each."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world)
        rng = np.random.default_rng([seed, 21])
        self._noise = np.random.default_rng([seed, 22])
        self._depths = np.linspace(-12, 12, 17)
        self._bias = rng.normal(0.0, 0.04, 17)

    def infer(self, counts: NDArray[np.uint8], also: Beside = NOTHING) -> dict[str, NDArray[np.float32]]:
        del also
        truth_um = self._world.truth_um()
        error_um = np.interp(truth_um, self._depths, self._bias) + self._noise.normal(0.0, 0.02)
        said = truth_um + error_um + self._rng.normal(0.0, 0.05, len(counts))
        return {
            "defocus_um": np.asarray(said, np.float32),
            "log_sigma": np.full(len(counts), np.log(0.1), np.float32),
        }


@contextmanager
def board(**flaws: object) -> Iterator[Microscope]:
    """The small board without a switch, its zero set near focus."""
    profile = with_simulation(small_board(), **flaws)
    changes = {"homing": "window", "home_at_start": False}
    profile = profile.model_copy(update={"axis": profile.axis.model_copy(update=changes)})
    with open_microscope(profile, ManualClock()) as microscope:
        assert microscope.world is not None
        microscope.world.load_field(3, "tissue")
        stage = microscope.world.stage
        stage.motor_um = stage.carriage_um = stage.carriage_um - microscope.world.truth_um() + 1.0
        microscope.axis.set_zero()
        yield microscope


def nobody(*_: object) -> None:
    return


def calibrated(microscope: Microscope, model: Model, memory: Memory | None = None, keep: bool = True) -> Calibrated:
    return calibrate_mechanics(Controller(microscope, model, None, memory), keep, nobody)


def model_of(microscope: Microscope, seed: int = 0) -> Model:
    assert microscope.world is not None
    return replace(oracle(microscope.world), runtime=Ruler(microscope.world, seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_direction_backlash_and_step_are_found_on_the_simulated_world(seed: int) -> None:
    rng = np.random.default_rng([seed, 23])
    backlash_um = float(rng.uniform(0, 6)) if seed % 5 else 0.0
    scale, direction = 1 + float(rng.uniform(-0.1, 0.1)), int(rng.choice([1, -1]))
    flaws = {"backlash_um": backlash_um, "scale_error": scale - 1, "motor_direction": direction}
    with board(seed=seed, drift_um_per_min=0.5, **flaws) as microscope:
        record = calibrated(microscope, model_of(microscope, seed)).record
    assert record is not None
    assert record.direction == direction
    assert record.backlash_um == pytest.approx(backlash_um, abs=0.1)
    assert record.um_per_step == pytest.approx(0.05 * scale, rel=0.01)


def test_the_axis_goes_by_what_was_measured() -> None:
    with board(backlash_um=3.0, scale_error=0.08, motor_direction=-1) as microscope:
        done = calibrated(microscope, model_of(microscope))
        axis, world = microscope.axis, microscope.world
        assert world is not None
        axis.move_to(-5.0)
        before_um = world.stage.carriage_um
        axis.move_to(5.0)
        assert world.stage.carriage_um - before_um == pytest.approx(10.0, abs=0.1)
        assert done.adopted
        assert axis.profile.backlash_um > 3.0


@pytest.mark.parametrize(
    ("keep", "direction", "play_um"), [(True, 1, -3.0), (True, -1, 3.0), (False, -1, -3.0), (False, 1, 3.0)]
)
def test_the_objective_ends_where_it_began(keep: bool, direction: int, play_um: float) -> None:
    with board(backlash_um=6.0, motor_direction=direction) as microscope:
        world = microscope.world
        assert world is not None
        world.stage.motor_um += play_um
        before_um = world.truth_um()
        calibrated(microscope, model_of(microscope), keep=keep)
        assert world.truth_um() == pytest.approx(before_um, abs=0.2)


def test_frames_after_a_calibration_know_where_the_axis_is() -> None:
    with board(backlash_um=2.0, scale_error=0.08) as microscope:
        calibrated(microscope, model_of(microscope))
        assert microscope.capture().z_um == pytest.approx(microscope.axis.z_um)


def test_no_move_is_large_before_the_direction_is_known() -> None:
    moves: list[tuple[int, str]] = []
    with board(backlash_um=6.0, motor_direction=-1) as microscope:
        controller = Controller(microscope, model_of(microscope))
        calibrate_mechanics(controller, True, lambda _n, _look, steps, why: moves.append((steps, why)))
    engaging = [steps for steps, why in moves if "direction" in why or "first" in why]
    assert max(abs(b - a) for a, b in pairwise(engaging)) * 0.05 <= 2.01
    assert max(map(abs, engaging)) * 0.05 < 13


def test_a_scan_stays_inside_the_limits_of_a_trusted_axis() -> None:
    with board(backlash_um=1.0) as microscope:
        tight = microscope.profile.axis.model_copy(update={"low_um": -9.0, "high_um": 9.0})
        microscope.adopt(tight)
        seen: list[float] = []
        calibrate_mechanics(
            Controller(microscope, model_of(microscope)), False, lambda *_: seen.append(microscope.axis.z_um)
        )
        assert -9.0 <= min(seen) < max(seen) <= 9.0


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    with board(backlash_um=1.0, scale_error=0.1) as microscope:
        before = microscope.profile
        done = calibrated(microscope, model_of(microscope), Memory(before, tmp_path), keep=False)
        assert done.record is not None
        assert not done.adopted
        assert microscope.profile == before
        assert not list(tmp_path.iterdir())


def test_what_was_measured_is_found_again_at_the_next_start(tmp_path: Path) -> None:
    with board(backlash_um=1.0, scale_error=0.1) as microscope:
        nominal = microscope.profile
        done = calibrated(microscope, model_of(microscope), Memory(nominal, tmp_path))
        assert Memory(nominal, tmp_path).profile.axis == microscope.profile.axis
        assert done.kept_in == tmp_path / f"{axis_identity(nominal)}.mechanics.json"


def test_another_axis_in_the_board_file_makes_the_record_void(tmp_path: Path) -> None:
    with board(backlash_um=1.0) as microscope:
        nominal = microscope.profile
        calibrated(microscope, model_of(microscope), Memory(nominal, tmp_path))
    other = nominal.model_copy(update={"axis": nominal.axis.model_copy(update={"um_per_step": 0.1})})
    assert Memory(other, tmp_path).record is None


@pytest.mark.parametrize("content", ["", "{", '{"of": 1}', "[]", '{"direction": 7}'])
def test_a_damaged_record_is_one_clear_error(tmp_path: Path, content: str) -> None:
    nominal = small_board()
    (tmp_path / f"{axis_identity(nominal)}.mechanics.json").write_text(content)
    with pytest.raises(StateUnusable, match="remove the file and run `parfocal calibrate mechanics`"):
        Memory(nominal, tmp_path)


def test_a_disk_that_is_full_keeps_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with board(backlash_um=1.0) as microscope:
        nominal, memory = microscope.profile, Memory(microscope.profile, tmp_path)
        calibrated(microscope, model_of(microscope), memory)
        before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(StateUnusable, match=r"No space left.*the old ones still hold"):
            calibrated(microscope, model_of(microscope), Memory(nominal, tmp_path))
        assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before


def test_a_bundle_that_was_tuned_on_this_stage_is_no_ruler_for_it() -> None:
    with board() as microscope:
        model = model_of(microscope)
        tuned = manifest().model_copy(update={"training": manifest().training.model_copy(update={"stage": "mine"})})
        model = replace(model, bundle=replace(model.bundle, manifest=tuned))
        with pytest.raises(UnfitRuler, match=r"stage 'mine'.*--bundle factory"):
            calibrated(microscope, model)


def test_without_a_model_there_is_no_ruler() -> None:
    with board() as microscope, pytest.raises(RuntimeFailed, match="no model is loaded"):
        calibrate_mechanics(Controller(microscope, None), True, nobody)


def test_a_blank_field_is_inconclusive_and_nothing_moves() -> None:
    with board() as microscope:
        assert microscope.world is not None
        microscope.world.load_field(2, "blank")
        done = calibrated(microscope, model_of(microscope))
        assert done.record is None
        assert "move the slide" in done.sentence
        assert microscope.axis.motor_steps == 0


def test_a_motor_that_is_not_connected_is_inconclusive() -> None:
    with board() as microscope:
        assert microscope.world is not None
        microscope.world.stage.turn = nobody  # type: ignore[method-assign,assignment]
        done = calibrated(microscope, model_of(microscope))
        assert done.record is None
        assert "motor" in done.sentence


def test_a_camera_that_fails_on_the_way_brings_the_axis_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with board() as microscope:
        frames = iter(range(10))
        capture = microscope.camera._next

        def failing(timeout_s: float) -> object:
            if next(frames, None) is None:
                raise OSError("the cable is loose")
            return capture(timeout_s)

        microscope.camera._next = failing  # type: ignore[method-assign,assignment]
        with pytest.raises(CameraError, match="the cable is loose"):
            calibrated(microscope, model_of(microscope))
        assert microscope.axis.motor_steps == 0


def test_an_axis_that_was_homed_is_to_be_homed_again() -> None:
    with open_microscope(small_board(), ManualClock()) as microscope:
        assert microscope.world is not None
        microscope.world.load_field(3, "tissue")
        for _ in range(2):
            microscope.axis.move_by(-microscope.world.truth_um())
        done = calibrated(microscope, model_of(microscope))
        assert done.rehome
        assert microscope.axis.trust is Trust.LOST
        microscope.axis.home()


def test_an_axis_that_was_never_homed_can_be_measured_within_a_small_travel() -> None:
    with board(motor_direction=-1) as microscope:
        microscope.axis.distrust()
        assert calibrated(microscope, model_of(microscope)).adopted


def test_the_client_sees_each_look_and_at_last_the_result(bench: Bench, client: Client) -> None:
    events = list(client.calibrate_mechanics(dry_run=True))
    assert [event.WhichOneof("event") for event in events[:-1]] == ["look"] * (len(events) - 1)
    assert [event.look.index for event in events[:-1]] == list(range(len(events) - 1))
    assert events[-1].result.mechanics.backlash_um == pytest.approx(2.0, abs=0.1)
    assert not client.describe().axis.HasField("mechanics")


def test_who_measures_meanwhile_is_answered_by_the_calibrations_own_looks(bench: Bench, client: Client) -> None:
    events = client.calibrate_mechanics(dry_run=True)
    next(event for event in events if event.look.index == 3)
    waiting = bench.appliance.measure()
    next(event for event in events if event.look.index == 40)
    assert waiting.done()
    assert bench.appliance.busy_with == "calibrate"
    events.close()  # type: ignore[attr-defined]


def test_a_client_that_leaves_stops_the_calibration(bench: Bench, client: Client) -> None:
    for event in client.calibrate_mechanics():
        if event.look.index == 5:
            break
    client.stop()
    assert bench.appliance.busy_with == ""
    assert bench.microscope.profile.axis.um_per_step == 0.05


def test_what_was_measured_is_described(bench: Bench, client: Client) -> None:
    list(client.calibrate_mechanics())
    axis = client.describe().axis
    assert axis.mechanics.readings > 40
    assert axis.um_per_step == axis.mechanics.um_per_step
    assert axis.mechanics.model == "oracle@1"


def test_a_stop_ends_the_calibration(bench: Bench, client: Client) -> None:
    events = client.calibrate_mechanics()
    next(event for event in events if event.look.index == 3)
    client.stop()
    with pytest.raises(MotionStopped):
        list(events)
    assert bench.microscope.profile.axis.direction == 1


def test_the_command_line_gives_the_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edge_app import cli, console

    command = [
        "calibrate",
        "mechanics",
        "--board",
        "simulated_tiny",
        "--state",
        str(tmp_path),
        "--seed",
        "3",
        "--json",
    ]
    code = console.run(cli.app, command)
    found = json.loads(capsys.readouterr().out)
    assert code == 0, found
    wanted = {"direction", "backlash_um", "backlash_ci_um", "um_per_step", "um_per_step_ci", "scans"}
    assert wanted <= found.keys()
    assert found["direction"] == 1
    assert found["backlash_ci_um"][0] <= found["backlash_um"] <= found["backlash_ci_um"][1]
    assert Path(found["kept_in"]).parent == tmp_path
