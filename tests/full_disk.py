"""A disk that is full at one chosen step, python-tuf's own included, by the interpreter's audit of what is written."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_PLACES = {"os.rename": 1, "os.mkdir": 0, "os.symlink": 1, "os.link": 1}
"""Where the name that is made stands among an event's arguments."""


@dataclass
class FullDisk:
    """Counts the steps that take room below a folder; the `fails_at`-th and no other finds none."""

    folder: str
    fails_at: int
    steps: int = 0

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See one step of this process."""
        if event == "open":
            taken = arguments[0] if (arguments[2] or 0) & _WRITES else None
        else:
            taken = arguments[_PLACES[event]]
        if isinstance(taken, (str, os.PathLike)) and os.fspath(taken).startswith(self.folder):
            self.steps += 1
            if self.steps == self.fails_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


_armed: list[FullDisk] = []
_hooked: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _armed and (event == "open" or event in _PLACES):
        _armed[0].audit(event, arguments)


@contextmanager
def full_disk(folder: Path, fails_at: int) -> Iterator[FullDisk]:
    """Within, the `fails_at`-th step below a folder fails. The hook itself stays for the process's life."""
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    disk = FullDisk(str(folder), fails_at)
    _armed.append(disk)
    try:
        yield disk
    finally:
        _armed.remove(disk)
