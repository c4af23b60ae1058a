"""Keys of a repository: made, locked, replaced and revoked, with boards that were away meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from publishing_bench import START, Board, QuickDisk, day, small_bundle
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata

from model_export.cli_publish import VARIABLE, Passphrase
from model_export.errors import PublishError
from model_export.publishing import Publisher
from model_export.publishing.edition import ROLES
from model_export.publishing.keys import ENCRYPTED, ONLINE, KeyRing


def secret(what: str, new: bool) -> str | None:
    return "a secret"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A repository `models` with one candidate, its `keys`, and a `board` that has seen it."""
    at(tmp_path, 0).init()
    at(tmp_path, 0).add([small_bundle(tmp_path)])
    board(tmp_path).offered("candidate", START)
    return tmp_path


def at(shop: Path, days: float, *keys: str) -> Publisher:
    return Publisher(shop / "models", [shop / name for name in keys or ("keys",)], day(days), disk=QuickDisk())


def board(shop: Path, name: str = "board") -> Board:
    return Board(shop / "models", (shop / "models/metadata/1.root.json").read_bytes(), shop / name)


def key_file(shop: Path, role: str) -> Path:
    (path,) = (shop / "keys").glob(f"{role}-*.pem")
    return path


def keyid(path: Path) -> str:
    return path.stem.partition("-")[2]


def test_nobody_else_can_read_a_key(shop: Path) -> None:
    modes = {path.stat().st_mode & 0o777 for path in (shop / "keys").glob("*.pem")}
    assert modes == {0o600}
    assert (shop / "keys").stat().st_mode & 0o777 == 0o700


def test_a_key_that_others_may_read_signs_nothing(shop: Path) -> None:
    key_file(shop, "candidate").chmod(0o640)
    with pytest.raises(PublishError, match=r"read by others \(mode 0640\).*chmod 600"):
        at(shop, 1).hold("candidate")


def test_a_missing_key_is_one_sentence_that_names_its_file(shop: Path) -> None:
    name = key_file(shop, "candidate").name
    key_file(shop, "candidate").unlink()
    with pytest.raises(PublishError, match=rf"needs its key {name}, which is not in {shop / 'keys'}"):
        at(shop, 1).hold("candidate")


def test_a_key_under_the_name_of_another_is_noticed(shop: Path) -> None:
    shutil.copy(key_file(shop, "stable"), key_file(shop, "candidate"))
    with pytest.raises(PublishError, match="it is another key"):
        at(shop, 1).hold("candidate")


def test_a_passphrase_locks_all_keys_but_those_that_a_timer_must_read(tmp_path: Path) -> None:
    made = Publisher(tmp_path / "models", tmp_path / "keys", START, secret).init().new_keys
    plain = {path.name.partition("-")[0] for path in made if ENCRYPTED not in path.read_bytes()}
    assert plain == set(ONLINE)


def test_locked_keys_open_with_their_passphrase_only(tmp_path: Path) -> None:
    Publisher(tmp_path / "models", tmp_path / "keys", START, secret).init()
    Publisher(tmp_path / "models", tmp_path / "keys", day(1), secret).hold("stable")
    with pytest.raises(PublishError, match="passphrase is wrong"):
        Publisher(tmp_path / "models", tmp_path / "keys", day(1), lambda what, new: "another").hold("stable")
    with pytest.raises(PublishError, match=VARIABLE):
        at(tmp_path, 1).hold("stable")


def test_the_passphrase_comes_from_the_environment_and_nobody_is_asked_where_there_is_no_terminal() -> None:
    assert Passphrase({VARIABLE: "x"}, at_terminal=True)("of a key", False) == "x"
    assert Passphrase({}, at_terminal=False)("of a key", False) is None


@pytest.mark.parametrize("role", ROLES)
def test_a_board_that_was_away_follows_two_rotations(shop: Path, role: str) -> None:
    at(shop, 1).rotate(role)
    at(shop, 2).rotate(role)
    assert board(shop).offered("candidate", day(3)) == ["small@1.0.0"]
    assert board(shop, "new").offered("candidate", day(3)) == ["small@1.0.0"]


@pytest.mark.parametrize("role", ROLES)
def test_after_a_rotation_only_the_new_key_is_needed(shop: Path, role: str) -> None:
    old = sorted((shop / "keys").glob(f"{role}-*.pem"))
    new = at(shop, 1).rotate(role).new_keys
    for path in old:
        path.unlink()
    at(shop, 2).renew([role])
    assert len(new) == len(old)
    assert board(shop).offered("candidate", day(3)) == ["small@1.0.0"]


@pytest.mark.parametrize("role", ROLES)
def test_a_lost_key_is_replaced_without_it(shop: Path, role: str) -> None:
    lost = min((shop / "keys").glob(f"{role}-*.pem"))
    lost.unlink()
    at(shop, 1).revoke(keyid(lost))
    at(shop, 2).renew([role])
    assert keyid(lost) not in str(at(shop, 2).status())
    assert board(shop).offered("candidate", day(3)) == ["small@1.0.0"]


def _forge(shop: Path, name: str, role: str, stolen: Path) -> None:
    """Sign a metadata file anew, by a key alone that was stolen."""
    path = shop / "models/metadata" / name
    made: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
    made.signed.version += 1000
    old: Metadata[Any] = Metadata.from_bytes((shop / "old.root.json").read_bytes())
    key = next(key for key in old.signed.keys.values() if key.keyid.startswith(keyid(stolen)))
    (signer,) = KeyRing([stolen.parent]).signers([key])
    assert isinstance(signer, CryptoSigner)
    made.sign(signer)
    path.write_bytes(made.to_bytes())


def test_what_a_revoked_key_signs_is_refused_and_would_have_been_taken_before(shop: Path) -> None:
    stolen = key_file(shop, "timestamp")
    shutil.copy(shop / "models/metadata/1.root.json", shop / "old.root.json")
    good = (shop / "models/metadata/timestamp.json").read_bytes()
    _forge(shop, "timestamp.json", "timestamp", stolen)
    assert board(shop, "early").offered("candidate", day(1)) == ["small@1.0.0"]
    (shop / "models/metadata/timestamp.json").write_bytes(good)
    at(shop, 1).revoke(keyid(stolen))
    for name in ("board", "early"):  # even the board that a thief's version numbers had led far ahead
        assert board(shop, name).offered("candidate", day(1)) == ["small@1.0.0"]
    _forge(shop, "timestamp.json", "timestamp", stolen)
    with pytest.raises(UnsignedMetadataError):
        board(shop).offered("candidate", day(2))


def test_a_revoked_channel_key_signs_for_nobody(shop: Path) -> None:
    stolen = key_file(shop, "candidate")
    at(shop, 1).revoke(keyid(stolen))
    made: Metadata[Any] = Metadata.from_bytes((shop / "models/metadata/3.candidate.json").read_bytes())
    assert [of[:12] for of in made.signatures if of.startswith(keyid(stolen))] == [keyid(stolen)]
    targets = (shop / "models/metadata/2.targets.json").read_text(encoding="utf-8")
    assert keyid(stolen) not in targets


def test_a_root_that_needs_two_keys_is_not_signed_by_one(tmp_path: Path) -> None:
    at(tmp_path, 0).init(root_keys=3, root_threshold=2)
    first, second, _ = sorted((tmp_path / "keys").glob("root-*.pem"))
    first.unlink()
    at(tmp_path, 1).revoke(keyid(first))
    second.unlink()
    next(iter((tmp_path / "keys").glob("root-*.pem"))).unlink()
    with pytest.raises(
        PublishError, match=r"needs 2 of its 3 keys, and .* has 1; missing: root-.*give the boards its root"
    ):
        at(tmp_path, 2).renew(["root"])


def test_a_revocation_that_cannot_be_signed_says_what_to_do(shop: Path) -> None:
    for path in (shop / "keys").glob("root-*.pem"):
        path.unlink()
    with pytest.raises(PublishError, match=r"signing root needs 1 of its 2 keys, and .* has 0.*init"):
        at(shop, 1).revoke(keyid(key_file(shop, "targets")))


@pytest.mark.parametrize(("given", "sentence"), [("abc", "too short"), ("0123456789ab", "no role has a key")])
def test_a_key_that_cannot_be_told_is_not_revoked(shop: Path, given: str, sentence: str) -> None:
    with pytest.raises(PublishError, match=sentence):
        at(shop, 1).revoke(given)


def test_keys_may_lie_in_several_folders_and_a_new_one_lies_beside_the_old(shop: Path) -> None:
    (shop / "vault").mkdir()
    for path in [*(shop / "keys").glob("root-*"), *(shop / "keys").glob("targets-*")]:
        path.rename(shop / "vault" / path.name)
    with pytest.raises(PublishError, match="signing targets needs its key"):
        at(shop, 1).rotate("candidate")
    of_root = at(shop, 1, "keys", "vault").rotate("root").new_keys
    of_channel = at(shop, 1, "vault", "keys").rotate("candidate").new_keys
    assert {path.parent.name for path in of_root} == {"vault"}
    assert {path.parent.name for path in of_channel} == {"keys"}
    assert (shop / "keys/root.json").read_bytes() == (shop / "models/metadata/2.root.json").read_bytes()


def test_keys_of_another_repository_are_not_mixed_in(shop: Path) -> None:
    with pytest.raises(PublishError, match="keys of another repository"):
        Publisher(shop / "others", shop / "keys", START).init()
