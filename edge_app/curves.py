"""Curves: the focus curves that a board keeps in its state folder, one for each objective and model."""

from __future__ import annotations

import json
import tempfile
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError, model_validator

from edge_app.curve import FEWEST, FocusCurve
from edge_app.errors import StateUnusable
from edge_app.moffat import Moffat
from edge_app.whole import write_whole
from firmware.microscope import axis_identity
from firmware.profile import BoardProfile, Objective
from firmware.table import Table, explain

ENDING = ".curve.json"
_AGAIN = "run `parfocal calibrate focus` again"


class _Dip(Table):
    """A Moffat function as it is kept."""

    base: float
    height: float = Field(gt=0)
    alpha_um: float = Field(gt=0)
    beta: float = Field(gt=0)
    centre_um: float


class _Kept(Table):
    """A curve as it is kept; `of` names the optics that it was recorded through."""

    of: str
    objective: str
    model: str
    model_sha256: str
    at: str
    explained: float
    width_um: float
    fitted: _Dip
    z_um: tuple[float, ...] = Field(min_length=FEWEST)
    score: tuple[float, ...] = Field(min_length=FEWEST)

    @model_validator(mode="after")
    def _is_a_curve(self) -> _Kept:
        if len(self.z_um) != len(self.score):
            raise ValueError("z_um and score are not of one length")
        if any(after <= before for before, after in pairwise(self.z_um)):
            raise ValueError("z_um does not rise")
        return self

    def curve(self) -> FocusCurve:
        """The curve itself."""
        return FocusCurve(
            z_um=np.asarray(self.z_um),
            score=np.asarray(self.score),
            fitted=Moffat(**self.fitted.model_dump()),
            explained=self.explained,
            objective=self.objective,
            model=self.model,
            model_sha256=self.model_sha256,
            at=self.at,
        )


class Curves:
    """What one board knows of how its models' scores rise on both sides of focus.

    Without a folder a curve lasts as long as this object.
    """

    def __init__(self, profile: BoardProfile, folder: Path | None) -> None:
        self.folder = folder
        self._profile = profile
        self._known: dict[tuple[str, str], FocusCurve | None] = {}

    def known(self, objective: Objective, model_sha256: str) -> FocusCurve | None:
        """The curve for an objective and a model; None if it was never recorded, or through other optics.

        Raises:
            StateUnusable: It cannot be read.
        """
        key = (objective.name, model_sha256)
        if key not in self._known:
            self._known[key] = None if self.folder is None else self._read(objective, model_sha256)
        return self._known[key]

    def keep(self, curve: FocusCurve) -> Path | None:
        """Go by this curve from now on; gives the file that it is kept in.

        Raises:
            StateUnusable: The folder or the disk does not take it; the old one still holds.
        """
        objective = next(o for o in self._profile.objective if o.name == curve.objective)
        path = None
        if self.folder is not None:
            path = self._path(objective, curve.model_sha256)
            try:
                write_whole(path, json.dumps(self._kept(curve, objective).model_dump(mode="json"), indent=1) + "\n")
            except OSError as error:
                raise _unwritable(path, error) from error
        self._known[objective.name, curve.model_sha256] = curve
        return path

    def check(self) -> None:
        """See that a curve could be kept, before somebody records a stack. Raises as `keep`."""
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.folder):
                    return
            except OSError as error:
                raise _unwritable(self.folder, error) from error

    def _kept(self, curve: FocusCurve, objective: Objective) -> _Kept:
        dip = curve.fitted
        return _Kept(
            of=self._optics(objective),
            objective=curve.objective,
            model=curve.model,
            model_sha256=curve.model_sha256,
            at=curve.at,
            explained=curve.explained,
            width_um=curve.width_um,
            fitted=_Dip(
                base=dip.base, height=dip.height, alpha_um=dip.alpha_um, beta=dip.beta, centre_um=dip.centre_um
            ),
            z_um=tuple(curve.z_um.tolist()),
            score=tuple(curve.score.tolist()),
        )

    def _read(self, objective: Objective, model_sha256: str) -> FocusCurve | None:
        path = self._path(objective, model_sha256)
        try:
            kept = _Kept.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            why = explain(error) if isinstance(error, ValidationError) else str(error)
            raise StateUnusable(
                f"the focus curve in {path} cannot be read ({why}); remove the file and {_AGAIN}"
            ) from error
        right = kept.of == self._optics(objective) and kept.model_sha256 == model_sha256
        return kept.curve() if right else None

    def _path(self, objective: Objective, model_sha256: str) -> Path:
        assert self.folder is not None
        which = zlib.crc32(f"{objective.name}\n{model_sha256}".encode())
        return self.folder / f"{axis_identity(self._profile)}.{which:08x}{ENDING}"

    def _optics(self, objective: Objective) -> str:
        """What a curve is recorded through: the objective, and the pixel behind it, as the board file has them."""
        optics = self._profile.frame_optics(objective)
        parts = (optics.numerical_aperture, optics.pixel_um, optics.immersion_index, optics.colour, optics.contrast)
        return f"{zlib.crc32(repr(parts).encode()):08x}"


def _unwritable(path: Path, error: OSError) -> StateUnusable:
    why = error.strerror or str(error)
    return StateUnusable(
        f"the focus curve cannot be written to {path} ({why}); the old one still holds; free some space, correct the "
        "folder's owner, or choose another with --state"
    )
