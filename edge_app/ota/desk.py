"""Desk: what a service does with its board's updates: asks, lets a process of its own stage, switches, goes back.

The switch: the new model is opened beside the old one, which goes on answering; then the record names the new one, and
between two looks the hardware thread takes it. Nobody is told Busy, and no look meets both.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass, replace

from edge_app.appliance import Appliance
from edge_app.config import Settings
from edge_app.controller import Controller
from edge_app.errors import AppError, BundleError, Busy, NotReady, RuntimeFailed, StateUnusable, UpdateRefused
from edge_app.journal import log_of
from edge_app.model import Model, ModelSource
from edge_app.ota.staging import Say, staged
from edge_app.ota.state import Slot, Stage, State, Version
from edge_app.ota.watcher import Watcher
from edge_app.shelf import Shelf
from edge_app.updates import Status, Updates, to_leave
from firmware.frames import FrameOptics

FOLLOW_S = 2.0
"""How often a service looks whether another process changed the record."""
_TRIES = 3
_PAUSE = 30
"""How many looks at the record pass before models that could not be opened are tried again: a minute."""
_CLOSE_S = 0.5
"""How long a closing service waits for each of its threads: one that opens a model ends with the process."""
_ASK_S = 1.0
_log = log_of(__name__)


@dataclass(frozen=True)
class Standing(Status):
    """A status, and how many first jobs of the watched model were seen; what the metrics tell."""

    watched_jobs: int = 0


class Desk:
    """The updates of a board that is served; close it with the appliance."""

    def __init__(self, settings: Settings, appliance: Appliance, updates: Updates) -> None:
        self.updates = updates
        self._settings = settings
        self._appliance = appliance
        self._one = threading.Lock()
        self._leaving: threading.Thread | None = None
        self._slots: dict[str, Slot] | None = None
        self._unopened: dict[str, Slot] | None = None
        self._pause = 0
        self._closing = threading.Event()
        self._following: threading.Thread | None = None
        self.watcher = Watcher(appliance, updates.depot, self._leave)
        appliance.tell(self.watcher)

    async def status(self) -> Status:
        """Where updating stands."""
        return await asyncio.to_thread(self.updates.status)

    def standing(self) -> Standing:
        """Where updating stands, from any thread."""
        return Standing(**vars(self.updates.status()), watched_jobs=self.watcher.watched_jobs)

    async def check(self) -> Status:
        """Ask the repository. Raises as `Updates.check`."""
        return await asyncio.to_thread(self.updates.check)

    async def apply(self, name: str, stage_only: bool, say: Say) -> Status:
        """Stage in a process of its own, at the lowest priority, then switch; cancelling ends that process.

        Raises:
            AppError: As `Updates.stage` and `activate`.
        """
        status = await staged(self._settings, name, say)
        if stage_only or status.state != Stage.READY.value:
            return status
        say(0, 0, f"switching to {status.candidate}")
        return await self.activate()

    async def activate(self, candidate: str = "") -> Status:
        """Switch to the candidate, if it is the one of this label, where one is given.

        Raises:
            UpdateRefused: There is none that is ready, or it cannot be opened here.
            Busy: Another switch is under way.
        """
        return await asyncio.to_thread(self._activate, candidate)

    async def roll_back(self, serving: str = "") -> Status:
        """Switch to what served before, if what serves has this label, where one is given.

        Raises:
            UpdateRefused: There is nothing to go back to.
        """
        return await asyncio.to_thread(self._roll_back, serving)

    def attend(self) -> None:
        """Count this start, and later openings; look every now and then whether another process changed the record."""
        self.watcher.begin()
        models = self._appliance.controller.models
        if models.source is not None:
            models.resupply(replace(models.source, around=self.watcher.opening), ())

        def work() -> None:
            while not self._closing.wait(FOLLOW_S):
                self.follow()

        self._following = threading.Thread(target=work, name="parfocal-updates", daemon=True)
        self._following.start()

    def follow(self) -> None:
        """Serve what the record names, where an updater wrote it while nobody answered.

        A new model that cannot be opened here is left, as at a start; any other is tried again, after a pause.
        """
        slots = self.updates.depot.state().slots
        if slots == self._slots or self._rests(slots) or not self._one.acquire(blocking=False):
            return
        try:
            source, shelf = self._appliance.controller.models.source, self.updates.depot.shelf()
            if source is not None and source.shelf != shelf:
                self._switch(shelf, lambda: None)
                _log.info("record followed", installed=", ".join(sorted(shelf.installed)))
            self._slots, self._unopened = slots, None
        except (BundleError, RuntimeFailed) as error:
            if slots != self._unopened:
                _log.error("record not followed", why=str(error), next_try_s=_PAUSE * FOLLOW_S)
            self._unopened, self._pause = slots, _PAUSE
            self._leave_unopened(error)
        except AppError as error:
            _log.warning("record not followed yet", why=str(error))
        finally:
            self._one.release()

    def _rests(self, slots: dict[str, Slot]) -> bool:
        """Whether what this record names could not be opened a moment ago; each asking brings the next try nearer."""
        if slots != self._unopened or self._pause == 0:
            return False
        self._pause -= 1
        return True

    def _leave_unopened(self, error: RuntimeFailed | BundleError) -> None:
        source, depot = self._appliance.controller.models.source, self.updates.depot
        watched = depot.state().watched
        if source is None or watched is None or depot.path_of(watched) in source.shelf.installed.values():
            return
        try:
            depot.change(lambda now: left_out(now, watched.name, error) if now.watched == watched else now)
        except StateUnusable as full:
            _log.error("not remembered", why=str(full))

    def close(self) -> None:
        """Write down what is to be remembered; after the appliance has closed."""
        self._closing.set()
        self.watcher.close()
        for thread in (self._leaving, self._following):
            if thread is not None:
                thread.join(timeout=_CLOSE_S)

    def _activate(self, candidate: str) -> Status:
        with self._alone():
            version = self.updates.ready()
            if candidate and candidate != version.label:
                raise UpdateRefused(f"{version.label} is ready on this board, and not {candidate}")
            depot = self.updates.depot
            shelf = depot.shelf().with_installed(version.name, depot.path_of(version))
            try:
                self._switch(shelf, self.updates.activate)
            except (BundleError, RuntimeFailed) as error:
                why = f"{version.label} cannot be opened by the service: {error}"
                depot.change(lambda state: _turned_away(state, version, why))
                raise UpdateRefused(why) from error
            return self.updates.status()

    def _roll_back(self, serving: str) -> Status:
        with self._alone():
            serves = to_leave(self.updates.depot.state(), serving.partition("@")[0])
            if serving and serving != serves.label:
                raise UpdateRefused(f"{serves.label} serves on this board, and not {serving}")
            self._go_back(serves, "")
            return self.updates.status()

    def _go_back(self, version: Version, why: str) -> None:
        """Switch to what served before a version; call it alone.

        Raises:
            UpdateRefused: It does not serve any more.
            AppError: What served before cannot be opened; nothing has changed.
        """
        depot, state = self.updates.depot, self.updates.depot.state()
        if not state.serves(version):
            raise UpdateRefused(f"{version.label} does not serve on this board any more")
        then = depot.shelf(state.rolled_back(version.name, why))
        self._switch(then, lambda: self.updates.roll_back(version.name, why, version))

    def _switch(self, shelf: Shelf, commit: Callable[[], object]) -> None:
        """Open what this shelf gives for the objective in place, have it remembered, let the hardware thread take it.

        Raises:
            AppError: A model cannot be opened; nothing has changed.
        """
        controller = self._appliance.controller
        before = controller.models.source
        if before is None:
            raise UpdateRefused("this board serves without a model, so that there is none to change")
        source, committed = replace(before, shelf=shelf), False
        for _ in range(_TRIES):
            optics = controller.microscope.optics
            opened = controller.models.all()
            models = [source.model_for(optics, model, model.bundle.manifest.task) for model in opened]
            if not committed:
                commit()
                committed = True
            if self._taken(source, models, optics):
                self.watcher.read_again()
                self.watcher.begin()
                return
        raise Busy("the objective was changed again and again meanwhile; the new model serves after the next start")

    def _taken(self, source: ModelSource, models: Sequence[Model], optics: FrameOptics) -> bool:
        """Have the hardware thread take these models; False where others are wanted by now.

        Raises:
            JobStopped: The appliance is closing.
            NotReady: The hardware thread no longer answers.
        """

        def take(controller: Controller) -> bool:
            tasks = {model.bundle.manifest.task for model in models}
            # Somebody may have been the first to ask a model meanwhile, which the old source gave.
            none_new = all(model.bundle.manifest.task in tasks for model in controller.models.all())
            return none_new and controller.adopt(source, models, optics)

        taken = self._appliance.between(take)
        while not wait([taken], timeout=_ASK_S).done:
            if self._appliance.condemned:
                raise NotReady(self._appliance.condemned)
        return taken.result()

    @contextmanager
    def _alone(self, waits: bool = False) -> Iterator[None]:
        if not self._one.acquire(blocking=waits):
            raise Busy("another switch of models is under way; ask again in a moment")
        try:
            yield
        finally:
            self._one.release()

    def _leave(self, version: Version, why: str) -> None:
        """Go back, from a thread of its own: the hardware thread, which asks for it, has to take the old model."""

        def work() -> None:
            try:
                with self._alone(waits=True):
                    self._go_back(version, why)
            except UpdateRefused as error:
                _log.info("nothing to leave", why=str(error))
            except AppError as error:
                _log.error("not rolled back", why=str(error))
                self.watcher.read_again()

        self._leaving = threading.Thread(target=work, name="parfocal-rollback", daemon=True)
        self._leaving.start()


def to_begin_with(updates: Updates) -> State:
    """What a service begins with; a new model with which it began again and again without success is left first.

    Raises:
        StateUnusable: The disk does not take it.
    """
    state = updates.depot.state()
    watched = state.watched
    if watched is None:
        return state
    if updates.depot.path_of(watched) not in updates.depot.shelf(state).served():
        why = f"{watched.label} does not serve any more, since what ships is newer or its file is damaged"
        return updates.depot.change(lambda now: now.settled(why) if now.watched == watched else now)
    if state.starts >= _TRIES:
        times = f"the service ended {state.starts} times before it finished a job with it"
        why = f"{watched.label} was left again: {times}"
        _log.error("model rolled back", model=watched.label, why=why)
        return updates.depot.change(lambda now: now.rolled_back(watched.name, why) if now.watched == watched else now)
    return state


def left_out(state: State, name: str, error: RuntimeFailed | BundleError) -> State:
    """The state after the model that updates put under a name was left, since it cannot be opened."""
    left = state.slots[name].serving
    assert left is not None
    return state.rolled_back(name, f"{left.label} was left since it could not be opened: {error}")


def _turned_away(state: State, version: Version, why: str) -> State:
    """The state after a candidate could not be opened for the switch, whether the record names it already or not."""
    return state.rolled_back(version.name, why) if state.serves(version) else state.refused(version, why)
