"""A stand-in for systemd: runs a service of Type=notify by its unit's own rules, its waits scaled down.

Start-up that takes too long ends in SIGTERM, a watchdog that is not fed in SIGABRT, a stop that takes too long in
SIGKILL; what has ended is started again by Restart= and RestartSec=. Nothing runs by itself: `until` lets time pass.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

UNIT = Path(__file__).parent.parent / "systemd" / "parfocal.service"
_UNITS = {"us": 1e-6, "ms": 1e-3, "": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}
_LOOK_S = 0.05


@dataclass(frozen=True)
class Rules:
    """What a unit says of the service's life; seconds."""

    watchdog_s: float
    start_s: float
    stop_s: float
    restart: str
    pause_s: float


def rules_of(unit: Path = UNIT, scale: float = 1.0) -> Rules:
    """The rules of a unit file; the watchdog's time and the pause before a restart scaled."""
    keys: dict[str, str] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            keys[key.strip()] = value.strip()
    return Rules(
        watchdog_s=scale * seconds(keys["WatchdogSec"]),
        start_s=seconds(keys.get("TimeoutStartSec", "90")),
        stop_s=seconds(keys.get("TimeoutStopSec", "90")),
        restart=keys.get("Restart", "no"),
        pause_s=scale * seconds(keys.get("RestartSec", "100ms")),
    )


def seconds(text: str) -> float:
    """A time span as systemd writes it: 30, 30s, 1min 30s."""
    parts = re.findall(r"([\d.]+)\s*([a-z]*)", text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


@dataclass
class StandIn:
    """One service; `told` is all it said, `ends` how each of its lives ended (a return code), `killed` why by us."""

    command: list[str]
    rules: Rules
    environment: dict[str, str]
    log: Path
    told: list[str] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    lives: int = 0
    ready: bool = False
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="notify-"))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._folder / "notify"))
        self._socket.settimeout(_LOOK_S)
        self._fed_s = self._due_s = self._again_s = 0.0
        self._stopping = False

    def start(self) -> None:
        """Start the service; what it prints goes to the log."""
        self.lives += 1
        self.ready = False
        self._due_s = time.monotonic() + self.rules.start_s
        told = {
            "NOTIFY_SOCKET": str(self._folder / "notify"),
            "WATCHDOG_USEC": str(round(self.rules.watchdog_s * 1e6)),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=self.environment | told)

    def until(self, so: Callable[[], bool], limit_s: float) -> None:
        """Let time pass until something is so."""
        end_s = time.monotonic() + limit_s
        while not so():
            assert time.monotonic() < end_s, f"not within {limit_s} s; it told {self.told}; {self.log.read_text()}"
            self._step()

    def stop(self) -> int:
        """`systemctl stop`: SIGTERM, and SIGKILL if that takes too long; gives the return code."""
        assert self.process is not None
        self._stopping = True
        self._due_s = time.monotonic() + self.rules.stop_s
        self.process.send_signal(signal.SIGTERM)
        self.until(lambda: self.process is None, 2 * self.rules.stop_s)
        return self.ends[-1]

    def tell(self, number: signal.Signals) -> None:
        """Send the service a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    @property
    def status(self) -> str:
        """The last STATUS= that was told."""
        found = [line.removeprefix("STATUS=") for line in self.told if line.startswith("STATUS=")]
        return found[-1] if found else ""

    def __enter__(self) -> StandIn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._socket.close()
        shutil.rmtree(self._folder)

    def _step(self) -> None:
        try:
            heard = self._socket.recv(4096).decode()
        except TimeoutError:
            heard = ""
        for line in heard.splitlines():
            self._heard(line)
        now_s = time.monotonic()
        if self.process is None:
            if not self._stopping and self.lives and now_s >= self._again_s:
                self.start()
            return
        code = self.process.poll()
        if code is not None:
            self._ended(code, now_s)
        elif (self._stopping or not self.ready) and now_s > self._due_s:
            self._kill("stop" if self._stopping else "start", signal.SIGKILL if self._stopping else signal.SIGTERM)
        elif self.ready and not self._stopping and now_s > self._fed_s + self.rules.watchdog_s:
            self._kill("watchdog", signal.SIGABRT)

    def _heard(self, line: str) -> None:
        self.told.append(line)
        now_s = time.monotonic()
        if line == "READY=1":
            self.ready, self._fed_s = True, now_s
        elif line == "WATCHDOG=1":
            self._fed_s = now_s
        elif line.startswith("EXTEND_TIMEOUT_USEC="):
            self._due_s = max(self._due_s, now_s + int(line.partition("=")[2]) / 1e6)

    def _kill(self, why: str, number: signal.Signals) -> None:
        assert self.process is not None
        self.killed.append(why)
        self.process.send_signal(number)
        self._fed_s = self._due_s = time.monotonic() + 60

    def _ended(self, code: int, now_s: float) -> None:
        self.ends.append(code)
        self.process, self.ready = None, False
        self._again_s = now_s + self.rules.pause_s
        clean = code in (0, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGPIPE)
        if self.rules.restart == "no" or (self.rules.restart == "on-failure" and clean):
            self._stopping = True


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what concerns parfocal or a service manager, and more."""
    ours = ("PARFOCAL_", "NOTIFY_", "WATCHDOG_", "JOURNAL_", "STATE_DIRECTORY")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more
