"""Reference: the time that expiry is held against, on a board whose clock may not be set.

What was signed for updates expires, so that nobody can keep a board on an old state by repeating it for ever (a
freeze). That wants to know what time it is, and a board without a battery starts at some past moment until a time
server answers. The policy:

* The floor is the latest moment of which the board is sure: when this version was made, or a later moment at which it
  checked for updates with a set clock.
* A clock before the floor is wrong for sure, whoever set it: expiry is held against the floor. What had expired by
  then is refused; what expired since is taken, since nobody can tell, and the reference says so.
* A clock after the floor is believed, set or not. One that no time server set is late by the time that the board was
  off, or kept by a battery; if it is ahead, what looks expired by it is refused, and the reference says so.
* Under the policy "required" only a clock that a time server set is believed, and nothing is taken without.

A battery (/dev/rtc) alone makes no clock set: a Pi 5 has the device without the battery. A moment becomes part of the
floor only after a check that succeeded: it is then no later than the expiry of what was signed, so that a clock that
somebody set to 2099 for a day does not make everything look expired from then on.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from edge_app.errors import UpdateError

Policy = Literal["floor", "required"]
MADE = datetime(2026, 11, 22, tzinfo=timezone.utc)
"""No board runs this version before; moved on with each release."""
_SYNCHRONISED = Path("/run/systemd/timesync/synchronized")
_TIME_ERROR = 5
_TIMEX_BYTES = 512
"""More than any machine's `struct timex`, which has 208 on 64 bits."""


@dataclass(frozen=True)
class Reference:
    """What expiry is held against, and what this board cannot notice by it.

    Attributes:
        time: In UTC.
        note: One sentence for whoever asks for the state of updates; empty where the clock is set.
        remember: What to give as `seen` from now on, once a check with this reference has succeeded; empty where the
            clock is not set.
    """

    time: datetime
    note: str = ""
    remember: str = ""


def reference(policy: Policy, now: datetime, synchronised: bool, seen: str = "") -> Reference:
    """The reference by the policy above.

    Args:
        policy: "floor" or "required".
        now: What this board's clock says; aware.
        synchronised: Whether a time server has set it.
        seen: A reference's `remember` from before; what is no such text counts as none.

    Raises:
        UpdateError: The clock is not set, and the policy requires it.
    """
    floor = max(MADE, _moment(seen))
    if policy == "required" and (now < floor or not synchronised):
        raise UpdateError(
            f'this board\'s clock ({_said(now)}) was not set by a time server, and update_clock = "required" takes no '
            'updates without; let it reach a time server, or set update_clock = "floor"'
        )
    if now < floor:
        return Reference(
            floor,
            f"this board's clock is wrong ({_said(now)}), so that expiry is held against {_said(floor)}, the latest "
            "moment it is sure of, and a repository that is kept from changing would not be noticed; set the clock",
        )
    if not synchronised:
        return Reference(
            now,
            f"no time server has set this board's clock ({_said(now)}): if it is late, a repository that is kept from "
            "changing is noticed late, and if it is ahead, what is valid looks expired; check it with `date`",
        )
    return Reference(now, remember=now.isoformat())


def machine_reference(policy: Policy, seen: str = "") -> Reference:
    """The reference by this machine's clock; see `reference`.

    Raises:
        UpdateError: The clock is not set, and the policy requires it.
    """
    return reference(policy, datetime.now(timezone.utc), is_synchronised(), seen)


def is_synchronised(
    marker: Path = _SYNCHRONISED,
    kernel: Callable[[], bool | None] | None = None,
    daemon: Callable[[], bool] | None = None,
) -> bool:
    """Whether a time server has set the clock since the machine started.

    systemd's own time client leaves a marker. The kernel knows it of every time client; under the service's
    hardening it does not answer, and systemd-timedated does.
    """
    if marker.exists():
        return True
    known = (kernel or _ask_kernel)()
    return (daemon or _ask_timedated)() if known is None else known


def _ask_kernel() -> bool | None:
    """By adjtimex(2), which only reads where its first word is zero; None where it is not allowed."""
    try:
        state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def _ask_timedated() -> bool:
    command = ("/usr/bin/timedatectl", "show", "--property=NTPSynchronized", "--value")
    try:
        told = subprocess.run(command, capture_output=True, timeout=5.0, check=False)  # noqa: S603 no argument from outside
    except (OSError, subprocess.TimeoutExpired):
        return False
    return told.stdout.strip() == b"yes"


def _moment(text: str) -> datetime:
    """A moment from ISO text; `MADE`, which is always known, for what is none or has no zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return MADE
    return moment if moment.tzinfo is not None else MADE


def _said(moment: datetime) -> str:
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
