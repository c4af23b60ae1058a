"""A little physical stage behind gpiozero's mock pins: a motor that counts, slips and stalls, and two switches.

The stage knows only its pins: where it really is, is what tests compare with what the axis believes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gpiozero import Device
from gpiozero.pins.mock import MockFactory, MockPin

from firmware.axes.step_dir import StepDirAxis
from firmware.clock import Clock, ManualClock
from firmware.microscope import open_microscope
from firmware.profile import BoardProfile

STEP, DIRECTION, ENABLE, FAULT, UPPER, LOWER = 17, 27, 22, 23, 24, 25
NEVER = 10**9


@dataclass
class Stage:
    """Motor and switches; all positions in microsteps, positive where the direction line is high.

    A pulse sooner than `shortest_s` after the one before it, from rest too, does not turn the motor: it stalls. The
    upper switch closes from `top` on, the lower one from `bottom` on down; both and the fault line are active low,
    the motor is powered while its enable line is low. `halt_at` calls `halted` after so many pulses.
    """

    clock: Clock
    top: int = 4000
    bottom: int = -4000
    shortest_s: float = 0.0
    faulty: bool = False
    stuck: bool = False
    position: int = 0
    pulses: int = 0
    lost: int = 0
    at_s: list[float] = field(default_factory=list)
    halt_at: int = NEVER
    halted: Any = None
    pins: dict[int, Any] = field(default_factory=dict)

    def pulse(self) -> None:
        """A rising edge of the step line."""
        now_s, self.pulses = self.clock.now_s(), self.pulses + 1
        hurried = bool(self.at_s) and now_s - self.at_s[-1] < self.shortest_s
        self.at_s.append(now_s)
        if self.pins[ENABLE]._state or hurried:
            self.lost += 1
        else:
            self.position += 1 if self.pins[DIRECTION]._state else -1
        if self.pulses == self.halt_at:
            self.halted()

    def level(self, number: int) -> bool:
        """What an input line shows."""
        closed = {
            UPPER: self.position >= self.top or self.stuck,
            LOWER: self.position <= self.bottom,
            FAULT: self.faulty,
        }
        return not closed[number]


class StagePin(MockPin):  # type: ignore[misc]
    """A mock pin that is wired to the stage."""

    def _set_state(self, value: Any) -> None:
        before = self._state
        super()._set_state(value)
        stage = self.factory.stage
        if self.info.name == f"GPIO{STEP}" and value and not before:
            stage.pulse()

    def _get_state(self) -> Any:
        number = int(self.info.name.removeprefix("GPIO"))
        if number in (UPPER, LOWER, FAULT):
            return self.factory.stage.level(number)
        return super()._get_state()


def board(axis: dict[str, Any] | None = None, options: dict[str, Any] | None = None) -> BoardProfile:
    """A simulated camera in front of a real axis: 0.05 um a microstep, +-100 um, both switches."""
    low = {"active_low": True, "pull": "up"}
    pins = {
        "step": {"line": STEP},
        "direction": {"line": DIRECTION},
        "enable": {"line": ENABLE, "active_low": True},
        "fault": {"line": FAULT, **low},
        "upper_switch": {"line": UPPER, **low},
        "lower_switch": {"line": LOWER, **low},
    }
    motor = {
        "chip": "mock",
        "pins": pins,
        "acceleration_um_s2": 4000.0,
        "jerk_um_s3": 80000.0,
        "home_um": 110.0,
        "home_clear_um": 20.0,
    }
    table = {
        "driver": "step_dir",
        "um_per_step": 0.05,
        "low_um": -100.0,
        "high_um": 100.0,
        "backlash_um": 2.0,
        "settle_ms": 50.0,
        "options": motor | (options or {}),
    }
    return BoardProfile.model_validate(
        {
            "name": "bench",
            "description": "a physical stage behind mock pins",
            "objective": [{"name": "20x", "magnification": 20, "numerical_aperture": 0.75}],
            "camera": {"driver": "simulated", "width_px": 224, "height_px": 224, "pixel_um": 3.45},
            "axis": table | (axis or {}),
            "simulation": {},
        }
    )


@contextmanager
def stage_behind_pins(stage: Stage) -> Iterator[None]:
    """Make the mock pins of this stage gpiozero's own while the block runs."""
    before = Device.pin_factory
    factory = MockFactory(pin_class=StagePin)
    factory.stage = stage
    Device.pin_factory = factory
    for number in (STEP, DIRECTION, ENABLE, FAULT, UPPER, LOWER):
        stage.pins[number] = factory.pin(number)
    try:
        yield
    finally:
        factory.close()
        Device.pin_factory = before


@contextmanager
def opened(stage: Stage, profile: BoardProfile | None = None) -> Iterator[StepDirAxis]:
    """The axis over the stage's pins."""
    with stage_behind_pins(stage), open_microscope(profile or board(), stage.clock) as microscope:
        axis = microscope.axis
        assert isinstance(axis, StepDirAxis)
        yield axis


def a_stage(**flaws: Any) -> Stage:
    """A stage on a clock that only sleeps turn forward."""
    return Stage(ManualClock(), **flaws)
