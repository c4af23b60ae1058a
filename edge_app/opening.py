"""Opening: from settings to an appliance, in the caller's thread or in one of its own that can be given up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from edge_app import bundle, runtime, selection
from edge_app.appliance import Appliance
from edge_app.config import Settings, state_folder
from edge_app.controller import STRATEGIES, Controller
from edge_app.errors import BadSettings
from edge_app.measured import Memory
from edge_app.model import ModelSource
from edge_app.watchdog import Lease
from firmware import plugins
from firmware.camera import Expect, unwatched
from firmware.clock import Clock
from firmware.microscope import Microscope, open_microscope, with_simulation
from firmware.profile import BoardProfile, load_profile
from firmware.zaxis import ZAxis

NO_MODEL = "none"
OPENING_S = 180.0
"""What opening a model and a camera may take; homing asks for its own time."""
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
    source = ModelSource(settings.bundle, settings.runtime, settings.threads, builds)
    model = source.model_for(profile.frame_optics(profile.objective[0]))
    expect(OPENING_S)
    return Appliance(Controller(opened(), model, source, memory))


def check_names(settings: Settings) -> None:
    """See whether board, strategy, runtime and bundle exist, without opening any. Raises as `assemble`."""
    _profile(settings)
    if settings.runtime:
        runtime.check_name(settings.runtime)
    if settings.bundle not in (NO_MODEL, selection.FACTORY):
        bundle.find(settings.bundle)


class Opening:
    """A board being opened on a thread of its own; `result` is the settings and the appliance, or the error.

    Settings are read on that thread too, anew for each opening, so that a corrected file is found.
    """

    def __init__(self, read: Callable[[], Settings], lease: Lease) -> None:
        self.result: Future[tuple[Settings, Appliance]] = Future()
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
            settings = self._read()
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
    folder = settings.state
    if folder is None and profile.simulation is None:
        folder = state_folder()
    return Memory(profile, folder)


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
