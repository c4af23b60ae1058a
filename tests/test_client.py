"""The client: what it says when there is no server, none in time, or one that it does not understand."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import grpc
import pytest

from edge_app.client import Client
from edge_app.errors import GridTooLarge, RemoteError, Unreachable
from edge_app.patches import RegionOfInterest
from edge_app.stubs.parfocal.v1 import focus_pb2

if TYPE_CHECKING:
    from conftest import Bench


@pytest.fixture
def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_no_server_is_one_sentence_that_says_what_to_do(free_address: str) -> None:
    with Client(free_address) as client, pytest.raises(Unreachable, match="parfocal serve --listen") as told:
        client.position()
    assert free_address in str(told.value)


def test_no_server_is_told_to_a_focus_loop_too(free_address: str) -> None:
    with Client(free_address) as client, pytest.raises(Unreachable):
        next(client.focus())


def test_an_answer_that_does_not_come_in_time_is_told(bench: Bench, address: str) -> None:
    end = bench.block()
    with Client(address, timeout_s=0.3) as client, pytest.raises(RemoteError, match="in time"):
        client.measure()
    end()


def test_a_fault_of_a_foreign_server_is_told_with_its_code() -> None:
    from edge_app.statuses import error_of

    class Foreign(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.PERMISSION_DENIED

        def details(self) -> str:
            return "not you"

        def trailing_metadata(self) -> tuple[()]:
            return ()

    told = error_of(Foreign(), "board:1")
    assert type(told) is RemoteError
    assert str(told) == "board:1 answered PERMISSION_DENIED: not you"


def test_a_region_travels_to_the_board(client: Client) -> None:
    with pytest.raises(GridTooLarge, match="leaves the frame"):
        client.measure(roi=RegionOfInterest(100, 0, 224, 224))


def test_stop_through_the_client_says_that_nothing_ran(client: Client) -> None:
    reply = client.stop()
    assert not reply.was_running
    assert reply.z_um == 0.0


def test_an_axis_with_a_switch_cannot_be_zeroed_by_hand(client: Client) -> None:
    from firmware.errors import AxisError

    with pytest.raises(AxisError, match="use home"):
        client.set_zero()


def test_a_closed_client_stops_its_job(bench: Bench, address: str) -> None:
    with Client(address) as client:
        client.load_field(4, "tissue", 12.0)
        events = client.focus("sweep")
        assert next(events).WhichOneof("event") == "look"
        job = bench.appliance._job
    assert job is not None
    assert job.result.result(20.0).ending.name == "STOPPED"
    with pytest.raises((RemoteError, ValueError)):
        list(events)


def test_verdicts_and_endings_have_one_name_on_both_sides() -> None:
    from edge_app import wire, wire_answers

    assert set(wire_answers.VERDICTS.values()) | {0} == set(focus_pb2.Verdict.values())
    assert set(wire.ENDINGS.values()) | {0} == set(focus_pb2.OutcomeKind.values())
