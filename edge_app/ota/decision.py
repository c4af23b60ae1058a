"""Decision: which bundle of a catalogue a board should take, and whether it is for this board. Pure.

A board follows the bundles that it uses, by name: a newer version of one of them is for it. Another name has to be
asked for. What it takes by itself obeys the hold and the share of the catalogue, and its own hold; what somebody asked
for by name does not. No version is tried twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from edge_app.bundle import Manifest
from edge_app.ota.catalogue import Catalogue, Entry, order_of
from edge_app.ota.state import State, Version
from edge_app.ota.watch_rule import LOOKS
from firmware.frames import FrameOptics

CUT_OFF_AT_MOST = 3
"""So often one candidate may end the process that looks at it, before it is given up."""
_RANGE_SHARE = 0.95


@dataclass(frozen=True)
class InUse:
    """A bundle that a board uses for at least one of its objectives."""

    manifest: Manifest
    sha256: str

    @property
    def label(self) -> str:
        """Name and version."""
        return self.manifest.label


@dataclass(frozen=True)
class Facts:
    """What there is to know of a board before it takes anything.

    `uses` are the bundles in use by name; `optics` those of its objectives; `pinned` says why its models are not
    to be changed, or ""; `has_curves` whether focus curves were recorded, which are worth nothing with another model;
    `main` names the bundle for defocus behind the first objective.
    """

    board_id: str
    uses: dict[str, InUse]
    optics: tuple[FrameOptics, ...]
    hold: bool = False
    pinned: str = ""
    has_curves: bool = False
    main: str = ""


@dataclass(frozen=True)
class Offer:
    """The bundles to take, one for each name: the first of them that turns out to be for this board."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Nothing:
    """That there is nothing to take, and why; `unmet` where somebody asked for something that is not to be had."""

    why: str
    unmet: bool = False


def choose(catalogue: Catalogue, facts: Facts, state: State, name: str = "") -> Offer | Nothing:
    """What a board should take from a catalogue: the newest of what it uses, or of `name` if that is given."""
    if facts.pinned:
        return Nothing(facts.pinned)
    if name:
        return _asked(catalogue, facts, state, name)
    if facts.hold:
        return Nothing(
            "updates are held on this board (update_hold); ask for a bundle by name to have it nevertheless"
        )
    if catalogue.hold:
        return Nothing(f"whoever publishes holds the channel {catalogue.channel}; nothing is to be done here")
    takeable: dict[str, Entry] = {}
    reasons = []
    for entry in _newer(catalogue, facts):
        why = _not_yet(entry, facts, state)
        if why:
            reasons.append(why)
        else:
            takeable.setdefault(entry.name, entry)
    if takeable:
        return Offer(tuple(takeable.values()))
    if reasons:
        return Nothing("; ".join(reasons))
    used = ", ".join(sorted(use.label for use in facts.uses.values()))
    return Nothing(f"{used}: the channel {catalogue.channel} has nothing newer")


def unfit(manifest: Manifest, entry: Entry, facts: Facts) -> str:
    """Why a bundle that is what was signed is not for this board, or "" if it is."""
    if (manifest.name, manifest.version, manifest.task) != (entry.name, entry.version, entry.task):
        return f"the catalogue calls it {entry.label} for {entry.task}, and it is {manifest.label} for {manifest.task}"
    refusals = [manifest.passport.check(optics) for optics in facts.optics]
    refused = [refusal[1] for refusal in refusals if refusal is not None]
    if len(refused) == len(refusals):
        return f"it is for other optics than this board's: {refused[0] if refused else 'it has none'}"
    before = facts.uses.get(manifest.name)
    if before is not None:
        for optics, refusal in zip(facts.optics, refusals, strict=True):
            if refusal is not None and before.manifest.passport.check(optics) is None:
                return f"{before.label} serves an objective of this board that it is not for: {refusal[1]}"
        reach_um, had_um = manifest.passport.range_um, before.manifest.passport.range_um
        if reach_um is not None and had_um is not None and reach_um < _RANGE_SHARE * had_um:
            return f"it can tell +-{reach_um:g} um of defocus, and {before.label} +-{had_um:g} um"
        if before.manifest.task != manifest.task:
            return f"it is for {manifest.task}, and {before.label} for {before.manifest.task}"
    return ""


def cut_off(version: Version, state: State) -> str:
    """Why a candidate is given up that ended the process again and again that looked at it, or ""."""
    if state.tries.get(version.sha256, 0) < CUT_OFF_AT_MOST:
        return ""
    return (
        f"{version.label} was opened and rehearsed {CUT_OFF_AT_MOST} times on this board and never to an end: the "
        "process crashed, was killed, for want of memory or time perhaps, or lost its power; the log may say which"
    )


def covers(share: float, board_id: str, label: str) -> bool:
    """Whether a board is in the share that takes a version first; drawn anew for each version, the same each time."""
    drawn = int.from_bytes(hashlib.sha256(f"{label} {board_id}".encode()).digest()[:8], "big")
    return drawn < share * 2.0**64


def _newer(catalogue: Catalogue, facts: Facts) -> list[Entry]:
    """What is newer than what is in use: defocus first, then by name, the newest first."""

    def rank(entry: Entry) -> tuple[bool, str, tuple[int, ...]]:
        return entry.task != "defocus", entry.name, tuple(-part for part in order_of(entry.version))

    found = []
    for entry in catalogue.bundles:
        use = facts.uses.get(entry.name)
        if use is not None and _order(entry.version) > _order(use.manifest.version):
            found.append(entry)
    return sorted(found, key=rank)


def _not_yet(entry: Entry, facts: Facts, state: State) -> str:
    bad = state.is_bad(entry.label, entry.sha256)
    if bad:
        return _tried(entry.label, bad)
    if state.watched is not None and state.watched.name == entry.name:
        return f"{state.watched.label} is new and its first jobs are watched; {entry.label} follows after them"
    if not covers(entry.share, facts.board_id, entry.label):
        return f"{entry.label} goes to {entry.share:.0%} of the boards first, and this is none of them"
    return _untimely(entry, facts)


def _untimely(entry: Entry, facts: Facts) -> str:
    """Why a bundle must wait until somebody sees to something, or ""."""
    if entry.task == "sharpness" and facts.has_curves:
        return (
            f"{entry.label} waits: focus curves were recorded with the model in service and are worth nothing with "
            "another; remove them, update, and run `parfocal calibrate focus` again"
        )
    return ""


def _tried(label: str, why: str) -> str:
    return f"{label} was tried and is not tried again: {why}; `parfocal update forget {label}` lifts that"


def _asked(catalogue: Catalogue, facts: Facts, state: State, name: str) -> Offer | Nothing:
    entries: Sequence[Entry] = [entry for entry in catalogue.bundles if entry.name == name]
    if not entries:
        names = ", ".join(sorted({entry.name for entry in catalogue.bundles})) or "nothing"
        return Nothing(f"the channel {catalogue.channel} has no bundle {name!r}; it has {names}", unmet=True)
    newest = max(entries, key=lambda entry: order_of(entry.version))
    bad = state.is_bad(newest.label, newest.sha256)
    if bad:
        return Nothing(_tried(newest.label, bad), unmet=True)
    use = facts.uses.get(name)
    if use is not None and _order(use.manifest.version) >= order_of(newest.version):
        return Nothing(f"{use.label} serves, and the channel {catalogue.channel} has nothing newer")
    if state.watched is not None and state.watched.name == name:
        return Nothing(
            f"{state.watched.label} is still being watched (its first {LOOKS[-1]} jobs); roll it back first, or wait",
            unmet=True,
        )
    untimely = _untimely(newest, facts)
    return Nothing(untimely, unmet=True) if untimely else Offer((newest,))


def _order(version: str) -> tuple[int, ...]:
    """A bundle of somebody's own may be numbered in another way; it counts as older than any."""
    try:
        return order_of(version)
    except ValueError:
        return ()
