"""The server of the soak: a process that serves as `parfocal serve` does, and what can be seen of it from outside.

Run as `soak_server.py REPORT serve ...` it is that process; on SIGUSR2 it writes to REPORT how many asyncio tasks are
pending, how many objects the garbage collector knows, and what malloc has given out. So the product needs no door for
that.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edge_app import cli

START_S = 60.0


@dataclass(frozen=True)
class Sample:
    """What the server's process held at a time; the last three only where the process itself was asked.

    `allocated_mb` is what malloc has given out, in all arenas; what it keeps of freed memory is in `rss_mb` only.
    """

    at_s: float
    rss_mb: float
    peak_mb: float
    threads: int
    fds: int
    sockets: int
    children: int
    tasks: int | None = None
    objects: int | None = None
    allocated_mb: float | None = None


class Served:
    """The server's process, and what can be seen of it from outside."""

    def __init__(self, folder: Path, board: str, seed: int) -> None:
        self._folder, self._report = folder, folder / "report"
        self._report.touch()
        command = [sys.executable, __file__, self._report, "serve", "--stay-up", "--json"]
        options = ["--board", board, "--seed", seed, "--listen", "127.0.0.1:0", "--state", folder / "state"]
        with (folder / "stdout").open("w") as out, (folder / "log").open("w") as log:
            self.process = subprocess.Popen(list(map(str, command + options)), stdout=out, stderr=log)
        self.address = self._until_served()

    def sample(self, began_s: float, ask: bool = False) -> Sample:
        """Look at /proc; ends the soak if the process ended by itself."""
        if self.process.poll() is not None:
            raise SystemExit(f"the server ended by itself, exit {self.process.returncode}:\n{self.log()[-4000:]}")
        base = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (base / "status").read_text().splitlines())
        links = []
        for link in (base / "fd").iterdir():
            with suppress(OSError):
                links.append(str(link.readlink()))
        children = sum(len(path.read_text().split()) for path in base.glob("task/*/children"))
        return Sample(
            at_s=round(time.monotonic() - began_s, 1),
            rss_mb=int(status["VmRSS"].split()[0]) / 1024,
            peak_mb=int(status["VmHWM"].split()[0]) / 1024,
            threads=int(status["Threads"]),
            fds=len(links),
            sockets=sum(link.startswith("socket:") for link in links),
            children=children,
            **(self._asked() if ask else {}),
        )

    def end(self) -> tuple[int | None, float]:
        """Ask it to end; its exit code (None if it had to be killed), and after how many seconds."""
        asked_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(START_S), time.monotonic() - asked_s
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None, time.monotonic() - asked_s

    def log(self) -> str:
        """What it said on stderr."""
        return (self._folder / "log").read_text()

    def _until_served(self) -> str:
        for _ in range(int(START_S / 0.1)):
            said = (self._folder / "stdout").read_text()
            if said.endswith("}\n"):
                return str(json.loads(said)["address"])
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.process.kill()
        raise SystemExit(f"the server does not answer:\n{self.log()}")

    def _asked(self) -> dict[str, Any]:
        before = self._report.stat().st_size
        self.process.send_signal(signal.SIGUSR2)
        for _ in range(100):
            if self._report.stat().st_size > before:
                break
            time.sleep(0.1)
        answer: dict[str, Any] = json.loads(self._report.read_text().splitlines()[-1])
        return answer


_MALLINFO = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class _Mallinfo(ctypes.Structure):
    _fields_: ClassVar = [(name, ctypes.c_size_t) for name in _MALLINFO.split()]


def allocated_mb() -> float | None:
    """What malloc has given out; None where it cannot be asked (glibc before 2.33)."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        return None
    ask.restype = _Mallinfo
    info = ask()
    return float((info.uordblks + info.hblkhd) / 2**20)


def serve(report: Path, words: list[str]) -> None:
    """Serve as `parfocal` does; on SIGUSR2 write down what is held."""

    def tell(*_: object) -> None:
        things = gc.get_objects()
        pending = sum(isinstance(thing, asyncio.Task) and not thing.done() for thing in things)
        said = {"tasks": pending, "objects": len(things), "allocated_mb": allocated_mb()}
        with report.open("a") as file:
            file.write(json.dumps(said) + "\n")

    signal.signal(signal.SIGUSR2, tell)
    sys.argv = ["parfocal", *words]
    cli.main()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2:])
