"""Errors: two trees, one table to gRPC statuses, and every class arrives as itself."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from edge_app import errors as app
from edge_app.client import Client
from edge_app.statuses import DOMAIN, STATUS, code_of, status_of
from edge_app.stubs.parfocal.v1 import microscope_pb2
from edge_app.stubs.parfocal.v1.microscope_pb2_grpc import MicroscopeServiceStub
from firmware import errors as board

if TYPE_CHECKING:
    from conftest import Bench


def _classes() -> Iterator[type[Exception]]:
    for module in (board, app):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__ and issubclass(kind, Exception):
                yield kind


CLASSES = sorted(_classes(), key=lambda kind: kind.__name__)


def test_the_table_has_every_class_of_both_trees_and_no_other() -> None:
    assert set(STATUS) == set(CLASSES)


def test_no_error_is_a_success() -> None:
    assert not {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED} & set(STATUS.values())


def test_every_class_is_in_its_tree_and_says_what_it_is() -> None:
    for kind in CLASSES:
        root = board.FirmwareError if kind.__module__ == board.__name__ else app.AppError
        assert issubclass(kind, root)
        assert kind.__doc__
        assert kind.__doc__.endswith(".")


def test_names_are_unique_across_the_trees() -> None:
    assert len({kind.__name__ for kind in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_arrives_at_the_client_as_itself(
    bench: Bench, client: Client, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise kind("what happened; what to do")

    monkeypatch.setattr(bench.microscope.axis, "move_to", fail)
    with pytest.raises(kind, match=r"^what happened; what to do$") as caught:
        client.move_to(1.0)
    assert caught.type is kind


@pytest.mark.parametrize("kind", [ValueError, KeyError, ZeroDivisionError, OSError])
def test_an_unforeseen_error_is_internal_logged_and_told_plainly(
    bench: Bench,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: type[Exception],
) -> None:
    def fail(*_: object) -> None:
        raise kind("a secret of the inside")

    monkeypatch.setattr(bench.microscope.axis, "move_to", fail)
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        MicroscopeServiceStub(channel).Move(microscope_pb2.MoveRequest(to_um=1.0))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value.details())
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is kind


def test_a_status_carries_the_class_and_for_busy_when_to_come_back() -> None:
    status = status_of(app.Busy("move is running"), "Move")
    (metadata,) = status.trailing_metadata or ()
    details = rpc_status.status_pb2.Status.FromString(metadata[1]).details
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert details[0].Unpack(info)
    assert details[1].Unpack(retry)
    assert (info.reason, info.domain) == ("Busy", DOMAIN)
    assert retry.retry_delay.seconds >= 1


def test_a_class_outside_the_trees_has_no_code_but_internal() -> None:
    class Stranger(app.Busy):
        """Nobody put this into the table."""

    assert code_of(Stranger()) is grpc.StatusCode.INTERNAL
