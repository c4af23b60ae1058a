"""What both sides of the emulated bench agree on: which line does what, where the switches are, and the phases."""

from __future__ import annotations

from dataclasses import dataclass

UM_PER_STEP = 0.05
TOP_STEPS, BOTTOM_STEPS = 250, -250
PULSE_US, TURN_US = 20.0, 50.0
FAULT_AFTER = 40
PHASES = ("opening", "homing", "moves", "stop", "homing again", "limit", "fault", "closing")
"""The guest changes the marker line at the end of each."""


@dataclass(frozen=True)
class Bench:
    """One emulated board: its GPIO chip, the library that reaches it, and the lines; inputs are active low.

    Positive motor steps move the stage up if `direction` is 1, down if it is -1.
    """

    chip: str
    gpio: str
    direction: int
    step: int
    turn: int
    enable: int
    marker: int
    fault: int
    upper_switch: int
    lower_switch: int


BENCHES = {
    "virt": Bench("9030000.pl061", "libgpiod", 1, 0, 1, 2, 3, 4, 5, 6),
    "raspi3b": Bench("pinctrl-bcm2835", "gpiozero", -1, 17, 27, 22, 26, 23, 24, 25),
}
