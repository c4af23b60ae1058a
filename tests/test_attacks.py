"""Whoever is against it, and whatever fails: a board goes on with the model it has, and says why in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from attacked_board import NEW, OLD, OPTICS, Board, as_good, board_with_old, quiet
from http_repository import HttpRepository, served
from repository_simulator import NOW, Simulator, dripping, ending_after, endless
from securesystemslib.signer import CryptoSigner
from tiny_bundle import NAME, flipped, tiny

from edge_app import bundle as bundles
from edge_app.bundle import ModelBundle, golden_bytes, pack
from edge_app.errors import (
    RepositoryUnreachable,
    RepositoryUntrusted,
    UpdateError,
    UpdateRefused,
)
from edge_app.model import Model
from edge_app.ota.candidate import Progress
from edge_app.ota.catalogue import Entry, bundle_target, catalogue_target
from edge_app.ota.clock import MADE
from edge_app.ota.decision import Facts, InUse
from edge_app.ota.depot import Depot
from edge_app.ota.rehearsal import Stage as Where
from edge_app.ota.rehearsal import rehearse
from edge_app.ota.rehearsal_rule import Rehearsal, judge
from edge_app.ota.source import Folder
from edge_app.ota.web import Web
from edge_app.shelf import Shelf
from edge_app.updates import Updates
from firmware.profile import load_profile

BOOT = datetime(1970, 1, 1, 0, 1, tzinfo=timezone.utc)


@pytest.fixture
def simulator() -> Simulator:
    return Simulator()


@pytest.fixture
def board(tmp_path: Path, simulator: Simulator) -> Board:
    return board_with_old(tmp_path / "state", simulator)


@pytest.fixture
def newer(board: Board, simulator: Simulator) -> Entry:
    """What the board would take, were nobody against it."""
    entry = simulator.offer(NEW, NAME, "1.1.0")
    simulator.publish()
    return entry


@pytest.fixture
def server(simulator: Simulator, board: Board, newer: Entry) -> Iterator[HttpRepository]:
    """The same repository behind a real web server, which the board asks."""
    with served(simulator.files) as serving:
        board.source = Web(serving.url, gap_s=0.2)
        yield serving


def bytes_of(simulator: Simulator, entry: Entry) -> str:
    return simulator.served(bundle_target("stable", entry))


def test_an_update_that_nobody_is_against_goes_through(board: Board, newer: Entry) -> None:
    assert board.take().serving == "tiny@1.1.0"
    assert board.served() == NEW


def test_rollback_to_an_older_state(board: Board, simulator: Simulator) -> None:
    old = simulator.state()
    simulator.publish()
    board.stage()
    simulator.files = old
    board.refuses(RepositoryUntrusted, "older than this board has seen", "tell whoever publishes")


def test_rollback_to_an_older_state_after_the_metadata_was_lost(board: Board, simulator: Simulator) -> None:
    old = simulator.state()
    simulator.publish()
    board.stage()
    shutil.rmtree(board.folder / "updates" / "repository")
    simulator.files = old
    board.refuses(RepositoryUntrusted, "older than this board has seen", "rollback")


def test_an_older_version_that_is_newly_signed_is_not_taken(board: Board, simulator: Simulator) -> None:
    simulator.catalogues["stable"] = simulator.catalogues["stable"].model_copy(update={"bundles": ()})
    simulator.offer(tiny("0.9.0"), NAME, "0.9.0")
    simulator.publish()
    assert "nothing newer" in board.stage().reason
    assert board.served() == OLD


def test_freeze(board: Board, simulator: Simulator) -> None:
    board.now = NOW + timedelta(days=31)
    board.refuses(RepositoryUntrusted, "no longer valid", "freeze", "parfocal-model publish refresh")


def test_mix_and_match_of_two_states(board: Board, newer: Entry, simulator: Simulator) -> None:
    version = simulator.channels["stable"].version
    simulator.files[f"metadata/{version}.stable.json"] = simulator.files[f"metadata/{version - 1}.stable.json"]
    board.refuses(RepositoryUntrusted, "not the one that was signed", "of another state")


def test_mix_and_match_of_catalogue_and_list(board: Board, newer: Entry, simulator: Simulator) -> None:
    simulator.list_target("stable", bundle_target("stable", newer), tiny("1.1.0", range_um=31.0))
    simulator.publish()
    board.refuses(RepositoryUntrusted, "lists other bytes", "mix-and-match")


@pytest.mark.parametrize("what", ["timestamp", "bundle"])
def test_endless_data(board: Board, newer: Entry, simulator: Simulator, what: str) -> None:
    path = "metadata/timestamp.json" if what == "timestamp" else bytes_of(simulator, newer)
    simulator.behaviours[path] = endless
    simulator.files[path] = b"x" if what == "bundle" else simulator.files[path]
    board.refuses(RepositoryUntrusted, "sends more than", "tell whoever serves it")
    kept = sum(file.stat().st_size for file in board.folder.rglob("*") if file.is_file())
    assert kept < 100_000


@pytest.mark.parametrize("what", ["timestamp", "bundle"])
def test_slow_retrieval(board: Board, newer: Entry, simulator: Simulator, what: str) -> None:
    path = "metadata/timestamp.json" if what == "timestamp" else bytes_of(simulator, newer)
    simulator.behaviours[path] = dripping(board.patience)
    before_s = board.patience.now_s()
    board.refuses(RepositoryUnreachable, "too slow", "try again")
    assert board.patience.now_s() - before_s < 60


def test_wrong_hash(board: Board, newer: Entry, simulator: Simulator) -> None:
    simulator.files[bytes_of(simulator, newer)] = NEW[:-1] + b"!"
    board.refuses(RepositoryUntrusted, "hash or length is not the one that was signed")
    simulator.files[bytes_of(simulator, newer)] = NEW
    assert board.take().serving == "tiny@1.1.0"


def test_truncated(board: Board, newer: Entry, simulator: Simulator) -> None:
    simulator.behaviours[bytes_of(simulator, newer)] = ending_after(1000)
    board.refuses(RepositoryUnreachable, f"ended after 1000 of {len(NEW)} bytes")
    simulator.behaviours.clear()
    simulator.asked.clear()
    assert board.take().serving == "tiny@1.1.0"
    assert (bytes_of(simulator, newer), 1000) in simulator.asked


def test_unsigned(board: Board, newer: Entry, simulator: Simulator) -> None:
    bare = json.loads(simulator.files["metadata/timestamp.json"]) | {"signatures": []}
    simulator.files["metadata/timestamp.json"] = json.dumps(bare).encode()
    board.refuses(RepositoryUntrusted, "not signed by a key that this board trusts", "unsigned")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "stable"])
def test_signed_by_a_foreign_key(board: Board, newer: Entry, simulator: Simulator, role: str) -> None:
    simulator.signers[role] = CryptoSigner.generate_ed25519()
    simulator.publish()
    board.refuses(RepositoryUntrusted, "not signed by a key that this board trusts", "foreign")


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "stable"])
def test_signed_by_a_revoked_key(board: Board, newer: Entry, simulator: Simulator, role: str) -> None:
    old = simulator.rotate(role)
    board.updates().check()
    simulator.signers[role] = old
    simulator.renew_root()
    simulator.publish()
    board.refuses(RepositoryUntrusted, "not signed by a key that this board trusts", "revoked")


def test_the_root_was_rotated_twice_while_the_board_was_off(board: Board, newer: Entry, simulator: Simulator) -> None:
    thief = simulator.signers["root"]
    for role in ("root", "root", "timestamp", "stable"):
        simulator.rotate(role)
    assert board.updates().check().candidate == "tiny@1.1.0"
    simulator.signers["root"] = thief
    simulator.renew_root()
    board.refuses(RepositoryUntrusted, "not signed by a key that this board trusts")


def test_a_chain_of_roots_with_a_gap_stops_at_the_last_that_follows(
    board: Board, newer: Entry, simulator: Simulator
) -> None:
    simulator.rotate("timestamp")
    simulator.rotate("root")
    del simulator.files["metadata/2.root.json"]
    board.refuses(RepositoryUntrusted, "not signed by a key that this board trusts")


def test_expired_with_a_clock(board: Board, newer: Entry, simulator: Simulator) -> None:
    board.now = NOW + timedelta(days=91)
    simulator.refresh()
    board.refuses(RepositoryUntrusted, "no longer valid by", f"{board.now:%Y-%m-%d}")


def test_expired_without_a_clock_is_held_against_the_last_set_one(
    board: Board, newer: Entry, simulator: Simulator
) -> None:
    board.now = NOW + timedelta(days=20)
    board.updates().check()
    board.now, board.synchronised = BOOT, False
    simulator.now = NOW - timedelta(days=20)
    simulator.publish()
    board.refuses(RepositoryUntrusted, "no longer valid", "this board's clock is wrong (1970-01-01 00:01 UTC)")


def test_expired_since_the_board_had_a_clock_is_taken_and_the_blind_spot_is_said(
    board: Board, newer: Entry, simulator: Simulator
) -> None:
    board.now, board.synchronised = BOOT, False
    status = board.updates().check()
    assert status.candidate == "tiny@1.1.0"
    assert "a repository that is kept from changing would not be noticed; set the clock" in status.reason
    assert board.served() == OLD


def test_expired_before_this_version_was_made_is_refused_by_a_board_that_never_had_a_clock(
    tmp_path: Path, simulator: Simulator
) -> None:
    simulator.now = MADE - timedelta(days=31)
    board = Board(tmp_path, simulator.bootstrap(), simulator, BOOT, synchronised=False)
    simulator.publish()
    with pytest.raises(RepositoryUntrusted, match=r"no longer valid by.*clock is wrong"):
        board.stage()


def test_without_a_clock_where_one_is_required(board: Board, newer: Entry) -> None:
    board.now, board.synchronised, board.policy = BOOT, False, "required"
    board.refuses(UpdateError, "was not set by a time server", 'update_clock = "floor"')


def test_a_clock_that_somebody_set_far_ahead_blocks_no_longer_than_it_is_wrong(board: Board, newer: Entry) -> None:
    board.now = NOW + timedelta(days=30_000)
    board.refuses(RepositoryUntrusted, "no longer valid")
    board.now = NOW
    assert board.take().serving == "tiny@1.1.0"


def test_a_bundle_for_other_optics(board: Board, simulator: Simulator) -> None:
    foreign = tiny("1.1.0", numerical_aperture=(1.2, 1.4))
    simulator.offer(foreign, NAME, "1.1.0")
    simulator.publish()
    board.refuses(UpdateRefused, "tiny@1.1.0 is not for this board", "other optics")
    assert "was tried and is not tried again" in board.stage().reason


def test_a_bundle_that_is_signed_and_none(board: Board, simulator: Simulator) -> None:
    simulator.offer(b"PK\x03\x04 and then nothing", NAME, "1.1.0")
    simulator.publish()
    board.refuses(UpdateRefused, "no sound bundle", "damaged")


def test_a_bundle_that_is_another_than_the_catalogue_says(board: Board, simulator: Simulator) -> None:
    simulator.offer(OLD, NAME, "1.1.0")
    simulator.publish()
    board.refuses(UpdateRefused, "the catalogue calls it tiny@1.1.0", "it is tiny@1.0.0")


def test_a_bundle_that_answers_otherwise_here_than_where_it_was_made(board: Board, simulator: Simulator) -> None:
    simulator.offer(tiny("1.1.0", golden_um=3.0), NAME, "1.1.0")
    simulator.publish()
    board.refuses(UpdateRefused, "does not work on this board", "golden inputs")


@pytest.mark.timeout(300)
def test_a_bundle_that_passes_every_hash_and_focuses_the_wrong_way(tmp_path: Path, simulator: Simulator) -> None:
    path = bundles.FACTORY / "spectral_20x.parfocal"
    good = bundles.read(path)
    simulator.offer(turned(good, "9.0.0"), good.manifest.name, "9.0.0")
    simulator.publish()
    updates = with_real_rehearsal(Board(tmp_path, simulator.bootstrap(), simulator), good)
    with pytest.raises(
        UpdateRefused, match=r"spectral_20x@9\.0\.0 was rehearsed on this board and refused: "
    ) as caught:
        updates.stage("", quiet)
    assert "\n" not in str(caught.value)
    assert Depot(tmp_path).shelf().find("spectral_20x").read_bytes() == path.read_bytes()
    assert updates.status().serving == "spectral_20x@1.0.0"
    assert "was tried and is not tried again" in updates.stage("", quiet).reason


def turned(good: ModelBundle, version: str) -> bytes:
    """A bundle whose network takes above for below; its golden outputs are its own."""
    graph = flipped(good.onnx)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = list(good.manifest.outputs)
    outputs = dict(zip(names, session.run(names, {good.manifest.input.name: good.golden_in}), strict=True))
    assert np.allclose(outputs["defocus_um"], -good.golden_out["defocus_um"], atol=0.01)
    page = good.manifest.model_copy(update={"version": version})
    return pack(page, graph, golden_bytes(good.golden_in, outputs))


def with_real_rehearsal(board: Board, good: ModelBundle) -> Updates:
    where = Where(load_profile("simulated_tiny"), seed=3)

    def facts(shelf: Shelf) -> Facts:
        found = bundles.read(shelf.find(good.manifest.name))
        return Facts("board-1", {good.manifest.name: InUse(found.manifest, found.sha256)}, OPTICS)

    def in_earnest(old: Model | None, new: Model, progress: Progress) -> Rehearsal:
        return rehearse(old, new, where, progress, pairs=6)

    return Updates(Depot(board.folder), replace(board.means(), facts=facts, rehearse=in_earnest))


@pytest.mark.parametrize(
    "name", ["../../evil", "stable/../../evil", "/etc/cron.d/evil", "a/b", "evil\n", "..", "evil\0"]
)
def test_a_path_in_a_name_that_climbs_out_of_its_folder(board: Board, simulator: Simulator, name: str) -> None:
    text = (
        simulator.catalogues["stable"]
        .model_copy(update={"bundles": ()})
        .model_dump_json()
        .replace('"bundles":[]', f'"bundles":[{entry_named(name)}]')
    )
    simulator.list_target("stable", catalogue_target("stable"), text.encode())
    simulator.list_target("stable", f"stable/{name}-9.0.0.parfocal", NEW)
    simulator._write_listed("stable", simulator.channels["stable"])
    simulator.refresh()
    before = {path for path in board.folder.parent.rglob("*") if "evil" in path.name}
    board.refuses(RepositoryUntrusted, "none that this version understands", "tell whoever publishes")
    assert not before
    assert not {path for path in board.folder.parent.rglob("*") if "evil" in path.name}


def entry_named(name: str) -> str:
    fields = {"name": name, "version": "9.0.0", "task": "defocus", "sha256": "0" * 64, "size_bytes": len(NEW)}
    return json.dumps(fields)


def test_links_on_a_stick_that_lead_out_of_it(
    board: Board, newer: Entry, simulator: Simulator, tmp_path: Path
) -> None:
    stick = tmp_path / "stick"
    for path, data in simulator.files.items():
        (stick / path).parent.mkdir(parents=True, exist_ok=True)
        (stick / path).write_bytes(data)
    secret = tmp_path / "secret"
    secret.write_bytes(b"a key of this board's")
    link = stick / bytes_of(simulator, newer)
    link.unlink()
    link.symlink_to(secret)
    board.source = Folder(stick)
    board.refuses(RepositoryUnreachable, "leads out of the folder", "copy the repository anew")


def test_endless_slow_cut_and_truncated_by_a_real_web_server(
    board: Board, newer: Entry, server: HttpRepository, simulator: Simulator
) -> None:
    server.endless = True
    board.refuses(RepositoryUntrusted, "sends more than")
    server.endless, server.drip_s = False, 5.0
    board.refuses(RepositoryUnreachable, "said nothing for too long")
    server.drip_s, server.header_drip_s = 0.0, 5.0
    board.refuses(RepositoryUnreachable, "said nothing for too long")
    server.header_drip_s, server.cut_after_bytes, server.cuts = 0.0, 0, 100
    board.refuses(RepositoryUnreachable, "connection was cut")
    server.cuts = 0
    server.files = server.files | {bytes_of(simulator, newer): NEW[:1000]}
    board.refuses(RepositoryUnreachable, f"ended after 1000 of {len(NEW)} bytes")
    server.files = simulator.files
    assert board.take().serving == "tiny@1.1.0"
    assert (bytes_of(simulator, newer), "bytes=1000-") in server.asked


def test_a_web_server_that_is_gone(board: Board, newer: Entry) -> None:
    board.source = Web("http://127.0.0.1:9")
    board.refuses(RepositoryUnreachable, "nobody answers there", "try again")


def test_the_stand_in_rehearsal_is_one_that_passes() -> None:
    class Labelled:
        label = "a model"

    assert judge(as_good(Labelled(), Labelled(), quiet)).accepted  # type: ignore[arg-type]
