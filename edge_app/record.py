"""Record: what the journal hears of an appliance: jobs, its camera, its model and runtime, faults of its motion."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from structlog.contextvars import get_contextvars

from edge_app.calibration import Calibrated
from edge_app.controller import Controller
from edge_app.focus_calibration import FocusCalibrated
from edge_app.job import Look, Outcome
from edge_app.journal import log_of
from edge_app.model import Model
from firmware.errors import (
    AxisError,
    MotionStopped,
    NotTrusted,
    OutOfLimits,
    TravelSpent,
)

_log = log_of(__name__)
_REFUSALS = (MotionStopped, NotTrusted, OutOfLimits, TravelSpent)
Ended = Callable[[object], None]


class Listener(Protocol):
    """Hears of every look and of every job's end, on the hardware thread: be quick. What it raises is logged."""

    def looked(self, look: Look) -> None:
        """A frame was taken and judged, for whomever."""
        ...

    def ended(self, name: str, end: object) -> None:
        """A job ended with a value, an Outcome where it was to focus, or with an error."""
        ...


def client_of_this_call() -> str:
    """The address of the client whose call is being answered, or ""."""
    return str(get_contextvars().get("client", ""))


class Record:
    """Writes an event when something changed; called from the hardware thread."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._blind = False
        self._failing: frozenset[str] = frozenset()
        self._models = self._now()
        self._listeners: tuple[Listener, ...] = ()

    def tell(self, listener: Listener) -> None:
        """Have somebody hear of looks and jobs from now on."""
        self._listeners = (*self._listeners, listener)

    def job(self, name: str, client: str) -> Ended:
        """A job begins; gives what is to be called with its value, or its error."""
        axis, began_s = self._controller.microscope.axis, time.monotonic()
        start_um = axis.z_um
        _log.info("job started", job=name, client=client, start_um=start_um)

        def ended(end: object) -> None:
            fields: dict[str, Any] = {"job": name, "client": client, **_told(end)}
            fields |= {"start_um": start_um, "end_um": axis.z_um, "took_s": time.monotonic() - began_s}
            _log.info("job ended", **fields)
            self._motion(name, end)
            self.model()
            self._spread(lambda listener: listener.ended(name, end))

        return ended

    def looked(self, look: Look) -> None:
        """Pass a look on to who listens."""
        self._spread(lambda listener: listener.looked(look))

    def look(self) -> None:
        """A look was taken, or failed: note whether the camera was lost or came back, and what executes the model."""
        self.camera()
        self.model()

    def camera(self) -> None:
        """Note whether the camera was lost or came back since."""
        lost = self._controller.microscope.lost
        if bool(lost) is self._blind:
            return
        self._blind = bool(lost)
        driver = self._controller.microscope.profile.camera.driver
        if lost:
            _log.error("camera lost", camera=driver, why=lost)
        else:
            _log.info("camera back", camera=driver)

    def answers(self, model: Model, failing: str) -> None:
        """Note whether a model began to fail, and why, or answers again."""
        task = model.bundle.manifest.task
        if bool(failing) is (task in self._failing):
            return
        self._failing ^= {task}
        if failing:
            _log.error("model failed", model=model.label, runtime=model.runtime.name, why=failing)
        else:
            _log.info("model answers again", model=model.label, runtime=model.runtime.name)

    def model(self) -> None:
        """Note whether another model was opened or chosen for a task, or another runtime executes it."""
        before, self._models = self._models, self._now()
        objective = self._controller.microscope.objective.name
        for task, (label, why, runtime) in self._models.items():
            known, _, served = before.get(task, ("", "", ""))
            if label != known:
                _log.info("model chosen", model=label, why=why, runtime=runtime, objective=objective)
            elif runtime != served:
                _log.info("runtime changed", model=label, runtime=runtime, before=served)

    def _now(self) -> dict[str, tuple[str, str, str]]:
        """Label, why it is this one, and runtime of every open model, by task."""
        models = self._controller.models.all()
        return {model.bundle.manifest.task: (model.label, model.why, model.runtime.name) for model in models}

    def _spread(self, news: Callable[[Listener], None]) -> None:
        for listener in self._listeners:
            _heard(listener, news)

    def _motion(self, name: str, end: object) -> None:
        if isinstance(end, AxisError) and not isinstance(end, _REFUSALS):
            trust = self._controller.microscope.axis.trust.value
            _log.error("motion fault", job=name, kind=type(end).__name__, why=str(end), trust=trust)
        for finding in end.findings if isinstance(end, Outcome) else ():
            _log.warning("motion fault", job=name, kind=finding.kind.name, why=finding.sentence)


def _heard(listener: Listener, news: Callable[[Listener], None]) -> None:
    """Tell a listener; one that fails must end neither a job nor the hardware thread."""
    try:
        news(listener)
    except Exception as error:  # noqa: BLE001 - logged with its traceback
        _log.exception("listener failed", listener=type(listener).__name__, why=str(error))


def _told(end: object) -> dict[str, Any]:
    """What a job came to, as the fields of an event."""
    if isinstance(end, Outcome):
        fields: dict[str, Any] = {"ending": end.ending.name, "verdict": end.verdict.name, "why": end.sentence}
        if end.last is not None:
            fields |= end.last.figures()
        return fields | {"frames": end.frames, "moves": end.moves, "strategy": end.strategy}
    if isinstance(end, Calibrated):
        return {"ending": "MEASURED" if end.record else "INCONCLUSIVE", "why": end.sentence}
    if isinstance(end, FocusCalibrated):
        return {"ending": "RECORDED" if end.curve else "INCONCLUSIVE", "why": end.sentence}
    if isinstance(end, BaseException):
        return {"ending": type(end).__name__, "why": str(end)}
    return {"ending": "DONE"}
