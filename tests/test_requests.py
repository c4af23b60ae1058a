"""Requests that cannot be: each is refused with its class, and nothing moves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from edge_app import wire
from edge_app.client import Client
from edge_app.errors import BadRequest, UnknownStrategy
from edge_app.patches import RegionOfInterest
from edge_app.stubs.parfocal.v1 import microscope_pb2, simulation_pb2
from edge_app.stubs.parfocal.v1.microscope_pb2_grpc import MicroscopeServiceStub
from firmware.errors import OutOfLimits, ProfileError

if TYPE_CHECKING:
    from conftest import Bench

SERVICES = ("FocusService", "MicroscopeService", "ModelService", "SimulationService")


def _requests() -> Iterator[tuple[str, type[Message], tuple[FieldDescriptor, ...]]]:
    """Every float field of every request, as method, message class and path of fields."""
    pool = descriptor_pool.Default()
    for service in SERVICES:
        for method in pool.FindServiceByName(f"parfocal.v1.{service}").methods:
            kind = message_factory.GetMessageClass(method.input_type)
            for path in _float_paths(method.input_type.fields):
                yield f"/parfocal.v1.{service}/{method.name}", kind, path


def _float_paths(fields: Any) -> Iterator[tuple[FieldDescriptor, ...]]:
    for field in fields:
        if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
            yield (field,)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from ((field, *rest) for rest in _float_paths(field.message_type.fields))


def test_there_are_float_fields_to_refuse() -> None:
    assert {path[-1].name for _, _, path in _requests()} >= {"to_um", "by_um", "defocus_um"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_request_may_hold_a_number_that_is_none(bench: Bench, channel: grpc.Channel, value: float) -> None:
    for method, kind, path in _requests():
        request = kind()
        inner: Any = request
        for field in path[:-1]:
            inner = getattr(inner, field.name)
        setattr(inner, path[-1].name, value)
        call: Any = channel.unary_unary(method, request_serializer=kind.SerializeToString)
        with pytest.raises(grpc.RpcError) as refused:
            call(request)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, (method, path[-1].name)
    assert bench.z_um == bench.world.stage.motor_um == 0.0


@given(st.floats(), st.floats())
def test_the_check_passes_finite_numbers_and_no_others(to_um: float, defocus_um: float) -> None:
    for message, value in (
        (microscope_pb2.MoveRequest(to_um=to_um), to_um),
        (simulation_pb2.LoadFieldRequest(defocus_um=defocus_um), defocus_um),
    ):
        if math.isfinite(value):
            wire.refuse_nonsense(message)
        else:
            with pytest.raises(BadRequest, match="finite"):
                wire.refuse_nonsense(message)


@pytest.mark.parametrize("target_um", [60.05, -60.05, 1e9, -1e300])
def test_a_move_beyond_the_limits_is_refused_and_nothing_moves(client: Client, bench: Bench, target_um: float) -> None:
    with pytest.raises(OutOfLimits, match="limits"):
        client.move_to(target_um)
    assert bench.z_um == bench.world.stage.motor_um == 0.0


def test_a_move_without_a_target_is_refused(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError, match="to_um or by_um"):
        MicroscopeServiceStub(channel).Move(microscope_pb2.MoveRequest())


@pytest.mark.parametrize("roi", [RegionOfInterest(0, 0, 0, 5), RegionOfInterest(0, 0, 5, 0)])
def test_an_empty_region_is_refused(client: Client, roi: RegionOfInterest) -> None:
    with pytest.raises(BadRequest, match="roi is empty"):
        client.measure(roi=roi)


def test_an_unknown_strategy_is_refused_and_the_known_are_named(client: Client, bench: Bench) -> None:
    with pytest.raises(UnknownStrategy, match="sweep"):
        list(client.focus("guess"))
    assert bench.z_um == 0.0


@pytest.mark.parametrize(("field", "kind", "error"), [(1, "moon", ProfileError), (-1, "", BadRequest)])
def test_a_field_that_cannot_be_is_refused(client: Client, field: int, kind: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        client.load_field(field, kind)
    assert client.truth().field == 3
