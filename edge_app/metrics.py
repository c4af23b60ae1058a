"""Metrics: what one board tells Prometheus: looks and jobs counted as they happen, and its state when it is asked.

Times are in seconds and temperatures in degrees Celsius, as Prometheus wants it; lengths are in micrometres, as they
are everywhere here. docs/fleet.md says what each one means.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics

from edge_app.appliance import Appliance
from edge_app.calibration import Calibrated
from edge_app.focus_calibration import FocusCalibrated
from edge_app.gauges import THERMAL, Gauges, Updating
from edge_app.job import Ending, Look, Outcome

_TIME_S = (0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60)
_FRAMES = (1, 2, 3, 4, 5, 8, 12, 20, 40, 80)
_CORRECTION_UM = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
_INFERENCE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """All metrics of one service, over all boards that it opens; a `record.Listener`.

    A focus job ended in focus by `ending="focused"`, or by `ending="stayed"` with `verdict="ok"`: it began there.

    Counting takes a lock for some microseconds on the hardware thread. `updating` says where updating stands, None on
    a board that takes no updates; it may be replaced.
    """

    def __init__(
        self,
        updating: Updating = lambda: None,
        thermal: Path = THERMAL,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        # Else each counter comes with a second series that says when it was made, by a clock that may not be set.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        self._gauges = Gauges(updating, thermal, now_s)
        self.registry.register(self._gauges)
        ProcessCollector(registry=self.registry)
        self._count_looks()
        self._count_jobs()

    def offer(self, appliance: Appliance) -> None:
        """Tell of this board from now on."""
        # A series whose first value is 1 shows no increase: those that matter begin at 0.
        strategy = appliance.controller.microscope.profile.focus.strategy
        for ending in (Ending.FOCUSED, Ending.STAYED):
            self._jobs.labels("focus", strategy, ending.name.lower(), "ok")
        self._moves.labels(strategy)
        appliance.tell(self)
        self._gauges.offer(appliance)

    def turn_away(self, kind: str) -> None:
        """There is no board; `kind` names the error that says why."""
        self._gauges.turn_away(kind)

    def update_from(self, updating: Updating) -> None:
        """Ask this one where updating stands, from now on."""
        self._gauges.updating = updating

    def looked(self, look: Look) -> None:
        """Count what a model, or the look without one, made of a frame."""
        if look.seen.answer is None:
            return
        self._estimates.labels(look.task, look.seen.answer.verdict.name.lower()).inc()
        if "infer" in look.stage_ms:
            self._inference_s.labels(look.task).observe(look.stage_ms["infer"] / 1e3)

    def ended(self, name: str, end: object) -> None:
        """Count a job, and what it took where it was to focus."""
        if not isinstance(end, Outcome):
            self._jobs.labels(name, "", _ending(end), "").inc()
            return
        self._jobs.labels(name, end.strategy, end.ending.name.lower(), end.verdict.name.lower()).inc()
        self._moves.labels(end.strategy).inc(end.moves)
        self._frames.labels(end.strategy).observe(end.frames)
        if end.ending is Ending.FOCUSED:
            self._focus_s.labels(end.strategy).observe(end.duration_s)
            self._correction_um.labels(end.strategy).observe(abs(end.end_um - end.start_um))

    def _count_looks(self) -> None:
        self._estimates = Counter(
            "parfocal_estimates",
            "Frames that were judged, for whomever, by task and verdict.",
            ["task", "verdict"],
            registry=self.registry,
        )
        self._inference_s = Histogram(
            "parfocal_inference_seconds",
            "What the network took for one frame, all its patches in one batch.",
            ["task"],
            buckets=(*_INFERENCE_S, math.inf),
            registry=self.registry,
        )

    def _count_jobs(self) -> None:
        def histogram(name: str, help_: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, help_, ["strategy"], buckets=(*buckets, math.inf), registry=self.registry)

        self._jobs = Counter(
            "parfocal_jobs",
            "Jobs that ended, by verb, strategy, how they ended, and the verdict that did it.",
            ["verb", "strategy", "ending", "verdict"],
            registry=self.registry,
        )
        self._moves = Counter(
            "parfocal_corrections", "Moves that focus jobs made.", ["strategy"], registry=self.registry
        )
        self._frames = histogram("parfocal_job_frames", "Frames that one focus job took.", _FRAMES)
        self._focus_s = histogram(
            "parfocal_time_to_focus_seconds", "How long focus jobs took that ended in focus.", _TIME_S
        )
        self._correction_um = histogram(
            "parfocal_correction_um",
            "How far from their start focus jobs ended that ended in focus, micrometres.",
            _CORRECTION_UM,
        )


def _ending(end: object) -> str:
    """How a job without an Outcome ended, in one of few words."""
    if isinstance(end, BaseException):
        return type(end).__name__
    if isinstance(end, Calibrated):
        return "measured" if end.record else "inconclusive"
    if isinstance(end, FocusCalibrated):
        return "recorded" if end.curve else "inconclusive"
    return "done"
