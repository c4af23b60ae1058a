"""The bridge from the event loop to the hardware thread, and back only when the hardware rests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from edge_app.appliance import Appliance, Job
from edge_app.controller import Controller

T = TypeVar("T")


@asynccontextmanager
async def at_rest_after(appliance: Appliance, job: Job) -> AsyncIterator[asyncio.Future[Any]]:
    """Leave the block only when the job has ended; a block that is left early (a cancelled call) stops it."""
    ended = asyncio.wrap_future(job.result)
    ended.add_done_callback(lambda future: future.cancelled() or future.exception())
    try:
        yield ended
    finally:
        if not ended.done():
            appliance.stop(job)
            await asyncio.wait([ended])


async def run(appliance: Appliance, name: str, call: Callable[[Controller], T]) -> T:
    """Run a mover on the hardware thread and wait for its value.

    Raises:
        Busy: Another mover is running.
        Exception: Whatever the call raised.
    """
    async with at_rest_after(appliance, appliance.run(name, call)) as ended:
        result: T = await asyncio.shield(ended)
        return result


async def stop(appliance: Appliance) -> bool:
    """Stop whatever moves, and say whether anything did once it rests."""
    job = appliance.stop()
    if job is None:
        return False
    async with at_rest_after(appliance, job) as ended:
        await asyncio.wait([ended])
    return True
