"""Limits: how much, how often and from where a stranger or a client may ask."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyed_board import NOW, free_port
from living import TINY, WAIT_S, Reader, alive, describe

from edge_app.access.addresses import here_instead, is_here, nearest, socket_file
from edge_app.access.doors import Doors
from edge_app.access.pace import Pace
from edge_app.access.roles import Role
from edge_app.access.trust import Trust
from edge_app.errors import AddressInUse, Busy, TooOften, TrustUnusable
from edge_app.front import MAX_REQUEST_BYTES, Front
from edge_app.lifetime import Lifetime, Plan

DESCRIBE = "/parfocal.v1.MicroscopeService/Describe"


# How often.


class Clock:
    """Seconds that a test turns."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _allowed(pace: Pace, name: str = "anna") -> int:
    """How many calls are let through before the first that is not."""
    count = 0
    while pace.allows(name):
        count += 1
    return count


def test_a_client_may_ask_in_a_burst_and_then_at_a_steady_rate() -> None:
    clock = Clock()
    pace = Pace(burst=10, rate_per_s=2.0, now_s=clock)
    assert _allowed(pace) == 10
    clock.now_s += 3.0
    assert _allowed(pace) == 6


def test_a_rest_saves_up_no_more_than_a_burst() -> None:
    clock = Clock()
    pace = Pace(burst=10, rate_per_s=2.0, now_s=clock)
    clock.now_s += 1e6
    assert _allowed(pace) == 10


def test_one_client_takes_nothing_from_another() -> None:
    pace = Pace(burst=3, rate_per_s=1.0, now_s=Clock())
    assert (_allowed(pace, "anna"), _allowed(pace, "bob")) == (3, 3)


def test_who_asks_too_often_is_told_so_as_somebody_busy() -> None:
    pace = Pace(burst=1, rate_per_s=5.0, now_s=Clock())
    pace.spend("anna")
    with pytest.raises(TooOften, match=r"anna .* more than 5 times a second; nothing was moved; wait"):
        pace.spend("anna")
    assert issubclass(TooOften, Busy)


def test_clients_without_number_take_no_memory_without_bound() -> None:
    pace = Pace(now_s=Clock())
    for number in range(5000):
        pace.spend(str(number))
    assert len(pace._buckets) <= 1024


@given(st.lists(st.floats(0.0, 10.0), max_size=50))
def test_never_more_calls_than_a_burst_and_the_rate_allow(pauses_s: list[float]) -> None:
    clock = Clock()
    pace = Pace(burst=5, rate_per_s=1.0, now_s=clock)
    through = 0
    for pause_s in pauses_s:
        clock.now_s += pause_s
        through += pace.allows("anna")
    assert through <= 5 + sum(pauses_s)


# From where.


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:1", "127.9.8.7:1", "localhost:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "unix:/run/s"],
)
def test_an_address_that_only_this_machine_reaches(address: str) -> None:
    assert is_here(address)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "board.local:1", "localhost.example:1", "127.0.0.1.example:1"],
)
def test_an_address_that_others_may_reach(address: str) -> None:
    assert not is_here(address)


def test_this_machines_own_programs_ask_the_address_that_only_they_reach() -> None:
    assert nearest("0.0.0.0:2,unix:/run/s,127.0.0.1:1") == "unix:/run/s"
    assert nearest("0.0.0.0:2") == "0.0.0.0:2"


def test_what_cannot_be_served_to_others_is_said_on_this_machine() -> None:
    assert here_instead("0.0.0.0:50051") == "127.0.0.1:50051"
    assert here_instead("unix:/run/s,0.0.0.0:50051") == "unix:/run/s"


async def test_a_socket_is_for_its_user_and_group(tmp_path: Path) -> None:
    front = Front()
    address = front.bind(f"unix:{tmp_path}/socket")
    path = socket_file(address)
    assert path is not None
    assert path.stat().st_mode & 0o777 == 0o660
    await front.stop()


async def test_an_address_that_others_reach_wants_keys(tmp_path: Path) -> None:
    front = Front(Doors(tmp_path / "trust"))
    with pytest.raises(TrustUnusable, match="make them with `parfocal trust init`"):
        front.bind("127.0.0.1:0,0.0.0.0:0")
    await front.stop()


async def test_an_address_for_tokens_wants_keys_wherever_it_is(tmp_path: Path) -> None:
    front = Front(Doors(tmp_path / "trust", tokens="127.0.0.1:0"))
    with pytest.raises(TrustUnusable):
        front.bind("127.0.0.1:0")
    await front.stop()


@contextmanager
def taken() -> Iterator[str]:
    """An address that somebody else has."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield f"127.0.0.1:{other.getsockname()[1]}"


async def test_where_one_address_cannot_be_had_the_others_are_given_back() -> None:
    first = f"127.0.0.1:{free_port()}"
    with taken() as second:
        front = Front()
        with pytest.raises(AddressInUse, match=second):
            front.bind(f"{first},{second}")
        await front.stop()
    again = Front()
    assert again.bind(first) == first
    await again.stop()


async def test_a_socket_at_which_somebody_answers_is_not_taken_away(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    first, second = Front(), Front()
    first.bind(address)
    with pytest.raises(AddressInUse, match=address):
        second.bind(address)
    await second.stop()
    await first.turn_away("no board")
    async with grpc.aio.insecure_channel(address) as channel:
        assert (await describe(channel)).trouble == "no board"
    await first.stop()


async def test_a_socket_that_a_killed_service_left_is_taken(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(f"{tmp_path}/socket")
    front = Front()
    assert front.bind(address) == address
    await front.stop()


# How much.


@pytest.mark.parametrize(
    ("request_bytes", "packed", "code"),
    [
        (MAX_REQUEST_BYTES + 1, None, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (2**20, None, grpc.StatusCode.RESOURCE_EXHAUSTED),
        # 4 MB that come as 4 KB: they are not unpacked.
        (2**22, grpc.Compression.Gzip, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_request_that_is_too_large_is_refused(
    channel: grpc.Channel, request_bytes: int, packed: grpc.Compression | None, code: grpc.StatusCode
) -> None:
    ask: Any = channel.unary_unary(DESCRIBE)
    with pytest.raises(grpc.RpcError) as caught:
        ask(bytes(request_bytes), timeout=WAIT_S, compression=packed)
    assert caught.value.code() is code


def test_a_request_of_more_fields_than_any_has_is_refused(channel: grpc.Channel) -> None:
    ask: Any = channel.unary_unary(DESCRIBE)
    with pytest.raises(grpc.RpcError) as caught:
        ask(b"", timeout=WAIT_S, metadata=[("x", "y" * 30_000)])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# A service that cannot listen as it is told.


async def test_a_service_without_keys_says_so_on_this_machine_and_serves_once_it_has_them(
    signals: None, tmp_path: Path
) -> None:
    port, doors = free_port(), Doors(tmp_path / "trust")
    told: asyncio.Queue[str] = asyncio.Queue()
    plan = Plan(
        Reader(), lambda _before: f"0.0.0.0:{port}", told.put_nowait, True, 0.05, 0.1, doors=lambda _before: doors
    )
    living = asyncio.create_task(Lifetime(plan).live())
    assert await asyncio.wait_for(told.get(), WAIT_S) == f"127.0.0.1:{port}"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert "parfocal trust init" in (await describe(channel)).trouble
    Trust(tmp_path / "trust").init("bench", [], NOW)
    assert await asyncio.wait_for(told.get(), WAIT_S) == f"0.0.0.0:{port}"
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(living, WAIT_S)


async def test_an_address_that_is_not_there_yet_is_said_at_the_others_and_served_once_it_is(signals: None) -> None:
    first = f"127.0.0.1:{free_port()}"
    with taken() as second:
        told: asyncio.Queue[str] = asyncio.Queue()
        plan = Plan(Reader(), lambda _before: f"{first},{second}", told.put_nowait, True, 0.05, 0.1)
        living = asyncio.create_task(Lifetime(plan).live())
        assert await asyncio.wait_for(told.get(), WAIT_S) == first
        async with grpc.aio.insecure_channel(first) as channel:
            assert f"cannot listen on {second}" in (await describe(channel)).trouble
    assert await asyncio.wait_for(told.get(), WAIT_S) == f"{first},{second}"
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(living, WAIT_S)


async def test_programs_on_this_machine_get_the_role_of_the_settings_with_the_board(signals: None) -> None:
    read = Reader()
    read.settings = TINY.model_copy(update={"local_role": "viewer"})
    async with alive(read) as address, grpc.aio.insecure_channel(address) as channel:
        move: Any = channel.unary_unary("/parfocal.v1.MicroscopeService/Move")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await move(b"", timeout=WAIT_S)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_roles_are_told_as_settings_name_them() -> None:
    assert [role.label for role in Role] == ["viewer", "operator", "admin"]
