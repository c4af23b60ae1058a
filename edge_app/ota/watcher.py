"""Watcher: counts how the focus jobs of each model end, and says when a new one has proved itself or must be left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_app import bundle as bundles
from edge_app.appliance import Appliance
from edge_app.controller import task_of
from edge_app.errors import BundleError, RuntimeFailed, StateUnusable
from edge_app.job import Look, Outcome
from edge_app.journal import log_of
from edge_app.ota.depot import Depot
from edge_app.ota.history import History
from edge_app.ota.state import State, Version
from edge_app.ota.tally import Tally
from edge_app.ota.watch_rule import judge

_log = log_of(__name__)


class Watcher:
    """Hears of an appliance's jobs (`record.Listener`), on the hardware thread; the rest may be called from any.

    `leave` is told which version must be left, and why; it returns at once, and its work is done elsewhere.
    """

    def __init__(self, appliance: Appliance, depot: Depot, leave: Callable[[Version, str], None]) -> None:
        self._appliance = appliance
        self._depot = depot
        self._leave = leave
        self._history = History(depot.folder)
        self._lock = threading.RLock()
        self._begun: Version | None = None
        self.read_again()

    def read_again(self) -> None:
        """Another model may be the one to watch."""
        with self._lock:
            state = self._depot.state()
            self._watched, self._replaced = state.watched, state.replaced
            self._over, self._task = False, ""
            if state.watched is None:
                return
            if not state.counted:
                self._begin_anew(state.watched)
            with suppress(BundleError):
                self._task = bundles.read(self._depot.path_of(state.watched)).manifest.task

    @property
    def watched_jobs(self) -> int:
        """How many first jobs of the watched model were seen."""
        watched = self._watched
        return self._history.of(watched.sha256).jobs if watched else 0

    def begin(self) -> None:
        """The watched model is open: that the service ends counts against it, until it has proved itself."""
        watched = self._depot.state().watched
        models = self._appliance.controller.models.all()
        if watched is not None and watched.sha256 in {model.bundle.sha256 for model in models}:
            self._begin(watched)

    @contextmanager
    def opening(self, path: Path) -> Iterator[None]:
        """As `begin` from here on, where this opens the watched model; an opening that only fails does not count."""
        watched = self._depot.state().watched
        begun = watched is not None and self._depot.path_of(watched) == path and self._begin(watched)
        try:
            yield
        except BaseException:
            if begun:
                self._end(State.not_begun)
            raise

    def looked(self, look: Look) -> None:
        """Looks alone say nothing of whether focusing works, only that the model can be asked."""
        begun, model = self._begun, self._appliance.controller.models.loaded(look.task)
        if begun is None or model is None or "infer" not in look.stage_ms:
            return
        if model.bundle.sha256 == begun.sha256:
            self._end(State.proved)

    def ended(self, name: str, end: object) -> None:
        """Count a focus job, and judge the watched model by it."""
        if name != "focus":
            return
        with self._lock:
            if isinstance(end, Outcome):
                self._count(task_of(end.strategy), lambda tally: tally.after(end))
            elif isinstance(end, RuntimeFailed | BundleError):
                self._count(self._appliance.unanswered, Tally.after_failure)

    def close(self) -> None:
        """Write down what was counted; the service comes to a clean end."""
        with self._lock:
            self._history.write()
            self._end(State.proved)

    def _begin_anew(self, watched: Version) -> None:
        """What a version did before it was left or replaced says nothing of this switch to it."""
        self._history.note(watched.sha256, Tally(), at_once=True)
        self._remember(watched, State.counting)

    def _begin(self, watched: Version) -> bool:
        """Count this service against a version, once; whether that was done now."""
        with self._lock:
            if self._begun == watched:
                return False
            self._begun = watched
            return self._remember(watched, State.begun)

    def _end(self, step: Callable[[State], State]) -> None:
        """Whatever ends this service from here on no longer counts."""
        with self._lock:
            begun, self._begun = self._begun, None
            if begun is not None:
                self._remember(begun, step)

    def _remember(self, watched: Version, step: Callable[[State], State]) -> bool:
        """Take a step of the record while this version is watched; False where the disk does not take it."""
        try:
            self._depot.change(lambda state: step(state) if state.watched == watched else state)
        except StateUnusable as error:
            _log.error("not remembered", why=str(error))
            return False
        return True

    def _count(self, task: str, more: Callable[[Tally], Tally]) -> None:
        model = self._appliance.controller.models.loaded(task)
        if model is not None:
            sha256 = model.bundle.sha256
        elif task == self._task and self._watched is not None:
            sha256 = self._watched.sha256  # it could not even be opened
        else:
            return
        watched = self._watched is not None and self._watched.sha256 == sha256
        before = self._history.of(sha256) if watched else self._history.of(sha256).shortened()
        self._history.note(sha256, more(before), at_once=watched)
        if watched and not self._over:
            self._end(State.proved)
            self._judge(sha256)

    def _judge(self, sha256: str) -> None:
        assert self._watched is not None
        found = judge(self._history.of(sha256), self._history.of(self._replaced))
        if found.state == "worse":
            self._over = True
            self._leave(self._watched, f"{self._watched.label} was left again after its first jobs: {found.why}")
        elif found.state == "settled":
            self._over = True
            _log.info("model settled", model=self._watched.label, why=found.why)
            self._remember(self._watched, lambda state: state.settled(found.why))
            self._watched = None
