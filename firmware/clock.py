"""Time as an argument: the system's clock, or one that a test turns by hand."""

from __future__ import annotations

import threading
import time
from typing import Protocol

# A sleeping thread wakes some 50 us late. One that always watched would be halted by Linux for 50 ms in every second,
# if it has real-time priority (sched_rt_runtime_us).
_WATCH_S = 50e-6


class Clock(Protocol):
    """What the board needs of time."""

    def now_s(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def sleep(self, duration_s: float) -> None:
        """Wait at least this long."""
        ...

    def wake_at(self, time_s: float) -> None:
        """Wait until a moment, as exactly as the machine can."""
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

    def wake_at(self, time_s: float) -> None:
        """Sleep until shortly before a moment, and watch the clock for the rest."""
        self.sleep(time_s - time.monotonic() - _WATCH_S)
        while time.monotonic() < time_s:
            pass


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

    def wake_at(self, time_s: float) -> None:
        """Turn the clock forward to a moment, unless it has passed."""
        self.sleep(time_s - self.now_s())
