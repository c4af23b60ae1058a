"""Benchmark of the pulse thread: how late step pulses come, alone and while two other processes burn both cores."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from edge_app.console import Progress
from firmware.clock import SystemClock
from firmware.motion import Limits, Seconds, train
from firmware.pulses import Order, PulseThread

RATES_HZ = (1_000, 4_000, 10_000)
ROUNDS = 5
_STEP_UM = 0.05
_LONG_S = 0.5
_BURNERS = 2


def bench(progress: Progress, rounds: int = ROUNDS) -> dict[str, Any]:
    """Send trains of half a second of full speed, in turns.

    Returns:
        {"rounds", "table": [{"rate_hz", "load", "realtime", "pulses", "sent", "late", "mean_us", "worst_us",
        "ramped_again", "longer": {"least", "median", "most"}}]}: what came more than 100 us late, the longest delay of
        all rounds, and how many times as long as planned the trains took.
    """
    cases = [(rate, load, realtime) for rate in RATES_HZ for load in (False, True) for realtime in (True, False)]
    runs: dict[tuple[int, bool, bool], list[dict[str, float]]] = {case: [] for case in cases}
    for number in range(rounds):
        for place, (rate, load, realtime) in enumerate(cases):
            progress(number * len(cases) + place, rounds * len(cases), f"{rate} Hz{', loaded' if load else ''}")
            with _burning(_BURNERS if load else 0):
                runs[rate, load, realtime].append(_run(rate, realtime))
    return {"rounds": rounds, "table": [_row(case, found) for case, found in runs.items()]}


def print_table(result: dict[str, Any], out: Console) -> None:
    """Show the figures to a person."""
    table = Table("Hz", "load", "real time", "late", "mean", "worst", "ramps", "time")
    for row in result["table"]:
        longer = row["longer"]
        table.add_row(
            str(row["rate_hz"]),
            row["load"],
            "yes" if row["realtime"] else "no",
            f"{row['late'] / row['pulses']:.2%}",
            f"{row['mean_us']:.1f} us",
            f"{row['worst_us']:.0f} us",
            str(row["ramped_again"]),
            f"{longer['median']:.2f}x",
        )
    out.print(table)
    out.print(
        "late: more than 100 us after it was due; mean and worst: how late. A late pulse moves all that follow, and "
        "one later than 1 ms and its interval begins a new ramp. time: over the planned. Every pulse was sent once; "
        "they went to no pin."
    )


def _run(rate_hz: int, realtime: bool) -> dict[str, float]:
    """One train; the pulses go nowhere, so that what is measured is the timing alone."""
    limits = Limits(rate_hz * _STEP_UM, 10.0 * rate_hz * _STEP_UM, 200.0 * rate_hz * _STEP_UM)
    count, clock = round(rate_hz * _LONG_S), SystemClock()

    def plan(left: int) -> Seconds:
        return train(left, _STEP_UM, limits)

    planned_s = float(plan(count)[-1])
    thread = PulseThread(clock, realtime=realtime)
    try:
        began_s = clock.now_s()
        order = thread.send(Order(count, _nothing, plan, lambda: "", _nothing, _nothing))
        took_s = clock.now_s() - began_s
        timing = thread.timing
    finally:
        thread.close()
    return {
        "pulses": count,
        "sent": order.sent,
        "late": timing.late,
        "mean_us": timing.mean_s * 1e6,
        "worst_us": timing.worst_s * 1e6,
        "ramped_again": timing.ramped_again,
        "realtime": timing.realtime,
        "longer": took_s / planned_s,
    }


def _nothing() -> None:
    return


def _row(case: tuple[int, bool, bool], runs: list[dict[str, float]]) -> dict[str, Any]:
    longer = sorted(run["longer"] for run in runs)
    return {
        "rate_hz": case[0],
        "load": "2 processes" if case[1] else "none",
        "realtime": all(run["realtime"] for run in runs),
        **{name: sum(int(run[name]) for run in runs) for name in ("pulses", "sent", "late", "ramped_again")},
        "mean_us": statistics.mean(run["mean_us"] for run in runs),
        "worst_us": max(run["worst_us"] for run in runs),
        "longer": {"least": longer[0], "median": statistics.median(longer), "most": longer[-1]},
    }


@contextmanager
def _burning(count: int) -> Iterator[None]:
    """Other processes that compute without end while the block runs."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
        for burner in burners:
            burner.wait()
