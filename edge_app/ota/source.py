"""Source: where the files of a repository come from; a folder, such as a USB stick, is the simplest."""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Protocol

CHUNK_BYTES = 65_536
_HIDDEN = "homes and /tmp are hidden from services"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class NotThere(Exception):
    """The source answers, and has no such file."""


class Cut(Exception):
    """The source does not answer, or stopped in the middle; asking again may help. Says what happened."""


class Barred(Exception):
    """The source answers with what must not be taken, or not at all as it is; asking again does not help."""


class Source(Protocol):
    """Files by their paths in the repository, such as `metadata/timestamp.json`."""

    @property
    def label(self) -> str:
        """How messages name it; holds no password."""
        ...

    def open(self, path: str, offset: int, left_s: float) -> Generator[bytes, None, None]:
        """The bytes of a file from an offset on; whoever takes them closes the generator.

        An empty piece means only that time passed. All faults come while the bytes are taken.

        Args:
            path: In the repository.
            offset: How many bytes to leave out.
            left_s: After how long there is no use in going on; a source that waits ends by then.

        Raises:
            NotThere: There is no such file.
            Cut: The connection was cut, or nothing came.
            Barred: It must not be taken.
        """
        ...


class Folder:
    """A repository in a folder: a USB stick, a network share."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def label(self) -> str:
        """The folder."""
        return str(self._path)

    def open(self, path: str, offset: int, left_s: float) -> Generator[bytes, None, None]:
        """The bytes of a file in the folder; see `Source.open`."""
        del left_s
        with closing(self._file(path)) as file:
            try:
                file.seek(offset)
                while piece := file.read(CHUNK_BYTES):
                    yield piece
            except OSError as error:
                raise Cut(f"{path} cannot be read ({error.strerror}); was the stick pulled out?") from error

    def _file(self, path: str) -> BinaryIO:
        """An open file that lies below the folder, whatever links say, and is a file."""
        try:
            folder = self._path.resolve(strict=True)
        except PermissionError as error:
            raise Barred(_not_yours(self.label)) from error
        except (OSError, RuntimeError) as error:
            raise Barred(f"there is no such folder; plug in the stick, or mount it ({_HIDDEN})") from error
        try:
            found = (folder / plain(path)).resolve(strict=True)
            if not found.is_relative_to(folder):
                raise Barred(f"{path} is a link that leads out of the folder; copy the repository anew")
            # A pipe in the place of a file would wait for ever.
            number = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotThere(path) from error
        except PermissionError as error:
            raise Barred(_not_yours(path)) from error
        except (OSError, RuntimeError) as error:
            raise Barred(f"{path} cannot be opened ({error}); copy the repository anew") from error
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise Barred(f"{path} is no file; copy the repository anew")
        return os.fdopen(number, "rb")


def _not_yours(what: str) -> str:
    """That this process may not read something, and what helps."""
    try:
        who = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        who = str(os.geteuid())
    return f"the user {who} may not read {what}; mount the stick where all may read it, such as /mnt ({_HIDDEN})"


def plain(path: str) -> str:
    """A path, if it cannot lead anywhere but downwards.

    Raises:
        Barred: It has a part such as "..", or a character that has no place in a repository.
    """
    if not _PLAIN.fullmatch(path):
        raise Barred(f"it names the path {path!r}, which could lead out of the repository; tell whoever publishes")
    return path
