"""Benchmark of the server as a process: how soon it answers, and how much memory it takes, per runtime.

Memory is what /proc says of the process, in MB of 2**20 bytes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edge_app.client import Client
from edge_app.errors import RuntimeFailed

STARTS = 3
LOAD_S = 20.0
IDLE_S = 3.0
_EVERY_S = 0.05
_PATIENCE_S = 60.0
_LOOKS_A_ROUND = 5
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is measured of each runtime: so many starts, and at the last so many seconds at rest and under load."""

    board: str = "simulated"
    starts: int = STARTS
    idle_s: float = IDLE_S
    load_s: float = LOAD_S


@dataclass
class _Seen:
    """One start: seconds from the beginning of the process, memory in MB."""

    serving_s: float = 0.0
    first_estimate_s: float = 0.0
    start_mb: float = 0.0
    rest_mb: float = 0.0
    load_mb: list[float] = field(default_factory=list)
    after_mb: float = 0.0
    peak_mb: float = 0.0
    looks: int = 0
    focus_jobs: int = 0


def bench(runtimes: list[str], say: Say, plan: Plan | None = None) -> list[dict[str, Any]]:
    """Start a server of a simulated board in a process of its own, as often as planned, in every runtime.

    Args:
        runtimes: By name; each must be usable here.
        say: Told what is going on.
        plan: How much is measured.

    Returns:
        A row per runtime: `serving_s` and `first_estimate_s` as {"median", "low", "high"} over the starts; of the last
        start `start_mb`, `rest_mb` (after the first look), `load_mb` as {"median", "peak"} while a client measures and
        focuses without pause, `after_mb` (at rest again), `peak_mb` (the most that the process ever had), and the
        numbers of `looks` and `focus_jobs` under load.

    Raises:
        RuntimeFailed: The server did not start.
    """
    plan = plan or Plan()
    rows = []
    for runtime in runtimes:
        seen = []
        for number in range(plan.starts):
            say(f"starting a server with {runtime}, {number + 1} of {plan.starts}")
            seen.append(_start(runtime, plan, loaded=number == plan.starts - 1))
        rows.append(_row(runtime, plan.board, seen))
    return rows


def print_table(rows: list[dict[str, Any]], console: Console) -> None:
    """Show a result to a person."""
    table = Table("service", "serving", "first estimate", "MB at start", "at rest", "under load", "peak", "ever")
    for row in rows:
        serving, first, load = row["serving_s"], row["first_estimate_s"], row["load_mb"]
        table.add_row(
            row["runtime"],
            f"{serving['median']:.1f} s ({serving['low']:.1f} to {serving['high']:.1f})",
            f"{first['median']:.1f} s ({first['low']:.1f} to {first['high']:.1f})",
            *(f"{mb:.0f}" for mb in (row["start_mb"], row["rest_mb"], load["median"], load["peak"], row["peak_mb"])),
        )
    console.print(table)


def _start(runtime: str, plan: Plan, loaded: bool) -> _Seen:
    seen, began = _Seen(), time.perf_counter()
    with _server(runtime, plan.board) as (process, address), Client(address, _PATIENCE_S) as client:
        seen.serving_s = time.perf_counter() - began
        seen.start_mb = memory_mb(process.pid, "VmRSS")
        client.measure()
        seen.first_estimate_s = time.perf_counter() - began
        if loaded:
            time.sleep(plan.idle_s)
            seen.rest_mb = memory_mb(process.pid, "VmRSS")
            with _watched(process.pid, seen.load_mb):
                _load(client, plan.load_s, seen)
            time.sleep(plan.idle_s)
            seen.after_mb = memory_mb(process.pid, "VmRSS")
        seen.peak_mb = memory_mb(process.pid, "VmHWM")
    return seen


def _load(client: Client, load_s: float, seen: _Seen) -> None:
    """Measure and focus without a pause, at least one round."""
    ends = time.monotonic() + load_s
    while not seen.focus_jobs or time.monotonic() < ends:
        for _ in range(_LOOKS_A_ROUND):
            client.measure()
            seen.looks += 1
        for _ in client.focus():
            pass
        seen.focus_jobs += 1


@contextmanager
def _server(runtime: str, board: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, on a free port of loopback, with its address."""
    command = [sys.executable, "-m", "edge_app.cli", "serve", "--board", board, "--bundle", "factory", "--json"]
    with subprocess.Popen(  # noqa: S603
        [*command, "--listen", "127.0.0.1:0", "--runtime", runtime],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        late = threading.Timer(_PATIENCE_S, process.kill)
        late.start()
        try:
            address = _address(process)
            late.cancel()
            yield process, address
        finally:
            late.cancel()
            late.join()
            process.terminate()


def _address(process: subprocess.Popen[str]) -> str:
    """What the server says when it answers, or why it does not."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        try:
            document = json.loads(said)
        except json.JSONDecodeError:
            continue
        if "address" in document:
            return str(document["address"])
        raise RuntimeFailed(f"the server did not start: {document['error']['message']}")
    raise RuntimeFailed("the server ended before it served; run `parfocal serve --board simulated` to see why")


@contextmanager
def _watched(pid: int, into: list[float]) -> Iterator[None]:
    """Note the memory of a process again and again while the block runs."""
    over = threading.Event()

    def note() -> None:
        while not over.wait(_EVERY_S):
            into.append(memory_mb(pid, "VmRSS"))

    thread = threading.Thread(target=note, name="memory")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def memory_mb(pid: int, entry: str) -> float:
    """Memory of a process: `VmRSS` now, `VmHWM` at most so far."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == entry:
            return int(value.split()[0]) / 1024
    raise ProcessLookupError(f"process {pid} has ended")


def _row(runtime: str, board: str, seen: list[_Seen]) -> dict[str, Any]:
    last = seen[-1]
    return {
        "runtime": runtime,
        "board": board,
        "starts": len(seen),
        "serving_s": _spread([one.serving_s for one in seen]),
        "first_estimate_s": _spread([one.first_estimate_s for one in seen]),
        "start_mb": round(last.start_mb, 1),
        "rest_mb": round(last.rest_mb, 1),
        "load_mb": {"median": round(statistics.median(last.load_mb), 1), "peak": round(max(last.load_mb), 1)},
        "after_mb": round(last.after_mb, 1),
        "peak_mb": round(max(one.peak_mb for one in seen), 1),
        "looks": last.looks,
        "focus_jobs": last.focus_jobs,
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(seconds), 2),
        "low": round(min(seconds), 2),
        "high": round(max(seconds), 2),
    }
