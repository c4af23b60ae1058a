"""The replay camera: shows the slice of a recorded z-stack that lies nearest to where the stage is."""

from __future__ import annotations

from pathlib import Path

from firmware.camera import Camera, Exposure
from firmware.clock import Clock
from firmware.errors import ProfileError
from firmware.profile import BoardProfile
from firmware.simulation import World
from firmware.stacks import Stack, open_stack
from firmware.table import Table


class ReplayOptions(Table):
    """The camera's options: which stack, and where its slices lie if it does not say so itself."""

    stack: Path
    z_um: tuple[float, ...] | None = None
    z_step_um: float | None = None


class ReplayCamera(Camera):
    """Every exposure is the nearest slice; `settings` names it: {"slice": file index, "z_unit": ...}."""

    def __init__(self, profile: BoardProfile, clock: Clock, world: World, stack: Stack) -> None:
        super().__init__(profile.camera, clock, profile.name)
        self._world = world
        self._stack = stack

    def _next(self, timeout_s: float) -> Exposure:
        del timeout_s
        started_s = self._clock.now_s()
        half_s = self.profile.exposure_ms / 2e3
        self._clock.sleep(half_s)
        index = self._stack.nearest(self._world.stage.z_um())
        self._clock.sleep(half_s)
        settings = {"slice": index, "z_unit": self._stack.z_unit}
        return Exposure(started_s, self._clock.now_s(), lambda: self._stack.pixels(index), settings)


def open_camera(profile: BoardProfile, clock: Clock, world: World | None) -> Camera:
    """Open the camera of a replayed board.

    Raises:
        ProfileError: No stack is named, an option is wrong, or the frame is not of the stack's size.
        StackError: The stack cannot be used.
    """
    if world is None:
        raise ProfileError(f"board {profile.name!r}: the replay camera needs a [simulation] table")
    if "stack" not in profile.camera.options:
        raise ProfileError(
            f"board {profile.name!r} needs a recorded z-stack; name one with `parfocal replay STACK`, or as "
            "camera.options.stack in a board file"
        )
    options = ReplayOptions.model_validate(profile.camera.options)
    stack = open_stack(options.stack, options.z_um, options.z_step_um)
    asked, found = (profile.camera.width_px, profile.camera.height_px), (stack.width_px, stack.height_px)
    if asked != found:
        raise ProfileError(
            f"board {profile.name!r} has a camera of {asked[0]}x{asked[1]} pixels, but {stack.name} is "
            f"{found[0]}x{found[1]}; correct width_px and height_px"
        )
    return ReplayCamera(profile, clock, world, stack)
