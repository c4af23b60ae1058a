"""BoundedFetcher: gets files from a source within bounds of bytes and time, and goes on where it was cut off."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from tuf.api.exceptions import DownloadHTTPError, LengthOrHashMismatchError
from tuf.ngclient.fetcher import FetcherInterface

from edge_app.errors import BadSettings, RepositoryUnreachable, RepositoryUntrusted
from edge_app.ota.source import Barred, Cut, Folder, NotThere, Source
from edge_app.ota.web import Web
from firmware.clock import Clock, SystemClock

GRACE_S = 30.0
SLOWEST_BYTES_S = 4096
"""Below this on average a server is given up, after the first `GRACE_S`: 64 MB then take 4.4 hours at most."""
TRIES = 4
"""In a row without a single byte."""
_PART = ".part"
_LOGIN = re.compile(r"(?!/[^/]).*:.*@")
"""A user and a password where a path would begin: a URL that was misspelt."""


def nothing(received_bytes: int, size_bytes: int) -> None:
    """Tell nobody of progress."""


def source_of(update_from: str) -> Source:
    """The source that the setting `update_from` names: a URL, or a folder.

    Raises:
        BadSettings: It is neither.
    """
    try:
        parts = urlsplit(update_from)
        _ = parts.port
    except ValueError:
        # The error's own words, and the error itself, hold parts of a password.
        raise BadSettings(f"update_from = {_shown(update_from)!r} is no URL; mend it") from None
    if parts.scheme in {"http", "https"} and parts.hostname and not parts.query and not parts.fragment:
        return Web(update_from)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        return Folder(Path(unquote(parts.path)))
    if (
        not update_from
        or "://" in update_from
        or parts.scheme in {"http", "https", "file"}
        or _LOGIN.match(update_from)
    ):
        raise BadSettings(
            f"update_from = {_shown(update_from)!r} is neither a folder nor a URL such as https://example.org/models; "
            "mend it"
        )
    return Folder(Path(update_from))


def _shown(update_from: str) -> str:
    """What messages show of a setting that cannot be taken apart: all of it only where no password can be in it."""
    if not any(mark in update_from for mark in "@?#"):
        return update_from
    scheme, mark, _ = update_from.partition("://")
    return f"{scheme}{mark}***" if mark and scheme.isalnum() else "***"


class BoundedFetcher(FetcherInterface):
    """Gets files for python-tuf, whose URLs are paths in the repository here.

    What was fetched of a target stays in the folder `parts` when the connection is cut or the process ends, and the
    next fetch goes on from there. Nothing stays of what is too long, is not what was signed, or did not fit the disk.
    """

    def __init__(self, source: Source, parts: Path, clock: Clock | None = None) -> None:
        self._source, self._parts = source, parts
        self._clock = clock or SystemClock()
        self.progress: Callable[[int, int], None] = nothing
        """Told of targets: bytes received, and all; what it raises ends the fetch."""

    def part_of(self, url: str) -> Path:
        """Where the fetched part of a target is kept."""
        return self._parts / f"{hashlib.sha256(url.encode()).hexdigest()}{_PART}"

    def keep_only(self, url: str) -> None:
        """Remove the parts of all other targets; nobody will ask for them again."""
        for path in self._parts.glob(f"*{_PART}"):
            if path != self.part_of(url):
                path.unlink()

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A file of metadata.

        Raises:
            DownloadHTTPError: There is none, with the status 404, by which python-tuf finds the newest root.
            RepositoryUnreachable: The source does not answer, or too slowly.
            RepositoryUntrusted: It is longer than it may be.
        """
        file = io.BytesIO()
        self._fill(file, url, max_length, exact=False)
        return file.getvalue()

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """A target, in its part file, which is gone after the block; see `download_bytes`.

        Args:
            url: Its path in the repository.
            max_length: How long it is.
        """
        part = self.part_of(url)
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("a+b") as file:
                if file.tell() > max_length:
                    file.truncate(0)
                self._fill(file, url, max_length, exact=True)
                file.seek(0)
                yield file
        except (OSError, RepositoryUntrusted, LengthOrHashMismatchError):
            part.unlink(missing_ok=True)
            raise
        part.unlink()

    def _fetch(self, url: str) -> Iterator[bytes]:
        """Without bounds: python-tuf asks for whole files only, which the methods above give."""
        raise NotImplementedError(url)

    def _fill(self, file: IO[bytes], url: str, limit_bytes: int, exact: bool) -> None:
        transfer = _Transfer(file, url, limit_bytes, exact, self._source.label, self._clock, self.progress)
        failures = 0
        while not transfer.complete:
            before = transfer.received_bytes
            try:
                with closing(self._source.open(url, before, transfer.left_s)) as pieces:
                    for piece in pieces:
                        transfer.take(piece)
                        if transfer.complete:
                            break
                transfer.end()
            except NotThere as error:
                raise DownloadHTTPError(url, 404) from error
            except Barred as error:
                raise RepositoryUnreachable(f"{self._source.label} cannot be used: {error}") from error
            except Cut as error:
                failures = failures + 1 if transfer.received_bytes == before else 0
                if failures >= TRIES:
                    raise RepositoryUnreachable(
                        f"{self._source.label} does not give {url}: {error}; see that it answers, and try again (what "
                        "was fetched is kept)"
                    ) from error
                self._clock.sleep(2.0 ** max(0, failures - 1))


@dataclass
class _Transfer:
    """One file on its way, over however many connections."""

    file: IO[bytes]
    url: str
    limit_bytes: int
    exact: bool
    label: str
    clock: Clock
    progress: Callable[[int, int], None]

    def __post_init__(self) -> None:
        self.received_bytes = self._first_bytes = self.file.seek(0, os.SEEK_END)
        self._began_s = self.clock.now_s()
        self.complete = False
        self._tell()

    @property
    def left_s(self) -> float:
        """How long the rest may take."""
        return self._allowed_s(self.limit_bytes) - (self.clock.now_s() - self._began_s)

    def take(self, piece: bytes) -> None:
        """Keep a piece.

        Raises:
            RepositoryUntrusted: It is more than may be.
            RepositoryUnreachable: It comes too slowly.
        """
        self.received_bytes += len(piece)
        if self.received_bytes > self.limit_bytes:
            raise RepositoryUntrusted(
                f"{self.label} sends more than the {self.limit_bytes} bytes that {self.url} may have; it is broken, "
                "or somebody wants to fill this board; nothing was kept, tell whoever serves it"
            )
        self.file.write(piece)
        self._check_pace()
        self._tell()

    def end(self) -> None:
        """The source says that there is no more.

        Raises:
            Cut: There should be more.
        """
        if self.exact and self.received_bytes < self.limit_bytes:
            raise Cut(f"it ended after {self.received_bytes} of {self.limit_bytes} bytes")
        self.complete = True

    def _check_pace(self) -> None:
        """See that the source keeps up the slowest pace that there may be.

        Raises:
            RepositoryUnreachable: It does not.
        """
        if self.clock.now_s() - self._began_s > self._allowed_s(self.received_bytes):
            fresh_bytes, gone_s = self.received_bytes - self._first_bytes, self.clock.now_s() - self._began_s
            raise RepositoryUnreachable(
                f"{self.label} is too slow: {fresh_bytes} bytes of {self.url} in {gone_s:.0f} s; try again, or bring "
                "the repository on a stick (what was fetched is kept)"
            )

    def _allowed_s(self, bytes_then: int) -> float:
        return GRACE_S + (bytes_then - self._first_bytes) / SLOWEST_BYTES_S

    def _tell(self) -> None:
        self.complete = self.exact and self.received_bytes == self.limit_bytes
        if self.exact:
            self.progress(self.received_bytes, self.limit_bytes)
