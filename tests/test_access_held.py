"""Calls that are held: nobody keeps others from asking, and from stopping the stage, by calls that go on and on."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import hostile_wire as wire
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from keyed_board import NOW, WAIT_S, Keyed, keyed, secure

from edge_app.access import kit as kits
from edge_app.access.guard import MAX_CALLS, MAX_CALLS_IN_ALL, MAX_STOPS, _only
from edge_app.access.roles import Role
from edge_app.client import Client
from edge_app.errors import BadRequest, NotIdentified, TooMany
from edge_app.statuses import error_of
from edge_app.stubs.parfocal.v1 import focus_pb2, microscope_pb2
from edge_app.stubs.parfocal.v1.focus_pb2_grpc import FocusServiceStub
from edge_app.stubs.parfocal.v1.microscope_pb2_grpc import MicroscopeServiceStub

if TYPE_CHECKING:
    from conftest import Bench

MEASURE = b"/parfocal.v1.FocusService/Measure"
STOP = b"/parfocal.v1.FocusService/Stop"
PING, SETTINGS, ACK = 6, 4, 1


@pytest.fixture
def board(bench: Bench, tmp_path: Path) -> Iterator[Keyed]:
    """The bench, served with keys."""
    with keyed(bench.appliance, tmp_path) as served:
        yield served
        bench.clock.release()


@contextmanager
def held(target: wire.Target, method: bytes, calls: int) -> Iterator[None]:
    """One connection with so many calls begun that never bring a request; it answers pings, so it is not let go of."""
    with wire.connected(target) as stranger:
        begun = [
            wire.frame(wire.HEADERS, wire.END_HEADERS, 2 * number + 1, wire.call_headers(method))
            for number in range(calls)
        ]
        stranger.sendall(wire.PREFACE + wire.frame(SETTINGS, 0, 0, b"") + b"".join(begun))
        ended = threading.Event()
        answering = threading.Thread(target=_answer, args=(stranger, ended))
        answering.start()
        try:
            yield
        finally:
            ended.set()
            answering.join(WAIT_S)


def _answer(stranger: socket.socket, ended: threading.Event) -> None:
    """Acknowledge settings and pings until told to end."""
    heard = b""
    while not ended.is_set():
        try:
            heard += stranger.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            return
        while len(heard) >= 9 and len(heard) >= 9 + int.from_bytes(heard[:3], "big"):
            size, kind, flags = int.from_bytes(heard[:3], "big"), heard[3], heard[4]
            if kind in (PING, SETTINGS) and not flags & ACK:
                with suppress(OSError):
                    stranger.sendall(wire.frame(kind, ACK, 0, heard[9 : 9 + size] if kind == PING else b""))
            heard = heard[9 + size :]


def _targets(board: Keyed) -> tuple[wire.Target, wire.Target]:
    """The door for tokens to a stranger, and this machine's own."""
    tls = ssl.create_default_context(cadata=board.trust.keys().authority.decode())
    tls.set_alpn_protocols(["h2"])
    return wire.Target(_port(board.tokens), tls), wire.Target(_port(board.here))


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_strangers_who_begin_calls_and_say_nothing_keep_nobody_out(board: Keyed) -> None:
    stranger, _ = _targets(board)
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(held(stranger, MEASURE, 100))
        time.sleep(0.5)
        with Client(board.here) as local, board.client("anna", Role.VIEWER, by_token=True) as anna:
            local.stop()
            anna.stop()
            assert anna.describe().board


def test_one_client_cannot_take_every_call_and_may_stop_all_the_same(board: Keyed) -> None:
    kit = kits.read(board.kit("anna", Role.VIEWER))
    with ExitStack() as stack:
        channels = [stack.enter_context(secure(board.far, kit)) for _ in range(3)]
        watches = [
            health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
            for channel in channels
            for _ in range(MAX_CALLS)
        ]
        told = [_first(watch) for watch in watches]
        refused = [error for error in told if error is not None]
        assert len(refused) == 2 * MAX_CALLS
        assert all(type(error) is TooMany and "as many as may be" in str(error) for error in refused)
        FocusServiceStub(channels[0]).Stop(focus_pb2.StopRequest(), timeout=WAIT_S)
        with board.client("bob", Role.VIEWER) as bob:
            assert bob.describe().board


def _first(watch: Any) -> Exception | None:
    """What came of a stream that tells something at once: None if it was answered."""
    try:
        next(watch)
    except grpc.RpcError as fault:
        return error_of(fault, "")
    return None


def test_many_clients_together_leave_room_for_a_stop(board: Keyed) -> None:
    with ExitStack() as stack:
        watches = []
        for number in range(8):
            kit = kits.read(board.kit(f"anna-{number}", Role.VIEWER))
            channel = stack.enter_context(secure(board.far, kit))
            for _ in range(MAX_CALLS):
                watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
                watches.append(watch)
        refused = [error for error in map(_first, watches) if error is not None]
        assert len(refused) == len(watches) - MAX_CALLS_IN_ALL
        assert all("calls of other machines are under way" in str(error) for error in refused)
        with board.client("bob", Role.VIEWER) as bob, Client(board.here) as local:
            bob.stop()
            assert local.describe().board


def test_silent_stops_are_in_nobodys_way(board: Keyed) -> None:
    _, here = _targets(board)
    with held(here, STOP, MAX_STOPS + 10), Client(board.here) as local:
        time.sleep(0.3)
        local.stop()


@pytest.mark.parametrize("turns", range(5))
async def test_a_call_that_is_cancelled_as_its_request_comes_does_not_go_on(turns: int) -> None:
    sent: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def incoming() -> AsyncIterator[bytes]:
        yield await sent

    call = asyncio.create_task(_only(incoming(), STOP.decode(), 10.0))
    for _ in range(5):
        await asyncio.sleep(0)
    sent.set_result(b"")
    for _ in range(turns):
        await asyncio.sleep(0)
    went_on = call.done()
    call.cancel()
    await asyncio.wait([call])
    assert went_on or call.cancelled()


def test_programs_on_this_machine_leave_room_for_a_stop(board: Keyed) -> None:
    _, here = _targets(board)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(held(here, MEASURE, 100))
        with Client(board.here) as local:
            _until(lambda: _refused(local))
            local.stop()


def _refused(local: Client) -> bool:
    try:
        local.describe()
    except TooMany as error:
        assert str(error).startswith(f"{MAX_CALLS_IN_ALL} calls of the programs on this machine")  # noqa: PT017
        return True
    return False


def _until(so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    ends_s = time.monotonic() + WAIT_S
    while not so():
        assert time.monotonic() < ends_s
        time.sleep(0.02)


def test_a_call_that_brings_no_request_is_ended(board: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_app.access.guard.STOP_REQUEST_S", 0.2)

    def nothing() -> Iterator[bytes]:
        threading.Event().wait(1.0)
        yield from ()

    with grpc.insecure_channel(board.here) as channel:
        ask: Any = channel.stream_unary(STOP.decode())
        with pytest.raises(grpc.RpcError) as caught:
            ask(nothing(), timeout=WAIT_S)
    error = error_of(caught.value, "")
    assert isinstance(error, BadRequest)
    assert "no request came" in str(error)


def test_a_call_without_a_request_is_refused(board: Keyed) -> None:
    with grpc.insecure_channel(board.here) as channel:
        ask: Any = channel.stream_unary(STOP.decode())
        with pytest.raises(grpc.RpcError) as caught:
            ask(iter([]), timeout=WAIT_S)
    assert "without a request" in str(error_of(caught.value, ""))


def test_a_revoked_clients_call_ends_when_its_job_has_come_to_rest(board: Keyed, bench: Bench) -> None:
    with board.client("anna", Role.OPERATOR) as anna:
        bench.clock.hold(2)
        move = MicroscopeServiceStub(anna._channel).Move
        call = move.future(microscope_pb2.MoveRequest(to_um=40.0), timeout=WAIT_S)
        assert bench.clock.reached.wait(WAIT_S)
        board.trust.revoke("anna", NOW)
        assert bench.halted.wait(WAIT_S)
        time.sleep(1.5)  # it is looked for revoked clients twice a second
        assert not call.done()
        bench.clock.release()
        with pytest.raises(grpc.RpcError) as caught:
            call.result(WAIT_S)
        assert isinstance(error_of(caught.value, ""), NotIdentified)
        assert bench.appliance.busy_with == ""
