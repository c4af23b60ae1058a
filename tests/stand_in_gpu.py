"""A GPU for tests: device memory that is not the host's, and streams that run as late as they may, or as early.

Nothing that is asked of a stream happens until somebody waits for it, so that a wait that is missing shows as wrong
numbers. `GPU` is the machine, with the handles that only tests hold; `stand_in_pycuda` and `stand_in_libcuda` are the
ways to it.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

POISON = 0xDB


_PAGE = 4096


class Error(Exception):
    """pycuda's root."""


class LogicError(Error):
    """A call that cannot be."""


class LaunchError(Error):
    """A kernel that failed."""


class MemoryError(Error):  # noqa: A001 - pycuda's name
    """Out of memory."""


class RuntimeError(Error):  # noqa: A001 - pycuda's name
    """No device, and the like."""


@dataclass(eq=False)
class Mark:
    """One recording of an event: done when its lane has come so far."""

    lane: Lane
    done: bool = False
    after: int = 0


@dataclass(eq=False)
class Wait:
    mark: Mark


@dataclass(eq=False)
class Lane:
    """What is still to be done, in order."""

    todo: deque[Any] = field(default_factory=deque)

    def run(self, until: Mark | None = None) -> None:
        """Do it all, or up to a mark; waits run other lanes as far as they have to."""
        while self.todo:
            step = self.todo.popleft()
            if isinstance(step, Wait):
                if not step.mark.done:
                    step.mark.lane.run(step.mark)
            elif isinstance(step, Mark):
                step.done = True
                if step is until:
                    return
            else:
                step()


@dataclass(eq=False)
class Capture:
    """A recording that is being made: lanes by stream, and which of them the origin has not waited for."""

    origin: int
    thread: int
    lanes: dict[int, Lane] = field(default_factory=dict)
    unjoined: set[int] = field(default_factory=set)
    invalid: bool = False


class Gpu:
    """The machine: its memory, its streams, and what went wrong."""

    name = "Stand-in GPU"
    capability = (8, 7)
    memory_bytes = 8 * 2**30
    cuda_version = 12060
    init_error = 0
    devices = 1
    multiprocessors = 8

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.device_memory: dict[int, bytearray] = {}
        self.pinned: dict[int, int] = {}
        self.streams: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self.stream_count = 0
        self.events = 0
        self.graphs: dict[int, dict[int, Lane]] = {}
        self.executables: dict[int, tuple[int, dict[int, Lane]]] = {}
        self.engines = 0
        self.contexts = 0
        self.launches = 0
        self.pageable_copies = 0
        self.waits = 0
        self.primary = 0
        self.dead = ""
        self.while_recording: Callable[[], None] = lambda: None
        self.eager_copies = False
        self.no_graphs = False
        self.free_bytes = self.memory_bytes
        self.faults: dict[str, Exception] = {}
        self._next = 0x7000_0000_0000
        self._stacks = threading.local()

    def left(self) -> dict[str, int]:
        """What has not been freed, by kind."""
        counts = {
            "device_memory": len(self.device_memory),
            "pinned": len(self.pinned),
            "streams": self.stream_count,
            "events": self.events,
            "graphs": len(self.graphs) + len(self.executables),
            "engines": self.engines,
            "contexts": self.contexts,
        }
        return {name: count for name, count in counts.items() if count}

    @property
    def stack(self) -> list[Any]:
        """The contexts of this thread, the current one last."""
        if not hasattr(self._stacks, "contexts"):
            self._stacks.contexts = []
        found: list[Any] = self._stacks.contexts
        return found

    def call(self, name: str, capturable: bool = True) -> None:
        """Every call begins here: a fault that was put in, a context that is dead or not there, a recording."""
        fault = self.faults.pop(name, None)
        if fault is not None:
            raise fault
        if not self.stack:
            raise LogicError(f"{name} failed: invalid device context")
        if self.dead:
            raise LogicError(f"{name} failed: {self.dead}")
        capture = self.capture_of_thread()
        if capture is not None and not capturable:
            capture.invalid = True
            raise LogicError(f"{name} failed: operation not permitted when stream is capturing")

    def kill(self, why: str) -> None:
        """An error after which the context is of no use."""
        self.dead = self.dead or why

    def address(self, size: int) -> int:
        """Room that nobody else has; device memory is aligned to 512 bytes."""
        found = self._next
        self._next += -(-size // _PAGE) * _PAGE + _PAGE
        return found

    def block(self, address: int, size: int) -> memoryview | None:
        """Device memory from an address on, or None where it is not all of one live allocation."""
        for start, memory in self.device_memory.items():
            if start <= address and address + size <= start + len(memory):
                return memoryview(memory)[address - start : address - start + size]
        return None

    def touch(self, address: int, size: int) -> memoryview | None:
        """As `block`, when a kernel or a copy reaches for it."""
        found = self.block(address, size)
        if found is None:
            self.kill("an illegal memory access was encountered")
        return found

    def capture_of_thread(self) -> Capture | None:
        """The recording that this thread makes, if any."""
        me = threading.get_ident()
        found = [s.capture for s in self.streams.values() if s.capture is not None and s.capture.thread == me]
        return found[0] if found else None

    def enqueue(self, stream: Any, step: Any) -> None:
        """Put something on a stream, or into the recording that it is part of."""
        if stream.capture is not None:
            stream.capture.lanes[stream.handle].todo.append(step)
            if stream.handle != stream.capture.origin and not isinstance(step, Mark):
                stream.capture.unjoined.add(stream.handle)
            return
        stream.lane.todo.append(step)

    def hurry(self, stream: Any) -> None:
        """Do a stream's work at once, where copies are early."""
        if self.eager_copies and stream.capture is None:
            stream.lane.run()

    def check_alive(self, name: str) -> None:
        """Tell of what went wrong since the last call that waited."""
        if self.dead:
            raise LogicError(f"{name} failed: {self.dead}")


GPU = Gpu()


def reset() -> Gpu:
    """Another machine, as new."""
    global GPU  # noqa: PLW0603 - the driver is one a process, and so is its stand-in
    GPU = Gpu()
    return GPU
