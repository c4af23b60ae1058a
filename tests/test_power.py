"""Loss of power, a kill and a full disk at every single write of an update: the old model serves, or the new one."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from power import Fate, Killed, PowerDisk, PowerLost, fates
from updating import NAME, Offering, badly, bring, bundle, install, serving, silent, updates

from edge_app.errors import AppError, StateUnusable, UpdateRefused
from edge_app.ota.depot import Depot
from edge_app.ota.disk import put
from edge_app.updates import Updates

OLD, NEW, NEXT = "1.0.0", "1.1.0", "1.2.0"


def whole(board: Updates) -> None:
    """An update, and back."""
    bring(board)
    board.roll_back(NAME)


def refused(board: Updates) -> None:
    """A candidate that focuses badly."""
    with pytest.raises(AppError):
        board.stage(NAME, silent)


def begin(folder: Path, story: Callable[[Updates], None]) -> tuple[PowerDisk, Offering, Updates]:
    """A board whose old model came by an update too, and something newer on offer."""
    disk, offering = PowerDisk(folder), Offering()
    changes = {"rehearse": badly} if story is refused else {}
    board = updates(folder, offering, disk, **changes)
    install(board.depot, bundle(OLD), OLD)
    offering.offer(NEW)
    disk.come_back(fates(0)[0])
    disk.operations = 0
    return disk, offering, board


def length_of(folder: Path, story: Callable[[Updates], None]) -> int:
    """How many operations it takes undisturbed."""
    disk, _, board = begin(folder, story)
    story(board)
    return disk.operations


def check_restart(folder: Path, disk: PowerDisk, offering: Offering, what: str) -> str:
    """After a restart exactly one of the two serves, whose next update works; says which it was."""
    depot = Depot(folder, disk)
    served = serving(depot)
    assert served in (bundle(OLD), bundle(NEW)), f"{what}: neither serves, but {len(served)} bytes"
    offering.offer(NEXT)
    board = updates(folder, offering, disk)
    if board.depot.state().stage.value == "ready":
        board.activate()
    bring(board)
    assert serving(depot) == bundle(NEXT), what
    assert not list((depot.folder / "incoming").glob("*")), f"{what}: rubbish is left"
    return "old" if served == bundle(OLD) else "new"


@pytest.mark.parametrize("story", [whole, refused])
def test_without_power_at_any_write_exactly_the_old_or_the_new_model_serves(
    tmp_path: Path, story: Callable[[Updates], None], capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"old": 0, "new": 0}
    for cut_at in range(1, length_of(tmp_path / "length", story) + 2):
        for number, fate in enumerate(fates(cut_at)):
            folder = tmp_path / f"{cut_at}-{number}"
            disk, offering, board = begin(folder, story)
            disk.cut_at = cut_at
            with suppress(PowerLost):
                story(board)
            disk.come_back(fate)
            found[check_restart(folder, disk, offering, f"cut at {cut_at}, {fate.label}")] += 1
    with capsys.disabled():
        sys.stdout.write(f"\n{story.__name__}: {sum(found.values())} losses of power; then {found} served\n")
    assert found["old"] > 20
    assert (found["new"] > 20) is (story is whole)


def test_a_switch_that_was_acknowledged_survives_a_loss_of_power(tmp_path: Path) -> None:
    for number, fate in enumerate(fates(1)):
        disk, _, board = begin(tmp_path / str(number), whole)
        bring(board)
        disk.come_back(fate)
        assert serving(Depot(tmp_path / str(number), disk)) == bundle(NEW), fate.label


def test_a_loss_of_power_after_a_kill_leaves_a_model_that_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, length, count = random.Random(3), length_of(tmp_path / "length", whole), 0
    lost: Fate = fates(0)[0]
    for kill_at in range(1, length + 1):
        for cut_at in (1, *rng.sample(range(2, 20), 2)):
            folder = tmp_path / f"{kill_at}-{cut_at}"
            disk, offering, board = begin(folder, whole)
            disk.kill_at = kill_at
            with pytest.raises(Killed):
                whole(board)
            disk.restart()
            disk.operations, disk.cut_at = 0, cut_at
            with suppress(PowerLost, AppError):
                again = updates(folder, offering, disk)
                again.stage(NAME, silent)
                again.activate()
            disk.come_back(lost)
            check_restart(folder, disk, offering, f"killed at {kill_at}, cut at {cut_at}")
            count += 1
    with capsys.disabled():
        sys.stdout.write(f"\n{count} kills, each followed by a loss of power\n")


@pytest.mark.parametrize("story", [whole, refused])
def test_a_disk_that_is_full_at_any_write_is_one_clear_sentence_and_changes_no_model(
    tmp_path: Path, story: Callable[[Updates], None]
) -> None:
    for full_at in range(1, length_of(tmp_path / "length", story) + 1):
        folder = tmp_path / str(full_at)
        disk, offering, board = begin(folder, story)
        disk.full_at = full_at
        said = ""
        try:
            board.stage(NAME, silent)
            board.activate()
            board.roll_back(NAME)
        except StateUnusable as error:
            said = str(error)
        except UpdateRefused:
            assert story is refused
        assert not said or "(No space left on device), so nothing was changed" in said
        assert serving(board.depot) in (bundle(OLD), bundle(NEW))
        disk.restart()
        check_restart(folder, disk, offering, f"full at {full_at}")


def test_the_simulated_disk_loses_what_was_not_synced(tmp_path: Path) -> None:
    path, disk = tmp_path / "a", PowerDisk(tmp_path)
    put(disk, path, b"first")
    disk.write(path, b"second")
    disk.come_back(fates(0)[0])
    assert path.read_bytes() == b"first"
    disk.write(path, b"second")
    disk.come_back(fates(0)[2])
    assert path.read_bytes() == b"sec"
    disk.write(tmp_path / "b", b"third")
    disk.sync(tmp_path / "b")
    disk.come_back(fates(0)[0])
    assert not (tmp_path / "b").exists()
