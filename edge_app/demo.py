"""The demo: a server on the simulated board in a process of its own, and a day's work for it over gRPC.

It focuses many fields from starts all over the range, among them blank fields and starts beyond the range, and
holds every end against the world's true focal plane.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format
from rich.console import Console
from rich.table import Table

from edge_app.client import Client
from edge_app.config import Settings, read_settings
from edge_app.demo_pictures import draw
from edge_app.errors import AppError, RuntimeFailed
from edge_app.server import serve
from edge_app.stubs.parfocal.v1 import focus_pb2, simulation_pb2
from firmware.errors import FirmwareError

RANGE_UM = 10.0
_STILL_UM = 0.3
_FIELDS = 50_000
_START_TIMEOUT_S = 120.0
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Task:
    """One job to come: which field, what lies in it ("" for chance), from where, and why it is in the demo."""

    field: int
    kind: str
    start_um: float
    why: str


@dataclass(frozen=True)
class Done:
    """One finished job: truth before and after, every look, and the outcome."""

    task: Task
    before: simulation_pb2.Truth
    after: simulation_pb2.Truth
    looks: tuple[focus_pb2.Look, ...]
    outcome: focus_pb2.Outcome

    @property
    def verdict(self) -> str:
        """The verdict's name."""
        return focus_pb2.Verdict.Name(self.outcome.verdict).removeprefix("VERDICT_")

    @property
    def ending(self) -> str:
        """The kind of outcome by name."""
        return focus_pb2.OutcomeKind.Name(self.outcome.kind).removeprefix("OUTCOME_KIND_")

    @property
    def counts(self) -> bool:
        """Whether the summary's residuals include it: by ground truth, whatever its verdict."""
        return self.before.has_content and abs(self.before.defocus_um) <= RANGE_UM + 0.1

    @property
    def stayed(self) -> bool:
        """Whether the objective ended where it began."""
        return abs(self.after.defocus_um - self.before.defocus_um) < _STILL_UM


def demo(runs: int, seed: int, board: str, out: Path, progress: Progress) -> dict[str, Any]:
    """Run the jobs, draw the pictures into `out`, and give the figures.

    Args:
        runs: Jobs in all; of every 30, three fields are blank and two starts lie beyond the range.
        seed: Of the world and of the starts.
        board: A simulated board.
        out: Folder for three PNG files.
        progress: Called with (jobs done, jobs, text).

    Returns:
        {"world", "jobs", "summary", "pictures"}.

    Raises:
        AppError, FirmwareError: The server could not start, or a job failed.
    """
    progress(0, runs, "starting a server")
    done: list[Done] = []
    with (
        _server(read_settings(board=board, listen="127.0.0.1:0", seed=seed)) as address,
        Client(address) as client,
    ):
        board_now = client.describe()
        world = {**json_format.MessageToDict(board_now.world), "um_per_step": board_now.axis.um_per_step}
        for number, task in enumerate(plan_jobs(runs, seed)):
            done.append(_job(client, task))
            progress(number + 1, runs, f"{done[-1].verdict}, {done[-1].after.defocus_um:+.2f} um from focus")
        pictures = draw(client, done, out)
    return {
        "world": world,
        "jobs": [_row(job) for job in done],
        "summary": summarise(done),
        "pictures": [str(path) for path in pictures],
    }


def plan_jobs(runs: int, seed: int) -> list[Task]:
    """Stratified starts over the range, blank fields and starts beyond it mixed in, in a seeded order."""
    rng = np.random.default_rng([seed, 99])
    blank, beyond = runs // 10, runs // 15
    usual = runs - blank - beyond
    starts = ((np.arange(usual) + rng.uniform(0, 1, usual)) / max(usual, 1) * 2 - 1) * RANGE_UM
    jobs = [("", float(start), "content") for start in starts]
    jobs += [("blank", float(start), "blank") for start in rng.uniform(-8, 8, blank)]
    jobs += [("tissue", float((-1) ** k * rng.uniform(13, 20)), "beyond") for k in range(beyond)]
    return [Task(field, *jobs[k]) for field, k in enumerate(rng.permutation(runs), 1)]


def summarise(done: list[Done]) -> dict[str, Any]:
    """The figures over all jobs; shares of blank fields and of starts beyond the range that were handled."""
    counted = [job for job in done if job.counts]
    residuals = [abs(job.after.defocus_um) for job in counted]
    blank = [job for job in done if job.task.why == "blank"]
    beyond = [job for job in done if job.task.why == "beyond"]
    return {
        "median_abs_residual_um": round(float(np.median(residuals)), 4) if residuals else None,
        "p95_abs_residual_um": round(float(np.percentile(residuals, 95)), 4) if residuals else None,
        "median_frames": float(np.median([job.outcome.frames for job in counted])) if counted else None,
        "ended_worse": sum(map(_worse, done)),
        "blank_fields": len(blank),
        "blank_fields_recognised": sum(job.verdict == "NO_CONTENT" and job.stayed for job in blank),
        "beyond_range": len(beyond),
        "beyond_range_handled": sum(map(_handled, beyond)),
    }


def print_table(result: dict[str, Any], console: Console) -> None:
    """Show a result to a person."""
    table = Table("field", "start um", "end um", "looks", "s")
    table.add_column("how it ended", no_wrap=True)
    for job in result["jobs"]:
        figures = (f"{job['start_um']:+.2f}", f"{job['end_um']:+.2f}", str(job["frames"]), f"{job['seconds']:.1f}")
        table.add_row(str(job["field"]), *figures, f"{job['ending']} {job['verdict']}")
    console.print(table)
    for name, figure in result["summary"].items():
        console.print(f"{name.replace('_', ' ')}: {figure}")
    console.print("pictures: " + ", ".join(result["pictures"]))


def _job(client: Client, task: Task) -> Done:
    """Load a field with something in it (or nothing, if that is the task), focus, compare with the truth."""
    before = client.load_field(task.field, task.kind)
    field = task.field
    while task.kind != "blank" and not before.has_content and field < _FIELDS:
        field += 1000
        before = client.load_field(field, task.kind)
    before = client.load_field(field, task.kind, task.start_um)
    looks, outcome = [], focus_pb2.Outcome()
    for event in client.focus():
        if event.HasField("look"):
            looks.append(event.look)
        else:
            outcome = event.outcome
    return Done(task, before, client.truth(), tuple(looks), outcome)


def _worse(job: Done) -> bool:
    return abs(job.after.defocus_um) > abs(job.before.defocus_um) + 0.1 * job.before.depth_of_field_um


def _handled(job: Done) -> bool:
    """Said so, and either recovered to within a depth of field or stayed."""
    recovered = abs(job.after.defocus_um) <= job.before.depth_of_field_um
    return job.verdict == "OUT_OF_RANGE" and (recovered or job.stayed)


def _row(job: Done) -> dict[str, Any]:
    return {
        "field": job.before.field,
        "kind": job.before.kind,
        "start_um": round(job.before.defocus_um, 4),
        "end_um": round(job.after.defocus_um, 4),
        "residual_um": round(job.after.defocus_um, 4),
        "frames": job.outcome.frames,
        "moves": job.outcome.moves,
        "seconds": round(job.outcome.duration_s, 3),
        "verdict": job.verdict,
        "ending": job.ending,
        "sentence": job.outcome.sentence,
    }


@contextmanager
def _server(settings: Settings) -> Iterator[str]:
    """A server in a process of its own; gives its address, and ends it afterwards.

    Raises:
        AppError, FirmwareError: What kept it from starting.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(settings, theirs), name="parfocal-server")
    process.start()
    theirs.close()
    try:
        if not ours.poll(_START_TIMEOUT_S):
            raise RuntimeFailed(f"the server did not start within {_START_TIMEOUT_S:.0f} s; run `parfocal doctor`")
        answer = ours.recv()
        if isinstance(answer, BaseException):
            raise answer
        yield answer
    except EOFError:
        raise RuntimeFailed("the server ended before it was ready; run `parfocal doctor`") from None
    finally:
        process.terminate()
        process.join(20)
        process.kill()
        ours.close()


def _serve(settings: Settings, ready: Connection) -> None:
    try:
        serve(settings, ready.send)
    except (AppError, FirmwareError) as error:
        ready.send(error)
