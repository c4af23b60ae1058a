"""A ZAxis whose driver is nothing but a counter of steps, with ways to break it."""

from __future__ import annotations

import threading

from firmware.clock import ManualClock
from firmware.profile import AxisProfile
from firmware.zaxis import ZAxis

NEVER = 10**9


class Counter(ZAxis):
    """A motor at one step per millisecond that remembers where it was sent and how far it ever got.

    `fails_after` breaks the driver after so many steps; `short_by` makes it leave out steps; `halt_after`
    calls stop, as another thread would, after so many steps.
    """

    def __init__(self, profile: AxisProfile, clock: ManualClock) -> None:
        super().__init__(profile, clock)
        self.clock = clock
        self.position = 0
        self.sent = 0
        self.visited = [0]
        self.seen_moving: set[bool] = set()
        self.fails_after = self.halt_after = NEVER
        self.short_by = 0

    def _drive(self, steps: int, halt: threading.Event) -> int:
        sign = 1 if steps > 0 else -1
        for count in range(abs(steps) - self.short_by):
            if halt.is_set():
                return sign * count
            if self.sent >= self.fails_after:
                raise OSError("no answer from the motor")
            self.clock.sleep(0.001)
            self.position += sign
            self.sent += 1
            self.visited.append(self.position)
            self.seen_moving.add(self.moving)
            if self.sent >= self.halt_after:
                self.stop()
        return sign * (abs(steps) - self.short_by)

    def _seek_home(self, halt: threading.Event) -> int:
        if self.sent >= self.fails_after:
            raise OSError("the switch is not connected")
        self.clock.sleep(1.0)
        if self.halt_after == 0:
            self.stop()
        self.position = 0
        return 0


def profile(**changes: object) -> AxisProfile:
    plain = {
        "driver": "counter",
        "um_per_step": 0.1,
        "low_um": -50,
        "high_um": 50,
        "backlash_um": 2,
        "blind_um": 5,
    }
    return AxisProfile.model_validate(plain | changes)


def an_axis(**changes: object) -> Counter:
    return Counter(profile(**changes), ManualClock())


def homed(**changes: object) -> Counter:
    axis = an_axis(**changes)
    axis.home()
    return axis
