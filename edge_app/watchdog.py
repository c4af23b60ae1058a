"""The watchdog: the hardware thread's word that it will be heard of again, and what happens when it breaks it.

The thread gives its word before every step that may take long, with an allowance that fits the step, and at every idle
tick. Only while the word holds, and the event loop turns, is the supervisor told that all is well.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable

from edge_app.supervisor import Supervisor

Now = Callable[[], float]
_LOOK_S = 1.0


class Lease:
    """A thread's word: "I will be heard of again within X s". Nobody's word always holds."""

    def __init__(self, now_s: Now = time.monotonic) -> None:
        self._now_s = now_s
        self._until_s = math.inf
        self._given_s = 0.0
        self._thread = 0

    def expect(self, within_s: float) -> None:
        """Give the calling thread's word; it replaces the one before."""
        self._thread = threading.get_ident()
        self._given_s = within_s
        self._until_s = self._now_s() + within_s

    def rest(self) -> None:
        """Take the word back: nobody works."""
        self._until_s = math.inf

    @property
    def holds(self) -> bool:
        """Whether the word has not been broken."""
        return self._now_s() <= self._until_s

    @property
    def given_s(self) -> float:
        """How long the last step was to take at most."""
        return self._given_s

    def stack(self) -> str:
        """Where the thread that gave its word is now."""
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001 - the documented way to another thread's stack
        return "".join(traceback.format_stack(frame)) if frame is not None else "the thread has ended"


class Watchdog:
    """Feeds the supervisor from the event loop while a lease holds; once it is broken, never again."""

    def __init__(self, lease: Lease, supervisor: Supervisor, on_expiry: Callable[[str], None]) -> None:
        self._lease = lease
        self._supervisor = supervisor
        self._on_expiry = on_expiry
        self.expired = False

    def look(self) -> None:
        """Feed, or notice that the lease ran out."""
        if self.expired:
            return
        if self._lease.holds:
            self._supervisor.feed()
            return
        self.expired = True
        self._on_expiry(
            f"the hardware thread was not heard of within the {self._lease.given_s:.1f} s that its step may take; the "
            "axis was told to stop; restart the service, and report the stack in its log"
        )

    async def watch(self) -> None:
        """Look for as long as the event loop turns: at least once a second, thrice as often as must be fed."""
        while True:
            self.look()
            await asyncio.sleep(min(_LOOK_S, self._supervisor.feed_every_s))
