"""Board: what an update has to know of the board that it is for, read from its settings, its profile and its shelf."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from edge_app import bundle as bundles
from edge_app.answer import DEFOCUS
from edge_app.bundle import SUFFIX, Manifest, ModelBundle
from edge_app.config import Settings, state_folder
from edge_app.curves import ENDING
from edge_app.errors import BundleError, UpdateError
from edge_app.ota.decision import Facts, InUse
from edge_app.selection import FACTORY, best_by_task, preferred
from edge_app.shelf import Shelf
from firmware.frames import FrameOptics
from firmware.profile import BoardProfile

_MACHINE_ID = Path("/etc/machine-id")


def state_of(settings: Settings, profile: BoardProfile) -> Path:
    """The folder in which a board keeps its updates.

    Raises:
        UpdateError: A simulated board keeps nothing unless a folder is named.
    """
    if settings.state is None and profile.simulation is not None:
        raise UpdateError(
            "a simulated board keeps no updates unless a folder is named for them; name one with --state"
        )
    return settings.state or state_folder()


def facts_of(settings: Settings, profile: BoardProfile, shelf: Shelf, state: Path) -> Facts:
    """What there is to know of a board; the bundles that it uses are those of its shelf that its objectives get."""
    optics = tuple(profile.frame_optics(objective) for objective in profile.objective)
    readable = [bundle for _, bundle in shelf.readable()]
    manifests = [bundle.manifest for bundle in readable]
    best = {index for seen in optics for index in best_by_task(manifests, seen)}
    uses = [readable[index] for index in sorted(best)]
    named = next((bundle for bundle in readable if bundle.manifest.name == settings.bundle), None)
    if named is not None:
        uses = [named, *(bundle for bundle in uses if bundle.manifest.task != named.manifest.task)]
    return Facts(
        board_id=board_id(settings.board_id),
        uses={bundle.manifest.name: _in_use(bundle) for bundle in uses},
        optics=optics,
        hold=settings.update_hold,
        pinned="" if named is not None else _pinned(settings.bundle),
        main=_main([bundle.manifest for bundle in uses], optics),
        has_curves=any(state.glob(f"*{ENDING}")),
    )


def ships(name: str) -> ModelBundle | None:
    """The bundle that ships under a name, if there is one that can be read."""
    with suppress(BundleError):
        return bundles.read(bundles.FACTORY / f"{name}{SUFFIX}")
    return None


def board_id(given: str, machine_id: Path = _MACHINE_ID) -> str:
    """What tells this board from others: what was given, else its machine's id, which is not shown to others."""
    if given:
        return given
    with suppress(OSError):
        return hashlib.sha256(b"parfocal " + machine_id.read_bytes().strip()).hexdigest()[:16]
    return socket.gethostname()


def _main(manifests: Sequence[Manifest], optics: Sequence[FrameOptics]) -> str:
    """The name of the bundle that measures defocus behind the first objective, or ""."""
    measuring = [manifest for manifest in manifests if manifest.task == DEFOCUS]
    first = preferred(measuring, optics[0])
    return "" if first is None else measuring[first].name


def _in_use(bundle: ModelBundle) -> InUse:
    return InUse(bundle.manifest, bundle.sha256)


def _pinned(bundle: str) -> str:
    if bundle == FACTORY:
        return ""
    if bundle == "none":
        return 'this board serves without a model (bundle = "none"); updates change nothing there'
    return f'the configuration names the bundle {bundle}, which updates leave alone; "factory" has them'
