"""The process that builds an engine, apart from the one that serves: a crash stays here, and its memory is given back.

`python -m edge_app.nvidia.build PLAN_FD FOLDER [anew]` reads an order from its standard input (a line of JSON, and the
network's bytes), prints a line of JSON for each event, writes the plan to the descriptor PLAN_FD, and ends. It ends at
once when its standard input is closed, as it is when whoever started it has died.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from edge_app.errors import AppError
from edge_app.nvidia.cache import EngineCache
from edge_app.nvidia.making import make
from edge_app.nvidia.order import Order, order_from

NICENESS = 10
ABANDONED = 75
_OOM_SCORE = 500
_STEP = 0.01


def main(arguments: Sequence[str]) -> int:
    """Build what standard input orders; gives the exit code."""
    plan_descriptor, folder, anew = int(arguments[0]), Path(arguments[1]), "anew" in arguments[2:]
    os.nice(NICENESS)
    with suppress(OSError):
        # Where memory runs out this process goes, not the one that serves, whose score it has inherited.
        Path("/proc/self/oom_score_adj").write_text(f"{_OOM_SCORE}", encoding="ascii")
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    order = _read(sys.stdin.buffer)
    threading.Thread(target=_end_with, args=(sys.stdin.fileno(),), daemon=True).start()
    told = [0.0]

    def progress(part: float) -> bool:
        if part - told[0] >= _STEP:
            told[0] = part
            _say(progress=round(part, 3))
        return True

    try:
        kept = make(order, EngineCache(folder), progress, anew)
    except AppError as error:
        _say(failed=str(error))
        return 1
    with os.fdopen(plan_descriptor, "wb") as file:
        file.write(kept.plan)
    _say(built={"build_s": kept.build_s, "kept_in": str(kept.path or "")})
    return 0


def write_order(order: Order, stream: IO[bytes]) -> None:
    """Tell a building process what to build."""
    stream.write(json.dumps({**order.described(), "onnx_bytes": len(order.onnx)}).encode() + b"\n" + order.onnx)
    stream.flush()


def _read(stream: IO[bytes]) -> Order:
    described = json.loads(stream.readline())
    return order_from(described, stream.read(described["onnx_bytes"]))


def _end_with(descriptor: int) -> None:
    # Not through sys.stdin: the interpreter would wait for its lock at the end, and abort.
    os.read(descriptor, 1)
    os._exit(ABANDONED)


def _say(**event: Any) -> None:
    print(json.dumps(event), flush=True)  # noqa: T201 - this is what the process is for


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
