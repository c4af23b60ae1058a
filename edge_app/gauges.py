"""Gauges: what a board is like at the moment that Prometheus asks; nothing is kept between two scrapes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge_app.appliance import Appliance
from edge_app.errors import AppError
from edge_app.ota.state import Stage
from firmware.travel import Trust

THERMAL = Path("/sys/class/thermal")
UPDATE_STATES = tuple(stage.value for stage in Stage)
UNREADABLE = "unreadable"
"""The state of updates whose own record cannot be read."""


class Standing(Protocol):
    """Where updating stands: labels of models, a state of `UPDATE_STATES`, what is counted of it."""

    @property
    def serving(self) -> str:
        """The model that serves, or ""."""
        ...

    @property
    def previous(self) -> str:
        """The one that a rollback goes back to, or ""."""
        ...

    @property
    def candidate(self) -> str:
        """The one that is to follow, or ""."""
        ...

    @property
    def state(self) -> str:
        """Where it stands."""
        ...

    @property
    def watched_jobs(self) -> int:
        """How many first jobs of a new model were seen."""
        ...

    @property
    def bad_versions(self) -> int:
        """How many versions are not taken again."""
        ...


Updating = Callable[[], Standing | None]


class Gauges(Collector):
    """Reads a board's state from any thread: everything that it touches is replaced whole, never changed in part."""

    def __init__(
        self, updating: Updating, thermal: Path = THERMAL, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.updating = updating
        self._thermal, self._now_s, self._began_s = thermal, now_s, now_s()
        self._appliance: Appliance | None = None
        self._trouble = ""

    def offer(self, appliance: Appliance) -> None:
        """Tell of this board from now on."""
        self._appliance, self._trouble = appliance, ""

    def turn_away(self, kind: str) -> None:
        """There is no board; `kind` names the error that says why."""
        self._appliance, self._trouble = None, kind

    def collect(self) -> Iterator[Metric]:
        """Everything, read now."""
        appliance, trouble = self._appliance, self._trouble
        yield InfoMetricFamily("parfocal", "The service.", {"version": metadata.version("parfocal")})
        yield _gauge("parfocal_uptime_seconds", "Since the service began.", self._now_s() - self._began_s)
        yield _gauge("parfocal_board_open", "Whether there is a board to focus with.", appliance is not None)
        info = InfoMetricFamily(
            "parfocal_trouble", "The error that keeps the board from being opened.", labels=["kind"]
        )
        if trouble:
            info.add_metric([trouble], {})
        yield info
        if appliance is not None:
            yield from _board(appliance)
            yield from _axis(appliance)
            yield from _models(appliance)
        yield from self._updates()
        yield _temperatures(self._thermal)

    def _updates(self) -> Iterator[Metric]:
        state = GaugeMetricFamily("parfocal_update_state", "1 for where updating stands.", labels=["state"])
        info = InfoMetricFamily("parfocal_update", "Models by their part in updating.", labels=[])
        watched = GaugeMetricFamily("parfocal_update_watched_jobs", "First jobs of a new model that were seen.")
        bad = GaugeMetricFamily("parfocal_update_bad_versions", "Versions that are not taken again.")
        try:
            standing = self.updating()
        except (AppError, OSError):
            now = UNREADABLE
        else:
            now = standing.state if standing is not None else ""
            if standing is not None:
                parts = {part: getattr(standing, part) for part in ("serving", "previous", "candidate")}
                info.add_metric([], parts)
                watched.add_metric([], standing.watched_jobs)
                bad.add_metric([], standing.bad_versions)
        for name in (*UPDATE_STATES, UNREADABLE) if now else ():
            state.add_metric([name], float(name == now))
        yield from (state, info, watched, bad)


def _board(appliance: Appliance) -> Iterator[Metric]:
    microscope = appliance.controller.microscope
    profile = microscope.profile
    named = {
        "board": profile.name,
        "camera": profile.camera.driver,
        "axis": profile.axis.driver,
        "objective": microscope.objective.name,
    }
    yield InfoMetricFamily("parfocal_board", "The board that is open.", named)
    yield _gauge("parfocal_busy", "Whether a job runs.", bool(appliance.busy_with))
    yield _gauge("parfocal_camera_lost", "Whether the camera gives no frames at the moment.", bool(appliance.blind))
    yield _gauge(
        "parfocal_model_failing",
        "Whether a model that is open gave no answer when it was last asked.",
        bool(appliance.ailing),
    )
    yield _gauge(
        "parfocal_hardware_hangs", "Whether the hardware thread no longer answers.", bool(appliance.condemned)
    )


def _axis(appliance: Appliance) -> Iterator[Metric]:
    axis = appliance.controller.microscope.axis
    (low_um, high_um), z_um = axis.limits_um, axis.z_um
    yield _gauge("parfocal_axis_z_um", "Where the axis believes it is, micrometres.", z_um)
    yield _gauge(
        "parfocal_axis_to_lower_limit_um", "From there to the limit at the specimen, micrometres.", z_um - low_um
    )
    yield _gauge("parfocal_axis_to_upper_limit_um", "From there to the other limit, micrometres.", high_um - z_um)
    trust = GaugeMetricFamily("parfocal_axis_trust", "1 for why the axis may believe its position.", labels=["trust"])
    for one in Trust:
        trust.add_metric([one.name.lower()], float(one is axis.trust))
    yield trust
    yield CounterMetricFamily(
        "parfocal_axis_losses", "How often the position was lost since the board was opened.", value=axis.losses
    )


def _models(appliance: Appliance) -> Iterator[Metric]:
    labels = ["task", "model", "version", "runtime"]
    info = InfoMetricFamily("parfocal_model", "The models that are open, by task.", labels=labels)
    for model in appliance.controller.models.all():
        manifest = model.bundle.manifest
        info.add_metric([manifest.task, manifest.name, manifest.version, model.runtime.name], {})
    yield info


def _temperatures(thermal: Path) -> Metric:
    """What the kernel's thermal zones say; one that cannot be read is left out."""
    gauge = GaugeMetricFamily(
        "parfocal_temperature_celsius", "By thermal zone of the kernel.", labels=["zone", "name"]
    )
    for zone in sorted(thermal.glob("thermal_zone*")):
        try:
            name = (zone / "type").read_text(encoding="ascii").strip()
            celsius = int((zone / "temp").read_text(encoding="ascii")) / 1e3
        except (OSError, ValueError):
            continue
        gauge.add_metric([zone.name.removeprefix("thermal_zone"), name], celsius)
    return gauge


def _gauge(name: str, says: str, value: float) -> Metric:
    return GaugeMetricFamily(name, says, value=float(value))
