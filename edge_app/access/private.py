"""Files that only their owner may read, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from edge_app.errors import TrustUnusable

SECRET, PUBLIC = 0o600, 0o644
_OTHERS = 0o077
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


def _sync(folder: Path) -> None:
    """Have a name that was changed outlast a loss of power: somebody who was revoked must stay so."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
