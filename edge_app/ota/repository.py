"""Repository: what was signed for this board, and nothing else, from a source that may be anybody's.

python-tuf's client does the trusting. This is the ordered list around it: bounds, the time that expiry is held
against, what the board saw before, and errors that a person understands.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Timestamp
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.updater import Updater

from edge_app.errors import RepositoryUntrusted, TrustUnusable
from edge_app.ota.catalogue import (
    CHANNELS,
    MAX_BUNDLE_BYTES,
    MAX_CATALOGUE_BYTES,
    Catalogue,
    Entry,
    bundle_target,
    catalogue_target,
)
from edge_app.ota.catalogue import read as read_catalogue
from edge_app.ota.clock import Reference
from edge_app.ota.faults import plainly
from edge_app.ota.fetching import BoundedFetcher, nothing
from edge_app.ota.source import Source
from firmware.clock import Clock

MACHINE_ROOT = Path("/etc/parfocal/root.json")
PACKAGED_ROOT = Path(__file__).parent.parent / "trusted_root.json"
_BOUNDS = UpdaterConfig(
    max_root_rotations=256,
    max_delegations=len(CHANNELS) + 1,
    root_max_length=64_000,
    timestamp_max_length=16_000,
    snapshot_max_length=64_000,
    targets_max_length=1_000_000,
    prefix_targets_with_hash=True,
)
_MAX_ROOT_BYTES = 1_000_000
_FETCHING = ".fetching"


def root_of_trust(given: Path | None, machine: Path = MACHINE_ROOT, packaged: Path = PACKAGED_ROOT) -> bytes:
    """The first of the roots of trust that there is: the one given, the machine's, the package's.

    Raises:
        TrustUnusable: There is none, or it is damaged.
    """
    there = [given] if given is not None else [path for path in (machine, packaged) if path.is_file()]
    where = "the publisher makes it with `parfocal-model publish root REPO --out root.json`"
    if not there:
        what = "no root of trust says whose models this board takes"
        raise TrustUnusable(f"{what}; put it at {machine}, or name it with --root: {where}")
    try:
        with there[0].open("rb") as file:
            data = file.read(_MAX_ROOT_BYTES)
        root = Metadata[Root].from_bytes(data)
        root.signed.verify_delegate(Root.type, root.signed_bytes, root.signatures)
    except OSError as error:
        raise TrustUnusable(f"the root of trust {there[0]} cannot be read ({error.strerror}); {where}") from error
    except (RepositoryError, ValueError, AttributeError) as error:
        found = "it is of another role" if isinstance(error, AttributeError) else str(error)
        raise TrustUnusable(f"{there[0]} is damaged, or no root of trust ({found}); get it anew: {where}") from error
    return data


class Repository:
    """One look at a repository; make a new one for each check. One user at a time.

    Attributes:
        label: How messages name it.
    """

    def __init__(
        self,
        root: bytes,
        folder: Path,
        source: Source,
        reference: Reference,
        *,
        seen: Mapping[str, int] = MappingProxyType({}),
        clock: Clock | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            root: What `root_of_trust` gave.
            folder: For what was verified, and for parts of files on their way.
            source: Where the files come from.
            reference: What expiry is held against.
            seen: The `versions` of the last check. They hold even where the folder was lost.
            clock: For bounds in time and for pauses.
        """
        self.label = source.label
        self._root, self._folder, self._reference = root, folder, reference
        self._seen = dict(seen)
        self._fetcher = BoundedFetcher(source, folder / "parts", clock)
        self._updater: Updater | None = None

    @property
    def versions(self) -> dict[str, int]:
        """How new what was seen is: what to keep, whole, for the next check."""
        return dict(self._seen)

    def catalogue(self, channel: str) -> Catalogue:
        """What a channel offers by now.

        Args:
            channel: One of `CHANNELS`.

        Raises:
            RepositoryUnreachable: The source is absent, slow, or has not all files.
            RepositoryUntrusted: What it gave is not what was signed, is older than what was seen, or has expired.
            UpdateError: This board's own disk fails.
        """
        with plainly(self.label, self._reference):
            updater = self._refreshed()
            target = self._target(updater, catalogue_target(channel), MAX_CATALOGUE_BYTES)
            file = self._folder / f"{channel}.catalogue"
            updater.download_target(target, str(file))
            return read_catalogue(file.read_bytes(), channel)

    def fetch(self, channel: str, entry: Entry, into: Path, progress: Callable[[int, int], None] = nothing) -> Path:
        """Get a bundle, unless it is there already; what was fetched before a cut is not fetched again.

        Args:
            channel: Where the catalogue offers it.
            entry: What the catalogue says of it.
            into: The file to write; it is there whole or not at all, even if the power goes.
            progress: Told the bytes received and all; an `AppError` that it raises ends the fetch, and passes through.

        Returns:
            `into`.

        Raises:
            RepositoryUnreachable: As `catalogue`.
            RepositoryUntrusted: As `catalogue`, or the bundle is not the one in the catalogue.
            UpdateError: As `catalogue`.
        """
        with plainly(self.label, self._reference):
            updater = self._refreshed()
            target = self._target(updater, bundle_target(channel, entry), MAX_BUNDLE_BYTES)
            if (target.hashes.get("sha256"), target.length) != (entry.sha256, entry.size_bytes):
                raise RepositoryUntrusted(
                    f"{self.label} lists other bytes for {entry.label} than its catalogue does: parts of two states "
                    "(mix-and-match); nothing was changed, tell whoever publishes"
                )
            into.parent.mkdir(parents=True, exist_ok=True)
            if updater.find_cached_target(target, str(into)) is None:
                self._fetcher.progress = progress
                try:
                    self._download(updater, target, into)
                finally:
                    self._fetcher.progress = nothing
        return into

    def settle(self) -> None:
        """Make sure that what was verified survives a loss of power; python-tuf does not wait for the disk.

        Raises:
            UpdateError: The disk fails.
        """
        with plainly(self.label, self._reference):
            for path in sorted(self._folder.rglob("*"), reverse=True):
                if not path.is_symlink():
                    _sync(path)
            _sync(self._folder)

    def _refreshed(self) -> Updater:
        """The client, with the newest metadata; no older than what was seen."""
        if self._updater is None:
            metadata = self._folder / "metadata"
            metadata.mkdir(parents=True, exist_ok=True)
            for torn in metadata.glob("tmp*"):
                torn.unlink()
            updater = Updater(
                str(metadata), "metadata/", None, "targets/", self._fetcher, _BOUNDS, bootstrap=self._root
            )
            # The one private name: python-tuf takes the machine's clock, which a board may not have.
            updater._trusted_set.reference_time = self._reference.time  # noqa: SLF001
            updater.refresh()
            self._seen = _no_older(_versions(metadata, self._root), self._seen, self.label)
            self._updater = updater
        return self._updater

    def _target(self, updater: Updater, path: str, most_bytes: int) -> TargetFile:
        target = updater.get_targetinfo(path)
        if target is None:
            raise RepositoryUntrusted(f"{self.label} has no signed {path}; tell whoever publishes")
        if target.length > most_bytes or "sha256" not in target.hashes:
            raise RepositoryUntrusted(
                f"{self.label} lists {path} with {target.length} bytes, where at most {most_bytes} may be, or without "
                "its sha256; tell whoever publishes"
            )
        return target

    def _download(self, updater: Updater, target: TargetFile, into: Path) -> None:
        url = f"targets/{target.get_prefixed_paths()[0]}"
        self._fetcher.keep_only(url)
        beside = into.with_name(f".{into.name}{_FETCHING}")
        for left in into.parent.glob(f".*{_FETCHING}"):
            left.unlink()
        went_on = self._fetcher.part_of(url).exists()
        try:
            try:
                updater.download_target(target, str(beside))
            except RepositoryError:
                if not went_on:
                    raise
                # The part from before may be what a loss of power left; it is gone now.
                updater.download_target(target, str(beside))
            _sync(beside)
            beside.replace(into)
            _sync(into.parent)
        finally:
            beside.unlink(missing_ok=True)


def _versions(metadata: Path, bootstrap: bytes) -> dict[str, int]:
    """The versions in a folder of metadata that was just verified, each after what it holds for.

    The root's holds for the root of trust that this board was given: who brings another by hand, since too few root
    keys are left, begins a new count. The others hold for the keys of that time: a thief of those keys could sign
    versions beyond all others, and new keys must make an end of that.
    """
    root = Metadata[Root].from_file(str(metadata / "root.json")).signed
    timestamp = Metadata[Timestamp].from_file(str(metadata / "timestamp.json")).signed
    snapshot = Metadata[Snapshot].from_file(str(metadata / "snapshot.json")).signed
    keys = [sorted(root.roles[role].keyids) for role in (Timestamp.type, Snapshot.type)]
    trust, epoch = _short(bootstrap), _short(repr(keys).encode())
    found = {
        "timestamp": timestamp.version,
        "snapshot": snapshot.version,
        **{name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()},
    }
    return {f"{trust}/root": root.version} | {f"{epoch}/{role}": version for role, version in found.items()}


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _no_older(found: dict[str, int], seen: Mapping[str, int], label: str) -> dict[str, int]:
    """The versions found, if none is older than the one that was seen.

    Raises:
        RepositoryUntrusted: One is, or a list that was there is gone.
    """
    epochs = {name.partition("/")[0] for name in found}
    for name, version in seen.items():
        epoch, _, role = name.partition("/")
        if epoch in epochs and found.get(name, 0) < version:
            raise RepositoryUntrusted(
                f"{label} gave files older than this board has seen ({role} {found.get(name, 0)} after "
                f"{version}): somebody put an old state back (rollback), or a copy is old; nothing was changed, tell "
                "whoever publishes"
            )
    return found


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
