"""The Micro-Manager drivers on a real core: its demonstration devices, and the same with ways to break them."""

# ruff: noqa: N802 - a core is called by the names that Micro-Manager gave its calls

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firmware import micromanager
from firmware.axes.micromanager import AxisOptions, MicroManagerAxis
from firmware.cameras.micromanager import MicroManagerCamera
from firmware.clock import ManualClock
from firmware.errors import (
    AxisError,
    CameraError,
    CameraTimeout,
    MissingDriver,
    MotionStopped,
    NotTrusted,
    ProfileError,
)
from firmware.frames import Frame, FrameOptics
from firmware.microscope import Microscope, open_microscope
from firmware.profile import BoardProfile
from firmware.travel import Trust

if micromanager.missing():
    pytest.skip(micromanager.missing(), allow_module_level=True)

PATIENCE_S = 20.0
NOTHING = ("Core",)
EIGHT_BITS = "ConfigGroup,System,Startup,Camera,PixelType,8bit"
OPENS_AND_LEAVES = """
import logging
from firmware.microscope import open_microscope
from test_micromanager import board
microscope = open_microscope(board())
microscope.capture()
print(microscope.axis.z_um, logging.getLogger().level, flush=True)
microscope.axis._share.core.snapImage()
"""


def board(camera: dict[str, Any] | None = None, axis: dict[str, Any] | None = None) -> BoardProfile:
    """The demonstration devices; um_per_step is no round binary fraction."""
    camera_table = {"width_px": 512, "height_px": 512, "colour": False, "bits": 16, "exposure_ms": 5.0}
    axis_table = {"um_per_step": 0.1, "low_um": -100, "high_um": 100, "homing": "device", "settle_ms": 0}
    table = {
        "name": "mm",
        "description": "the demonstration devices",
        "objective": [{"name": "20x"}],
        "camera": {"driver": "micromanager"} | camera_table | (camera or {}),
        "axis": {"driver": "micromanager"} | axis_table | (axis or {}),
    }
    return BoardProfile.model_validate(table)


def opened(camera: dict[str, Any] | None = None, axis: dict[str, Any] | None = None) -> Microscope:
    return open_microscope(board(camera, axis), ManualClock())


def core_of(microscope: Microscope) -> Any:
    assert isinstance(microscope.axis, MicroManagerAxis)
    return microscope.axis._share.core


def demo_folder() -> Path:
    return Path(micromanager._sdk().find_micromanager())


def demo_with(folder: Path, *lines: str, exposure: str = "10000.0") -> dict[str, Any]:
    """Options for the demonstration configuration with more lines at its end, and another longest exposure."""
    text = (demo_folder() / "MMConfig_demo.cfg").read_text().replace("ExposureMs,10000.0", f"ExposureMs,{exposure}")
    path = folder / "mine.cfg"
    path.write_text("\n".join([text, *lines, ""]))
    return {"options": {"config": str(path)}}


@pytest.fixture
def microscope() -> Iterator[Microscope]:
    with opened() as demo:
        yield demo


class Bent:
    """A real core whose camera takes time on the manual clock, whose stage moves at a speed, and which breaks.

    `broken` holds calls that fail and what they say; `gate` keeps snaps from coming back while it is clear;
    `grid_um` is what the stage rounds positions to; `while_busy` is called whenever somebody asks if it is busy.
    """

    def __init__(self, core: Any, clock: ManualClock) -> None:
        self.core = core
        self.clock = clock
        self.broken: dict[str, str] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.snapped_s: list[float] = []
        self.shutter_s = 0.0
        self.speed_um_s, self.grid_um, self.short_um = math.inf, 0.0, 0.0
        self.stuck = False
        self.sent_um: list[float] = []
        self.stops = 0
        self.while_busy: Callable[[], None] = lambda: None
        self._way = (0.0, 0.0, 0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)

    def _break(self, name: str) -> None:
        if name in self.broken:
            raise RuntimeError(self.broken[name])

    def snapImage(self) -> None:
        self.snapped_s.append(self.clock.now_s())
        assert self.gate.wait(PATIENCE_S)
        self._break("snapImage")
        self.clock.sleep(self.shutter_s + self.core.getExposure() / 1e3)
        self.core.snapImage()

    def loadDevice(self, label: str, adapter: str, name: str) -> None:
        self._break("loadDevice")
        self.core.loadDevice(label, adapter, name)
        self.broken.pop("snapImage", None)

    def setPosition(self, label: str, to_um: float) -> None:
        self._break("setPosition")
        self.sent_um.append(to_um)
        end_um = math.floor(to_um / self.grid_um) * self.grid_um if self.grid_um else to_um
        self._way = (self.getPosition(label), end_um - self.short_um, self.clock.now_s())

    def getPosition(self, _label: str) -> float:
        self._break("getPosition")
        start_um, end_um, began_s = self._way
        if math.isinf(self.speed_um_s):
            return end_um
        gone_um = min(self.speed_um_s * (self.clock.now_s() - began_s), abs(end_um - start_um))
        return start_um + math.copysign(gone_um, end_um - start_um)

    def deviceBusy(self, label: str) -> bool:
        self.while_busy()
        self._break("deviceBusy")
        return self.stuck or self.getPosition(label) != self._way[1]

    def stop(self, label: str) -> None:
        self.stops += 1
        self._break("stop")
        self.put(self.getPosition(label))

    def put(self, um: float) -> None:
        """Move the stage by hand."""
        self._way = (um, um, self.clock.now_s())


@pytest.fixture
def bent() -> Iterator[Bent]:
    """A bent core; nothing that hangs outlives the test."""
    share = micromanager.share(board(), micromanager.CoreOptions())
    broken = Bent(share.core, ManualClock())
    yield broken
    broken.gate.set()
    for thread in threading.enumerate():
        if thread.name == "parfocal-snap":
            thread.join(PATIENCE_S)
    share.release()


def camera_of(bent: Bent, **table: Any) -> MicroManagerCamera:
    return MicroManagerCamera(board(camera=table), bent.clock, micromanager.shared(bent), "Camera")


def axis_of(bent: Bent, **table: Any) -> MicroManagerAxis:
    """An axis that knows where it is, unless it has a window."""
    profile = board(axis=table)
    options = AxisOptions.model_validate(profile.axis.options)
    axis = MicroManagerAxis(profile, bent.clock, micromanager.shared(bent), "Z", options)
    if profile.axis.homing == "device":
        axis.home()
    return axis


def look(camera: MicroManagerCamera, not_before_s: float = 0.0) -> Frame:
    return camera.capture(not_before_s, lambda _time_s: 0.0, FrameOptics())


# The core


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


# The camera


def test_a_frame_is_what_the_board_file_promises(microscope: Microscope) -> None:
    frame = microscope.capture()
    assert frame.pixels.shape == (512, 512)
    assert frame.pixels.dtype == np.uint16
    assert frame.exposure_ms == pytest.approx(5.0)
    assert frame.settings == {"device": "Camera"}
    assert frame.fresh
    assert frame.pixels.std() > 0


def test_an_eight_bit_camera_gives_eight_bits(tmp_path: Path) -> None:
    options = demo_with(tmp_path, EIGHT_BITS)
    with opened(options | {"bits": 8}, options) as microscope:
        assert microscope.capture().pixels.dtype == np.uint8


def test_colours_come_as_red_green_blue(tmp_path: Path) -> None:
    options = demo_with(tmp_path, "Property,Camera,PixelType,32bitRGB", "Property,Camera,Mode,Color Test Pattern")
    with opened(options | {"bits": 8, "colour": True}, options) as microscope:
        pixels = microscope.capture().pixels
        raw = core_of(microscope).getImage(fix=False)
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, np.stack([raw >> 16 & 255, raw >> 8 & 255, raw & 255], axis=-1))
    assert not np.array_equal(pixels[..., 0], pixels[..., 2])


def test_a_camera_of_another_size_than_the_board_file_says_is_refused() -> None:
    with (
        opened(camera={"width_px": 640}) as microscope,
        pytest.raises(CameraError, match=r"gave \(512, 512\) uint16 where the board file promises \(512, 640\)"),
    ):
        microscope.capture()


def test_every_frame_is_exposed_after_it_was_asked_for(bent: Bent) -> None:
    camera = camera_of(bent)
    first, second = look(camera, 3.0), look(camera, 5.0)
    assert bent.snapped_s == [3.0, 5.0]
    assert [first.captured_at_s, second.captured_at_s] == pytest.approx([3.0025, 5.0025])
    assert first.fresh
    assert second.fresh


def test_a_shutter_that_opens_slowly_does_not_shift_the_middle_of_the_exposure(bent: Bent) -> None:
    bent.shutter_s = 0.5
    assert look(camera_of(bent)).captured_at_s == pytest.approx(0.5025)


def test_a_camera_that_ignores_its_exposure_gives_frames_that_say_so(tmp_path: Path) -> None:
    options = demo_with(tmp_path, exposure="4.0")
    with opened(options, options) as microscope:
        assert microscope.capture().exposure_ms == pytest.approx(10.0)


def test_a_snap_that_does_not_come_back_is_a_timeout_and_the_next_one_recovers(bent: Bent) -> None:
    camera = camera_of(bent)
    bent.gate.clear()
    with pytest.raises(TimeoutError):
        camera._next(0.01)
    bent.gate.set()
    frame = look(camera, 9.0)
    assert len(bent.snapped_s) == 2
    assert bent.snapped_s[1] >= 9.0
    assert frame.fresh


def test_a_snap_that_comes_back_late_and_broken_has_the_camera_started_anew(bent: Bent) -> None:
    camera = camera_of(bent)
    bent.gate.clear()
    bent.broken["snapImage"] = "the cable is loose"
    with pytest.raises(TimeoutError):
        camera._next(0.01)
    bent.gate.set()
    assert look(camera).fresh


def test_a_camera_that_still_hangs_says_so_and_is_not_asked_again(bent: Bent) -> None:
    camera = camera_of(bent)
    bent.gate.clear()
    with pytest.raises(TimeoutError):
        camera._next(0.01)
    with pytest.raises(CameraTimeout, match=r"'Camera' hangs: .* switch it off and on, and start parfocal again"):
        camera._next(0.01)
    assert len(bent.snapped_s) == 1


def test_a_device_that_hangs_is_unloaded_when_it_comes_back(bent: Bent) -> None:
    camera = camera_of(bent)
    bent.gate.clear()
    with pytest.raises(TimeoutError):
        camera._next(0.01)
    assert camera._late is not None
    camera.close()
    assert "Camera" in bent.getLoadedDevices()
    bent.gate.set()
    camera._late.join(PATIENCE_S)
    assert bent.getLoadedDevices() == NOTHING


def test_a_camera_that_failed_is_started_anew_and_the_stage_is_left_alone(bent: Bent) -> None:
    bent.core.setPosition("Z", 12.0)
    camera = camera_of(bent)
    bent.broken["snapImage"] = 'Error in device "Camera": (Error message unavailable) (11)'
    with pytest.raises(CameraError, match=r"'Camera' took no frame: .*\(11\); look the number up"):
        look(camera)
    frame = look(camera)
    assert frame.fresh
    assert frame.exposure_ms == pytest.approx(5.0)
    assert bent.core.getPosition("Z") == 12.0


def test_a_camera_that_is_started_anew_is_set_up_as_the_configuration_says(tmp_path: Path) -> None:
    options = demo_with(tmp_path, EIGHT_BITS, "ConfigGroup,System,Startup,Z,Position,50", exposure="70.0")
    with opened(options | {"bits": 8}, options) as microscope:
        microscope.axis.move_to(10.0)
        core = core_of(microscope)
        assert isinstance(microscope.camera, MicroManagerCamera)
        microscope.camera._failed = True
        assert microscope.capture().pixels.dtype == np.uint8
        assert core.getPosition("Z") == 10.0
        assert core.getProperty("Camera", "MaximumExposureMs") == "70.0000"
        assert core.getParentLabel("Camera") == "DHub"


def test_a_camera_that_does_not_start_again_says_so_until_it_does(bent: Bent) -> None:
    camera = camera_of(bent)
    bent.core.unloadDevice("Camera")
    with pytest.raises(CameraError, match=r"took no frame: Camera not loaded or initialized.; the device is gone"):
        look(camera)
    bent.broken["loadDevice"] = "no such port"
    with pytest.raises(CameraError, match="failed and does not start again: no such port"):
        look(camera)
    del bent.broken["loadDevice"]
    assert look(camera).fresh


def test_a_closed_camera_captures_nothing(bent: Bent) -> None:
    camera = camera_of(bent)
    camera.close()
    with pytest.raises(CameraError, match="closed"):
        look(camera)


# The stage


def test_moves_of_the_demonstration_stage_end_where_they_were_asked_to(microscope: Microscope) -> None:
    move = microscope.axis.move_to(12.3)
    assert move.to_um == pytest.approx(12.3)
    assert core_of(microscope).getPosition("Z") == pytest.approx(12.3)
    assert microscope.capture().z_um == pytest.approx(12.3)


def test_opening_asks_the_device_where_it_is_and_moves_nothing(bent: Bent) -> None:
    bent.put(33.3)
    axis = axis_of(bent)
    assert axis.z_um == pytest.approx(33.3)
    assert axis.trust is Trust.HOMED
    assert bent.sent_um == []


def test_a_stage_that_is_moving_is_waited_for_before_it_is_asked(bent: Bent) -> None:
    bent.speed_um_s = 100.0
    bent.setPosition("Z", 20.0)
    assert axis_of(bent).z_um == pytest.approx(20.0)


def test_the_board_file_says_which_way_a_stage_counts(bent: Bent) -> None:
    bent.put(5.0)
    axis = axis_of(bent, direction=-1)
    assert axis.z_um == pytest.approx(-5.0)
    axis.move_to(20.0)
    assert bent.sent_um == pytest.approx([-20.0])
    assert axis.z_um == pytest.approx(20.0)


def test_a_stage_outside_the_limits_is_not_driven(bent: Bent) -> None:
    bent.put(3000.0)
    with pytest.raises(AxisError, match=r"stands at 3000.00 um, outside this axis's limits -100.0 to 100.0 um; bring"):
        axis_of(bent)
    assert bent.sent_um == []


def test_a_board_that_does_not_open_lets_go_of_its_devices() -> None:
    with pytest.raises(AxisError, match=r"stands at 0.00 um, outside this axis's limits 10.0 to 100.0 um"):
        opened(axis={"low_um": 10})
    assert not micromanager._cores


def test_a_stage_has_no_switch_to_home_to() -> None:
    with pytest.raises(ProfileError, match='set homing = "device"'):
        opened(axis={"homing": "switch"})
    assert not micromanager._cores


def test_roundings_of_the_device_do_not_add_up(bent: Bent) -> None:
    bent.grid_um = 0.03
    axis = axis_of(bent)
    for count in range(3000):
        axis.move_by(0.1 if count % 3 else -0.1)
        assert bent.getPosition("Z") == pytest.approx(axis.z_um, abs=0.031)
    assert axis.z_um == pytest.approx(100.0)


def test_moves_take_as_long_as_the_stage_needs(bent: Bent) -> None:
    bent.speed_um_s = 100.0
    axis = axis_of(bent)
    axis.move_to(50.0)
    assert axis.at_rest_since_s == pytest.approx(0.5, abs=0.02)
    assert bent.getPosition("Z") == pytest.approx(50.0)


def test_a_stop_from_another_thread_halts_the_stage_on_its_way(bent: Bent) -> None:
    bent.speed_um_s = 100.0
    axis = axis_of(bent)

    def stop_at_twenty() -> None:
        if bent.getPosition("Z") >= 20.0 and not bent.stops:
            thread = threading.Thread(target=axis.stop)
            thread.start()
            thread.join(PATIENCE_S)

    bent.while_busy = stop_at_twenty
    with pytest.raises(MotionStopped, match=r"rests at 2\d\.\d\d um"):
        axis.move_to(80.0)
    assert (bent.stops, axis.trust) == (1, Trust.HOMED)
    assert axis.z_um == pytest.approx(bent.getPosition("Z"), abs=0.05)
    assert axis.z_um == pytest.approx(20.0, abs=1.1)


def test_a_stop_just_before_a_move_sends_nothing(bent: Bent) -> None:
    axis = axis_of(bent)
    axis.stop()
    assert axis._drive(100, axis._halt) == 0
    assert bent.sent_um == []


def test_after_a_stop_the_axis_goes_on_from_where_it_was_halted(bent: Bent) -> None:
    bent.speed_um_s = 100.0
    axis = axis_of(bent)
    bent.while_busy = lambda: axis.stop() if bent.getPosition("Z") >= 20.0 else None
    with pytest.raises(MotionStopped):
        axis.move_to(80.0)
    bent.while_busy = lambda: None
    axis.release()
    assert axis.move_to(30.0).to_um == pytest.approx(30.0)
    assert bent.getPosition("Z") == pytest.approx(30.0)


def test_a_stage_that_cannot_be_stopped_says_so_once_it_rests(bent: Bent) -> None:
    bent.speed_um_s, bent.broken["stop"] = 100.0, "Operation not supported"
    axis = axis_of(bent)
    bent.while_busy = axis.stop
    with pytest.raises(AxisError, match="would not stop, and went on to its end: Operation not supported"):
        axis.move_to(80.0)
    assert (bent.getPosition("Z"), axis.trust) == (80.0, Trust.LOST)


def test_a_stage_that_stays_busy_is_stopped_and_no_longer_trusted(bent: Bent) -> None:
    axis = axis_of(bent, speed_um_s=50.0, options={"busy_timeout_s": 2.0})
    bent.stuck = True
    with pytest.raises(AxisError, match=r"still busy after 3.0 s; check that it is free to move"):
        axis.move_to(50.0)
    assert bent.clock.now_s() == pytest.approx(3.0, abs=0.02)
    assert (bent.stops, axis.trust) == (1, Trust.LOST)


@pytest.mark.parametrize("call", ["setPosition", "deviceBusy", "getPosition"])
def test_a_stage_that_fails_is_no_longer_trusted(bent: Bent, call: str) -> None:
    axis = axis_of(bent)
    bent.broken[call] = 'Error in device "Z":  Serial\nport closed (14)'
    with pytest.raises(AxisError, match=r"the stage 'Z' failed: Error in device \"Z\": Serial port closed \(14\)"):
        axis.move_to(5.0)
    assert axis.trust is Trust.LOST
    assert bent.stops == (0 if call == "getPosition" else 1)


def test_a_stage_that_vanishes_says_so(microscope: Microscope) -> None:
    core_of(microscope).unloadDevice("Z")
    with pytest.raises(AxisError, match="the stage 'Z' failed: No device with label \"Z\"; the device is gone"):
        microscope.axis.move_to(5.0)
    assert microscope.axis.trust is Trust.LOST


def test_a_stage_that_ends_elsewhere_is_no_longer_trusted_but_knows_where_it_is(bent: Bent) -> None:
    axis = axis_of(bent)
    bent.short_um = 1.0
    with pytest.raises(AxisError, match="did not send 10 of 50 steps"):
        axis.move_to(5.0)
    assert axis.z_um == pytest.approx(4.0)
    assert axis.trust is Trust.LOST


def test_a_stage_that_was_moved_by_hand_is_not_driven_until_it_is_homed(bent: Bent) -> None:
    axis = axis_of(bent)
    bent.put(40.0)
    with pytest.raises(AxisError, match=r"moved by 40.00 um since its last move .* nothing was sent; home it"):
        axis.move_to(5.0)
    assert bent.sent_um == []
    axis.home()
    assert axis.z_um == pytest.approx(40.0)


def test_an_axis_without_trust_moves_a_little_from_where_the_device_is(bent: Bent) -> None:
    axis = axis_of(bent)
    bent.put(40.0)
    axis.distrust()
    axis.move_by(2.0)
    assert bent.sent_um == pytest.approx([42.0])
    with pytest.raises(NotTrusted):
        axis.move_by(4.0)


def test_an_axis_with_a_window_counts_from_where_its_zero_was_set(bent: Bent) -> None:
    bent.put(731.05)
    axis = axis_of(bent, homing="window", direction=-1)
    axis.set_zero()
    axis.move_to(10.0)
    axis.set_zero()
    axis.move_to(3.0)
    assert bent.sent_um == pytest.approx([721.05, 718.05])
    assert axis.z_um == pytest.approx(3.0)


def test_a_measured_step_changes_what_a_move_is_worth_but_not_what_the_device_is_sent(bent: Bent) -> None:
    bent.put(10.0)
    axis = axis_of(bent, um_per_step=0.11, nominal_um_per_step=0.1)
    assert axis.z_um == pytest.approx(11.0)
    axis.move_to(22.0)
    assert bent.sent_um == pytest.approx([20.0])


def test_a_position_that_the_device_refuses_is_an_axis_error() -> None:
    with opened(axis={"high_um": 1e6}) as microscope:
        with pytest.raises(AxisError, match=r"Position out of range \(103\)"):
            microscope.axis.move_to(1e5)
        assert microscope.axis.trust is Trust.LOST
