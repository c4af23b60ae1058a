"""Who may do what: the table is total, and over a real server every method and every role are as it says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import grpc
import pytest
from conftest import open_bench
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from keyed_board import WAIT_S, Keyed, keyed, secure

from edge_app.access import kit as kits
from edge_app.access.roles import MOVERS, ROLES, Role, check
from edge_app.errors import NotAllowed
from edge_app.front import Front
from edge_app.server import serving
from edge_app.waiting import SERVICES, SIMULATION

STANDARD = (*health_pb2.DESCRIPTOR.services_by_name.values(), *reflection_pb2.DESCRIPTOR.services_by_name.values())
METHODS = sorted(f"/{s.full_name}/{m.name}" for s in (*SERVICES, *SIMULATION, *STANDARD) for m in s.methods)
STREAMED = {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"}
WAYS = ("plain", "certificate", "token")
NONSENSE = b"\xff"
"""No message at all: whoever may call is told so, before anything moves."""


def test_the_table_has_every_method_of_every_service_and_no_other() -> None:
    assert set(ROLES) == set(METHODS)


def test_whatever_is_limited_is_in_the_table_and_wants_more_than_a_viewer() -> None:
    assert set(ROLES) >= MOVERS
    assert all(ROLES[method] > Role.VIEWER for method in MOVERS)


def test_stopping_wants_the_least_role_and_is_never_limited() -> None:
    stops = {method for method in ROLES if method.endswith("/Stop")}
    assert len(stops) == 2
    assert all(ROLES[method] is Role.VIEWER for method in stops)
    assert not stops & MOVERS


def test_a_method_that_the_table_does_not_know_is_refused_whoever_asks() -> None:
    with pytest.raises(NotAllowed, match="nobody may call"):
        check("/parfocal.v1.FocusService/Explode", "anna", Role.ADMIN)


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, Role], grpc.Channel]]:
    """A channel for each way in and each role; programs on this machine have a server for each role."""
    bench = open_bench()
    with ExitStack() as stack:
        stack.enter_context(bench.appliance)
        board = stack.enter_context(keyed(bench.appliance, tmp_path_factory.mktemp("keys")))
        found: dict[tuple[str, Role], grpc.Channel] = {}
        for role in Role:
            here = stack.enter_context(serving(bench.appliance, "127.0.0.1:0", local_role=role))
            found["plain", role] = stack.enter_context(grpc.insecure_channel(here))
            found["certificate", role] = stack.enter_context(_channel(board, role, by_token=False))
            found["token", role] = stack.enter_context(_channel(board, role, by_token=True))
        yield found
        assert bench.z_um == 0.0


def _channel(board: Keyed, role: Role, by_token: bool) -> grpc.Channel:
    kit = board.kit(f"{role.label}-{by_token}", role, by_token)
    return secure(board.tokens if by_token else board.far, kits.read(kit))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.label)
@pytest.mark.parametrize("method", METHODS)
def test_a_call_is_allowed_or_refused_as_the_table_says(
    doors: dict[tuple[str, Role], grpc.Channel], method: str, role: Role, way: str
) -> None:
    allowed = role >= ROLES[method]
    wanted = grpc.StatusCode.INVALID_ARGUMENT if allowed else grpc.StatusCode.PERMISSION_DENIED
    assert _code(doors[way, role], method) is wanted


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """A channel to the door for tokens, with a token that the board does not know."""
    bench = open_bench()
    with bench.appliance, keyed(bench.appliance, tmp_path_factory.mktemp("keys")) as board:
        known = kits.read(board.kit("anna", Role.ADMIN, by_token=True))
        with secure(board.tokens, replace(known, token="not-the-token")) as channel:
            yield channel


@pytest.mark.parametrize("method", METHODS)
def test_whoever_has_no_good_token_is_told_so_by_every_method(stranger: grpc.Channel, method: str) -> None:
    assert _code(stranger, method) is grpc.StatusCode.UNAUTHENTICATED


async def test_a_handler_that_nobody_put_into_the_table_is_refused() -> None:
    class Forgotten(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            async def answer(request: bytes, context: Any) -> bytes:
                raise AssertionError("it was called")

            return grpc.unary_unary_rpc_method_handler(answer)

    front = Front()
    address = front.bind("127.0.0.1:0")
    await front.turn_away("no board")
    front._switch.show([Forgotten()])
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            explode: Any = channel.unary_unary("/parfocal.v1.FocusService/Explode")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await explode(b"", timeout=WAIT_S)
    finally:
        await front.stop()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def _code(channel: grpc.Channel, method: str) -> grpc.StatusCode:
    """How a call with nonsense in it ends."""
    many: Any = channel.stream_stream(method)
    one: Any = channel.unary_stream(method)
    try:
        list(many(iter([NONSENSE]), timeout=WAIT_S) if method in STREAMED else one(NONSENSE, timeout=WAIT_S))
    except grpc.RpcError as fault:
        code = fault.code()
        assert isinstance(code, grpc.StatusCode)
        return code
    return grpc.StatusCode.OK
