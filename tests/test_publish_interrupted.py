"""Whatever ends a publisher in the middle, boards find the old state of a repository, or the new one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from publishing_bench import Board, FailingDisk, Killed, QuickDisk, day, small_bundle
from tuf.api.exceptions import DownloadError, RepositoryError

from edge_app.ota.disk import Disk
from model_export.errors import PublishError
from model_export.publishing import Publisher

OLD, NEW = ["small@1.0.0"], ["small@1.0.0", "small@1.1.0"]
MOST = 300
Verb = Callable[[Path, Publisher], object]
VERBS: dict[str, Verb] = {
    "add": lambda shop, publisher: publisher.add([shop / "new.parfocal"]),
    "rotate the timestamp": lambda shop, publisher: publisher.rotate("timestamp"),
    "rotate targets": lambda shop, publisher: publisher.rotate("targets"),
    "rotate the root": lambda shop, publisher: publisher.rotate("root"),
}
ENDS = ("full", "killed", "power, renames kept", "power, renames lost")
CASES = [(name, end) for name in ("add", "rotate the timestamp") for end in ENDS]
CASES += [("rotate targets", "killed"), ("rotate targets", "power, renames lost"), ("rotate the root", "killed")]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A repository that offers small@1.0.0, a board that has seen it, and a bundle to add."""
    shop = tmp_path / "shop"
    shop.mkdir()
    at(shop, 0).init()
    at(shop, 0).add([small_bundle(shop)])
    small_bundle(shop, version="1.1.0").rename(shop / "new.parfocal")
    board(shop, "before").offered("candidate", day(0))
    return shop


def at(shop: Path, days: float, disk: Disk | None = None) -> Publisher:
    return Publisher(shop / "models", shop / "keys", day(days), disk=disk or QuickDisk())


def board(shop: Path, name: str, repo: str = "models") -> Board:
    return Board(shop / repo, (shop / "models/metadata/1.root.json").read_bytes(), shop / name)


def ended(verb: Callable[[], object]) -> str:
    """Run something to its end: done, full or killed."""
    try:
        verb()
    except PublishError as error:
        return "full" if "No space left" in str(error) else str(error)
    except Killed:
        return "killed"
    return "done"


def another(shop: Path, number: int) -> Path:
    """The shop once more, to break."""
    place = shop.parent / str(number)
    shutil.copytree(shop, place)
    return place


@pytest.mark.parametrize(("name", "end"), CASES)
def test_whatever_ends_a_publisher_boards_find_the_old_state_or_the_new_one(shop: Path, name: str, end: str) -> None:
    states = set()
    for things in range(MOST):
        place = another(shop, things)
        disk = FailingDisk(things, full=end == "full")
        how = ended(lambda place=place, disk=disk: VERBS[name](place, at(place, 1, disk)))  # type: ignore[misc]
        if how == "done":
            break
        assert how == ("full" if end == "full" else "killed")
        if end.startswith("power"):
            disk.cut(renames_kept=end.endswith("kept"))
        for client in (board(place, "before"), board(place, "fresh")):
            offered = client.offered("candidate", day(1))
            assert offered in (OLD, NEW)
            states.add(len(offered))
        at(place, 2).refresh()
        VERBS[name](place, at(place, 2))
        assert board(place, "before").offered("candidate", day(2)) == (NEW if name == "add" else OLD)
        shutil.rmtree(place)
    assert how == "done"
    assert states == ({1, 2} if name == "add" else {1})


def test_a_copy_is_good_at_every_moment(shop: Path) -> None:
    at(shop, 0).copy(shop / "stick")
    at(shop, 1).add([shop / "new.parfocal"])
    at(shop, 1).rotate("timestamp")
    seen = []
    for things in range(MOST):
        disk = FailingDisk(things)
        how = ended(lambda disk=disk: at(shop, 1, disk).copy(shop / "stick"))  # type: ignore[misc]
        seen.append(board(shop, "of_stick", "stick").offered("candidate", day(1)))
        if how == "done":
            break
        assert how == "full"
    assert (seen[0], seen[-1]) == (OLD, NEW)


def test_a_revocation_without_the_old_key_is_ended_by_the_next_verb(shop: Path) -> None:
    lost = next((shop / "keys").glob("timestamp-*"))
    keyid = lost.stem.partition("-")[2]
    lost.unlink()
    refused = 0
    for things in range(MOST):
        place = another(shop, things)
        disk = FailingDisk(things, full=False)
        if ended(lambda place=place, disk=disk: at(place, 1, disk).revoke(keyid)) == "done":  # type: ignore[misc]
            break
        refused += not _accepted(board(place, "before"))
        publisher = at(place, 2)
        if keyid in str(publisher.status()["roles"]):
            publisher.revoke(keyid)
        assert board(place, "before").offered("candidate", day(2)) == OLD
        shutil.rmtree(place)
    assert 0 < refused <= 3  # between two renames: old boards do not know the new key, and nobody has the old one


def _accepted(client: Board) -> bool:
    try:
        return client.offered("candidate", day(1)) == OLD
    except (RepositoryError, DownloadError):
        return False


def test_nothing_is_published_before_all_of_it_is_written(shop: Path) -> None:
    before = files_of(shop / "models")
    with pytest.raises(PublishError, match="nothing was published"):
        at(shop, 1, FailingDisk(2)).refresh()
    assert files_of(shop / "models") == before


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
