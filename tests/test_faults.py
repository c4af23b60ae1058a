"""Faults injected one by one: for each the message, the state of the hardware, and the way back.

The table in docs/faults.md is what these tests found; `python tests/test_faults.py` writes it anew.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from conftest import small_board
from gpiozero import InputDevice
from oracle import oracle
from physical_stage import DIRECTION, ENABLE, Stage, a_stage, board, opened, stage_behind_pins

from edge_app.controller import Controller
from edge_app.job import Ending, Look
from edge_app.measured import Memory
from edge_app.mechanics import Mechanics
from firmware import ledger
from firmware.clock import ManualClock
from firmware.errors import AxisError
from firmware.gpio import libgpiod
from firmware.microscope import Microscope, open_microscope
from firmware.travel import Trust
from firmware.zaxis import ZAxis

CURE = r"[;:,] .*\b(check|mend|free|add|raise|look|shorten|gives|home|use|stuck)\b"
PAGE = Path(__file__).parent.parent / "docs" / "faults.md"
HEAD = """# Faults, and the way back

What happens when something fails, one fault at a time. The tests inject each of them (`tests/test_faults.py`), and
this table is what they found.

| what fails | what parfocal says | where the hardware is left | the way back, tried |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    fault: str
    message: str
    hardware: str
    way_back: str

    def __str__(self) -> str:
        return f"| {self.fault} | {self.message} | {self.hardware} | {self.way_back} |"


def said(act: Callable[[], object]) -> str:
    """The message of the error that an act ends in."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is, its class is told
        act()
    return f"{type(caught.value).__name__}: {' '.join(str(caught.value).split())}"


def silent(_number: int, _look: Look, _decision: object) -> None:
    return


@contextmanager
def simulated() -> Iterator[tuple[Microscope, Controller]]:
    """The small simulated board, 6 um above focus, with a model that knows the truth."""
    with open_microscope(small_board(), ManualClock()) as microscope:
        assert microscope.world is not None
        microscope.world.load_field(3, "tissue")
        for _ in range(2):
            microscope.axis.move_by(6.0 - microscope.world.truth_um())
        yield microscope, Controller(microscope, oracle(microscope.world))


def at_rest(axis: ZAxis, start_um: float) -> str:
    moved_um = axis.z_um - start_um
    where = "at its start" if abs(moved_um) < 0.051 else f"{moved_um:+.1f} um from its start"
    return f"axis {where}, {axis.trust.value}"


def motor(stage: Stage, axis: ZAxis, pulses: int) -> str:
    power = "without power" if stage.pins[ENABLE]._state else "powered"
    went = stage.pulses - pulses
    return f"motor {power} after {went} pulses; {axis.trust.value}"


def camera_gone() -> Row:
    with simulated() as (microscope, controller):
        start_um, capture = microscope.axis.z_um, microscope.camera._next
        left = iter(range(1))

        def unplugged(timeout_s: float) -> Any:
            if next(left, None) is None:
                raise OSError("no such device")
            return capture(timeout_s)

        microscope.camera._next = unplugged  # type: ignore[method-assign]
        message = said(lambda: controller.focus("single_shot", silent))
        hardware = at_rest(microscope.axis, start_um)
        microscope.camera._next = capture  # type: ignore[method-assign]
        assert controller.focus("single_shot", silent).ending is Ending.FOCUSED
    return Row("camera unplugged in a focus job", message, hardware, "plugged in again: the next job focuses")


def frames_missing() -> Row:
    with simulated() as (microscope, controller):
        start_um, capture = microscope.axis.z_um, microscope.camera._next

        def stalled(timeout_s: float) -> Any:
            microscope.clock.sleep(timeout_s)
            raise TimeoutError

        microscope.camera._next = stalled  # type: ignore[method-assign]
        message = said(lambda: controller.focus("single_shot", silent))
        hardware = at_rest(microscope.axis, start_um)
        microscope.camera._next = capture  # type: ignore[method-assign]
        assert controller.focus("single_shot", silent).ending is Ending.FOCUSED
    return Row("camera gives no frames", message, hardware, "frames come again: the next job focuses")


def frames_frozen() -> Row:
    with simulated() as (microscope, controller):
        start_um, capture = microscope.axis.z_um, microscope.camera._next
        old = capture(1.0)
        microscope.camera._next = lambda timeout_s: old  # type: ignore[method-assign]
        outcome = controller.focus("single_shot", silent)
        hardware = at_rest(microscope.axis, start_um)
        assert outcome.ending is Ending.STAYED
        microscope.camera._next = capture  # type: ignore[method-assign]
        assert controller.focus("single_shot", silent).ending is Ending.FOCUSED
    said_so = f"{outcome.verdict.name}: {outcome.sentence}"
    return Row("camera repeats an old frame", said_so, hardware, "fresh frames again: the next job focuses")


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def disk_full_for_positions() -> Row:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.axis"
        with mock.patch.object(os, "posix_fallocate", full):
            message = said(lambda: ledger.File(path)).replace(folder, "STATE")
            assert ledger.open_ledger(path) is None
        first = ledger.open_ledger(path)
        assert first is not None
        first.close()
    state = "the board works; its axis is homed after every start (a warning in the log, no error)"
    return Row(
        "disk full at the first start", message, state, "space freed: positions are recorded from the next start on"
    )


def disk_full_for_mechanics() -> Row:
    found = Mechanics(1, 2.0, (1.9, 2.1), 0.05, (0.0495, 0.0505), 3, 70, 0.02, "")
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(small_board(), Path(folder))
        record = memory.record_of(found, "oracle@1", "2026-01-01T00:00:00+00:00")
        with mock.patch.object(os, "fsync", full):
            message = said(lambda: memory.keep(record)).replace(folder, "STATE")
        assert not list(Path(folder).iterdir())
        assert memory.profile == small_board()
        assert memory.keep(record) is not None
    return Row(
        "disk full while mechanics are stored", message, "the axis goes by the old mechanics", "space freed: stored"
    )


def switch_stuck() -> Row:
    stage = a_stage(stuck=True)
    with opened(stage) as axis:
        message = said(axis.home)
        hardware = motor(stage, axis, 0)
        stage.stuck = False
        axis.home()
        assert axis.trust is Trust.HOMED
    return Row("limit switch stuck closed", message, hardware, "switch mended: homing works")


def switch_never_closes() -> Row:
    stage = a_stage(top=10**6, bottom=-(10**6))
    with opened(stage) as axis:
        message = said(axis.home)
        hardware = motor(stage, axis, 0)
        stage.top = stage.position + 1000
        axis.home()
        assert axis.trust is Trust.HOMED
    return Row("limit switch never closes", message, hardware, "switch connected: homing works")


def ran_into_a_switch() -> Row:
    stage = a_stage()
    with opened(stage) as axis:
        axis.home()
        axis.move_to(0.0)
        stage.top = stage.position + 300
        pulses = stage.pulses
        message = said(lambda: axis.move_to(50.0))
        hardware = motor(stage, axis, pulses)
        assert stage.position == stage.top
        axis.move_by(-1.0)
        axis.home()
    return Row("limit switch closes on the way", message, hardware, "1 um away from the switch, then homing works")


def motor_fault() -> Row:
    stage = a_stage()
    with opened(stage) as axis:
        axis.home()
        stage.faulty, pulses = True, stage.pulses
        message = said(lambda: axis.move_to(0.0))
        hardware = motor(stage, axis, pulses)
        stage.faulty = False
        axis.home()
        assert axis.trust is Trust.HOMED
    return Row("fault line of the motor driver", message, hardware, "fault mended: homing works")


class SlowClock(ManualClock):
    """A machine so busy that every fortieth waking is 5 ms late."""

    def __init__(self) -> None:
        super().__init__()
        self.wakings = 0

    def wake_at(self, time_s: float) -> None:
        self.wakings += 1
        super().wake_at(time_s + (0.005 if self.wakings % 40 == 0 else 0.0))


def pulses_late() -> Row:
    stage = Stage(SlowClock(), shortest_s=0.05 / 401.0)
    with opened(stage) as axis:
        axis.home()
        began_s, pulses = stage.clock.now_s(), stage.pulses
        axis.move_to(-50.0)
        took_s = stage.clock.now_s() - began_s
        timing = axis.timing
        assert stage.pulses - pulses == 2800
        assert stage.lost == 0
        assert timing.late > 10
    message = (
        f"no error; {timing.late} pulses late, worst {timing.worst_s * 1e3:.0f} ms, {timing.ramped_again} new ramps"
    )
    hardware = f"2800 pulses asked for, 2800 sent, none too soon for the motor; the move took {took_s:.1f} s"
    return Row("machine too busy: pulses come late", message, hardware, "not needed")


def motor_too_slow() -> Row:
    stage = a_stage(shortest_s=0.05 / 150.0)
    with opened(stage, board({"homing": "window"})) as axis:
        axis.set_zero()
        axis.move_to(-50.0)
        lost_um = stage.lost * 0.05
        axis._limits = axis._limits.slower(100.0)
        stage.lost = 0
        axis.move_to(-40.0)
        assert stage.lost == 0
    state = f"{lost_um:.0f} of 50 um lost, unseen by the pins"
    cure = (
        "speed_um_s = 100: no step is lost; a focus job with a model notices lost steps (`tests/test_controller.py`)"
    )
    return Row(
        "motor stalls above 150 um/s", "no error from the axis: a stepper does not say that it slips", state, cure
    )


def no_permission() -> Row:
    class Closed:
        """A chip that this user may not open."""

        def __init__(self, path: str) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", path)

    import gpiod

    low = board(options={"gpio": "libgpiod", "chip": "pinctrl-rp1"})
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "gpiochip0").touch()
        with (
            mock.patch.object(libgpiod, "DEVICES", Path(folder)),
            mock.patch.object(gpiod, "is_gpiochip_device", return_value=True),
            mock.patch.object(gpiod, "Chip", Closed),
        ):
            message = said(lambda: open_microscope(low, ManualClock())).replace(folder, "/dev")
    with opened(a_stage()) as axis:
        axis.home()
    return Row(
        "no permission for the GPIO chip", message, "nothing was opened", "in the group: the axis opens and homes"
    )


def line_taken() -> Row:
    stage = a_stage()
    with stage_behind_pins(stage):
        with InputDevice(DIRECTION, pull_up=None, active_state=True):
            message = said(lambda: open_microscope(board(), stage.clock))
        hardware = "no line is held"
        with open_microscope(board(), stage.clock) as microscope:
            microscope.axis.home()
    return Row("GPIO line in use", message, hardware, "line free: the axis opens and homes")


def ledger_broken() -> Row:
    class Broken:
        """A disk that takes nothing any more."""

        def read(self) -> bytes:
            return b""

        def write(self, record: bytes) -> None:
            raise ledger._unwritable(Path("STATE/bench.axis"), OSError(errno.EIO, "Input/output error"))

        def close(self) -> None:
            return

    stage = a_stage()
    with opened(stage) as axis:
        axis.home()
        axis.remember(ledger.Ledger(Broken()))
        pulses = stage.pulses
        message = said(lambda: axis.move_to(0.0))
        with suppress(AxisError):
            axis.distrust()
        hardware = motor(stage, axis, pulses)
    with tempfile.TemporaryDirectory() as folder, opened(stage) as axis:
        mended = ledger.open_ledger(Path(folder) / "bench.axis")
        assert mended is not None
        axis.remember(mended)
        axis.home()
        axis.move_to(0.0)
    return Row(
        "disk broken: positions cannot be recorded", message, hardware, "disk mended and restarted: homing works"
    )


FAULTS = (
    camera_gone,
    frames_missing,
    frames_frozen,
    disk_full_for_positions,
    disk_full_for_mechanics,
    ledger_broken,
    switch_stuck,
    switch_never_closes,
    ran_into_a_switch,
    motor_fault,
    pulses_late,
    motor_too_slow,
    no_permission,
    line_taken,
)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_as_the_table_says(fault: Callable[[], Row]) -> None:
    row = str(fault())
    assert row in PAGE.read_text(encoding="utf-8").splitlines(), f"docs/faults.md does not have: {row}"


def test_the_table_has_no_other_lines() -> None:
    lines = PAGE.read_text(encoding="utf-8").removeprefix(HEAD).splitlines()
    assert len(lines) == len(FAULTS)


@pytest.mark.parametrize("line", PAGE.read_text(encoding="utf-8").removeprefix(HEAD).splitlines())
def test_a_message_says_what_to_do(line: str) -> None:
    message = line.split(" | ")[1]
    assert "no error" in message or re.search(CURE, message)


if __name__ == "__main__":
    PAGE.write_text(HEAD + "".join(f"{fault()}\n" for fault in FAULTS), encoding="utf-8")
