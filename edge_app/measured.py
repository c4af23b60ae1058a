"""Measured: what a board found out about its own mechanics, kept in its state folder and laid over its profile."""

from __future__ import annotations

import json
import logging
import tempfile
import zlib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from edge_app.errors import StateUnusable
from edge_app.mechanics import Mechanics
from edge_app.whole import write_whole
from firmware.microscope import axis_identity
from firmware.profile import AxisProfile, BoardProfile
from firmware.table import Table, explain

_MARGIN_UM = 0.5
_MARGIN_SHARE = 1.1

Interval = tuple[float, float]
_log = logging.getLogger(__name__)


class Measured(Table):
    """A board's mechanics, as `Mechanics`; `of` names the board file's axis that they were measured on."""

    of: str
    at: str
    model: str
    direction: Literal[1, -1]
    backlash_um: float = Field(ge=0)
    backlash_ci_um: Interval
    um_per_step: float = Field(gt=0)
    um_per_step_ci: Interval
    scans: int
    readings: int

    def laid_over(self, axis: AxisProfile) -> AxisProfile:
        """The axis by its measured mechanics; an overshoot takes out the greatest likely play, and a little more."""
        overshoot_um = _MARGIN_SHARE * max(self.backlash_um, self.backlash_ci_um[1]) + _MARGIN_UM
        changed = {
            "direction": self.direction,
            "um_per_step": self.um_per_step,
            "backlash_um": overshoot_um,
            "nominal_um_per_step": axis.um_per_step_sent,
        }
        return axis.model_copy(update=changed)


def measured(found: Mechanics, profile: BoardProfile, model: str, at: str) -> Measured:
    """A scan's findings as a record. `profile` is the board file's own, `at` the date and time in ISO 8601."""
    return Measured(
        of=_key(profile),
        at=at,
        model=model,
        direction=1 if found.direction > 0 else -1,
        backlash_um=found.backlash_um,
        backlash_ci_um=found.backlash_ci_um,
        um_per_step=found.um_per_step,
        um_per_step_ci=found.um_per_step_ci,
        scans=found.scans,
        readings=found.readings,
    )


def store(record: Measured, profile: BoardProfile, folder: Path) -> Path:
    """Write a record so that it is there whole or not at all; gives its path.

    Raises:
        StateUnusable: The folder or the disk does not take it.
    """
    path = _path(profile, folder)
    try:
        write_whole(path, json.dumps(record.model_dump(mode="json"), indent=1) + "\n")
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def stored(profile: BoardProfile, folder: Path) -> Measured | None:
    """The record of a board; None if there is none, or, with a warning in the log, one that is of another axis.

    Raises:
        StateUnusable: It cannot be read.
    """
    path = _path(profile, folder)
    try:
        record = Measured.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise StateUnusable(
            f"{folder} is no folder, which a board needs to remember; name one with --state"
        ) from error
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        why = explain(error) if isinstance(error, ValidationError) else str(error)
        raise StateUnusable(
            f"the measured mechanics in {path} cannot be read ({why}); remove the file and run "
            "`parfocal calibrate mechanics` again"
        ) from error
    if record.of == _key(profile):
        return record
    _log.warning(
        "%s was measured with another step or direction in the board file: it is not used; "
        "run `parfocal calibrate mechanics` again",
        path,
    )
    return None


class Memory:
    """What one board measured of itself: laid over its file's profile, and kept in a folder if there is one."""

    def __init__(self, nominal: BoardProfile, folder: Path | None) -> None:
        self.folder = folder
        self._nominal = nominal
        self.record = None if folder is None else stored(nominal, folder)

    @property
    def profile(self) -> BoardProfile:
        """The board by its measured mechanics."""
        if self.record is None:
            return self._nominal
        return self._nominal.model_copy(update={"axis": self.record.laid_over(self._nominal.axis)})

    def check(self) -> None:
        """See that a record could be kept, before somebody measures for a minute. Raises as `store`."""
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.folder):
                    return
            except OSError as error:
                raise _unwritable(self.folder, error) from error

    def record_of(self, found: Mechanics, model: str, at: str) -> Measured:
        """A scan's findings on this board; `at` is the date and time in ISO 8601."""
        return measured(found, self._nominal, model, at)

    def keep(self, record: Measured) -> Path | None:
        """Go by these mechanics from now on; gives the file that they are kept in. Raises as `store`."""
        path = None if self.folder is None else store(record, self._nominal, self.folder)
        self.record = record
        return path


def _path(profile: BoardProfile, folder: Path) -> Path:
    return folder / f"{axis_identity(profile)}.mechanics.json"


def _key(profile: BoardProfile) -> str:
    """What was measured: the axis, what the board file says of its step, and the simulated world that it turns."""
    axis = profile.axis
    world = {name: value for name, value in (profile.simulation or {}).items() if name != "seed"}
    parts = (axis_identity(profile), axis.um_per_step_sent, axis.direction, sorted(world.items()))
    return f"{zlib.crc32(repr(parts).encode()):08x}"


def _unwritable(path: Path, error: OSError) -> StateUnusable:
    why = error.strerror or str(error)
    return StateUnusable(
        f"the measured mechanics cannot be written to {path} ({why}); the old ones still hold; free some space, "
        "correct the folder's owner, or choose another with --state"
    )
