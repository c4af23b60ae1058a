"""The server: opens board and model, offers the services, and leaves the hardware at rest when it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from edge_app.access.doors import Doors, doors_of
from edge_app.access.roles import Role
from edge_app.appliance import Appliance
from edge_app.config import Settings
from edge_app.front import Front
from edge_app.lifetime import Lifetime, Plan, Ready


def serve(settings: Settings, ready: Ready) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, from the main thread; `ready` is told the address once it answers.

    Raises:
        AddressInUse: An address cannot be bound.
        TrustUnusable: Other machines can reach an address, and the board's keys are missing or must not be used.
        AppError, FirmwareError: As `opening.assemble`.
    """
    plan = Plan(lambda: settings, lambda _before: settings.listen, ready, doors=lambda _before: doors_of(settings))
    asyncio.run(Lifetime(plan).live())


def stay_up(read: Callable[[], Settings], listen: Callable[[str], str], ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT, from the main thread, whatever state configuration and board are in.

    Args:
        read: Reads the settings; called for each try, and on SIGHUP.
        listen: Where to listen by settings that may be broken; told where it listened before, "" at first.
        ready: Told the address once it answers, be it only to say why there is no board.
    """

    def doors(before: Doors) -> Doors:
        try:
            return doors_of(read())
        except Exception:  # noqa: BLE001 - whoever reads it for the board says why; until then nobody is let in anew
            return before

    asyncio.run(Lifetime(Plan(read, listen, ready, stays_up=True, doors=doors)).live())


@contextmanager
def serving(
    appliance: Appliance, listen: str, doors: Doors | None = None, local_role: Role = Role.ADMIN
) -> Iterator[str]:
    """Serve from a thread of this process while the block runs; gives the address. Raises as `serve`."""
    started: Future[tuple[str, Callable[[], None]]] = Future()

    async def until_told() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        front = Front(doors)
        front.let_local(local_role)
        try:
            address = front.bind(listen)
            await front.offer(appliance)
            fresh = asyncio.create_task(front.keep_fresh())
            started.set_result((address, lambda: _tell(loop, ended)))
            await ended.wait()
            fresh.cancel()
        finally:
            await front.stop()

    def work() -> None:
        try:
            asyncio.run(until_told())
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=work, name="parfocal-server")
    thread.start()
    try:
        address, end = started.result()
    except BaseException:
        thread.join()
        raise
    try:
        yield address
    finally:
        end()
        thread.join()


def _tell(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    loop.call_soon_threadsafe(event.set)
