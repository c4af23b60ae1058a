"""Candidate: a bundle on its way: fetched, verified, opened and rehearsed here, beside the model that serves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_app import bundle as bundles
from edge_app.bundle import Manifest, ModelBundle
from edge_app.errors import (
    BundleError,
    BundleNotFound,
    RepositoryUntrusted,
    RuntimeFailed,
    StateUnusable,
    UpdateError,
    UpdateRefused,
    UpdateUnfit,
)
from edge_app.journal import log_of
from edge_app.model import Model
from edge_app.ota import decision
from edge_app.ota.catalogue import Catalogue, Entry
from edge_app.ota.clock import Reference
from edge_app.ota.decision import Facts
from edge_app.ota.depot import Depot
from edge_app.ota.rehearsal_rule import Rehearsal, judge
from edge_app.ota.state import State, Version
from edge_app.shelf import Shelf

Progress = Callable[[int, int, str], None]
_log = log_of(__name__)


class Repository(Protocol):
    """What `ota/repository.py` gives: whatever leaves it was signed for this board's root of trust."""

    def catalogue(self, channel: str) -> Catalogue:
        """What a channel offers."""
        ...

    def fetch(self, channel: str, entry: Entry, into: Path, progress: Callable[[int, int], None]) -> Path:
        """A bundle, verified, in a file."""
        ...

    @property
    def versions(self) -> Mapping[str, int]:
        """The versions of its roles."""
        ...

    def settle(self) -> None:
        """Have on the disk what was learnt."""
        ...


@dataclass(frozen=True)
class Means:
    """What an update works with; each is a seam.

    `repository` opens the one that the board follows, by what the board remembers of it, and says what time it goes
    by; `facts` looks at the board by what is on its shelf; `open_model` opens a bundle in the board's runtime and
    compares its golden outputs, building first what the runtime needs; `rehearse` lets the old and the new focus here.
    """

    repository: Callable[[State], tuple[Repository, Reference]]
    facts: Callable[[Shelf], Facts]
    open_model: Callable[[Path, Progress], Model]
    rehearse: Callable[[Model | None, Model, Progress], Rehearsal]
    channel: str = "stable"


class Candidate:
    """How one bundle of a catalogue is looked at; nothing that serves changes by it."""

    def __init__(self, depot: Depot, means: Means, progress: Progress) -> None:
        self._depot, self._means, self._progress = depot, means, progress

    def staged(self, entry: Entry, repository: Repository, facts: Facts) -> str:
        """Bring a candidate as far as the switch; gives why it may serve.

        Raises:
            RepositoryUnreachable, RepositoryUntrusted: It cannot be had, or is not what was signed.
            UpdateRefused: It is not for this board, focuses worse, or ends whoever looks at it.
            AppError: The board's own disk or runtime is in the way.
        """
        version = version_of(entry)
        given_up = decision.cut_off(version, self._depot.state())
        if given_up:
            raise UpdateRefused(given_up)
        path = self._fetched(entry, repository)
        with self._counted(version):
            bundle = self._verified(path, entry, facts)
            return self._rehearsed(path, bundle, facts)

    @contextmanager
    def _counted(self, version: Version) -> Iterator[None]:
        """What ends the process in this block counts against the candidate; that somebody ended it does not."""
        self._depot.change(lambda state: state.tried(version))
        try:
            yield
        except KeyboardInterrupt:
            with suppress(StateUnusable):
                self._depot.change(lambda state: state.untried(version))
            raise

    def _fetched(self, entry: Entry, repository: Repository) -> Path:
        """The bundle beside the old one, on the disk, and remembered as what is being staged."""
        version = version_of(entry)
        self._depot.check_room(entry.size_bytes)
        self._depot.change(lambda state: state.staging(version))
        if self._depot.has(version):
            self._depot.keep(version)
        else:
            into = self._depot.incoming / f"{version.sha256}.parfocal"
            fetched = repository.fetch(
                self._means.channel,
                entry,
                into,
                lambda done, total: self._progress(done, total, f"fetching {version.label}"),
            )
            try:
                data = fetched.read_bytes()
            except OSError as error:
                raise StateUnusable(f"cannot read {fetched} again ({error.strerror}); look after the disk") from error
            if hashlib.sha256(data).hexdigest() != version.sha256:
                raise RepositoryUntrusted(f"{entry.label} is not the file that was signed; fetch it again")
            self._depot.keep(version, data)
        self._depot.clear_incoming()
        return self._depot.path_of(version)

    def _verified(self, path: Path, entry: Entry, facts: Facts) -> ModelBundle:
        """The bundle, if every byte is sound and its passport is for this board."""
        try:
            bundle = bundles.read(path)
        except BundleNotFound as error:
            raise UpdateError(f"{entry.label} cannot be read again: {error}; look after the disk") from error
        except BundleError as error:
            raise UpdateRefused(f"{entry.label} is what was signed, and still no sound bundle: {error}") from error
        if bundle.sha256 != entry.sha256:
            raise UpdateError(f"{entry.label} changed on this board's disk; look after the disk, and try again")
        why_not = decision.unfit(bundle.manifest, entry, facts)
        if why_not:
            raise UpdateRefused(f"{entry.label} is not for this board: {why_not}")
        then = self._means.facts(self._depot.shelf().with_installed(entry.name, path))
        if entry.name not in then.uses:
            raise UpdateUnfit(
                f"{entry.label} would not be asked on this board, which prefers others for all of its objectives; "
                'name it in the configuration (bundle = "...") to have it'
            )
        strangers = sorted(use.label for name, use in then.uses.items() if name not in {entry.name, *facts.uses})
        if strangers:
            raise UpdateUnfit(
                f"with {entry.label} this board would prefer {', '.join(strangers)} too, which nobody rehearsed; tell "
                "whoever publishes"
            )
        return bundle

    def _rehearsed(self, path: Path, bundle: ModelBundle, facts: Facts) -> str:
        """Why the candidate may serve: it answers as it should here, and focuses as well as the one in service."""
        manifest = bundle.manifest
        self._progress(0, 0, f"opening {manifest.label}")
        old, broken = self._old(manifest, facts)
        try:
            new = self._means.open_model(path, self._progress)
        except (BundleError, RuntimeFailed) as error:
            if broken:
                raise  # where none can be opened, the new one is not to blame
            raise UpdateRefused(f"{manifest.label} does not work on this board: {error}") from error
        rehearsal = self._means.rehearse(old, new, self._progress)
        judgement = judge(rehearsal)
        if not judgement.accepted:
            raise UpdateRefused(f"{manifest.label} was rehearsed on this board and refused: {judgement.why}")
        return judgement.why

    def _old(self, manifest: Manifest, facts: Facts) -> tuple[Model | None, bool]:
        """The model in service that a candidate is compared with, and whether there is one that cannot be opened."""
        shelf = self._depot.shelf()
        rivals = [use.manifest.name for use in facts.uses.values() if use.manifest.task == manifest.task]
        rival = manifest.name if manifest.name in facts.uses else next(iter(rivals), "")
        if not rival:
            return None, False
        try:
            return self._means.open_model(shelf.find(rival), self._progress), False
        except (BundleError, RuntimeFailed) as error:
            _log.error("model in service unusable", model=rival, why=str(error))
            return None, True


def version_of(entry: Entry) -> Version:
    """What the depot calls a bundle of a catalogue."""
    return Version(name=entry.name, version=entry.version, sha256=entry.sha256)
