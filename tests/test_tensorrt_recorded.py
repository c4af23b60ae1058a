"""The usual batch is recorded once and replayed; what is recorded stays right, and hinders nobody."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import stand_in_gpu as machine
import stand_in_jetson as jetson
import stand_in_network as network
import stand_in_pycuda as pycuda
import stand_in_tensorrt as tensorrt
from numpy.typing import NDArray

from edge_app.bundle import FACTORY, ModelBundle, read
from edge_app.errors import RuntimeFailed
from edge_app.nvidia import engine, sdk
from edge_app.nvidia.execution import Execution
from edge_app.nvidia.order import Order
from edge_app.runtimes import onnxruntime as reference
from edge_app.runtimes import tensorrt as runtime

MANY = 68


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return read(FACTORY / "spectral_20x_grey.parfocal")


@pytest.fixture(scope="module")
def counts(bundle: ModelBundle) -> NDArray[np.uint8]:
    """Patches of which no two are alike."""
    rng = np.random.default_rng(1)
    many = np.resize(bundle.golden_in, (MANY, *bundle.golden_in.shape[1:]))
    return (many // 2 + rng.integers(0, 100, (MANY, 1, 1, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def truth(bundle: ModelBundle, counts: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    return reference.load(bundle, 1).infer(counts)


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


@pytest.fixture
def execution(plan: bytes, order: Order) -> Iterator[Execution]:
    opened = Execution(plan, order)
    yield opened
    opened.close()


def right(answers: dict[str, NDArray[np.float32]], truth: dict[str, NDArray[np.float32]], rows: slice) -> None:
    assert list(answers) == list(truth)
    for name, wanted in truth.items():
        np.testing.assert_allclose(answers[name], wanted[rows], atol=1e-4, err_msg=name)


def test_the_usual_batch_is_replayed_and_others_are_not(
    gpu: machine.Gpu, execution: Execution, counts: NDArray[np.uint8], truth: dict[str, NDArray[np.float32]]
) -> None:
    right(execution.infer(counts[:48]), truth, slice(48))
    assert gpu.launches == 1
    right(execution.infer(counts[:47]), truth, slice(47))
    assert gpu.launches == 1
    right(execution.infer(counts[20:68]), truth, slice(20, 68))
    assert gpu.launches == 2


def test_a_replay_is_to_the_bit_what_the_ordinary_way_gives(
    gpu: machine.Gpu, plan: bytes, order: Order, execution: Execution, counts: NDArray[np.uint8]
) -> None:
    gpu.no_graphs = True
    ordinary = Execution(plan, order)
    replayed = execution.infer(counts[:48])
    for name, values in ordinary.infer(counts[:48]).items():
        np.testing.assert_array_equal(values, replayed[name])
    assert gpu.launches == 1
    ordinary.close()


def test_without_graphs_it_serves_and_says_so_once(
    gpu: machine.Gpu, plan: bytes, order: Order, counts: NDArray[np.uint8],
    truth: dict[str, NDArray[np.float32]], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    gpu.no_graphs = True
    execution = Execution(plan, order)
    for _ in range(2):
        right(execution.infer(counts[:48]), truth, slice(48))
    (said,) = [record.message for record in caplog.records if "CUDA graph" in record.message]
    assert said.endswith(", goes on without: the driver has no cuGraphInstantiateWithFlags")
    assert gpu.contexts == 1, "the one that nobody uses is gone"
    execution.close()
    assert gpu.left() == {}


@pytest.mark.parametrize("call", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"])
def test_a_recording_that_fails_leaves_a_stream_that_works(
    gpu: machine.Gpu, plan: bytes, order: Order, counts: NDArray[np.uint8],
    truth: dict[str, NDArray[np.float32]], call: str,
) -> None:  # fmt: skip
    gpu.faults[call] = pycuda.LogicError(call)
    execution = Execution(plan, order)
    right(execution.infer(counts[:48]), truth, slice(48))
    assert gpu.launches == 0
    execution.close()


def test_where_a_frame_gives_any_number_of_patches_nothing_is_recorded(
    gpu: machine.Gpu, plan: bytes, order: Order, counts: NDArray[np.uint8],
    truth: dict[str, NDArray[np.float32]], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    execution = Execution(plan, dataclasses.replace(order, steady=False))
    right(execution.infer(counts[:48]), truth, slice(48))
    assert (gpu.launches, gpu.contexts, gpu.left()["contexts"]) == (0, 1, 1)
    assert "graphs" not in gpu.left()
    assert "CUDA graph" not in caplog.text
    execution.close()


def test_both_contexts_use_one_memory_between_layers(gpu: machine.Gpu, execution: Execution) -> None:
    assert gpu.contexts == 2
    assert [len(memory) for memory in gpu.device_memory.values()].count(network.MEMORY_BYTES) == 1


def test_a_shape_that_is_the_last_one_is_not_set_again(
    gpu: machine.Gpu, execution: Execution, counts: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = tensorrt.IExecutionContext.set_input_shape

    def spy(self: tensorrt.IExecutionContext, name: str, shape: tuple[int, ...]) -> bool:
        seen.append(shape[0])
        return real(self, name, shape)

    monkeypatch.setattr(tensorrt.IExecutionContext, "set_input_shape", spy)
    for count in (30, 6, 24, 24):
        execution.infer(counts[:count])
    assert seen == [24, 6, 24]


def test_no_engine_is_loaded_while_another_is_recorded(gpu: machine.Gpu, plan: bytes, order: Order) -> None:
    opened: list[Execution] = []
    other = threading.Thread(target=lambda: opened.append(Execution(plan, order)))
    engines: list[int] = []

    def meanwhile() -> None:
        gpu.while_recording = lambda: None
        other.start()
        other.join(0.2)
        engines.append(gpu.engines)

    gpu.while_recording = meanwhile
    opened.append(Execution(plan, order))
    other.join()
    assert engines == [1]
    for each in opened:
        each.close()


def test_no_stream_waits_for_the_legacy_stream(gpu: machine.Gpu, execution: Execution) -> None:
    assert [stream._flags for stream in gpu.streams.values()] == [1, 1]


def test_a_launch_that_fails_is_a_sentence(
    gpu: machine.Gpu, execution: Execution, counts: NDArray[np.uint8], truth: dict[str, NDArray[np.float32]]
) -> None:
    gpu.faults["cuGraphLaunch"] = pycuda.LogicError("odd")
    with pytest.raises(RuntimeFailed, match=r"cuGraphLaunch: error 1 \(CUDA_ERROR_INVALID_VALUE\)"):
        execution.infer(counts[:48])
    right(execution.infer(counts[:48]), truth, slice(48))


def test_contexts_name_nothing_for_profilers(execution: Execution) -> None:
    assert execution._context._context.nvtx_verbosity == tensorrt.ProfilingVerbosity.NONE
