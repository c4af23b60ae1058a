"""How long measurements take before, during and after an update of the model that measures; none may fail.

`update_load.py [SECONDS]`. A service on the small simulated board, in a process of its own, with 8 clients that
measure without a pause, SECONDS before and after the update; meanwhile it is told to update over gRPC: it fetches,
rehearses in full, at the lowest priority, and switches.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from http_repository import served
from kill_board import Board, Publisher, Zygote

from edge_app.client import Client
from edge_app.errors import AppError
from firmware.errors import FirmwareError

CLIENTS = 8
PHASES = ("before", "staging", "switch", "after")
SWITCHING = "switching"
PATIENCE_S = 60.0
_LOOK_S = 0.02


@dataclass
class Load:
    """What the clients saw: each request's begin and end by the monotonic clock, in s, and what failed."""

    requests: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    marks_s: dict[str, tuple[float, float]] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    state: str = ""
    reason: str = ""

    def latencies_ms(self, phase: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Of the requests that were under way in a phase, at least for a moment; (N,) float64, ms."""
        begin_s, end_s = self.marks_s[phase]
        those = [end - begin for begin, end in self.requests if end >= begin_s and begin <= end_s]
        return 1000.0 * np.array(those)

    def table(self) -> str:
        """By phase, and how many times the median before each figure is."""
        usual_ms = float(np.median(self.latencies_ms("before")))
        lines = [
            f"{'':<9}{'for':>8}{'requests':>10}" + "".join(f"{n:>18}" for n in ("median", "95 %", "99 %", "worst"))
        ]
        for phase in PHASES:
            ms = self.latencies_ms(phase)
            begin_s, end_s = self.marks_s[phase]
            line = f"{phase:<9}{end_s - begin_s:6.1f} s{len(ms):10d}"
            for share in (50, 95, 99, 100):
                one_ms = float(np.percentile(ms, share)) if len(ms) else float("nan")
                line += f"{one_ms:8.0f} ms {one_ms / usual_ms:5.1f} x"
            lines.append(line)
        return "\n".join([*lines, f"{len(self.requests)} requests, {len(self.failures)} failed"])


def measure(address: str, load: Load, ended: threading.Event) -> None:
    """One client: measure until the end."""
    with Client(address, timeout_s=PATIENCE_S) as client:
        while not ended.is_set():
            begin_s = time.monotonic()
            try:
                client.measure()
            except (AppError, FirmwareError) as error:
                load.failures.append(f"{type(error).__name__}: {error}")
            load.requests.append((begin_s, time.monotonic()))


def watch(address: str, load: Load, ended: threading.Event) -> None:
    """Note which model is open, whenever it is another one."""
    with Client(address, timeout_s=PATIENCE_S) as client:
        while not ended.wait(_LOOK_S):
            label = client.describe().model
            if label not in load.labels[-1:]:
                load.labels.append(label)


@contextmanager
def clients(address: str, load: Load) -> Iterator[None]:
    """Measurers at work while the block runs."""
    ended = threading.Event()
    threads = [threading.Thread(target=measure, args=(address, load, ended)) for _ in range(CLIENTS)]
    threads.append(threading.Thread(target=watch, args=(address, load, ended)))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def update(address: str, load: Load) -> None:
    """Have the board updated, and note when staging began and the switch began and ended."""
    begin_s = switch_s = time.monotonic()
    with Client(address, timeout_s=None) as client:
        for event in client.apply("spectral_20x"):
            if event.HasField("status"):
                load.state, load.reason = str(event.status.state), event.status.reason
            elif not load.steps or load.steps[-1] != event.progress.step:
                load.steps.append(event.progress.step)
                if event.progress.step.startswith(SWITCHING):
                    switch_s = time.monotonic()
    load.marks_s["staging"], load.marks_s["switch"] = (begin_s, switch_s), (switch_s, time.monotonic())


def run(folder: Path, calm_s: float, as_is: bool) -> Load:
    """The whole of it; `calm_s` before and after the update."""
    publisher, zygote, load = Publisher(), Zygote(folder, as_is), Load()
    try:
        with served(publisher.simulator.files) as repository:
            board = Board(folder, zygote, publisher, repository.url)
            publisher.publish()
            board.serve()
            with clients(board.address, load):
                began_s = time.monotonic()
                time.sleep(calm_s)
                load.marks_s["before"] = began_s, time.monotonic()
                update(board.address, load)
                began_s = time.monotonic()
                time.sleep(calm_s)
                load.marks_s["after"] = began_s, time.monotonic()
    finally:
        zygote.close()
    return load


def main() -> None:
    """Print the table; exit 1 if a request failed, or not both models answered."""
    folder = Path(tempfile.mkdtemp(prefix="parfocal-load-"))
    load = run(folder, float(next(iter(sys.argv[1:]), "20")), as_is=True)
    said = "\n".join([load.table(), f"served: {', then '.join(load.labels)}", load.reason, *load.failures[:10]])
    sys.stdout.write(f"{CLIENTS} clients measure without a pause\n{said}\n")
    shutil.rmtree(folder)
    if load.failures or len(load.labels) != 2:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
