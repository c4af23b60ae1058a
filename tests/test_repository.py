"""What a board takes from a repository, and what it refuses, whoever serves it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from http_repository import served
from repository_simulator import NOW, Simulator, cut_every, ending_after, endless
from securesystemslib.signer import CryptoSigner
from tiny_bundle import tiny

from edge_app.errors import (
    JobStopped,
    RepositoryUnreachable,
    RepositoryUntrusted,
    UpdateError,
)
from edge_app.ota.catalogue import Entry, bundle_target, catalogue_target
from edge_app.ota.clock import Reference
from edge_app.ota.repository import Repository
from edge_app.ota.source import Folder, Source
from edge_app.ota.web import Web
from firmware.clock import ManualClock
from model_export.publishing import Publisher

DATA = b"a bundle" * 1000
NEWER = b"a better one" * 1000


class Board:
    """What a board keeps between two checks."""

    def __init__(self, folder: Path, root: bytes) -> None:
        self.folder, self.root = folder, root
        self.seen: dict[str, int] = {}
        self.time = NOW
        self.clock = ManualClock()

    def open(self, source: Source) -> Repository:
        reference = Reference(self.time)
        return Repository(self.root, self.folder / "repository", source, reference, seen=self.seen, clock=self.clock)

    def check(self, source: Source) -> list[str]:
        """The bundles on offer."""
        repository = self.open(source)
        found = repository.catalogue("stable")
        repository.settle()
        self.seen = repository.versions
        return [entry.label for entry in found.bundles]

    def take(self, source: Source, entry: Entry) -> bytes:
        return self.open(source).fetch("stable", entry, self.folder / "fetched.parfocal").read_bytes()


@pytest.fixture
def simulator() -> Simulator:
    made = Simulator()
    made.offer(DATA)
    made.publish()
    return made


@pytest.fixture
def board(tmp_path: Path, simulator: Simulator) -> Board:
    return Board(tmp_path, simulator.bootstrap())


@pytest.fixture
def entry(simulator: Simulator) -> Entry:
    return simulator.catalogues["stable"].bundles[0]


def test_a_board_sees_what_is_on_offer_and_takes_it(board: Board, simulator: Simulator, entry: Entry) -> None:
    assert board.check(simulator) == ["ldse@1.0.0"]
    assert board.take(simulator, entry) == DATA
    assert sorted(path.name for path in board.folder.iterdir()) == ["fetched.parfocal", "repository"]


def test_what_is_left_of_bundles_that_nobody_asks_for_any_more_is_removed(
    board: Board, simulator: Simulator, entry: Entry
) -> None:
    board.check(simulator)
    parts = board.folder / "repository" / "parts"
    (parts / "older.part").write_bytes(DATA)
    (board.folder / ".older.parfocal.fetching").write_bytes(DATA)
    board.take(simulator, entry)
    assert not list(parts.iterdir())
    assert sorted(path.name for path in board.folder.iterdir()) == ["fetched.parfocal", "repository"]


def test_each_channel_has_its_own_offers(board: Board, simulator: Simulator) -> None:
    simulator.offer(NEWER, version="1.1.0", channel="candidate")
    simulator.publish()
    assert [entry.label for entry in board.open(simulator).catalogue("candidate").bundles] == ["ldse@1.1.0"]
    assert board.check(simulator) == ["ldse@1.0.0"]


def test_a_bundle_that_is_there_already_is_not_fetched(board: Board, simulator: Simulator, entry: Entry) -> None:
    board.take(simulator, entry)
    simulator.asked.clear()
    board.take(simulator, entry)
    assert simulator.served(bundle_target("stable", entry)) not in [path for path, _ in simulator.asked]


def test_progress_is_told_of_the_bundle_alone_and_may_end_it(board: Board, simulator: Simulator, entry: Entry) -> None:
    told: list[tuple[int, int]] = []

    def progress(received: int, whole: int) -> None:
        told.append((received, whole))
        if received:
            raise JobStopped("enough")

    with pytest.raises(JobStopped):
        board.open(simulator).fetch("stable", entry, board.folder / "fetched", progress)
    assert told == [(0, len(DATA)), (4096, len(DATA))]
    assert not (board.folder / "fetched").exists()


def test_a_cut_bundle_is_resumed_by_the_next_check(board: Board, simulator: Simulator, entry: Entry) -> None:
    path = simulator.served(bundle_target("stable", entry))
    simulator.behaviours[path] = ending_after(5000)
    with pytest.raises(RepositoryUnreachable, match="ended after 5000 of 8000 bytes"):
        board.take(simulator, entry)
    simulator.behaviours.clear()
    simulator.asked.clear()
    assert board.take(simulator, entry) == DATA
    assert [ask for ask in simulator.asked if ask[0] == path] == [(path, 5000)]


def test_a_part_that_a_loss_of_power_spoilt_is_fetched_anew_at_once(
    board: Board, simulator: Simulator, entry: Entry
) -> None:
    path = simulator.served(bundle_target("stable", entry))
    simulator.behaviours[path] = ending_after(5000)
    with pytest.raises(RepositoryUnreachable):
        board.take(simulator, entry)
    simulator.behaviours.clear()
    [part] = (board.folder / "repository" / "parts").iterdir()
    part.write_bytes(bytes(5000))
    assert board.take(simulator, entry) == DATA


@pytest.mark.parametrize("source", ["web", "folder"])
def test_a_web_server_and_a_stick_give_the_same(
    board: Board, simulator: Simulator, entry: Entry, source: str, tmp_path: Path
) -> None:
    if source == "web":
        with served(simulator.files) as server:
            assert board.check(Web(server.url)) == ["ldse@1.0.0"]
            assert board.take(Web(server.url), entry) == DATA
        return
    for path, data in simulator.files.items():
        file = tmp_path / "stick" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    assert board.check(Folder(tmp_path / "stick")) == ["ldse@1.0.0"]
    assert board.take(Folder(tmp_path / "stick"), entry) == DATA


def test_what_is_published_for_boards_is_what_a_board_takes(tmp_path: Path) -> None:
    repository, keys, made = tmp_path / "repository", tmp_path / "keys", tmp_path / "tiny.parfocal"
    made.write_bytes(tiny("1.0.0"))
    Publisher(repository, keys, now=NOW).init()
    board = Board(tmp_path / "board", Publisher(repository, keys, now=NOW).root())
    Publisher(repository, keys, now=NOW).add([made], channel="stable")
    assert board.check(Folder(repository)) == ["tiny@1.0.0"]
    for role in ("root", "targets", "stable", "snapshot", "timestamp", "root"):
        Publisher(repository, keys, now=NOW).rotate(role)
    [offered] = board.open(Folder(repository)).catalogue("stable").bundles
    assert board.take(Folder(repository), offered) == tiny("1.0.0")
    board.time = NOW + timedelta(days=31)
    with pytest.raises(RepositoryUntrusted, match="no longer valid"):
        board.check(Folder(repository))
    Publisher(repository, keys, now=board.time).refresh()
    assert board.check(Folder(repository)) == ["tiny@1.0.0"]


def test_a_board_that_was_off_while_every_key_changed_twice_follows(board: Board, simulator: Simulator) -> None:
    board.check(simulator)
    for _ in range(2):
        for role in simulator.signers:
            simulator.rotate(role)
    simulator.offer(NEWER, version="1.1.0")
    simulator.publish()
    assert board.check(simulator) == ["ldse@1.0.0", "ldse@1.1.0"]
    assert [version for name, version in board.seen.items() if name.endswith("/root")] == [9]


def test_an_older_state_is_refused(board: Board, simulator: Simulator) -> None:
    old = simulator.state()
    simulator.publish()
    board.check(simulator)
    simulator.files = old
    with pytest.raises(RepositoryUntrusted, match="older than this board has seen"):
        board.check(simulator)


def test_an_older_state_is_refused_even_where_the_metadata_was_lost(board: Board, simulator: Simulator) -> None:
    old = simulator.state()
    simulator.publish()
    board.check(simulator)
    for path in (board.folder / "repository" / "metadata").glob("*.json"):
        path.unlink()
    simulator.files = old
    with pytest.raises(RepositoryUntrusted, match=r"\(timestamp 2 after 3\): somebody put an old state back"):
        board.check(simulator)


def test_roots_that_are_withheld_are_noticed(board: Board, simulator: Simulator) -> None:
    simulator.rotate("root")
    board.check(simulator)
    (board.folder / "repository" / "metadata" / "root_history" / "2.root.json").unlink()
    del simulator.files["metadata/2.root.json"]
    with pytest.raises(RepositoryUntrusted, match=r"root 1 after 2"):
        board.check(simulator)


def test_new_keys_end_what_a_thief_of_the_old_signed_far_ahead(board: Board, simulator: Simulator) -> None:
    simulator.timestamp.version = 1_000_000
    simulator.refresh()
    board.check(simulator)
    simulator.timestamp.version = 2
    simulator.rotate("timestamp")
    assert board.check(simulator) == ["ldse@1.0.0"]


def test_a_new_repository_whose_root_was_brought_by_hand_begins_a_new_count(
    board: Board, simulator: Simulator, entry: Entry
) -> None:
    for _ in range(2):
        simulator.rotate("root")
        simulator.publish()
    board.check(simulator)
    anew = Simulator()
    anew.offer(DATA)
    anew.publish()
    with pytest.raises(RepositoryUntrusted):
        board.check(anew)
    board.root = anew.bootstrap()
    assert board.check(anew) == ["ldse@1.0.0"]
    assert board.take(anew, entry) == DATA
    old = anew.state()
    anew.rotate("root")
    anew.publish()
    board.check(anew)
    with pytest.raises(RepositoryUntrusted):
        board.check(simulator)
    anew.files = old
    with pytest.raises(RepositoryUntrusted, match="older than this board has seen"):
        board.check(anew)


def test_a_newer_root_of_the_same_repository_does_not_let_old_files_in(board: Board, simulator: Simulator) -> None:
    simulator.rotate("root")
    old = simulator.state()
    simulator.publish()
    board.check(simulator)
    board.root = simulator.files["metadata/2.root.json"]
    for path in (board.folder / "repository" / "metadata").glob("*.json"):
        path.unlink()
    simulator.files = old
    with pytest.raises(RepositoryUntrusted, match=r"\(timestamp \d after \d\)"):
        board.check(simulator)


def test_a_list_that_vanishes_is_refused(board: Board, simulator: Simulator) -> None:
    board.check(simulator)
    del simulator.snapshot.meta["candidate.json"]
    simulator.refresh()
    for path in (board.folder / "repository" / "metadata").glob("*.json"):
        path.unlink()
    with pytest.raises(RepositoryUntrusted, match="candidate 0 after 2"):
        board.check(simulator)


def test_a_state_that_nobody_renews_is_refused_once_it_has_expired(board: Board, simulator: Simulator) -> None:
    board.check(simulator)
    board.time = NOW + timedelta(days=31)
    with pytest.raises(
        RepositoryUntrusted, match=rf"no longer valid by {board.time:%Y-%m-%d}.*freeze.*publish refresh"
    ):
        board.check(simulator)


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "stable"])
def test_each_role_expires(board: Board, simulator: Simulator, role: str) -> None:
    simulator.days |= {role: 5}
    simulator.renew_root()
    simulator.publish()
    board.time = NOW + timedelta(days=4)
    assert board.check(simulator)
    board.time = NOW + timedelta(days=6)
    with pytest.raises(RepositoryUntrusted, match=rf"{role}.* expired"):
        board.check(simulator)


def test_expiry_is_held_against_the_reference_and_not_the_machines_clock(board: Board, simulator: Simulator) -> None:
    # Fails when python-tuf keeps its time in another place than the one that Repository sets.
    simulator.now = NOW - timedelta(days=4000)
    simulator.renew_root()
    simulator.publish()
    board.time = simulator.now
    assert board.check(simulator) == ["ldse@1.0.0"]


def test_the_note_of_an_unset_clock_stands_beside_what_expired(board: Board, simulator: Simulator) -> None:
    late = Reference(NOW + timedelta(days=500), "nobody set this board's clock")
    repository = Repository(board.root, board.folder / "r", simulator, late)
    with pytest.raises(RepositoryUntrusted, match=r"publish refresh`; nobody set this board's clock$"):
        repository.catalogue("stable")


def test_parts_of_two_states_are_refused(board: Board, simulator: Simulator) -> None:
    old = simulator.state()
    simulator.publish()
    mixed = {name.replace("2.stable", "3.stable"): data for name, data in old.items() if "2.stable" in name}
    simulator.files |= mixed
    with pytest.raises(RepositoryUntrusted, match="hash or length is not the one that was signed"):
        board.check(simulator)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "stable"])
def test_what_a_foreign_key_signed_is_refused(board: Board, simulator: Simulator, role: str) -> None:
    simulator.signers[role] = CryptoSigner.generate_ed25519()
    simulator.publish()
    with pytest.raises(RepositoryUntrusted, match="not signed by a key that this board trusts"):
        board.check(simulator)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "stable"])
def test_what_a_revoked_key_signed_is_refused(board: Board, simulator: Simulator, role: str) -> None:
    board.check(simulator)
    old = simulator.rotate(role)
    assert board.check(simulator)
    simulator.signers[role] = old
    simulator.publish()
    with pytest.raises(RepositoryUntrusted, match="was revoked"):
        board.check(simulator)


def test_a_root_that_only_the_new_key_signed_is_refused(board: Board, simulator: Simulator) -> None:
    simulator.signers["root"] = CryptoSigner.generate_ed25519()
    simulator.root.add_key(simulator.signers["root"].public_key, "root")
    simulator.renew_root()
    with pytest.raises(RepositoryUntrusted, match="not signed by a key that this board trusts"):
        board.check(simulator)


def test_a_channel_cannot_sign_for_another(board: Board, simulator: Simulator) -> None:
    path = "stable/spy-1.0.0.parfocal"
    simulator.list_target("candidate", path, DATA)
    simulator.publish()
    spy = Entry(name="spy", version="1.0.0", task="defocus", sha256="0" * 64, size_bytes=1)
    with pytest.raises(RepositoryUntrusted, match="has no signed stable/spy"):
        board.take(simulator, spy)


def test_a_bundle_with_other_bytes_is_refused_and_leaves_nothing(
    board: Board, simulator: Simulator, entry: Entry
) -> None:
    simulator.files[simulator.served(bundle_target("stable", entry))] = DATA[:-1] + b"!"
    with pytest.raises(RepositoryUntrusted, match="hash or length is not the one that was signed"):
        board.take(simulator, entry)
    assert not list((board.folder / "repository" / "parts").iterdir())
    assert not (board.folder / "fetched.parfocal").exists()


def test_a_catalogue_that_names_other_bytes_than_the_list_is_refused(
    board: Board, simulator: Simulator, entry: Entry
) -> None:
    other = entry.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(RepositoryUntrusted, match=r"lists other bytes for ldse@1\.0\.0"):
        board.take(simulator, other)


@pytest.mark.parametrize("path", ["metadata/timestamp.json", "metadata/2.snapshot.json", "metadata/2.stable.json"])
def test_metadata_without_end_is_refused(board: Board, simulator: Simulator, path: str) -> None:
    simulator.behaviours[path] = endless
    with pytest.raises(RepositoryUntrusted, match="sends more than"):
        board.check(simulator)


def test_metadata_that_is_gone_is_said(board: Board, simulator: Simulator) -> None:
    del simulator.files["metadata/timestamp.json"]
    with pytest.raises(RepositoryUnreachable, match=r"has no metadata/timestamp.json: it is no repository"):
        board.check(simulator)


@pytest.mark.parametrize(
    "rubbish", [b"", b"{", b"[" * 15_000, b"\xff\x00", b'{"signed": 7, "signatures": []}', b"<html>"]
)
def test_rubbish_in_place_of_metadata_is_refused(board: Board, simulator: Simulator, rubbish: bytes) -> None:
    simulator.files["metadata/timestamp.json"] = rubbish
    with pytest.raises(RepositoryUntrusted, match="damaged or none of a repository"):
        board.check(simulator)


def test_what_a_stranger_wrote_does_not_fill_the_log(board: Board, simulator: Simulator) -> None:
    simulator.files["metadata/timestamp.json"] = b'{"signed": {"_type": "' + b"a\\n" * 3000 + b'"}, "signatures": []}'
    with pytest.raises(RepositoryUntrusted) as caught:
        board.check(simulator)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_signed_catalogue_that_is_none_is_refused(board: Board, simulator: Simulator) -> None:
    simulator.files[simulator.list_target("stable", catalogue_target("stable"), b'{"bundles": [7]}')] = b"{}"
    path = simulator.list_target("stable", catalogue_target("stable"), b"{}")
    simulator._write_listed("stable", simulator.channels["stable"])
    simulator.refresh()
    assert simulator.files[path] == b"{}"
    with pytest.raises(RepositoryUntrusted, match="none that this version understands"):
        board.check(simulator)


def test_a_repository_that_is_cut_at_every_file_is_fetched_all_the_same(
    board: Board, simulator: Simulator, entry: Entry
) -> None:
    simulator.behaviours = {path: cut_every(300) for path in simulator.files}
    assert board.take(simulator, entry) == DATA


@pytest.mark.parametrize("spoil", [b"", b'{"signed": {', b"\0" * 700], ids=["empty", "half", "zeros"])
def test_metadata_that_a_loss_of_power_tore_does_not_stop_the_next_check(
    board: Board, simulator: Simulator, spoil: bytes
) -> None:
    simulator.rotate("root")
    board.check(simulator)
    torn = [path for path in (board.folder / "repository").rglob("*.json") if not path.is_symlink()]
    for path in torn:
        path.write_bytes(spoil)
    (board.folder / "repository" / "metadata" / "tmpabcdef").write_bytes(spoil)
    assert len(torn) == 6
    assert board.check(simulator) == ["ldse@1.0.0"]
    assert not list((board.folder / "repository" / "metadata").glob("tmp*"))


def test_a_state_folder_that_takes_nothing_is_this_boards_fault(board: Board, simulator: Simulator) -> None:
    (board.folder / "repository").write_bytes(b"a file in its place")
    with pytest.raises(UpdateError, match="cannot keep what it fetched") as caught:
        board.check(simulator)
    assert type(caught.value) is UpdateError


def test_a_full_disk_is_this_boards_fault_and_leaves_nothing(
    board: Board, simulator: Simulator, entry: Entry, tmp_path: Path
) -> None:
    board.check(simulator)
    repository = board.open(simulator)
    path = f"targets/{simulator.channels['stable'].targets[bundle_target('stable', entry)].get_prefixed_paths()[0]}"
    part = repository._fetcher.part_of(path)
    part.symlink_to("/dev/full")
    with pytest.raises(UpdateError, match=r"No space left on device\); make room") as caught:
        repository.fetch("stable", entry, tmp_path / "fetched")
    assert type(caught.value) is UpdateError
    assert not part.is_symlink()
    assert board.take(simulator, entry) == DATA


def test_the_versions_are_those_of_every_role(board: Board, simulator: Simulator) -> None:
    board.check(simulator)
    roles = {name.partition("/")[2] or name: version for name, version in board.seen.items()}
    assert roles == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2, "stable": 2, "candidate": 2}


def test_every_refusal_is_one_sentence(board: Board, simulator: Simulator, entry: Entry) -> None:
    def endless_timestamp() -> None:
        simulator.behaviours["metadata/timestamp.json"] = endless

    def nobody() -> None:
        simulator.behaviours["metadata/timestamp.json"] = cut_every(0)

    def expired() -> None:
        board.time = NOW + timedelta(days=400)

    def rubbish() -> None:
        simulator.files["metadata/timestamp.json"] = b"{"

    breaks: list[Callable[[], None]] = [endless_timestamp, nobody, rubbish, expired]
    for spoil in breaks:
        spoil()
        with pytest.raises(UpdateError) as caught:
            board.check(simulator)
        assert "\n" not in str(caught.value)
        assert not str(caught.value).endswith(".")
        assert "; " in str(caught.value)
        simulator.behaviours.clear()


def test_what_was_verified_can_be_made_to_survive_a_loss_of_power(board: Board, simulator: Simulator) -> None:
    repository = board.open(simulator)
    repository.catalogue("stable")
    repository.settle()
    (board.folder / "repository").rename(board.folder / "gone")
    with pytest.raises(UpdateError, match="No such file"):
        repository.settle()
