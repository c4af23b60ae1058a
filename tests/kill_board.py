"""A small board that is updated, and killed: its service, its updater, whoever publishes for it, and what is seen."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from killed_update import AS_IS
from repository_simulator import Simulator
from updating import repacked

from edge_app import bundle as bundles
from edge_app.client import Client
from edge_app.errors import AppError
from edge_app.ota.catalogue import Catalogue, Entry
from edge_app.ota.depot import Depot
from edge_app.stubs.parfocal.v1 import focus_pb2
from firmware.errors import FirmwareError

HERE = Path(__file__).parent
NAME = "spectral_20x"
PHASES = ("asking", "fetching", "opening", "rehearsing", "switching", "first jobs")
CHANNEL = "stable"
WAIT_S = 90.0
LOOK_S = 0.002


@dataclass
class Zygote:
    """The process that forks."""

    folder: Path
    as_is: bool = False
    pids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        # OpenBLAS and OpenMP would start threads.
        alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "killed_update.py"), *([AS_IS] if self.as_is else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | alone,
        )

    def run(self, *words: str, log: str, steps: str = "") -> int:
        """Fork a `parfocal`; gives its id."""
        pid = self._ask({"run": words, "log": str(self.folder / log), "steps": steps})
        assert pid is not None
        self.pids.append(pid)
        return pid

    def ended(self, pid: int) -> int | None:
        """The exit code of a process that ended; its id is good for nothing then."""
        code = self._ask({"ended": pid})
        if code is not None:
            self.pids.remove(pid)
        return code

    def kill(self, pid: int) -> None:
        """SIGKILL, and wait."""
        if pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            self.wait(pid)

    def wait(self, pid: int) -> int:
        """Until it ends by itself."""
        until_s = time.monotonic() + WAIT_S
        while (code := self.ended(pid)) is None:
            assert time.monotonic() < until_s, f"process {pid} does not end; see {self.folder}"
            time.sleep(LOOK_S)
        return code

    def close(self) -> None:
        """End everything."""
        for pid in list(self.pids):
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, wish: dict[str, object]) -> int | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(wish) + "\n")
        self._process.stdin.flush()
        answer: int | None = json.loads(self._process.stdout.readline())
        return answer


class Publisher:
    """Publishes one bundle after the other, each a version higher: the factory's network under another number."""

    def __init__(self) -> None:
        self.simulator = Simulator(datetime.now(timezone.utc))
        self._minor = 0

    def publish(self) -> Entry:
        """Offer the next version, and nothing else."""
        self._minor += 1
        version = f"1.{self._minor}.0"
        data = repacked(version, NAME)
        simulator = self.simulator
        for path in [path for path in simulator.files if path.endswith(bundles.SUFFIX)]:
            del simulator.files[path]
        simulator.channels[CHANNEL].targets.clear()
        simulator.catalogues[CHANNEL] = Catalogue(channel=CHANNEL)
        entry = simulator.offer(data, NAME, version, CHANNEL)
        simulator.publish()
        return entry


class Board:
    """One simulated board, its service and its updater."""

    def __init__(self, folder: Path, zygote: Zygote, publisher: Publisher, url: str) -> None:
        self.folder, self._zygote, self._publisher = folder, zygote, publisher
        self.depot = Depot(folder / "state")
        self.address = f"127.0.0.1:{_free_port()}"
        (folder / "root.json").write_bytes(publisher.simulator.bootstrap())
        (folder / "board.toml").write_text(small_board())
        self._config = folder / "parfocal.toml"
        settings = {"board": folder / "board.toml", "listen": self.address, "runtime": "onnxruntime"}
        settings |= {"state": folder / "state", "update_from": url, "update_root": folder / "root.json"}
        lines = [f'{name} = "{value}"' for name, value in settings.items()]
        self._config.write_text("\n".join([*lines, "threads = 1", ""]))
        self._steps = folder / "steps"
        self._service = 0
        self._orphaned: list[int] = []
        self.updater = 0

    def serve(self) -> float:
        """Start the service, if it does not run; gives how long it took to answer, s."""
        began_s = time.monotonic()
        if self._service not in self._zygote.pids:
            self._service = self._zygote.run("serve", "--stay-up", "--config", str(self._config), log="service.log")
        while True:
            try:
                with Client(self.address, timeout_s=WAIT_S) as client:
                    client.describe()
                return time.monotonic() - began_s
            except AppError:  # noqa: PERF203 - it is not there yet
                assert time.monotonic() - began_s < WAIT_S, f"the service does not answer; see {self.folder}"
                assert self._zygote.ended(self._service) is None, f"the service ended; see {self.folder}"
                time.sleep(0.01)

    def update(self, by_service: bool) -> None:
        """Begin an update; the model from before has proved itself, or no newer one would be taken."""
        self.depot.change(lambda state: state.settled("its jobs went well") if state.watched else state)
        self._steps.write_text("")
        words = ["--at", self.address] if by_service else ["--config", str(self._config)]
        self.updater = self._zygote.run(
            "update", "apply", "--bundle", NAME, *words, log="updater.log", steps=str(self._steps)
        )

    @property
    def updating(self) -> bool:
        """Whether the updater still runs."""
        return self.updater in self._zygote.pids and self._zygote.ended(self.updater) is None

    @property
    def phase(self) -> str:
        """What the updater says that it does; "first jobs" once it has ended."""
        if self.updater not in self._zygote.pids:
            return PHASES[-1]
        said = self._steps.read_text().splitlines()
        word = said[-1].partition(" ")[0].removesuffix(":") if said else PHASES[0]
        return {"building": "opening", "rehearsed": "rehearsing"}.get(word, word)

    def strike(self, victim: str) -> None:
        """SIGKILL."""
        if victim in ("updater", "both"):
            self._zygote.kill(self.updater)
        if victim in ("service", "both"):
            self._zygote.kill(self._service)
            self._orphaned.append(self._service)

    def clear(self) -> None:
        """Kill the updater if it lives, and the workers of services that were killed."""
        self._zygote.kill(self.updater)
        for pid in self._orphaned:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self._orphaned.clear()

    def settle(self) -> None:
        """Let an updater that lives come to its end, and workers that lost their service."""
        if self.updater in self._zygote.pids:
            self._zygote.wait(self.updater)
        until_s = time.monotonic() + WAIT_S
        while self.depot.is_updating() and time.monotonic() < until_s:
            time.sleep(0.02)

    def served(self) -> tuple[str, str]:
        """The model that is open, by its label, and the hash of the file that serves by the record."""
        with Client(self.address, timeout_s=WAIT_S) as client:
            said = client.describe().model
            reply = client.measure()
            assert reply.estimate.verdict != focus_pb2.VERDICT_UNSPECIFIED
        path = self.depot.shelf().find(NAME)
        return said, hashlib.sha256(path.read_bytes()).hexdigest()

    def agrees(self) -> tuple[str, str]:
        """As `served`, once the service and the record say the same."""
        until_s = time.monotonic() + 10.0
        while True:
            with Client(self.address, timeout_s=WAIT_S) as client:
                listed = client.models().update.serving
            said, sha256 = self.served()
            label = bundles.read(self.depot.shelf().find(NAME)).manifest.label
            if (listed, said) == (label, label) or time.monotonic() > until_s:
                return (said, sha256) if said == label else (f"{said} where the record has {label}", sha256)
            time.sleep(0.05)

    def job(self) -> None:
        """Focus once."""
        with Client(self.address) as client:
            client.load_field(3, "tissue", 3.0)
            for _ in client.focus():
                pass

    def jobs(self) -> threading.Thread:
        """Focus again and again, until the service is gone."""

        def work() -> None:
            with suppress(AppError, FirmwareError):
                while True:
                    self.job()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread


def small_board() -> str:
    """The tiny board with frames of one patch, as a file, with a stage that settles sooner."""
    tiny = (HERE.parent / "firmware" / "boards" / "simulated_tiny.toml").read_text()
    for old, new in (("_px = 448", "_px = 224"), ("settle_ms = 150.0", "settle_ms = 40.0")):
        assert old in tiny
        tiny = tiny.replace(old, new)
    return tiny


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
