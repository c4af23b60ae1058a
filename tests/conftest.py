"""A bench for tests: a small simulated board on a clock that can be held, and a model that knows all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
import pytest
from oracle import oracle

from edge_app.appliance import Appliance
from edge_app.client import Client
from edge_app.controller import Controller
from edge_app.model import Model
from edge_app.server import serving
from firmware.clock import ManualClock
from firmware.microscope import Microscope, open_microscope
from firmware.profile import BoardProfile, load_profile
from firmware.simulation import World

PATIENCE_S = 20.0
CHUNK_UM = 1.6
"""How far the simulated axis goes between two looks at its halt event: 4 ms at 400 um/s."""


class HeldClock(ManualClock):
    """A manual clock that can be held: the n-th sleep from `hold(n)` on waits for `release`."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self._free = threading.Event()
        self._free.set()
        self._left = 0

    def hold(self, sleeps: int) -> None:
        """Let some sleeps pass, then hold; `reached` is set when somebody waits."""
        self.reached.clear()
        self._free.clear()
        self._left = sleeps

    def release(self) -> None:
        """Let time go on."""
        self._left = 0
        self._free.set()

    def sleep(self, duration_s: float) -> None:
        """Turn the clock forward, and wait if it is held."""
        super().sleep(duration_s)
        if self._left > 0:
            self._left -= 1
            if self._left == 0:
                self.reached.set()
                assert self._free.wait(PATIENCE_S), "nobody released the clock"


@dataclass
class Bench:
    """An appliance and the handles that only tests hold."""

    appliance: Appliance
    microscope: Microscope
    world: World
    clock: HeldClock

    @property
    def z_um(self) -> float:
        """Where the axis believes it is."""
        return self.microscope.axis.z_um

    @property
    def halted(self) -> threading.Event:
        """Set while a stop holds."""
        return self.microscope.axis._halt

    def release_when_halted(self) -> None:
        """Wait for a stop, then let time go on."""
        assert self.halted.wait(PATIENCE_S)
        self.clock.release()

    def settle_waiting(self, count: int) -> None:
        """Wait until so many measurements are in line."""
        appliance = self.appliance
        with appliance._wake:
            assert appliance._wake.wait_for(lambda: len(appliance._waiting) == count, PATIENCE_S)

    def block(self) -> Callable[[], None]:
        """Keep the hardware thread busy with a job called "block"; gives the function that ends it."""
        gate = threading.Event()
        job = self.appliance.run("block", lambda _: gate.wait(PATIENCE_S))

        def end() -> None:
            gate.set()
            job.result.result(PATIENCE_S)

        return end


def small_board() -> BoardProfile:
    """The tiny board with frames of one patch: as physical, and cheaper still."""
    profile = load_profile("simulated_tiny")
    camera = profile.camera.model_copy(update={"width_px": 224, "height_px": 224})
    return profile.model_copy(update={"camera": camera})


def open_bench(model: Callable[[World], Model | None] = oracle) -> Bench:
    """Open the small board; close `appliance` afterwards."""
    clock = HeldClock()
    microscope = open_microscope(small_board(), clock)
    assert microscope.world is not None
    microscope.world.load_field(3, "tissue")
    appliance = Appliance(Controller(microscope, model(microscope.world)))
    return Bench(appliance, microscope, microscope.world, clock)


@pytest.fixture(autouse=True)
def no_thread_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread of ours, or one that would keep the process alive."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("parfocal") or not thread.daemon:
            thread.join(5.0)
            assert not thread.is_alive(), f"leaked thread {thread.name}"


@pytest.fixture
def bench() -> Iterator[Bench]:
    """An appliance whose model knows the truth."""
    opened = open_bench()
    with opened.appliance:
        yield opened
        opened.clock.release()


@pytest.fixture
def bare_bench() -> Iterator[Bench]:
    """An appliance without a model."""
    opened = open_bench(lambda _: None)
    with opened.appliance:
        yield opened
        opened.clock.release()


@pytest.fixture
def address(bench: Bench) -> Iterator[str]:
    """The bench, served over loopback."""
    with serving(bench.appliance, "127.0.0.1:0") as where:
        yield where
        bench.clock.release()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    """A client of the served bench."""
    with Client(address) as connected:
        yield connected


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No PARFOCAL_ variables but those a test sets."""
    import os

    for name in list(os.environ):
        if name.startswith("PARFOCAL_"):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def channel(address: str) -> Iterator[grpc.Channel]:
    """A bare channel to the served bench, for what the client would not send."""
    with grpc.insecure_channel(address) as opened:
        yield opened


@pytest.fixture
def signals() -> Iterator[None]:
    """Give the process its signal handlers back."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
