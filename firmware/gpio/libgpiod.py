"""Lines through libgpiod 2, which knows every Linux board that has a GPIO chip."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firmware.errors import MissingDriver
from firmware.needs import Device, Needs
from firmware.pins import Pin, Pins, no_such_chip, refused
from firmware.profile import BoardProfile

DEVICES = Path("/dev")
_NO_CHIP = "this kernel shows no GPIO chip; run this on the board itself, or give a container its /dev/gpiochip*"


def missing() -> str:
    """What is to be installed, or ""."""
    if importlib.util.find_spec("gpiod") is None:
        return "libgpiod's Python package is not installed; pip install 'parfocal[jetson]'"
    return ""


def needs(profile: BoardProfile) -> Needs:
    """The GPIO chips; which of them has the label shows when it is opened."""
    del profile
    return Needs((Device(f"{DEVICES}/gpiochip*", "gpio", _NO_CHIP),))


class GpiodPins(Pins):
    """One request for all lines of a chip."""

    def __init__(self, request: Any, lines: Mapping[str, int | str], active: Any, inactive: Any) -> None:
        self._request = request
        self._lines = lines
        self._active, self._inactive = active, inactive

    def set(self, role: str, active: bool) -> None:
        """Drive an output."""
        self._request.set_value(self._lines[role], self._active if active else self._inactive)

    def get(self, role: str) -> bool:
        """Read an input."""
        return bool(self._request.get_value(self._lines[role]) == self._active)

    def close(self) -> None:
        """Let go of the lines; safe to call twice."""
        if self._request is not None:
            self._request.release()
            self._request = None


def open_pins(chip: str, outputs: Mapping[str, Pin], inputs: Mapping[str, Pin]) -> Pins:
    """Request lines of the chip with this label.

    Raises:
        MissingDriver: libgpiod's Python package is not installed.
        ProfileError: No chip has this label.
        AxisError: The system refuses the lines, or another program holds one.
    """
    if missing():
        raise MissingDriver(missing())
    import gpiod
    from gpiod.line import Bias, Direction, Value

    bias = {"up": Bias.PULL_UP, "down": Bias.PULL_DOWN, "none": Bias.AS_IS}
    asked: dict[Any, Any] = {}
    for pin in outputs.values():
        asked[pin.line] = gpiod.LineSettings(
            direction=Direction.OUTPUT, active_low=pin.active_low, output_value=Value.INACTIVE
        )
    for pin in inputs.values():
        asked[pin.line] = gpiod.LineSettings(direction=Direction.INPUT, active_low=pin.active_low, bias=bias[pin.pull])
    path = _path(gpiod, chip)
    try:
        request = gpiod.request_lines(path, consumer="parfocal", config=asked)
    except (OSError, ValueError) as error:
        raise refused(chip, error) from error
    lines = {role: pin.line for role, pin in (*outputs.items(), *inputs.items())}
    return GpiodPins(request, lines, Value.ACTIVE, Value.INACTIVE)


def _path(gpiod: Any, label: str) -> str:
    """The device of the chip with a label."""
    found = []
    closed: OSError | None = None
    for path in sorted(DEVICES.glob("gpiochip*")):
        try:
            if not gpiod.is_gpiochip_device(str(path)):
                continue
            with gpiod.Chip(str(path)) as chip:
                found.append(chip.get_info().label)
        except OSError as error:
            closed = error
            continue
        if found[-1] == label:
            return str(path)
    if isinstance(closed, PermissionError):
        raise refused(label, closed)
    raise no_such_chip(label, found)
