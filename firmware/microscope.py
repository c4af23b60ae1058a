"""Microscope: one board, opened: its camera, its Z axis and the objective in place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from firmware import plugins
from firmware.camera import Camera, Expect, unwatched
from firmware.clock import Clock, SystemClock
from firmware.errors import CameraError, CameraTimeout, FirmwareError, ProfileError
from firmware.frames import Frame, FrameOptics
from firmware.ledger import open_ledger
from firmware.profile import AxisProfile, BoardProfile, Objective
from firmware.simulation import World
from firmware.table import explain
from firmware.travel import Travel
from firmware.zaxis import ZAxis

JUDGING_S = 30.0
"""What may follow a frame before anything is heard again: judging it, and deciding."""
_OPENING_S = 60.0
# One late frame is a hiccup of the bus; so many in a row are a camera that hangs.
_LATE_AT_MOST = 3


@dataclass
class Microscope:
    """Camera, axis and objectives of one board; `world` is there on simulated and replayed boards only.

    `expect` is told before each step how long it may take at most. A camera that failed is `lost`, which says why,
    until a frame came again; `reopen` opens it anew, while the axis stays open and keeps its position.
    """

    profile: BoardProfile
    camera: Camera
    axis: ZAxis
    clock: Clock
    objective: Objective
    world: World | None = None
    expect: Expect = unwatched
    reopen: Callable[[], Camera] | None = None
    lost: str = ""
    _late: int = 0
    _gone: bool = False

    def capture(self) -> Frame:
        """A frame exposed after this call and after the axis came to rest, with its z at mid-exposure.

        A camera that is gone is opened anew first. Raises as `find_camera` and `Camera.capture`.
        """
        self.find_camera()
        not_before_s = max(self.axis.at_rest_since_s, self.clock.now_s())
        frame = self.camera.capture(not_before_s, self.axis.z_at, self.optics)
        self.lost, self._late = "", 0
        self.expect(JUDGING_S)
        return frame

    def lose(self, error: CameraError) -> None:
        """Let go of a camera that failed, so that it is opened anew before the next frame; late frames count up."""
        self._late += 1
        hiccup = isinstance(error, CameraTimeout) and self._late < _LATE_AT_MOST and not self.lost
        if self.reopen is None or hiccup:
            return
        self.lost = str(error)
        if not self._gone:
            self._gone = True
            self.expect(_OPENING_S)
            with suppress(Exception):
                self.camera.close()

    def find_camera(self) -> None:
        """Open a camera that is gone anew; one that is here is left alone.

        Raises:
            FirmwareError: It cannot be opened (CameraError), or no longer fits the board file.
        """
        if not self._gone or self.reopen is None:
            return
        try:
            self.camera = self.reopen()
        except FirmwareError as error:
            self.lost = str(error)
            raise
        except Exception as error:
            self.lost = f"the camera cannot be opened again: {error}; check its cable and power"
            raise CameraError(self.lost) from error
        self._gone = False

    def job_travel(self) -> Travel:
        """The travel that one job may use from here."""
        focus = self.profile.focus
        return self.axis.travel(focus.towards_um, focus.away_um, focus.path_um)

    @property
    def optics(self) -> FrameOptics:
        """What a frame through the objective in place carries along."""
        return self.profile.frame_optics(self.objective)

    def objective_named(self, name: str) -> Objective:
        """One of the board's objectives.

        Raises:
            ProfileError: The board has no such objective.
        """
        known = {o.name: o for o in self.profile.objective}
        if name not in known:
            has = ", ".join(known)
            raise ProfileError(f"board {self.profile.name!r} has no objective {name!r}; it has: {has}")
        return known[name]

    def select_objective(self, name: str) -> float:
        """Note that another objective is in place and go by the difference of the parfocal offsets.

        Returns:
            The distance moved, um.

        Raises:
            ProfileError: The board has no such objective.
            AxisError: As `ZAxis.move_by`.
        """
        wanted = self.objective_named(name)
        difference_um = wanted.parfocal_offset_um - self.objective.parfocal_offset_um
        self.objective = wanted
        if self.world is not None:
            self.world.choose_objective(name)
        if difference_um:
            self.axis.move_by(difference_um)
        return difference_um

    def adopt(self, axis: AxisProfile) -> None:
        """Go by other mechanics of the axis from now on. Raises as `ZAxis.adopt`."""
        self.profile = self.profile.model_copy(update={"axis": axis})
        self.axis.adopt(axis)

    def close(self) -> None:
        """Leave the hardware at rest."""
        try:
            self.axis.close()
        finally:
            self.camera.close()

    def __enter__(self) -> Microscope:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_microscope(
    profile: BoardProfile,
    clock: Clock | None = None,
    state: Path | None = None,
    expect: Expect = unwatched,
    on_axis: Callable[[ZAxis], None] = lambda _axis: None,
) -> Microscope:
    """Open what a board file describes, and home the axis where the file asks for it.

    Args:
        profile: The board.
        clock: The board's time; the machine's own by default.
        state: The folder in which the axis records where it rests, so that a restart knows; None for no record. One
            axis wants one folder: what moves it with another, or with none, makes the record wrong.
        expect: Told before each step, here and later, how many seconds it may take at most.
        on_axis: Told of the axis before it moves, so that it can be stopped from outside.

    Raises:
        FirmwareError: A driver is unknown, its library is missing, or the device does not answer.
    """
    clock = clock or SystemClock()
    world = World(profile, clock) if profile.simulation is not None else None
    axes = plugins.load("firmware.axes", profile.axis.driver)
    cameras = plugins.load("firmware.cameras", profile.camera.driver)

    def open_camera() -> Camera:
        # A first frame, or two, may be part of it.
        expect(_OPENING_S + 2 * profile.camera.timeout_ms / 1e3)
        with _options_of(profile, "camera"):
            camera: Camera = cameras.open_camera(profile, clock, world)
        camera.expect = expect
        return camera

    with ExitStack() as opened:
        with _options_of(profile, "axis"):
            axis: ZAxis = axes.open_axis(profile, clock, world)
        opened.callback(axis.close)
        axis.expect = expect
        on_axis(axis)
        remember(axis, profile, state)
        camera = open_camera()
        opened.callback(camera.close)
        if profile.axis.homing == "device" or (profile.axis.home_at_start and not axis.trusted):
            axis.home()
        opened.pop_all()
    return Microscope(profile, camera, axis, clock, profile.objective[0], world, expect, open_camera)


def remember(axis: ZAxis, profile: BoardProfile, state: Path | None) -> None:
    """Have an axis record where it rests, one record for one axis of the machine; None for no record.

    Raises:
        AxisError: Another process moves this axis, or the record cannot be written.
    """
    ledger = open_ledger(state / f"{axis_identity(profile)}.axis") if state is not None else None
    if ledger is not None:
        axis.remember(ledger)


def axis_identity(profile: BoardProfile) -> str:
    """Which axis of this machine a board file means, whatever the file calls the board: fit for a file name.

    A driver says it by an optional `identity(profile)`; simulated axes are as many as there are boards.

    Raises:
        UnknownPlugin: There is no such driver.
        ProfileError: Its options are wrong.
    """
    module = plugins.load("firmware.axes", profile.axis.driver)
    if not hasattr(module, "identity"):
        return f"{profile.axis.driver}-{profile.name}"
    with _options_of(profile, "axis"):
        return re.sub(r"[^\w.-]+", "_", f"{profile.axis.driver}-{module.identity(profile)}")


def with_simulation(profile: BoardProfile, **flaws: object) -> BoardProfile:
    """The same simulated board with other flaws.

    Raises:
        ProfileError: The board is not simulated.
    """
    if profile.simulation is None:
        raise ProfileError(f"board {profile.name!r} has no [simulation] table")
    return profile.model_copy(update={"simulation": {**profile.simulation, **flaws}})


@contextmanager
def _options_of(profile: BoardProfile, table: str) -> Iterator[None]:
    """A driver's own keys that are not as it wants them make a wrong board file."""
    try:
        yield
    except ValidationError as error:
        raise ProfileError(f"board {profile.name!r}, {table}.options: {explain(error)}") from error
