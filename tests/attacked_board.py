"""A board that follows a repository, with a model in service, for stories in which somebody is against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest
from repository_simulator import NOW, Simulator
from tiny_bundle import NAME, tiny

from edge_app import bundle as bundles
from edge_app.errors import AppError
from edge_app.model import Model, open_model
from edge_app.ota.candidate import Means, Progress
from edge_app.ota.clock import Policy, Reference, reference
from edge_app.ota.decision import Facts, InUse
from edge_app.ota.depot import Depot
from edge_app.ota.disk import Disk
from edge_app.ota.rehearsal_rule import Pair, Rehearsal, Trial
from edge_app.ota.repository import Repository
from edge_app.ota.source import Source
from edge_app.ota.state import State
from edge_app.shelf import Shelf
from edge_app.updates import Status, Updates
from firmware.clock import ManualClock
from firmware.profile import load_profile

_PROFILE = load_profile("simulated_tiny")
OPTICS = (_PROFILE.frame_optics(_PROFILE.objective[0]),)
OLD, NEW = tiny("1.0.0"), tiny("1.1.0")


def quiet(done: int, total: int, text: str) -> None:
    """Tell nobody."""


def as_good(old: Model | None, new: Model, progress: Progress) -> Rehearsal:
    """A rehearsal in which both focus alike; for stories that are not about focus."""
    trial = Trial(start=5.0, end=0.2, looks=1.0, claims=True)
    pairs = tuple(Pair(f"field {number}", trial if old else None, trial) for number in range(32))
    return Rehearsal("defocus", "single_shot", "a stand-in", old.label if old else "", new.label, pairs, 1.0)


@dataclass
class Board:
    """A board, its memory in a folder, its clock, and whom it asks.

    Attributes:
        folder: Its state.
        root: Its root of trust.
        source: Whom it asks.
        now: What its clock says.
        synchronised: Whether a time server has set that.
        policy: Its `update_clock`.
        patience: The clock of the fetcher's bounds and pauses.
    """

    folder: Path
    root: bytes
    source: Source
    now: datetime = NOW
    synchronised: bool = True
    policy: Policy = "floor"
    patience: ManualClock = field(default_factory=ManualClock)

    def updates(self, disk: Disk | None = None) -> Updates:
        """What `parfocal update` works with, as after a fresh start."""
        return Updates(Depot(self.folder, disk), self.means())

    def means(self) -> Means:
        """Whom it asks, what it is, and a rehearsal that any model passes."""

        def repository(state: State) -> tuple[Repository, Reference]:
            by = reference(self.policy, self.now, self.synchronised, state.latest)
            folder = Depot(self.folder).repository_folder
            return Repository(self.root, folder, self.source, by, seen=state.seen, clock=self.patience), by

        return Means(
            repository=repository,
            facts=self._facts,
            open_model=lambda path, _: open_model(path, "onnxruntime", threads=1),
            rehearse=as_good,
        )

    def stage(self) -> Status:
        """Bring what there is as far as the switch."""
        return self.updates().stage("", quiet)

    def take(self, name: str = "") -> Status:
        """Take what there is into service, and have it prove itself."""
        self.updates().stage(name, quiet)
        self.updates().activate()
        Depot(self.folder).change(lambda state: state.settled("its first jobs went well"))
        return self.updates().status()

    def served(self) -> bytes:
        """The bytes of the bundle in service, as after a fresh start."""
        return Depot(self.folder).shelf().find(NAME).read_bytes()

    def refuses(self, kind: type[AppError], *words: str) -> str:
        """See an update end with the old model in service and one sentence that has these words; gives it."""
        with pytest.raises(kind) as caught:
            self.stage()
        assert type(caught.value) is kind
        said = str(caught.value)
        missing = [word for word in words if word not in said]
        assert not missing, said
        assert "\n" not in said
        assert self.served() == OLD
        status = self.updates().status()
        assert status.serving == f"{NAME}@1.0.0"
        assert said in status.reason
        return said

    def _facts(self, shelf: Shelf) -> Facts:
        uses = {}
        if NAME in shelf.installed:
            found = bundles.read(shelf.find(NAME))
            uses[NAME] = InUse(found.manifest, found.sha256)
        return Facts("board-1", uses, OPTICS)


def board_with_old(folder: Path, simulator: Simulator) -> Board:
    """A board on which version 1.0.0 serves; 1.1.0 is published thereafter."""
    simulator.offer(OLD, NAME, "1.0.0")
    simulator.publish()
    board = Board(folder, simulator.bootstrap(), simulator)
    board.take(NAME)
    assert board.served() == OLD
    return board
