"""Our execution on a real GPU with a kernel in the engine's place: what it adds up for each patch is known."""

from __future__ import annotations

import ctypes
import sys
import threading
import types
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_app.nvidia import driver, sdk
from edge_app.nvidia.execution import Execution
from edge_app.nvidia.order import Order

GPU = driver.probe()
pytestmark = pytest.mark.skipif(isinstance(GPU, str), reason=str(GPU))
SIDE = 32
USUAL = 48
OUTPUTS = ("total", "again")
# answers[k] = the sum of the bytes of patch k; a thread a patch. PTX needs no compiler but the driver's.
PTX = b"""
.version 7.0
.target sm_80
.address_size 64
.visible .entry total(.param .u64 counts, .param .u64 answers, .param .u32 patches, .param .u32 bytes)
{
    .reg .pred %p<3>;
    .reg .b32 %r<10>;
    .reg .b64 %rd<7>;
    .reg .f32 %f<2>;
    ld.param.u64 %rd1, [counts];
    ld.param.u64 %rd2, [answers];
    ld.param.u32 %r1, [patches];
    ld.param.u32 %r2, [bytes];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.u32 %r6, %r3, %r4, %r5;
    setp.ge.u32 %p1, %r6, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd3, %r6, %r2;
    add.u64 %rd4, %rd1, %rd3;
    mov.u32 %r7, 0;
    mov.u32 %r8, 0;
LOOP:
    ld.global.u8 %r9, [%rd4];
    add.u32 %r7, %r7, %r9;
    add.u64 %rd4, %rd4, 1;
    add.u32 %r8, %r8, 1;
    setp.lt.u32 %p2, %r8, %r2;
    @%p2 bra LOOP;
    cvt.rn.f32.u32 %f1, %r7;
    mul.wide.u32 %rd5, %r6, 4;
    add.u64 %rd6, %rd2, %rd5;
    st.global.f32 [%rd6], %f1;
DONE:
    ret;
}
"""


class Way(IntEnum):
    """Of a tensor."""

    INPUT = 1
    OUTPUT = 2


class Kind(IntEnum):
    """Of a tensor's elements."""

    FLOAT = 0
    UINT8 = 5


class Strategy(IntEnum):
    """Who allocates the memory between layers."""

    USER_MANAGED = 2


class Verbosity(IntEnum):
    """What profilers are told."""

    NONE = 1


class Context:
    """Launches the kernel once for each output."""

    def __init__(self) -> None:
        self.nvtx_verbosity = Verbosity.NONE
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}
        self._library = ctypes.CDLL("libcuda.so.1")
        module, self._kernel = ctypes.c_void_p(), ctypes.c_void_p()
        assert self._library.cuModuleLoadData(ctypes.byref(module), PTX) == 0
        assert self._library.cuModuleGetFunction(ctypes.byref(self._kernel), module, b"total") == 0

    def set_device_memory(self, memory: int, size: int) -> None:
        """The kernel needs none."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Of the patches."""
        self._shape = tuple(shape)
        return name == "counts"

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Of any tensor."""
        self._addresses[name] = memory
        return memory % 256 == 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Put the kernels on a stream."""
        patches, size = self._shape[0], int(np.prod(self._shape[1:]))
        for name in OUTPUTS:
            values = (
                ctypes.c_uint64(self._addresses["counts"]),
                ctypes.c_uint64(self._addresses[name]),
                ctypes.c_uint32(patches),
                ctypes.c_uint32(size),
            )
            told = (ctypes.c_void_p * 4)(*(ctypes.addressof(value) for value in values))
            stream = ctypes.c_void_p(stream_handle)
            code = self._library.cuLaunchKernel(self._kernel, patches, 1, 1, 1, 1, 1, 0, stream, told, None)
            if code != 0:
                return False
        return True


class Engine:
    """Patches in, two outputs out."""

    num_io_tensors = 3
    device_memory_size_v2 = 0

    def get_tensor_name(self, index: int) -> str:
        """By number."""
        return (*OUTPUTS, "counts")[index]

    def get_tensor_mode(self, name: str) -> Way:
        """Input or output."""
        return Way.INPUT if name == "counts" else Way.OUTPUT

    def get_tensor_dtype(self, name: str) -> Kind:
        """Bytes or floats."""
        return Kind.UINT8 if name == "counts" else Kind.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """A number for each patch, or patches."""
        return (-1, SIDE, SIDE, 3) if name == "counts" else (-1,)

    def create_execution_context(self, strategy: Strategy) -> Context:
        """A kernel of its own."""
        return Context()


class Runtime:
    """Gives the one engine."""

    def __init__(self, logger: Any) -> None: ...

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine:
        """Whatever the plan."""
        return Engine()


class Logger:
    """Says nothing."""

    INTERNAL_ERROR, ERROR, WARNING = range(3)


@pytest.fixture
def kernel() -> Iterator[None]:
    """The kernel in the place of TensorRT."""
    pytest.importorskip("pycuda.driver", reason="pycuda is not installed", exc_type=ImportError)
    module: Any = types.ModuleType("tensorrt")
    module.ILogger, module.Runtime, module.TensorIOMode, module.DataType = Logger, Runtime, Way, Kind
    module.ExecutionContextAllocationStrategy, module.ProfilingVerbosity = Strategy, Verbosity
    before = sys.modules.get("tensorrt")
    sys.modules["tensorrt"] = module
    yield
    sdk._loggers.pop(module, None)
    del sys.modules["tensorrt"]
    if before is not None:
        sys.modules["tensorrt"] = before


@pytest.fixture
def execution(kernel: None) -> Iterator[Execution]:
    """An execution of the kernel, closed afterwards."""
    opened = an_execution(SIDE)
    yield opened
    opened.close()


def an_execution(side: int) -> Execution:
    return Execution(
        b"plan", Order("sum", "sum@1", b"", "counts", side, OUTPUTS, USUAL, "fp32", "none", "any", "any", 1)
    )


def patches(count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def totals(counts: NDArray[np.uint8]) -> NDArray[np.float32]:
    sums: NDArray[np.uint32] = counts.reshape(len(counts), -1).sum(axis=1, dtype=np.uint32)
    return sums.astype(np.float32)


@pytest.mark.parametrize("count", [1, 12, 23, 24, 25, 47, USUAL, 49, 88, 89, 200])
def test_every_patch_of_a_batch_gets_its_own_answer(execution: Execution, count: int) -> None:
    counts = patches(count, count)
    answers = execution.infer(counts)
    assert set(answers) == set(OUTPUTS)
    assert all(np.array_equal(answers[name], totals(counts)) for name in OUTPUTS)


def test_the_usual_batch_is_recorded_as_a_graph_and_answers_alike_every_time(execution: Execution) -> None:
    assert execution._graph is not None
    for seed in range(50):
        counts = patches(USUAL, seed)
        assert np.array_equal(execution.infer(counts)["total"], totals(counts))


def test_answers_that_are_held_are_not_written_over(execution: Execution) -> None:
    asked = [patches(count, count) for count in (5, USUAL, 88, 7, USUAL)]
    held = [execution.infer(counts) for counts in asked]
    assert all(np.array_equal(answers["again"], totals(counts)) for answers, counts in zip(held, asked, strict=True))


def test_another_thread_may_ask(execution: Execution) -> None:
    counts, answers = patches(30, 3), []
    thread = threading.Thread(target=lambda: answers.append(execution.infer(counts)))
    thread.start()
    thread.join()
    assert np.array_equal(answers[0]["total"], totals(counts))


def test_its_memory_on_the_gpu_is_given_back(kernel: None) -> None:
    large = an_execution(512)
    with large.device.current():
        before, _ = large.device.cuda.mem_get_info()
    large.close()
    with large.device.current():
        assert large.device.cuda.mem_get_info()[0] >= before + 88 * 512 * 512 * 3
