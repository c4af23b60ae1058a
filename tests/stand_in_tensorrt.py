"""A stand-in for the module tensorrt that refuses what TensorRT refuses, and executes networks by ONNX Runtime.

It has only names that TensorRT's Python bindings 10.3 to 11.4 have, with their parameters. Work is put on the streams
of `stand_in_gpu`, and done when those get there. `FAULTS` is what tests may let go wrong.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import Any

import stand_in_gpu as machine
from stand_in_network import (
    MEMORY_BYTES,
    Faults,
    dims,
    execute,
    layers,
    open_session,
    read_plan,
    report_phases,
    timing_begun,
    write_plan,
)

__version__ = "10.3.0"


FAULTS = Faults()
_ALIGNED = 256
Dims = tuple[int, ...]


class _Logging:
    """What every object of TensorRT's does with its logger."""

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def _complain(self, text: str) -> None:
        self._logger.log(ILogger.ERROR, text)


class ILogger:
    """To be derived from; its own __init__ must be called."""

    class Severity(IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO
    VERBOSE = Severity.VERBOSE

    def __init__(self) -> None:
        self._begun = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(IntEnum):
    TF32 = 7


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class ProfilingVerbosity(IntEnum):
    LAYER_NAMES_ONLY = 0
    NONE = 1
    DETAILED = 2


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class LayerInformationFormat(IntEnum):
    ONELINE = 0
    JSON = 1


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5


_TYPES = {"tensor(uint8)": DataType.UINT8, "tensor(float)": DataType.FLOAT, "tensor(float16)": DataType.HALF}


class IHostMemory(ctypes.Structure):
    """Bytes of the library's, through the buffer protocol."""

    @property
    def nbytes(self) -> int:
        return ctypes.sizeof(self)


def _host_memory(data: bytes) -> IHostMemory:
    kind: Any = type("IHostMemory", (IHostMemory,), {"_fields_": [("_data", ctypes.c_char * len(data))]})
    found: IHostMemory = kind.from_buffer_copy(data)
    return found


class ITensor:
    def __init__(self, name: str, shape: Dims) -> None:
        self._name, self._shape = name, shape

    @property
    def name(self) -> str:
        return self._name

    @property
    def shape(self) -> Dims:
        return self._shape


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._onnx = b""
        self._inputs: list[ITensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]


class ParserError:
    def __init__(self, desc: str, node_operator: str) -> None:
        self._desc, self._node_operator = desc, node_operator

    def desc(self) -> str:
        return self._desc

    def node_operator(self) -> str:
        return self._node_operator


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        if FAULTS.parse:
            self._errors.append(ParserError(FAULTS.parse, "Cast"))
            return False
        try:
            session = open_session(bytes(model))
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's are many
            self._errors.append(ParserError(f"Failed to parse the ONNX model: {type(error).__name__}", ""))
            return False
        inputs = [(entry.name, dims(entry.shape)) for entry in session.get_inputs()]
        self._network._inputs = [ITensor(name, shape) for name, shape in inputs]
        self._network._onnx = bytes(model)
        return True


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[Dims, Dims, Dims]] = {}

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:  # noqa: A002 - TensorRT's names
        if not all(low <= usual <= high for low, usual, high in zip(min, opt, max, strict=True)):
            raise ValueError("Shape provided for min, opt and max are inconsistent")
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> IHostMemory:
        return _host_memory(self._data)


class IProgressMonitor:
    """To be derived from; called from any thread."""

    def __init__(self) -> None:
        self._begun = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """Somebody's."""

    def step_complete(self, phase_name: str, step: int) -> bool:
        return True

    def phase_finish(self, phase_name: str) -> None:
        """Somebody's."""


class IBuilderConfig:
    def __init__(self) -> None:
        self._flags = {BuilderFlag.TF32}
        self._profiles: list[IOptimizationProfile] = []
        self._timing: ITimingCache | None = None
        self._limits: dict[MemoryPoolType, int] = {}
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.progress_monitor: IProgressMonitor | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._limits[pool] = pool_size

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        if not profile._shapes:
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        """From what was serialised; None where that is damaged."""
        data = bytes(serialized_timing_cache)
        if data and not data.startswith(b"timing"):
            return None
        return ITimingCache(data or timing_begun())

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """False, and none is set, where it is of another device."""
        if FAULTS.no_timing or not (ignore_mismatch or cache._data.startswith(timing_begun())):
            return False
        self._timing = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._timing


class Builder(_Logging):
    def __init__(self, logger: ILogger) -> None:
        assert getattr(logger, "_begun", False), "ILogger.__init__ was not called"
        super().__init__(logger)
        if not machine.GPU.stack:
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        if not network._onnx or not config._profiles:
            self._complain("Network has dynamic or shape inputs, but no optimization profile has been defined.")
            return None
        if network._flags != 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED:
            self._complain("this stand-in builds strongly typed networks only")
            return None
        if not (config.progress_monitor is None or report_phases(config.progress_monitor, FAULTS)):
            return None
        if FAULTS.build:
            self._complain(FAULTS.build)
            return None
        if config._timing is not None:
            config._timing._data += b"."
        # TF32 rounds factors to 10 bits of mantissa.
        wrong_by = FAULTS.wrong_by + (0.1 if BuilderFlag.TF32 in config._flags else 0.0)
        detailed = config.profiling_verbosity == ProfilingVerbosity.DETAILED
        return _host_memory(write_plan(__version__, config._profiles[0]._shapes, wrong_by, detailed, network._onnx))


class Runtime(_Logging):
    def __init__(self, logger: ILogger) -> None:
        assert getattr(logger, "_begun", False), "ILogger.__init__ was not called"
        super().__init__(logger)
        assert machine.GPU.stack, "without a context this ends the process"

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        """The engine, or None with a line in the log."""
        found = read_plan(bytes(serialized_engine), __version__)
        if isinstance(found, str):
            self._complain(found)
            return None
        if FAULTS.no_memory:
            self._complain("[defaultAllocator.cpp::allocate] Cuda Runtime (out of memory)")
            return None
        return ICudaEngine(self._logger, *found)


class ICudaEngine(_Logging):
    def __init__(self, logger: ILogger, header: dict[str, Any], onnx: bytes) -> None:
        super().__init__(logger)
        self._header = header
        self._session = open_session(onnx)
        self._inputs = {entry.name: entry for entry in self._session.get_inputs()}
        self._outputs = {entry.name: entry for entry in self._session.get_outputs()}
        # Outputs come first and backwards: nothing promises the order of the graph.
        self._names: list[str] = [*reversed(self._outputs), *self._inputs]
        self._gpu = machine.GPU
        self._gpu.engines += 1

    def __del__(self) -> None:
        if hasattr(self, "_gpu"):
            assert self._gpu.stack, "an engine was freed without a context"
            self._gpu.engines -= 1

    @property
    def num_io_tensors(self) -> int:
        return len(self._names)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        if name not in self._names:
            self._complain(f"Given invalid tensor name: {name}")
            return TensorIOMode.NONE
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        entry = self._inputs.get(name) or self._outputs[name]
        return _TYPES[entry.type]

    def get_tensor_shape(self, name: str) -> Dims:
        entry = self._inputs.get(name) or self._outputs[name]
        return dims(entry.shape)

    @property
    def device_memory_size_v2(self) -> int:
        return MEMORY_BYTES

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> IExecutionContext | None:
        if FAULTS.no_context:
            self._complain("Requested amount of GPU memory could not be allocated")
            return None
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED, "this stand-in allocates for nobody"
        return IExecutionContext(self._logger, self)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: LayerInformationFormat) -> str:  # noqa: A002 - TensorRT's name
        assert format == LayerInformationFormat.JSON
        return FAULTS.layers or layers(list(self._engine._outputs), self._engine._header["detailed"])


class IExecutionContext(_Logging):
    """A state of an engine; one thread at a time, and in the context that it was made in."""

    def __init__(self, logger: ILogger, engine: ICudaEngine) -> None:
        super().__init__(logger)
        self._engine = engine
        self._shapes: dict[str, Dims] = {}
        self._addresses: dict[str, int] = {}
        self._settled: dict[str, Dims] = {}
        self._memory = (0, 0)
        self.nvtx_verbosity = ProfilingVerbosity.DETAILED
        self._gpu = machine.GPU
        self._gpu.contexts += 1

    def __del__(self) -> None:
        if hasattr(self, "_gpu"):
            assert self._gpu.stack, "an execution context was freed without a context"
            self._gpu.contexts -= 1

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % _ALIGNED == 0 and size >= MEMORY_BYTES, "TensorRT says so in the log and goes on"  # noqa: PT018
        self._memory = (memory, size)

    def set_input_shape(self, name: str, shape: Dims) -> bool:
        if machine.GPU.capture_of_thread() is not None:
            self._complain("this stand-in sets no shape while a stream records")
            return False
        bounds = self._engine._header["profile"].get(name)
        if bounds is None:
            self._complain(f"Given invalid tensor name: {name}. Get valid tensor names with getIOTensorName()")
            return False
        low, _, high = bounds
        if len(shape) != len(low) or not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            self._complain(f"Set dimensions of {name} do not satisfy any optimization profiles: {tuple(shape)}")
            return False
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._names:
            self._complain(f"Given invalid tensor name: {name}. Get valid tensor names with getIOTensorName()")
            return False
        if memory % _ALIGNED:
            self._complain(f"The address for {name} is not aligned to {_ALIGNED} bytes")
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Put the network on a stream; shapes and addresses are those of now."""
        stream = machine.GPU.streams.get(stream_handle)
        problem = self._problem(stream)
        if problem:
            self._complain(problem)
            return False
        assert stream is not None
        if stream.capture is not None and self._shapes != self._settled:
            stream.capture.invalid = True
            self._complain("the first enqueue after a change of shape cannot be captured")
            return False
        self._settled = dict(self._shapes)
        engine = self._engine
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        wrong_by, recorded, memory = engine._header["wrong_by"], stream.capture is not None, self._memory
        if stream.capture is not None:
            machine.GPU.while_recording()

        def work() -> None:
            machine.GPU.touch(*memory)
            # What was recorded uses memory of the context that belongs to one shape.
            spoilt = float("nan") if recorded and self._settled != shapes else wrong_by
            execute(engine._session, spoilt, shapes, addresses)

        machine.GPU.enqueue(stream, work)
        return True

    def _problem(self, stream: Any | None) -> str:
        if FAULTS.enqueue:
            return FAULTS.enqueue
        if not machine.GPU.stack:
            return "no CUDA context is current"
        if stream is None:
            return "the stream is none, or is destroyed"
        if machine.GPU.block(*self._memory) is None:
            return "the memory between layers is not set"
        without_shape = [name for name in self._engine._inputs if name not in self._shapes]
        without_memory = [name for name in self._engine._names if name not in self._addresses]
        if without_shape or without_memory:
            return f"not set: shapes of {without_shape}, addresses of {without_memory}"
        return ""
