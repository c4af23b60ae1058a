"""Time as an argument: the system's clock, or one that a test turns by hand."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """What the board needs of time."""

    def now_s(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def sleep(self, duration_s: float) -> None:
        """Wait at least this long."""
        ...


class SystemClock:
    """The machine's monotonic clock."""

    def now_s(self) -> float:
        """Seconds since some fixed moment of this boot."""
        return time.monotonic()

    def sleep(self, duration_s: float) -> None:
        """Wait at least this long."""
        if duration_s > 0:
            time.sleep(duration_s)


class ManualClock:
    """A clock that stands still until somebody sleeps; simulated minutes cost no real ones."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s
        self._lock = threading.Lock()

    def now_s(self) -> float:
        """The time that all sleeps so far add up to."""
        with self._lock:
            return self._now_s

    def sleep(self, duration_s: float) -> None:
        """Turn the clock forward."""
        if duration_s > 0:
            with self._lock:
                self._now_s += duration_s
