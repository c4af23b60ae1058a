"""Job: what one focus job looks at, keeps and leaves behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum

from edge_app.answer import Answer, Verdict
from edge_app.patches import RegionOfInterest
from edge_app.strategy import Decision, Observation
from edge_app.watch import Finding
from firmware.frames import Frame


@dataclass(frozen=True)
class Look:
    """A frame and what it was found to show; `stage_ms` says where the time went, `task` what was asked, or ""."""

    frame: Frame
    seen: Observation
    stage_ms: dict[str, float]
    task: str = ""


class Ending(Enum):
    """Where a focus job left the axis."""

    FOCUSED = "focused"
    RETURNED = "returned to its start"
    STAYED = "never moved"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Outcome:
    """How a focus job ended. `verdict` is that of the first look where it focused, else what ended it; um.

    `findings` are the faults of the motion that its moves brought to light.
    """

    ending: Ending
    verdict: Verdict
    sentence: str
    start_um: float
    end_um: float
    frames: int
    moves: int
    duration_s: float
    strategy: str
    last: Answer | None
    findings: tuple[Finding, ...] = ()


@dataclass
class Job:
    """A focus job so far: what it asks, where it began, what it saw and found out, and its last move."""

    strategy: str
    task: str
    start_um: float
    began_s: float
    roi: RegionOfInterest | None
    losses: int = 0
    seen: list[Observation] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    moves: int = 0
    last_dz_um: float = 0.0


OnLook = Callable[[int, Look, Decision], None]
"""Number from 1, the look, and what is decided on it."""


class Stopwatch:
    """Adds up how long each named stage took, in ms."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a with-block under a name."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.ms[stage] = self.ms.get(stage, 0.0) + (time.perf_counter() - began) * 1e3
