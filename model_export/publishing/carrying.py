"""Carrying a repository: to a stick or a server's folder, and what no board may ask for any more out of one."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from edge_app.ota.disk import Disk, put
from model_export.errors import PublishError
from model_export.publishing.edition import Edition
from model_export.publishing.staging import ROOT_SUFFIX


def copy(repo: Path, edition: Edition, into: Path, disk: Disk) -> int:
    """Copy the current files, each whole and synced, in an order in which the copy is good at every moment.

    Returns:
        How many were not there yet.

    Raises:
        PublishError: A file is missing or not what was signed, or the place does not take it.
    """
    hashes = _hashes(edition)
    count = 0
    for name in edition.current_files():
        try:
            data = (repo / name).read_bytes()
        except OSError as error:
            raise PublishError(f"cannot read {repo / name}: {error.strerror}; restore it from a copy") from error
        if name in hashes and hashlib.sha256(data).hexdigest() != hashes[name]:
            raise PublishError(f"{repo / name} is not what was signed; restore it from a copy, or withdraw it")
        try:
            count += _put_new(into / name, data, disk)
        except OSError as error:
            raise PublishError(
                f"cannot write {into / name}: {error.strerror}; what was there before still serves; make room, "
                "or see who may write there, then copy again"
            ) from error
    return count


def prune(repo: Path, edition: Edition, disk: Disk) -> tuple[int, int]:
    """Remove what no current metadata names; roots stay.

    Returns:
        How many files, and their size in bytes.

    Raises:
        PublishError: A file cannot be removed.
    """
    named = {repo / name for name in edition.current_files()}
    found = [*(repo / "metadata").glob("*.json"), *(repo / "targets").glob("*/*")]
    old = [path for path in found if path not in named and not path.name.endswith(ROOT_SUFFIX)]
    size_bytes = sum(path.stat().st_size for path in old)
    try:
        for path in old:
            disk.remove(path)
    except OSError as error:
        raise PublishError(
            f"cannot remove old files from {repo}: {error.strerror}; nothing that boards need is gone"
        ) from error
    return len(old), size_bytes


def _hashes(edition: Edition) -> dict[str, str]:
    """SHA-256 of the files of targets, by name relative to the repository."""
    return {
        f"targets/{target.get_prefixed_paths()[0]}": target.hashes["sha256"]
        for of in edition.channels.values()
        for target in of.signed.targets.values()
    }


def _put_new(path: Path, data: bytes, disk: Disk) -> bool:
    with suppress(FileNotFoundError):
        if path.read_bytes() == data:
            return False
    path.parent.mkdir(parents=True, exist_ok=True)
    put(disk, path, data)
    return True
