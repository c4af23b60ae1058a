"""Publishing: what is published is what python-tuf's own client accepts, and nothing else can be."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from publishing_bench import START, Board, QuickDisk, day, small_bundle
from tuf.api.exceptions import ExpiredMetadataError
from tuf.api.metadata import Metadata

from edge_app import bundle as bundles
from edge_app.errors import BundleCorrupt
from model_export.errors import PublishError
from model_export.publishing import Publisher

Verb = Callable[[Publisher], object]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a repository `models` that offers small@1.0.0 as a candidate, and its `keys`."""
    publisher = at(tmp_path, 0)
    publisher.init()
    publisher.add([small_bundle(tmp_path)])
    return tmp_path


def at(shop: Path, days: float) -> Publisher:
    return Publisher(shop / "models", shop / "keys", day(days), disk=QuickDisk())


def board(shop: Path, name: str = "board") -> Board:
    return Board(shop / "models", (shop / "models/metadata/1.root.json").read_bytes(), shop / name)


def entry_labels(shop: Path, channel: str = "candidate", days: float = 0) -> list[str]:
    return board(shop).offered(channel, day(days))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_board_takes_what_was_added_byte_by_byte(shop: Path) -> None:
    client = board(shop)
    (entry,) = client.catalogue("candidate", START).bundles
    assert (entry.label, entry.task, entry.share) == ("small@1.0.0", "defocus", 1.0)
    assert client.bundle("candidate", entry, START) == small_bundle(shop).read_bytes()


def test_a_new_repository_offers_nothing_yet_in_any_channel(tmp_path: Path) -> None:
    at(tmp_path, 0).init()
    assert entry_labels(tmp_path, "stable") == entry_labels(tmp_path, "candidate") == []


def test_a_canary_share_is_widened_and_the_rest_stays(shop: Path) -> None:
    at(shop, 1).add([small_bundle(shop, version="1.1.0")], share=0.1)
    at(shop, 2).share("small", 0.5)
    offered = board(shop).catalogue("candidate", day(2)).bundles
    assert {entry.version: entry.share for entry in offered} == {"1.0.0": 1.0, "1.1.0": 0.5}


def test_a_hold_is_one_flag_and_ends(shop: Path) -> None:
    at(shop, 1).hold("candidate")
    held = board(shop).catalogue("candidate", day(1)).hold
    at(shop, 2).release("candidate")
    assert (held, board(shop).catalogue("candidate", day(2)).hold) == (True, False)


def test_a_promoted_candidate_has_the_same_bytes(shop: Path) -> None:
    at(shop, 1).promote("small", "1.0.0")
    client = board(shop)
    (entry,) = client.catalogue("stable", day(1)).bundles
    assert client.bundle("stable", entry, day(1)) == small_bundle(shop).read_bytes()
    assert entry_labels(shop, "candidate", 1) == ["small@1.0.0"]


def test_a_channel_that_still_offers_what_was_withdrawn_is_named(shop: Path) -> None:
    at(shop, 1).promote("small", "1.0.0")
    done = at(shop, 1).withdraw("small", "1.0.0")
    assert done.did == (
        "candidate offers small@1.0.0 no longer; stable still offers it: withdraw it there with --channel stable"
    )


def test_a_hold_says_that_boards_have_to_hear_of_it(shop: Path) -> None:
    assert at(shop, 1).hold("stable").next.startswith("bring it to where boards fetch it")


def test_a_withdrawn_bundle_is_offered_no_longer_and_can_still_be_fetched_by_who_was_at_it(shop: Path) -> None:
    before = set((shop / "models/targets/candidate").iterdir())
    assert "still" not in at(shop, 1).withdraw("small", "1.0.0").did
    assert entry_labels(shop, days=1) == []
    assert before <= set((shop / "models/targets/candidate").iterdir())


def test_a_version_is_the_same_bytes_for_ever_even_withdrawn_and_in_another_channel(shop: Path) -> None:
    other = small_bundle(shop, onnx=b"other")
    with pytest.raises(PublishError, match="same bytes for ever"):
        at(shop, 1).add([other])
    with pytest.raises(PublishError, match="same bytes for ever"):
        at(shop, 1).add([other], "stable")
    at(shop, 1).withdraw("small", "1.0.0")
    with pytest.raises(PublishError, match="same bytes for ever"):
        at(shop, 1).add([other])


def test_adding_the_same_again_changes_nothing(shop: Path) -> None:
    before = files_of(shop / "models")
    done = at(shop, 1).add([small_bundle(shop)])
    assert (dict(done.signed), files_of(shop / "models")) == ({}, before)


def test_an_older_version_is_refused(shop: Path) -> None:
    with pytest.raises(PublishError, match=r"older than 1\.0\.0"):
        at(shop, 1).add([small_bundle(shop, version="0.9.0")])


def test_versions_are_numbers_not_text(shop: Path) -> None:
    at(shop, 1).add([small_bundle(shop, version="1.9.0")])
    at(shop, 2).add([small_bundle(shop, version="1.10.0")])
    assert entry_labels(shop, days=2) == ["small@1.0.0", "small@1.9.0", "small@1.10.0"]


def test_a_version_that_boards_cannot_order_is_refused(shop: Path) -> None:
    with pytest.raises(PublishError, match=r"such as 1\.2\.0"):
        at(shop, 1).add([small_bundle(shop, version="1")])


def test_a_damaged_bundle_is_refused(shop: Path) -> None:
    path = small_bundle(shop, version="2.0.0")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleCorrupt):
        at(shop, 1).add([path])


@pytest.mark.parametrize(
    ("verb", "sentence"),
    [
        (lambda p: p.share("small", 1.5), "0 to 1"),
        (lambda p: p.share("big", 0.5), "does not offer big; it offers small@1.0.0"),
        (lambda p: p.hold("nightly"), "no channel 'nightly'"),
        (lambda p: p.promote("small", "7.0.0"), "does not offer small@7.0.0"),
        (lambda p: p.withdraw("small", "1.0.0", "stable"), "it offers nothing"),
        (lambda p: p.renew(["owner"]), "no role 'owner'"),
        (lambda p: p.rotate("owner"), "no role 'owner'"),
        (lambda p: p.renew(["root"], days=0), "1 to 3650"),
        (lambda p: p.init(), "there is a repository"),
        (lambda p: p.init(root_keys=1, root_threshold=2), "ask for 1 to 1"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_changes_nothing(shop: Path, verb: Verb, sentence: str) -> None:
    before = files_of(shop / "models")
    with pytest.raises(PublishError, match=sentence) as refused:
        verb(at(shop, 1))
    assert "\n" not in str(refused.value)
    assert files_of(shop / "models") == before


def test_no_repository_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="publish init"):
        at(tmp_path, 0).status()


def test_the_same_inputs_give_the_same_bytes(shop: Path) -> None:
    twin = shop.parent / f"{shop.name}_twin"
    shutil.copytree(shop, twin)
    for place in (shop, twin):
        at(place, 1).add([small_bundle(shop, version="1.1.0")], share=0.1)
        at(place, 2).promote("small", "1.1.0")
        at(place, 3).refresh()
    assert files_of(shop / "models") == files_of(twin / "models")


@pytest.mark.parametrize("path", bundles.factory_bundles(), ids=lambda path: path.stem)
def test_a_bundle_packed_again_has_the_same_bytes(path: Path) -> None:
    one = bundles.read(path)
    golden = bundles.golden_bytes(one.golden_in, one.golden_out, one.golden_also)
    assert bundles.pack(one.manifest, one.onnx, golden) == path.read_bytes()


def test_each_role_expires_in_its_time_and_is_mended_without_new_trust(shop: Path) -> None:
    client = board(shop)
    with pytest.raises(ExpiredMetadataError, match="timestamp"):
        client.catalogue("candidate", day(31))
    at(shop, 31).refresh()
    assert client.offered("candidate", day(59)) == ["small@1.0.0"]
    at(shop, 91).refresh()
    with pytest.raises(ExpiredMetadataError, match="candidate"):
        client.catalogue("candidate", day(91))
    at(shop, 400).renew(["root", "targets", "stable", "candidate"])
    assert client.offered("candidate", day(401)) == ["small@1.0.0"]


def test_a_life_that_was_set_once_holds_for_every_later_signature(shop: Path) -> None:
    at(shop, 0).refresh(days=3)
    at(shop, 2).refresh()
    left = {role["role"]: role["days_left"] for role in at(shop, 2).status()["roles"]}
    assert (left["timestamp"], left["snapshot"], left["candidate"]) == (3, 3, 88)


def test_a_machine_whose_clock_lies_behind_the_repository_signs_nothing(shop: Path) -> None:
    at(shop, 20).refresh()
    with pytest.raises(PublishError, match="set the clock"):
        at(shop, 10).refresh()


def test_refreshing_needs_nothing_but_the_online_keys(shop: Path) -> None:
    for path in (shop / "keys").iterdir():
        if not path.name.startswith(("snapshot", "timestamp")):
            path.unlink()
    done = at(shop, 1).refresh()
    assert dict(done.signed) == {"snapshot": 3, "timestamp": 3}
    assert entry_labels(shop, days=30) == ["small@1.0.0"]


def test_the_status_says_days_left_keys_and_what_to_do(shop: Path) -> None:
    next(iter((shop / "keys").glob("targets-*"))).unlink()
    said = at(shop, 25).status()
    roles = {role["role"]: role for role in said["roles"]}
    assert (roles["timestamp"]["days_left"], roles["stable"]["days_left"]) == (5, 65)
    assert roles["targets"]["keys"][0]["file"] is None
    assert roles["candidate"]["keys"][0]["file"].startswith(str(shop / "keys/candidate-"))
    assert [text.split(":")[0] for text in said["next"]] == [
        "snapshot is good for 5 more days",
        "timestamp is good for 5 more days",
    ]
    assert said["channels"]["candidate"]["bundles"][0]["version"] == "1.0.0"


def test_two_publishers_do_not_interleave(shop: Path) -> None:
    with (shop / "models/.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(PublishError, match="somebody else is publishing"):
            at(shop, 1).refresh()
    at(shop, 1).refresh()


def test_pruning_leaves_what_boards_may_ask_for_and_every_root(shop: Path) -> None:
    at(shop, 1).rotate("root")
    at(shop, 1).withdraw("small", "1.0.0")
    at(shop, 2).add([small_bundle(shop, version="1.1.0")])
    at(shop, 3).prune()
    names = sorted(path.name.partition(".")[2] for path in (shop / "models").rglob("*.*") if path.is_file())
    assert names.count("small-1.0.0.parfocal") == 0
    assert (names.count("root.json"), names.count("snapshot.json"), names.count("catalogue.json")) == (2, 1, 2)
    assert entry_labels(shop, days=3) == ["small@1.1.0"]


def test_a_copy_is_all_that_a_board_needs_and_copying_again_writes_nothing(shop: Path) -> None:
    at(shop, 1).rotate("root")
    at(shop, 1).copy(shop / "stick")
    client = Board(shop / "stick", (shop / "models/metadata/1.root.json").read_bytes(), shop / "of_stick")
    assert client.offered("candidate", day(1)) == ["small@1.0.0"]
    assert " 0 files were new" in at(shop, 1).copy(shop / "stick").did


def test_a_damaged_file_is_not_copied_promoted_or_signed_anew(shop: Path) -> None:
    path = next((shop / "models/targets/candidate").glob("*.parfocal"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PublishError, match="not what was signed"):
        at(shop, 1).copy(shop / "stick")
    with pytest.raises(PublishError, match="not what was signed"):
        at(shop, 1).promote("small", "1.0.0")


def test_what_somebody_else_wrote_into_the_folder_is_never_signed(shop: Path) -> None:
    path = next((shop / "models/metadata").glob("2.candidate.json"))
    path.write_bytes(path.read_bytes().replace(b'"length":', b'"length" :'))
    with pytest.raises(PublishError, match="not what was signed"):
        at(shop, 1).add([small_bundle(shop, version="1.1.0")])


def test_what_nobody_signed_is_not_signed_anew(shop: Path) -> None:
    path = shop / "models/metadata/timestamp.json"
    path.write_bytes(path.read_bytes().replace(b"2026-12", b"2027-12"))
    with pytest.raises(PublishError, match="not signed by the keys of timestamp, so somebody else wrote it"):
        at(shop, 1).refresh()


def test_a_root_that_is_not_the_publishers_own_is_not_followed(shop: Path) -> None:
    thief = shop / "thief"
    Publisher(thief / "models", thief / "keys", day(0)).init()
    for name in ("1.root.json", "timestamp.json"):
        shutil.copy(thief / "models/metadata" / name, shop / "models/metadata" / name)
    with pytest.raises(PublishError, match="another repository"):
        at(shop, 1).refresh()


def test_every_signature_is_of_a_role_that_the_root_or_the_targets_name(shop: Path) -> None:
    for path in (shop / "models/metadata").glob("*.json"):
        assert len(Metadata.from_bytes(path.read_bytes()).signatures) == (2 if "root" in path.name else 1)
