"""A stand-in for pycuda.driver on the GPU of `stand_in_gpu`: pycuda's names and signatures, and what it refuses.

Every call needs a current context, and so does the end of whatever belongs to one.
"""

from __future__ import annotations

import warnings
from enum import IntEnum
from typing import Any

import numpy as np
import stand_in_gpu as machine
from numpy.typing import NDArray
from stand_in_gpu import Error, LaunchError, LogicError, MemoryError, RuntimeError  # noqa: A004 - pycuda's names

__all__ = ["Error", "LaunchError", "LogicError", "MemoryError", "RuntimeError"]


class event_flags(IntEnum):  # noqa: N801 - pycuda's name
    """How an event is made."""

    DEFAULT = 0
    BLOCKING_SYNC = 1
    DISABLE_TIMING = 2


def init(flags: int = 0) -> None:
    """Of the driver."""
    if machine.GPU.init_error:
        raise RuntimeError("cuInit failed: no CUDA-capable device is detected")


class Device:
    """The machine.GPU."""

    def __init__(self, number: int) -> None:
        if number >= machine.GPU.devices:
            raise LogicError("cuDeviceGet failed: invalid device ordinal")

    def retain_primary_context(self) -> Context:
        """The context that CUDA's runtime API uses too."""
        machine.GPU.primary += 1
        return Context()


class Context:
    """A context; current for a thread while it is on top of that thread's stack."""

    def push(self) -> None:
        """Make it this thread's current one."""
        machine.GPU.stack.append(self)

    @staticmethod
    def pop() -> None:
        """Take the current one off."""
        if not machine.GPU.stack:
            raise LogicError("context::pop failed: invalid device context - cannot pop non-current context")
        machine.GPU.stack.pop()

    @staticmethod
    def synchronize() -> None:
        """Wait for everything."""
        with machine.GPU.lock:
            machine.GPU.call("cuCtxSynchronize", capturable=False)
            for stream in list(machine.GPU.streams.values()):
                stream.lane.run()
            machine.GPU.check_alive("cuCtxSynchronize")


class _Owned:
    """What belongs to a context: it is freed while that is current, or not at all."""

    _kind = ""

    def __init__(self) -> None:
        self._gpu = machine.GPU

    def _may_go(self) -> bool:
        if not self._gpu.stack:
            warnings.warn(f"{self._kind} in out-of-thread context could not be cleaned up", UserWarning, stacklevel=3)
            return False
        return True


class Stream(_Owned):
    """A queue of work."""

    _kind = "stream"

    def __init__(self, flags: int = 0) -> None:
        with machine.GPU.lock:
            machine.GPU.call("cuStreamCreate", capturable=False)
            super().__init__()
            self._handle = machine.GPU.address(1)
            self._flags = flags
            self.lane = machine.Lane()
            self.capture: machine.Capture | None = None
            machine.GPU.streams[self._handle] = self
            machine.GPU.stream_count += 1

    @property
    def handle(self) -> int:
        """The driver's."""
        return self._handle

    def synchronize(self) -> None:
        """Wait for all of it."""
        with machine.GPU.lock:
            machine.GPU.call("cuStreamSynchronize", capturable=False)
            machine.GPU.waits += 1
            self.lane.run()
            machine.GPU.check_alive("cuStreamSynchronize")

    def wait_for_event(self, event: Event) -> None:
        """Whatever is put here next waits until the event has come; one that was never recorded is no hindrance."""
        with machine.GPU.lock:
            machine.GPU.call("cuStreamWaitEvent")
            if event.mark is None:
                return
            if self.capture is not None and event.capture is not self.capture:
                self.capture.invalid = True
                raise LogicError("cuStreamWaitEvent failed: dependency created on uncaptured work in another stream")
            if event.capture is not None and self.capture is None:
                self.capture = event.capture
                self.capture.lanes[self.handle] = machine.Lane()
                self.capture.unjoined.add(self.handle)
            self._join(event)
            machine.GPU.enqueue(self, machine.Wait(event.mark))

    def _join(self, event: Event) -> None:
        """Note that the origin of a recording has waited for all that a branch was given."""
        capture, branch = self.capture, event.stream
        if capture is None or branch is None or event.mark is None or self.handle != capture.origin:
            return
        if event.mark.after == len(capture.lanes[branch].todo):
            capture.unjoined.discard(branch)

    def __del__(self) -> None:
        if hasattr(self, "_gpu") and self._may_go():
            self._gpu.stream_count -= 1


class Event(_Owned):
    """A point in a stream's work."""

    _kind = "event"

    def __init__(self, flags: int = 0) -> None:
        with machine.GPU.lock:
            machine.GPU.call("cuEventCreate", capturable=False)
            machine.GPU.events += 1
            super().__init__()
            self.mark: machine.Mark | None = None
            self.capture: machine.Capture | None = None
            self.stream: int | None = None

    def record(self, stream: Stream | None = None) -> Event:
        """Take the point where the stream is now."""
        assert stream is not None, "the stand-in knows no default stream"
        with machine.GPU.lock:
            machine.GPU.call("cuEventRecord")
            lane = stream.lane if stream.capture is None else stream.capture.lanes[stream.handle]
            self.mark = machine.Mark(lane)
            self.capture, self.stream = stream.capture, stream.handle
            machine.GPU.enqueue(stream, self.mark)
            self.mark.after = len(lane.todo)
            machine.GPU.hurry(stream)
            return self

    def __del__(self) -> None:
        if hasattr(self, "_gpu") and self._may_go():
            self._gpu.events -= 1


def _call_to_free(name: str) -> None:
    """pycuda warns on stderr where a context is dead, and goes on."""
    if not machine.GPU.dead:
        machine.GPU.call(name, capturable=False)


class DeviceAllocation(_Owned):
    """Memory on the machine.GPU."""

    _kind = "device_allocation"

    def __init__(self, address: int) -> None:
        super().__init__()
        self._address = address

    def __int__(self) -> int:
        return self._address

    def __index__(self) -> int:
        return self._address

    def free(self) -> None:
        """Give it back; once."""
        with machine.GPU.lock:
            _call_to_free("cuMemFree")
            if self._address not in machine.GPU.device_memory:
                raise LogicError("device_allocation::free failed: invalid resource handle")
            machine.GPU.free_bytes += len(machine.GPU.device_memory.pop(self._address))

    def __del__(self) -> None:
        if self._address in self._gpu.device_memory and self._may_go():
            self.free()


def mem_alloc(bytes: int) -> DeviceAllocation:  # noqa: A002 - pycuda's name
    """Memory on the machine.GPU, filled with what was there before."""
    with machine.GPU.lock:
        machine.GPU.call("cuMemAlloc", capturable=False)
        if bytes > machine.GPU.free_bytes:
            raise MemoryError("cuMemAlloc failed: out of memory")
        address = machine.GPU.address(bytes)
        machine.GPU.device_memory[address] = bytearray(b"\xa5" * bytes)
        machine.GPU.free_bytes -= bytes
        return DeviceAllocation(address)


class PagelockedHostAllocation(_Owned):
    """Memory of the host that stays where it is."""

    _kind = "pagelocked_host_allocation"

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().__init__()
        size = max(1, int(np.prod(shape)) * dtype.itemsize)
        self._memory = np.full(size, 0xA5, np.uint8)
        here = self._memory.__array_interface__["data"]
        self._address = int(here[0])
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": dtype.str, "data": here}
        machine.GPU.pinned[self._address] = size

    def free(self) -> None:
        """Give it back; once. What somebody reads there afterwards is poison."""
        with machine.GPU.lock:
            _call_to_free("cuMemFreeHost")
            if machine.GPU.pinned.pop(self._address, None) is None:
                raise LogicError("pagelocked_host_allocation::free failed: invalid resource handle")
            self._memory[:] = machine.POISON

    def __del__(self) -> None:
        if self._address in self._gpu.pinned and self._may_go():
            self.free()


def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> NDArray[Any]:
    """An array in memory that stays where it is, filled with what was there before."""
    with machine.GPU.lock:
        machine.GPU.call("cuMemHostAlloc", capturable=False)
        whole = (shape,) if isinstance(shape, int) else tuple(shape)
        return np.asarray(PagelockedHostAllocation(whole, np.dtype(dtype)))


def _is_pinned(array: NDArray[Any]) -> bool:
    first = int(array.__array_interface__["data"][0])
    return any(start <= first and first + array.nbytes <= start + size for start, size in machine.GPU.pinned.items())


def _check_host(array: NDArray[Any]) -> None:
    if not array.flags.c_contiguous:
        raise ValueError("ndarray is not contiguous")
    if not _is_pinned(array):
        machine.GPU.pageable_copies += 1


def memcpy_htod_async(dest: int, src: NDArray[Any], stream: Stream | None = None) -> None:
    """Host to device; the host's memory is read when the stream gets there."""
    assert stream is not None, "the stand-in knows no default stream"
    with machine.GPU.lock:
        machine.GPU.call("cuMemcpyHtoDAsync")
        _check_host(src)
        at = int(dest)

        def copy() -> None:
            there = machine.GPU.touch(at, src.nbytes)
            if there is not None:
                there[:] = src.tobytes()

        machine.GPU.enqueue(stream, copy)
        machine.GPU.hurry(stream)


def memcpy_dtoh_async(dest: NDArray[Any], src: int, stream: Stream | None = None) -> None:
    """Device to host; the host's memory is written when the stream gets there."""
    assert stream is not None, "the stand-in knows no default stream"
    with machine.GPU.lock:
        machine.GPU.call("cuMemcpyDtoHAsync")
        _check_host(dest)
        at = int(src)

        def copy() -> None:
            there = machine.GPU.touch(at, dest.nbytes)
            if there is not None:
                dest[...] = np.frombuffer(there, dest.dtype).reshape(dest.shape)

        machine.GPU.enqueue(stream, copy)
