"""Disk: the few things that the depot asks of a file system, so that a test can take its power away between any two.

What was written is sure to be there after a power cut only once it was synced, and a name only once its folder was.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class Disk(Protocol):
    """A file system; every method raises OSError."""

    def read(self, path: Path) -> bytes:
        """What a file holds."""
        ...

    def write(self, path: Path, data: bytes) -> None:
        """Make or replace a file, without waiting for the disk."""
        ...

    def sync(self, path: Path) -> None:
        """Wait until what a file holds is on the disk."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name in one step, in place of what had it."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Wait until the names in a folder are on the disk."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        ...

    def names(self, folder: Path) -> list[str]:
        """The files in a folder, which is made, and sure to be there, if it is missing."""
        ...

    def free_bytes(self, folder: Path) -> int:
        """How much room there is."""
        ...


class RealDisk:
    """The machine's own."""

    def read(self, path: Path) -> bytes:
        """What a file holds."""
        return path.read_bytes()

    def write(self, path: Path, data: bytes) -> None:
        """Make or replace a file."""
        path.write_bytes(data)

    def sync(self, path: Path) -> None:
        """Wait for a file."""
        _sync(path)

    def rename(self, old: Path, new: Path) -> None:
        """Give another name."""
        old.replace(new)

    def sync_folder(self, folder: Path) -> None:
        """Wait for a folder."""
        _sync(folder)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink(missing_ok=True)

    def names(self, folder: Path) -> list[str]:
        """The files in a folder."""
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _sync(folder.parent)
        return sorted(path.name for path in folder.iterdir() if path.is_file())

    def free_bytes(self, folder: Path) -> int:
        """How much room a user has."""
        found = os.statvfs(folder)
        return found.f_bavail * found.f_frsize


def put(disk: Disk, path: Path, data: bytes) -> None:
    """Have a file hold this, whole or not at all, and return when that is on the disk.

    Raises:
        OSError: The disk does not take it; what was there before still is, or, where only the folder could not be
            synced, may be there again after a loss of power.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        disk.write(beside, data)
        disk.sync(beside)
        disk.rename(beside, path)
    except BaseException:
        disk.remove(beside)
        raise
    disk.sync_folder(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
