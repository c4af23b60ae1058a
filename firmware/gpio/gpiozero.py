"""Lines through gpiozero: any pin factory that was chosen, else lgpio on the chip with the board's label."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firmware.errors import MissingDriver
from firmware.needs import Device, Needs
from firmware.pins import Pin, Pins, no_such_chip, refused
from firmware.profile import BoardProfile

DEVICES = Path("/dev")
_NO_CHIP = "this kernel shows no GPIO chip; run this on the board itself, or give a container its /dev/gpiochip*"
_PULLS = {"up": True, "down": False, "none": None}


def missing() -> str:
    """What is to be installed, or ""."""
    if importlib.util.find_spec("gpiozero") is None:
        return "gpiozero is not installed; pip install 'parfocal[rpi]', or apt install python3-gpiozero"
    if importlib.util.find_spec("lgpio") is None and not _chosen():
        return "lgpio is not installed; pip install 'parfocal[rpi]', or apt install python3-lgpio on Python 3.13"
    return ""


def needs(profile: BoardProfile) -> Needs:
    """The GPIO chips, unless another pin factory was chosen; which has the label shows when it is opened."""
    del profile
    return Needs() if _chosen() else Needs((Device(f"{DEVICES}/gpiochip*", "gpio", _NO_CHIP),))


class ZeroPins(Pins):
    """One gpiozero device a line; voltages are read and written as they are, `active_low` is minded here."""

    def __init__(self, devices: Mapping[str, Any], low: Mapping[str, bool], own: Any) -> None:
        self._devices = dict(devices)
        self._low = low
        self._own = own

    def set(self, role: str, active: bool) -> None:
        """Drive an output."""
        self._devices[role].pin.state = active != self._low[role]

    def get(self, role: str) -> bool:
        """Read an input."""
        return bool(self._devices[role].pin.state) != self._low[role]

    def close(self) -> None:
        """Let go of the lines, and of the factory if it was opened for them; safe to call twice."""
        for device in self._devices.values():
            device.close()
        if self._own is not None:
            self._own.close()
            self._own = None


def open_pins(chip: str, outputs: Mapping[str, Pin], inputs: Mapping[str, Pin]) -> Pins:
    """Take lines from gpiozero's factory if one was set or named in GPIOZERO_PIN_FACTORY, else from lgpio.

    Raises:
        MissingDriver: gpiozero or lgpio is not installed, or gpiozero is too old.
        ProfileError: No chip has this label.
        AxisError: The system refuses the lines, or another program holds one.
    """
    try:
        from gpiozero import InputDevice, OutputDevice
        from gpiozero.exc import GPIOZeroError
    except ImportError as error:
        raise MissingDriver(missing() or f"gpiozero cannot be imported: {error}") from error

    factory = None if _chosen() else _lgpio(chip)
    devices: dict[str, Any] = {}
    low = {role: pin.active_low for role, pin in (*outputs.items(), *inputs.items())}
    try:
        for role, pin in outputs.items():
            devices[role] = OutputDevice(pin.line, active_high=not pin.active_low, pin_factory=factory)
        for role, pin in inputs.items():
            pull = _PULLS[pin.pull]
            state = True if pull is None else None
            devices[role] = InputDevice(pin.line, pull_up=pull, active_state=state, pin_factory=factory)
    except (GPIOZeroError, OSError, RuntimeError, ValueError, *_lgpio_errors()) as error:
        ZeroPins(devices, low, factory).close()
        raise refused(chip, error) from error
    return ZeroPins(devices, low, factory)


def _chosen() -> bool:
    """Whether gpiozero was told which pins to use."""
    gpiozero = sys.modules.get("gpiozero")
    return "GPIOZERO_PIN_FACTORY" in os.environ or (gpiozero is not None and gpiozero.Device.pin_factory is not None)


def _lgpio_errors() -> tuple[type[Exception], ...]:
    """What lgpio raises for a line that is taken, of no other family; gpiozero lets it through."""
    return (sys.modules["lgpio"].error,) if "lgpio" in sys.modules else ()


def _lgpio(label: str) -> Any:
    """A factory on the chip with a label."""
    if missing():
        raise MissingDriver(missing())
    try:
        lgpio = _imported_lgpio()
        from gpiozero.pins.lgpio import LGPIOFactory, LGPIOPin
    except (ImportError, OSError) as error:
        cure = "reinstall it, and start in a folder that this user may enter"
        raise MissingDriver(f"lgpio cannot be imported: {error}; {cure}") from error

    class SteadyPin(LGPIOPin):  # type: ignore[misc]
        """Becomes an output at the level that it is to have; gpiozero's own is low first, which may mean a step."""

        def output_with_state(self, state: bool) -> None:
            lgpio.gpio_claim_output(self.factory._handle, self._number, int(state))  # noqa: SLF001

    number = _number(lgpio, label)
    try:
        factory = LGPIOFactory(chip=number)
    except (OSError, lgpio.error) as error:
        raise refused(label, error) from error
    if factory.chip != number:
        factory.close()
        raise MissingDriver("this gpiozero takes the wrong GPIO chip; pip install --upgrade 'gpiozero>=2.0.1.post3'")
    factory.pin_class = SteadyPin
    return factory


def _imported_lgpio() -> Any:
    """lgpio, which makes a pipe in the working folder when it is imported; a service's may be read only."""
    if "lgpio" not in sys.modules:
        before = os.open(".", os.O_RDONLY)
        try:
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                try:
                    importlib.import_module("lgpio")
                finally:
                    os.fchdir(before)
        finally:
            os.close(before)
    return sys.modules["lgpio"]


def _number(lgpio: Any, label: str) -> int:
    """The number of the chip with a label, at this boot."""
    found = []
    for path in sorted(DEVICES.glob("gpiochip*")):
        if not os.access(path, os.R_OK | os.W_OK):
            raise refused(label, PermissionError(f"no permission to open {path}"))
        number = int(path.name.removeprefix("gpiochip"))
        try:
            handle = lgpio.gpiochip_open(number)
        except lgpio.error:
            continue
        found.append(lgpio.gpio_get_chip_info(handle)[3])
        lgpio.gpiochip_close(handle)
        if found[-1] == label:
            return number
    raise no_such_chip(label, found)
