"""doctor on what the machine lends a board: libraries, groups, devices, real-time priority and a state folder."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path
from typing import Any

import gpiod
import pytest
from examination import at_the_stage, examined, failed, somebody, swept
from physical_stage import a_stage, board

from edge_app import host
from edge_app.doctor import NOTE
from firmware import plugins
from firmware.gpio import libgpiod
from firmware.ledger import File
from firmware.microscope import axis_identity
from firmware.needs import Device, Needs
from firmware.profile import BoardProfile, board_names, load_profile

pytestmark = pytest.mark.usefixtures("clean_environment")


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
    assert "run this as the user that it belongs to" in told
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
    stage, held = a_stage(), File(tmp_path / f"{axis_identity(board())}.axis")
    found = at_the_stage(stage, swept(real), state=tmp_path)
    held.close()
    assert "another parfocal moves this axis" in found["axis", "step_dir"].detail
    assert "stop it first" in found["axis", "step_dir"].detail
    assert stage.pulses == 0
    assert found["line", "upper switch"].ok


def test_the_small_move_is_recorded_as_every_other(tmp_path: Path) -> None:
    real = board({"holds_without_power": True}).model_copy(update={"simulation": None})
    at_the_stage(a_stage(), swept(real), state=tmp_path)
    assert '"axis": ""' in (tmp_path / f"{axis_identity(board())}.axis").read_text(encoding="utf-8")


def test_measured_mechanics_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / f"{axis_identity(board())}.mechanics.json").write_text("{", encoding="utf-8")
    found = at_the_stage(a_stage(), swept(board()), state=tmp_path)
    assert failed(found) == {("state", "mechanics")}
    assert "calibrate mechanics` again" in found["state", "mechanics"].detail
