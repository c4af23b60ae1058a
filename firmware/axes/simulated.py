"""The simulated axis: sends steps to the World's motor, at the speed that the board file gives."""

from __future__ import annotations

import math
import threading

import numpy as np

from firmware.clock import Clock
from firmware.course import Course, braking_um, changing_um
from firmware.errors import ProfileError
from firmware.gliding import GlidingAxis, Marks
from firmware.motion import Limits
from firmware.profile import BoardProfile
from firmware.simulation import World
from firmware.zaxis import ZAxis

_CHUNK_S = 0.004
_MARK_S, _MARKS = 0.002, 4096
# What a small stepper on a fine focus follows; the boards with a real one declare about as much.
_ACCELERATION_UM_S2, _JERK_UM_S3 = 4000.0, 80000.0


class SimulatedAxis(GlidingAxis):
    """Steps in small chunks, so that a stop takes hold within a few milliseconds of travel.

    A glide needs no thread: it follows a course by the clock, and turns the motor to where that is whenever somebody
    looks at the stage, the clock's own sleeps included.
    """

    def __init__(self, profile: BoardProfile, clock: Clock, world: World) -> None:
        super().__init__(profile.axis, clock)
        self._world = world
        self._pace = Limits(profile.axis.speed_um_s, _ACCELERATION_UM_S2, _JERK_UM_S3)
        self._lock = threading.Lock()
        self._course: Course | None = None
        self._began_s = self._until_s = self._marked_s = 0.0
        self._sign, self._turned, self._lost = 1, 0, 0

    def stop(self) -> None:
        """Halt within one step, from any thread; motion is refused until `release`."""
        with self._lock:
            if self._course is not None and not self._halt.is_set():
                self._until_s = self._clock.now_s()
            self._halt.set()

    def braking_um(self, speed_um_s: float) -> float:
        """How far it goes on at most once a rest is asked for, never faster than this since its last change."""
        return changing_um(speed_um_s, self._pace)

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

    def _begin(self, steps: int, speed_um_s: float) -> None:
        step_um = self.profile.um_per_step_sent
        with self._lock:
            self._lost = min(round(self._world.stage.slip() / step_um), abs(steps))
            self._sign, self._turned = 1 if steps > 0 else -1, 0
            self._began_s = self._marked_s = self._clock.now_s()
            self._until_s = math.inf
            self._course = Course.plan(abs(steps) * step_um, speed_um_s, self._pace)
        self._world.stage.follow = self._follow

    def _steer(self, steps: int, speed_um_s: float) -> bool:
        with self._lock:
            course, now_s = self._course, self._clock.now_s() - self._began_s
            if course is None or self._halt.is_set() or now_s > course.even_s[1]:
                return False
            at_s = max(now_s, course.even_s[0])
            left_um = abs(steps) * self.profile.um_per_step_sent - course.way_um(at_s)
            if left_um < braking_um(course.speed_um_s, self._pace):
                return False
            anew = Course.plan(left_um, speed_um_s, self._pace, course.speed_um_s)
            self._course = course.then(anew, at_s)
            return True

    def _brake(self) -> int:
        with self._lock:
            course = self._course
            assert course is not None
            at_s = max(self._clock.now_s() - self._began_s, course.even_s[0])
            if at_s < course.even_s[1]:
                course = course.then(self._braking(course, at_s), at_s)
            self._course = course
        ends_s = self._began_s + course.ends_s
        while (now_s := self._clock.now_s()) < ends_s and not self._halt.is_set():
            self._clock.sleep(min(_CHUNK_S, ends_s - now_s))
            self._world.stage.carriage_um  # noqa: B018 - who looks at a stage that moves, moves it
        self._world.stage.follow = None
        self._turn(stops=True)
        return self._sign * self._turned

    def _braking(self, course: Course, at_s: float) -> Course:
        """From the speed of a course to rest, after a whole number of steps, none more than the course has."""
        step_um, gone_um = self.profile.um_per_step_sent, course.way_um(at_s)
        rests_um = math.ceil((gone_um + braking_um(course.speed_um_s, self._pace)) / step_um - 1e-9) * step_um
        length_um = min(rests_um, float(course.ways_um[-1])) - gone_um
        return Course.plan(length_um, course.speed_um_s, self._pace, course.speed_um_s)

    def _gliding(self) -> bool:
        course = self._course
        return course is not None and self._passed_s() < course.ends_s and not self._halt.is_set()

    def _progress(self) -> Marks:
        with self._lock:
            course = self._course
            now_s = min(self._clock.now_s(), self._until_s)
            if course is None or now_s <= self._marked_s:
                return []
            count = min(max(math.ceil((now_s - self._marked_s) / _MARK_S), 1), _MARKS)
            times_s = np.linspace(self._marked_s, now_s, count + 1)[1:]
            self._marked_s = now_s
            return [
                (time_s, self._sign * self._steps_by(course, time_s - self._began_s)) for time_s in times_s.tolist()
            ]

    def _follow(self) -> None:
        self._turn(stops=False)

    def _turn(self, stops: bool) -> None:
        """Turn the motor to where the course is now."""
        with self._lock:
            if self._course is None:
                return
            steps = self._steps_by(self._course, self._passed_s())
            arriving = max(0, steps - self._lost) - max(0, self._turned - self._lost)
            self._turned = steps
            way_um = self._sign * arriving * self.profile.um_per_step_sent
            self._world.stage.turn(self._world.table.motor_direction * way_um, stops)

    def _passed_s(self) -> float:
        return min(self._clock.now_s(), self._until_s) - self._began_s

    def _steps_by(self, course: Course, time_s: float) -> int:
        return round(course.way_um(time_s) / self.profile.um_per_step_sent)

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
