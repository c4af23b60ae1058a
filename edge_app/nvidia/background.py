"""Build: one engine that is being built by a process of its own, at most one a key in this process."""

from __future__ import annotations

import atexit
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_app.nvidia.build import write_order
from edge_app.nvidia.order import Order

COMMAND: tuple[str, ...] = (sys.executable, "-m", "edge_app.nvidia.build")
"""What is started; it is given PLAN_FD and FOLDER, and "anew" where a kept engine does not do."""

_TAIL_CHARS = 300
_log = logging.getLogger(__name__)


class Build:
    """A process that builds; `progress` is 0 to 1, `error` a sentence once it has failed, `plan` what it built."""

    def __init__(self, order: Order, folder: Path, anew: bool = False) -> None:
        self.progress = 0.0
        self.error = ""
        self.plan = b""
        self._order = order
        self._ended = False
        self._waiting: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._plan_file = os.memfd_create("parfocal-plan", os.MFD_CLOEXEC)
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [*COMMAND, str(self._plan_file), str(folder), *(["anew"] if anew else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(self._plan_file,),
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._follow, name=f"parfocal-engine-{order.key[:8]}", daemon=True)
        self._thread.start()

    def then(self, call: Callable[[], None]) -> None:
        """Call this once it has ended, well or not, on a thread of its own; at once if it has."""
        with self._lock:
            if not self._ended:
                self._waiting.append(call)
                return
        call()

    def stop(self) -> None:
        """Kill the process and wait for the thread."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._thread.join()

    def _follow(self) -> None:
        last = ""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):  # it may have ended already, which its exit code tells
            write_order(self._order, self._process.stdin)
        for line in self._process.stdout:
            text = line.decode(errors="replace").strip()
            event = _event(text)
            if event is None:
                last = text or last
                _log.debug("building %s: %s", self._order.label, text)
            else:
                self._take(event)
        self._end(self._process.wait(), last)

    def _take(self, event: dict[str, Any]) -> None:
        self.progress = float(event.get("progress", self.progress))
        self.error = str(event.get("failed", self.error))
        if "built" in event:
            self.progress = 1.0
            took_s, where = float(event["built"]["build_s"]), str(event["built"]["kept_in"])
            kept = f"kept in {where}" if where else "not kept: it will be built again at the next start"
            _log.info("the TensorRT engine of %s is built in %.0f s, %s", self._order.label, took_s, kept)

    def _end(self, code: int, last: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()
        with os.fdopen(self._plan_file, "rb") as file:
            file.seek(0)
            self.plan = file.read() if code == 0 else b""
        if code != 0 and not self.error:
            how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
            self.error = f"the process that built the engine of {self._order.label} {how}: {last[-_TAIL_CHARS:]}"
        if self.error:
            _log.warning("no TensorRT engine for %s: %s", self._order.label, self.error)
        with self._lock:
            self._ended, waiting = True, self._waiting
            self._waiting = []
        for call in waiting:
            call()


_builds: dict[str, Build] = {}
_guard = threading.Lock()


def build(order: Order, folder: Path, anew: bool = False) -> Build:
    """The build of this key: the one that runs or has run in this process, or a new one."""
    with _guard:
        if order.key not in _builds:
            _builds[order.key] = Build(order, folder, anew)
            _log.info("the TensorRT engine of %s is being built in the background", order.label)
        return _builds[order.key]


def stop_all() -> None:
    """Kill every build and forget them; also done when this process ends."""
    with _guard:
        builds = list(_builds.values())
        _builds.clear()
    for each in builds:
        each.stop()


atexit.register(stop_all)


def _event(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
