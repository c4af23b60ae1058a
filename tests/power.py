"""A disk whose power can be taken away: what was not synced may then be there, be lost, or be torn.

It lies over a real folder, which has what programs see. Beside that it knows what would be there after a loss of
power: the bytes of each file since its last sync, and the names of each folder since its last sync.
"""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edge_app.ota.disk import RealDisk

PLENTY_BYTES = 10**9


class PowerLost(BaseException):
    """The machine is off; nobody catches it."""


class Killed(BaseException):
    """The process is gone; what it wrote is still on its way to the disk."""


@dataclass(frozen=True)
class Fate:
    """What becomes of what was not synced: whether a change of a name in a folder is there, and what of new bytes."""

    label: str
    named: Callable[[Path], bool]
    bytes_of: Callable[[bytes, bytes], bytes]


def fates(seed: int) -> list[Fate]:
    """All lost; all there; names there before their bytes, torn or empty or zeros; and by lot."""
    rng = random.Random(seed)
    torn: list[Callable[[bytes, bytes], bytes]] = [
        lambda old, new: old,
        lambda old, new: new,
        lambda old, new: new[: len(new) // 2],
        lambda old, new: b"",
        lambda old, new: bytes(len(new)),
    ]

    def by_lot(old: bytes, new: bytes) -> bytes:
        return rng.choice(torn)(old, new)

    return [
        Fate("all lost", lambda _: False, torn[0]),
        Fate("all there", lambda _: True, torn[1]),
        Fate("half the bytes", lambda _: True, torn[2]),
        Fate("no bytes", lambda _: True, torn[3]),
        Fate("zeros", lambda _: True, torn[4]),
        Fate("by lot", lambda _: rng.random() < 0.5, by_lot),
    ]


@dataclass
class PowerDisk:
    """See above.

    Attributes:
        operations: How many changes were asked for.
        cut_at: Before which of them the power goes; 0 for never.
        kill_at: Before which of them the process is killed; 0 for never.
        full_at: From which of them on there is no room; 0 for never.
        log: What was done.
    """

    folder: Path
    operations: int = 0
    cut_at: int = 0
    kill_at: int = 0
    full_at: int = 0
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._real = RealDisk()
        self._gone: type[BaseException] | None = None
        self._files = itertools.count()
        self._names: dict[Path, int] = {}
        self._synced_names: dict[Path, int] = {}
        self._changes: list[tuple[Path, dict[Path, int | None]]] = []
        self._bytes: dict[int, bytes] = {}
        self._synced: dict[int, bytes] = {}

    def read(self, path: Path) -> bytes:
        """As the machine sees it."""
        self._alive()
        return self._real.read(path)

    def names(self, folder: Path) -> list[str]:
        """As the machine sees it."""
        self._alive()
        return self._real.names(folder)

    def free_bytes(self, folder: Path) -> int:
        """Plenty; that a disk is full is found out by writing."""
        self._alive()
        del folder
        return PLENTY_BYTES

    def write(self, path: Path, data: bytes) -> None:
        """New bytes, and a new name where there was none."""
        self._step("write", path)
        if self.full_at and self.operations >= self.full_at:
            self._real.write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        if path not in self._names:
            self._rename(path.parent, {path: next(self._files)})
        self._bytes[self._names[path]] = data
        self._real.write(path, data)

    def sync(self, path: Path) -> None:
        """The bytes are safe."""
        self._step("sync", path)
        self._synced[self._names[path]] = self._bytes[self._names[path]]

    def rename(self, old: Path, new: Path) -> None:
        """One change of two names of the same folder."""
        self._step("rename", new)
        assert old.parent == new.parent
        self._rename(new.parent, {old: None, new: self._names[old]})
        self._real.rename(old, new)

    def sync_folder(self, folder: Path) -> None:
        """The names are safe."""
        self._step("sync folder", folder)
        for _, change in [one for one in self._changes if one[0] == folder]:
            _apply(self._synced_names, change)
        self._changes = [one for one in self._changes if one[0] != folder]

    def remove(self, path: Path) -> None:
        """One name less, if it was there."""
        self._alive()
        if path in self._names:
            self._step("remove", path)
            self._rename(path.parent, {path: None})
        self._real.remove(path)

    def restart(self) -> None:
        """The process begins anew; nothing is lost."""
        self._gone, self.kill_at, self.cut_at, self.full_at = None, 0, 0, 0

    def come_back(self, fate: Fate) -> None:
        """The power is back, and only what a disk keeps is there."""
        self.restart()
        names = dict(self._synced_names)
        for folder, change in self._changes:
            if fate.named(folder):
                _apply(names, change)
        kept = {file: self._after(file, fate) for file in set(names.values())}
        for path in self._names:
            self._real.remove(path)
        for path, file in names.items():
            self._real.write(path, kept[file])
        self._names, self._synced_names, self._changes = dict(names), dict(names), []
        self._bytes, self._synced = dict(kept), dict(kept)

    def _after(self, file: int, fate: Fate) -> bytes:
        old, new = self._synced.get(file, b""), self._bytes[file]
        return new if self._synced.get(file) == new else fate.bytes_of(old, new)

    def _rename(self, folder: Path, change: dict[Path, int | None]) -> None:
        self._changes.append((folder, change))
        _apply(self._names, change)

    def _step(self, what: str, path: Path) -> None:
        self._alive()
        self.operations += 1
        self.log.append(f"{what} {path.relative_to(self.folder)}")
        if self.operations == self.cut_at:
            self._gone = PowerLost
        if self.operations == self.kill_at:
            self._gone = Killed
        self._alive()
        if self.full_at and self.operations == self.full_at:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def _alive(self) -> None:
        if self._gone is not None:
            raise self._gone


def _apply(names: dict[Path, int], change: dict[Path, int | None]) -> None:
    for path, file in change.items():
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file
