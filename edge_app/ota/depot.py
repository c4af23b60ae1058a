"""Depot: the files by which a board's updates survive anything: one small record, and bundles named by their hash.

`state.json` alone says which bundles serve; it is replaced in one step, after all that it names is on the disk. So
whatever ends a process or the power leaves exactly the old models in service, or exactly the new ones. A record that
cannot be read puts the bundles that ship back into service; it is kept, with the bundles that it names.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from edge_app.bundle import SUFFIX
from edge_app.errors import Busy, StateUnusable
from edge_app.journal import log_of
from edge_app.ota.disk import Disk, RealDisk, put
from edge_app.ota.state import Stage, State, Version
from edge_app.shelf import Shelf

FOLDER = "updates"
_SHOWN = "updating.lock"
"""Held beside `update.lock` while an update is under way, for those who only look."""
_SPARE_BYTES = 8_000_000
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_log = log_of(__name__)


class Depot:
    """What a board has of updates, in a folder of its state; several processes may have one of the same folder."""

    def __init__(self, state_folder: Path, disk: Disk | None = None) -> None:
        self.folder = state_folder / FOLDER
        self.repository_folder = self.folder / "repository"
        self.incoming = self.folder / "incoming"
        self._bundles = self.folder / "bundles"
        self._disk: Disk = disk or RealDisk()
        self._record = self.folder / "state.json"
        self._last: State | None = None
        self._aside = self.folder / "state.json.damaged"

    def state(self) -> State:
        """What is remembered; a fresh state where nothing is, or nothing that can be read.

        Where the disk does not give the record, what was read last still holds: no model is left for a hiccup.
        """
        try:
            self._last = self._remembered()[0]
        except OSError as error:
            return self._last or _unknown(f"cannot be read ({error.strerror or error})")
        return self._last

    def mark(self) -> str:
        """By what two processes know that both mean this folder, and no copy of it; "" where it cannot be told."""
        try:
            boot, found = _BOOT_ID.read_text(encoding="ascii").strip(), self.folder.stat()
        except OSError:
            return ""
        return hashlib.sha256(f"{boot} {found.st_dev} {found.st_ino}".encode()).hexdigest()[:32]

    def check_readable(self) -> None:
        """See that whoever asks may read the record.

        Raises:
            StateUnusable: They may not; what `state` would give says nothing of this board.
        """
        try:
            self._disk.read(self._record)
        except FileNotFoundError:
            pass
        except PermissionError as error:
            raise StateUnusable(
                f"{self._record} is not yours to read: run this as the service's user (`sudo -u parfocal`), or ask "
                "the service with --at"
            ) from error

    def change(self, step: Callable[[State], State]) -> State:
        """Take one step of the state, alone, and return when it is on the disk; gives the state after it.

        A damaged record is kept beside the new one, and so are the bundles that it names.

        Raises:
            StateUnusable: The disk does not give or take the record; the state from before holds.
        """
        try:
            self._disk.names(self.folder)
            with self._alone("state.lock"):
                before, damaged = self._read_for_change()
                after = step(before)
                if after != before:
                    if damaged is not None:
                        put(self._disk, self._aside, damaged)
                        _log.error("record of updates set aside", path=str(self._aside))
                    put(self._disk, self._record, after.model_dump_json(indent=1).encode())
                    self._last = after
                if damaged is None:
                    self._tidy(after)
        except OSError as error:
            raise _unwritable(self._record, error) from error
        return after

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Be the one update of this board while the block runs.

        Raises:
            Busy: Another is under way.
            StateUnusable: The folder cannot be written.
        """
        with ExitStack() as locks:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                locks.enter_context(self._alone("update.lock", wait=False))
                # Whoever only looks holds this one for a moment.
                locks.enter_context(self._alone(_SHOWN))
            except BlockingIOError:
                raise Busy("another update of this board is under way; wait for it to end") from None
            except OSError as error:
                raise _unwritable(self.folder, error) from error
            yield

    def is_updating(self) -> bool:
        """Whether an update of this board is under way, by whomever; to look is in nobody's way."""
        try:
            handle = os.open(self.folder / _SHOWN, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def check_room(self, size_bytes: int) -> None:
        """See that a bundle finds room, twice, and some to spare.

        Raises:
            StateUnusable: It does not.
        """
        try:
            self._disk.names(self.folder)
            free_bytes = self._disk.free_bytes(self.folder)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        needed = 2 * size_bytes + _SPARE_BYTES
        if free_bytes < needed:
            raise StateUnusable(
                f"the disk of {self.folder} is full: {free_bytes / 1e6:.0f} MB are free and {needed / 1e6:.0f} MB are "
                "needed; free some space, then try again"
            )

    def keep(self, version: Version, data: bytes | None = None) -> Path:
        """Have a bundle on the disk, under its hash, or make sure of one that `has` found; gives its path.

        Raises:
            StateUnusable: The disk does not take it.
        """
        path = self.path_of(version)
        try:
            self._disk.names(self._bundles)
            self._disk.sync_folder(self.folder)
            if data is None:
                # Whoever wrote it may have been killed before it was sure to be on the disk.
                self._disk.sync(path)
                self._disk.sync_folder(self._bundles)
            else:
                assert hashlib.sha256(data).hexdigest() == version.sha256
                put(self._disk, path, data)
        except OSError as error:
            raise _unwritable(path, error) from error
        return path

    def clear_incoming(self) -> None:
        """Remove what was fetched and is kept by now, and what an update that was cut off left."""
        with suppress(OSError):
            for name in self._disk.names(self.incoming):
                self._disk.remove(self.incoming / name)

    def has(self, version: Version) -> bool:
        """Whether a bundle is there, byte by byte."""
        try:
            return hashlib.sha256(self._disk.read(self.path_of(version))).hexdigest() == version.sha256
        except OSError:
            return False

    def path_of(self, version: Version) -> Path:
        """Where a bundle lies."""
        return self._bundles / f"{version.sha256}{SUFFIX}"

    def shelf(self, state: State | None = None) -> Shelf:
        """The board's bundles by a state, its own by default; what is missing or damaged is left to the factory."""
        state = state or self.state()
        installed = {}
        for name, slot in state.slots.items():
            version = slot.serving
            if version is None:
                continue
            if self.has(version):
                installed[name] = self.path_of(version)
            else:
                _log.error("updated model missing", model=version.label, why="its file is gone or damaged")
        return Shelf(installed)

    def _remembered(self) -> tuple[State, bytes | None]:
        """The state, and the bytes of a record that is none.

        Raises:
            OSError: The disk does not give it.
        """
        try:
            data = self._disk.read(self._record)
        except FileNotFoundError:
            return State(), None
        try:
            return State.model_validate_json(data), None
        except ValidationError:
            return _unknown("is damaged, or a newer parfocal's"), data

    def _read_for_change(self) -> tuple[State, bytes | None]:
        """As `_remembered`, for whoever will replace it.

        Raises:
            StateUnusable: The disk does not give it; what it says may be sound.
        """
        try:
            return self._remembered()
        except OSError as error:
            raise StateUnusable(
                f"{self._record} cannot be read ({error.strerror or error}), so nothing was changed; try again, and "
                "look at the disk and the file's owner if that goes on"
            ) from error

    def _tidy(self, state: State) -> None:
        """Remove bundles that nobody wants any more; call it alone with the record that says so."""
        if state.stage is Stage.STAGING:
            return
        wanted = {f"{sha256}{SUFFIX}" for sha256 in state.kept()}
        with suppress(OSError):
            unwanted = [name for name in self._disk.names(self._bundles) if name not in wanted]
            if unwanted:
                aside = self._set_aside()
                unwanted = [name for name in unwanted if name.removesuffix(SUFFIX).encode() not in aside]
            if unwanted:
                # Whoever wrote the record may have been killed before its name was sure to be on the disk.
                self._disk.sync_folder(self.folder)
            for name in unwanted:
                self._disk.remove(self._bundles / name)

    def _set_aside(self) -> bytes:
        """The damaged record that somebody may want to mend.

        Raises:
            OSError: The disk does not give it.
        """
        try:
            return self._disk.read(self._aside)
        except FileNotFoundError:
            return b""

    @contextmanager
    def _alone(self, name: str, wait: bool = True) -> Iterator[None]:
        handle = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield
        finally:
            os.close(handle)


def _unknown(how: str) -> State:
    why = f"the record of updates {how}; the models that ship serve; run `parfocal update apply` again"
    _log.error("record of updates unusable", why=why)
    return State(stage=Stage.FAILED, reason=why)


def _unwritable(path: Path, error: OSError) -> StateUnusable:
    why = error.strerror or str(error)
    return StateUnusable(
        f"{path} cannot be written ({why}), so nothing was changed and the old model serves; free some space, correct "
        "the folder's owner, or choose another with --state"
    )
