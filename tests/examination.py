"""What doctor finds on a board, for a user who may do everything but what a test forbids."""

from __future__ import annotations

from typing import Any

from physical_stage import Stage, board, stage_behind_pins

from edge_app import board_doctor
from edge_app.config import Settings
from edge_app.doctor import NOTE, Finding
from edge_app.host import Host
from firmware.clock import Clock
from firmware.profile import BoardProfile

Found = dict[tuple[str, str], Finding]


def somebody(clock: Clock, **but: Any) -> Host:
    """A user who may do everything, but for what is said."""
    ours = frozenset({"gpio", "video"})
    allowed = {"root": False, "groups": ours, "granted": ours, "known": ours, "realtime": True}
    return Host(**{**allowed, "may_open": lambda _: True, "clock": clock, **but})


def examined(profile: BoardProfile, clock: Clock, move: bool = True, **asked: Any) -> Found:
    """Everything that is found on a board, by what and name."""
    user = {key: asked.pop(key) for key in list(asked) if key in Host.__dataclass_fields__}
    settings = Settings(board=profile.name, **{"bundle": "none", "threads": 1, **asked})
    found = board_doctor.findings(profile, settings, move, somebody(clock, **user))
    return {(finding.what, finding.name): finding for finding in found}


def at_the_stage(stage: Stage, profile: BoardProfile | None = None, **asked: Any) -> Found:
    with stage_behind_pins(stage):
        return examined(profile or board(), stage.clock, **asked)


def swept(profile: BoardProfile) -> BoardProfile:
    """The same board with a strategy that needs no model."""
    return profile.model_copy(update={"focus": profile.focus.model_copy(update={"strategy": "sweep"})})


def failed(found: Found) -> set[tuple[str, str]]:
    return {key for key, finding in found.items() if not finding.ok and finding.what != NOTE}
