"""A service on the small simulated board, alive inside the test, and what its clients ask it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edge_app.appliance import Appliance
from edge_app.config import Settings
from edge_app.errors import BadSettings
from edge_app.front import Front
from edge_app.lifetime import Lifetime, Plan
from edge_app.stubs.parfocal.v1 import microscope_pb2
from edge_app.stubs.parfocal.v1.microscope_pb2_grpc import MicroscopeServiceStub

WAIT_S = 20.0
TROUBLE = "there is no board 'sumilated'; correct board in parfocal.toml"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
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


class Reader:
    """Settings that may be broken for a while, by a sentence or by any error; `gate` keeps who reads them waiting."""

    def __init__(self, broken: str | Exception = "") -> None:
        self.broken = broken
        self.settings = TINY
        self.reads = 0
        self.reading, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self) -> Settings:
        self.reads += 1
        self.reading.set()
        assert self.gate.wait(WAIT_S)
        if isinstance(self.broken, Exception):
            raise self.broken
        if self.broken:
            raise BadSettings(self.broken)
        return self.settings


@dataclass
class Living:
    """A service that runs: its parts for tests to reach into, how it ends, and the address that it told."""

    lifetime: Lifetime
    ended: asyncio.Task[None]
    told: asyncio.Queue[str]

    async def address(self) -> str:
        return await asyncio.wait_for(self.told.get(), WAIT_S)

    async def end(self) -> None:
        """SIGTERM, and what came of it."""
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(self.ended, WAIT_S)

    @property
    def appliance(self) -> Appliance:
        assert self.lifetime._appliance is not None
        return self.lifetime._appliance

    def expire(self) -> None:
        """The hardware thread was not heard of in time, and the watchdog sees it."""
        self.lifetime._lease.expect(-1.0)
        self.lifetime._watchdog.look()


@asynccontextmanager
async def living(
    read: Reader,
    listen: Callable[[], str] = lambda: "127.0.0.1:0",
    pause_s: float = 0.05,
    lives: type[Lifetime] = Lifetime,
) -> AsyncIterator[Living]:
    """A service that stays up; ended when the block ends, however it ends."""
    told: asyncio.Queue[str] = asyncio.Queue()
    lifetime = lives(Plan(read, lambda _before: listen(), told.put_nowait, stays_up=True, first_pause_s=pause_s))
    ended = asyncio.create_task(lifetime.live())
    await asyncio.sleep(0)  # it catches signals from here on
    try:
        yield Living(lifetime, ended, told)
    finally:
        read.gate.set()
        if not ended.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait([ended], timeout=WAIT_S)


@asynccontextmanager
async def alive(read: Reader, listen: str = "127.0.0.1:0", pause_s: float = 0.05) -> AsyncIterator[str]:
    """A service that stays up; ended by SIGTERM. Gives its address."""
    async with living(read, lambda: listen, pause_s) as life:
        yield await life.address()
        await life.end()


class Heard:
    """systemd's end of the notification socket."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "n")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)

    def __call__(self) -> list[str]:
        said: list[str] = []
        with suppress(BlockingIOError):
            while True:
                said.append(self._socket.recv(4096).decode())
        return said

    def close(self) -> None:
        self._socket.close()


def listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    """systemd's end, with a watchdog of 30 s that listens there; a test file makes it a fixture."""
    opened = Heard(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", opened.path)
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    yield opened
    opened.close()
