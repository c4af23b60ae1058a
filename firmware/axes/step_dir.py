"""The step/direction axis: a stepper driver behind GPIO lines, pulsed by a thread of its own.

Lines by what they do: step and direction, and where there are any enable, fault, and a limit switch at one end or
both. Steps here are the driver's microsteps. Positive steps have the direction line active; whether that moves the
objective away from the specimen is the profile's `direction`.
"""

from __future__ import annotations

import logging
import threading
from typing import Literal

from pydantic import Field, model_validator

from firmware import plugins
from firmware.clock import Clock
from firmware.course import Steering, changing_um
from firmware.errors import AxisError, LimitReached, MotorFault, ProfileError
from firmware.gliding import GlidingAxis, Marks
from firmware.motion import Limits, Seconds, train
from firmware.needs import Needs
from firmware.pins import Pin, Pins
from firmware.profile import AxisProfile, BoardProfile
from firmware.pulses import Order, PulseThread, Timing
from firmware.simulation import World
from firmware.table import Table
from firmware.zaxis import ZAxis

_log = logging.getLogger(__name__)
_SPARE_S = 120.0
_HALTED = "halted"
_INPUTS = ("fault", "upper_switch", "lower_switch")
_OUTPUTS = ("step", "direction", "enable")
_SWITCHES = ("upper_switch", "lower_switch")
_ROOM = 1.2
_READINGS, _READ_AGAIN_S, _BOUNCES = 3, 50e-6, 20
_NO_ENABLE = (
    "the board file has no axis.options.pins.enable: nothing can cut the motor's power; connect the driver's EN and "
    "name its line, or tie EN to ground, and the motor is live as soon as its supply is"
)


class PinTable(Table):
    """Which line does what; upper is the end of the travel away from the specimen."""

    step: Pin
    direction: Pin
    enable: Pin | None = None
    fault: Pin | None = None
    upper_switch: Pin | None = None
    lower_switch: Pin | None = None

    @model_validator(mode="after")
    def _one_task_a_line(self) -> PinTable:
        tasks: dict[int | str, str] = {}
        for role, pin in self.among((*_INPUTS, *_OUTPUTS)).items():
            if pin.line in tasks:
                raise ValueError(f"the line {pin.line} is both {tasks[pin.line]} and {role}; give each its own")
            tasks[pin.line] = role
        return self

    def among(self, roles: tuple[str, ...]) -> dict[str, Pin]:
        """Those of these lines that are connected."""
        return {role: pin for role in roles if (pin := getattr(self, role)) is not None}


class StepDirOptions(Table):
    """How the motor is connected and what it can follow, in um and s of objective travel.

    `start_um_s` is the speed that the motor takes on, and loses, in one step without slipping: a stop at more than
    that costs the trust. `home_um` is where the home switch closes (the soft limit on its side by default),
    `home_clear_um` how far the axis backs off from it, `home_slow_um_s` the speed of the second approach, and
    `home_travel_um` how far away it can be at most (1.2 times the window by default). With `power_off_after_s` the
    driver loses its power when the axis has rested so long.
    """

    gpio: str = "gpiozero"
    chip: str
    pins: PinTable
    acceleration_um_s2: float = Field(gt=0)
    jerk_um_s3: float = Field(gt=0)
    start_um_s: float = Field(default=0.0, ge=0)
    pulse_us: float = Field(default=3.0, gt=0, le=1000)
    turn_us: float = Field(default=20.0, ge=0)
    wake_ms: float = Field(default=2.0, ge=0)
    power_off_after_s: float | None = Field(default=None, gt=0)
    home_switch: Literal["upper_switch", "lower_switch"] = "upper_switch"
    home_um: float | None = None
    home_clear_um: float = Field(default=20.0, gt=0)
    home_slow_um_s: float = Field(default=20.0, gt=0)
    home_travel_um: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _can_power_off(self) -> StepDirOptions:
        if self.power_off_after_s is not None and self.pins.enable is None:
            raise ValueError("power_off_after_s needs the line pins.enable")
        return self


class StepDirAxis(GlidingAxis):
    """Counts the pulses that were sent; refuses those that lead into a closed limit switch."""

    def __init__(self, profile: AxisProfile, clock: Clock, options: StepDirOptions, pins: Pins) -> None:
        super().__init__(profile, clock)
        self._options = options
        self._pins = pins
        self._has = options.pins.among((*_INPUTS, *_OUTPUTS)).keys()
        self._limits = Limits(profile.speed_um_s, options.acceleration_um_s2, options.jerk_um_s3)
        self._switches = [role for role in _SWITCHES if role in self._has]
        self._powered = False
        self._train: tuple[Order, Steering] | None = None
        self._turning = 1
        self._thread = PulseThread(clock, self._power_off, options.power_off_after_s)

    @property
    def timing(self) -> Timing:
        """How well the pulses were timed so far."""
        return self._thread.timing

    def lines(self) -> dict[str, bool]:
        """The input lines that are connected, True where active."""
        return {role: self._pins.get(role) for role in self._options.pins.among(_INPUTS)}

    def close(self) -> None:
        """Stop, cut the motor's power where there is an enable line, and let go of the lines."""
        super().close()
        self._thread.close()
        try:
            self._power_off()
        finally:
            self._pins.close()

    def _drive(self, steps: int, halt: threading.Event) -> int:
        order = self._order(steps, self._limits, halt)
        sign = 1 if steps > 0 else -1
        try:
            self._thread.send(order)
            self._mind_the_end(order)
        except BaseException:
            self._steps += self.profile.direction * sign * order.sent
            raise
        return sign * order.sent

    def _mind_the_end(self, order: Order) -> None:
        """Raise what ended a train early, and doubt the position where the motor may have slipped."""
        self._check(order)
        if order.why and self._speed_um_s(order) > self._options.start_um_s:
            self.distrust()
        elif order.slowed_at_s and self.profile.um_per_step / order.slowed_at_s > self._options.start_um_s:
            _log.warning("pulses paused while the motor was at speed; if it slipped, the next look will not fit")

    def braking_um(self, speed_um_s: float) -> float:
        """How far it goes on at most once a rest is asked for, never faster than this since its last change."""
        return changing_um(speed_um_s, self._limits) + 2 * self.profile.um_per_step

    def _begin(self, steps: int, speed_um_s: float) -> None:
        steering = Steering(abs(steps), speed_um_s, self.profile.um_per_step, self._limits)
        order = self._order(steps, self._limits, self._halt)
        order.plan, order.renew = steering.plan, steering.renew
        self._turning = 1 if steps > 0 else -1
        self._train = (order, steering)
        self._thread.begin(order)

    def _steer(self, steps: int, speed_um_s: float) -> bool:
        order, steering = self._under_way()
        return not order.done.is_set() and steering.ask(order.sent, abs(steps), speed_um_s)

    def _brake(self) -> int:
        order, steering = self._under_way()
        steering.brake()
        self._mind_the_end(self._thread.finish(order))
        return self._turning * order.sent

    def _gliding(self) -> bool:
        return self._train is not None and not self._train[0].done.is_set()

    def _progress(self) -> Marks:
        marks, found = self._under_way()[0].marks, []
        while marks:
            time_s, sent = marks.popleft()
            found.append((time_s, self._turning * sent))
        return found

    def _under_way(self) -> tuple[Order, Steering]:
        assert self._train is not None
        return self._train

    def _seek_home(self, halt: threading.Event) -> int:
        """Fast to the switch, back off until it opens, slowly to it again, back off and count from there."""
        low_um, high_um = self.limits_um
        upper = self._options.home_switch == "upper_switch"
        off = -1 if upper else 1
        end_um = self._options.home_um
        if end_um is None:
            end_um = high_um if upper else low_um
        slow = self._limits.slower(self._options.home_slow_um_s)
        whole_um = self._options.home_travel_um or _ROOM * (high_um - low_um)
        clear_um = self._options.home_clear_um
        self.expect(self._homing_s(whole_um, clear_um))
        if len(self._switches) > 1 and all(map(self._active, self._switches)):
            raise AxisError(
                "both limit switches are closed, and no stage stands at both its ends; check their common wire and "
                "active_low; nothing moved"
            )
        if not self._active(self._options.home_switch):
            self._approach(-off * whole_um, self._limits, halt)
        self._leave(off * clear_um, halt)
        self._approach(-off * 2 * clear_um, slow, halt)
        self._leave(off * clear_um, halt)
        back_um = end_um + off * clear_um
        return round(back_um / self.profile.um_per_step)

    def _homing_s(self, whole_um: float, clear_um: float) -> float:
        """What homing may take: twice what its ways take at their speeds, and some to spare."""
        fast_s = (whole_um + 2 * clear_um) / self.profile.speed_um_s
        return 2 * (fast_s + 2 * clear_um / self._options.home_slow_um_s) + _SPARE_S

    def _approach(self, distance_um: float, limits: Limits, halt: threading.Event) -> None:
        """Towards the switch until it closes."""
        switch = self._options.home_switch
        order = self._thread.send(self._order(self._steps_for(distance_um), limits, halt))
        if order.why == switch and self._active(switch):
            return
        if order.why == switch:
            raise AxisError(f"the switch {switch} closed and opened again at rest; look for a loose contact")
        if order.why in _SWITCHES:
            raise LimitReached(
                f"the switch {order.why} closed on the way to {switch}: the motor turns the other way than the board "
                "file says, or the switches are exchanged; `parfocal calibrate mechanics` finds the direction"
            )
        self._check(order)
        if order.why:
            return
        raise AxisError(
            f"the switch {switch} did not close within {abs(distance_um):.0f} um; check its wires and its place, and "
            "that the motor turns the right way (`parfocal calibrate mechanics` finds out)"
        )

    def _leave(self, distance_um: float, halt: threading.Event) -> None:
        """Away from the switch, which must have opened at the end; else the way is made back."""
        if halt.is_set():
            return
        switch, steps = self._options.home_switch, self._steps_for(distance_um)
        order = self._thread.send(self._order(steps, self._limits, halt))
        self._check(order)
        if not order.why and self._active(switch):
            self._thread.send(self._order(-steps, self._limits, halt, despite=switch))
            raise AxisError(
                f"the switch {switch} was still closed {abs(distance_um):.0f} um away from where it closed, and the "
                "axis went back; it is stuck, its wire is broken (a normally closed switch then reads as closed), it "
                "is wired the other way round (active_low), or home_clear_um is too small"
            )

    def _order(self, steps: int, limits: Limits, halt: threading.Event, despite: str = "") -> Order:
        """A train of motor steps that ends when all are sent or something is in the way.

        Ahead is what the profile's direction says, and that may be wrong: so a switch at either end that is open
        when the train begins, and closes on the way, ends it. One that is closed may be left.
        """
        ahead = "upper_switch" if steps * self.profile.direction > 0 else "lower_switch"
        leaving: dict[str, int] = {}

        def prepare() -> None:
            closed = [role for role in self._switches if role != ahead and self._active(role)]
            leaving.update(dict.fromkeys(closed, 0))
            self._power_on()
            self._pins.set("direction", steps > 0)
            self._clock.sleep(self._options.turn_us / 1e6)

        def plan(count: int) -> Seconds:
            return train(count, self.profile.um_per_step, limits)

        def blocked() -> str:
            if halt.is_set():
                return _HALTED
            if "fault" in self._has and self._active("fault"):
                return "fault"
            return next((role for role in self._switches if role != despite and shut(role)), "")

        def shut(role: str) -> bool:
            if role not in leaving:
                return self._active(role)
            # A contact that opens bounces.
            leaving[role] = 0 if self._pins.get(role) else leaving[role] + 1
            if leaving[role] > _BOUNCES:
                del leaving[role]
            return False

        return Order(abs(steps), prepare, plan, blocked, self._rise, self._fall)

    def _rise(self) -> None:
        self._pins.set("step", True)

    def _fall(self) -> None:
        self._clock.wake_at(self._clock.now_s() + self._options.pulse_us / 1e6)
        self._pins.set("step", False)

    def _active(self, role: str) -> bool:
        """What an input says, three times over if it says active: a motor's noise in a long wire is no switch."""
        for _ in range(_READINGS):
            if not self._pins.get(role):
                return False
            self._clock.wake_at(self._clock.now_s() + _READ_AGAIN_S)
        return True

    def _speed_um_s(self, order: Order) -> float:
        return self.profile.um_per_step / order.interval_s if order.sent else 0.0

    def _steps_for(self, distance_um: float) -> int:
        return self.profile.direction * round(distance_um / self.profile.um_per_step)

    def _check(self, order: Order) -> None:
        """Raise what ended a train early, unless somebody halted it."""
        if order.why in ("", _HALTED):
            return
        self.distrust()
        if order.why == "fault":
            self._power_off()
            cut = "its power was cut" if "enable" in self._has else "switch its supply off"
            raise MotorFault(
                "the motor driver's fault line is active (too hot, a short circuit, or no motor supply); "
                f"{cut}; mend that, then {self._cure}"
            )
        raise LimitReached(
            f"the {order.why.replace('_', ' ')} is closed; the axis rests and may only move away from it; the "
            f"position is lost, {self._cure}"
        )

    def _power_on(self) -> None:
        if "enable" in self._has and not self._powered:
            self._pins.set("enable", True)
            self._clock.sleep(self._options.wake_ms / 1e3)
        self._powered = True

    def _power_off(self) -> None:
        if "enable" in self._has and self._powered:
            self._pins.set("enable", False)
        self._powered = False


def identity(profile: BoardProfile) -> str:
    """The motor that its lines drive."""
    options = StepDirOptions.model_validate(profile.axis.options)
    turns = options.pins.direction
    return f"{options.chip}-{options.pins.step.line}-{turns.line}{'-low' if turns.active_low else ''}"


def needs(profile: BoardProfile) -> Needs:
    """The GPIO library that the board file names, and real-time priority, so that pulses come when they are due."""
    options = StepDirOptions.model_validate(profile.axis.options)
    notes = {} if options.pins.enable is not None else {"enable": _NO_ENABLE}
    return Needs(uses=(("firmware.gpio", options.gpio),), realtime=True, notes=notes)


def open_axis(profile: BoardProfile, clock: Clock, world: World | None) -> ZAxis:
    """Open the lines that the board file names.

    Raises:
        ProfileError: An option is wrong, or no GPIO chip has the label.
        MissingDriver: The GPIO library is not installed.
        AxisError: The lines cannot be had.
    """
    del world
    options = StepDirOptions.model_validate(profile.axis.options)
    if profile.axis.homing == "switch" and getattr(options.pins, options.home_switch) is None:
        raise ProfileError(
            f'board {profile.name!r}: homing = "switch" needs the line axis.options.pins.{options.home_switch}; '
            'connect a switch, or use homing = "window"'
        )
    _check_home(profile, options)
    if options.power_off_after_s is not None and not profile.axis.holds_without_power:
        raise ProfileError(
            f"board {profile.name!r}: power_off_after_s cuts the motor's power while the position is believed; that "
            "needs a stage that stays where it is: set holds_without_power = true if yours does"
        )
    library = plugins.load("firmware.gpio", options.gpio)
    pins: Pins = library.open_pins(options.chip, options.pins.among(_OUTPUTS), options.pins.among(_INPUTS))
    return StepDirAxis(profile.axis, clock, options, pins)


def _check_home(profile: BoardProfile, options: StepDirOptions) -> None:
    """A home switch inside the window would end moves that the limits allow."""
    axis, home_um = profile.axis, options.home_um
    if axis.homing != "switch" or home_um is None:
        return
    upper = options.home_switch == "upper_switch"
    if home_um < axis.high_um if upper else home_um > axis.low_um:
        raise ProfileError(
            f"board {profile.name!r}: home_um = {home_um:g} lies inside the window {axis.low_um:g} to "
            f"{axis.high_um:g} um, at whose end or beyond the {options.home_switch} closes: correct home_um, or the "
            "window"
        )
