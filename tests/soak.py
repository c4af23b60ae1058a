"""The soak: a served board under clients that ask without pause and vanish; watches what the process holds on to.

`python tests/soak.py --minutes 20` (or `make soak`) serves a simulated board as a process of its own (soak_server.py)
and sets clients on it (soak_client.py). Every few seconds one is killed, or frozen until the server's keepalive
notices. Memory is compared between the first and the last fifth after a warm-up, everything else between two pauses
in which nobody is connected. Exit 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from soak_server import Sample, Served
from soak_verdict import findings, judge, show

HERE = Path(__file__).parent
SAMPLE_S = 1.0
ASK_EVERY = 60
KILL_EVERY_S = 5.0
FROZEN_S = 20.0
"""Longer than the server waits for a keepalive's answer: 10 s and 5 s."""
QUIET_S = 40.0
CREW = ("look", "look", "move", "focus", "view", "hurry", "hurry", "intrude")


class Crew:
    """The clients: as many as CREW has, each replaced when it is killed."""

    def __init__(self, folder: Path, address: str, rng: random.Random) -> None:
        self._folder, self._address, self._rng = folder, address, rng
        self._members: list[subprocess.Popen[bytes]] = []
        self._frozen: list[tuple[float, subprocess.Popen[bytes]]] = []
        self._roles: list[str] = []
        self._next_s = 0.0
        self.killed = self.frozen = 0
        for role in CREW:
            self._roles.append(role)
            self._members.append(self._start(role))

    def upset(self, now_s: float) -> None:
        """Now and then kill one, or freeze one and kill it later: as if its machine had gone."""
        while self._frozen and self._frozen[0][0] < now_s:
            _kill(self._frozen.pop(0)[1])
        if now_s < self._next_s:
            return
        self._next_s = now_s + self._rng.uniform(0.5, 1.5) * KILL_EVERY_S
        which = self._rng.randrange(len(self._members))
        gone = self._members[which]
        if self._rng.random() < 0.3:
            gone.send_signal(signal.SIGSTOP)
            self._frozen.append((now_s + FROZEN_S, gone))
            self.frozen += 1
        else:
            _kill(gone)
            self.killed += 1
        self._members[which] = self._start(self._roles[which])

    def dismiss(self) -> None:
        """End them all."""
        for process in (*self._members, *(frozen for _, frozen in self._frozen)):
            _kill(process)
        self._members, self._frozen = [], []

    def _start(self, role: str) -> subprocess.Popen[bytes]:
        seed = self._rng.randrange(2**31)
        command = [sys.executable, HERE / "soak_client.py", role, self._address, seed, self._folder / f"said-{seed}"]
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@contextmanager
def crew(folder: Path, address: str, rng: random.Random) -> Iterator[Crew]:
    """Clients that are gone after the block."""
    members = Crew(folder, address, rng)
    try:
        yield members
    finally:
        members.dismiss()


def load(served: Served, members: Crew, began_s: float, minutes: float) -> list[Sample]:
    """Let the crew work, and look at the server every few seconds."""
    samples: list[Sample] = []
    ends_s = time.monotonic() + 60 * minutes
    while (now_s := time.monotonic()) < ends_s:
        members.upset(now_s)
        samples.append(served.sample(began_s, ask=len(samples) % ASK_EVERY == 0))
        time.sleep(SAMPLE_S)
    return samples


def quiet(served: Served, began_s: float) -> Sample:
    """What is held when nobody is connected: after a pause in which the server can notice."""
    time.sleep(QUIET_S)
    return served.sample(began_s, ask=True)


def soak(minutes: float, seed: int, board: str, folder: Path, as_json: bool) -> int:
    """Run it all; the exit code."""
    rng, began_s = random.Random(seed), time.monotonic()
    served = Served(folder, board, seed)
    try:
        with crew(folder, served.address, rng) as members:
            load(served, members, began_s, min(3.0, minutes / 4))
        before = quiet(served, began_s)
        with crew(folder, served.address, rng) as members:
            samples = load(served, members, began_s, minutes - min(3.0, minutes / 4))
        after = quiet(served, began_s)
        end = served.end()
    finally:
        if served.process.poll() is None:
            served.end()
    found = findings(folder)
    bounds = judge(samples, before, after, found, end, served.log())
    result = {
        "minutes": minutes, "seed": seed, "board": board, "calls": sum(found.ends.values()),
        "killed": members.killed, "frozen": members.frozen, "peak_mb": round(after.peak_mb),
        "quiet_mb": [round(before.rss_mb), round(after.rss_mb)],
        "quiet_allocated_mb": [round(sample.allocated_mb or 0) for sample in (before, after)],
        "quiet_objects": [before.objects, after.objects],
    }  # fmt: skip
    if as_json:
        everything = {
            "ends": found.ends,
            "surprises": found.surprises,
            "samples": list(map(asdict, samples)),
            "bounds": list(map(asdict, bounds)),
        }
        sys.stdout.write(json.dumps({**result, **everything}, indent=1) + "\n")
    else:
        show(result, samples, found, bounds)
    return 0 if all(bound.ok for bound in bounds) else 1


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--board", default="simulated")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="keep the server's log and what clients said in this folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        where = asked.keep or Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        sys.exit(soak(asked.minutes, asked.seed, asked.board, where, asked.json))


if __name__ == "__main__":
    main()
