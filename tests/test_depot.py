"""The files of a board's updates: one record, bundles by their hash, and who may change them when."""

from __future__ import annotations

import errno
import fcntl
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from power import Fate, Killed, PowerDisk, PowerLost, fates
from updating import NAME, bundle, install, serving, version_of

from edge_app.errors import Busy, StateUnusable
from edge_app.ota.depot import Depot
from edge_app.ota.disk import put
from edge_app.ota.state import Slot, Stage, State

OLD, NEW = "1.0.0", "1.1.0"
ROOT = Path(__file__).parent.parent


def test_a_board_that_was_never_updated_has_a_fresh_state_and_no_files(tmp_path: Path) -> None:
    depot = Depot(tmp_path)
    assert depot.state() == State()
    assert depot.shelf().installed == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 400, b'{"format": 2}', b'{"stage": "none"}', b"[]"])
def test_a_record_that_cannot_be_read_puts_the_models_that_ship_back(tmp_path: Path, damage: bytes) -> None:
    depot = Depot(tmp_path)
    install(depot, bundle(OLD), OLD)
    (depot.folder / "state.json").write_bytes(damage)
    state = depot.state()
    assert (state.stage, serving(depot)) == (Stage.FAILED, b"")
    assert "the record of updates is damaged, or a newer parfocal's; the models that ship serve; run" in state.reason


def test_a_damaged_record_is_mended_by_the_next_change(tmp_path: Path) -> None:
    depot = Depot(tmp_path)
    install(depot, bundle(OLD), OLD)
    (depot.folder / "state.json").write_bytes(b"{")
    install(depot, bundle(NEW), NEW)
    assert serving(Depot(tmp_path)) == bundle(NEW)


class Worn(PowerDisk):
    """A disk that does not give the record for a while."""

    broken = False

    def read(self, path: Path) -> bytes:
        if self.broken and path.name == "state.json":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return super().read(path)


def test_a_record_that_the_disk_does_not_give_once_is_not_replaced(tmp_path: Path) -> None:
    disk = Worn(tmp_path)
    depot = Depot(tmp_path, disk)
    old = install(depot, bundle(OLD), OLD)
    disk.broken = True
    for board in (depot, Depot(tmp_path, disk)):
        with pytest.raises(StateUnusable, match=r"cannot be read \(Input/output error\), so nothing was changed; try"):
            board.change(State.begun)
    assert "cannot be read (Input/output error)" in Depot(tmp_path, disk).state().reason
    disk.broken = False
    assert depot.has(old)
    assert serving(Depot(tmp_path, disk)) == bundle(OLD)


def test_a_service_keeps_to_what_it_read_last_while_the_disk_gives_nothing(tmp_path: Path) -> None:
    disk = Worn(tmp_path)
    depot = Depot(tmp_path, disk)
    install(depot, bundle(OLD), OLD)
    before = depot.state()
    disk.broken = True
    assert depot.state() == before
    assert serving(depot) == bundle(OLD)


class Foreign(PowerDisk):
    """A disk on which the record is somebody else's."""

    def read(self, path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))


def test_whoever_may_not_read_the_record_is_told_who_may(tmp_path: Path) -> None:
    Depot(tmp_path).check_readable()
    with pytest.raises(StateUnusable, match=r"is not yours to read: run this as .* \(`sudo -u parfocal`\), or ask"):
        Depot(tmp_path, Foreign(tmp_path)).check_readable()


def test_a_folder_has_a_mark_that_no_copy_of_it_has(tmp_path: Path) -> None:
    depot, copy = Depot(tmp_path / "one"), Depot(tmp_path / "copy")
    assert depot.mark() == ""
    install(depot, bundle(OLD), OLD)
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    assert depot.mark() == Depot(tmp_path / "one").mark() != ""
    assert copy.mark() not in ("", depot.mark())


def damaged_by(tmp_path: Path, damage: bytes) -> tuple[PowerDisk, Depot]:
    """A board that was updated once, whose record is no longer one."""
    disk = PowerDisk(tmp_path)
    depot = Depot(tmp_path, disk)
    install(depot, bundle(OLD), OLD)
    put(disk, depot.folder / "state.json", damage)
    return disk, depot


def a_newer_format(tmp_path: Path) -> bytes:
    depot = Depot(tmp_path / "newer")
    install(depot, bundle(OLD), OLD)
    return (depot.folder / "state.json").read_bytes().replace(b'"format": 1', b'"format": 2')


def test_a_newer_record_is_set_aside_with_its_bundles_and_serves_again_when_it_is_put_back(tmp_path: Path) -> None:
    newer, old = a_newer_format(tmp_path), version_of(bundle(OLD), OLD)
    _, depot = damaged_by(tmp_path, newer)
    for _ in range(3):
        depot.change(State.begun)
    install(depot, bundle(NEW), NEW)
    aside = depot.folder / "state.json.damaged"
    assert aside.read_bytes() == newer
    assert depot.has(old)
    aside.write_bytes(newer.replace(b'"format": 2', b'"format": 1'))
    aside.replace(depot.folder / "state.json")
    assert serving(Depot(tmp_path)) == bundle(OLD)


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 400])
def test_a_change_that_meets_a_damaged_record_keeps_it_and_removes_no_bundle(tmp_path: Path, damage: bytes) -> None:
    _, depot = damaged_by(tmp_path, damage)
    depot.change(State.begun)
    assert (depot.folder / "state.json.damaged").read_bytes() == damage
    assert depot.has(version_of(bundle(OLD), OLD))


def test_without_power_at_any_write_a_damaged_record_is_still_there_in_one_place(tmp_path: Path) -> None:
    newer, served = a_newer_format(tmp_path), set()
    for cut_at in range(1, 10):
        for number, fate in enumerate(fates(cut_at)):
            disk, depot = damaged_by(tmp_path / f"{cut_at}-{number}", newer)
            disk.operations, disk.cut_at = 0, cut_at
            with suppress(PowerLost):
                depot.change(State.begun)
            disk.come_back(fate)
            record, aside = depot.folder / "state.json", depot.folder / "state.json.damaged"
            assert newer in [path.read_bytes() for path in (record, aside) if path.exists()], fate.label
            assert depot.has(version_of(bundle(OLD), OLD))
            served.add(Depot(depot.folder.parent, disk).state().starts)
    assert served == {0, 1}


@pytest.mark.parametrize("damage", [b"", bundle(OLD)[:-1], bundle(NEW)])
def test_a_bundle_that_is_not_the_one_that_was_kept_does_not_serve(tmp_path: Path, damage: bytes) -> None:
    depot = Depot(tmp_path)
    depot.path_of(install(depot, bundle(OLD), OLD)).write_bytes(damage)
    assert serving(depot) == b""


def test_a_step_that_fails_changes_nothing(tmp_path: Path) -> None:
    depot = Depot(tmp_path)
    install(depot, bundle(OLD), OLD)
    before = depot.state()
    with pytest.raises(ZeroDivisionError):
        depot.change(lambda _: State(starts=1 // 0))
    assert depot.state() == before


def test_a_step_that_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    disk = PowerDisk(tmp_path)
    Depot(tmp_path, disk).change(lambda state: state)
    assert disk.log == []


def test_steps_of_many_threads_are_all_taken(tmp_path: Path) -> None:
    def work() -> None:
        for _ in range(20):
            Depot(tmp_path).change(State.begun)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Depot(tmp_path).state().starts == 80


def test_one_update_at_a_time_and_others_are_told(tmp_path: Path) -> None:
    depot = Depot(tmp_path)
    with depot.updating():
        assert Depot(tmp_path).is_updating()
        with pytest.raises(Busy, match="another update of this board is under way"), Depot(tmp_path).updating():
            raise AssertionError("two updates at once")
    assert not depot.is_updating()
    with depot.updating():
        pass


def test_looking_whether_an_update_is_under_way_never_makes_one_fail(tmp_path: Path) -> None:
    depot = Depot(tmp_path)
    with depot.updating():
        pass
    with (depot.folder / "update.lock").open() as not_waited_for:
        fcntl.flock(not_waited_for, fcntl.LOCK_EX)
        assert not depot.is_updating()
    begun, done = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        with Depot(tmp_path).updating():
            done.set()

    with (depot.folder / "updating.lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not depot.is_updating()
        updater = threading.Thread(target=work)
        updater.start()
        begun.wait(10)
        assert not done.wait(0.05)
    updater.join(10)
    assert done.is_set()


def test_looking_makes_no_file(tmp_path: Path) -> None:
    assert not Depot(tmp_path).is_updating()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_killed_in_an_update_holds_nobody_up(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from edge_app.ota.depot import Depot\n"
        "with Depot(pathlib.Path(sys.argv[1])).updating(): print(flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert Depot(tmp_path).is_updating()
        other.kill()
    assert not Depot(tmp_path).is_updating()
    with Depot(tmp_path).updating():
        pass


def test_room_is_asked_for_before_anything_is_fetched(tmp_path: Path) -> None:
    depot = Depot(tmp_path, PowerDisk(tmp_path))
    depot.check_room(400_000_000)
    with pytest.raises(StateUnusable, match=r"is full: 1000 MB are free and 1008 MB are needed; free some space"):
        depot.check_room(500_000_000)


def test_bundles_that_nobody_wants_any_more_are_removed(tmp_path: Path) -> None:
    depot = Depot(tmp_path)
    first = install(depot, bundle(OLD), OLD)
    second = install(depot, bundle(NEW), NEW)
    assert not depot.has(first)
    assert depot.has(second)


def test_bundles_are_removed_before_anybody_else_may_change_the_record(tmp_path: Path) -> None:
    free = []

    class Watched(PowerDisk):
        """Sees whether the record may be changed while a bundle is removed."""

        def remove(self, path: Path) -> None:
            with (tmp_path / "updates/state.lock").open() as lock, suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free.append(path)
            super().remove(path)

    disk = Watched(tmp_path)
    depot = Depot(tmp_path, disk)
    first = install(depot, bundle(OLD), OLD)
    install(depot, bundle(NEW), NEW)
    assert not depot.has(first)
    assert depot.path_of(first) not in free


def test_nothing_is_removed_while_a_candidate_is_staged(tmp_path: Path) -> None:
    depot, new = Depot(tmp_path), version_of(bundle(NEW), NEW)
    old = install(depot, bundle(OLD), OLD)
    depot.change(lambda state: state.staging(new))
    depot.keep(new, bundle(NEW))
    depot.change(State.begun)
    assert depot.has(old)
    assert depot.has(new)


def test_a_folder_that_cannot_be_written_is_one_sentence_with_a_cure(tmp_path: Path) -> None:
    (tmp_path / "updates").write_text("a file in its place")
    for call in (lambda: Depot(tmp_path).change(State.begun), lambda: Depot(tmp_path).check_room(1)):
        with pytest.raises(StateUnusable, match=r"cannot be written \(.*the old model serves; free some space"):
            call()
    assert Depot(tmp_path).state().slots == {}


def test_the_record_names_a_bundle_only_after_it_is_on_the_disk(tmp_path: Path) -> None:
    disk = PowerDisk(tmp_path)
    one = install(Depot(tmp_path, disk), bundle(OLD), OLD)
    file, record = f"updates/bundles/{one.sha256}.parfocal", "updates/state.json"
    order = [disk.log.index(step) for step in (f"rename {file}", "sync folder updates/bundles", f"rename {record}")]
    assert order == sorted(order)
    assert disk.log[-1] == "sync folder updates"
    assert serving(Depot(tmp_path, disk), NAME) == bundle(OLD)


def test_no_bundle_is_removed_before_the_record_without_it_is_sure_to_stay(tmp_path: Path) -> None:
    disk = PowerDisk(tmp_path)
    depot = Depot(tmp_path, disk)
    install(depot, bundle(OLD), OLD)
    new = version_of(bundle(NEW), NEW)
    depot.keep(new, bundle(NEW))
    disk.kill_at = disk.operations + 4
    with pytest.raises(Killed):
        depot.change(lambda state: state.model_copy(update={"slots": {NAME: Slot(serving=new, previous=None)}}))
    assert disk.log[-1] == "sync folder updates"
    disk.restart()
    depot.change(lambda state: state)
    disk.come_back(Fate("the record is lost", lambda folder: folder.name == "bundles", lambda old, _: old))
    assert serving(depot) in (bundle(OLD), bundle(NEW))
