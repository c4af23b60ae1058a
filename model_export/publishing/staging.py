"""Staging: how a repository goes from one whole state to the next, whatever ends the process or the power.

New files are first written beside the repository, then a list of them says that they are complete; only then they are
moved to their names, in an order in which every state on the way is one that boards accept. A list that is found later
is moved to its end. Who finds files without a list drops them.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edge_app.ota.disk import Disk, RealDisk, put
from model_export.errors import PublishError

TIMESTAMP = "metadata/timestamp.json"
ROOT_SUFFIX = ".root.json"
_LIST = "complete.json"


class Staging:
    """The way into one repository; one process at a time."""

    def __init__(self, repo: Path, disk: Disk | None = None) -> None:
        self._repo = repo
        self._folder = repo / ".staging"
        self._list = self._folder / _LIST
        self._disk: Disk = disk or RealDisk()

    @property
    def interrupted(self) -> bool:
        """A complete change waits to be moved to its place."""
        return self._list.exists()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other publishers out, and end what an earlier one began.

        Raises:
            PublishError: Another is at work, or the folder cannot be written to.
        """
        try:
            self._repo.mkdir(parents=True, exist_ok=True)
            lock = (self._repo / ".lock").open("w")
        except OSError as error:
            raise PublishError(f"cannot write to {self._repo}: {error.strerror}; nothing was changed") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise PublishError(
                    f"somebody else is publishing to {self._repo}; try again when that is done"
                ) from error
            self.end_interrupted()
            yield

    def end_interrupted(self) -> None:
        """Move the files of a change that was complete to their places, and drop one that was not.

        Raises:
            PublishError: The disk refuses.
        """
        try:
            if self.interrupted:
                self._move(json.loads(self._disk.read(self._list)))
            self._clear()
        except OSError as error:
            raise self._halfway(error) from error

    def publish(self, files: Mapping[str, bytes]) -> None:
        """Replace or add files, named relative to the repository, in this order; all of them or none.

        Raises:
            PublishError: The disk does not take them. The repository is as it was, or, if the sentence says so, the
                next command ends what this one began.
        """
        try:
            self._clear()
            self._stage(files)
        except OSError as error:
            if self.interrupted:
                raise self._halfway(error) from error
            shutil.rmtree(self._folder, ignore_errors=True)
            raise PublishError(
                f"cannot write to {self._repo}: {error.strerror}; nothing was published; make room, or see who "
                "may write there, then run it again"
            ) from error
        try:
            self._move(list(files))
            self._clear()
        except OSError as error:
            raise self._halfway(error) from error

    def _stage(self, files: Mapping[str, bytes]) -> None:
        self._folder.mkdir()
        for number, data in enumerate(files.values()):
            path = self._folder / str(number)
            self._disk.write(path, data)
            self._disk.sync(path)
        # The list must not be there after a power cut without the files that it lists.
        self._disk.sync_folder(self._folder)
        self._disk.sync_folder(self._repo)
        put(self._disk, self._list, json.dumps(list(files)).encode())

    def _move(self, names: list[str]) -> None:
        touched: set[Path] = set()
        for number, name in enumerate(names):
            staged, place = self._folder / str(number), self._repo / name
            touched.add(place.parent)
            if not staged.exists():
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            if name == TIMESTAMP or name.endswith(ROOT_SUFFIX):
                self._sync(touched)
            self._disk.rename(staged, place)
        self._sync(touched)

    def _sync(self, folders: set[Path]) -> None:
        for folder in sorted(folders):
            self._disk.sync_folder(folder)
            self._disk.sync_folder(folder.parent)

    def _clear(self) -> None:
        if not self._folder.exists():
            return
        self._disk.remove(self._list)  # first, so that what is left is never taken for complete
        self._disk.sync_folder(self._folder)
        shutil.rmtree(self._folder)

    def _halfway(self, error: OSError) -> PublishError:
        return PublishError(
            f"the disk of {self._repo} failed while new files were put in place: {error.strerror}; they are complete, "
            f"and the next command that publishes there ends this"
        )
