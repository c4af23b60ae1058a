"""Engines as TensorRT builds them: what is asked of the builder, what it refuses, what it tells on the way."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import stand_in_gpu as machine
import stand_in_jetson as jetson
import stand_in_network as network
import stand_in_tensorrt as tensorrt

from edge_app.bundle import FACTORY, ModelBundle, read
from edge_app.errors import RuntimeFailed
from edge_app.nvidia import engine, sdk
from edge_app.nvidia.order import Order
from edge_app.runtimes import tensorrt as runtime


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return read(FACTORY / "spectral_20x_grey.parfocal")


@pytest.fixture
def gpu(tmp_path: Path) -> Iterator[machine.Gpu]:
    with jetson.installed(tmp_path) as gpu:
        yield gpu


@pytest.fixture
def order(gpu: machine.Gpu, bundle: ModelBundle) -> Order:
    return runtime.order(bundle)


@pytest.fixture
def plan(order: Order) -> bytes:
    with sdk.device().current():
        return engine.build(order, lambda _: True).plan


def test_the_builder_reports_progress_that_never_falls_and_ends_at_one(gpu: machine.Gpu, order: Order) -> None:
    parts: list[float] = []

    def told(part: float) -> bool:
        parts.append(part)
        return True

    with sdk.device().current():
        engine.build(order, told)
    assert parts == sorted(parts)
    assert parts[0] == pytest.approx(1 / 2 / network.STEPS)
    assert parts[-1] == 1.0


def test_a_build_can_be_ended(gpu: machine.Gpu, order: Order) -> None:
    with sdk.device().current(), pytest.raises(RuntimeFailed, match="was stopped"):
        engine.build(order, lambda part: part < 0.3)


def test_what_the_watcher_of_a_build_raises_comes_out_of_it(gpu: machine.Gpu, order: Order) -> None:
    def interrupted(_: float) -> bool:
        raise KeyboardInterrupt

    with sdk.device().current(), pytest.raises(KeyboardInterrupt):
        engine.build(order, interrupted)


@pytest.mark.parametrize(
    ("fault", "told"),
    [({"parse": "Unsupported type UINT8"}, r"refused the network of .*: Unsupported type UINT8 \(in Cast\)"),
     ({"build": "Could not find any implementation for node"}, "cannot build an engine .*Could not find any")],
)  # fmt: skip
def test_a_network_that_cannot_be_built_is_told_with_tensorrts_own_words(
    gpu: machine.Gpu, order: Order, fault: dict[str, str], told: str
) -> None:
    for name, value in fault.items():
        setattr(tensorrt.FAULTS, name, value)
    with sdk.device().current(), pytest.raises(RuntimeFailed, match=told):
        engine.build(order, lambda _: True)


def test_bytes_that_are_no_network_are_refused(gpu: machine.Gpu, order: Order) -> None:
    with sdk.device().current(), pytest.raises(RuntimeFailed, match="refused the network"):
        engine.build(dataclasses.replace(order, onnx=b"nonsense"), lambda _: True)


def test_a_network_of_another_input_is_refused(gpu: machine.Gpu, order: Order) -> None:
    with sdk.device().current(), pytest.raises(RuntimeFailed, match=r"takes counts \(-1, 224, 224, 3\), not counts"):
        engine.build(dataclasses.replace(order, patch_px=448), lambda _: True)


def test_a_timing_cache_that_is_damaged_or_of_another_gpu_does_not_hinder(gpu: machine.Gpu, order: Order) -> None:
    with sdk.device().current():
        first = engine.build(order, lambda _: True)
        again = engine.build(order, lambda _: True, first.timing)
        damaged = engine.build(order, lambda _: True, b"\0\1")
        foreign = engine.build(order, lambda _: True, b"timing of another GPU:")
    assert again.timing == first.timing + b"."
    assert (damaged.timing, foreign.timing) == (first.timing, first.timing)


def test_a_tensorrt_that_takes_no_timing_cache_builds_all_the_same(gpu: machine.Gpu, order: Order) -> None:
    tensorrt.FAULTS.no_timing = True
    with sdk.device().current():
        built = engine.build(order, lambda _: True)
    assert built.plan
    assert built.timing == b""


def test_the_layers_of_an_engine_have_names_types_and_formats(gpu: machine.Gpu, plan: bytes, order: Order) -> None:
    with sdk.device().current():
        _, opened = engine.open_engine(plan, order.label)
        found = engine.layers(opened)
        del opened, _
    assert found == (engine.Layer("cast", "Cast", "Float"), engine.Layer("the whole network", "Myelin", "Float"))


@pytest.mark.parametrize("told", ["{", "[]", "null", '{"Layers": null}', '{"Layers": 3}'])
def test_layers_that_are_told_in_an_odd_form_are_none(gpu: machine.Gpu, plan: bytes, order: Order, told: str) -> None:
    tensorrt.FAULTS.layers = told
    with sdk.device().current():
        _, opened = engine.open_engine(plan, order.label)
        found = engine.layers(opened)
        del opened, _
    assert found == ()


def test_errors_of_tensorrt_are_in_the_log(gpu: machine.Gpu, order: Order, caplog: pytest.LogCaptureFixture) -> None:
    tensorrt.FAULTS.build = "no kernel\n  fits"
    with sdk.device().current(), pytest.raises(RuntimeFailed):
        engine.build(order, lambda _: True)
    assert ("edge_app.nvidia.sdk", logging.WARNING, "TensorRT: no kernel fits") in caplog.record_tuples


def test_factors_are_not_rounded_to_ten_bits(gpu: machine.Gpu, plan: bytes) -> None:
    assert b'"wrong_by": 0.0' in plan.partition(b"\n")[0]
