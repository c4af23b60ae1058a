"""Progress of a build: TensorRT's phases as one number, and the way to end it early."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from edge_app.errors import RuntimeFailed

Progress = Callable[[float], bool]
"""Told the finished part, 0 to 1, never less than before; returns False to end the build."""


class Phases:
    """TensorRT's phases, one within another, as one number; its threads report at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, tuple[str | None, int, int]] = {}
        self._most = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins within another, or on its own."""
        with self._lock:
            self._open[name] = (parent, max(1, steps), 0)

    def step(self, name: str, index: int) -> float:
        """A phase has done its step of this index, from 0; gives the finished part of the whole."""
        with self._lock:
            if name in self._open:
                parent, steps, _ = self._open[name]
                self._open[name] = (parent, steps, min(index + 1, steps))
            self._most = max(self._most, self._part(name))
            return self._most

    def finish(self, name: str) -> None:
        """A phase has ended."""
        with self._lock:
            self._open.pop(name, None)

    def _part(self, name: str) -> float:
        part, at = 0.0, self._open.get(name)
        while at is not None:
            parent, steps, done = at
            part = min(1.0, (done + part) / steps)
            at = self._open.get(parent) if parent is not None else None
        return part


def monitor(trt: Any, progress: Progress) -> Any:
    """An IProgressMonitor that tells `progress`; `told()` raises what that raised, or that it ended the build.

    An exception must not pass through TensorRT, which would end the process.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases = Phases()
            self._fault: BaseException | None = None
            self._ended = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases.start(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            self._phases.finish(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                self._ended = self._ended or not progress(self._phases.step(phase_name, step))
            except BaseException as error:  # noqa: BLE001 - see above
                self._fault, self._ended = error, True
            return not self._ended

        def told(self) -> None:
            if self._fault is not None:
                raise self._fault
            if self._ended:
                raise RuntimeFailed("the build of the TensorRT engine was stopped")

    return Monitor()
