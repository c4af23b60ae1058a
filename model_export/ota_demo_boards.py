"""The boards of `demo-ota`: two simulated microscopes served as any board is, driven by the command line alone."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

from model_export.errors import ExportError

LAMP = 0.45
"""What clear glass takes of full scale under the lamps of these boards; the rehearsal's world has 0.82."""
_START_S, _VERB_S, _END_S = 120.0, 400.0, 30.0
_PROFILE = """
name = "{name}"
description = "A simulated bright-field microscope with a dim lamp: 20x/0.75, 448x224 colour camera, quick stage"

[[objective]]
name = "20x"
magnification = 20.0
numerical_aperture = 0.75
spherical_waves = 0.15
longitudinal_colour_um = [0.5, 0.0, -0.4]

[camera]
driver = "simulated"
width_px = 448
height_px = 224
pixel_um = 3.45
exposure_ms = 8.0

[camera.response]
kind = "linear"

[axis]
driver = "simulated"
um_per_step = 0.05
low_um = -60.0
high_um = 60.0
homing = "switch"
home_at_start = true
backlash_um = 5.0
settle_ms = 20.0
speed_um_s = 2000.0

[focus]
towards_um = 30.0
away_um = 40.0
path_um = 400.0
sweep_coarse_um = 3.0
sweep_fine_um = 0.6
sweep_half_range_um = 12.0

[simulation]
seed = {seed}
exposure = {lamp}
tilt_x_um = 0.2
tilt_y_um = -0.1
drift_um_per_min = 0.5
backlash_um = 2.0
stale_frames = 1
"""


@dataclass(frozen=True)
class Job:
    """One focus job: seconds since 1970, the model that answered, true distances from focus in depths of field."""

    ended_s: float
    model: str
    start: float
    end: float
    looks: int
    in_focus: bool


class Board:
    """A board that is served, and somebody who focuses on it all day; made by `served`."""

    def __init__(self, name: str, address: str, exercise: subprocess.Popen[str]) -> None:
        self.name, self.address = name, address
        self.jobs: list[Job] = []
        self.errors: list[str] = []
        self._exercise = exercise
        self._news: queue.Queue[None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name=f"parfocal-demo-{name}")
        self._reader.start()

    def verb(self, *words: str) -> dict[str, Any]:
        """What a verb of `parfocal` said, or {"error": ...} where it failed."""
        return _said([*_PARFOCAL, *words, "--at", self.address, "--json"])

    def pace(self, rest_s: float) -> None:
        """How long to rest after each job."""
        assert self._exercise.stdin is not None
        self._exercise.stdin.write(f"{rest_s}\n")
        self._exercise.stdin.flush()

    def jobs_of(self, model: str) -> list[Job]:
        """The jobs of one model so far."""
        return [job for job in self.jobs if job.model == model]

    def wait_for(self, what: Callable[[], bool], limit_s: float, why: str) -> None:
        """Wait until something is so, looking after each job.

        Raises:
            ExportError: It took too long, or nobody focuses any more.
        """
        due_s = time.monotonic() + limit_s
        while not what():
            left_s = due_s - time.monotonic()
            if left_s <= 0 or not self._reader.is_alive():
                raise ExportError(f"{self.name}: waited {limit_s:.0f} s in vain for {why}; look at its log")
            with suppress(queue.Empty):
                self._news.get(timeout=min(left_s, 1.0))

    def close(self) -> None:
        """End the jobs, after the one that is under way."""
        assert self._exercise.stdin is not None
        with suppress(OSError):
            self._exercise.stdin.close()
        _end(self._exercise)
        self._reader.join()

    def _read(self) -> None:
        assert self._exercise.stdout is not None
        for line in self._exercise.stdout:
            told = json.loads(line)
            if "error" in told:
                self.errors.append(told["error"])
            else:
                self.jobs.append(_job(told))
            self._news.put(None)


@contextmanager
def served(name: str, seed: int, folder: Path, logs: Path, settings: dict[str, Any]) -> Iterator[Board]:
    """A board in a process of its own, and one that has it focus.

    Args:
        name: The board's id.
        seed: Of its world.
        folder: Of its own, new: for its file, its configuration and its state.
        logs: Folder of its log.
        settings: Further keys of its configuration.

    Raises:
        ExportError: It did not start.
    """
    folder.mkdir()
    profile, config = folder / "board.toml", folder / "parfocal.toml"
    profile.write_text(_PROFILE.format(name=name.replace("-", "_"), seed=seed, lamp=LAMP), encoding="utf-8")
    keys = {
        "board": str(profile),
        "listen": "127.0.0.1:0",
        "threads": 1,
        "state": str(folder / "state"),
        "board_id": name,
        **settings,
    }
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()), encoding="utf-8")
    with (logs / f"{name}.log").open("w", encoding="utf-8") as log:
        server = _started([*_PARFOCAL, "serve", "--config", str(config), "--json"], log)
        try:
            address = _address_of(server, logs / f"{name}.log")
            jobs = _started([sys.executable, "-m", "edge_app.exercise", address, str(seed)], log)
            board = Board(name, address, jobs)
            try:
                yield board
            finally:
                board.close()
        finally:
            server.terminate()
            _end(server)


@contextmanager
def web(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP on a free port of this machine; gives its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="parfocal-demo-web")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    """Any static web server will do; this one logs nothing."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base names it so
        """Nothing."""


_PARFOCAL = (sys.executable, "-m", "edge_app.cli")


def _environment() -> dict[str, str]:
    """This process's, without settings that are meant for another board.

    Small matrices on several threads wait for each other where two boards share a machine: one thread each.
    """
    ours = {name: value for name, value in os.environ.items() if not name.upper().startswith("PARFOCAL_")}
    return {**ours, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _started(words: list[str], log: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own program
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment()
    )


def _said(words: list[str]) -> dict[str, Any]:
    """The document that a verb prints.

    Raises:
        ExportError: It printed none.
    """
    done = subprocess.run(  # noqa: S603 - our own program
        words, capture_output=True, text=True, timeout=_VERB_S, env=_environment(), check=False
    )
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        tail = " ".join(done.stderr.split())[-300:]
        raise ExportError(f"`parfocal {' '.join(words[3:5])}` ended with {done.returncode}: {tail}") from error
    return said


def _address_of(server: subprocess.Popen[str], log: Path) -> str:
    """Where a server listens, once it does.

    Raises:
        ExportError: It ended, or takes too long.
    """
    assert server.stdout is not None
    late = threading.Timer(_START_S, server.kill)
    late.start()
    lines = []
    for line in server.stdout:
        lines.append(line)
        with suppress(ValueError):
            late.cancel()
            return str(json.loads("".join(lines))["address"])
    late.cancel()
    raise ExportError(f"a board did not start; {log} says why")


def _end(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()


def _job(told: dict[str, Any]) -> Job:
    depth_um = told["depth_of_field_um"]
    return Job(
        ended_s=told["ended_s"],
        model=told["model"],
        start=told["start_um"] / depth_um,
        end=told["end_um"] / depth_um,
        looks=told["looks"],
        in_focus=told["in_focus"],
    )
