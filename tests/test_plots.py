"""The pictures of an evaluation: three files, drawn of whatever was answered."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_app.estimate import Calibration
from edge_app.patches import PatchGrid
from firmware.frames import FrameOptics
from model_export.frames import Answered

pytest.importorskip("torch", reason="model_export needs torch")
GRID = PatchGrid(2, 3, 0, 0)
PLAIN = Calibration(10.0, floor_um=0.1)


def answered(truth_um: float, said_um: float, informative: bool = True, **others: float) -> Answered:
    mask = np.full(6, informative)
    told = {"defocus_um": said_um, "log_sigma": -1.0} | others
    outputs = {name: np.full(6, value, np.float32) for name, value in told.items()} if informative else {}
    truth = np.full(6, truth_um, np.float32)
    return Answered(truth_um, truth, np.ones(6, np.float32), mask, mask, outputs, GRID, FrameOptics())


def drawn(frames: list[Answered], folder: Path) -> dict[str, np.ndarray]:
    from model_export.plots import draw

    paths = draw(frames, PLAIN, "a model on a set", folder / "new")
    return {path.name: np.asarray(cv2.imread(str(path))) for path in paths}


def test_three_pictures_show_something(tmp_path: Path) -> None:
    pictures = drawn([answered(z, z + 0.1) for z in (-3.0, 1.0, 4.0)], tmp_path)
    assert set(pictures) == {"error.png", "calibration.png", "map.png"}
    assert all(picture.shape == (495, 990, 3) and picture.std() > 5 for picture in pictures.values())


def test_other_answers_give_other_pictures(tmp_path: Path) -> None:
    good, bad = (drawn([answered(-3.0, -3.0), answered(3.0, z)], tmp_path) for z in (3.1, -5.0))
    assert all(not np.array_equal(good[name], bad[name]) for name in good)


def test_frames_that_show_nothing_are_left_out(tmp_path: Path) -> None:
    with_blank = drawn([answered(3.0, 3.5), answered(2.0, 2.1), answered(1.0, 0.0, informative=False)], tmp_path)
    without = drawn([answered(3.0, 3.5), answered(2.0, 2.1)], tmp_path)
    assert np.array_equal(with_blank["error.png"], without["error.png"])


def test_a_frame_whose_side_does_not_show_is_drawn_with_its_best_guess(tmp_path: Path) -> None:
    torn = drawn([answered(-3.0, -3.0, side=0.0, distance_um=3.0), answered(2.0, 2.0)], tmp_path)
    plain = drawn([answered(-3.0, -3.0), answered(2.0, 2.0)], tmp_path)
    assert np.array_equal(torn["error.png"], plain["error.png"])


def test_quantiles_are_those_of_a_normal_distribution() -> None:
    from model_export.plots import _normal_quantiles

    assert _normal_quantiles(np.array([0.6827, 0.9545, 0.95])) == pytest.approx([1.0, 2.0, 1.96], abs=0.01)
