"""The board's keys: made once, kept to their owner, valid whatever the clock says, and never half written."""

from __future__ import annotations

import fcntl
import os
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import assume, given
from hypothesis import strategies as st

from edge_app.access import certificates, clients, private
from edge_app.access import kit as kits
from edge_app.access.addresses import BOARD_NAME
from edge_app.access.callers import Callers
from edge_app.access.certificates import BEGINS
from edge_app.access.clients import Book
from edge_app.access.roles import Role
from edge_app.access.trust import Kit, Trust, default_folder
from edge_app.errors import BadRequest, BadSettings, NotIdentified, TrustUnusable

NOW = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
TLS = {"transport_security_type": [b"ssl"]}


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    """A folder with keys."""
    made = Trust(tmp_path / "trust")
    made.init("bench", ["scope-3", "192.0.2.7"], NOW)
    return made


def _certificate(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


# Making keys.


def test_the_boards_certificate_has_its_fixed_name_and_those_it_is_reached_by(trust: Trust) -> None:
    board = _certificate(trust.keys().board.certificate)
    names = board.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [BOARD_NAME, "scope-3"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]


def test_each_certificate_serves_one_purpose(trust: Trust) -> None:
    anna = trust.add("anna", Role.VIEWER, 30.0, False, NOW)
    assert anna.pair is not None
    purposes = [
        list(_certificate(pem).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        for pem in (trust.keys().board.certificate, anna.pair.certificate)
    ]
    assert purposes == [[ExtendedKeyUsageOID.SERVER_AUTH], [ExtendedKeyUsageOID.CLIENT_AUTH]]


def test_two_boards_have_authorities_of_different_names(trust: Trust, tmp_path: Path) -> None:
    other = Trust(tmp_path / "other")
    other.init("bench", [], NOW)
    assert _certificate(trust.keys().authority).subject != _certificate(other.keys().authority).subject


def test_every_certificate_holds_for_a_board_whose_clock_was_never_set(trust: Trust) -> None:
    anna = trust.add("anna", Role.VIEWER, 30.0, False, NOW)
    assert anna.pair is not None
    for pem in (trust.keys().authority, trust.keys().board.certificate, anna.pair.certificate):
        assert _certificate(pem).not_valid_before_utc == BEGINS == datetime(1970, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize("clock", [BEGINS, BEGINS + timedelta(seconds=5), datetime(2019, 1, 1, tzinfo=timezone.utc)])
def test_keys_that_are_made_by_a_clock_that_is_not_set_hold_in_2026(tmp_path: Path, clock: datetime) -> None:
    trust = Trust(tmp_path / "trust")
    keys = trust.init("bench", [], clock)
    client = trust.add("anna", Role.VIEWER, 365.0, False, clock).client
    assert certificates.ends(keys.board.certificate) > NOW + timedelta(days=9 * 365)
    assert client.ends == datetime(2027, 1, 1, tzinfo=timezone.utc)


def test_nothing_outlasts_the_authority_that_signed_it(trust: Trust) -> None:
    late = datetime(2045, 1, 1, tzinfo=timezone.utc)
    trust.renew([], late)
    assert certificates.ends(trust.keys().board.certificate) == certificates.ends(trust.keys().authority)


def test_keys_are_made_once(trust: Trust) -> None:
    before = trust.keys()
    with pytest.raises(TrustUnusable, match=r"has keys already; `parfocal trust renew`"):
        trust.init("again", [], NOW)
    assert trust.keys() == before


def test_keys_whose_making_was_cut_short_are_made_anew(trust: Trust) -> None:
    trust.list.unlink()
    trust.init("again", [], NOW)
    assert trust.clients() == ()


def test_a_renewed_board_has_another_key_and_the_same_authority(trust: Trust) -> None:
    before = trust.keys()
    after = trust.renew(["scope-3"], NOW)
    assert after.authority == before.authority
    assert after.board.key != before.board.key


def _common_name(pem: bytes) -> str:
    (name,) = _certificate(pem).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


@pytest.mark.parametrize("name", ["ü" * 64, "a" + "ü" * 64, "x" * 300, "\udcff"])
def test_a_long_name_is_cut_where_a_letter_ends_and_still_tells_boards_apart(tmp_path: Path, name: str) -> None:
    names = [_common_name(Trust(tmp_path / part).init(name, [], NOW).authority) for part in ("one", "other")]
    assert len(set(names)) == 2
    for made in names:
        assert len(made.encode()) <= 64
        assert made.split()[1] in (name[:46], name[:23], "?")


@pytest.mark.parametrize(
    ("name", "known"),
    [("büro-pi.local", "xn--bro-pi-3ya.local"), ("scope.example.", "scope.example"), ("my_board", "my_board")],
)
def test_a_host_name_is_written_as_certificates_have_it(trust: Trust, name: str, known: str) -> None:
    board = _certificate(trust.renew([name], NOW).board.certificate)
    names = board.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [BOARD_NAME, known]


NO_NAMES = [
    "",
    ".",
    "http://x y/",
    "a b",
    "scope:50052",
    "192.0.2.300",
    "-a",
    "a..b",
    "x" * 64,
    "a." * 127 + "bc",
    "\udcff",
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_neither_an_address_nor_a_host_name_is_refused_before_anything_is_written(
    trust: Trust, tmp_path: Path, name: str
) -> None:
    before = trust.keys()
    with pytest.raises(BadRequest, match="is neither an IP address nor a host name"):
        Trust(tmp_path / "new").init("bench", ["scope-3", name], NOW)
    assert not (tmp_path / "new").exists()
    with pytest.raises(BadRequest, match="is neither an IP address nor a host name"):
        trust.renew([name], NOW)
    assert trust.keys() == before


# Who may read them.


def test_keys_and_kits_are_for_their_owner_alone(trust: Trust, tmp_path: Path) -> None:
    kits.write(trust.add("anna", Role.VIEWER, 30.0, False, NOW), tmp_path / "anna")
    kits.write(trust.add("bot", Role.VIEWER, 30.0, True, NOW), tmp_path / "bot")
    secrets = ("trust/authority.key", "trust/board.pem", "anna/client.key", "bot/token")
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in secrets} == {0o600}
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("trust", "anna", "bot")} == {0o700}


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o620, 0o602])
def test_a_board_key_that_others_may_read_or_write_is_refused(trust: Trust, mode: int) -> None:
    (trust.folder / "board.pem").chmod(mode)
    with pytest.raises(TrustUnusable, match=rf"others may read the key .*mode 0{mode:o}.*chmod 600"):
        trust.keys()


def test_an_authority_key_that_others_may_read_signs_nothing(trust: Trust) -> None:
    (trust.folder / "authority.key").chmod(0o640)
    with pytest.raises(TrustUnusable, match="others may read the key"):
        trust.add("anna", Role.VIEWER, 30.0, False, NOW)
    assert trust.clients() == ()


def test_a_kit_whose_key_others_may_read_is_refused(trust: Trust, tmp_path: Path) -> None:
    kits.write(trust.add("anna", Role.VIEWER, 30.0, False, datetime.now(timezone.utc)), tmp_path / "anna")
    (tmp_path / "anna/client.key").chmod(0o644)
    with pytest.raises(TrustUnusable, match="others may read"):
        kits.read(tmp_path / "anna")


def test_nothing_that_is_printed_of_keys_shows_a_secret(trust: Trust, tmp_path: Path) -> None:
    anna, bot = (
        trust.add(name, Role.VIEWER, 30.0, name == "bot", datetime.now(timezone.utc)) for name in ("anna", "bot")
    )
    kits.write(anna, tmp_path / "anna")
    kits.write(bot, tmp_path / "bot")
    printed = repr([anna, bot, trust.keys(), kits.read(tmp_path / "anna"), kits.read(tmp_path / "bot")])
    assert "BEGIN CERTIFICATE" in printed
    assert "PRIVATE KEY" not in printed
    assert bot.token not in printed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_gives_the_service_its_own_key_and_keeps_what_signs(tmp_path: Path) -> None:
    trust = Trust(tmp_path / "trust", service=(12345, 54321))
    trust.init("bench", [], NOW)
    owner = {name: (trust.folder / name).stat() for name in ("board.pem", "authority.key", "clients.json", ".")}
    assert (owner["board.pem"].st_uid, owner["authority.key"].st_uid, owner["clients.json"].st_uid) == (12345, 0, 0)
    assert (owner["."].st_uid, owner["."].st_gid, owner["."].st_mode & 0o777) == (0, 54321, 0o750)


def test_the_folder_is_the_machines_where_parfocal_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    assert default_folder(tmp_path) == tmp_path / "trust"
    assert default_folder(tmp_path / "missing") == tmp_path / "home/parfocal/trust"


# Damage.


def test_no_keys_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(TrustUnusable, match=r"there are no keys in .* make them with `parfocal trust init`"):
        Trust(tmp_path).keys()


@pytest.mark.parametrize(
    "damage", [b"", b"no key at all", b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----"]
)
def test_a_damaged_board_key_says_how_to_make_another(trust: Trust, damage: bytes) -> None:
    (trust.folder / "board.pem").write_bytes(damage)
    with pytest.raises(TrustUnusable, match="parfocal trust renew"):
        trust.keys()
    trust.renew([], NOW)
    trust.keys()


def test_a_key_of_another_certificate_is_noticed(trust: Trust) -> None:
    before = trust.keys().board
    after = trust.renew([], NOW).board
    private.put(trust.folder / "board.pem", before.key + after.certificate, private.SECRET)
    with pytest.raises(TrustUnusable, match="is damaged"):
        trust.keys()


@pytest.mark.parametrize("text", ["", "{}", '{"clients": [{"name": "anna"}]}', '{"clients": [], "more": 1}', "\xff"])
def test_a_damaged_list_of_clients_is_refused(trust: Trust, text: str) -> None:
    trust.list.write_text(text, encoding="latin-1")
    with pytest.raises(TrustUnusable, match=r"clients\.json is damaged"):
        trust.clients()


SIGNING: list[Callable[[Trust], object]] = [
    lambda trust: trust.renew([], NOW),
    lambda trust: trust.add("anna", Role.VIEWER, 30.0, False, NOW),
    lambda trust: trust.add("bot", Role.VIEWER, 30.0, True, NOW),
]


@pytest.mark.parametrize("sign", SIGNING)
@pytest.mark.parametrize(
    "damage", [b"", b"no key at all", b"-----BEGIN PRIVATE KEY-----\nA\n-----END PRIVATE KEY-----"]
)
def test_a_damaged_authority_key_signs_nothing(trust: Trust, sign: Callable[[Trust], object], damage: bytes) -> None:
    before = trust.keys()
    (trust.folder / "authority.key").write_bytes(damage)
    with pytest.raises(TrustUnusable, match=r"authority\.key is damaged.*put copies of both back, or begin again"):
        sign(trust)
    assert (trust.keys(), trust.clients()) == (before, ())


@pytest.mark.parametrize("sign", SIGNING)
def test_an_authority_key_of_another_board_signs_nothing(
    trust: Trust, tmp_path: Path, sign: Callable[[Trust], object]
) -> None:
    before = trust.keys()
    Trust(tmp_path / "other").init("other", [], NOW)
    (tmp_path / "other/authority.key").replace(trust.folder / "authority.key")
    with pytest.raises(TrustUnusable, match=r"not the key of .*authority\.pem"):
        sign(trust)
    assert (trust.keys(), trust.clients()) == (before, ())


@pytest.mark.parametrize("sign", SIGNING)
def test_without_the_authoritys_certificate_nobody_is_let_in(trust: Trust, sign: Callable[[Trust], object]) -> None:
    (trust.folder / "authority.pem").unlink()
    with pytest.raises(TrustUnusable, match=r"cannot read .*authority\.pem.*put a copy of it back"):
        sign(trust)
    assert trust.clients() == ()


def test_a_damaged_authority_is_named(trust: Trust) -> None:
    (trust.folder / "authority.pem").write_text("no certificate at all")
    with pytest.raises(TrustUnusable, match=r"authority\.pem is damaged.*put a copy of it back"):
        trust.keys()


def test_an_authority_that_has_ended_signs_nothing_that_would_have_ended_too(trust: Trust) -> None:
    before = trust.keys()
    late = certificates.ends(before.authority)
    with pytest.raises(TrustUnusable, match=r"ended on 2046-05-27.*begin again.*move .* elsewhere"):
        trust.renew([], late)
    with pytest.raises(TrustUnusable, match="ended on"):
        trust.add("anna", Role.VIEWER, 30.0, True, late)
    assert (trust.keys(), trust.clients()) == (before, ())


def test_a_full_disk_leaves_the_list_as_it_was(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    trust.add("anna", Role.VIEWER, 30.0, False, NOW)
    before = trust.list.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrustUnusable, match=r"No space left on device.*make room"):
        trust.revoke("anna", NOW)
    assert trust.list.read_bytes() == before
    assert [path.name for path in trust.folder.iterdir() if path.name.startswith(".")] == [private.LOCK]


def test_a_damaged_kit_names_the_file(trust: Trust, tmp_path: Path) -> None:
    _given(trust, tmp_path / "kit")
    (tmp_path / "kit" / kits.CERTIFICATE).write_bytes(b"-----BEGIN CERT")
    with pytest.raises(BadSettings, match=r"kit/client\.pem is damaged.*ask whoever keeps"):
        kits.read(tmp_path / "kit")


def test_a_folder_that_is_no_kit_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="is no client's kit"):
        kits.read(tmp_path)


# One at a time.


@contextmanager
def _held(path: Path) -> Iterator[int]:
    """A lock as another program takes it that may read this."""
    number = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield number
    finally:
        os.close(number)


def test_who_may_read_the_folder_cannot_hold_up_a_revocation(trust: Trust) -> None:
    trust.add("anna", Role.VIEWER, 30.0, False, NOW)
    with _held(trust.folder), _held(trust.list):
        trust.revoke("anna", NOW)
    assert trust.clients()[0].revoked == NOW
    assert (trust.folder / ".lock").stat().st_mode & 0o777 == 0o600


def test_a_lock_that_is_held_on_and_on_is_said(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    trust.add("anna", Role.VIEWER, 30.0, False, NOW)
    monkeypatch.setattr(private, "LOCK_S", 0.0)
    with _held(trust.folder / ".lock"), pytest.raises(TrustUnusable, match=r"nothing was changed; try again.*fuser"):
        trust.revoke("anna", NOW)
    assert trust.clients()[0].revoked is None


def test_a_lock_that_is_given_back_is_waited_for(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    before = trust.keys()
    with _held(trust.folder / ".lock") as number:
        monkeypatch.setattr(time, "sleep", lambda _: fcntl.flock(number, fcntl.LOCK_UN))
        assert trust.renew([], NOW) != before


def test_a_lock_that_leads_elsewhere_is_not_followed(trust: Trust, tmp_path: Path) -> None:
    (trust.folder / ".lock").unlink()
    (trust.folder / ".lock").symlink_to(tmp_path / "made")
    with pytest.raises(TrustUnusable, match="cannot open"):
        trust.renew([], NOW)
    assert not (tmp_path / "made").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_locks_nobody_out_of_their_own_folder(trust: Trust) -> None:
    (trust.folder / ".lock").unlink()
    os.chown(trust.folder, 12345, -1)
    trust.renew([], NOW)
    assert (trust.folder / ".lock").stat().st_uid == 12345


def test_what_a_killed_verb_left_is_cleared_away_by_the_next(trust: Trust) -> None:
    left = [trust.folder / f".{name}.ab_d1234" for name in ("authority.key", "board.pem", "clients.json")]
    other = trust.folder / ".clients.json.swp"
    for path in (*left, other):
        path.write_text("half")
    trust.renew([], NOW)
    assert [path.exists() for path in left] == [False, False, False]
    assert other.exists()


# Letting in and turning away.


def _given(trust: Trust, place: Path, by_token: bool = False) -> Kit:
    return trust.add("anna", Role.VIEWER, 30.0, by_token, NOW, hand_over=lambda kit: kits.written(kit, place))


def test_nobody_is_listed_for_whom_no_kit_can_be_made(trust: Trust, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrustUnusable, match=r"cannot make .*file/kit: Not a directory; name another with --out"):
        _given(trust, tmp_path / "file/kit")
    assert trust.clients() == ()
    assert _given(trust, tmp_path / "kit").client in trust.clients()


@pytest.mark.parametrize("fails", ["authority.pem", "client.key", "client.pem", "token", "clients.json"])
def test_nothing_is_left_of_a_client_whom_the_disk_does_not_take(
    trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    put = private.put

    def full(path: Path, *rest: object) -> None:
        if path.name == fails:
            raise TrustUnusable("full")
        put(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(private, "put", full)
    with pytest.raises(TrustUnusable, match="full"):
        _given(trust, tmp_path / "kit", by_token=fails == "token")
    assert trust.clients() == ()
    assert not (tmp_path / "kit").exists()


def test_a_name_is_let_in_once_until_it_is_revoked(trust: Trust) -> None:
    trust.add("anna", Role.VIEWER, 30.0, False, NOW)
    with pytest.raises(BadRequest, match="there is a client anna already"):
        trust.add("anna", Role.ADMIN, 30.0, True, NOW)
    assert [client.role for client in trust.clients()] == ["viewer"]


def test_a_name_that_has_expired_is_free(trust: Trust) -> None:
    trust.add("anna", Role.VIEWER, 30.0, False, NOW)
    later = NOW + timedelta(days=31)
    assert trust.add("anna", Role.VIEWER, 30.0, False, later).client.ends == later + timedelta(days=30)


@pytest.mark.parametrize("name", ["", ".", "../anna", "a/b", "a b", "-anna", "x" * 64, "anna\n", "ä"])
def test_a_name_that_could_be_a_path_or_cannot_be_read_is_refused(trust: Trust, name: str) -> None:
    with pytest.raises(BadRequest, match="cannot be a client's name"):
        trust.add(name, Role.VIEWER, 30.0, False, NOW)


@pytest.mark.parametrize("days", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_days_that_cannot_be_are_refused(trust: Trust, days: float) -> None:
    with pytest.raises(BadRequest, match="--days"):
        trust.add("anna", Role.VIEWER, days, False, NOW)


def test_revoking_somebody_who_is_not_there_names_those_who_are(trust: Trust) -> None:
    trust.add("anna", Role.VIEWER, 30.0, False, NOW)
    with pytest.raises(BadRequest, match="there is no client ann to revoke; there are: anna"):
        trust.revoke("ann", NOW)


def test_a_token_is_kept_as_its_hash_alone(trust: Trust) -> None:
    kit = trust.add("bot", Role.VIEWER, 30.0, True, NOW)
    assert len(kit.token) >= 43  # 256 bits
    assert kit.token.encode() not in b"".join(path.read_bytes() for path in trust.folder.iterdir())


def test_a_revoked_client_stays_in_the_list_and_is_named_when_it_comes(trust: Trust) -> None:
    token = trust.add("bot", Role.VIEWER, 30.0, True, NOW).token
    trust.revoke("bot", NOW)
    with pytest.raises(NotIdentified, match="the token of bot was revoked on 2026-06-01"):
        Callers(Book(trust.list), now=lambda: NOW).identify(TLS, "ipv4:192.0.2.1:1", _bearer(token))


# Who calls.


def _bearer(token: str) -> list[tuple[str, str | bytes]]:
    return [("authorization", f"Bearer {token}")]


def test_a_token_expires_by_the_boards_clock(trust: Trust) -> None:
    token = trust.add("bot", Role.VIEWER, 30.0, True, NOW).token
    clock = [NOW]
    callers = Callers(Book(trust.list), now=lambda: clock[0])
    caller = callers.identify(TLS, "ipv4:192.0.2.1:1", _bearer(token))
    assert (caller.name, caller.role, callers.still_knows(caller)) == ("bot", Role.VIEWER, True)
    clock[0] = NOW + timedelta(days=30)
    assert not callers.still_knows(caller)
    with pytest.raises(NotIdentified, match="the token of bot expired on 2026-07-01"):
        callers.identify(TLS, "ipv4:192.0.2.1:1", _bearer(token))


def test_a_certificate_does_not_do_as_a_token_nor_its_hash(trust: Trust) -> None:
    anna = trust.add("anna", Role.ADMIN, 30.0, False, NOW)
    with pytest.raises(NotIdentified):
        Callers(Book(trust.list), now=lambda: NOW).identify(TLS, "ipv4:192.0.2.1:1", _bearer(anna.client.sha256))


def test_what_is_listed_as_a_certificate_is_no_token(trust: Trust) -> None:
    bot = trust.add("bot", Role.ADMIN, 30.0, True, NOW)
    as_certificate = bot.client.model_copy(update={"kind": "certificate"})
    private.put(trust.list, clients.text_of([as_certificate]).encode(), private.PUBLIC)
    with pytest.raises(NotIdentified, match="does not know this token"):
        Callers(Book(trust.list), now=lambda: NOW).identify(TLS, "ipv4:192.0.2.1:1", _bearer(bot.token))


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "Bearer ")],
        [("authorization", "Basic YTpi")],
        [("authorization", "TOKEN")],
        [("authorization", b"Bearer TOKEN")],
        [("authorization", "Bearer TOKEN"), ("authorization", "Bearer TOKEN")],
    ],
)
def test_a_token_that_comes_in_another_way_is_none(trust: Trust, metadata: list[tuple[str, str | bytes]]) -> None:
    token = trust.add("bot", Role.VIEWER, 30.0, True, NOW).token
    sent = [(key, _put_in(value, token)) for key, value in metadata]
    with pytest.raises(NotIdentified):
        Callers(Book(trust.list), now=lambda: NOW).identify(TLS, "ipv4:192.0.2.1:1", sent)


def _put_in(value: str | bytes, token: str) -> str | bytes:
    return value.replace("TOKEN", token) if isinstance(value, str) else value.replace(b"TOKEN", token.encode())


@pytest.fixture(scope="module")
def one_client(tmp_path_factory: pytest.TempPathFactory) -> tuple[Callers, str]:
    """A board that knows one client, and the token of that one."""
    trust = Trust(tmp_path_factory.mktemp("known") / "trust")
    trust.init("bench", [], NOW)
    token = trust.add("bot", Role.ADMIN, 30.0, True, NOW).token
    return Callers(Book(trust.list), now=lambda: NOW), token


@given(
    prefix=st.sampled_from(["", "Bearer ", "bearer ", "BEARER  "]),
    raw=st.binary(max_size=200),
    cut=st.sampled_from([0, 1, 42, 43]),
    begun=st.booleans(),
)
def test_no_bytes_of_a_stranger_are_taken_for_a_client(
    one_client: tuple[Callers, str], prefix: str, raw: bytes, cut: int, begun: bool
) -> None:
    callers, token = one_client
    said = (token[:cut] if begun else "") + raw.decode("latin-1")
    assume(said.strip() != token)
    with pytest.raises(NotIdentified):
        callers.identify(TLS, "ipv4:192.0.2.1:1", [("authorization", prefix + said)])
    assert callers.identify(TLS, "ipv4:192.0.2.1:1", _bearer(token)).name == "bot"


@pytest.mark.parametrize("peer", ["ipv4:192.0.2.1:1", "ipv6:%5B2001:db8::1%5D:1", "ipv4:10.0.0.1:1", "", "dns:x:1"])
def test_a_connection_from_elsewhere_that_is_not_secured_is_nobody(peer: str) -> None:
    with pytest.raises(NotIdentified, match="not secured"):
        Callers().identify({"transport_security_type": [b"insecure"]}, peer, [])


@pytest.mark.parametrize("peer", ["ipv4:127.0.0.1:1", "ipv6:%5B::1%5D:1", "ipv6:[::1]:1", "unix:", "unix:/run/x"])
def test_a_program_on_this_machine_has_the_local_role(peer: str) -> None:
    caller = Callers(local_role=Role.VIEWER).identify({"transport_security_type": [b"insecure"]}, peer, [])
    assert (caller.name, caller.role, caller.proof) == (peer, Role.VIEWER, "")


@pytest.mark.parametrize("auth", [{}, {"transport_security_type": []}, {"transport_security_type": [b"local"]}])
def test_a_connection_that_does_not_say_how_it_is_secured_is_nobody(auth: dict[str, list[bytes]]) -> None:
    with pytest.raises(NotIdentified):
        Callers().identify(auth, "ipv4:127.0.0.1:1", [])


def test_other_tools_believe_the_certificate_too(trust: Trust) -> None:
    context = ssl.create_default_context(cadata=trust.keys().authority.decode())
    key = serialization.load_pem_private_key(trust.keys().board.key, password=None)
    assert context.get_ca_certs()[0]["notBefore"] == "Jan  1 00:00:00 1970 GMT"
    assert key is not None
