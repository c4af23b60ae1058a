"""What tests of publishing need: small bundles, disks that fail, and a board that goes by python-tuf's own client."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
from oracle import manifest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from edge_app.bundle import golden_bytes, pack
from edge_app.ota import catalogue as catalogues
from edge_app.ota.catalogue import Catalogue, Entry, bundle_target, catalogue_target
from edge_app.ota.disk import RealDisk

START = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)


def day(count: float) -> datetime:
    """So many days after the repository was made."""
    return START + timedelta(days=count)


def small_bundle(folder: Path, name: str = "small", version: str = "1.0.0", onnx: bytes = b"onnx") -> Path:
    """A bundle of a few hundred bytes; `onnx` makes its bytes others."""
    said = manifest().model_copy(update={"name": name, "version": version})
    answers = {output: np.ones(1, np.float32) for output in said.outputs}
    path = folder / f"{name}-{version}-{onnx.hex()}.parfocal"
    path.write_bytes(pack(said, onnx, golden_bytes(np.zeros((1, 224, 224, 3), np.uint8), answers)))
    return path


class FolderFetcher(FetcherInterface):
    """Fetches file: addresses."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            data = Path(unquote(urlparse(url).path)).read_bytes()
        except FileNotFoundError as error:
            raise DownloadHTTPError(url, 404) from error
        return iter([data])


class Board:
    """A client that remembers what it saw, in a folder of its own."""

    def __init__(self, repo: Path, root: bytes, folder: Path) -> None:
        self._repo, self._root, self._folder = repo, root, folder
        (folder / "metadata").mkdir(parents=True, exist_ok=True)
        (folder / "targets").mkdir(exist_ok=True)

    def catalogue(self, channel: str, at: datetime) -> Catalogue:
        """What a channel offers, verified."""
        updater = self._updater(at)
        return catalogues.read(self._fetched(updater, catalogue_target(channel)), channel)

    def bundle(self, channel: str, entry: Entry, at: datetime) -> bytes:
        """A bundle, verified."""
        return self._fetched(self._updater(at), bundle_target(channel, entry))

    def offered(self, channel: str, at: datetime) -> list[str]:
        """Labels of what a channel offers; every bundle is fetched."""
        entries = self.catalogue(channel, at).bundles
        assert all(self.bundle(channel, entry, at) for entry in entries)
        return [entry.label for entry in entries]

    def _updater(self, at: datetime) -> Updater:
        updater = Updater(
            str(self._folder / "metadata"),
            (self._repo / "metadata").as_uri(),
            str(self._folder / "targets"),
            (self._repo / "targets").as_uri(),
            FolderFetcher(),
            bootstrap=self._root,
        )
        updater._trusted_set.reference_time = at
        return updater

    @staticmethod
    def _fetched(updater: Updater, target: str) -> bytes:
        info = updater.get_targetinfo(target)
        assert info is not None
        return Path(updater.download_target(info)).read_bytes()


class Killed(BaseException):
    """The process ends here."""


class QuickDisk(RealDisk):
    """Never waits: a test that takes no power away need not."""

    def sync(self, path: Path) -> None:
        assert path.exists()

    def sync_folder(self, folder: Path) -> None:
        assert folder.is_dir()


class FailingDisk(RealDisk):
    """Does so many things that change a disk, then nothing any more; what was not synced may be lost by `cut`."""

    def __init__(self, things: int, full: bool = True) -> None:
        self.left = things
        self._full = full
        self._unsynced: set[Path] = set()
        self._new: list[Path] = []
        self._renamed: list[tuple[Path, Path, bytes | None]] = []

    def write(self, path: Path, data: bytes) -> None:
        self._count()
        if not path.exists():
            self._new.append(path)
        super().write(path, data)
        self._unsynced.add(path)

    def sync(self, path: Path) -> None:
        self._count()
        self._unsynced.discard(path)

    def rename(self, old: Path, new: Path) -> None:
        self._count()
        before = new.read_bytes() if new.exists() else None
        super().rename(old, new)
        self._renamed.append((old, new, before))
        self._new = [path for path in self._new if path != old]
        if old in self._unsynced:
            self._unsynced ^= {old, new}

    def sync_folder(self, folder: Path) -> None:
        self._count()
        self._new = [path for path in self._new if path.parent != folder]
        self._renamed = [of for of in self._renamed if of[1].parent != folder]

    def remove(self, path: Path) -> None:
        if self.left > 0 or not self._full:  # who is dead tidies nothing up; who is not, can
            self._count()
        super().remove(path)

    def cut(self, renames_kept: bool) -> None:
        """Take the power away: of what was not synced the renames are lost, or new files but the last."""
        for path in self._unsynced:
            if path.exists():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        if renames_kept:
            for path in self._new[:-1]:
                path.unlink(missing_ok=True)
            return
        for old, new, before in reversed(self._renamed):
            if new.exists():
                old.parent.mkdir(exist_ok=True)
                old.write_bytes(new.read_bytes())
                new.unlink() if before is None else new.write_bytes(before)

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device") if self._full else Killed
