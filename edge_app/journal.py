"""The journal: one line per event on stderr, `event key=value ...`, with units in the keys.

Whoever logs through the standard library (firmware, gRPC) ends in the same lines. Where nobody called `configure`, as
in the one-shot verbs, which say themselves what came of them, events are dropped.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any, TextIO

import structlog
from structlog.processors import LogfmtRenderer
from structlog.typing import EventDict

_FIELDS = "fields"
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7
_render = LogfmtRenderer(bool_as_flag=False)


def log_of(name: str) -> Any:
    """The log of a module: `log.info("job ended", took_s=1.2)`."""
    logger = logging.getLogger(name)
    # Else the library's handler of last resort would print an event without its values.
    logger.addHandler(logging.NullHandler())
    return structlog.wrap_logger(
        logger,
        processors=[structlog.stdlib.filter_by_level, structlog.contextvars.merge_contextvars, _as_record],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def configure(stream: TextIO | None = None, environment: Mapping[str, str] = os.environ) -> logging.Handler:
    """Send everything that is logged in this process to a stream (stderr), one line per event.

    Lines that go to systemd's journal begin with their priority, as it reads it, and have no time, as it has its own.

    Returns:
        The handler, for whoever wants to take it off the root logger again.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Line(goes_to_journal(stream, environment)))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if environment.get("PARFOCAL_DEBUG") == "1" else logging.INFO)
    # What these say of their own doings is no event of the board.
    for name in ("asyncio", "matplotlib", "grpc"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    return handler


def goes_to_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether a stream is the one that systemd connected to its journal: the same device and inode."""
    with suppress(OSError, ValueError):
        found = os.fstat(stream.fileno())
        return environment.get("JOURNAL_STREAM", "") == f"{found.st_dev}:{found.st_ino}"
    return False


class Line(logging.Formatter):
    """One record as one line; a traceback becomes one field, its line ends escaped."""

    def __init__(self, in_journal: bool) -> None:
        super().__init__()
        self._in_journal = in_journal

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields = dict(getattr(record, _FIELDS, {}))
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        words = " ".join(record.getMessage().split())
        text = f"{words} {_render(None, '', fields)}".rstrip()
        if self._in_journal:
            return f"<{_priority(record.levelno)}>{text}"
        at = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        return f"{at} {record.levelname.lower()} {text}"


def _as_record(_logger: Any, _method: str, event: EventDict) -> tuple[tuple[str], dict[str, Any]]:
    """A structlog event as a record of the standard library, its values under one key, so that none collides."""
    said, exc_info = str(event.pop("event")), event.pop("exc_info", None)
    fields = {key: _plain(value) for key, value in event.items() if value not in ("", None)}
    return (said,), {"exc_info": exc_info, "extra": {_FIELDS: fields}}


def _plain(value: Any) -> Any:
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), _DEBUG_PRIORITY)
