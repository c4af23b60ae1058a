"""Means: what an update on this machine works with, by its settings; the real ones for `updates.Means`."""

from __future__ import annotations

from pathlib import Path

from edge_app import bundle as bundles
from edge_app.config import Settings
from edge_app.errors import UpdateError
from edge_app.measured import Memory
from edge_app.model import Model, open_model
from edge_app.ota import board, clock
from edge_app.ota.candidate import Means, Progress, Repository
from edge_app.ota.clock import Reference
from edge_app.ota.depot import Depot
from edge_app.ota.rehearsal_board import Stage
from edge_app.ota.rehearsal_rule import Rehearsal
from edge_app.ota.state import State
from edge_app.runtime import prepare
from edge_app.updates import Updates
from firmware.profile import BoardProfile, load_profile

_NO_SOURCE = (
    "this board has no repository; name one in its configuration (update_from), or run this on the board with --from "
    "FOLDER-OR-URL"
)


def updates_of(settings: Settings) -> Updates:
    """The updates of the board that the settings name.

    Raises:
        FirmwareError: The board file is wrong.
        UpdateError: The board keeps no updates.
    """
    nominal = load_profile(settings.board)
    state = board.state_of(settings, nominal)
    profile = Memory(nominal, state).profile
    return Updates(Depot(state), means_of(settings, profile, state))


def means_of(settings: Settings, profile: BoardProfile, state: Path) -> Means:
    """What updates of a board work with; nothing is opened before it is asked for."""

    def repository(remembered: State) -> tuple[Repository, Reference]:
        # Loaded when asked: a service that never asks does without the memory of TUF, urllib3 and cryptography.
        from edge_app.ota.fetching import source_of
        from edge_app.ota.repository import Repository, root_of_trust

        if not settings.update_from:
            raise UpdateError(_NO_SOURCE)
        root = root_of_trust(settings.update_root)
        reference = clock.machine_reference(settings.update_clock, remembered.latest)
        folder = Depot(state).repository_folder
        opened = Repository(root, folder, source_of(settings.update_from), reference, seen=remembered.seen)
        return opened, reference

    def opened(path: Path, progress: Progress) -> Model:
        bundle = bundles.read(path)

        def say(what: str, share: float) -> None:
            progress(round(100 * share), 100, f"building {what}")

        prepare(bundle, settings.runtime, say)
        return open_model(path, settings.runtime, settings.threads)

    def rehearsed(old: Model | None, new: Model, progress: Progress) -> Rehearsal:
        from edge_app.ota.rehearsal import rehearse

        stage = Stage(profile, state, seed=int(new.bundle.sha256[:8], 16))
        return rehearse(old, new, stage, progress)

    return Means(
        repository=repository,
        facts=lambda shelf: board.facts_of(settings, profile, shelf, state),
        open_model=opened,
        rehearse=rehearsed,
        channel=settings.update_channel,
    )
