"""The supervisor: what systemd is told of the service's state; nothing where no systemd listens."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

_ASK_FOR_S = 30
_SHARE = 3


class Supervisor:
    """Tells systemd what it wants to know of a service of Type=notify. Close it, so that no socket is left.

    A sentence is told once; states are told as systemd names them.
    """

    def __init__(
        self, environment: Mapping[str, str] = os.environ, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._notifier = _notifier(environment)
        self._now_s = now_s
        self._status = ""
        self._answers = self._stopping = False
        self._fed_s = -math.inf
        watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        interval_us = environment.get("WATCHDOG_USEC", "") if watched else ""
        self._watchdog_s = int(interval_us) / 1e6 if interval_us.isdigit() and int(interval_us) else math.inf

    @property
    def watches(self) -> bool:
        """Whether who is no longer fed ends this process and starts another."""
        return math.isfinite(self._watchdog_s)

    @property
    def feed_every_s(self) -> float:
        """A third of what the watchdog waits; infinite where there is none."""
        return self._watchdog_s / _SHARE

    def ready(self) -> None:
        """It answers from now on, be it only to say why it cannot do more."""
        if not self._answers:
            self._answers = True
            self._tell("READY=1")

    def status(self, sentence: str) -> None:
        """What `systemctl status` shows."""
        line = " ".join(sentence.split())
        if line != self._status:
            self._status = line
            self._tell(f"STATUS={line}")

    def stopping(self) -> None:
        """It ends."""
        self._stopping = True
        self._tell("STOPPING=1")

    def feed(self) -> None:
        """All is well: feed the watchdog when it is time, and while starting or ending ask for more time instead."""
        now_s = self._now_s()
        starting = not self._answers or self._stopping
        if now_s - self._fed_s < (_ASK_FOR_S / _SHARE if starting else 0.9 * self.feed_every_s):
            return
        self._fed_s = now_s
        if starting:
            self._tell(f"EXTEND_TIMEOUT_USEC={_ASK_FOR_S * 1_000_000}")
        if self.watches:
            self._tell("WATCHDOG=1")

    def close(self) -> None:
        """Let go of the socket; safe to call twice."""
        notifier, self._notifier = self._notifier, None
        if notifier is not None and notifier.socket is not None:
            notifier.socket.close()

    def _tell(self, state: str) -> None:
        if self._notifier is not None:
            # sdnotify writes Latin-1, systemd reads UTF-8.
            self._notifier.notify(state.encode().decode("latin-1"))


def _notifier(environment: Mapping[str, str]) -> Any:
    if not environment.get("NOTIFY_SOCKET"):
        return None
    import sdnotify

    return sdnotify.SystemdNotifier()
