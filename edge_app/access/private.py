"""Files that only their owner may read, written whole or not at all, by one at a time."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_app.errors import TrustUnusable

SECRET, PUBLIC = 0o600, 0o644
LOCK = ".lock"
LOCK_S = 10.0
"""How long one change of a folder waits for another."""
_OTHERS = 0o077
_LOOK_S = 0.1
Owner = tuple[int, int]
"""User and group, by number."""


def put(path: Path, data: bytes, mode: int, owner: Owner | None = None) -> None:
    """Write a file beside its place, then put it there in one step; what was there before stays if that fails.

    Raises:
        TrustUnusable: The folder or the disk does not take it.
    """
    try:
        # mkstemp makes it for the owner alone: a key is never readable by others, not even while it is written.
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(number, "wb") as file:
                file.write(data)
                if owner is not None:
                    os.fchown(number, *owner)
                os.fchmod(number, mode)
                file.flush()
                os.fsync(number)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as error:
        raise TrustUnusable(
            f"cannot write {path}: {error.strerror or error}; run it as the one whom the folder belongs to (sudo), "
            "or make room"
        ) from error


def secret(path: Path) -> bytes:
    """A file that nobody but its owner may read.

    Raises:
        TrustUnusable: It is missing, or others may read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if mode & _OTHERS:
                raise TrustUnusable(
                    f"others may read the key {path} (mode {mode:04o}); if nobody did, chmod 600 {path}; "
                    "else make new keys"
                )
            return file.read()
    except OSError as error:
        raise TrustUnusable(f"cannot read {path}: {error.strerror or error}") from error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only one that changes a folder.

    The lock is on a file that the folder's owner alone can open: who may only read the folder cannot hold it.

    Raises:
        TrustUnusable: The file cannot be opened, or another has held it for LOCK_S.
    """
    lock = folder / LOCK
    try:
        number = _opened(lock)
    except OSError as error:
        raise TrustUnusable(
            f"cannot open {lock}: {error.strerror or error}; make the board's keys with `parfocal trust init`, "
            "and use sudo where they are the service's"
        ) from error
    try:
        _hold(number, lock)
        yield
    finally:
        os.close(number)


def sweep(path: Path) -> None:
    """Remove what writes of this file left beside it that were killed; only for who is alone in the folder."""
    for left in path.parent.glob(f".{path.name}.{'[a-z0-9_]' * 8}"):  # the names that mkstemp gives
        with suppress(OSError):
            left.unlink()


def _opened(lock: Path) -> int:
    try:
        number = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL, SECRET)
    except FileExistsError:
        return os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    if os.geteuid() == 0:  # root in somebody's own folder: they must not be locked out of it
        os.fchown(number, lock.parent.stat().st_uid, -1)
    return number


def _hold(number: int, lock: Path) -> None:
    until_s = time.monotonic() + LOCK_S
    while not _taken(number, lock):
        if time.monotonic() >= until_s:
            raise TrustUnusable(
                f"another program has held {lock} for {LOCK_S:g} s, so nothing was changed; try again, and should it "
                f"go on, end the program that `fuser {lock}` names"
            )
        time.sleep(_LOOK_S)


def _taken(number: int, lock: Path) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise TrustUnusable(f"cannot lock {lock}: {error.strerror or error}; keep the keys on a local disk") from error
    return True


def _sync(folder: Path) -> None:
    """Have a name that was changed outlast a loss of power: somebody who was revoked must stay so."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
