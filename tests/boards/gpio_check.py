"""The guest's side: our step_dir axis on a real GPIO chip says phase by phase what it sent and what it knows."""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpiod
from gpio_bench import BENCHES, PHASES, PULSE_US, TURN_US, UM_PER_STEP
from gpiod.line import Direction, Value

from firmware.axes.step_dir import StepDirAxis
from firmware.errors import AxisError, FirmwareError, LimitReached, MotionStopped, MotorFault, NotTrusted, ProfileError
from firmware.microscope import open_microscope
from firmware.profile import BoardProfile
from firmware.travel import Trust

MOVES = 20
STOP_AFTER = 150
NOBODY = 65534
BENCH = BENCHES[os.environ["BENCH"]]


def say(passed: bool, what: str) -> None:
    """One check."""
    print("ok" if passed else "FAIL", what, flush=True)  # noqa: T201


def board(chip: str = BENCH.chip) -> BoardProfile:
    """A simulated camera in front of a real axis that is slow enough for an emulated processor."""
    low = {"active_low": True, "pull": "up"}
    pins = {
        "step": {"line": BENCH.step},
        "direction": {"line": BENCH.turn},
        "enable": {"line": BENCH.enable, "active_low": True},
        "fault": {"line": BENCH.fault, **low},
        "upper_switch": {"line": BENCH.upper_switch, **low},
        "lower_switch": {"line": BENCH.lower_switch, **low},
    }
    options = {
        "gpio": BENCH.gpio,
        "chip": chip,
        "pins": pins,
        "acceleration_um_s2": 200.0,
        "jerk_um_s3": 4000.0,
        "pulse_us": PULSE_US,
        "turn_us": TURN_US,
        "home_um": 13.0,
        "home_clear_um": 3.0,
        "home_slow_um_s": 4.0,
    }
    axis = {
        "driver": "step_dir",
        "um_per_step": UM_PER_STEP,
        "direction": BENCH.direction,
        "low_um": -15.0,
        "high_um": 12.0,
        "backlash_um": 2.0,
        "settle_ms": 20.0,
        "speed_um_s": 20.0,
        "blind_um": 10.0,
        "options": options,
    }
    return BoardProfile.model_validate(
        {
            "name": "emulated",
            "description": "a stage outside the emulated board",
            "objective": [{"name": "20x", "magnification": 20, "numerical_aperture": 0.75}],
            "camera": {"driver": "simulated", "width_px": 224, "height_px": 224, "pixel_um": 3.45},
            "axis": axis,
            "simulation": {},
        }
    )


class Phases:
    """Ends phases: says what the axis counted, and changes the marker line that the outside sees."""

    def __init__(self, marker: Any) -> None:
        self._marker = marker
        self._names = iter(PHASES)
        self._level = False
        self._before_steps = 0
        self._closed_at: Any = None

    def end(self, axis: StepDirAxis | None = None) -> None:
        """The next phase is over; without an axis nothing may have been sent."""
        note: dict[str, Any] = {"phase": next(self._names), "sent": 0, "late": 0, "ramps": 0}
        if axis is not None:
            since = axis.timing if self._closed_at is None else axis.timing.since(self._closed_at)
            self._closed_at = replace(axis.timing)
            steps = round(axis.z_um / UM_PER_STEP)
            note |= {"sent": since.pulses, "late": since.late, "ramps": since.ramped_again}
            note |= {"steps": steps, "change": steps - self._before_steps}
            note |= {"worst_ms": round(1e3 * since.worst_s, 3), "mean_ms": round(1e3 * since.mean_s, 3)}
            self._before_steps = steps
        self._level = not self._level
        self._marker.set_value(BENCH.marker, Value.ACTIVE if self._level else Value.INACTIVE)
        print("PHASE", json.dumps(note), flush=True)  # noqa: T201


def raised(act: Callable[[], object]) -> FirmwareError | None:
    """The error of ours that this raises."""
    try:
        act()
    except FirmwareError as error:
        return error
    return None


def path() -> str:
    """The chip's device."""
    for device in sorted(Path("/dev").glob("gpiochip*")):
        with gpiod.Chip(str(device)) as chip:
            if chip.get_info().label == BENCH.chip:
                return str(device)
    sys.exit(f"no chip is labelled {BENCH.chip}")


@contextmanager
def nobody() -> Iterator[None]:
    """Be a user without rights for a while."""
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def refusals(device: str) -> None:
    """What cannot be had is refused in our own words."""
    error = raised(lambda: open_microscope(board("pinctrl-none")))
    named = isinstance(error, ProfileError) and BENCH.chip in str(error)
    say(named, f"a wrong label names the chips that there are: {error!r}")

    taken = gpiod.LineSettings(direction=Direction.INPUT)
    with gpiod.request_lines(device, consumer="another", config={BENCH.lower_switch: taken}):
        error = raised(lambda: open_microscope(board()))
    say(isinstance(error, AxisError) and "another program" in str(error), f"a line that is taken: {error!r}")

    for chip in Path("/dev").glob("gpiochip*"):
        chip.chmod(0o600)
    with nobody():
        error = raised(lambda: open_microscope(board()))
    say(isinstance(error, AxisError) and "group gpio" in str(error), f"no permission: {error!r}")


def homing(axis: StepDirAxis) -> None:
    """To the switch, and 3 um back."""
    axis.home()
    say(axis.trust is Trust.HOMED and abs(axis.z_um - 10.0) < 1e-6, f"{axis.trust.value} at {axis.z_um:.2f} um")


def moves(axis: StepDirAxis) -> None:
    """Seeded ones, both ways."""
    rng, wrong, legs = random.Random(5), [], 0
    for _ in range(MOVES):
        wanted_um = rng.uniform(-6.0, 8.0)
        move = axis.move_to(wanted_um)
        legs += move.legs
        if abs(axis.z_um - wanted_um) > UM_PER_STEP / 2 + 1e-9 or axis.trust is not Trust.HOMED:
            wrong.append((wanted_um, axis.z_um, axis.trust))
    say(not wrong and legs > MOVES, f"{MOVES} moves in {legs} legs end where they were asked to{wrong or ''}")


def stop(axis: StepDirAxis) -> None:
    """Somebody stops the axis in the middle of a long way."""
    axis.move_to(-9.0)
    begun = axis.timing.pulses

    def halt() -> None:
        while axis.timing.pulses < begun + STOP_AFTER:
            time.sleep(0.001)
        axis.stop()

    stopper = threading.Thread(target=halt)
    stopper.start()
    error = raised(lambda: axis.move_to(11.0))
    stopper.join()
    went = axis.timing.pulses - begun
    say(isinstance(error, MotionStopped) and went < 300, f"a stop after {STOP_AFTER} pulses lets {went} go: {error!r}")
    say(axis.trust is Trust.LOST, f"a stop at full speed costs the trust: {axis.trust.value}")
    say(abs(axis.z_um - (-9.0 + went * UM_PER_STEP)) < 1e-6, f"z counts on to {axis.z_um:.2f} um")
    say(isinstance(raised(lambda: axis.move_to(0.0)), MotionStopped), "nothing moves until the stop is released")
    axis.release()
    say(isinstance(raised(lambda: axis.move_to(11.0)), NotTrusted), "and not far without trust")


def limit(axis: StepDirAxis) -> None:
    """The lower switch closes before the soft limit."""
    error = raised(lambda: axis.move_to(-14.5))
    say(
        isinstance(error, LimitReached) and axis.trust is Trust.LOST,
        f"the lower switch at {axis.z_um:.2f} um: {error!r}",
    )
    at_um = axis.z_um
    again = raised(lambda: axis.move_by(-1.0))
    say(isinstance(again, LimitReached) and axis.z_um == at_um, "no step more leads into the closed switch")


def fault(axis: StepDirAxis) -> None:
    """The motor's driver reports a fault on the way."""
    error = raised(lambda: axis.move_by(6.0))
    say(isinstance(error, MotorFault), f"a fault on the way: {error!r}")


def main() -> None:
    """All phases."""
    device = path()
    settings = gpiod.LineSettings(direction=Direction.OUTPUT, output_value=Value.INACTIVE)
    with gpiod.request_lines(device, consumer="marker", config={BENCH.marker: settings}) as marker:
        phases = Phases(marker)
        refusals(device)
        with open_microscope(board()) as microscope:
            axis = microscope.axis
            assert isinstance(axis, StepDirAxis)
            phases.end(axis)
            for act in (homing, moves, stop, homing, limit, fault):
                act(axis)
                phases.end(axis)
        phases.end()


if __name__ == "__main__":
    main()
