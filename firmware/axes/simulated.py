"""The simulated axis: sends steps to the World's motor, at the speed that the board file gives."""

from __future__ import annotations

import math
import threading

from firmware.clock import Clock
from firmware.errors import ProfileError
from firmware.profile import BoardProfile
from firmware.simulation import World
from firmware.zaxis import ZAxis

_CHUNK_S = 0.004


class SimulatedAxis(ZAxis):
    """Steps in small chunks, so that a stop takes hold within a few milliseconds of travel."""

    def __init__(self, profile: BoardProfile, clock: Clock, world: World) -> None:
        super().__init__(profile.axis, clock)
        self._world = world

    def _drive(self, steps: int, halt: threading.Event) -> int:
        step_um = self.profile.um_per_step_sent
        chunk = max(1, round(self.profile.speed_um_s * _CHUNK_S / step_um))
        sign = 1 if steps > 0 else -1
        lost = min(round(self._world.stage.slip() / step_um), abs(steps))
        sent = 0
        while sent < abs(steps) and not halt.is_set():
            part = min(chunk, abs(steps) - sent)
            self._clock.sleep(part * step_um / self.profile.speed_um_s)
            arriving = max(0, min(part, abs(steps) - lost - sent))
            self._world.stage.turn(self._world.table.motor_direction * sign * arriving * step_um)
            sent += part
        return sign * sent

    def _seek_home(self, halt: threading.Event) -> int:
        """The switch sits at the top of the travel; the stage comes back to the middle of its window."""
        middle_um = 0.5 * (self.profile.low_um + self.profile.high_um)
        distance_um = self.profile.high_um - self._world.stage.motor_um
        for part_um in (distance_um, middle_um - self.profile.high_um):
            self._slew(part_um, halt)
        return round(middle_um / self.profile.um_per_step)

    def _slew(self, distance_um: float, halt: threading.Event) -> None:
        """Go fast by what the screw really moves, until `halt` is set."""
        speed_um_s = 5 * self.profile.speed_um_s
        chunks = max(1, math.ceil(abs(distance_um) / (speed_um_s * _CHUNK_S)))
        for _ in range(chunks):
            if halt.is_set():
                return
            self._clock.sleep(abs(distance_um) / chunks / speed_um_s)
            self._world.stage.turn(distance_um / chunks / (1 + self._world.table.scale_error))


def open_axis(profile: BoardProfile, clock: Clock, world: World | None) -> ZAxis:
    """Open the axis of a simulated or replayed board."""
    if world is None:
        raise ProfileError(f"board {profile.name!r}: the simulated axis needs a [simulation] table")
    return SimulatedAxis(profile, clock, world)
