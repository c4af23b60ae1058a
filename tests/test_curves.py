"""Curves on the board: kept whole, found again for the same objective and model, and never used for others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_app.curve import FocusCurve, NoCurve, curve_of
from edge_app.curves import Curves
from edge_app.errors import StateUnusable
from firmware.profile import BoardProfile, load_profile

SHA = "ab" * 32


def a_curve(objective: str = "20x") -> FocusCurve:
    z = np.linspace(-7.6, 7.6, 33)
    found = curve_of(z, (np.hypot(z, 1.0) / 8)[:, None], objective, "deepfocus@1", SHA, "2026-01-02T03:04:05+00:00")
    assert not isinstance(found, NoCurve)
    return found[0]


def board(numerical_aperture: float = 0.75) -> BoardProfile:
    profile = load_profile("simulated")
    first = profile.objective[0].model_copy(update={"numerical_aperture": numerical_aperture})
    return profile.model_copy(update={"objective": (first, *profile.objective[1:])})


def test_a_kept_curve_is_there_after_a_restart(tmp_path: Path) -> None:
    profile, curve = board(), a_curve()
    path = Curves(profile, tmp_path).keep(curve)
    again = Curves(profile, tmp_path).known(profile.objective[0], SHA)
    assert path is not None
    assert path.is_file()
    assert again is not None
    assert again.score.tolist() == curve.score.tolist()
    assert (again.width_um, again.model, again.at) == (curve.width_um, "deepfocus@1", curve.at)


def test_a_curve_is_for_one_objective_and_one_model(tmp_path: Path) -> None:
    profile = board()
    curves = Curves(profile, tmp_path)
    curves.keep(a_curve())
    assert curves.known(profile.objective[1], SHA) is None
    assert curves.known(profile.objective[0], "cd" * 32) is None
    other = curves.keep(a_curve("10x"))
    assert other is not None
    assert len(list(tmp_path.iterdir())) == 2


def test_an_objective_that_became_another_has_no_curve(tmp_path: Path) -> None:
    Curves(board(), tmp_path).keep(a_curve())
    changed = board(numerical_aperture=0.5)
    assert Curves(changed, tmp_path).known(changed.objective[0], SHA) is None


def test_without_a_folder_a_curve_lasts_as_long_as_the_process() -> None:
    profile = board()
    curves = Curves(profile, None)
    assert curves.keep(a_curve()) is None
    assert curves.known(profile.objective[0], SHA) is not None
    assert Curves(profile, None).known(profile.objective[0], SHA) is None


@pytest.mark.parametrize("damage", ["", "{", '{"of": 1}', "wrong order", "one short"])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    profile = board()
    path = Curves(profile, tmp_path).keep(a_curve())
    assert path is not None
    text = json.loads(path.read_text(encoding="utf-8"))
    if damage == "wrong order":
        text["z_um"].reverse()
    elif damage == "one short":
        text["score"].pop()
    path.write_text(json.dumps(text) if " " in damage and "of" not in damage else damage, encoding="utf-8")
    with pytest.raises(StateUnusable, match="remove the file and run `parfocal calibrate focus` again"):
        Curves(profile, tmp_path).known(profile.objective[0], SHA)


def test_what_cannot_be_written_leaves_the_old_curve(tmp_path: Path) -> None:
    profile = board()
    curves = Curves(profile, tmp_path)
    path = curves.keep(a_curve())
    assert path is not None
    before = path.read_bytes()
    path.unlink()
    path.mkdir()
    with pytest.raises(StateUnusable, match="cannot be written"):
        curves.keep(replace(a_curve(), at="later"))
    known = curves.known(profile.objective[0], SHA)
    assert known is not None
    assert known.at != "later"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert before


def test_a_folder_that_is_a_file_is_found_out_before_anybody_records(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("x")
    with pytest.raises(StateUnusable, match="cannot be written"):
        Curves(board(), tmp_path / "state").check()
