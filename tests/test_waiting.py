"""A service without a board answers why; health says what works, and where a broken configuration has it listen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from living import NOT_SERVING, SERVING, TROUBLE, describe, health, waiting
from numpy.typing import NDArray
from oracle import Oracle

from edge_app.config import listen_anyway
from edge_app.errors import NotReady, RuntimeFailed
from edge_app.services import version
from edge_app.statuses import error_of
from edge_app.stubs.parfocal.v1 import microscope_pb2
from edge_app.stubs.parfocal.v1.microscope_pb2_grpc import MicroscopeServiceStub
from edge_app.waiting import SERVICES, SIMULATION

if TYPE_CHECKING:
    from conftest import Bench

WAIT_S = 20.0
METHODS = [(service, method) for service in (*SERVICES, *SIMULATION) for method in service.methods]


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


async def test_health_says_that_focusing_does_not_work_from_when_a_model_fails_until_it_answers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with waiting() as (front, channel):
        await front.offer(bench.appliance)
        monkeypatch.setattr(Oracle, "infer", out_of_memory)
        assert isinstance(bench.appliance.measure().exception(WAIT_S), RuntimeFailed)
        await front.refresh()
        said = {name: await health(channel, name) for name in ("", *(service.full_name for service in SERVICES))}
        assert {name for name, status in said.items() if status == NOT_SERVING} == {"", "parfocal.v1.FocusService"}
        monkeypatch.undo()
        bench.appliance.measure().result(WAIT_S)
        await front.refresh()
        assert await health(channel, "parfocal.v1.FocusService") == await health(channel) == SERVING


def out_of_memory(_oracle: Oracle, _counts: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    raise MemoryError("the accelerator is out of memory")


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


@pytest.mark.parametrize("file", ["listen = ", "listen = 3", None])
def test_a_service_stays_at_its_address_when_the_configuration_becomes_unreadable(
    file: str | None, tmp_path: Path, clean_environment: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "parfocal.toml"
    if file is not None:
        path.write_text(file)
    assert listen_anyway(path, before="0.0.0.0:4") == "0.0.0.0:4"


def test_a_configuration_that_no_longer_names_an_address_means_the_default(
    tmp_path: Path, clean_environment: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "parfocal.toml"
    path.write_text('board = "simulated"')
    assert listen_anyway(path, before="0.0.0.0:4") == "127.0.0.1:50051"
