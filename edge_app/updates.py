"""Updates: from a repository to a model that serves, in an order in which the old one serves until the new one does.

fetch -> verify -> stage beside the old one -> open and compare with the golden outputs -> rehearse -> switch -> watch.
What is to be done is decided in `ota/decision.py`, `ota/rehearsal_rule.py` and `ota/watch_rule.py`, which are pure;
what is remembered changes by the steps of `ota/state.py`, one whole record at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edge_app import bundle as bundles
from edge_app.errors import AppError, RepositoryUnreachable, StateUnusable, UpdateError, UpdateRefused, UpdateUnfit
from edge_app.journal import log_of
from edge_app.ota import board, decision
from edge_app.ota.candidate import Candidate, Means, Progress, Repository, version_of
from edge_app.ota.catalogue import Catalogue, Entry
from edge_app.ota.decision import Facts, Nothing, Offer
from edge_app.ota.depot import Depot
from edge_app.ota.state import Stage, State, Version
from firmware.errors import FirmwareError

_CUT_OFF = "the last update was cut off before it was done; `parfocal update apply` goes on with it"
_log = log_of(__name__)


@dataclass(frozen=True)
class Status:
    """Where updating stands: labels of models, "" for none; the state by name; why, in one sentence.

    `bad_versions` counts what is remembered and not taken again; the metrics tell it, and no verb.
    """

    serving: str
    previous: str
    candidate: str
    state: str
    reason: str
    bad_versions: int = 0

    def as_json(self) -> dict[str, Any]:
        """What the verbs tell, as plain values."""
        return {name: value for name, value in asdict(self).items() if name != "bad_versions"}


@dataclass(frozen=True)
class _Learnt:
    """What a repository said that was believed."""

    state: State
    repository: Repository
    catalogue: Catalogue
    note: str

    def with_note(self, why: str) -> str:
        return f"{why}; {self.note}" if self.note else why


class Updates:
    """A board's updates: what they have put into service, and how the next one gets there."""

    def __init__(self, depot: Depot, means: Means) -> None:
        self.depot = depot
        self._means = means
        self._known: tuple[State, Status] | None = None

    def status(self) -> Status:
        """Where updating stands."""
        state = self.depot.state()
        if state.stage is Stage.STAGING and not self.depot.is_updating():
            state = state.failed(_CUT_OFF)
        known = self._known
        if known is None or known[0] != state:
            known = state, status_of(state, self._means.facts(self.depot.shelf(state)))
            self._known = known
        return known[1]

    def serves(self, label: str) -> bool:
        """Whether this board uses a model, for whichever of its objectives and tasks."""
        uses = self._means.facts(self.depot.shelf()).uses
        return any(use.label == label for use in uses.values())

    def check(self) -> Status:
        """Ask the repository whether it has something newer; nothing that serves changes.

        Raises:
            RepositoryUnreachable, RepositoryUntrusted, UpdateError: It cannot be asked, or must not be believed.
        """
        with self.depot.updating():
            learnt = self._learn()
            facts = self._means.facts(self.depot.shelf(learnt.state))
            found = decision.choose(learnt.catalogue, facts, learnt.state)
            if isinstance(found, Nothing):
                return self._nothing(found, learnt, facts)
            first = found.entries[0].label
            where = f"{first} is in the channel {learnt.catalogue.channel}"
            why = learnt.with_note(f"{where}; `parfocal update apply` takes it")
            now = status_of(learnt.state, facts)
            return replace(now, candidate=first, state=Stage.AVAILABLE.value, reason=why)

    def stage(self, name: str, progress: Progress) -> Status:
        """Bring a newer bundle as far as the switch: fetched, verified, opened and rehearsed on this board.

        Args:
            name: The bundle by name; "" for what this board uses.
            progress: Told what is done, of how much, and of what.

        Returns:
            READY, or where it stood before if there is nothing to take.

        Raises:
            RepositoryUnreachable, RepositoryUntrusted: It cannot be had, or must not be believed; another day it may.
            UpdateRefused: It is not for this board, or focuses worse; it is not tried again.
            StateUnusable, UpdateError: The board's own disk or clock is in the way.
            Busy: Another update is under way.
        """
        with self.depot.updating():
            waiting = self._waiting()
            progress(0, 0, "asking the repository")
            try:
                learnt = self._learn()
            except RepositoryUnreachable:
                if waiting is not None and name in ("", waiting.name):
                    return self.status()
                raise
            facts = self._means.facts(self.depot.shelf(learnt.state))
            found = decision.choose(learnt.catalogue, facts, learnt.state, name)
            if waiting is not None and (isinstance(found, Offer) or name in ("", waiting.name)):
                if isinstance(found, Offer) and any(entry.sha256 == waiting.sha256 for entry in found.entries):
                    return self.status()
                left = _why_dropped(waiting, name)
                progress(0, 0, left)
                learnt = self._dropped(learnt, left)
            if isinstance(found, Nothing):
                return self._nothing(found, learnt, facts, name)
            return self._first_staged(found.entries, learnt, facts, progress)

    def activate(self) -> Status:
        """Have the candidate serve, by the record; whoever serves reads it anew.

        Raises:
            UpdateRefused: There is none that is ready.
        """
        version = self.ready()
        uses = self._means.facts(self.depot.shelf()).uses
        task = bundles.read(self.depot.path_of(version)).manifest.task
        rivals = [use.sha256 for use in uses.values() if use.manifest.task == task]
        replaced = uses[version.name].sha256 if version.name in uses else next(iter(rivals), "")
        state = self.depot.change(lambda state: _activated(state, replaced))
        _log.info("model activated", model=state.watched.label if state.watched else "")
        return self.status()

    def ready(self) -> Version:
        """The candidate that waits for its activation.

        Raises:
            UpdateRefused: There is none.
        """
        version = self._waiting()
        if version is None:
            raise UpdateRefused("there is no candidate that is ready; run `parfocal update apply`")
        return version

    def forgive(self, label: str) -> Status:
        """Let a version be tried again that was refused or left.

        Raises:
            UpdateError: There is none of that label.
        """
        state = self.depot.state()
        if all(bad.label != label for bad in state.bad):
            known = ", ".join(bad.label for bad in state.bad) or "none"
            raise UpdateError(f"{label} was never refused or left on this board; those that were: {known}")
        self.depot.change(lambda state: state.forgiven(label))
        return self.status()

    def roll_back(self, name: str = "", why: str = "", only: Version | None = None) -> Status:
        """Have serve again what served before, by the record; what is left is not taken a second time.

        Raises:
            UpdateRefused: There is nothing to go back to, or `only` is given and does not serve any more; or several
                serve, and nobody says which is meant.
        """

        def step(state: State) -> State:
            if only is not None and not state.serves(only):
                raise UpdateRefused(f"{only.label} does not serve on this board any more")
            left = to_leave(state, name)
            reason = why or f"{left.label} was left because somebody asked for it"
            return state.rolled_back(left.name, reason)

        left = self.depot.change(step).bad[-1]
        _log.warning("model rolled back", model=left.label, why=left.why)
        return self.status()

    def _waiting(self) -> Version | None:
        """The candidate that waits for its activation, if one does and its bytes are there."""
        state = self.depot.state()
        if state.stage is Stage.READY and state.candidate is not None and self.depot.has(state.candidate):
            return state.candidate
        return None

    def _learn(self) -> _Learnt:
        """Ask the repository, and remember what may not sink again before anybody relies on it."""
        try:
            return self._asked()
        except RepositoryUnreachable as error:
            reason = str(error)
            self._note(lambda state: state if state.stage is Stage.READY else state.failed(reason))
            raise
        except AppError as error:
            reason = str(error)
            self._note(lambda state: state.failed(reason))
            raise

    def _asked(self) -> _Learnt:
        before = self.depot.state()
        repository, reference = self._means.repository(before)
        catalogue = repository.catalogue(self._means.channel)
        repository.settle()
        learnt = {"seen": dict(repository.versions), "latest": reference.remember or before.latest}
        offered = {entry.sha256 for entry in catalogue.bundles}
        state = self.depot.change(lambda state: state.looked(offered).model_copy(update=learnt))
        if reference.note:
            _log.warning("clock", why=reference.note)
        return _Learnt(state, repository, catalogue, reference.note)

    def _nothing(self, found: Nothing, learnt: _Learnt, facts: Facts, name: str = "") -> Status:
        """Where the board stands with nothing to take; what was cut off and is not offered any more is left for good.

        Raises:
            UpdateError: Somebody asked for it.
        """
        left = learnt.state.candidate
        if learnt.state.stage is Stage.STAGING and left is not None and name in ("", left.name):
            learnt = self._dropped(learnt, f"{left.label} was cut off before it was done and is no longer offered")
        if found.unmet:
            raise UpdateError(found.why)
        status = replace(status_of(learnt.state, facts), reason=learnt.with_note(found.why))
        if learnt.state.stage is Stage.READY and left is not None and name not in ("", left.name):
            # Whoever is told READY switches, and nobody asked for that one.
            why = f"{status.reason}; {left.label} is ready, and stays so"
            status = replace(status, candidate="", state=Stage.IDLE.value, reason=why)
        return status

    def _dropped(self, learnt: _Learnt, why: str) -> _Learnt:
        return replace(learnt, state=self.depot.change(lambda state: state.failed(why)), note=learnt.with_note(why))

    def _first_staged(self, entries: Sequence[Entry], learnt: _Learnt, facts: Facts, progress: Progress) -> Status:
        """Stage the first of these that has not to wait for another day or another setting."""
        first, *further = entries
        try:
            return self._staged(first, learnt, facts, progress)
        except UpdateError as error:
            if type(error) not in (UpdateError, UpdateUnfit) or not further:
                raise
        return self._first_staged(further, learnt, facts, progress)

    def _staged(self, entry: Entry, learnt: _Learnt, facts: Facts, progress: Progress) -> Status:
        version = version_of(entry)
        _log.info("candidate found", model=version.label, channel=self._means.channel)
        try:
            found = Candidate(self.depot, self._means, progress).staged(entry, learnt.repository, facts)
            why = learnt.with_note(found)
            self.depot.change(lambda state: state.ready(version, why))
        except UpdateRefused as error:
            reason, fit = str(error), not isinstance(error, UpdateUnfit)
            self._note(lambda state: state.refused(version, reason) if fit else state.unfit(version, reason))
            _log.warning("candidate refused", model=version.label, why=reason)
            raise
        except (AppError, FirmwareError, OSError) as error:
            reason = str(error)
            self._note(lambda state: state.ended(version).failed(reason))
            _log.warning("update failed", model=version.label, why=reason)
            raise
        _log.info("candidate ready", model=version.label, why=why)
        return self.status()

    def _note(self, step: Callable[[State], State]) -> None:
        """Remember how it went; that this cannot be written is said by what went wrong before."""
        try:
            self.depot.change(step)
        except StateUnusable as error:
            _log.error("not remembered", why=str(error))


def status_of(state: State, facts: Facts) -> Status:
    """A state in words, by what the board uses."""
    about = state.watched.name if state.watched else state.about
    about = about if about in facts.uses else facts.main
    slot = state.slots.get(about)
    serving, previous = facts.uses[about].label if about in facts.uses else "", ""
    if slot is not None and slot.serving is not None:
        before = board.ships(about)
        previous = slot.previous.label if slot.previous else before.manifest.label if before else ""
    candidate = state.candidate.label if state.candidate else ""
    return Status(serving, previous, candidate, state.stage.value, state.reason, len(state.bad))


def _why_dropped(waiting: Version, name: str) -> str:
    if name in ("", waiting.name):
        return f"{waiting.label} was ready and is no longer what the channel offers this board"
    return f"{name} was asked for by name and takes the place of {waiting.label}, which was ready"


def to_leave(state: State, name: str = "") -> Version:
    """What a rollback leaves: what serves under a name; without one what is watched, was told of, or is the only one.

    Raises:
        UpdateRefused: There is nothing to go back to, or nobody can know which of several is meant.
    """
    updated = {one: slot.serving for one, slot in state.slots.items() if slot.serving is not None}
    watched = state.watched.name if state.watched else ""
    for meant in (name,) if name else (watched, state.about):
        if meant in updated:
            return updated[meant]
    if len(updated) == 1 and not name:
        return next(iter(updated.values()))
    if updated:
        labels = ", ".join(sorted(version.label for version in updated.values()))
        if name:
            raise UpdateRefused(f"{name} is not in service by an update; those that are: {labels}")
        raise UpdateRefused(f"updates put {labels} into service; say which is to be left (--leaving NAME@VERSION)")
    raise UpdateRefused("the models that ship serve; there is nothing to go back to")


def _activated(state: State, replaced: str) -> State:
    if state.candidate is None or state.stage is not Stage.READY:
        raise UpdateRefused("there is no candidate that is ready; run `parfocal update apply`")
    label = state.candidate.label
    return state.activated(f"{label} serves, and its first jobs are watched: {state.reason}", replaced)
