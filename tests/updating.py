"""A board's updates in a folder, with nothing real but the files: bundles of a few KB, and a repository in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from oracle import Oracle, manifest

from edge_app import bundle as bundles
from edge_app.bundle import Manifest, ModelBundle
from edge_app.errors import UpdateError
from edge_app.model import Model
from edge_app.ota.board import ships
from edge_app.ota.candidate import Means, Progress
from edge_app.ota.catalogue import Catalogue, Entry
from edge_app.ota.clock import Reference
from edge_app.ota.decision import Facts, InUse
from edge_app.ota.depot import Depot
from edge_app.ota.disk import Disk
from edge_app.ota.rehearsal_rule import Pair, Rehearsal, Trial
from edge_app.ota.state import Slot, State, Version
from edge_app.shelf import Shelf
from edge_app.tasks import defocus
from edge_app.updates import Updates
from firmware.frames import FrameOptics
from firmware.simulation import World

NAME = "net"
OPTICS = FrameOptics(numerical_aperture=0.75, pixel_um=0.1725, response="linear")
NOW = datetime(2027, 3, 1, 12, tzinfo=timezone.utc)


def silent(done: int, total: int, step: str) -> None:
    """A progress that nobody watches."""


def bundle(version: str, name: str = NAME, **changes: Any) -> bytes:
    """A sound bundle whose network nobody can execute; other versions are other bytes."""
    stated: Manifest = manifest().model_copy(update={"name": name, "version": version, **changes})
    nothing = np.zeros((0, stated.input.patch_px, 0, 3), np.uint8)
    golden = bundles.golden_bytes(nothing, {output: np.zeros(0, np.float32) for output in stated.outputs})
    return bundles.pack(stated, f"{name} {version}".encode(), golden)


def repacked(version: str, name: str = "spectral_20x") -> bytes:
    """A factory bundle, whole, under another number."""
    about = ships(name)
    assert about is not None
    golden = bundles.golden_bytes(about.golden_in, about.golden_out, about.golden_also)
    return bundles.pack(about.manifest.model_copy(update={"version": version}), about.onnx, golden)


def version_of(data: bytes, version: str, name: str = NAME) -> Version:
    """A bundle as the state names it."""
    return Version(name=name, version=version, sha256=hashlib.sha256(data).hexdigest())


def entry_of(data: bytes, version: str, name: str = NAME, **changes: Any) -> Entry:
    """A bundle as a catalogue names it."""
    values = {"name": name, "version": version, "task": "defocus", "size_bytes": len(data)}
    return Entry.model_validate(values | {"sha256": hashlib.sha256(data).hexdigest()} | changes)


@dataclass
class Offering:
    """A repository that is believed, and may be in trouble."""

    files: dict[str, bytes] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()
    trouble: Exception | None = None
    cut: BaseException | None = None
    asked: int = 0
    fetched: int = 0
    settled: int = 0

    def offer(self, version: str, name: str = NAME, data: bytes = b"", **changes: Any) -> bytes:
        """Offer a bundle; gives its bytes."""
        data = data or bundle(version, name)
        entry = entry_of(data, version, name, **changes)
        self.entries += (entry,)
        self.files[entry.sha256] = data
        return data

    def catalogue(self, channel: str) -> Catalogue:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
        return Catalogue(channel=channel, bundles=self.entries)

    def fetch(self, channel: str, entry: Entry, into: Path, progress: Callable[[int, int], None]) -> Path:
        del channel
        progress(0, entry.size_bytes)
        self.fetched += 1
        into.parent.mkdir(parents=True, exist_ok=True)
        into.write_bytes(self.files[entry.sha256])
        if self.cut is not None:
            raise self.cut
        return into

    @property
    def versions(self) -> Mapping[str, int]:
        return {"timestamp": self.asked}

    def settle(self) -> None:
        self.settled += 1


def facts_of(shelf: Shelf, **changes: Any) -> Facts:
    """A board with one objective, which uses what updates brought, and `spectral_20x`."""
    uses = {}
    for bundle_ in [_factory(), *(bundles.read(path) for path in shelf.installed.values())]:
        uses[bundle_.manifest.name] = InUse(bundle_.manifest, bundle_.sha256)
    known: dict[str, Any] = {"board_id": "here", "uses": uses, "optics": (OPTICS,), "main": "spectral_20x"}
    return Facts(**known | changes)


@cache
def _factory() -> ModelBundle:
    found = ships("spectral_20x")
    assert found is not None
    return found


def opened(path: Path, progress: Progress) -> Model:
    """A model without a runtime."""
    progress(0, 0, "opening")
    return Model(bundles.read(path), None, defocus)  # type: ignore[arg-type]


def executed(world: World) -> Callable[..., Model]:
    """What opens a bundle in a runtime that knows the truth of this world; in place of `open_model`."""

    def open_model(path: Path, *_: object) -> Model:
        return Model(bundles.read(path), Oracle(world), defocus)

    return open_model


def rehearsed(old: Model | None, new: Model, progress: Progress, new_end: float = 0.1) -> Rehearsal:
    """Twenty jobs that both models do as well, unless the new one is to end farther away."""
    progress(0, 20, "rehearsing")
    before = None if old is None else Trial(start=3.0, end=0.1, looks=1.0, claims=True)
    pair = Pair("here", before, Trial(start=3.0, end=new_end, looks=1.0, claims=True))
    return Rehearsal("defocus", "single_shot", "paper", old.label if old else "", new.label, (pair,) * 20, 1.0)


def badly(old: Model | None, new: Model, progress: Progress) -> Rehearsal:
    """The new one ends far from focus."""
    return rehearsed(old, new, progress, new_end=2.5)


def means(offering: Offering, **changes: Any) -> Means:
    """What an update works with; each part may be another."""

    def repository(state: State) -> tuple[Offering, Reference]:
        del state
        return offering, Reference(NOW, "", NOW.isoformat())

    parts: dict[str, Any] = {"repository": repository, "facts": facts_of, "open_model": opened, "rehearse": rehearsed}
    return Means(**parts | changes)


def updates(folder: Path, offering: Offering, disk: Disk | None = None, **changes: Any) -> Updates:
    """A board's updates in a folder."""
    return Updates(Depot(folder, disk), means(offering, **changes))


def install(depot: Depot, data: bytes, version: str, name: str = NAME) -> Version:
    """Have a bundle serve that proved itself long ago."""
    one = version_of(data, version, name)
    depot.keep(one, data)

    def step(state: State) -> State:
        slots = {**state.slots, name: Slot(serving=one, previous=None)}
        return state.model_copy(update={"slots": slots, "about": name})

    depot.change(step)
    return one


def serving(depot: Depot, name: str = NAME) -> bytes:
    """The bytes that serve under a name by the record; nothing where updates put nothing there."""
    path = depot.shelf().installed.get(name)
    return b"" if path is None else path.read_bytes()


def bring(board: Updates, name: str = NAME) -> None:
    """A whole update: stage it, and switch to it; what was watched has proved itself by then."""
    board.depot.change(lambda state: state.settled("its jobs went well") if state.watched else state)
    try:
        staged = board.stage(name, silent)
    except UpdateError as error:
        raise AssertionError(f"not staged: {error}") from error
    assert staged.state == "ready", staged
    board.activate()
