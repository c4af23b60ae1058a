"""One service's life: boards that fail and come back, reloads, watchdogs that expire, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import socket
import threading
import weakref
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from living import (
    NOT_SERVING,
    SERVING,
    TINY,
    TROUBLE,
    WAIT_S,
    Heard,
    Reader,
    alive,
    describe,
    health,
    listening,
    living,
    until,
    waiting,
)

from edge_app.appliance import Appliance
from edge_app.bundle import find
from edge_app.bundle import read as read_bundle
from edge_app.config import Settings
from edge_app.errors import AddressInUse, AppError, BadSettings, NotReady
from edge_app.front import Front
from edge_app.lifetime import Lifetime, Plan
from edge_app.opening import check_names
from edge_app.runtime import open_runtime
from edge_app.stubs.parfocal.v1 import microscope_pb2
from edge_app.stubs.parfocal.v1.microscope_pb2_grpc import MicroscopeServiceStub
from firmware.errors import FirmwareError
from firmware.profile import BOARDS

heard = pytest.fixture(listening)


# Boards that come and go.


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


@pytest.mark.parametrize(
    ("broken", "board"),
    [
        pytest.param(TROUBLE, "simulated_tiny", id="a key that does not exist"),
        pytest.param("", "sumilated", id="a board that does not exist"),
        pytest.param(PermissionError(13, "Permission denied", "/etc/parfocal"), "simulated_tiny", id="no permission"),
        pytest.param(RuntimeError("Could not determine home directory."), "simulated_tiny", id="no home"),
    ],
)
async def test_a_configuration_that_cannot_be_used_leaves_the_board_that_is_served_alone(
    signals: None, broken: str | Exception, board: str
) -> None:
    read = Reader()
    async with alive(read) as address, grpc.aio.insecure_channel(address) as channel:
        reads = read.reads
        read.broken = broken
        read.settings = TINY.model_copy(update={"board": board})
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
    plan = Plan(read, lambda _before: address, stays_up=True, first_pause_s=0.05)
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
        await Lifetime(Plan(Reader(TROUBLE), lambda _before: "127.0.0.1:0")).live()


async def test_by_hand_a_taken_address_ends_the_service_before_anything_is_opened(signals: None) -> None:
    async with waiting() as (front, _):
        read = Reader()
        with pytest.raises(AddressInUse, match="choose another"):
            await Lifetime(Plan(read, lambda _before: front.address)).live()
    assert read.reads == 0


async def test_pauses_between_tries_double_up_to_the_longest(signals: None) -> None:
    pauses: list[float] = []

    class Watched(Lifetime):
        async def _wait(self, pause_s: float) -> None:
            pauses.append(pause_s)
            if len(pauses) == 5:
                self._ended.set()

    plan = Plan(Reader(TROUBLE), lambda _before: "127.0.0.1:0", stays_up=True, first_pause_s=5.0, longest_pause_s=30.0)
    await Watched(plan).live()
    assert pauses == [5.0, 10.0, 20.0, 30.0, 30.0]


async def test_pauses_begin_anew_once_a_board_was_opened(signals: None, tmp_path: Path) -> None:
    pauses: list[float] = []
    read = Reader(TROUBLE)

    class Watched(Lifetime):
        async def _wait(self, pause_s: float) -> None:
            pauses.append(pause_s)
            if len(pauses) == 3:
                read.broken = ""
            await super()._wait(pause_s if len(pauses) < 4 else 3600.0)

    async with living(read, pause_s=0.01, lives=Watched) as life:
        async with grpc.aio.insecure_channel(await life.address()) as channel:
            await until(lambda: served(channel))
            (tmp_path / "damaged.parfocal").write_bytes(b"no bundle")
            read.settings = TINY.model_copy(update={"bundle": str(tmp_path / "damaged.parfocal")})
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: asyncio.sleep(0, len(pauses) == 4))
        await life.end()
    assert pauses == [0.01, 0.02, 0.04, 0.01]


# What is told where it cannot listen.


async def test_systemd_hears_that_it_is_up_and_why_it_does_not_answer_where_the_address_is_taken(
    signals: None, heard: Heard
) -> None:
    async with waiting() as (front, _), living(Reader(), lambda: front.address, pause_s=3600) as life:
        told: list[str] = []

        async def ready() -> bool:
            told.extend(heard())
            return "READY=1" in told

        await until(ready)
        assert any(line.startswith(f"STATUS=no board: cannot listen on {front.address}") for line in told)
        await life.end()


async def test_a_reload_to_an_address_that_is_taken_is_answered_at_the_one_before(signals: None) -> None:
    before = where = f"127.0.0.1:{free_port()}"
    async with waiting() as (front, _), living(Reader(), lambda: where, pause_s=3600) as life:
        await life.address()
        where = front.address
        os.kill(os.getpid(), signal.SIGHUP)
        async with grpc.aio.insecure_channel(before) as channel:
            await until(lambda: says(channel, f"cannot listen on {front.address}"))
            assert await health(channel) == NOT_SERVING
        await life.end()


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


async def says(channel: grpc.aio.Channel, trouble: str) -> bool:
    with suppress(grpc.aio.AioRpcError):  # it changes address just now
        return (await describe(channel)).trouble.startswith(trouble)
    return False


# What a try that failed leaves behind.


async def test_what_was_loaded_before_an_opening_failed_is_let_go_of(signals: None) -> None:
    class Model:
        pass

    held: list[weakref.ref[Model]] = []

    class Loads(Reader):
        def __call__(self) -> Settings:
            model = Model()
            held.append(weakref.ref(model))
            try:
                self._load(model)
            except OSError as error:
                raise BadSettings("the camera is not there") from error
            return self.settings

        def _load(self, model: Model) -> None:
            held.append(weakref.ref(model))
            raise OSError("no such device")

    async with alive(Loads(), pause_s=3600) as address, grpc.aio.insecure_channel(address) as channel:
        assert (await describe(channel)).trouble == "the camera is not there"
        gc.collect()
        assert [ref() for ref in held] == [None, None]


def test_a_runtime_that_nobody_uses_any_more_is_let_go_of() -> None:
    bundle = read_bundle(find("ldse_net_20x"))
    runtime = open_runtime(bundle, "openvino", threads=1)
    runtime.infer(bundle.golden_in)
    left = weakref.ref(runtime)
    del runtime
    gc.collect()
    assert left() is None


# Watchdogs that expire.


async def test_a_board_that_is_opened_after_the_watchdog_expired_is_not_served(signals: None, heard: Heard) -> None:
    read = Reader()
    read.gate.clear()
    async with living(read) as life:
        assert await asyncio.to_thread(read.reading.wait, WAIT_S)
        life.expire()
        read.gate.set()
        async with grpc.aio.insecure_channel(await life.address()) as channel:
            await until(lambda: says(channel, "the board was opened too late"))
            assert await health(channel) == NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError, match="opened too late"):
                await MicroscopeServiceStub(channel).Home(microscope_pb2.HomeRequest())
        await life.end()


async def test_a_service_that_nobody_watches_ends_by_itself_when_its_hardware_thread_is_not_heard_of(
    signals: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    async with living(Reader()) as life:
        await life.address()
        life.expire()
        with pytest.raises(NotReady, match="not heard of"):
            await asyncio.wait_for(life.ended, WAIT_S)
    assert "watchdog expired" in caplog.text
    assert threads() == []


async def test_a_service_that_systemd_watches_stays_to_say_why_until_it_is_killed(signals: None, heard: Heard) -> None:
    async with living(Reader()) as life:
        async with grpc.aio.insecure_channel(await life.address()) as channel:
            life.expire()
            assert "not heard of" in (await describe(channel)).trouble
            assert not life.ended.done()
        await life.end()


# Ends.


def threads(name: str = "parfocal-hardware") -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """All that was logged, with its values."""
    return str([vars(record) for record in caplog.records])


def clings() -> None:
    raise OSError("the bus is gone")


async def test_a_driver_that_fails_to_close_spoils_no_end(signals: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with living(Reader()) as life:
        await life.address()
        life.appliance.controller.microscope.camera.close = clings  # type: ignore[method-assign]
        await life.end()
        assert life.lifetime._lease._until_s == math.inf
    assert "the bus is gone" in logged(caplog)
    assert caplog.messages[-1] == "stopped"


async def test_nobody_is_to_be_heard_of_any_more_once_a_board_was_closed(signals: None) -> None:
    async with living(Reader()) as life:
        await life.address()
        await life.end()
        assert life.lifetime._lease._until_s == math.inf


@pytest.mark.parametrize("fault", ["hangs", "does not close"])
async def test_no_board_is_opened_beside_one_that_was_not_let_go_of(signals: None, fault: str) -> None:
    read, gate = Reader(), threading.Event()
    async with living(read) as life:
        await life.address()
        appliance = life.appliance
        if fault == "hangs":
            hang(appliance, gate)
        else:
            appliance.controller.microscope.camera.close = clings  # type: ignore[method-assign]
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(NotReady, match="does not return" if fault == "hangs" else "the bus is gone"):
            await asyncio.wait_for(life.ended, WAIT_S)
        gate.set()
        appliance._thread.join(WAIT_S)
    assert read.reads == 2  # to open, and to see whether the new configuration can be read


def hang(appliance: Appliance, gate: threading.Event) -> None:
    """Keep the hardware thread from coming back, and the appliance from waiting long for it."""
    begun = threading.Event()

    def work(_: object) -> None:
        begun.set()
        gate.wait(WAIT_S)

    appliance._close_s = 0.05
    appliance.run("hang", work)
    assert begun.wait(WAIT_S)


async def test_a_board_that_is_opened_after_the_end_was_asked_for_is_closed_again(
    signals: None, tmp_path: Path
) -> None:
    read = Reader()
    read.settings = TINY.model_copy(update={"board": str(without_homing(tmp_path))})
    read.gate.clear()
    async with living(read) as life:
        assert await asyncio.to_thread(read.reading.wait, WAIT_S)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: asyncio.sleep(0, life.lifetime._ended.is_set()))
        read.gate.set()
        await asyncio.wait_for(life.ended, WAIT_S)
        assert threads() == []


def without_homing(folder: Path) -> Path:
    """The tiny board, opened without a move that a stop would end."""
    tiny = (BOARDS / "simulated_tiny.toml").read_text(encoding="utf-8")
    path = folder / "board.toml"
    path.write_text(tiny.replace("home_at_start = true", "home_at_start = false"))
    return path


async def test_an_end_while_a_model_loads_slowly_blames_no_driver(
    signals: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edge_app.lifetime.GIVE_UP_S", 0.05)
    read = Reader(TROUBLE)
    read.gate.clear()
    async with living(read) as life:
        assert await asyncio.to_thread(read.reading.wait, WAIT_S)
        await life.end()
        read.gate.set()
        await until(lambda: asyncio.sleep(0, threads("parfocal-opening") == []))
        await asyncio.sleep(0.05)  # for the loop to hear of it
    assert "the board is still being opened" in logged(caplog)
    gc.collect()
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize(
    "named", [{"runtime": "cuda"}, {"bundle": "no_such"}, {"strategy": "dowse"}, {"board": "nowhere"}]
)
def test_a_name_that_does_not_exist_is_found_before_a_board_is_closed(named: dict[str, str]) -> None:
    with pytest.raises((AppError, FirmwareError), match=next(iter(named.values()))):
        check_names(Settings.model_construct(**{**Settings().model_dump(), **named}))
