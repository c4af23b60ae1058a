"""Watcher: counts how the focus jobs of each model end, and says when a new one has proved itself or must be left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from edge_app import bundle as bundles
from edge_app.appliance import Appliance
from edge_app.controller import task_of
from edge_app.errors import BundleError, RuntimeFailed, StateUnusable
from edge_app.job import Look, Outcome
from edge_app.journal import log_of
from edge_app.ota.depot import Depot
from edge_app.ota.history import History
from edge_app.ota.state import Version
from edge_app.ota.tally import Tally
from edge_app.ota.watch_rule import judge

_log = log_of(__name__)


class Watcher:
    """Hears of an appliance's jobs (`record.Listener`), on the hardware thread.

    `leave` is told which version must be left, and why; it returns at once, and its work is done elsewhere.
    """

    def __init__(self, appliance: Appliance, depot: Depot, leave: Callable[[Version, str], None]) -> None:
        self._appliance = appliance
        self._depot = depot
        self._leave = leave
        self._history = History(depot.folder)
        self._over = False
        self.read_again()

    def read_again(self) -> None:
        """Another model may be the one to watch."""
        state = self._depot.state()
        if state.watched is not None and not state.counted:
            self._begin_anew(state.watched)
        self._watched, self._replaced, self._starts = state.watched, state.replaced, state.starts
        self._over, self._task = False, ""
        if state.watched is not None:
            with suppress(BundleError):
                self._task = bundles.read(self._depot.path_of(state.watched)).manifest.task

    @property
    def watched_jobs(self) -> int:
        """How many first jobs of the watched model were seen."""
        return self._history.of(self._watched.sha256).jobs if self._watched else 0

    def looked(self, look: Look) -> None:
        """Looks alone say nothing of whether focusing works, only that the model can be asked."""
        if self._starts and "infer" in look.stage_ms and look.task == self._task:
            self._prove()

    def ended(self, name: str, end: object) -> None:
        """Count a focus job, and judge the watched model by it."""
        if name != "focus":
            return
        if isinstance(end, Outcome):
            self._count(task_of(end.strategy), lambda tally: tally.after(end))
        elif isinstance(end, RuntimeFailed | BundleError):
            self._count(self._appliance.unanswered, Tally.after_failure)

    def close(self) -> None:
        """Write down what was counted; the service comes to a clean end."""
        self._history.write()
        self._prove()

    def _begin_anew(self, watched: Version) -> None:
        """What a version did before it was left or replaced says nothing of this switch to it."""
        self._history.note(watched.sha256, Tally(), at_once=True)
        try:
            self._depot.change(lambda state: state.counting() if state.watched == watched else state)
        except StateUnusable as error:
            _log.error("not remembered", why=str(error))

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
            self._prove()
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
            self._change_to_settled(found.why)

    def _change_to_settled(self, why: str) -> None:
        watched = self._watched
        assert watched is not None
        try:
            self._depot.change(lambda state: state.settled(why) if state.watched == watched else state)
        except StateUnusable as error:
            _log.error("not remembered", why=str(error))
        self._watched = None

    def _prove(self) -> None:
        """It works well enough to come to an end: the starts that did not no longer count."""
        if self._watched is None or not self._starts:
            return
        self._starts = 0
        try:
            self._depot.change(lambda state: state.proved())
        except StateUnusable as error:
            _log.error("not remembered", why=str(error))
