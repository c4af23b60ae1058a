"""Calibration: on fresh draws sigma holds what it promises, however patches and frames err."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from edge_app.estimate import Calibration
from edge_app.patches import PatchGrid
from firmware.frames import FrameOptics
from model_export.calibrate import calibrate, calibrate_recipe
from model_export.conditions import Conditions
from model_export.errors import NoData
from model_export.evaluate import Figures, score
from model_export.frames import Answered, Subject, Truth, frames_of
from model_export.recipe import Recipe, load_recipe
from model_export.teaching.defocus import Calibration as CalibrationFrames

GRID = PatchGrid(4, 6, 0, 0)
OPTICS = FrameOptics(numerical_aperture=0.75, pixel_um=0.1725)
Err = Callable[[np.random.Generator, float], np.ndarray]


def apart(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Every patch errs for itself."""
    return rng.normal(0, sigma, GRID.count)


def together(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Half of a patch's error is that of the whole frame."""
    return rng.normal(0, sigma * 0.7) + rng.normal(0, sigma * 0.7, GRID.count)


def tailed(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Some frames are far worse than they say, and so are some patches."""
    return np.asarray(sigma * (rng.standard_t(4) + rng.standard_t(4, GRID.count)) / 2)


def constant(rng: np.random.Generator, _: float) -> np.ndarray:
    """Frames err by some 0.3 um, whatever their patches say."""
    return rng.normal(0, 0.3) + rng.normal(0, 0.01, GRID.count)


ERRORS: dict[str, Err] = {"apart": apart, "together": together, "tailed": tailed, "constant": constant}


def frames(err: Err, seed: int, count: int, stated: float = 1.0, scale: float = 1.0) -> list[Answered]:
    """Frames whose patches state their sigma, `stated` times too large, and err."""
    rng = np.random.default_rng(seed)
    return [_frame(err, rng, stated, scale) for _ in range(count)]


def _frame(err: Err, rng: np.random.Generator, stated: float, scale: float) -> Answered:
    truth, sigma = rng.uniform(-9, 9) * scale, rng.uniform(0.1, 0.6) * scale
    mask = rng.uniform(size=GRID.count) < 0.8
    said = truth + scale * err(rng, sigma / scale)
    outputs = {"defocus_um": said[mask], "log_sigma": np.full(mask.sum(), np.log(sigma * stated))}
    patch_truth = np.full(GRID.count, truth, np.float32)
    return Answered(truth, patch_truth, np.ones(GRID.count, np.float32), mask, mask, outputs, GRID, OPTICS)


@lru_cache
def held(name: str) -> tuple[Calibration, Figures]:
    """A calibration on 200 frames, and the figures of 400 others under it."""
    calibration = calibrate(frames(ERRORS[name], 1, 200), 10.0)
    return calibration, score(frames(ERRORS[name], 2, 400), calibration)


@pytest.mark.parametrize("name", ERRORS)
def test_about_68_percent_of_the_frames_lie_within_one_sigma(name: str) -> None:
    assert 0.60 <= held(name)[1]["frame"]["coverage_68"] <= 0.76


@pytest.mark.parametrize("name", ERRORS)
def test_about_95_percent_of_the_frames_lie_within_two_sigma(name: str) -> None:
    assert 0.91 <= held(name)[1]["frame"]["coverage_95"] <= 0.98


@pytest.mark.parametrize("name", ["apart", "together", "tailed"])
def test_about_68_percent_of_the_patches_lie_within_one_sigma(name: str) -> None:
    assert 0.64 <= held(name)[1]["patch"]["coverage_68"] <= 0.72


def test_an_error_that_all_patches_share_makes_a_frame_less_certain() -> None:
    common, own = held("together")[0], held("apart")[0]
    assert common.floor_um + common.patch_share > 2 * (own.floor_um + own.patch_share)


def test_an_error_that_no_patch_knows_of_becomes_the_floor() -> None:
    assert held("constant")[0].floor_um == pytest.approx(0.3, rel=0.3)


def test_specimens_whose_thickness_costs_accuracy_are_doubted_the_more() -> None:
    thin, thick = frames(apart, 1, 100), frames(constant, 2, 100)
    for mixed, thickness_um in ((thin, 0.0), (thick, 2.0)):
        for frame in mixed:
            frame.outputs["thickness_um"] = np.full(frame.informative.sum(), thickness_um, np.float32)
    calibration = calibrate(thin + thick, 10.0)
    assert 2 * calibration.thick_share == pytest.approx(0.3, rel=0.3)
    assert score(thin, calibration)["frame"]["coverage_95"] < 1.0


@pytest.mark.parametrize("stated", [0.5, 2.0])
def test_a_network_that_misjudges_itself_is_put_right(stated: float) -> None:
    assert calibrate(frames(apart, 1, 100, stated), 10.0).patch_scale == pytest.approx(1 / stated, rel=0.06)


def test_a_model_for_a_longer_range_is_calibrated_on_its_scale() -> None:
    short, long = calibrate(frames(together, 1, 60), 10.0), calibrate(frames(together, 1, 60, scale=4.0), 40.0)
    assert long.patch_share == pytest.approx(short.patch_share, rel=0.01)
    assert long.floor_um == pytest.approx(4 * short.floor_um, rel=0.01, abs=2e-3)


def small(**changes: object) -> Recipe:
    """A recipe whose calibration frames are few and small."""
    few = CalibrationFrames(specimens=2, depths=2, frame_px=(448, 448))
    return load_recipe("spectral_20x").model_copy(update={"calibration": few} | changes)


def silent(counts: np.ndarray) -> dict[str, np.ndarray]:
    zeros = np.zeros(len(counts), np.float32)
    return {"defocus_um": zeros, "log_sigma": zeros}


SILENT = Subject(silent, 0, 0.018)


def test_measured_objectives_are_calibrated_apart_from_others() -> None:
    told: list[tuple[int, int]] = []
    table = calibrate_recipe(small(), SILENT, lambda done, total: told.append((done, total)))
    assert table.known != table.unknown
    assert told[-1] == (8, 8)


def test_calibration_frames_are_thick_and_in_the_middle_of_a_measured_objectives_tolerance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from model_export import calibrate as module

    drawn: list[Conditions] = []

    def spied(conditions: Conditions, *rest: Any) -> Iterator[Truth]:
        drawn.append(conditions)
        return frames_of(conditions, *rest)

    monkeypatch.setattr(module, "frames_of", spied)
    recipe = small()
    calibrate_recipe(recipe, SILENT, lambda *_: None)
    known, unknown = recipe.conditions
    assert [known.known, unknown.known] == [True, False]
    assert drawn == [known.thicker().middle(0.5), unknown.thicker()]


def test_a_recipe_of_one_kind_of_objective_uses_its_frames_for_both() -> None:
    only = small(conditions=load_recipe("ldse_net_20x").conditions)
    table = calibrate_recipe(only, SILENT, lambda *_: None)
    assert table.known == table.unknown


def test_frames_that_show_nothing_cannot_calibrate() -> None:
    first = small().conditions[0]
    blank = first.model_copy(update={"slide": first.slide.model_copy(update={"kinds": {"blank": 1.0}})})
    with pytest.raises(NoData, match="no calibration frame shows anything"):
        calibrate_recipe(small(conditions=(blank,)), SILENT, lambda *_: None)
