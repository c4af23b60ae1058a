"""Graph: work on a CUDA stream, recorded once and launched as a whole; pycuda has no calls for it, the driver has."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from edge_app.nvidia import driver

_THREAD_LOCAL = 1
"""Only this thread is kept from calls that would break the recording; others may go on."""


class GraphError(Exception):
    """The driver refused to record or to launch."""


class Graph:
    """A recorded piece of work. Its context must be current for `launch` and `close`."""

    def __init__(self, library: Any, executable: ctypes.c_void_p) -> None:
        self._library = library
        self._executable: ctypes.c_void_p | None = executable

    def launch(self, stream: int) -> None:
        """Put the work on a stream.

        Raises:
            GraphError: The driver refused.
        """
        _call(self._library, "cuGraphLaunch", self._executable, ctypes.c_void_p(stream))

    def close(self) -> None:
        """Free it; once."""
        executable, self._executable = self._executable, None
        if executable is not None:
            _call(self._library, "cuGraphExecDestroy", executable)


def record(stream: int, enqueue: Callable[[], None]) -> Graph:
    """Record what `enqueue` puts on a stream, and on streams that wait for its events; nothing of it runs.

    Raises:
        GraphError: The driver refused, or something that cannot be recorded was asked for.
        Exception: What `enqueue` raises; the stream records no longer.
    """
    library = driver.open_library(driver.LIBRARY)
    graph, executable, handle = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p(stream)
    _call(library, "cuStreamBeginCapture_v2", handle, _THREAD_LOCAL)
    try:
        enqueue()
    except BaseException:
        with suppress(GraphError):
            _call(library, "cuStreamEndCapture", handle, ctypes.byref(graph))
            if graph.value:
                _call(library, "cuGraphDestroy", graph)
        raise
    _call(library, "cuStreamEndCapture", handle, ctypes.byref(graph))
    try:
        _call(library, "cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
    finally:
        _call(library, "cuGraphDestroy", graph)
    return Graph(library, executable)


def _call(library: Any, name: str, *arguments: Any) -> None:
    try:
        code = int(getattr(library, name)(*arguments))
    except AttributeError as error:
        raise GraphError(f"the driver has no {name}") from error
    if code != 0:
        raise GraphError(f"{name}: {driver.explain(library, code)}")
