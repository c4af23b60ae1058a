"""The telling of `demo-ota`: what happened in its order, and the table of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from model_export.ota_demo_boards import Job

STEPS = 9
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Event:
    """Something that happened: seconds since the story began, who did what, with which version, and why."""

    at_s: float
    who: str
    what: str
    version: str
    why: str


@dataclass
class Story:
    """What happened so far, in order; `steps` moves on by one with each chapter, `STEPS` in all."""

    progress: Progress
    began_s: float = field(default_factory=time.time)
    events: list[Event] = field(default_factory=list)
    steps: int = 0

    @property
    def lasts_s(self) -> float:
        """Since it began."""
        return round(time.time() - self.began_s, 2)

    def chapter(self, text: str) -> None:
        """Say what comes next."""
        self.progress(self.steps, STEPS, text)
        self.steps += 1

    def tell(self, who: str, what: str, version: str = "", why: str = "") -> None:
        """Note an event that has just happened."""
        self.events.append(Event(self.lasts_s, who, what, version, why))

    def row(self, job: Job) -> dict[str, Any]:
        """A job as plain values, its time since the story began."""
        row = asdict(job)
        row["at_s"] = row.pop("ended_s") - self.began_s
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def print_table(result: dict[str, Any], console: Console) -> None:
    """Show a result of the demo to a person."""
    for label, what in result["models"].items():
        console.print(f"{label}: {what}", highlight=False)
    table = Table("s", "who", "what", "version", "why")
    for event in result["events"]:
        version = event["version"].partition("@")[2]
        table.add_row(f"{event['at_s']:.0f}", event["who"], event["what"], version, event["why"])
    console.print(table)
    for name, jobs in result["jobs"].items():
        labels = dict.fromkeys(job["model"] for job in jobs if job["model"])
        shares = {label: [job["in_focus"] for job in jobs if job["model"] == label] for label in labels}
        told = ", ".join(f"{label} {sum(good)} of {len(good)}" for label, good in shares.items())
        console.print(f"{name}: {len(jobs)} jobs, none failed; in focus by their own check with {told}")
    console.print(f"picture: {result['picture']}; all of it took {result['took_s']:.0f} s")
