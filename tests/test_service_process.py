"""The service as a process under a stand-in for systemd: hangs, stops at every moment, and boards that come and go."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from faulty_boards import BOARD
from grpc_health.v1 import health_pb2, health_pb2_grpc
from stand_in_systemd import StandIn, environment, rules_of

from edge_app.client import Client
from edge_app.errors import NotReady
from edge_app.stubs.parfocal.v1 import focus_pb2, microscope_pb2

LAUNCHER = Path(__file__).parent / "faulty_boards.py"
ROOT = Path(__file__).parent.parent
WAIT_S = 60.0
# A watchdog of 6 s: a busy machine may hold an event loop up for seconds.
SCALE = 0.2
HOMED = microscope_pb2.AXIS_TRUST_HOMED


@dataclass
class Service:
    """A service on a faulty board, and what its board and its ledger show from outside."""

    systemd: StandIn
    folder: Path
    address: str

    def fault(self, name: str, so: bool = True) -> None:
        """Make a fault, or take it back."""
        (self.folder / name).touch() if so else (self.folder / name).unlink()

    @property
    def log(self) -> str:
        return self.systemd.log.read_text()

    @property
    def motor(self) -> int:
        """Where the motor is, in steps."""
        path = self.folder / "motor"
        return int(path.read_text() or "0") if path.exists() else 0

    @property
    def recorded(self) -> dict[str, object]:
        """What the ledger says."""
        (path,) = (self.folder / "state").glob("*.axis")
        found: dict[str, object] = json.loads(path.read_bytes().partition(b"\n")[0].partition(b" ")[2])
        return found

    @property
    def steps(self) -> int:
        """Where the ledger says that the axis rests."""
        return int(str(self.recorded["steps"]))

    def healthy(self) -> bool:
        with grpc.insecure_channel(self.address) as channel:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=WAIT_S, wait_for_ready=True
            )
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def serves(self) -> bool:
        """Whether it says that it serves; READY alone may mean that it only says why it does not."""
        return self.systemd.ready and self.systemd.status.startswith("serving")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts a service on a faulty board; `ready` waits until it answers."""
    opened: list[StandIn] = []

    def start(
        ready: bool = True, timeout_ms: float = 300.0, speed_um_s: float = 400.0, before: tuple[str, ...] = ()
    ) -> Service:
        for fault in before:
            (tmp_path / fault).touch()
        (tmp_path / "board.toml").write_text(BOARD.format(timeout_ms=timeout_ms, speed_um_s=speed_um_s))
        address = f"127.0.0.1:{free_port()}"
        settings = {"board": str(tmp_path / "board.toml"), "listen": address, "bundle": "none"}
        settings |= {"state": str(tmp_path / "state")}
        (tmp_path / "parfocal.toml").write_text("\n".join(f'{key} = "{value}"' for key, value in settings.items()))
        serve = ["serve", "--stay-up", "--config", str(tmp_path / "parfocal.toml")]
        systemd = StandIn(
            [sys.executable, str(LAUNCHER), *serve],
            rules_of(scale=SCALE),
            environment(FAULTS=str(tmp_path), PYTHONPATH=str(ROOT)),
            tmp_path / "log",
        )
        opened.append(systemd)
        systemd.start()
        found = Service(systemd, tmp_path, address)
        if ready:
            systemd.until(found.serves, WAIT_S)
        return found

    yield start
    for systemd in opened:
        with systemd:
            pass


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


# The watchdog.


def test_a_hang_in_the_camera_is_noticed_and_the_service_is_killed_and_serves_again(
    service: Callable[..., Service],
) -> None:
    running = service()
    systemd = running.systemd
    with ThreadPoolExecutor(1) as asking, Client(running.address) as client:
        client.move_to(40.0)
        running.fault("hang")
        asked = asking.submit(client.capture)
        systemd.until(lambda: "watchdog expired" in running.log, WAIT_S)
        systemd.until(lambda: not running.healthy(), WAIT_S)
        with pytest.raises(NotReady, match="not heard of"):
            client.move_to(50.0)
        systemd.until(lambda: systemd.killed == ["watchdog"], WAIT_S)
        motor = running.motor
        systemd.until(lambda: systemd.lives == 2 and running.serves(), WAIT_S)
        assert asked.exception(WAIT_S) is not None
    assert systemd.ends == [-signal.SIGABRT]
    (line,) = [line for line in running.log.splitlines() if "watchdog expired" in line]
    assert "_next" in line
    with Client(running.address) as client:
        assert client.position().trust == HOMED
        assert client.position().z_um == pytest.approx(40.0)
        assert client.capture().width_px == 224
    assert running.motor == motor
    assert systemd.stop() == 0


def test_a_long_move_and_a_long_exposure_and_doing_nothing_are_no_hang(service: Callable[..., Service]) -> None:
    running = service(timeout_ms=20_000.0, speed_um_s=40.0)
    systemd = running.systemd
    (running.folder / "slow").write_text(str(1.2 * systemd.rules.watchdog_s))
    with ThreadPoolExecutor(1) as asking, Client(running.address) as client:
        for call in (lambda: client.move_by(-300.0), client.capture):
            began_s, asked = time.monotonic(), asking.submit(call)
            systemd.until(asked.done, WAIT_S)
            assert asked.exception() is None
            assert time.monotonic() - began_s > systemd.rules.watchdog_s
    fed = systemd.told.count("WATCHDOG=1")
    systemd.until(lambda: systemd.told.count("WATCHDOG=1") >= fed + 3, WAIT_S)
    assert (systemd.killed, systemd.lives) == ([], 1)


# Stops.


@pytest.mark.parametrize(
    "signals", [[signal.SIGTERM, signal.SIGTERM], [signal.SIGINT]], ids=["SIGTERM twice", "Ctrl-C"]
)
def test_an_idle_service_ends_at_once(service: Callable[..., Service], signals: list[signal.Signals]) -> None:
    running = service()
    began_s = time.monotonic()
    ended(running, signals)
    assert time.monotonic() - began_s < 5.0
    assert "STOPPING=1" in running.systemd.told


def test_a_driver_that_fails_to_close_does_not_spoil_a_stop(service: Callable[..., Service]) -> None:
    running = service()
    running.fault("clings")
    ended(running, [signal.SIGTERM])
    assert 'why="the bus is gone"' in running.log


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM], [signal.SIGINT]],
    ids=["SIGTERM", "SIGTERM twice", "Ctrl-C"],
)
def test_a_stop_in_mid_move_ends_at_rest_and_the_client_hears_the_outcome(
    service: Callable[..., Service], signals: list[signal.Signals]
) -> None:
    running = service(speed_um_s=40.0)
    heard: list[focus_pb2.FocusEvent] = []

    def focus() -> None:
        with Client(running.address) as client:
            heard.extend(client.focus("sweep"))

    asking = threading.Thread(target=focus)
    asking.start()
    at = running.motor
    running.systemd.until(lambda: abs(running.motor - at) > 10, WAIT_S)
    began_s = time.monotonic()
    ended(running, signals)
    assert time.monotonic() - began_s < 5.0
    asking.join(WAIT_S)
    assert heard[-1].outcome.kind == focus_pb2.OUTCOME_KIND_STOPPED
    assert heard[-1].outcome.end_z_um == pytest.approx(0.5 * running.steps)


def test_a_stop_in_mid_move_from_a_speed_that_the_motor_can_lose_is_on_record(
    service: Callable[..., Service],
) -> None:
    running = service(speed_um_s=40.0)
    with ThreadPoolExecutor(1) as asking, Client(running.address) as client:
        at, steps = running.motor, int(client.position().z_um / 0.5)
        asked = asking.submit(client.move_to, 100.0)
        running.systemd.until(lambda: abs(running.motor - at) > 10, WAIT_S)
        ended(running, [signal.SIGTERM])
        assert asked.exception(WAIT_S) is not None
    assert running.steps == steps + running.motor - at
    assert running.recorded["trusted"] == "HOMED"


def test_a_stop_while_the_board_is_being_opened_ends_at_rest(service: Callable[..., Service]) -> None:
    running = service(ready=False, speed_um_s=10.0)
    running.systemd.until(lambda: running.motor > 10, WAIT_S)
    began_s = time.monotonic()
    ended(running, [signal.SIGTERM, signal.SIGTERM])
    assert time.monotonic() - began_s < 5.0
    motor = running.motor
    time.sleep(0.2)
    assert running.motor == motor
    assert running.recorded["axis"] == ""


def ended(running: Service, signals: list[signal.Signals]) -> None:
    """Send signals, and see the service end by itself and well, within what systemd allows."""
    systemd = running.systemd
    for number in signals[1:]:
        systemd.tell(number)
    if signals[0] is signal.SIGINT:
        systemd.tell(signal.SIGINT)
    assert systemd.stop() == 0
    assert systemd.killed == []
    assert running.log.rstrip().endswith("stopped")


def test_a_stop_while_the_camera_hangs_ends_within_what_systemd_allows(service: Callable[..., Service]) -> None:
    running = service(timeout_ms=60_000.0)
    with ThreadPoolExecutor(1) as asking, Client(running.address) as client:
        running.fault("hang")
        asked = asking.submit(client.capture)
        running.systemd.until(lambda: not (running.folder / "hang").exists(), WAIT_S)
        began_s = time.monotonic()
        running.systemd.stop()
        assert asked.exception(WAIT_S) is not None
    assert time.monotonic() - began_s < running.systemd.rules.stop_s
    assert running.systemd.killed == []
    assert "the hardware thread does not end" in running.log
    assert running.recorded["trusted"] == "HOMED"


# Boards that come and go.


def test_a_camera_that_is_plugged_in_later_heals_the_service_without_a_restart(
    service: Callable[..., Service],
) -> None:
    running = service(ready=False, before=("unplugged",))
    systemd = running.systemd
    systemd.until(lambda: systemd.ready, WAIT_S)
    assert systemd.status == "no board: the camera is gone; check its cable and power"
    with Client(running.address) as client:
        assert client.describe().trouble == "the camera is gone; check its cable and power"
        with pytest.raises(NotReady, match="camera is gone"):
            client.position()
        assert not running.healthy()
        running.fault("unplugged", so=False)
        systemd.until(running.serves, WAIT_S)
        assert client.capture().width_px == 224
        assert running.healthy()
    assert systemd.lives == 1


def test_a_camera_that_is_pulled_and_plugged_in_again_is_served_again_by_itself(
    service: Callable[..., Service],
) -> None:
    running = service()
    systemd = running.systemd
    with Client(running.address) as client:
        client.move_to(30.0)
        motor = running.motor
        running.fault("unplugged")
        with pytest.raises(Exception, match="camera is gone"):
            client.capture()
        systemd.until(lambda: systemd.status.startswith("without a camera"), WAIT_S)
        assert not running.healthy()
        running.fault("unplugged", so=False)
        systemd.until(running.serves, WAIT_S)
        assert client.capture().z_um == pytest.approx(30.0)
    assert running.motor == motor
    said = [
        line.split(" ")[1:4] for line in running.log.splitlines() if " camera lost" in line or " camera back" in line
    ]
    assert said == [["error", "camera", "lost"], ["info", "camera", "back"]]


def test_what_it_says_of_itself_is_in_order(service: Callable[..., Service]) -> None:
    running = service()
    assert running.systemd.stop() == 0
    events = [line.split(" ", 2)[2] for line in running.log.splitlines() if " info " in line]
    expected = ["started", "listening", "board opened", "serving", "stopping", "stopped"]
    assert [event[: len(word)] for event, word in zip(events, expected, strict=True)] == expected
    told = [line for line in running.systemd.told if not line.startswith(("WATCHDOG", "EXTEND"))]
    assert told == ["STATUS=opening the board", f"STATUS=serving faulty on {running.address}", "READY=1", "STOPPING=1"]
