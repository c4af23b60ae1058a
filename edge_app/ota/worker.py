"""Worker: the process in which a service has an update staged, so that its looks and its memory do not suffer.

It reads {"name", "settings"} from its input and writes a line of JSON for each step, {"done", "total", "step"}. The
last line is {"status": where it ended}, or {"error": {"kind", "message"}}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from edge_app import journal
from edge_app.config import Settings
from edge_app.errors import AppError
from edge_app.ota.means import updates_of
from firmware.errors import FirmwareError

_EVERY_S = 0.2
_NICE = 19


def main() -> int:
    """Stage one update; 0 if it came to an end, whatever that was. SIGTERM ends it as Ctrl-C does."""
    os.nice(_NICE)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # What a runtime prints must not be taken for what is told.
    sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    journal.configure()
    asked = json.loads(sys.stdin.read())
    settings = Settings.model_construct(**Settings.model_validate(asked["settings"]).model_dump())
    try:
        status = updates_of(settings).stage(asked["name"], _Teller())
    except (AppError, FirmwareError, OSError) as error:
        _tell({"error": {"kind": type(error).__name__, "message": str(error)}})
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    _tell({"status": status.as_json()})
    return 0


class _Teller:
    """Tells a step when it begins, and how it goes on not too often."""

    def __init__(self) -> None:
        self._step = ""
        self._told_s = 0.0

    def __call__(self, done: int, total: int, step: str) -> None:
        now_s = time.monotonic()
        if step == self._step and now_s - self._told_s < _EVERY_S:
            return
        self._step, self._told_s = step, now_s
        _tell({"done": done, "total": total, "step": step})


def _tell(said: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
