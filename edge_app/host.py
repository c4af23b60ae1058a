"""Host: what this machine allows its user: groups, devices, real-time priority, a folder to remember things in."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge_app.doctor import Finding
from firmware.clock import Clock, SystemClock
from firmware.needs import Device
from firmware.pulses import PRIORITY, ask_for_realtime

_RECORD_BYTES = 4096
_SHOWN = 4
_NO_REALTIME = (
    "not allowed: while the machine is busy pulses come late, so that moves take longer, though no step is lost; put "
    f"`@gpio - rtprio {PRIORITY}` into /etc/security/limits.d/parfocal.conf and log in again, or give the service "
    f"LimitRTPRIO={PRIORITY} (or CAP_SYS_NICE)"
)


@dataclass(frozen=True)
class Host:
    """The user and what the machine allows, so that a test can be anybody.

    `groups` are those of this login, `granted` those that list the user (perhaps only since the login), `known`
    those that there are. `may_open` says whether a path may be read and written.
    """

    root: bool
    groups: frozenset[str]
    granted: frozenset[str]
    known: frozenset[str]
    may_open: Callable[[str], bool]
    realtime: bool
    clock: Clock

    def group(self, name: str, patterns: list[str]) -> Finding:
        """Whether the user may open what belongs to a group, and how to become a member."""
        ok, detail = self._membership(name, [path for pattern in patterns for path in _paths(pattern)])
        return Finding("group", name, ok, detail)

    def device(self, device: Device) -> Finding:
        """Whether a device is there and open to the user."""
        paths = _paths(device.paths)
        shown = ", ".join(paths[:_SHOWN]) + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")
        if not paths:
            return Finding("device", device.paths, False, f"there is none; {device.cure}")
        if not any(map(self.may_open, paths)):
            cure = f"join the group {device.group}, as said above"
            return Finding("device", device.paths, False, f"{shown}: closed to this user; {cure}")
        return Finding("device", device.paths, True, shown)

    def priority(self) -> Finding:
        """Whether pulses may go before everything else; they work without, only less evenly."""
        return Finding("note", "real-time priority", self.realtime, "allowed" if self.realtime else _NO_REALTIME)

    def _membership(self, name: str, paths: list[str]) -> tuple[bool, str]:
        join = f"sudo usermod -aG {name} $USER, then log in again"
        if self.root:
            return True, "not needed: root opens everything"
        if name in self.groups:
            return True, "this user is in it"
        if paths and all(map(self.may_open, paths)):
            return True, f"not needed: this user may open {paths[0]} without it"
        if name in self.granted:
            return False, "this user was added to it after this login; log in again, or restart the board"
        if name in self.known:
            return False, f"this user is not in it; {join}"
        return False, (
            f"this machine has no such group: sudo groupadd --system {name}; give it the devices by a udev rule "
            f"(docs/wiring.md has one); {join}"
        )


def this_host() -> Host:
    """The machine that this runs on, and who runs it."""
    everyone = grp.getgrall()
    mine = {*os.getgroups(), os.getegid()}
    user = ""
    with suppress(KeyError):  # a container's user may have no name
        user = pwd.getpwuid(os.geteuid()).pw_name
    return Host(
        root=os.geteuid() == 0,
        groups=frozenset(group.gr_name for group in everyone if group.gr_gid in mine),
        granted=frozenset(group.gr_name for group in everyone if user in group.gr_mem),
        known=frozenset(group.gr_name for group in everyone),
        may_open=lambda path: os.access(path, os.R_OK | os.W_OK),
        realtime=_realtime(),
        clock=SystemClock(),
    )


def _paths(pattern: str) -> list[str]:
    return sorted(map(str, Path("/").glob(pattern.lstrip("/"))))


def folder(path: Path) -> Finding:
    """Whether a folder can be made and takes a record."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            os.posix_fallocate(file.fileno(), 0, _RECORD_BYTES)
    except OSError as error:
        cure = "run this as the user that it belongs to, or choose another folder with --state"
        if error.errno == errno.ENOSPC:
            cure = "free some space (`df -h` shows where), or choose another folder with --state"
        why = error.strerror or str(error)
        lost = "the board could not remember where its axis rests"
        return Finding("state", str(path), False, f"cannot be written ({why}): {lost}; {cure}")
    return Finding("state", str(path), True, "can be written")


def _realtime() -> bool:
    """Ask in a thread that ends at once, so that the rest of the process stays as it is."""
    allowed = []

    def ask() -> None:
        allowed.append(ask_for_realtime())

    thread = threading.Thread(target=ask, name="parfocal-priority")
    thread.start()
    thread.join()
    return all(allowed)
