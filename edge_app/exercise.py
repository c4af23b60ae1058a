"""Exercise: focus jobs on a served simulated board, one after the other, each held against the world's truth.

python -m edge_app.exercise HOST:PORT SEED prints a line of JSON for each job. A number on stdin says how many seconds
to rest after each; it ends where stdin does.
"""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edge_app import verbs
from edge_app.client import Client
from edge_app.errors import AppError
from edge_app.stubs.parfocal.v1 import focus_pb2, simulation_pb2
from firmware.errors import FirmwareError

REACH_UM = 6.0
_KINDS = ("tissue", "tissue", "smear")
_TRIES = 20


def exercise(client: Client, seed: int, say: Callable[[dict[str, Any]], None], rest: Callable[[], bool]) -> None:
    """Focus one field after the other, each from within `REACH_UM`, until `rest` says that it is enough.

    Args:
        client: Of a simulated board.
        seed: Of the starts.
        say: Told of each job: when it began and ended (seconds since 1970), by which model, where it began and ended
            (true defocus in um), looks, how it ended; or `error`, where it was refused or failed.
        rest: Called after each job; gives whether to go on.
    """
    rng = np.random.default_rng([seed, 31])
    field = 0
    while True:
        began_s = time.time()
        try:
            field, before = _next_field(client, field, float(rng.uniform(-REACH_UM, REACH_UM)))
            model, outcome = _focused(client)
            told = _row(before, client.truth(), model, outcome)
        except (AppError, FirmwareError) as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        say({"began_s": began_s, "ended_s": time.time(), **told})
        if not rest():
            return


def _next_field(client: Client, field: int, start_um: float) -> tuple[int, simulation_pb2.Truth]:
    """The next field with something in it, and the truth at the start."""
    for _ in range(_TRIES):
        field += 1
        kind = _KINDS[field % len(_KINDS)]
        if client.load_field(field, kind).has_content:
            break
    return field, client.load_field(field, kind, start_um)


def _focused(client: Client) -> tuple[str, focus_pb2.Outcome]:
    """One job: the model that answered its last look, and how it ended."""
    model, outcome = "", focus_pb2.Outcome()
    for event in client.focus():
        if event.HasField("outcome"):
            outcome = event.outcome
        elif event.look.estimate.model:
            model = event.look.estimate.model
    return model, outcome


def _row(
    before: simulation_pb2.Truth, after: simulation_pb2.Truth, model: str, outcome: focus_pb2.Outcome
) -> dict[str, Any]:
    return {
        "model": model,
        "start_um": before.defocus_um,
        "end_um": after.defocus_um,
        "depth_of_field_um": after.depth_of_field_um,
        "looks": outcome.frames,
        "ending": focus_pb2.OutcomeKind.Name(outcome.kind).removeprefix("OUTCOME_KIND_"),
        "verdict": focus_pb2.Verdict.Name(outcome.verdict).removeprefix("VERDICT_"),
        "in_focus": verbs.in_focus(outcome),
    }


class _Orders:
    """What whoever started this process says on its stdin."""

    def __init__(self) -> None:
        self._pause_s = 0.0

    def rest(self) -> bool:
        """Wait for as long as was said last; False where stdin has ended."""
        due_s = time.monotonic() + self._pause_s
        while select.select([sys.stdin], [], [], max(due_s - time.monotonic(), 0.0))[0]:
            order = sys.stdin.readline()
            if not order:
                return False
            self._pause_s = float(order)
            due_s = time.monotonic() + self._pause_s
        return True


def main() -> None:
    """Exercise the board that the command line names."""
    address, seed = sys.argv[1], int(sys.argv[2])

    def say(job: dict[str, Any]) -> None:
        sys.stdout.write(f"{json.dumps(job)}\n")
        sys.stdout.flush()

    with Client(address) as client:
        exercise(client, seed, say, _Orders().rest)


if __name__ == "__main__":
    main()
