"""Kills the updater, the service or both (SIGKILL) at random instants of updates, and asks each restart what serves.

`kill_trial.py [KILLS [SEED]]`. One board lives through all of it: for every kill a newer bundle is published, an
update to it begins, and somebody is killed, at an instant drawn from the whole update or from one of its steps. After
the restart exactly the old or exactly the new bundle has to be on the disk, to be open, and to answer. `killed_update`
says what is shortened.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from http_repository import served
from kill_board import LOOK_S, PHASES, WAIT_S, Board, Publisher, Zygote

from edge_app.ota.state import Stage

VICTIMS = ("updater", "service", "both")
_JOBS_S = 1.0


@dataclass
class Found:
    """What all kills came to: by (phase, who), how often the old and the new model served."""

    ends: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    restart_s: list[float] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def kills(self) -> int:
        """How many updates were struck."""
        return sum(self.ends.values())

    def table(self) -> str:
        """By phase: who was killed how often, and what served then."""
        lines = [f"{'killed while':<14}{'kills':>6}{'updater':>9}{'service':>9}{'both':>6}{'old':>6}{'new':>6}"]
        for phase in (*PHASES, "all"):
            those = {key: count for key, count in self.ends.items() if phase in (key[0], "all")}

            def of(which: str, place: int, those: dict[tuple[str, str, str], int] = those) -> int:
                return sum(count for key, count in those.items() if key[place] == which)

            counts = [sum(those.values()), *(of(victim, 1) for victim in VICTIMS), of("old", 2), of("new", 2)]
            widths = (6, 9, 9, 6, 6, 6)
            lines.append(f"{phase:<14}" + "".join(f"{n:>{w}}" for n, w in zip(counts, widths, strict=True)))
        return "\n".join(lines)


class Trial:
    """All of it; `durations_s` are those of the phases of an update that nobody disturbs."""

    def __init__(self, board: Board, publisher: Publisher, seed: int) -> None:
        self._board, self._publisher = board, publisher
        self._rng = random.Random(seed)
        self.durations_s: dict[str, float] = {}
        self.found = Found()
        self._old = ("", "")

    def measure(self, rounds: int = 2) -> None:
        """How long each phase takes when nobody is killed."""
        times: dict[str, list[float]] = {phase: [] for phase in PHASES}
        for number in range(rounds):
            new = self._begin(by_service=number % 2 == 1)
            phase, since_s = PHASES[0], time.monotonic()
            while self._board.updating:
                if (now := self._board.phase) != phase:
                    times[phase].append(time.monotonic() - since_s)
                    phase, since_s = now, time.monotonic()
                time.sleep(LOOK_S)
            times[phase].append(time.monotonic() - since_s)
            assert self._board.agrees() == new, self._board.depot.state().reason
        self.durations_s = {phase: median(found or [_JOBS_S]) for phase, found in times.items()}

    def kill(self, number: int) -> None:
        """One kill, and what serves after it."""
        board, rng = self._board, self._rng
        victim, by_service = VICTIMS[number % 3], number % 4 == 3
        new = self._begin(by_service)
        jobs = self._reach(number)
        phase = board.phase
        if phase == PHASES[-1] and victim == "updater":
            victim = "service"
        board.strike(victim)
        self.found.restart_s.append(board.serve())
        said = board.served()
        allowed = {self._old[0]: "old", new[0]: "new"}
        if said[0] not in allowed:
            self.found.wrong.append(f"kill {number}, {victim} while {phase}: {said[0]} serves, not one of {allowed}")
        if rng.random() < 0.5:
            board.clear()
        board.settle()
        after = board.agrees()
        if after not in (self._old, new):
            self.found.wrong.append(f"kill {number}, {victim} while {phase}: {after}, neither {self._old} nor {new}")
        self.found.ends[phase, victim, "new" if after == new else "old"] += 1
        if jobs is not None:
            jobs.join(WAIT_S)
        if rng.random() < 0.1 and after == new:
            board.strike("service")

    def _begin(self, by_service: bool) -> tuple[str, str]:
        """Publish, and begin an update; gives the new model as `served` would."""
        self._board.serve()
        self._old = self._board.agrees()
        if self._board.depot.state().starts:
            # Three starts without a job would have it leave the new model by itself, as they should.
            self._board.job()
        state = self._board.depot.state()
        if state.stage is Stage.READY and state.candidate is not None:
            new = state.candidate.label, state.candidate.sha256  # what is ready is taken up first
        else:
            entry = self._publisher.publish()
            new = entry.label, entry.sha256
        self._board.update(by_service)
        return new

    def _reach(self, number: int) -> threading.Thread | None:
        """Wait for the instant: anywhere in the update, or somewhere in one phase of it."""
        board, rng = self._board, self._rng
        if number % 2:
            wanted, wait_s = PHASES[0], rng.uniform(0.0, 1.1 * sum(self.durations_s.values()))
        else:
            wanted = PHASES[number // 2 % len(PHASES)]
            wait_s = rng.uniform(0.0, 1.05 * self.durations_s[wanted])
        while board.updating and PHASES.index(board.phase) < PHASES.index(wanted):
            time.sleep(LOOK_S)
        until_s = time.monotonic() + wait_s
        while board.updating and time.monotonic() < until_s:
            time.sleep(min(LOOK_S, max(0.0, until_s - time.monotonic())))
        if board.updating:
            return None
        jobs = board.jobs()
        time.sleep(max(0.0, min(until_s - time.monotonic(), _JOBS_S)))
        return jobs


@contextmanager
def trial(folder: Path, seed: int) -> Iterator[Trial]:
    """A board, a web server and the process that forks, and all of it ended again."""
    publisher, zygote = Publisher(), Zygote(folder)
    try:
        with served(publisher.simulator.files) as repository:
            yield Trial(Board(folder, zygote, publisher, repository.url), publisher, seed)
    finally:
        zygote.close()


def run(folder: Path, kills: int, seed: int) -> Found:
    """So many kills."""
    with trial(folder, seed) as going:
        began_s = time.monotonic()
        going.measure()
        for number in range(kills):
            going.kill(number)
        going.found.took_s = time.monotonic() - began_s
        return going.found


def main() -> None:
    """Print what came of it; exit 1 if ever neither or both served."""
    kills, seed = int(next(iter(sys.argv[1:]), "200")), int(next(iter(sys.argv[2:]), "1"))
    folder = Path(tempfile.mkdtemp(prefix="parfocal-kills-"))
    found = run(folder, kills, seed)
    restart_s, wrong = found.restart_s, len(found.wrong)
    sys.stdout.write(
        f"{found.table()}\n"
        f"{found.kills} kills in {found.took_s:.0f} s, seed {seed}; {wrong} left neither the old nor the new\n"
        f"the service answered {median(restart_s):.2f} s after a restart (median), {max(restart_s):.2f} s at most\n"
    )
    if found.wrong:
        raise SystemExit("\n".join([*found.wrong, f"logs are in {folder}"]))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
