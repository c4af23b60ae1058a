"""parfocal doctor --board: every missing thing and every wiring fault is told with what to do about it."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpiod
import numpy as np
import pytest
from physical_stage import ENABLE, Stage, a_stage, board, opened, stage_behind_pins

from edge_app import board_doctor, console, first_move, host
from edge_app.cli import app
from edge_app.config import Settings
from edge_app.doctor import NOTE, Finding
from edge_app.host import Host
from firmware import plugins
from firmware.camera import Camera, Exposure
from firmware.clock import Clock
from firmware.gpio import libgpiod
from firmware.ledger import File
from firmware.needs import Device, Needs
from firmware.profile import BoardProfile, board_names, load_profile
from firmware.simulation import World

pytestmark = pytest.mark.usefixtures("clean_environment")
Found = dict[tuple[str, str], Finding]
Pixels = Callable[[], Any]


def somebody(clock: Clock, **but: Any) -> Host:
    """A user who may do everything, but for what is said."""
    ours = frozenset({"gpio", "video"})
    allowed = {"root": False, "groups": ours, "granted": ours, "known": ours, "realtime": True}
    return Host(**{**allowed, "may_open": lambda _: True, "clock": clock, **but})


def examined(profile: BoardProfile, clock: Clock, move: bool = True, **asked: Any) -> Found:
    """Everything that is found on a board, by what and name."""
    user = {key: asked.pop(key) for key in list(asked) if key in Host.__dataclass_fields__}
    settings = Settings(board=profile.name, **{"bundle": "none", "threads": 1, **asked})
    found = board_doctor.findings(profile, settings, move, somebody(clock, **user))
    return {(finding.what, finding.name): finding for finding in found}


def at_the_stage(stage: Stage, profile: BoardProfile | None = None, **asked: Any) -> Found:
    with stage_behind_pins(stage):
        return examined(profile or board(), stage.clock, **asked)


def swept(profile: BoardProfile) -> BoardProfile:
    """The same board with a strategy that needs no model."""
    return profile.model_copy(update={"focus": profile.focus.model_copy(update={"strategy": "sweep"})})


def failed(found: Found) -> set[tuple[str, str]]:
    return {key for key, finding in found.items() if not finding.ok and finding.what != NOTE}


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


# A board without faults


def test_a_healthy_board_is_all_ok_and_its_stage_is_where_it_was(tmp_path: Path) -> None:
    stage = a_stage()
    found = at_the_stage(stage, bundle="factory", state=tmp_path)
    assert not failed(found)
    assert {"library", "line", "axis", "camera", "model", "state"} <= {what for what, _ in found}
    assert (stage.position, stage.pulses, stage.lost) == (0, 80, 0)
    assert "2.00 um there and back, 80 pulses, 0 of them late" in found["axis", "move"].detail


def test_the_motor_has_no_power_afterwards_and_the_lines_are_free() -> None:
    stage = a_stage()
    with stage_behind_pins(stage):
        examined(board(), stage.clock)
        assert stage.pins[ENABLE]._state
        assert not failed(examined(swept(board()), stage.clock))


def test_each_line_is_told_in_words() -> None:
    found = at_the_stage(a_stage())
    assert found["line", "upper switch"].detail == "open"
    assert found["line", "lower switch"].detail == "open"
    assert found["line", "fault"].detail == "inactive"


def test_nothing_moves_where_that_was_asked() -> None:
    stage = a_stage()
    assert at_the_stage(stage, move=False)[NOTE, "move"].detail == "not tried, as asked"
    assert stage.pulses == 0


def test_nothing_moves_where_one_step_is_more_than_the_axis_may_do_blindly() -> None:
    stage = a_stage()
    found = at_the_stage(stage, board({"blind_um": 0.05}))
    assert "raise blind_um" in found[NOTE, "move"].detail
    assert stage.pulses == 0


def test_a_small_blind_budget_makes_a_smaller_move() -> None:
    stage = a_stage()
    assert "0.50 um there and back" in at_the_stage(stage, board({"blind_um": 1.0}))["axis", "move"].detail
    assert stage.pulses == 20


def test_at_its_upper_limit_the_axis_moves_the_other_way() -> None:
    stage = a_stage()
    profile = board({"low_um": -100.0, "high_um": 1.0})
    assert at_the_stage(stage, profile)["axis", "move"].ok
    assert stage.position == 0


# Wires


def test_both_switches_closed_at_once_is_a_wiring_fault_and_nothing_moves() -> None:
    stage = a_stage(top=0, bottom=0)
    found = at_the_stage(stage, swept(board()))
    assert failed(found) == {("line", "upper switch"), ("line", "lower switch")}
    assert "no stage stands at both its ends: their common ground is loose" in found["line", "upper switch"].detail
    assert "active_low" in found["line", "lower switch"].detail
    assert stage.pulses == 0


def test_a_home_switch_that_is_closed_says_to_turn_the_knob_or_mend_it() -> None:
    stage = a_stage(stuck=True)
    found = at_the_stage(stage, swept(board()))
    assert failed(found) == {("line", "upper switch")}
    assert "turn the knob away from it by hand" in found["line", "upper switch"].detail
    assert "wire is loose" in found["line", "upper switch"].detail
    assert found[NOTE, "move"].detail.startswith("not tried, for what is said above")
    assert stage.pulses == 0


def test_a_closed_switch_is_held_against_where_the_axis_believes_to_be() -> None:
    stage = a_stage()
    with opened(stage) as axis:
        axis.home()
        axis.move_to(-20.0)
        stage.stuck = True
        told = {finding.name: finding.detail for finding in first_move.findings(axis, True, "")}
    assert "the axis believes to be at -20.0 um" in told["upper switch"]


def test_an_active_fault_line_asks_for_the_motor_supply_and_the_level() -> None:
    stage = a_stage(faulty=True)
    found = at_the_stage(stage, swept(board()))
    assert failed(found) == {("line", "fault")}
    assert "no motor supply; switch that on" in found["line", "fault"].detail
    assert "active_low" in found["line", "fault"].detail
    assert stage.pulses == 0


def test_a_fault_that_comes_with_the_motors_power_is_told() -> None:
    stage = a_stage()
    level = stage.level
    stage.level = lambda number: level(number) and not (number == 23 and stage.pulses > 3)  # type: ignore[method-assign]
    found = at_the_stage(stage, swept(board()))
    assert failed(found) == {("axis", "move")}
    assert "a short circuit, or no motor supply" in found["axis", "move"].detail


def test_a_board_without_an_enable_line_works_and_is_told_what_that_means() -> None:
    pins = {role: pin for role, pin in board().axis.options["pins"].items() if role != "enable"}
    found = at_the_stage(a_stage(), swept(board(options={"pins": pins})))
    assert not failed(found)
    assert "connect the driver's EN and name its line, or tie EN to ground" in found[NOTE, "enable"].detail


def test_a_motor_that_does_not_turn_cannot_be_seen_so_the_move_says_what_to_look_at() -> None:
    found = at_the_stage(a_stage(shortest_s=1.0))
    assert "if the motor did not turn: motor supply, EN" in found["axis", "move"].detail


def test_a_line_that_another_program_holds_is_told() -> None:
    stage = a_stage()
    twice = {**board().axis.options["pins"], "direction": {"line": 17}}
    found = at_the_stage(stage, board(options={"pins": twice}))
    assert "look at the wiring table" in found["axis", "step_dir"].detail
    assert found["camera", "simulated"].ok


# Libraries, groups, devices


def test_a_wrong_key_is_told_and_the_rest_is_looked_at() -> None:
    found = at_the_stage(a_stage(), board(options={"chipp": "mock"}))
    assert "chipp: unknown key" in found["axis", "step_dir"].detail
    assert found["camera", "simulated"].ok


def test_a_missing_library_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpiozero", None)
    found = examined(swept(board()), a_stage().clock)
    assert failed(found) >= {("library", "gpio gpiozero"), ("axis", "step_dir")}
    assert "pip install 'parfocal[rpi]'" in found["library", "gpio gpiozero"].detail
    assert found["camera", "simulated"].ok


class Chip:
    """A GPIO chip with a label."""

    label = "pinctrl-bcm2711"

    def __init__(self, path: str) -> None:
        if self.label == "closed":
            raise PermissionError(13, "Permission denied")

    def __enter__(self) -> Chip:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get_info(self) -> Chip:
        return self


@pytest.fixture
def chips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Chip]:
    """A machine with one GPIO chip."""
    (tmp_path / "gpiochip0").touch()
    monkeypatch.setattr(libgpiod, "DEVICES", tmp_path)
    monkeypatch.setattr(gpiod, "is_gpiochip_device", lambda _: True)
    monkeypatch.setattr(gpiod, "Chip", Chip)
    return Chip


def by_libgpiod() -> BoardProfile:
    return swept(board(options={"gpio": "libgpiod", "chip": "pinctrl-rp1"}))


@pytest.mark.usefixtures("chips")
def test_a_chip_with_another_label_is_told_with_the_labels_that_are_there() -> None:
    found = examined(by_libgpiod(), a_stage().clock)
    told = found["axis", "step_dir"].detail
    assert "no GPIO chip is labelled 'pinctrl-rp1'; this machine has: pinctrl-bcm2711" in told
    assert "correct axis.options.chip" in told


def test_a_chip_that_is_closed_to_the_user_says_which_group_to_join(
    chips: type[Chip], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(chips, "label", "closed")
    nobody: frozenset[str] = frozenset()
    found = examined(by_libgpiod(), a_stage().clock, groups=nobody, granted=nobody, may_open=lambda _: False)
    device = ("device", f"{tmp_path}/gpiochip*")
    assert failed(found) == {("group", "gpio"), device, ("axis", "step_dir")}
    assert "sudo usermod -aG gpio $USER, then log in again" in found["group", "gpio"].detail
    assert "closed to this user; join the group gpio" in found[device].detail


@pytest.mark.parametrize(
    ("user", "ok", "told"),
    [
        ({"root": True, "groups": ()}, True, "root opens everything"),
        ({"groups": ("lights",)}, True, "this user is in it"),
        ({"may_open": True}, True, "may open .* without it"),
        ({"granted": ("lights",), "known": ("lights",)}, False, "added to it after this login; log in again"),
        ({"known": ("lights",)}, False, "sudo usermod -aG lights"),
        ({}, False, "sudo groupadd --system lights"),
    ],
)
def test_a_group_is_wanted_only_where_it_is_needed(tmp_path: Path, user: dict[str, Any], ok: bool, told: str) -> None:
    (tmp_path / "lamp0").touch()
    may = user.pop("may_open", False)
    none: dict[str, Any] = {"groups": (), "granted": (), "known": (), "may_open": lambda _: may}
    found = somebody(a_stage().clock, **{**none, **user}).group("lights", [f"{tmp_path}/lamp*"])
    assert found.ok is ok
    assert re.search(told, found.detail)


def test_a_device_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    found = somebody(a_stage().clock).device(Device(f"{tmp_path}/video*", "video", "plug the camera in"))
    assert (found.ok, found.detail) == (False, "there is none; plug the camera in")


def test_real_time_priority_is_a_note_that_says_how_to_allow_it() -> None:
    found = at_the_stage(a_stage(), swept(board()), realtime=False)
    assert not failed(found)
    assert "@gpio - rtprio 50" in found[NOTE, "real-time priority"].detail


def test_only_what_the_boards_own_drivers_need_is_asked_for() -> None:
    found = examined(load_profile("simulated_tiny"), a_stage().clock, move=False)
    assert not {what for what, _ in found} & {"group", "device"}
    assert (NOTE, "real-time priority") not in found


@pytest.mark.parametrize("name", board_names())
def test_every_driver_of_every_board_says_what_it_needs(name: str) -> None:
    profile = load_profile(name)
    for package, driver in (("firmware.cameras", profile.camera.driver), ("firmware.axes", profile.axis.driver)):
        module = plugins.load(package, driver)
        assert isinstance(module.needs(profile) if hasattr(module, "needs") else Needs(), Needs)


def test_the_machine_knows_its_user() -> None:
    here = host.this_host()
    assert here.root is (os.geteuid() == 0)
    assert here.groups <= here.known
    assert here.may_open(str(Path(__file__)))
    assert not here.may_open("/nowhere")


# What the board remembers


def test_a_state_folder_that_is_no_folder_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    found = at_the_stage(a_stage(), swept(board()), state=tmp_path / "state")
    told = found["state", str(tmp_path / "state")].detail
    assert ("state", str(tmp_path / "state")) in failed(found)
    assert "sudo chown" in told
    assert "--state" in told
    assert found["axis", "move"].ok


def test_a_full_disk_says_to_free_some_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    found = at_the_stage(a_stage(), swept(board()), state=tmp_path)
    assert failed(found) == {("state", str(tmp_path))}
    assert "No space left on device" in found["state", str(tmp_path)].detail
    assert "free some space" in found["state", str(tmp_path)].detail


def test_an_axis_that_another_parfocal_moves_is_left_alone(tmp_path: Path) -> None:
    real = board().model_copy(update={"simulation": None})
    stage, held = a_stage(), File(tmp_path / "bench.axis")
    found = at_the_stage(stage, swept(real), state=tmp_path)
    held.close()
    assert "another parfocal moves this axis" in found["axis", "step_dir"].detail
    assert "stop it first" in found["axis", "step_dir"].detail
    assert stage.pulses == 0
    assert found["line", "upper switch"].ok


def test_the_small_move_is_recorded_as_every_other(tmp_path: Path) -> None:
    real = board({"holds_without_power": True}).model_copy(update={"simulation": None})
    at_the_stage(a_stage(), swept(real), state=tmp_path)
    assert '"axis": ""' in (tmp_path / "bench.axis").read_text(encoding="utf-8")


def test_measured_mechanics_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "bench.mechanics.json").write_text("{", encoding="utf-8")
    found = at_the_stage(a_stage(), swept(board()), state=tmp_path)
    assert failed(found) == {("state", "mechanics")}
    assert "calibrate mechanics` again" in found["state", "mechanics"].detail


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


def test_a_black_frame_gets_its_verdict(studio: Callable[..., None]) -> None:
    studio(lambda: grey(2))
    found = at_the_stage(a_stage(), bundle="factory")
    assert found["model", "verdict"].detail.startswith("too dark: the frame is nearly black; switch on the lamp")


def test_a_bundle_that_is_not_there_is_told() -> None:
    found = at_the_stage(a_stage(), bundle="nothing")
    assert ("model", "nothing") in failed(found)


# The command


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = console.run(app, ["doctor", *arguments])
    return code, capsys.readouterr().out


def test_the_command_examines_a_board_and_leaves_with_zero(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "--board", "simulated_tiny", "--no-move", "--json")
    result = json.loads(out)
    assert (code, result["board"], result["works"]) == (0, "simulated_tiny", True)
    assert result["findings"][0] == {
        "what": "board",
        "name": "simulated_tiny",
        "ok": True,
        "detail": load_profile("simulated_tiny").description,
    }


def test_a_board_that_does_not_work_leaves_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "--board", "simulated_tiny", "--bundle", "none", "--no-move")
    assert code == 1
    assert "simulated_tiny does not work yet" in out


def test_a_board_file_that_cannot_be_read_is_the_only_finding(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text('name = "mine"\n', encoding="utf-8")
    code, out = run(capsys, "--board", str(tmp_path / "mine.toml"), "--json")
    (finding,) = json.loads(out)["findings"]
    assert (code, finding["what"], finding["ok"]) == (1, "board", False)
    assert "camera: " in finding["detail"]


def test_flags_of_a_board_want_a_board(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--no-move")[0] == 2
