"""The soak's verdict: what clients wrote down and what the process held, against the bounds."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table
from soak_client import EXPECTED
from soak_server import Sample

GROWN_MB = 5.0
WORKERS = 6
"""Threads that may come late and stay: asyncio starts those for its to_thread calls when it first needs them."""
ERROR_UM = (0.15, 0.6)
"""The median and the 95th percentile of an estimate's error may be as large as this."""
RESIDUAL_UM = (0.3, 1.0)
"""The same of what a job that says "focused" leaves; half a depth of field, and one."""


@dataclass(frozen=True)
class Bound:
    """One thing that has to hold, and whether it did."""

    name: str
    found: str
    allowed: str
    ok: bool


@dataclass
class Findings:
    """Everything that clients wrote down."""

    ends: Counter[str] = field(default_factory=Counter)
    errors_um: list[float] = field(default_factory=list)
    residuals_um: list[float] = field(default_factory=list)

    @property
    def surprises(self) -> dict[str, int]:
        """Calls that ended as none should; whom an intruder meets is no matter."""
        told = {end: count for end, count in self.ends.items() if not end.startswith(("intrude ", "outcome "))}
        return {end: count for end, count in told.items() if end.partition(" ")[2] not in EXPECTED}


def findings(folder: Path) -> Findings:
    """What all clients wrote down; the last line of a killed one may be torn."""
    found = Findings()
    for path in folder.glob("said-*"):
        for line in path.read_text().splitlines():
            with suppress(json.JSONDecodeError):
                said = json.loads(line)
                found.ends.update(said["ends"])
                found.errors_um += said["errors_um"]
                found.residuals_um += said["residuals_um"]
    return found


def growth(samples: list[Sample]) -> tuple[float, float]:
    """How much larger the last fifth's median is than the first's, MB; and the slope of all, MB an hour."""
    fifth = max(len(samples) // 5, 1)
    rss_mb = [sample.rss_mb for sample in samples]
    slope = np.polyfit([sample.at_s / 3600 for sample in samples], rss_mb, 1)[0] if len(samples) > 1 else 0.0
    return median(rss_mb[-fifth:]) - median(rss_mb[:fifth]), float(slope)


def judge(
    samples: list[Sample], before: Sample, after: Sample, found: Findings, end: tuple[int | None, float], log: str
) -> list[Bound]:
    """Hold what was seen against the bounds.

    Args:
        samples: Under load.
        before: With nobody connected, after the warm-up.
        after: The same at the end.
        found: What clients wrote down.
        end: The server's exit code, and how many seconds it took to end.
        log: What it said.
    """
    grown_mb, slope = growth(samples)
    strange, tracebacks = sum(found.surprises.values()), log.count("Traceback")
    grown = f"{grown_mb:+.1f} MB, {slope:+.0f} MB/h"
    return [
        Bound("memory, last fifth against first", grown, f"{GROWN_MB} MB", grown_mb <= GROWN_MB),
        *(_kept(name, before, after) for name in ("threads", "fds", "sockets", "children", "tasks")),
        _near("estimates", found.errors_um, ERROR_UM),
        _near("focused", found.residuals_um, RESIDUAL_UM),
        Bound("calls that ended as none should", str(strange), "0", strange == 0),
        Bound("tracebacks in the log", str(tracebacks), "0", tracebacks == 0),
        Bound("end after SIGTERM", f"exit {end[0]} after {end[1]:.1f} s", "exit 0", end[0] == 0),
    ]


def _kept(name: str, before: Sample, after: Sample) -> Bound:
    was, now = getattr(before, name), getattr(after, name)
    more = WORKERS if name == "threads" else 0
    return Bound(
        f"{name}, nobody connected", f"{was} -> {now}", f"{more} more" if more else "no more", now <= was + more
    )


def _near(name: str, values_um: list[float], limits_um: tuple[float, float]) -> Bound:
    """Signed distances from the truth, none of which is as bad as too large."""
    middle, most = np.percentile(np.abs(values_um), (50, 95)).tolist() if values_um else (np.inf, np.inf)
    found = f"{len(values_um)} judged, median {middle:.2f} um, 95 % {most:.2f} um"
    return Bound(name, found, "{} and {} um".format(*limits_um), middle <= limits_um[0] and most <= limits_um[1])


def show(result: dict[str, object], samples: list[Sample], found: Findings, bounds: list[Bound]) -> None:
    """Tables for a person."""
    out = Console()
    calls = Table("call and end", "times", title="calls")
    for end, count in sorted(found.ends.items()):
        calls.add_row(end, str(count))
    columns = ("at s", "RSS MB", "threads", "fds", "sockets", "children", "tasks", "objects", "allocated MB")
    held = Table(*columns, title="held under load")
    for sample in samples[:: max(len(samples) // 20, 1)]:
        row = [value for name, value in asdict(sample).items() if name != "peak_mb"]
        held.add_row(*("" if value is None else f"{value:.0f}" for value in row))
    kept = Table("bound", "found", "allowed", "", title="bounds")
    for bound in bounds:
        kept.add_row(bound.name, bound.found, bound.allowed, "ok" if bound.ok else "MISSED")
    out.print(calls, held, kept)
    out.print(", ".join(f"{key} {value}" for key, value in result.items()))
