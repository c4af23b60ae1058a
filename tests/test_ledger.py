"""The ledger: after a power-off, a kill or a full disk a position is right, or known to be unknown."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from counter import an_axis, profile
from physical_stage import board

from firmware import ledger as ledgers
from firmware.clock import ManualClock
from firmware.errors import AxisError, NotTrusted
from firmware.ledger import File, Ledger, Rest, open_ledger
from firmware.microscope import axis_identity, open_microscope
from firmware.profile import BoardProfile, load_profile
from firmware.travel import Trust

HOME = Rest(12, 3, "HOMED")


class PowerCut(BaseException):
    """The lights go out: nothing may catch this."""


class Mains:
    """Power for a clock and a disk; it goes out for good after so many uses of either."""

    def __init__(self, uses: int = 10**9) -> None:
        self.left = uses

    @property
    def out(self) -> bool:
        return self.left < 0

    def use(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise PowerCut


class Disk:
    """A sector that survives; a write that is cut leaves it old, new, or half of each."""

    def __init__(self, rng: random.Random) -> None:
        self.content = b""
        self.mains = Mains()
        self._rng = rng

    def read(self) -> bytes:
        return self.content

    def write(self, record: bytes) -> None:
        if self.mains.out:
            raise PowerCut
        try:
            self.mains.use()
        except PowerCut:
            cut = self._rng.choice([0, self._rng.randrange(len(record)), len(record)])
            self.content = record[:cut] + self.content[cut:]
            raise
        self.content = record

    def close(self) -> None:
        pass


class MainsClock(ManualClock):
    """A clock that stops for good when the power goes."""

    def __init__(self, mains: Mains) -> None:
        super().__init__()
        self._mains = mains

    def sleep(self, duration_s: float) -> None:
        self._mains.use()
        super().sleep(duration_s)


def self_locking() -> BoardProfile:
    board = load_profile("simulated_tiny")
    changes = {"holds_without_power": True, "home_at_start": False}
    return board.model_copy(update={"axis": board.axis.model_copy(update=changes)})


def life(disk: Disk, stage_um: float, rng: random.Random) -> tuple[str, float]:
    """Start where the stage stands, say what is believed, move until the power goes; where the stage is then."""
    disk.mains = Mains()
    clock = MainsClock(disk.mains)
    microscope = open_microscope(self_locking(), clock)
    assert microscope.world is not None
    stage, axis = microscope.world.stage, microscope.axis
    stage.motor_um = stage_um
    axis.remember(Ledger(disk))
    belief = "unknown"
    if axis.trusted:
        belief = "right" if abs(axis.z_um - stage_um) < 1e-6 else f"WRONG: said {axis.z_um}, is {stage_um}"
    disk.mains.left = rng.randrange(150)
    try:
        if not axis.trusted:
            axis.home()
        while True:
            axis.move_to(rng.uniform(-20, 20))
    except PowerCut:
        return belief, stage.motor_um


def test_a_power_off_at_any_instant_leaves_the_position_right_or_known_to_be_unknown() -> None:
    rng = random.Random(1)
    disk, stage_um, beliefs = Disk(rng), 0.0, Counter[str]()
    for _ in range(300):
        belief, stage_um = life(disk, stage_um, rng)
        beliefs[belief] += 1
    assert set(beliefs) == {"right", "unknown"}, beliefs
    assert min(beliefs.values()) > 10, beliefs


def test_a_kill_at_any_instant_leaves_the_position_right_or_known_to_be_unknown(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_axis.py")
    environment = os.environ | {"PYTHONPATH": str(script.parent.parent)}
    command = [sys.executable, str(script), str(tmp_path), "51", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    beliefs = Counter(done.stdout.split("\n")[:-1])
    assert set(beliefs) == {"right", "unknown"}, f"{beliefs} {done.stderr}"
    assert beliefs.total() == 51


def test_a_rest_is_found_again(tmp_path: Path) -> None:
    first = Ledger(File(tmp_path / "axis"))
    first.at_rest("motor", HOME)
    first.close()
    assert Ledger(File(tmp_path / "axis")).last("motor") == HOME


def test_steps_of_other_mechanics_are_not_believed(tmp_path: Path) -> None:
    book = Ledger(File(tmp_path / "axis"))
    book.at_rest("motor", HOME)
    assert book.last("another motor") is None


def test_a_move_that_was_begun_is_not_believed(tmp_path: Path) -> None:
    book = Ledger(File(tmp_path / "axis"))
    book.at_rest("motor", HOME)
    book.under_way()
    assert book.last("motor") is None


@pytest.mark.parametrize("byte", range(0, 90, 7))
def test_a_flipped_byte_is_not_believed(tmp_path: Path, byte: int) -> None:
    path = tmp_path / "axis"
    book = Ledger(File(path))
    book.at_rest("motor", HOME)
    book.close()
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)
    assert Ledger(File(path)).last("motor") is None


@pytest.mark.parametrize("content", [b"", b"\0" * 512, b"\n", b"nonsense", b"00000000 \n"])
def test_what_is_no_record_is_not_believed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "axis"
    path.write_bytes(content)
    assert Ledger(File(path)).last("motor") is None


def worn_out(_: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_a_rest_whose_write_failed_half_way_is_not_left_standing_while_the_axis_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Ledger(File(tmp_path / "axis"))
    book.under_way()
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", worn_out)
        with pytest.raises(AxisError, match="cannot be recorded"):
            book.at_rest("motor", HOME)
    book.under_way()
    assert book.last("motor") is None


def test_a_record_that_cannot_be_locked_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Ledger(File(tmp_path / "axis"))
    first.at_rest("motor", HOME)
    first.close()

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as nfs:
        nfs.setattr("fcntl.flock", no_locks)
        with pytest.raises(AxisError, match="local disk"):
            File(tmp_path / "axis")
    assert Ledger(File(tmp_path / "axis")).last("motor") == HOME


def test_one_axis_has_one_record_whatever_the_board_file_calls_the_board() -> None:
    copy = board().model_copy(update={"name": "my_copy"})
    assert axis_identity(copy) == axis_identity(board()) == "step_dir-mock-17-27"


def test_one_axis_has_one_master(tmp_path: Path) -> None:
    first = File(tmp_path / "axis")
    with pytest.raises(AxisError, match="another parfocal moves this axis"):
        File(tmp_path / "axis")
    first.close()
    File(tmp_path / "axis").close()


def test_a_disk_that_is_full_at_the_first_start_is_warned_of_and_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert open_ledger(tmp_path / "axis") is None
    assert "disk" in caplog.text
    assert not (tmp_path / "axis").exists()


def test_an_axis_whose_moves_cannot_be_recorded_does_not_move() -> None:
    axis = an_axis(holds_without_power=True)

    class Broken(Disk):
        def write(self, record: bytes) -> None:
            raise AxisError("the axis's position cannot be recorded; nothing moved")

    axis.home()
    axis.remember(Ledger(Broken(random.Random(0))))
    with pytest.raises(AxisError, match="nothing moved"):
        axis.move_to(-5.0)
    assert axis.position == 0


def test_a_full_disk_does_not_stop_a_ledger_that_has_its_place(tmp_path: Path) -> None:
    book = Ledger(File(tmp_path / "axis"))
    size = (tmp_path / "axis").stat().st_size
    book.under_way()
    book.at_rest("motor", HOME)
    assert (tmp_path / "axis").stat().st_size == size == ledgers._SIZE


def test_an_axis_goes_on_where_it_rested(tmp_path: Path) -> None:
    with open_microscope(self_locking(), ManualClock(), tmp_path) as first:
        first.axis.home()
        first.axis.move_to(7.0)
    with open_microscope(self_locking(), ManualClock(), tmp_path) as second:
        assert second.axis.z_um == pytest.approx(7.0)
        assert second.axis.trust is Trust.HOMED


def test_a_stage_that_may_sink_without_power_is_not_believed(tmp_path: Path) -> None:
    board = self_locking()
    sinking = board.model_copy(update={"axis": board.axis.model_copy(update={"holds_without_power": False})})
    with open_microscope(sinking, ManualClock(), tmp_path) as first:
        first.axis.home()
    with open_microscope(sinking, ManualClock(), tmp_path) as second, pytest.raises(NotTrusted):
        second.axis.move_to(-20.0)


def test_a_distrusted_position_stays_so_after_a_restart(tmp_path: Path) -> None:
    with open_microscope(self_locking(), ManualClock(), tmp_path) as first:
        first.axis.home()
        first.axis.distrust()
    with open_microscope(self_locking(), ManualClock(), tmp_path) as second:
        assert not second.axis.trusted


def test_a_board_that_homes_at_its_start_does_not_where_it_knows_its_place(tmp_path: Path) -> None:
    board = self_locking()
    homing = board.model_copy(update={"axis": board.axis.model_copy(update={"home_at_start": True})})
    with open_microscope(homing, ManualClock(), tmp_path) as first:
        first.axis.move_to(7.0)
    with open_microscope(homing, ManualClock(), tmp_path) as second:
        assert second.axis.z_um == pytest.approx(7.0)


def test_the_key_of_mechanics_changes_with_what_a_step_means_only() -> None:
    plain = profile()
    windowed = profile(homing="window")
    assert profile(homing="window", low_um=-20).position_key == windowed.position_key
    assert profile(low_um=-20).position_key != plain.position_key
    others = [profile(um_per_step=0.11), profile(direction=-1), profile(options={"a": 1}), profile(homing="window")]
    assert len({p.position_key for p in (plain, *others)}) == 5
