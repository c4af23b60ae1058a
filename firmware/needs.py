"""Needs: what a driver wants of the machine besides its own library, told without opening anything.

A driver's file may have `needs(profile) -> Needs`; `parfocal doctor --board` asks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Device:
    """What a driver opens: paths as a glob, the group whose members may, and what to do where there is none."""

    paths: str
    group: str
    cure: str


@dataclass(frozen=True)
class Needs:
    """`uses` are the plug-ins that the driver loads, as (package, name); `notes` what is worth knowing, by name."""

    devices: tuple[Device, ...] = ()
    uses: tuple[tuple[str, str], ...] = ()
    realtime: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)
