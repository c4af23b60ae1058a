"""The line: who waits for a look and what each wants to know; all who want the same get one answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from edge_app.answer import DEFOCUS
from edge_app.errors import Busy
from edge_app.job import Look
from edge_app.patches import RegionOfInterest

MAX_WAITING = 64


@dataclass
class Asked:
    """Somebody's wish: which part of the frame, the model of which task ("" for none), and where the look goes."""

    roi: RegionOfInterest | None
    task: str = DEFOCUS
    result: Future[Look] = field(default_factory=Future)


class Line:
    """First come, first served; guarded by the condition of whoever owns it. Those who withdrew are left out."""

    def __init__(self, wake: threading.Condition) -> None:
        self._wake = wake
        self._asked: list[Asked] = []

    def __len__(self) -> int:
        return len(self._asked)

    def __getitem__(self, place: int) -> Asked:
        return self._asked[place]

    def join(self, roi: RegionOfInterest | None, task: str) -> Asked:
        """Stand at the end.

        Raises:
            Busy: Too many are waiting already.
        """
        with self._wake:
            self._asked = [asked for asked in self._asked if not asked.result.cancelled()]
            if len(self._asked) >= MAX_WAITING:
                raise Busy(f"{MAX_WAITING} measurements are waiting already; ask less often")
            asked = Asked(roi, task)
            self._asked.append(asked)
            self._wake.notify()
            return asked

    def first(self) -> Asked | None:
        """Whose turn it is; None if all withdrew."""
        with self._wake:
            self._asked = [asked for asked in self._asked if not asked.result.cancelled()]
            return self._asked[0] if self._asked else None

    def those(self, wanted: Callable[[Asked], bool]) -> list[Asked]:
        """Who wants this."""
        with self._wake:
            return [asked for asked in self._asked if wanted(asked)]

    def answer(self, wanted: Callable[[Asked], bool], look: Look) -> None:
        """Give a look to all who want it."""
        for asked in self._take(wanted):
            asked.result.set_result(look)

    def refuse(self, wanted: Callable[[Asked], bool], error: BaseException) -> None:
        """Tell all who want this why there is no look."""
        for asked in self._take(wanted):
            asked.result.set_exception(error)

    def _take(self, wanted: Callable[[Asked], bool]) -> list[Asked]:
        with self._wake:
            taken = [asked for asked in self._asked if wanted(asked)]
            self._asked = [asked for asked in self._asked if not wanted(asked)]
        return [asked for asked in taken if asked.result.set_running_or_notify_cancel()]
