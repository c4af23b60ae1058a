"""The boards with a real motor: what their files say, the wiring page says too, and their drivers understand."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from edge_app import selection
from firmware import plugins
from firmware.axes.step_dir import StepDirOptions
from firmware.clock import ManualClock
from firmware.errors import MissingDriver
from firmware.microscope import open_microscope
from firmware.profile import BOARDS, board_names, load_profile

PAGE = (Path(__file__).parents[1] / "docs" / "wiring.md").read_text(encoding="utf-8")
SDKS = ("gi", "gpiod", "gpiozero", "lgpio", "libcamera", "picamera2")
RASPBERRY = {"17": 11, "27": 13, "22": 15, "23": 16, "24": 18, "25": 22}
ORIN = {"PAC.06": 7, "PN.01": 15, "PQ.05": 29, "PQ.06": 31, "PG.06": 32, "PH.00": 33}
HEADERS = {"raspberry_pi_5": RASPBERRY, "raspberry_pi_4": RASPBERRY, "jetson_orin_nano": ORIN}
TITLES = dict.fromkeys(HEADERS, "Raspberry Pi 5, Raspberry Pi 4") | {
    "jetson_orin_nano": "Jetson Orin Nano developer kit"
}

WIRED = list(HEADERS)
each_wired_board = pytest.mark.parametrize("name", WIRED)


def motor(name: str) -> StepDirOptions:
    return StepDirOptions.model_validate(load_profile(name).axis.options)


def table(name: str) -> dict[str, tuple[str, int]]:
    """The wiring page's rows of one board: signal to line and header pin."""
    section = PAGE.split(f"\n## {TITLES[name]}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\S+) \|", section, re.MULTILINE)
    return {signal: (line, int(pin)) for signal, pin, line in rows}


def in_the_file(name: str) -> dict[str, str]:
    """Signal to line, those that are only suggested in a comment included."""
    text = (BOARDS / f"{name}.toml").read_text(encoding="utf-8")
    return dict(re.findall(r'^(?:# +)?(\w+) = \{ line = "?([\w.]+)"?', text, re.MULTILINE))


def test_the_boards_of_the_wiring_page_are_there() -> None:
    assert set(WIRED) <= set(board_names())


@each_wired_board
def test_the_wiring_page_names_every_line_of_a_board_and_no_other(name: str) -> None:
    assert {signal: line for signal, (line, _) in table(name).items()} == in_the_file(name)


@each_wired_board
def test_the_wiring_page_has_the_right_header_pin_for_every_line(name: str) -> None:
    assert table(name)
    assert all(HEADERS[name][line] == pin for line, pin in table(name).values())


@each_wired_board
def test_no_line_does_two_things(name: str) -> None:
    lines = list(in_the_file(name).values())
    assert len(set(lines)) == len(lines)


@each_wired_board
def test_the_chip_is_named_by_its_label(name: str) -> None:
    chip = motor(name).chip
    assert f"`{chip}`" in PAGE
    assert "gpiochip" not in chip
    assert not chip.isdigit()


@each_wired_board
def test_a_broken_wire_of_the_home_switch_reads_as_closed(name: str) -> None:
    switch = motor(name).pins.upper_switch
    assert switch is not None
    assert not switch.active_low
    assert switch.pull == ("none" if name.startswith("jetson") else "up")


@each_wired_board
def test_the_motor_has_an_enable_line_that_is_off_when_it_is_high(name: str) -> None:
    enable = motor(name).pins.enable
    assert enable is not None
    assert enable.active_low


@each_wired_board
def test_the_home_switch_lies_outside_the_window(name: str) -> None:
    axis, options = load_profile(name).axis, motor(name)
    assert options.home_um is not None
    assert options.home_um - options.home_clear_um >= axis.high_um


@each_wired_board
def test_a_step_is_what_the_knob_makes_of_it(name: str) -> None:
    axis = load_profile(name).axis
    assert axis.um_per_step == 200.0 / (200 * 16)
    assert axis.speed_um_s / axis.um_per_step == 3200


@each_wired_board
def test_without_its_libraries_a_board_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for sdk in SDKS:
        monkeypatch.setitem(sys.modules, sdk, None)
    profile = load_profile(name)
    with pytest.raises(MissingDriver):
        plugins.load("firmware.axes", profile.axis.driver).open_axis(profile, ManualClock(), None)
    with pytest.raises(MissingDriver):
        plugins.load("firmware.cameras", profile.camera.driver).open_camera(profile, ManualClock(), None)
    with pytest.raises(MissingDriver), open_microscope(profile, ManualClock()):
        pass


@each_wired_board
def test_the_first_objective_gets_a_model_that_its_strategy_can_use(name: str) -> None:
    profile = load_profile(name)
    assert profile.focus.strategy == "single_shot"
    assert selection.select("factory", profile.frame_optics(profile.objective[0])).fits


def test_both_raspberry_pis_differ_in_the_chip_alone() -> None:
    four, five = (load_profile(f"raspberry_pi_{number}").model_dump() for number in (4, 5))
    for profile in (four, five):
        for key in ("name", "description"):
            del profile[key]
    assert (four["axis"]["options"].pop("chip"), five["axis"]["options"].pop("chip")) == (
        "pinctrl-bcm2711",
        "pinctrl-rp1",
    )
    assert four == five
