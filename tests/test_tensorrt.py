"""TensorRT at work, on a stand-in whose streams do nothing before somebody waits: right numbers, nothing left over."""

from __future__ import annotations

import dataclasses
import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import stand_in_gpu as machine
import stand_in_jetson as jetson
import stand_in_pycuda as pycuda
import stand_in_tensorrt as tensorrt
from numpy.typing import NDArray

from edge_app import runtime as runtimes
from edge_app.bundle import FACTORY, ModelBundle, read
from edge_app.errors import RuntimeFailed
from edge_app.nvidia import engine, sdk
from edge_app.nvidia.execution import Execution
from edge_app.nvidia.order import MOST, Order
from edge_app.runtimes import onnxruntime as reference
from edge_app.runtimes import tensorrt as runtime

Infer = Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]
MANY = MOST + 37


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


@pytest.mark.parametrize("eager", [False, True], ids=["late_copies", "early_copies"])
@pytest.mark.parametrize("count", [1, 2, 23, 24, 25, 47, 48, 49, 87, MOST, MOST + 1, MANY])
def test_every_batch_gets_the_answers_of_onnx_runtime(
    gpu: machine.Gpu, execution: Execution, counts: NDArray[np.uint8], truth: dict[str, NDArray[np.float32]],
    count: int, eager: bool,
) -> None:  # fmt: skip
    gpu.eager_copies = eager
    right(execution.infer(counts[:count]), truth, slice(count))
    right(execution.infer(counts[-count:]), truth, slice(MANY - count, None))


def test_no_patches_are_no_answers(execution: Execution, order: Order) -> None:
    answers = execution.infer(np.empty((0, 224, 224, 3), np.uint8))
    assert {name: values.shape for name, values in answers.items()} == dict.fromkeys(order.outputs, (0,))


def test_answers_stay_as_they_are_while_somebody_holds_them(
    execution: Execution, counts: NDArray[np.uint8], truth: dict[str, NDArray[np.float32]]
) -> None:
    held = [execution.infer(counts[k : k + 48]) for k in range(5)]
    row = execution.infer(counts[9:10])["defocus_um"]
    for k, answers in enumerate(held):
        right(answers, truth, slice(k, k + 48))
    assert row[0] == pytest.approx(truth["defocus_um"][9], abs=1e-4)


def test_memory_of_answers_that_are_gone_is_used_again(
    gpu: machine.Gpu, execution: Execution, counts: NDArray[np.uint8]
) -> None:
    def address() -> int:
        return int(execution.infer(counts[:5])["side"].__array_interface__["data"][0])

    assert address() == address()
    blocks = len(gpu.pinned)
    kept = [execution.infer(counts[:5])["side"] for _ in range(20)]
    assert len(gpu.pinned) == blocks + 19
    del kept
    execution.infer(counts[:5])
    assert len(gpu.pinned) < blocks + 10


def test_answers_are_views_of_page_locked_memory(
    gpu: machine.Gpu, execution: Execution, counts: NDArray[np.uint8]
) -> None:
    for count in (1, 48, MANY):
        answers = execution.infer(counts[:count])
        assert all(pycuda._is_pinned(values) for values in answers.values())
    assert gpu.pageable_copies == 0


def test_nothing_is_left_when_it_is_closed(
    gpu: machine.Gpu, plan: bytes, order: Order, counts: NDArray[np.uint8]
) -> None:
    execution = Execution(plan, order)
    for count in (1, 48, MANY):
        execution.infer(counts[:count])
    execution.close()
    execution.close()
    assert gpu.left() == {}
    with pytest.raises(RuntimeFailed, match="closed"):
        execution.infer(counts[:1])


def test_answers_outlive_the_engine_and_free_their_memory_when_they_go(
    gpu: machine.Gpu, plan: bytes, order: Order, counts: NDArray[np.uint8], truth: dict[str, NDArray[np.float32]]
) -> None:
    execution = Execution(plan, order)
    answers = execution.infer(counts[:30])
    execution.close()
    right(answers, truth, slice(30))
    assert gpu.left() == {"pinned": 1}
    thread = threading.Thread(target=answers.clear)
    thread.start()
    thread.join()
    assert gpu.left() == {}


def test_a_runtime_that_nobody_holds_frees_its_engine(
    gpu: machine.Gpu, plan: bytes, order: Order, counts: NDArray[np.uint8]
) -> None:
    held = runtime.TensorRt(Execution(plan, order))
    held.infer(counts[:3])
    del held
    gc.collect()
    assert gpu.left() == {}


def test_it_may_be_loaded_used_and_closed_by_three_threads(
    gpu: machine.Gpu, plan: bytes, order: Order, counts: NDArray[np.uint8], truth: dict[str, NDArray[np.float32]]
) -> None:
    made: list[Execution] = []
    told: list[dict[str, NDArray[np.float32]]] = []
    for step in (
        lambda: made.append(Execution(plan, order)),
        lambda: told.extend(made[0].infer(counts[:count]) for count in (30, 48)),
        lambda: made.pop().close(),
    ):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    right(told[0], truth, slice(30))
    right(told[1], truth, slice(48))
    told.clear()
    assert gpu.left() == {}
    assert gpu.stack == []


def test_two_threads_take_turns(
    execution: Execution, counts: NDArray[np.uint8], truth: dict[str, NDArray[np.float32]]
) -> None:
    told: dict[int, dict[str, NDArray[np.float32]]] = {}

    def ask(first: int) -> None:
        for _ in range(4):
            told[first] = execution.infer(counts[first : first + 48])

    threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for first, answers in told.items():
        right(answers, truth, slice(first, first + 48))


def test_tensors_are_bound_by_name_whatever_their_order(
    execution: Execution, bundle: ModelBundle, counts: NDArray[np.uint8], truth: dict[str, NDArray[np.float32]]
) -> None:
    names = [execution._engine.get_tensor_name(i) for i in range(execution._engine.num_io_tensors)]
    assert names != [bundle.manifest.input.name, *bundle.manifest.outputs]
    right(execution.infer(counts[:7]), truth, slice(7))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"outputs": ("defocus_um", "sigma")}, "sigma"), ({"input": "pixels"}, "pixels")],
)
def test_an_engine_for_another_network_is_refused(
    gpu: machine.Gpu, plan: bytes, order: Order, change: dict[str, object], named: str
) -> None:
    with pytest.raises(RuntimeFailed, match=f"another network.*{named}"):
        Execution(plan, dataclasses.replace(order, **change))  # type: ignore[arg-type]
    assert gpu.left() == {}


@pytest.mark.parametrize(
    "patches",
    [np.zeros((3, 100, 224, 3), np.uint8), np.zeros((3, 224, 224, 3), np.float32), np.zeros((224, 224, 3), np.uint8)],
)
def test_patches_of_another_shape_or_type_are_refused(execution: Execution, patches: NDArray[np.uint8]) -> None:
    with pytest.raises(RuntimeFailed, match=r"\(N, 224, 224, 3\) uint8"):
        execution.infer(patches)


SERVING = ["cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuEventRecord", "cuStreamWaitEvent", "cuStreamSynchronize"]
OPENING = ["cuStreamCreate", "cuEventCreate", "cuMemAlloc", "cuMemHostAlloc", "cuMemcpyHtoDAsync", "cuEventRecord"]


@pytest.mark.parametrize("call", OPENING)
def test_whatever_fails_while_it_is_opened_is_a_sentence_and_leaves_nothing(
    gpu: machine.Gpu, plan: bytes, order: Order, call: str
) -> None:
    gpu.faults[call] = pycuda.MemoryError(f"{call} failed: out of memory")
    with pytest.raises(RuntimeFailed, match=f"the GPU failed on .*{call} failed: out of memory"):
        Execution(plan, order)
    gc.collect()
    assert gpu.left() == {}


@pytest.mark.parametrize("call", SERVING)
@pytest.mark.parametrize("count", [30, 48])
def test_a_call_that_fails_once_is_a_sentence_and_the_next_batch_is_right(
    gpu: machine.Gpu, execution: Execution, counts: NDArray[np.uint8], truth: dict[str, NDArray[np.float32]],
    call: str, count: int,
) -> None:  # fmt: skip
    gpu.faults[call] = pycuda.LogicError(f"{call} failed: odd")
    if count == 48 and call in {"cuMemcpyHtoDAsync", "cuEventRecord", "cuStreamWaitEvent"}:
        execution.infer(counts[:count])  # a replay makes no such call
        assert call in gpu.faults
        gpu.faults.clear()
        return
    with pytest.raises(RuntimeFailed, match=f"{call} failed: odd") as caught:
        execution.infer(counts[:count])
    assert "restart" not in str(caught.value)
    right(execution.infer(counts[50 : 50 + count]), truth, slice(50, 50 + count))


def test_after_a_refusal_no_copy_is_under_way_that_uses_memory_of_the_next_batch(
    gpu: machine.Gpu, execution: Execution, counts: NDArray[np.uint8]
) -> None:
    tensorrt.FAULTS.enqueue = "myelin went wrong"
    with pytest.raises(RuntimeFailed, match="myelin"):
        execution.infer(counts[:30])
    assert [len(stream.lane.todo) for stream in gpu.streams.values()] == [0, 0]


def test_after_an_error_that_breaks_the_context_it_asks_for_a_restart(
    gpu: machine.Gpu, execution: Execution, counts: NDArray[np.uint8]
) -> None:
    gpu.kill("an illegal memory access was encountered")
    for _ in range(2):
        with pytest.raises(RuntimeFailed, match=r"illegal memory access.*restart the service"):
            execution.infer(counts[:10])


@pytest.mark.parametrize(
    ("fault", "told"),
    [({"enqueue": "myelin went wrong"}, "refused to compute.*myelin went wrong"),
     ({"no_context": True}, "refused to give a context.*could not be allocated")],
)  # fmt: skip
def test_what_tensorrt_refuses_is_told_with_its_own_words(
    gpu: machine.Gpu, plan: bytes, order: Order, fault: dict[str, object], told: str
) -> None:
    for name, value in fault.items():
        setattr(tensorrt.FAULTS, name, value)
    with pytest.raises(RuntimeFailed, match=told):
        Execution(plan, order)
    assert gpu.left() == {}


def test_tensorrt_that_refuses_a_batch_says_why_and_serves_the_next(
    execution: Execution, counts: NDArray[np.uint8], truth: dict[str, NDArray[np.float32]]
) -> None:
    tensorrt.FAULTS.enqueue = "myelin went wrong"
    with pytest.raises(RuntimeFailed, match="myelin went wrong"):
        execution.infer(counts[:30])
    tensorrt.FAULTS.enqueue = ""
    right(execution.infer(counts[30:60]), truth, slice(30, 60))


@pytest.mark.parametrize("plan_of", [lambda plan: plan[5:], lambda plan: plan[:-1], lambda plan: b""])
def test_a_plan_that_is_none_is_refused(
    gpu: machine.Gpu, plan: bytes, order: Order, plan_of: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(engine.PlanRefused, match="cannot load the engine"):
        Execution(plan_of(plan), order)
    assert gpu.left() == {}


def test_a_whole_runtime_answers_the_golden_inputs(
    gpu: machine.Gpu, plan: bytes, order: Order, bundle: ModelBundle
) -> None:
    opened = runtimes.checked("tensorrt", bundle, lambda: runtime.TensorRt(Execution(plan, order)), usual=True)
    assert (opened.name, opened.note) == ("tensorrt", "")
    assert gpu.launches == 1, "the replayed batch was asked too"


def test_a_driver_that_gives_no_context_is_a_sentence(gpu: machine.Gpu, bundle: ModelBundle) -> None:
    order = runtime.order(bundle)
    gpu.init_error = 100
    with pytest.raises(RuntimeFailed, match="the GPU cannot be used: cuInit failed: no CUDA-capable device"):
        Execution(b"", order)
