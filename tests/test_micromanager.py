"""The core that the Micro-Manager drivers share: opening and letting go, and what a wrong board file is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bent import NOTHING, a_microscope, core_of, demo_folder, demo_with, opened

from firmware import micromanager
from firmware.cameras.micromanager import MicroManagerCamera
from firmware.errors import AxisError, MissingDriver, ProfileError
from firmware.microscope import Microscope

OPENS_AND_LEAVES = """
import logging
from firmware.microscope import open_microscope
from bent import board
microscope = open_microscope(board())
microscope.capture()
print(microscope.axis.z_um, logging.getLogger().level, flush=True)
microscope.axis._share.core.snapImage()
"""

microscope = pytest.fixture(a_microscope)


def test_camera_and_stage_of_a_board_share_one_core(microscope: Microscope) -> None:
    assert isinstance(microscope.camera, MicroManagerCamera)
    assert microscope.camera._share.core is core_of(microscope)
    assert len(micromanager._cores) == 1


def test_the_last_to_let_go_unloads_every_device() -> None:
    microscope = opened()
    core = core_of(microscope)
    microscope.axis.close()
    assert "Camera" in core.getLoadedDevices()
    microscope.camera.close()
    assert core.getLoadedDevices() == NOTHING
    assert not micromanager._cores


def test_closing_twice_takes_nothing_from_another_board(microscope: Microscope) -> None:
    other = opened()
    other.close()
    other.close()
    assert core_of(other) is core_of(microscope)
    assert "Camera" in core_of(microscope).getLoadedDevices()


def test_a_board_opens_again_after_it_was_closed() -> None:
    first = opened()
    first.axis.move_to(7.0)
    first.close()
    with opened() as second:
        assert core_of(second) is not core_of(first)
        assert second.axis.z_um == 0.0
        assert second.capture().fresh


def test_a_configuration_that_is_not_there_is_named() -> None:
    options = {"options": {"config": "/nowhere/mine.cfg"}}
    with pytest.raises(
        ProfileError, match=r"no Micro-Manager configuration /nowhere/mine.cfg; correct options.config"
    ):
        opened(options, options)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Device,Cam,Hamamatsu,HamCam", "Failed to load device adapter.*run `mmcore install`, or name the adapters'"),
        ("Device,Cam,DemoCamera,Leica", "failed to instantiate.*; correct the name of the device"),
    ],
)
def test_a_configuration_with_a_wrong_device_says_what_to_do(tmp_path: Path, line: str, said: str) -> None:
    options = demo_with(tmp_path, "Property,Core,Initialize,0", line)
    with pytest.raises(ProfileError, match=f"mine.cfg cannot be loaded: Line .*{said}"):
        opened(options, options)
    assert not micromanager._cores


def test_a_configuration_without_devices_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.cfg").write_text("")
    options = {"options": {"config": str(tmp_path / "empty.cfg")}}
    with pytest.raises(ProfileError, match="has no default stage; it has: none at all"):
        opened(options, options)
    assert not micromanager._cores


@pytest.mark.parametrize("label", ["Zyla", "Z"])
def test_a_camera_that_the_configuration_has_not_is_told_what_there_is(label: str) -> None:
    with pytest.raises(ProfileError, match=f"has no camera '{label}'; it has: Camera; name one as options.device"):
        opened(camera={"options": {"device": label}})
    assert not micromanager._cores


def test_a_stage_that_the_configuration_has_not_is_told_what_there_is() -> None:
    with pytest.raises(ProfileError, match="has no stage 'XY'; it has: Z;"):
        opened(axis={"options": {"device": "XY"}})
    assert not micromanager._cores


def test_a_table_that_forgets_the_configuration_gets_no_demonstration_device(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"camera.options.config and axis.options.config differ"):
        opened(camera=demo_with(tmp_path))


@pytest.mark.parametrize("table", ["camera", "axis"])
def test_an_unknown_option_is_refused(table: str) -> None:
    with pytest.raises(ProfileError, match=f"{table}.options: binnning: unknown key"):
        opened(**{table: {"options": {"binnning": 2}}})
    assert not micromanager._cores


def test_a_machine_without_the_sdk_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymmcore_plus", None)
    assert "pip install 'parfocal[mm]' (its wheels are for x86_64 only)" in micromanager.missing()
    with pytest.raises(MissingDriver, match=r"parfocal\[mm\]"):
        opened()


def test_a_machine_without_adapters_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micromanager._sdk(), "find_micromanager", lambda: None)
    with pytest.raises(MissingDriver, match="`mmcore install`"):
        opened()


def test_adapters_can_be_named(tmp_path: Path) -> None:
    folder = shutil.copytree(demo_folder(), tmp_path / "adapters")
    options = {"options": {"adapters": str(folder)}}
    with opened(options, options) as microscope:
        assert core_of(microscope).getDeviceAdapterSearchPaths() == (str(folder),)
        assert microscope.capture().fresh


def test_a_process_that_just_ends_is_not_aborted_and_leaves_no_log(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    environment = {k: v for k, v in os.environ.items() if k != "PYMM_LOG_FILE"}
    environment |= {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "PYTHONPATH": path}
    command = [sys.executable, "-c", OPENS_AND_LEAVES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0.0 30\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_board_that_does_not_open_lets_go_of_its_devices() -> None:
    with pytest.raises(AxisError, match=r"stands at 0.00 um, outside this axis's limits 10.0 to 100.0 um"):
        opened(axis={"low_um": 10})
    assert not micromanager._cores
