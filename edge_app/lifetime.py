"""The service's life: open the board, answer for it, try again where that fails, and end with the hardware at rest.

With `stays_up` whatever stands in the way of a board leaves a service that answers why, and that tries again by
itself, with a configuration that is read anew each time. Without, the first such error ends it.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

from edge_app.access.addresses import here_instead
from edge_app.access.doors import Doors, local_role_of
from edge_app.appliance import CLOSE_S, Appliance
from edge_app.config import Settings
from edge_app.errors import AppError, NotReady
from edge_app.front import GRACE_S, REFRESH_S, Front
from edge_app.journal import log_of
from edge_app.metrics import Metrics
from edge_app.opening import Opening, check_names
from edge_app.scrape import Scrape
from edge_app.supervisor import Supervisor
from edge_app.watchdog import Lease, Watchdog
from firmware.errors import FirmwareError

FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0
GIVE_UP_S = 8.0
"""How long an opening that was given up may take to leave the hardware at rest."""
DRIVERS_S = 6.0
"""How long camera and axis may take to let go of their devices."""
_SPARE_S = 2.0
LONGEST_STOP_S = GIVE_UP_S + GRACE_S + _SPARE_S + CLOSE_S + DRIVERS_S
"""From SIGTERM to the end at the very most, when calls, hardware thread and drivers all hang."""
_HANGS = "a driver does not return; the axis was told to stop; look at the log, and switch that device off and on"
_STILL = "the board is still being opened: a model is being loaded, or a driver does not return; the axis was stopped"
_AGAIN = "the configuration is being read again; ask again in a moment"
_LATE = "the board was opened too late: the service is being restarted"
_log = log_of(__name__)
Ready = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a life is to be: how settings are read and where it listens, who is told the address, whether it stays.

    `listen` is told the address that it gave before, "" at first; `doors` what it gave before.
    """

    read: Callable[[], Settings]
    listen: Callable[[str], str]
    ready: Ready = lambda _address: None
    stays_up: bool = False
    first_pause_s: float = FIRST_PAUSE_S
    longest_pause_s: float = LONGEST_PAUSE_S
    doors: Callable[[Doors], Doors] = lambda before: before


class Lifetime:
    """One service from its start to its end; `live` is called once, from the main thread."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lease = Lease()
        self._supervisor = Supervisor()
        self._watchdog = Watchdog(self._lease, self._supervisor, self._expired)
        self._metrics = Metrics()
        self._scrape = Scrape(self._metrics.registry)
        self._front: Front | None = None
        self._listens_by = ""
        self._doors = Doors()
        self._elsewhere = False
        self._opening: Opening | None = None
        self._appliance: Appliance | None = None
        self._answers = False
        self._broken = ""
        self._refreshing: asyncio.Future[None] | None = None

    async def live(self) -> None:
        """Serve until SIGTERM or SIGINT, and SIGHUP where it does not stay up.

        Raises:
            AddressInUse: The address cannot be bound, and it does not stay up.
            NotReady: The board was to be opened anew, and its devices were not let go of; or the hardware thread was
                not heard of, and nobody watches who would start the service again.
            AppError, FirmwareError: As `assemble`, if it does not stay up.
        """
        self._ended, self._again = asyncio.Event(), asyncio.Event()
        _on_signals(self._ended, self._again if self._plan.stays_up else self._ended)
        _log.info("started", stays_up=self._plan.stays_up)
        watching = asyncio.create_task(self._watchdog.watch())
        try:
            await self._turns()
        finally:
            await self._end()
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            self._supervisor.close()
        if self._broken:
            raise NotReady(self._broken)

    async def _turns(self) -> None:
        """Open and serve, or say why not and wait, until the end."""
        pause_s = self._plan.first_pause_s
        while not self._ended.is_set():
            self._again.clear()
            try:
                await self._listen()
                settings, appliance = await self._opened()
            except _Ended:
                return
            except Exception as error:
                if not self._plan.stays_up:
                    raise
                await self._turn_away(error, pause_s)
                await self._wait(pause_s)
                pause_s = min(2 * pause_s, self._plan.longest_pause_s)
                continue
            pause_s = self._plan.first_pause_s
            await self._serve(settings, appliance)

    async def _listen(self) -> None:
        """Take the address before anything moves; nothing is answered yet."""
        listen, doors = self._plan.listen(self._listens_by), self._plan.doors(self._doors)
        if self._front is not None and not self._elsewhere and (listen, doors) == (self._listens_by, self._doors):
            return
        await self._leave_front()
        front = Front(doors)
        try:
            address = front.bind(listen)
        except AppError:
            await front.stop()
            if self._plan.stays_up:
                self._front = await self._front_elsewhere(listen)
            raise
        self._front, self._listens_by, self._doors = front, listen, doors
        self._elsewhere = self._answers = False
        _log.info("listening", address=address, tokens=front.tokens_address)

    async def _front_elsewhere(self, listen: str) -> Front | None:
        """Where somebody can say why an address cannot be had: the one from before, else on this machine only."""
        here = [(Doors(), address) for address in here_instead(listen).split(",")]
        for doors, address in ((self._doors, self._listens_by), *here):
            front = Front(doors)
            if address and _bound(front, address):
                self._elsewhere = True
                return front
            await front.stop()
        return None

    async def _opened(self) -> tuple[Settings, Appliance]:
        """Open the board on a thread of its own.

        Raises:
            _Ended: The end came first; what was opened is closed again.
            Exception: Why it cannot be opened.
        """
        self._supervisor.status("opening the board")
        opening = self._opening = Opening(self._plan.read, self._lease)
        opened = asyncio.wrap_future(opening.result)
        opened.add_done_callback(_looked_at)
        await self._either(opened, self._ended)
        if not opened.done():
            opening.give_up()
            await asyncio.wait([opened], timeout=GIVE_UP_S)
        self._opening = None
        if not opened.done():
            _log.error("opening does not end", after_s=GIVE_UP_S, why=_STILL)
            raise _Ended
        if self._ended.is_set():
            with suppress(Exception):
                self._appliance = opened.result()[1]
            raise _Ended
        await self._scrape.follow(opening.settings)
        return opened.result()

    async def _turn_away(self, error: Exception, pause_s: float) -> None:
        """Say everywhere why there is no board."""
        known = isinstance(error, AppError | FirmwareError | OSError)
        trouble = str(error) if known else f"unforeseen: {error}; the log has the traceback: report it"
        _log.error(
            "opening failed",
            kind=type(error).__name__,
            reason=trouble,
            next_try_s=pause_s,
            exc_info=not known and error,
        )
        self._metrics.turn_away(type(error).__name__)
        _let_go_of_frames(error)
        self._supervisor.status(f"no board: {trouble}")
        if self._front is not None:
            await self._front.turn_away(trouble)
        self._now_answers()

    async def _serve(self, settings: Settings, appliance: Appliance) -> None:
        """Answer for the board until the end, or until another configuration is to be used."""
        front = self._front
        assert front is not None
        self._appliance = appliance
        if self._watchdog.expired:
            appliance.condemn(_LATE)
        _log.info("board opened", **_board(settings, appliance))
        self._metrics.offer(appliance)
        self._metrics.update_from(appliance.desk.standing if appliance.desk is not None else lambda: None)
        front.let_local(local_role_of(settings))
        await front.offer(appliance)
        _log.info("serving", address=front.address)
        serving = f"serving {appliance.controller.microscope.profile.name} on {front.address}"
        self._supervisor.status(serving)
        self._now_answers()
        while not self._ended.is_set():
            refreshing = asyncio.create_task(self._attend(front, appliance, serving))
            await self._either(self._again.wait(), self._ended)
            refreshing.cancel()
            if self._ended.is_set() or self._can_reload():
                break
        if not self._ended.is_set():
            _log.info("reading the configuration again")
            self._supervisor.status(_AGAIN)
            self._metrics.turn_away("")
            await front.turn_away(_AGAIN)
            trouble = await self._close_appliance()
            if trouble:
                raise NotReady(trouble)

    async def _attend(self, front: Front, appliance: Appliance, serving: str) -> None:
        """Keep health and status as they are."""
        while True:
            await front.refresh()
            self._supervisor.status(_ailment(appliance) or serving)
            await asyncio.sleep(REFRESH_S)

    def _can_reload(self) -> bool:
        """Whether the configuration can be read; one that cannot leaves the board that is served alone."""
        self._again.clear()
        try:
            check_names(self._plan.read())
        except Exception as error:  # noqa: BLE001 - whatever it is, the board that is served goes on
            _log.error("configuration refused", reason=str(error), why="the one before stays in force")
            return False
        return True

    def _now_answers(self) -> None:
        if not self._answers and self._front is not None:
            self._answers = True
            self._plan.ready(self._front.address)
        self._supervisor.ready()

    def _expired(self, why: str) -> None:
        """The lease ran out: the motor must not run on, and nobody may think that all is well."""
        if self._appliance is not None:
            self._appliance.condemn(why)
        if self._opening is not None:
            self._opening.give_up()
        if self._front is not None:
            self._refreshing = asyncio.ensure_future(self._front.refresh())
        self._supervisor.status(why)
        _log.error("watchdog expired", why=why, allowed_s=self._lease.given_s, stack=self._lease.stack())
        if not self._supervisor.watches and not self._ended.is_set():
            # Nobody else ends a service that is of no more use, and only then is it started again.
            self._broken = why
            self._ended.set()

    async def _end(self) -> None:
        """Stop what runs, let callers hear of it, and leave the hardware at rest."""
        _log.info("stopping")
        self._supervisor.stopping()
        self._scrape.close()
        await self._leave_front()
        await self._close_appliance()
        _log.info("stopped")

    async def _leave_front(self) -> None:
        front, self._front = self._front, None
        if front is None:
            return
        stopping = asyncio.ensure_future(front.stop())
        await asyncio.wait([stopping], timeout=GRACE_S + _SPARE_S)

    async def _close_appliance(self) -> str:
        """Leave the hardware at rest; gives why a device may still be held, or ""."""
        appliance, self._appliance = self._appliance, None
        trouble = ""
        try:
            if appliance is not None and not await _in_thread(appliance.close, CLOSE_S + DRIVERS_S):
                trouble = _HANGS
                _log.error("the hardware thread does not end", why=_HANGS)
        except Exception as error:  # noqa: BLE001 - a driver may raise anything
            trouble = f"a device was not let go of: {error}; switch it off and on"
            _log.error("a device was not let go of", kind=type(error).__name__, why=str(error))
        self._lease.rest()
        return trouble

    async def _wait(self, pause_s: float) -> None:
        """Wait for the next try; SIGHUP asks for it at once."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._either(self._again.wait(), self._ended), pause_s)

    @staticmethod
    async def _either(first: Awaitable[object], ended: asyncio.Event) -> None:
        """Wait for the one or the end, and cancel neither what was handed in as a future."""
        one, other = asyncio.ensure_future(first), asyncio.ensure_future(ended.wait())
        try:
            await asyncio.wait([one, other], return_when=asyncio.FIRST_COMPLETED)
        finally:
            other.cancel()
            if one is not first:
                one.cancel()


class _Ended(Exception):
    """The service is to end."""


def _looked_at(opened: asyncio.Future[tuple[Settings, Appliance]]) -> None:
    """An opening that fails after it was given up is nobody's error any more; asyncio would log it as forgotten."""
    if not opened.cancelled():
        opened.exception()


def _ailment(appliance: Appliance) -> str:
    """What keeps this board from working as it should, or ""."""
    if appliance.condemned:
        return appliance.condemned
    if appliance.blind:
        return f"without a camera: {appliance.blind}"
    return f"without answers of the model: {appliance.ailing}" if appliance.ailing else ""


def _let_go_of_frames(error: BaseException | None) -> None:
    """Forget where an error came by, and with that what was local there: the model, say, that was loaded before."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _board(settings: Settings, appliance: Appliance) -> dict[str, object]:
    microscope, model = appliance.controller.microscope, appliance.controller.model
    return {
        "board": microscope.profile.name,
        "camera": microscope.profile.camera.driver,
        "axis": microscope.profile.axis.driver,
        "trust": microscope.axis.trust.value,
        "z_um": microscope.axis.z_um,
        "model": model.label if model is not None else settings.bundle,
        "why": model.why if model is not None else "",
        "runtime": model.runtime.name if model is not None else "none",
    }


async def _in_thread(call: Callable[[], bool], limit_s: float) -> bool:
    """Call from a thread that does not keep the process alive; False if it takes too long."""
    result: Future[bool] = Future()

    def work() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            result.set_exception(error)

    threading.Thread(target=work, name="parfocal-closing", daemon=True).start()
    called = asyncio.wrap_future(result)
    await asyncio.wait([called], timeout=limit_s)
    return called.done() and called.result()


def _bound(front: Front, listen: str) -> bool:
    try:
        front.bind(listen)
    except AppError:
        return False
    return True


def _on_signals(ended: asyncio.Event, again: asyncio.Event) -> None:
    """Have signals set events, until the process ends: a second SIGTERM must not end it before the hardware rests."""
    loop = asyncio.get_running_loop()

    def catch(number: int, event: asyncio.Event) -> None:
        def caught(_number: int, _frame: FrameType | None) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(event.set)

        signal.signal(number, caught)

    catch(signal.SIGTERM, ended)
    catch(signal.SIGINT, ended)
    catch(signal.SIGHUP, again)
