"""A service and updaters to be killed: processes forked from one that has imported everything, and has no thread.

`killed_update.py` reads a line of JSON for each wish and answers with one: {"run": words of `parfocal`, "log": file,
"steps": file} gives the process's id, {"ended": id} its exit code, or null while it runs. So a process begins within
a tenth of a second. Two things are other than in the product: in place of a rehearsal both models answer their golden
inputs for a third of a second, and a fetch takes as long for 1.5 MB; with `--as-is` nothing is. Each step of an update
is added to the file `steps`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

ROUNDS, ROUND_S = 10, 0.03
BYTES_S = 5e6
WORKER = (sys.executable, "-m", "short_worker")
AS_IS = "--as-is"


class Slow:
    """A source that takes its time over each piece."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.label = source.label

    def open(self, path: str, offset: int, left_s: float) -> Generator[bytes, None, None]:
        """The source's pieces, one after the other."""
        for piece in self._source.open(path, offset, left_s):
            time.sleep(len(piece) / BYTES_S)
            yield piece


def rehearsed(old: Any, new: Any, where: object, progress: Callable[[int, int, str], None]) -> Any:
    """As long as it takes, both models answer what they are known to answer; they are the same network."""
    from edge_app.ota.rehearsal_rule import Pair, Rehearsal, Trial

    del where
    for number in range(ROUNDS):
        progress(number, ROUNDS, f"rehearsing: {number}")
        for model in (old, new):
            model.infer(model.bundle.golden_in[:1], {name: rows[0] for name, rows in model.bundle.golden_also.items()})
        time.sleep(ROUND_S)
    job = Trial(start=3.0, end=0.1, looks=1.0, claims=True)
    return Rehearsal("defocus", "single_shot", "golden inputs", old.label, new.label, (Pair("", job, job),) * 20, 1.0)


def shorten() -> None:
    """Have this process rehearse and fetch as said above, and services stage likewise."""
    from edge_app.ota import fetching, rehearsal, staging

    found = fetching.source_of
    vars(fetching)["source_of"] = lambda update_from: Slow(found(update_from))
    vars(rehearsal)["rehearse"] = rehearsed
    staging.WORKER = WORKER


def note_steps(path: Path) -> None:
    """Have each step that a person would see go to a file, with the time of its beginning."""
    from edge_app import console

    @contextmanager
    def progress() -> Iterator[Callable[[int, int, str], None]]:
        before = ""

        def say(done: int, total: int, step: str) -> None:
            nonlocal before
            del done, total
            if step != before:
                before = step
                with path.open("a") as file:
                    file.write(f"{step}\n")

        yield say

    console.progress = progress


def become(words: list[str], log: str, steps: str) -> int:
    """Be `parfocal` with these words; gives its exit code."""
    from edge_app import cli, console

    os.setpgid(0, 0)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(old, new)
    if AS_IS not in sys.argv:
        shorten()
    if steps:
        note_steps(Path(steps))
    return console.run(cli.app, words)


def warm() -> None:
    """Import what both need, but what would start a thread."""
    for name in (
        *(
            "cli_update",
            "heap",
            "journal",
            "ota.means",
            "ota.repository",
            "ota.rehearsal",
            "server",
            "tasks.defocus",
            "strategies.single_shot",
        ),
        *("ota.rehearsal_rule", "ota.watch_rule"),
    ):
        import_module(f"edge_app.{name}")
    for name in ("axes", "cameras"):
        import_module(f"firmware.{name}.simulated")


def ended(pid: int) -> int | None:
    """The exit code of a child that ended."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return None if found == 0 else os.waitstatus_to_exitcode(status)


def main() -> None:
    """Fork until the input ends."""
    warm()
    assert threading.active_count() == 1
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a thread would not survive the fork"
    for line in iter(sys.stdin.readline, ""):
        asked = json.loads(line)
        if "ended" in asked:
            answer = ended(asked["ended"])
        else:
            answer = os.fork()
            if answer == 0:
                code = 1
                try:
                    code = become(asked["run"], asked["log"], asked["steps"])
                finally:
                    os._exit(code)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
