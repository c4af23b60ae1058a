"""Who gets past the handshake, and for how long: none but this board's clients, and no longer than they are let in."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from conftest import open_bench
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from keyed_board import NOW, WAIT_S, Keyed, keyed, secure

from edge_app.access import certificates
from edge_app.access import kit as kits
from edge_app.access.addresses import BOARD_NAME
from edge_app.access.certificates import BEGINS
from edge_app.access.pair import Pair
from edge_app.access.roles import Role
from edge_app.access.trust import Trust
from edge_app.client import Client
from edge_app.errors import BadRequest, NotIdentified, TooOften, Unreachable
from edge_app.stubs.parfocal.v1 import focus_pb2
from edge_app.stubs.parfocal.v1.focus_pb2_grpc import FocusServiceStub

if TYPE_CHECKING:
    from conftest import Bench

DESCRIBE = "/parfocal.v1.MicroscopeService/Describe"
ONE_DAY_OF_2026 = (1.0, BEGINS)
"""Days and clock of what is over: a clock that is not set counts as the first day of 2026."""


@pytest.fixture
def board(bench: Bench, tmp_path: Path) -> Iterator[Keyed]:
    """The bench, served with keys."""
    with keyed(bench.appliance, tmp_path) as served:
        yield served
        bench.clock.release()


def _handshake(board: Keyed, identity: kits.Identity) -> str:
    """What gRPC says of a call with this identity: "" if it was answered."""
    with secure(board.far, identity) as channel:
        fault = _fault(channel)
    assert fault is None or fault.code() is grpc.StatusCode.UNAVAILABLE
    return "" if fault is None else str(fault.details())


def _fault(channel: grpc.Channel) -> Any:
    """What comes of a call: None if it was answered."""
    ask: Any = channel.unary_unary(DESCRIBE)
    try:
        ask(b"", timeout=WAIT_S)
    except grpc.RpcError as fault:
        return fault
    return None


def _signer(trust: Trust) -> Pair:
    return Pair((trust.folder / "authority.key").read_bytes(), (trust.folder / "authority.pem").read_bytes())


def _with(identity: kits.Identity, pair: Pair) -> kits.Identity:
    return replace(identity, key=pair.key, certificate=pair.certificate)


# The handshake.


def test_a_client_with_a_certificate_of_this_board_is_let_in(board: Keyed) -> None:
    with board.client("anna", Role.VIEWER) as client:
        assert client.describe().board == "simulated_tiny"


def test_a_client_without_a_certificate_does_not_get_past_the_handshake(board: Keyed) -> None:
    anna = kits.read(board.kit("anna", Role.ADMIN))
    assert _handshake(board, anna) == ""
    assert "closed" in _handshake(board, replace(anna, key=None, certificate=None)).lower()


def test_an_expired_certificate_does_not_get_past_the_handshake(board: Keyed) -> None:
    days, clock = ONE_DAY_OF_2026
    anna = kits.read(board.kit("anna", Role.ADMIN))
    assert _handshake(board, _with(anna, certificates.client(_signer(board.trust), "anna", days, clock))) != ""


def test_a_foreign_certificate_does_not_get_past_the_handshake(board: Keyed) -> None:
    anna = kits.read(board.kit("anna", Role.ADMIN))
    foreign = certificates.authority("another board", NOW)
    assert _handshake(board, _with(anna, certificates.client(foreign, "anna", 30.0, NOW))) != ""


def test_the_boards_own_certificate_is_none_of_a_client(board: Keyed) -> None:
    anna = kits.read(board.kit("anna", Role.ADMIN))
    assert _handshake(board, _with(anna, board.trust.keys().board)) != ""


def test_a_connection_without_tls_is_refused_at_a_door_that_others_reach(board: Keyed) -> None:
    with grpc.insecure_channel(board.far) as channel:
        assert _fault(channel).code() is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_of_this_board_that_is_not_in_its_list_is_refused(board: Keyed) -> None:
    anna = kits.read(board.kit("anna", Role.ADMIN))
    made_with_a_stolen_key = certificates.client(_signer(board.trust), "anna", 30.0, NOW)
    with secure(board.far, _with(anna, made_with_a_stolen_key)) as channel:
        assert _fault(channel).code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_clients_kit_does_not_do_to_play_the_board(board: Keyed) -> None:
    eve, anna = kits.read(board.kit("eve", Role.ADMIN)), board.kit("anna", Role.VIEWER)
    with (
        _impostor(eve) as address,
        Client(address, WAIT_S, anna) as client,
        pytest.raises(NotIdentified, match="is not the board that the kit"),
    ):
        client.describe()


@contextmanager
def _impostor(identity: kits.Identity) -> Iterator[str]:
    """A TLS server with a client's certificate; gives its address."""
    assert identity.key is not None
    assert identity.certificate is not None
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        key = grpc.ssl_server_credentials([(identity.key, identity.certificate)])
        port = server.add_secure_port("127.0.0.1:0", key)
        server.start()
        yield f"0.0.0.0:{port}"
        server.stop(None).wait(WAIT_S)


# What the client says of it.


def test_without_a_kit_the_client_says_how_to_get_one() -> None:
    with pytest.raises(NotIdentified, match=r"parfocal trust add.*--identity"):
        Client("192.0.2.1:50052")


def test_another_boards_kit_is_named(board: Keyed, tmp_path: Path) -> None:
    other = Trust(tmp_path / "other")
    other.init("other", [], NOW)
    kits.write(other.add("anna", Role.ADMIN, 30.0, False, NOW), tmp_path / "kit")
    for address in (board.far, f"tls:{board.far.replace('0.0.0.0', '127.0.0.1')}"):
        with (
            Client(address, WAIT_S, tmp_path / "kit") as client,
            pytest.raises(NotIdentified, match="is not the board"),
        ):
            client.describe()


def test_a_kit_that_the_board_turns_away_is_named(board: Keyed, tmp_path: Path) -> None:
    kit = board.kit("anna", Role.ADMIN)
    pair = certificates.client(certificates.authority("another board", NOW), "anna", 30.0, NOW)
    (kit / kits.KEY).write_bytes(pair.key)
    (kit / kits.CERTIFICATE).write_bytes(pair.certificate)
    with Client(board.far, WAIT_S, kit) as client, pytest.raises(NotIdentified, match="turned the kit"):
        client.describe()


def test_a_kit_with_a_token_at_the_door_for_certificates_is_told_where_to_go(board: Keyed) -> None:
    kit = board.kit("bot", Role.VIEWER, by_token=True)
    with Client(board.far, WAIT_S, kit) as client, pytest.raises(NotIdentified, match="token port"):
        client.describe()


def test_a_kit_whose_certificate_has_expired_is_not_tried(board: Keyed) -> None:
    days, clock = ONE_DAY_OF_2026
    kits.write(board.trust.add("anna", Role.ADMIN, days, False, clock), board.kits / "anna")
    with pytest.raises(NotIdentified, match="expired on 2026-01-02"):
        Client(board.far, WAIT_S, board.kits / "anna")


def test_a_boards_certificate_that_has_expired_says_how_to_renew_it(bench: Bench, tmp_path: Path) -> None:
    with keyed(bench.appliance, tmp_path) as board:
        kit = board.kit("anna", Role.VIEWER)
        names = x509.SubjectAlternativeName([x509.DNSName(BOARD_NAME)])
        end = certificates.expiry(*ONE_DAY_OF_2026)
        purpose = ExtendedKeyUsageOID.SERVER_AUTH
        board.trust._put_board(certificates._leaf(_signer(board.trust), "board", purpose, end, names))
        with Client(board.far, WAIT_S, kit) as client, pytest.raises(NotIdentified, match="parfocal trust renew"):
            client.describe()


def test_where_nothing_answers_the_client_says_that_and_not_more(board: Keyed, free_address: str) -> None:
    kit = board.kit("anna", Role.VIEWER)
    far = free_address.replace("127.0.0.1", "0.0.0.0")
    said = {
        far: f"nothing answers at {far}; start it with `parfocal serve --listen {far}`",
        f"tls:{free_address}": f"nothing answers at {free_address}; check the address, and the tunnel",
        free_address: f"if it speaks TLS, ask tls:{free_address}$",
    }
    for address, sentence in said.items():
        with Client(address, WAIT_S, kit) as client, pytest.raises(Unreachable, match=sentence):
            client.describe()


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1", "127.0.0.1:5x", ":5", "unix:", "a:70000", ""])
def test_what_is_no_address_is_said_to_be_none(address: str) -> None:
    with pytest.raises(BadRequest, match="is no address to ask; give HOST:PORT"):
        Client(address)


@pytest.fixture
def free_address() -> str:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


# While it lasts.


@pytest.mark.parametrize("by_token", [False, True], ids=["certificate", "token"])
def test_who_is_revoked_is_turned_away_on_a_connection_that_is_open(board: Keyed, by_token: bool) -> None:
    with board.client("anna", Role.VIEWER, by_token) as client:
        client.position()
        board.trust.revoke("anna", NOW)
        with pytest.raises(NotIdentified, match="of anna was revoked"):
            client.position()


def test_who_is_revoked_has_a_running_job_stopped(board: Keyed, bench: Bench) -> None:
    with board.client("anna", Role.OPERATOR) as client:
        client.load_field(4, "tissue", 8.0)
        bench.clock.hold(3)
        focusing = FocusServiceStub(client._channel).Focus(focus_pb2.FocusRequest(), timeout=WAIT_S)
        assert bench.clock.reached.wait(WAIT_S)
        board.trust.revoke("anna", NOW)
        bench.release_when_halted()
        with pytest.raises(grpc.RpcError, match="this call was ended") as caught:
            list(focusing)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert not bench.microscope.axis.moving


def test_others_go_on_when_one_is_revoked(board: Keyed) -> None:
    with board.client("anna", Role.VIEWER) as anna, board.client("bob", Role.VIEWER) as bob:
        anna.position()
        board.trust.revoke("bob", NOW)
        anna.position()
        with pytest.raises(NotIdentified):
            bob.position()


def test_a_name_that_was_revoked_may_be_let_in_again_with_a_new_kit(board: Keyed) -> None:
    with board.client("anna", Role.VIEWER) as before:
        board.trust.revoke("anna", NOW)
        kits.write(board.trust.add("anna", Role.OPERATOR, 30.0, False, NOW), board.kits / "again")
        with Client(board.far, WAIT_S, board.kits / "again") as client:
            assert client.move_to(1.0).z_um == pytest.approx(1.0)
        with pytest.raises(NotIdentified):
            before.position()


def test_a_certificate_that_is_renewed_takes_hold_without_a_restart_and_leaves_the_clients_alone(board: Keyed) -> None:
    kit = board.kit("anna", Role.VIEWER)
    before = board.trust.keys().board.sha256
    assert _served(board) == before
    board.trust.renew(["localhost"], NOW)
    assert _served(board) == board.trust.keys().board.sha256 != before
    with Client(board.far, WAIT_S, kit) as client:
        client.position()


def _served(board: Keyed) -> str:
    """The fingerprint of the certificate that the board shows."""
    host, _, port = board.far.rpartition(":")
    pem = ssl.get_server_certificate((host, int(port)), timeout=WAIT_S)
    return certificates.fingerprint(pem.encode())


def test_a_list_of_clients_that_others_may_write_lets_nobody_in(board: Keyed) -> None:
    with board.client("anna", Role.VIEWER) as client:
        client.position()
        board.trust.list.chmod(0o666)
        with pytest.raises(Exception, match="others than its owner may write"):
            client.position()


def test_what_one_client_may_ask_of_the_motor_is_bounded_and_stopping_is_not(board: Keyed) -> None:
    with board.client("anna", Role.OPERATOR) as anna, board.client("bob", Role.OPERATOR) as bob:
        with pytest.raises(TooOften, match=r"anna asked for motion more than 20 times a second"):
            _ask_without_end(anna)
        for _ in range(200):
            anna.stop()
        assert bob.move_to(1.0).z_um == pytest.approx(1.0)


def _ask_without_end(client: Client) -> None:
    """Ask for the same place again and again: nothing moves, and it counts."""
    for _ in range(2000):
        client.move_to(0.0)


# Programs on this machine.


def test_programs_on_this_machine_have_the_role_that_the_settings_say(tmp_path: Path) -> None:
    opened = open_bench()
    with opened.appliance, keyed(opened.appliance, tmp_path, Role.VIEWER) as board, Client(board.here) as client:
        assert isinstance(client.stop(), focus_pb2.StopReply)
        with pytest.raises(Exception, match="Move wants the role operator"):
            client.move_to(1.0)
