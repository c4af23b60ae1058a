"""Ledger: what survives a power-off of where an axis is; a record that could be wrong is worth nothing.

One small file of a fixed size, overwritten in place, so that a full disk cannot stop it. Before the first pulse of a
move it says "under way" and is on the disk; only when the axis rests again does it name a position. A torn, foreign
or unfinished record means that the position is unknown.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from firmware.errors import AxisError, DiskFull

_SIZE = 512
_VERSION = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rest:
    """An axis at rest: where it is and how much play is left, in motor steps; `trusted` names how it knows."""

    steps: int
    play: int
    trusted: str


class Disk(Protocol):
    """Where the record lies."""

    def read(self) -> bytes:
        """What is there; b"" if nothing is."""
        ...

    def write(self, record: bytes) -> None:
        """Replace it, and return when it is on the disk."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class File:
    """A file of one record, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._file).st_size < _SIZE:
                os.posix_fallocate(self._file, 0, _SIZE)
                _sync_folder(path.parent)
        except BlockingIOError as error:
            os.close(self._file)
            raise AxisError(f"another parfocal moves this axis (it holds {path}); stop it first") from error
        except OSError as error:
            os.close(self._file)
            if new:
                path.unlink(missing_ok=True)
            if error.errno == errno.ENOSPC:
                raise DiskFull(f"the disk of {path} is full: free {_SIZE} bytes to have positions recorded") from error
            raise _unwritable(path, error) from error

    def read(self) -> bytes:
        """The record; b"" if there is none."""
        return os.pread(self._file, _SIZE, 0)

    def write(self, record: bytes) -> None:
        """Overwrite it, and return when it is on the disk."""
        try:
            os.pwrite(self._file, record, 0)
            os.fdatasync(self._file)
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def close(self) -> None:
        """Let another process have it; safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def open_ledger(path: Path) -> Ledger | None:
    """The ledger in a file; None, with a warning in the log, where the disk is too full to begin one.

    Raises:
        AxisError: Another process moves this axis, or the file cannot be written.
    """
    try:
        return Ledger(File(path))
    except DiskFull as error:
        _log.warning("%s; until then the axis has to be homed after every start", error)
        return None


class Ledger:
    """The record of one axis; `axis` names the mechanics whose steps are counted, and another's are not believed."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._under_way = False

    def last(self, axis: str) -> Rest | None:
        """Where the axis came to rest last; None if that is not known."""
        line, _, _ = self._disk.read().partition(b"\n")
        sum_, _, text = line.partition(b" ")
        if not text or sum_ != b"%08x" % zlib.crc32(text):
            return None
        found = json.loads(text)
        if (found.pop("version"), found.pop("axis")) != (_VERSION, axis) or "steps" not in found:
            return None
        return Rest(**found)

    def under_way(self) -> None:
        """Note that the axis is about to move.

        Raises:
            AxisError: That cannot be noted, so that the old record would lie: nothing may move.
        """
        if not self._under_way:
            self._write({"axis": ""})
            self._under_way = True

    def at_rest(self, axis: str, rest: Rest) -> None:
        """Note where the axis rests. Raises as `under_way`."""
        # Whatever becomes of the write, what lies on the disk may no longer say "under way".
        self._under_way = False
        self._write({"axis": axis, **asdict(rest)})

    def close(self) -> None:
        """Let go of the record; safe to call twice."""
        self._disk.close()

    def _write(self, fields: dict[str, object]) -> None:
        text = json.dumps({"version": _VERSION, **fields}).encode()
        record = b"%08x %s\n" % (zlib.crc32(text), text)
        assert len(record) <= _SIZE
        self._disk.write(record.ljust(_SIZE, b" "))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritable(path: Path, error: OSError) -> AxisError:
    why = error.strerror or str(error)
    if error.errno in (errno.ENOLCK, errno.ENOTSUP):
        return AxisError(
            f"{path} lies where files cannot be locked ({why}); choose a folder on a local disk with --state"
        )
    return AxisError(
        f"the axis's position cannot be recorded in {path} ({why}), so a restart would not know that it moved; "
        "mend the disk, free some space, or correct the folder's owner; nothing moved"
    )
