"""A service without a board answers why, tries again by itself, and becomes a served board without a restart."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from edge_app.config import Settings, listen_anyway
from edge_app.errors import AddressInUse, BadSettings, NotReady
from edge_app.front import Front
from edge_app.lifetime import Lifetime, Plan
from edge_app.services import version
from edge_app.statuses import error_of
from edge_app.stubs.parfocal.v1 import microscope_pb2
from edge_app.stubs.parfocal.v1.microscope_pb2_grpc import MicroscopeServiceStub
from edge_app.waiting import SERVICES, SIMULATION

if TYPE_CHECKING:
    from conftest import Bench

WAIT_S = 20.0
TROUBLE = "there is no board 'sumilated'; correct board in parfocal.toml"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
METHODS = [(service, method) for service in (*SERVICES, *SIMULATION) for method in service.methods]
TINY = Settings(board="simulated_tiny", bundle="none")


@asynccontextmanager
async def waiting() -> AsyncIterator[tuple[Front, grpc.aio.Channel]]:
    """A front without a board, and a channel to it."""
    front = Front()
    address = front.bind("127.0.0.1:0")
    await front.turn_away(TROUBLE)
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield front, channel
    finally:
        await front.stop()


async def health(channel: grpc.aio.Channel, name: str = "") -> int:
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
    return int(reply.status)


async def describe(channel: grpc.aio.Channel) -> microscope_pb2.DescribeReply:
    reply = await MicroscopeServiceStub(channel).Describe(
        microscope_pb2.DescribeRequest(), timeout=WAIT_S, wait_for_ready=True
    )
    assert isinstance(reply, microscope_pb2.DescribeReply)
    return reply


async def until(so: Callable[[], Awaitable[bool]]) -> None:
    """Let the loop turn until something is so."""

    async def wait() -> None:
        while not await so():
            await asyncio.sleep(0.02)

    await asyncio.wait_for(wait(), WAIT_S)


# The room.


async def test_a_service_without_a_board_describes_its_trouble_and_nothing_else() -> None:
    async with waiting() as (_, channel):
        reply = await describe(channel)
    assert reply == microscope_pb2.DescribeReply(trouble=TROUBLE, serving_version=version())


@pytest.mark.parametrize(
    ("service", "method"),
    [pytest.param(s, m, id=f"{s.name}.{m.name}") for s, m in METHODS if m.name != "Describe"],
)
async def test_every_other_method_is_refused_with_the_same_sentence(service: Any, method: Any) -> None:
    async with waiting() as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asked(channel, f"/{service.full_name}/{method.name}", method.server_streaming)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.value.details() == TROUBLE
    assert isinstance(error_of(refused.value, ""), NotReady)


async def asked(channel: Any, path: str, streams: bool) -> None:
    """Ask with an empty request, which every message can be."""
    if streams:
        [_ async for _ in channel.unary_stream(path)(b"")]
    else:
        await channel.unary_unary(path)(b"")


async def test_health_says_not_serving_for_every_name_without_a_board() -> None:
    async with waiting() as (_, channel):
        for name in ("", *(service.full_name for service in SERVICES)):
            assert await health(channel, name) == NOT_SERVING


async def test_a_method_that_does_not_exist_is_unimplemented_without_a_board_too() -> None:
    async with waiting() as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asked(channel, "/parfocal.v1.FocusService/Guess", streams=False)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_reflection_lists_the_simulation_only_while_a_simulated_board_is_there(bench: Bench) -> None:
    async with waiting() as (front, channel):
        before = await listed(channel)
        await front.offer(bench.appliance)
        after = await listed(channel)
    assert {service.full_name for service in SERVICES} <= before
    assert after - before == {service.full_name for service in SIMULATION}


async def listed(channel: grpc.aio.Channel) -> set[str]:
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    )
    reply = await call.read()
    return {service.name for service in reply.list_services_response.service}


async def test_a_watcher_of_health_sees_the_board_come_and_go_on_one_stream(bench: Bench) -> None:
    async with waiting() as (front, channel):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        seen = [(await watch.read()).status]
        await front.offer(bench.appliance)
        seen.append((await watch.read()).status)
        await front.turn_away(TROUBLE)
        seen.append((await watch.read()).status)
        watch.cancel()
    assert seen == [NOT_SERVING, SERVING, NOT_SERVING]


async def test_a_condemned_board_serves_nothing_and_says_why(bench: Bench) -> None:
    async with waiting() as (front, channel):
        await front.offer(bench.appliance)
        bench.appliance.condemn("the hardware thread hangs")
        await front.refresh()
        assert {await health(channel, service.full_name) for service in SERVICES} == {NOT_SERVING}
        assert (await describe(channel)).trouble == "the hardware thread hangs"
        with pytest.raises(grpc.aio.AioRpcError, match="hardware thread hangs"):
            await MicroscopeServiceStub(channel).Home(microscope_pb2.HomeRequest())


# The life around it.


@pytest.fixture
def signals() -> Iterator[None]:
    """Give the process its signal handlers back."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class Reader:
    """Settings that may be broken for a while."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.settings = TINY
        self.reads = 0

    def __call__(self) -> Settings:
        self.reads += 1
        if self.broken:
            raise BadSettings(self.broken)
        return self.settings


@asynccontextmanager
async def alive(read: Reader, listen: str = "127.0.0.1:0", pause_s: float = 0.05) -> AsyncIterator[str]:
    """A service that stays up; ended by SIGTERM. Gives its address."""
    said: asyncio.Queue[str] = asyncio.Queue()
    plan = Plan(read, lambda: listen, said.put_nowait, stays_up=True, first_pause_s=pause_s)
    living = asyncio.create_task(Lifetime(plan).live())
    yield await asyncio.wait_for(said.get(), WAIT_S)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(living, WAIT_S)


async def test_a_corrected_configuration_heals_the_service_by_itself(signals: None) -> None:
    read = Reader(TROUBLE)
    async with alive(read) as address, grpc.aio.insecure_channel(address) as channel:
        assert (await describe(channel)).trouble == TROUBLE
        read.broken = ""
        await until(lambda: served(channel))
        assert await health(channel) == SERVING


async def served(channel: grpc.aio.Channel) -> bool:
    return (await describe(channel)).board == "simulated_tiny"


async def test_sighup_tries_again_at_once(signals: None) -> None:
    read = Reader(TROUBLE)
    async with alive(read, pause_s=3600) as address, grpc.aio.insecure_channel(address) as channel:
        read.broken = ""
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: served(channel))


async def test_sighup_opens_a_served_board_anew_by_the_configuration_of_then(signals: None) -> None:
    read = Reader()
    async with alive(read) as address, grpc.aio.insecure_channel(address) as channel:
        assert (await describe(channel)).strategies[0] != "sweep"
        read.settings = TINY.model_copy(update={"strategy": "sweep"})
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: goes_by(channel, "sweep"))


async def goes_by(channel: grpc.aio.Channel, strategy: str) -> bool:
    return list((await describe(channel)).strategies)[:1] == [strategy]


@pytest.mark.parametrize("fault", ["unreadable", "a board that does not exist"])
async def test_a_configuration_that_cannot_be_used_leaves_the_board_that_is_served_alone(
    signals: None, fault: str
) -> None:
    read = Reader()
    async with alive(read) as address, grpc.aio.insecure_channel(address) as channel:
        reads = read.reads
        if fault == "unreadable":
            read.broken = TROUBLE
        else:
            read.settings = TINY.model_copy(update={"board": "sumilated"})
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: asyncio.sleep(0, read.reads > reads))
        await asyncio.sleep(0.1)
        assert (await describe(channel)).board == "simulated_tiny"
        assert await health(channel) == SERVING


async def test_a_board_that_cannot_be_opened_leaves_a_service_that_says_why(signals: None, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.parfocal"
    damaged.write_bytes(b"no bundle")
    read = Reader()
    read.settings = TINY.model_copy(update={"bundle": str(damaged)})
    async with alive(read) as address, grpc.aio.insecure_channel(address) as channel:
        assert "damaged.parfocal" in (await describe(channel)).trouble


async def test_a_taken_address_is_tried_again(signals: None) -> None:
    first = Front()
    address = first.bind("127.0.0.1:0")
    await first.turn_away(TROUBLE)
    read = Reader()
    plan = Plan(read, lambda: address, stays_up=True, first_pause_s=0.05)
    living = asyncio.create_task(Lifetime(plan).live())
    await asyncio.sleep(0.2)
    assert read.reads == 0
    await first.stop()
    async with grpc.aio.insecure_channel(address) as channel:
        await until(lambda: served(channel))
    os.kill(os.getpid(), signal.SIGTERM)
    await living


async def test_by_hand_a_configuration_that_cannot_be_used_ends_the_service(signals: None) -> None:
    with pytest.raises(BadSettings, match="sumilated"):
        await Lifetime(Plan(Reader(TROUBLE), lambda: "127.0.0.1:0")).live()


async def test_by_hand_a_taken_address_ends_the_service_before_anything_is_opened(signals: None) -> None:
    async with waiting() as (front, _):
        read = Reader()
        with pytest.raises(AddressInUse, match="choose another"):
            await Lifetime(Plan(read, lambda: front.address)).live()
    assert read.reads == 0


async def test_pauses_between_tries_double_up_to_the_longest(signals: None) -> None:
    pauses: list[float] = []

    class Watched(Lifetime):
        async def _wait(self, pause_s: float) -> None:
            pauses.append(pause_s)
            if len(pauses) == 5:
                self._ended.set()

    plan = Plan(Reader(TROUBLE), lambda: "127.0.0.1:0", stays_up=True, first_pause_s=5.0, longest_pause_s=30.0)
    await Watched(plan).live()
    assert pauses == [5.0, 10.0, 20.0, 30.0, 30.0]


# Where a broken configuration has the service listen.


@pytest.mark.parametrize(
    ("flag", "variable", "file", "found"),
    [
        ("0.0.0.0:1", "127.0.0.1:2", 'listen = "127.0.0.1:3"', "0.0.0.0:1"),
        (None, "127.0.0.1:2", 'listen = "127.0.0.1:3"', "127.0.0.1:2"),
        (None, None, 'boart = "simulated"\nlisten = "127.0.0.1:3"', "127.0.0.1:3"),
        (None, "nonsense", 'listen = "127.0.0.1:3"', "127.0.0.1:3"),
        (None, None, "listen = 3", "127.0.0.1:50051"),
        (None, None, "listen = ", "127.0.0.1:50051"),
        (None, None, None, "127.0.0.1:50051"),
    ],
)
def test_the_address_is_salvaged_from_a_broken_configuration(
    flag: str | None,
    variable: str | None,
    file: str | None,
    found: str,
    tmp_path: Path,
    clean_environment: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "parfocal.toml"
    if file is not None:
        path.write_text(file)
    if variable is not None:
        clean_environment.setenv("PARFOCAL_LISTEN", variable)
    assert listen_anyway(path, flag) == found
