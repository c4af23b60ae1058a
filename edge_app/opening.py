"""Opening: from settings to an appliance, in the caller's thread or in one of its own that can be given up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_app import runtime, selection
from edge_app.appliance import Appliance
from edge_app.config import Settings, state_folder
from edge_app.controller import STRATEGIES, Controller
from edge_app.errors import BadSettings, BundleError, RuntimeFailed, StateUnusable
from edge_app.journal import log_of
from edge_app.measured import Memory
from edge_app.model import Model, ModelSource
from edge_app.ota.depot import Depot
from edge_app.ota.desk import Desk, left_out, to_begin_with
from edge_app.ota.means import means_of
from edge_app.ota.state import State, Version
from edge_app.shelf import Shelf
from edge_app.updates import Updates
from edge_app.watchdog import Lease
from firmware import plugins
from firmware.camera import Expect, unwatched
from firmware.clock import Clock
from firmware.frames import FrameOptics
from firmware.microscope import Microscope, open_microscope, with_simulation
from firmware.profile import BoardProfile, load_profile
from firmware.zaxis import ZAxis

NO_MODEL = "none"
OPENING_S = 180.0
"""What opening a model and a camera may take; homing asks for its own time."""
_log = log_of(__name__)
OnAxis = Callable[[ZAxis], None]


def assemble(
    settings: Settings,
    clock: Clock | None = None,
    expect: Expect = unwatched,
    on_axis: OnAxis = lambda _axis: None,
    builds: bool = False,
) -> Appliance:
    """Open the model and the board that the settings name.

    Args:
        settings: What to open.
        clock: The board's time; the machine's own by default.
        expect: Told before each step, here and later, how many seconds it may take at most.
        on_axis: Told of the axis before it moves, so that it can be stopped from outside.
        builds: Let the runtime build in the background what it needs; for who stays.

    Raises:
        AppError: The strategy, the bundle or the runtime cannot be had, or the board's memory cannot be read.
        FirmwareError: The board file is wrong or a device does not answer.
    """
    memory = _memory(_profile(settings), settings)
    profile = memory.profile
    # A simulated stage begins anew with every process, so nothing is to be remembered of where it was.
    state = memory.folder if profile.simulation is None else None

    def opened() -> Microscope:
        return open_microscope(profile, clock, state, expect, on_axis)

    if settings.bundle == NO_MODEL:
        return Appliance(Controller(opened(), None, None, memory))
    updates = (
        None if memory.folder is None else Updates(Depot(memory.folder), means_of(settings, profile, memory.folder))
    )
    source, model = _chosen(settings, profile, updates, builds)
    expect(OPENING_S)
    appliance = Appliance(Controller(opened(), model, source, memory))
    if updates is not None:
        appliance.desk = Desk(settings, appliance, updates)
        if builds:
            appliance.desk.attend()
    return appliance


def _chosen(
    settings: Settings, profile: BoardProfile, updates: Updates | None, serves: bool
) -> tuple[ModelSource, Model]:
    """The model for the first objective: what updates put into service, or what did before if that cannot be opened.

    The record follows only once another model was opened: where none can be, the models are not to blame. While a
    watched one is opened, the start counts against it.
    """
    state = updates.depot.state() if updates is not None else State()
    if updates is not None and serves:
        with _unless_unwritable():
            state = to_begin_with(updates)
    optics, left = profile.frame_optics(profile.objective[0]), state
    while True:
        shelf = updates.depot.shelf(left) if updates is not None else Shelf()
        source = ModelSource(settings.bundle, settings.runtime, settings.threads, serves, shelf)
        name = _installed(settings.bundle, optics, shelf)
        watched = left.watched if serves and left.watched is not None and left.watched.name == name else None
        try:
            with _counted(updates, watched):
                model = source.model_for(optics)
            break
        except (BundleError, RuntimeFailed) as error:
            if not name:
                raise
            left = left_out(left, name, error)
            _log.error("updated model unusable", why=left.reason)
    if updates is not None and serves and left != state:
        with _unless_unwritable():
            updates.depot.change(lambda now: left if now == state else now)
    return source, model


def _installed(bundle: str, optics: FrameOptics, shelf: Shelf) -> str:
    """The name under which updates put the bundle that serves defocus, or "" if it is not from them."""
    if not shelf.installed:
        return ""
    with suppress(BundleError):
        chosen = selection.select(bundle, optics, shelf=shelf).path
        return next((name for name, path in shelf.installed.items() if path == chosen), "")
    return ""


@contextmanager
def _counted(updates: Updates | None, watched: Version | None) -> Iterator[None]:
    """What ends the process in this block counts against the watched version; what only fails does not."""
    if updates is None or watched is None:
        yield
        return
    with _unless_unwritable():
        updates.depot.change(lambda now: now.begun() if now.watched == watched else now)
    try:
        yield
    finally:
        with _unless_unwritable():
            updates.depot.change(lambda now: now.not_begun() if now.watched == watched else now)


@contextmanager
def _unless_unwritable() -> Iterator[None]:
    """A board serves from a full disk too."""
    try:
        yield
    except StateUnusable as error:
        _log.error("not remembered", why=str(error))


def check_names(settings: Settings) -> None:
    """See whether board, strategy, runtime and bundle exist, without opening any. Raises as `assemble`."""
    _profile(settings)
    if settings.runtime:
        runtime.check_name(settings.runtime)
    if settings.bundle not in (NO_MODEL, selection.FACTORY):
        folder = folder_of(settings, _profile(settings))
        (Shelf() if folder is None else Depot(folder).shelf()).find(settings.bundle)


class Opening:
    """A board being opened on a thread of its own; `result` is the settings and the appliance, or the error.

    Settings are read on that thread too, anew for each opening, so that a corrected file is found; `settings` has them
    as soon as that is done, whatever comes of the board.
    """

    def __init__(self, read: Callable[[], Settings], lease: Lease) -> None:
        self.result: Future[tuple[Settings, Appliance]] = Future()
        self.settings: Settings | None = None
        self._read = read
        self._lease = lease
        self._lock = threading.Lock()
        self._axis: ZAxis | None = None
        self._given_up = False
        # A driver that hangs must not keep the process from ending.
        threading.Thread(target=self._work, name="parfocal-opening", daemon=True).start()

    def give_up(self) -> None:
        """Stop the axis if it moves already, or as soon as it is there; close an appliance that comes nevertheless."""
        with self._lock:
            self._given_up = True
            if self._axis is not None:
                self._axis.stop()

    def _work(self) -> None:
        self._lease.expect(OPENING_S)
        try:
            settings = self.settings = self._read()
            appliance = assemble(settings, expect=self._lease.expect, on_axis=self._hold, builds=True)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            self._lease.rest()
            self.result.set_exception(error)
            return
        self.result.set_result((settings, appliance))

    def _hold(self, axis: ZAxis) -> None:
        with self._lock:
            self._axis = axis
            if self._given_up:
                axis.stop()


def _memory(profile: BoardProfile, settings: Settings) -> Memory:
    return Memory(profile, folder_of(settings, profile))


def folder_of(settings: Settings, profile: BoardProfile) -> Path | None:
    """Where a board keeps what it remembers; None for a simulated one, unless it is told."""
    if settings.state is None and profile.simulation is None:
        return state_folder()
    return settings.state


def _profile(settings: Settings) -> BoardProfile:
    profile = load_profile(settings.board)
    if settings.seed is not None:
        profile = with_simulation(profile, seed=settings.seed)
    if settings.strategy:
        known = plugins.names(STRATEGIES)
        if settings.strategy not in known:
            raise BadSettings(f"there is no strategy {settings.strategy!r}; known: {', '.join(known)}")
        focus = profile.focus.model_copy(update={"strategy": settings.strategy})
        profile = profile.model_copy(update={"focus": focus})
    return profile
