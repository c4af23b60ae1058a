"""One client of the soak: asks a server as fast as it answers, in one role, until it is killed.

`soak_client.py ROLE ADDRESS SEED FILE` appends a JSON line to FILE every second: what was asked, how it ended, and how
far estimates and focus were from the truth wherever the world stood still.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc

from edge_app.client import Client
from edge_app.errors import AppError
from edge_app.statuses import error_of
from edge_app.stubs.parfocal.v1 import focus_pb2, microscope_pb2
from edge_app.stubs.parfocal.v1.focus_pb2_grpc import FocusServiceStub
from edge_app.stubs.parfocal.v1.microscope_pb2_grpc import MicroscopeServiceStub
from firmware.errors import FirmwareError, NotTrusted

KINDS = ("tissue", "tissue", "tissue", "smear", "sparse", "blank")
STILL_UM = 0.05
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
CONNECTIONS = 20
GONE = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
EXPECTED = frozenset(
    (
        "ok",
        "Busy",
        "TooOften",
        "MotionStopped",
        "JobStopped",
        "OutOfLimits",
        "NotTrusted",
        *(code.name for code in GONE),
    )
)
"""How a call may end while others move, stop and vanish. An intruder may be refused besides."""
_SAY_EVERY_S = 1.0


class Diary:
    """What a client saw; said once a second, so that a kill costs little."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        self._said_s = time.monotonic()
        self._start_anew()

    def _start_anew(self) -> None:
        self.ends: Counter[str] = Counter()
        self.errors_um: list[float] = []
        self.residuals_um: list[float] = []

    def attempt(self, verb: str, call: Callable[[], object]) -> None:
        """Call, and count how it ended."""
        try:
            call()
            end = "ok"
        except grpc.RpcError as fault:
            end = fault.code().name if fault.code() in GONE else _named(error_of(fault, "it"))
        except (AppError, FirmwareError, OSError) as error:
            end = _named(error)
        self.ends[f"{verb} {end}"] += 1
        if time.monotonic() - self._said_s > _SAY_EVERY_S:
            self.say()

    def say(self) -> None:
        line = {"ends": self.ends, "errors_um": self.errors_um, "residuals_um": self.residuals_um}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._said_s = time.monotonic()
        self._start_anew()


def _named(error: Exception) -> str:
    name = type(error).__name__
    return name if name in EXPECTED else f"{name}: {str(error)[:100]}"


def look(client: Client, rng: random.Random, diary: Diary) -> None:
    """Measure, and compare with the truth if nobody moved anything meanwhile."""

    def measure() -> None:
        before = client.truth()
        estimate = client.measure(with_map=rng.random() < 0.3, with_image=rng.random() < 0.2).estimate
        after = client.truth()
        still = before.field == after.field and abs(after.defocus_um - before.defocus_um) < STILL_UM
        if still and estimate.verdict == focus_pb2.VERDICT_OK:
            diary.errors_um.append(estimate.defocus_um - after.defocus_um)

    diary.attempt("measure", measure)


def move(client: Client, rng: random.Random, diary: Diary) -> None:
    """Move, or put another field under the objective; an axis that lost its trust is homed."""

    def load() -> None:
        client.load_field(rng.randrange(40), rng.choice(KINDS), rng.uniform(-9.0, 9.0))

    def go() -> None:
        client.move_by(rng.uniform(-6.0, 6.0)) if rng.random() < 0.5 else client.move_to(rng.uniform(-20.0, 20.0))

    def go_or_home() -> None:
        try:
            go()
        except NotTrusted:
            diary.attempt("home", client.home)

    if rng.random() < 0.3:
        diary.attempt("load_field", load)
    else:
        diary.attempt("move", go_or_home)
    time.sleep(rng.uniform(0.0, 2.0))  # otherwise nobody else gets a turn


def focus(client: Client, rng: random.Random, diary: Diary) -> None:
    """Focus to the end, or leave after a few looks."""
    leave_after = rng.choice((1, 2, 99, 99))

    def job() -> None:
        for number, event in enumerate(client.focus(), 1):
            if event.HasField("outcome"):
                _judge(client, event.outcome, diary)
            elif number >= leave_after:
                return

    diary.attempt("focus", job)
    time.sleep(rng.uniform(0.0, 1.0))


def _judge(client: Client, outcome: focus_pb2.Outcome, diary: Diary) -> None:
    """How far from focus a job ended, if the axis is still where the job left it."""
    diary.ends[f"outcome {focus_pb2.OutcomeKind.Name(outcome.kind)}"] += 1
    truth, where = client.truth(), client.position()
    stayed = where.z_um == outcome.end_z_um and not where.moving
    if outcome.kind == focus_pb2.OUTCOME_KIND_FOCUSED and stayed:
        diary.residuals_um.append(truth.defocus_um)


def view(client: Client, rng: random.Random, diary: Diary) -> None:
    """What a screen asks for."""
    diary.attempt("position", client.position)
    diary.attempt("describe", client.describe)
    if rng.random() < 0.1:
        diary.attempt("capture", lambda: client.capture(rng.choice((0, 320, 1024))))
    if rng.random() < 0.02:
        diary.attempt("models", client.models)


def hurry(address: str, rng: random.Random, diary: Diary) -> None:
    """Calls whose time runs out, that are cancelled, or whose channel is closed under them."""
    with grpc.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        scope, eye = MicroscopeServiceStub(channel), FocusServiceStub(channel)
        calls: tuple[Callable[[], object], ...] = (
            lambda: eye.Measure(focus_pb2.MeasureRequest(with_image=True), timeout=rng.uniform(0.001, 0.5)),
            lambda: scope.Move(microscope_pb2.MoveRequest(by_um=rng.uniform(-9, 9)), timeout=rng.uniform(0.001, 0.3)),
            lambda: eye.Measure.future(focus_pb2.MeasureRequest()),
            lambda: scope.Capture.future(microscope_pb2.CaptureRequest()),
            lambda: scope.Move.future(microscope_pb2.MoveRequest(by_um=rng.uniform(-9, 9))),
            lambda: eye.Focus(focus_pb2.FocusRequest()),
            lambda: scope.CalibrateMechanics(microscope_pb2.CalibrateMechanicsRequest(dry_run=True)),
        )

        def one() -> None:
            call = rng.choice(calls)()
            time.sleep(rng.uniform(0.0, 0.6))
            if isinstance(call, grpc.RpcContext) and rng.random() < 0.7:
                call.cancel()

        for _ in range(rng.randrange(1, 6)):
            diary.attempt("hurry", one)


def intrude(address: str, rng: random.Random, diary: Diary, held: list[socket.socket]) -> None:
    """Connections that say nothing, nonsense or half a greeting, and end in a reset or not at all."""
    host, _, port = address.rpartition(":")

    def connect() -> None:
        held.append(socket.create_connection((host, int(port)), timeout=5.0))
        said = rng.choice((b"", rng.randbytes(200), PREFACE, PREFACE[: rng.randrange(40)], b"GET / HTTP/1.1\r\n\r\n"))
        held[-1].sendall(said)

    diary.attempt("intrude", connect)
    while len(held) > rng.randrange(CONNECTIONS):
        gone = held.pop(rng.randrange(len(held)))
        if rng.random() < 0.5:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
    time.sleep(rng.uniform(0.0, 0.2))


VERBS = {"look": look, "move": move, "focus": focus, "view": view}


def main() -> None:
    role, address, seed, path = sys.argv[1:]
    rng, diary, held = random.Random(int(seed)), Diary(Path(path)), []  # type: ignore[var-annotated]
    if role == "intrude":
        while True:
            intrude(address, rng, diary, held)
    if role == "hurry":
        while True:
            hurry(address, rng, diary)
    with Client(address) as client:
        while True:
            VERBS[role](client, rng, diary)


if __name__ == "__main__":
    main()
