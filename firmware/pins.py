"""Pins: the GPIO lines of one board by what they do, whatever library reaches them.

A library is one file in gpio/ with `missing()` and `open_pins(chip, outputs, inputs) -> Pins`. Chips are found by
their label, since their numbers change with the kernel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from pydantic import Field

from firmware.errors import AxisError, ProfileError
from firmware.table import Table


class Pin(Table):
    """One line: its number on the chip, or its name; whether low means active; what pulls an input when it floats."""

    line: int | str = Field(union_mode="left_to_right")
    active_low: bool = False
    pull: Literal["up", "down", "none"] = "none"


class Pins(ABC):
    """Lines that were asked for, all inactive when they are opened; True is active, whatever the voltage."""

    @abstractmethod
    def set(self, role: str, active: bool) -> None:
        """Drive an output."""

    @abstractmethod
    def get(self, role: str) -> bool:
        """Read an input."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the lines."""


def no_such_chip(wanted: str, found: list[str]) -> ProfileError:
    """What to say when no chip has the label that a board file names."""
    if not found:
        return ProfileError(
            f"no GPIO chip is labelled {wanted!r}: this machine has none; run this on the board itself"
        )
    has = ", ".join(sorted(found))
    return ProfileError(
        f"no GPIO chip is labelled {wanted!r}; this machine has: {has}; correct axis.options.chip in the board file"
    )


def refused(chip: str, error: Exception) -> AxisError:
    """What to say when the system does not hand the lines over."""
    cure = "look at the wiring table and at axis.options.pins"
    if isinstance(error, PermissionError):
        cure = "add this user to the group gpio (sudo usermod -aG gpio $USER) and log in again"
    elif "busy" in str(error).lower():
        cure = "another program holds one of them; stop it (gpioinfo names it)"
    elif "in use" in str(error).lower():
        cure = "axis.options.pins gives one line two tasks, or this program holds it already"
    return AxisError(f"the lines of the GPIO chip {chip!r} cannot be had: {error}; {cure}")
