"""The bridge from the event loop to the hardware thread, and back only when the hardware rests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from edge_app.appliance import Appliance, Job
from edge_app.controller import Controller

T = TypeVar("T")
Say = Callable[[Any], object]


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


async def relay(context: Any, appliance: Appliance, start: Callable[[Say], Job], end: Callable[[Any], Any]) -> None:
    """Write what a job says while it runs, in order, and last what `end` makes of its value.

    Args:
        context: The call's.
        appliance: Runs the job.
        start: Starts it; what it is given may be called from the hardware thread with each message.
        end: Turns the job's value into the last message.

    Raises:
        Busy: Another mover is running.
        Exception: Whatever the job raised.
    """
    loop = asyncio.get_running_loop()
    messages: asyncio.Queue[Any] = asyncio.Queue()
    job = start(lambda message: loop.call_soon_threadsafe(messages.put_nowait, message))
    async with at_rest_after(appliance, job) as ended:
        ended.add_done_callback(lambda _: messages.put_nowait(None))
        while (message := await messages.get()) is not None:
            await context.write(message)
        await context.write(end(job.result.result()))


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
