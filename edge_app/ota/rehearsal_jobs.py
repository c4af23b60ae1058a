"""The jobs of a rehearsal: one model focuses once from a given place, and what came of it by the true distance."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_app.answer import Verdict
from edge_app.controller import Controller
from edge_app.curve import FocusCurve
from edge_app.errors import RuntimeFailed
from edge_app.feed import NOTHING, Beside
from edge_app.focus_calibration import Wish, calibrate_focus
from edge_app.job import Look
from edge_app.model import Model
from edge_app.ota.rehearsal_board import KINDS, Simulated
from edge_app.ota.rehearsal_rule import Pair, Trial
from edge_app.ota.tally import in_focus
from edge_app.runtime import Runtime
from edge_app.strategy import Decision
from firmware.clock import Clock
from firmware.microscope import Microscope, with_simulation

LOOK_S = 0.06
"""What a network takes of a rehearsal's time, so that a slow machine rehearses the same jobs as a fast one."""
_SILENT = (Verdict.NO_CONTENT, Verdict.TOO_DARK, Verdict.SATURATED)


@dataclass(frozen=True)
class Course:
    """How a task is rehearsed: its strategy, how many pairs, and how many looks a job usually and at most takes.

    Jobs begin from within `REACH_SHARE` of the passport's range, or `reach_depths` depths of field where it has none.
    """

    strategy: str
    pairs: int
    looks_usual: int
    looks_at_most: int
    reach_depths: float = 6.0


COURSES = {
    "defocus": Course("single_shot", pairs=64, looks_usual=2, looks_at_most=5),
    "quality": Course("velocity", pairs=24, looks_usual=16, looks_at_most=60),
    "sharpness": Course("few_shot", pairs=32, looks_usual=6, looks_at_most=24),
}


class Place(Protocol):
    """Where one pair of jobs is done; opened anew for each of the two, so that both meet the same noise."""

    @property
    def name(self) -> str:
        """For the record."""
        ...

    @property
    def depth_um(self) -> float:
        """Depth of field, um."""
        ...

    def open(self) -> AbstractContextManager[tuple[Microscope, Callable[[], float]]]:
        """The microscope at the start of the job, and what tells its true distance from focus, um."""
        ...


class _Paced:
    """A runtime that takes a set time of the board's."""

    def __init__(self, runtime: Runtime, clock: Clock) -> None:
        self._runtime, self._clock = runtime, clock
        self.name, self.note = runtime.name, runtime.note

    def infer(self, counts: NDArray[np.uint8], also: Beside = NOTHING) -> dict[str, NDArray[np.float32]]:
        """The runtime's own answer, a set time later."""
        self._clock.sleep(LOOK_S)
        return self._runtime.infer(counts, also)


class _Enough(Exception):
    """A job has used up the looks that it has."""


@dataclass
class Players:
    """Both models of a rehearsal, and the focus curve of each once it was recorded."""

    course: Course
    old: Model | None
    new: Model
    curves: dict[int, FocusCurve | None] = field(default_factory=dict)

    def pair(self, place: Place) -> Pair | None:
        """One pair of jobs; None where neither model finds anything to look at."""
        new, saw = self._job(self.new, place)
        if self.old is None:
            return Pair(place.name, None, new) if saw else None
        old, saw_too = self._job(self.old, place)
        return Pair(place.name, old, new) if saw or saw_too else None

    def _job(self, model: Model, place: Place) -> tuple[Trial, bool]:
        """One job by one model, and whether there was anything to look at."""
        with place.open() as (microscope, truth_um):
            controller = Controller(microscope, None)
            controller.models.put(replace(model, runtime=_Paced(model.runtime, microscope.clock)))
            start, looks = abs(truth_um()) / place.depth_um, 0

            def on_look(number: int, look: Look, decision: Decision) -> None:
                nonlocal looks
                del look, decision
                looks = number
                if number > self.course.looks_at_most:
                    raise _Enough

            def trial(claims: bool = False, helped: bool = False, failed: str = "") -> Trial:
                end = abs(truth_um()) / place.depth_um
                return Trial(start, end, looks / self.course.looks_usual, claims, helped, failed)

            try:
                self._give_curve(controller, model, place)
                outcome = controller.focus(self.course.strategy, on_look)
            except _Enough:
                return trial(helped=True), True
            except RuntimeFailed as error:
                return trial(failed=str(error)), True
            blank = outcome.moves == 0 and outcome.verdict in _SILENT
            return trial(claims=in_focus(outcome)), not blank

    def _give_curve(self, controller: Controller, model: Model, place: Place) -> None:
        """Let few_shot have the focus curve of this model, recorded once on a field without tilt.

        Raises:
            RuntimeFailed: The model gives none there.
        """
        if self.course.strategy != "few_shot":
            return
        if id(model) not in self.curves:
            self.curves[id(model)] = _curve(model, place)
        curve = self.curves[id(model)]
        if curve is None:
            raise RuntimeFailed(f"{model.label} has no focus curve on a flat specimen, which few_shot needs")
        controller.curves.keep(curve)


def _curve(model: Model, place: Place) -> FocusCurve | None:
    """A focus curve as the board would record it, on another field of the same world laid flat."""
    assert isinstance(place, Simulated)
    flat = with_simulation(place.profile, tilt_x_um=0.0, tilt_y_um=0.0, drift_um_per_min=0.0)
    with Simulated(flat, 0, KINDS[flat.contrast][0], place.depth_um).open() as (microscope, _):
        controller = Controller(microscope, None)
        controller.models.put(replace(model, runtime=_Paced(model.runtime, microscope.clock)))
        return calibrate_focus(controller, Wish(), False, lambda *_: None).curve
