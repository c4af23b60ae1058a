"""Staging: the process of its own in which a service has an update staged, seen from the service."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable

from edge_app.config import Settings
from edge_app.errors import UpdateError
from edge_app.journal import log_of
from edge_app.statuses import error_named
from edge_app.updates import Status

Say = Callable[[int, int, str], None]
# Without -I a file of the working folder could stand in for a module of ours.
WORKER: tuple[str, ...] = (sys.executable, "-I", "-m", "edge_app.ota.worker")
_LINE_BYTES = 1_000_000
_ENDS_S = 10.0
_log = log_of(__name__)


async def staged(settings: Settings, name: str, say: Say) -> Status:
    """Stage an update, and pass on what the worker says; gives where it ended, and why there. Cancelling ends it.

    Raises:
        AppError: What it came to.
    """
    worker = await asyncio.create_subprocess_exec(
        *WORKER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    status = None
    try:
        worker.stdin.write(json.dumps({"name": name, "settings": settings.model_dump(mode="json")}).encode())
        worker.stdin.close()
        async for line in worker.stdout:
            told = json.loads(line)
            if "error" in told:
                raise error_named(told["error"]["kind"], told["error"]["message"])
            if "step" in told:
                say(told["done"], told["total"], told["step"])
            if "status" in told:
                status = Status(**told["status"])
        if await worker.wait() != 0 or status is None:
            raise UpdateError("the update's process ended before it was done; look at the log, and try again")
        return status
    finally:
        await _end(worker)


async def _end(worker: asyncio.subprocess.Process) -> None:
    """End it so that it can say that it was asked to: one that is cut off counts as a try of its candidate."""
    try:
        if worker.returncode is None:
            worker.terminate()
            await asyncio.wait_for(worker.wait(), _ENDS_S)
    except asyncio.TimeoutError:
        _log.warning("update's process does not end", after_s=_ENDS_S)
    finally:
        if worker.returncode is None:
            worker.kill()
            await asyncio.shield(worker.wait())
