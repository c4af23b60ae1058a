"""How often one client may ask for motion: a token bucket for each, with the clock as an argument."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from edge_app.errors import TooOften

BURST = 100
"""Calls that a client may make at once after a rest."""
RATE_PER_S = 20.0
"""Calls that it may make for as long as it likes: a stage needs some 20 ms for its smallest move."""
_MOST_CLIENTS = 1024


@dataclass
class _Bucket:
    left: float
    at_s: float


class Pace:
    """Counts what each client asks for. Not thread-safe: it belongs to the event loop."""

    def __init__(
        self, burst: int = BURST, rate_per_s: float = RATE_PER_S, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst, self._rate_per_s, self._now_s = burst, rate_per_s, now_s
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def allows(self, name: str) -> bool:
        """Count one call of a client, unless it has asked faster than it may."""
        now_s = self._now_s()
        bucket = self._buckets.setdefault(name, _Bucket(float(self._burst), now_s))
        self._buckets.move_to_end(name)
        while len(self._buckets) > _MOST_CLIENTS:
            self._buckets.popitem(last=False)
        bucket.left = min(float(self._burst), bucket.left + (now_s - bucket.at_s) * self._rate_per_s)
        bucket.at_s = now_s
        if bucket.left < 1.0:
            return False
        bucket.left -= 1.0
        return True

    def spend(self, name: str) -> None:
        """Count one call of a client that asks for motion.

        Raises:
            TooOften: It has asked faster than it may; the call is not counted.
        """
        if not self.allows(name):
            raise TooOften(
                f"{name} asked for motion more than {self._rate_per_s:g} times a second; nothing was moved; "
                "wait for a second, then ask again"
            )
