"""Malformed requests by the ten thousand against a service of its own: it serves on, its memory stays, the stage too.

    python tests/hostile.py [--requests 21000] [--seed 1]

Everything stays on this machine's loopback, and is bounded. Requests go to the plain address, to the one for
certificates (with the kits of a viewer and an operator) and to the one for tokens (with none, a wrong and a viewer's).
What an operator sends can never be carried out: it is no message, or asks for what cannot be.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import grpc
import hostile_wire as wire
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from keyed_board import free_port, secure

from edge_app.access import kit as kits
from edge_app.access.roles import MOVERS, ROLES, Role
from edge_app.access.trust import Trust
from edge_app.client import Client
from edge_app.front import HANDSHAKE_S, MAX_REQUEST_BYTES
from edge_app.stubs.parfocal.v1 import focus_pb2, microscope_pb2, simulation_pb2

WAIT_S = 20.0
MOST_GROWTH_MB = 12.0
"""How much more memory the service may hold after all of it than after the first fifth, in which it warms up."""
METHODS = sorted(ROLES)
STREAMED = frozenset({"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"})
_NOW = datetime.now(timezone.utc)
_HALF_OPEN = 100
_SHARES = {"messages": 0.55, "impossible": 0.10, "large": 0.03, "metadata": 0.07, "wire": 0.20, "half open": 0.05}
_NO_FIELD = b"\xff" * 11
"""A number longer than any may be: what begins with it can never be read as a request that would be carried out."""
_INFINITE, _NAN = float("inf"), float("nan")
IMPOSSIBLE: tuple[tuple[str, Any], ...] = (
    ("/parfocal.v1.MicroscopeService/Move", microscope_pb2.MoveRequest(to_um=_NAN)),
    ("/parfocal.v1.MicroscopeService/Move", microscope_pb2.MoveRequest(by_um=_INFINITE)),
    ("/parfocal.v1.MicroscopeService/Move", microscope_pb2.MoveRequest(to_um=1e12)),
    ("/parfocal.v1.MicroscopeService/Move", microscope_pb2.MoveRequest()),
    ("/parfocal.v1.MicroscopeService/SelectObjective", microscope_pb2.SelectObjectiveRequest(name="x" * 1000)),
    ("/parfocal.v1.MicroscopeService/CalibrateFocus", microscope_pb2.CalibrateFocusRequest(range_um=_NAN)),
    ("/parfocal.v1.FocusService/Focus", focus_pb2.FocusRequest(strategy="../../etc/passwd")),
    ("/parfocal.v1.FocusService/Focus", focus_pb2.FocusRequest(roi=focus_pb2.RegionOfInterest(x_px=2**32 - 1))),
    ("/parfocal.v1.SimulationService/LoadField", simulation_pb2.LoadFieldRequest(field=-1)),
)
"""What an operator may ask and no board can do."""


@dataclass
class Report:
    """What was sent, how it ended, and what became of the service."""

    sent: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    memory_mb: list[float] = field(default_factory=list)
    z_um: list[float] = field(default_factory=list)
    jobs: Counter[str] = field(default_factory=Counter)
    alive: bool = False
    serves: bool = False
    took_s: float = 0.0

    @property
    def growth_mb(self) -> float:
        """Memory at the end beyond that after the first fifth."""
        return self.memory_mb[-1] - self.memory_mb[2]

    @property
    def holds(self) -> bool:
        """Whether all is as it must be."""
        return self.alive and self.serves and len(set(self.z_um)) == 1 and self.growth_mb <= MOST_GROWTH_MB

    def lines(self) -> str:
        """The report, for people."""
        sent = ", ".join(f"{count} {kind}" for kind, count in self.sent.items())
        ended = ", ".join(f"{count} {how}" for how, count in self.ended.most_common())
        jobs = ", ".join(f"{count} {job}" for job, count in self.jobs.items())
        memory = ", ".join(f"{each:.1f}" for each in self.memory_mb)
        return (
            f"{sum(self.sent.values())} malformed requests in {self.took_s:.0f} s: {sent}\n"
            f"calls ended: {ended}\n"
            f"memory {memory} MB (before, after each tenth, at the end): from the first fifth on it grew by "
            f"{self.growth_mb:.1f} MB, {MOST_GROWTH_MB:g} allowed\n"
            f"stage at {', '.join(f'{z:g}' for z in sorted(set(self.z_um)))} um; jobs that began: {jobs}\n"
            f"the service {'lives' if self.alive else 'DIED'} and {'serves' if self.serves else 'DOES NOT SERVE'}\n"
            f"{'holds' if self.holds else 'DOES NOT HOLD'}"
        )


@dataclass(frozen=True)
class Service:
    """A service of its own process, how it is reached, and by whom."""

    pid: int
    here: str
    far: str
    tokens: str
    viewer: kits.Identity
    operator: kits.Identity
    bot: kits.Identity

    def memory_mb(self) -> float:
        """Its resident memory."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def targets(self) -> list[wire.Target]:
        """Its ports for strangers: plain, TLS without and with a viewer's certificate, tokens."""
        plain, far, tokens = (int(address.rpartition(":")[2]) for address in (self.here, self.far, self.tokens))
        bare, known = ssl.create_default_context(cadata=self.viewer.authority.decode()), kits._context(self.viewer)
        bare.set_alpn_protocols(["h2"])
        return [wire.Target(plain), wire.Target(far, bare), wire.Target(far, known), wire.Target(tokens, bare)]


@contextmanager
def service(folder: Path) -> Iterator[Service]:
    """Start a service whose own programs are viewers, and let three clients in."""
    trust = Trust(folder / "trust")
    trust.init("hostile", ["localhost"], _NOW)
    identities = {}
    for name, role, by_token in (("viewer", Role.VIEWER, False), ("operator", Role.OPERATOR, False), ("bot", 1, True)):
        kits.write(trust.add(name, Role(role), 30.0, by_token, _NOW), folder / name)
        identities[name] = kits.read(folder / name)
    here, far, tokens = (f"{host}:{free_port()}" for host in ("127.0.0.1", "0.0.0.0", "0.0.0.0"))
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("PARFOCAL_")},
        "PARFOCAL_BOARD": "simulated_tiny",
        "PARFOCAL_BUNDLE": "none",
        "PARFOCAL_LISTEN": f"{here},{far}",
        "PARFOCAL_LISTEN_TOKENS": tokens,
        "PARFOCAL_TRUST": str(folder / "trust"),
        "PARFOCAL_LOCAL_ROLE": "viewer",
        "GRPC_VERBOSITY": "NONE",
    }
    command = [sys.executable, "-m", "edge_app.cli", "serve", "--json"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield Service(
                process.pid, here, far, tokens, *(identities[name] for name in ("viewer", "operator", "bot"))
            )
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            process.wait(WAIT_S)
            if process.stdout is not None:
                process.stdout.close()


class Attack:
    """One whole attack, by a source of chance."""

    def __init__(self, served: Service, number: int, stack: ExitStack) -> None:
        self._served = served
        self._chance = random.Random(number)
        self._number = number
        self.report = Report()
        self._half_open = wire.HalfOpen(_HALF_OPEN)
        self._targets = served.targets()
        wrong = replace(served.bot, token="wrong")
        ways = {
            "plain": grpc.insecure_channel(served.here),
            "viewer": secure(served.far, served.viewer),
            "operator": secure(served.far, served.operator),
            "bot": secure(served.tokens, served.bot),
            "wrong token": secure(served.tokens, wrong),
        }
        self._channels = {name: stack.enter_context(channel) for name, channel in ways.items()}
        stack.callback(self._half_open.close)

    def send(self, requests: int) -> None:
        """So many requests, of all kinds in their shares."""
        doing: dict[str, Callable[[int], int]] = {
            "messages": self._messages,
            "impossible": self._impossible,
            "large": self._large,
            "metadata": self._metadata,
            "wire": self._wire,
            "half open": self._begin,
        }
        for kind, share in _SHARES.items():
            self.report.sent[kind] += doing[kind](max(1, round(requests * share)))

    def rest(self, waits_s: float) -> None:
        """Let go of every connection that was only begun, after a while in which the service may do so first."""
        for _ in range(_HALF_OPEN):
            self._half_open.begin(self._chance.choice(self._targets), self._chance)
        time.sleep(waits_s)
        self._half_open.close()

    def _messages(self, count: int) -> int:
        """Messages that are none, or of another method, on every method."""
        left = iter(range(count))
        self._number += 1  # else the second part would be the first once more

        @seed(self._number)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.sampled_from(METHODS), st.binary(max_size=300), st.sampled_from(sorted(self._channels)))
        def one(method: str, raw: bytes, who: str) -> None:
            if next(left, None) is not None:
                self._call(who, method, raw)

        one()
        for _ in left:  # hypothesis stops early where it finds nothing new
            raw = self._chance.randbytes(self._chance.randint(0, 300))
            self._call(self._chance.choice(list(self._channels)), self._chance.choice(METHODS), raw)
        return count

    def _impossible(self, count: int) -> int:
        for _ in range(count):
            method, request = self._chance.choice(IMPOSSIBLE)
            self._call("operator", method, request.SerializeToString())
        return count

    def _large(self, count: int) -> int:
        for _ in range(count):
            size = self._chance.choice([MAX_REQUEST_BYTES + 1, 2**20])
            self._call(self._anybody(), self._chance.choice(METHODS), bytes(size))
        return count

    def _metadata(self, count: int) -> int:
        for _ in range(count):
            chance = self._chance
            odd: list[tuple[str, str | bytes]] = [
                ("x" * chance.randint(1, 500), "y" * chance.choice([0, 10, 20_000])),
                ("odd-bin", chance.randbytes(chance.randint(0, 500))),
                ("grpc-previous-rpc-attempts", "no number"),
                ("user-agent", "\x7e" * 100),
            ]
            if chance.random() < 0.5:
                odd.append(("authorization", f"Bearer {chance.randbytes(30).hex()}"))
            self._call(self._anybody(), chance.choice(METHODS), b"\xff", odd)
        return count

    def _wire(self, count: int) -> int:
        reached = 0
        for _ in range(count):
            path = self._chance.choice(METHODS).encode()
            made = self._chance.choice(wire.WAYS)(self._chance, path)
            # Raw TLS comes with a viewer's certificate or none: whatever it asks can move nothing.
            reached += wire.send(self._chance.choice(self._targets), made)
        return reached

    def _begin(self, count: int) -> int:
        return sum(self._half_open.begin(self._chance.choice(self._targets), self._chance) for _ in range(count))

    def _anybody(self) -> str:
        return self._chance.choice(list(self._channels))

    def _call(self, who: str, method: str, raw: bytes, metadata: Any = None) -> None:
        if who == "operator" and method in MOVERS and metadata is None and (method, raw) not in _ASKED:
            raw = _NO_FIELD + raw
        if who == "operator" and method.endswith(("/SetZero", "/Home")):
            raw = _NO_FIELD + raw
        channel = self._channels[who]
        streamed: Any = channel.stream_stream(method)
        single: Any = channel.unary_stream(method)
        call = None
        try:
            call = (
                streamed(iter([raw]), timeout=WAIT_S, metadata=metadata)
                if method in STREAMED
                else single(raw, timeout=WAIT_S, metadata=metadata)
            )
            next(iter(call), None)  # a health watch would never end
            self.report.ended["OK"] += 1
        except grpc.RpcError as fault:
            code: Any = fault
            self.report.ended[code.code().name] += 1
        finally:
            if call is not None:
                call.cancel()


_ASKED = frozenset((method, request.SerializeToString()) for method, request in IMPOSSIBLE)


def run(requests: int, number: int, waits_s: float = 0.0) -> Report:
    """Attack a service of its own; gives what came of it. `waits_s` is how long half-open connections are kept."""
    began_s = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parfocal-hostile-")))
        served = stack.enter_context(service(folder))
        attack = Attack(served, number, stack)
        report = attack.report
        with Client(served.far, WAIT_S, served.operator.folder) as client:
            client.move_to(3.0)
            _look(served, client, report)
            for _ in range(10):
                attack.send(requests // 10)
                _look(served, client, report)
            attack.rest(waits_s)
            report.alive = Path(f"/proc/{served.pid}").exists()
            if report.alive:
                _look(served, client, report)
                report.serves = abs(client.move_to(4.0).z_um - 4.0) < 0.1 and client.capture(max_px=50).width_px > 0
        log = (folder / "log").read_text(encoding="utf-8")
        began = (line.partition("job started job=")[2] for line in log.splitlines())
        report.jobs.update(line.partition(" start_um")[0].replace("client=", "of ") for line in began if line)
    report.took_s = time.monotonic() - began_s
    return report


def _look(served: Service, client: Client, report: Report) -> None:
    report.z_um.append(round(client.position().z_um, 6))
    report.memory_mb.append(served.memory_mb())


def main() -> None:
    """Attack, report, and say by the exit code whether all held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=21_000)
    parser.add_argument("--seed", type=int, default=1)
    given_ = parser.parse_args()
    os.environ["GRPC_VERBOSITY"] = "NONE"
    report = run(given_.requests, given_.seed, HANDSHAKE_S + 2.0)
    sys.stdout.write(report.lines() + "\n")
    sys.exit(0 if report.holds else 1)


if __name__ == "__main__":
    main()
