"""parfocal doctor --board: a board without faults, every wiring fault with what to do about it, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from examination import at_the_stage, examined, failed, swept
from physical_stage import ENABLE, a_stage, board, opened, stage_behind_pins

from edge_app import console, first_move
from edge_app.cli import app
from edge_app.doctor import NOTE
from firmware.profile import load_profile

pytestmark = pytest.mark.usefixtures("clean_environment")


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


def test_a_line_with_two_tasks_is_told() -> None:
    stage = a_stage()
    twice = {**board().axis.options["pins"], "direction": {"line": 17}}
    found = at_the_stage(stage, board(options={"pins": twice}))
    assert "the line 17 is both step and direction" in found["axis", "step_dir"].detail
    assert found["camera", "simulated"].ok


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
