"""A stand-in for libcuda, as ctypes sees it: what is asked of the driver itself, for pycuda does not have it."""

from __future__ import annotations

import threading
import types
from collections.abc import Callable
from typing import Any

import stand_in_gpu as machine


def open_library(name: str) -> types.SimpleNamespace:
    """Instead of ctypes.CDLL: libcuda with what pycuda does not have."""
    if name != "libcuda.so.1":
        raise OSError(f"{name}: cannot open shared object file")
    return types.SimpleNamespace(
        **{n: f for n, f in _DRIVER.items() if not (machine.GPU.no_graphs and "Instantiate" in n)}
    )


_CODES = {
    0: "CUDA_SUCCESS",
    1: "CUDA_ERROR_INVALID_VALUE",
    100: "CUDA_ERROR_NO_DEVICE",
    201: "CUDA_ERROR_INVALID_CONTEXT",
    400: "CUDA_ERROR_INVALID_HANDLE",
    700: "CUDA_ERROR_ILLEGAL_ADDRESS",
    803: "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
    901: "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
    904: "CUDA_ERROR_STREAM_CAPTURE_UNJOINED",
}


def _put(reference: Any, value: Any) -> None:
    reference._obj.value = value


def _init(flags: int) -> int:
    return machine.GPU.init_error


def _count(count: Any) -> int:
    _put(count, machine.GPU.devices)
    return 0


def _version(version: Any) -> int:
    _put(version, machine.GPU.cuda_version)
    return 0


def _get(device: Any, ordinal: int) -> int:
    _put(device, ordinal)
    return 0


def _name(buffer: Any, size: int, device: Any) -> int:
    buffer.value = machine.GPU.name.encode()[: size - 1]
    return 0


def _attribute(value: Any, attribute: int, device: Any) -> int:
    known = {16: machine.GPU.multiprocessors, 75: machine.GPU.capability[0], 76: machine.GPU.capability[1]}
    _put(value, known[attribute])
    return 0


def _total(value: Any, device: Any) -> int:
    _put(value, machine.GPU.memory_bytes)
    return 0


def _error_name(code: int, text: Any) -> int:
    if code not in _CODES:
        return 1
    _put(text, _CODES[code].encode())
    return 0


def _guard(name: str) -> int:
    if not machine.GPU.stack:
        return 201
    if machine.GPU.dead:
        return 700
    if machine.GPU.faults.pop(name, None) is not None:
        return 1
    return 0


def _begin(stream: Any, mode: int) -> int:
    code = _guard("cuStreamBeginCapture_v2")
    if code or stream.value not in machine.GPU.streams:
        return code or 400
    origin = machine.GPU.streams[stream.value]
    origin.capture = machine.Capture(stream.value, threading.get_ident(), {stream.value: machine.Lane()})
    return 0


def _end(stream: Any, graph: Any) -> int:
    origin = machine.GPU.streams.get(stream.value)
    if origin is None or origin.capture is None:
        return 1
    capture = origin.capture
    capture.invalid = capture.invalid or _guard("cuStreamEndCapture") != 0
    for each in machine.GPU.streams.values():
        if each.capture is capture:
            each.capture = None
    if capture.invalid or capture.unjoined:
        _clear(capture.lanes)
        _put(graph, None)
        return 901 if capture.invalid else 904
    handle = machine.GPU.address(1)
    # The origin's lane first: the others are run as far as it waits for them.
    first = {capture.origin: capture.lanes.pop(capture.origin)}
    machine.GPU.graphs[handle] = {**first, **capture.lanes}
    _put(graph, handle)
    return 0


def _instantiate(executable: Any, graph: Any, flags: Any) -> int:
    code = _guard("cuGraphInstantiateWithFlags")
    if code or graph.value not in machine.GPU.graphs:
        return code or 400
    handle = machine.GPU.address(1)
    machine.GPU.executables[handle] = (graph.value, machine.GPU.graphs[graph.value])
    _put(executable, handle)
    return 0


def _destroy_graph(graph: Any) -> int:
    lanes = machine.GPU.graphs.pop(graph.value, None)
    if lanes is not None and all(number != graph.value for number, _ in machine.GPU.executables.values()):
        _clear(lanes)
    return 0 if lanes is not None else 400


def _destroy_executable(executable: Any) -> int:
    gone = machine.GPU.executables.pop(executable.value, None)
    if gone is not None:
        _clear(gone[1])
    return 0 if gone is not None else 400


def _clear(lanes: dict[int, machine.Lane]) -> None:
    """Drop what was recorded; lanes and marks refer to each other."""
    for lane in lanes.values():
        lane.todo.clear()


def _launch(executable: Any, stream: Any) -> int:
    code = _guard("cuGraphLaunch")
    if code or executable.value not in machine.GPU.executables or stream.value not in machine.GPU.streams:
        return code or 400
    _, recorded = machine.GPU.executables[executable.value]
    machine.GPU.launches += 1

    def play() -> None:
        marks: dict[machine.Mark, machine.Mark] = {}
        fresh = [machine.Lane() for _ in recorded]
        for lane, copied in zip(recorded.values(), fresh, strict=True):
            marks.update({step: machine.Mark(copied) for step in lane.todo if isinstance(step, machine.Mark)})
        for lane, copied in zip(recorded.values(), fresh, strict=True):
            copied.todo.extend(_replayed(step, marks) for step in lane.todo)
        for copied in fresh:
            copied.run()

    machine.GPU.enqueue(machine.GPU.streams[stream.value], play)
    return 0


def _replayed(step: Any, marks: dict[machine.Mark, machine.Mark]) -> Any:
    if isinstance(step, machine.Mark):
        return marks[step]
    return machine.Wait(marks[step.mark]) if isinstance(step, machine.Wait) else step


_DRIVER: dict[str, Callable[..., int]] = {
    "cuInit": _init,
    "cuDriverGetVersion": _version,
    "cuDeviceGetCount": _count,
    "cuDeviceGet": _get,
    "cuDeviceGetName": _name,
    "cuDeviceGetAttribute": _attribute,
    "cuDeviceTotalMem_v2": _total,
    "cuGetErrorName": _error_name,
    "cuStreamBeginCapture_v2": _begin,
    "cuStreamEndCapture": _end,
    "cuGraphInstantiateWithFlags": _instantiate,
    "cuGraphDestroy": _destroy_graph,
    "cuGraphExecDestroy": _destroy_executable,
    "cuGraphLaunch": _launch,
}
