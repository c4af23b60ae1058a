"""The classical measures on recorded stacks: what is told of each curve, and what the data of others show."""

from __future__ import annotations

import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from rich.console import Console
from typer.testing import CliRunner

from edge_app.measures import MEASURES
from edge_app.replay import replay
from firmware.errors import StackError
from firmware.stacks import open_stack
from model_export.cli import app
from model_export.measuring import SHORT, measure_stack, shape, show

DATA = Path(__file__).parents[2] / "shared" / "data"
recorded = pytest.mark.skipif(not DATA.is_dir(), reason="the recorded stacks are not here")
YEAST = ["yeast_baby_evolve_testA", "yeast_baby_evolve_testD", "yeast_baby_prime95b_testC_tp1"]


def write(path: Path, best: int = 4, falling: bool = False, **notes: Any) -> Path:
    """A stack of nine slices, sharpest at `best`, 0.5 um apart, with notes beside it."""
    noise = np.random.default_rng(2).normal(0, 1, (96, 96))
    pixels = [120 + 114 * cv2.GaussianBlur(noise, (0, 0), 0.9 + 0.7 * abs(k - best)) for k in range(9)]
    tifffile.imwrite(path, np.clip(pixels, 0, 255).astype(np.uint8), photometric="minisblack")
    step_um = -0.5 if falling else 0.5
    Path(f"{path}.json").write_text(json.dumps({"z_step_um": step_um, **notes}))
    return path


def told(path: Path, smooth_px: float = 0.0, aperture: float | None = None) -> dict[str, Any]:
    return measure_stack(open_stack(path), smooth_px, aperture, lambda: None)


@lru_cache
def told_of(name: str, smooth_px: float = 1.0) -> dict[str, Any]:
    return told(DATA / f"{name}.tif", smooth_px)


def mirrored(name: str, folder: Path) -> Path:
    """A recorded stack continued by its mirror image, so that a patch of 224 pixels fits."""
    pixels = tifffile.imread(DATA / f"{name}.tif")
    missing = [(0, max(0, 224 - side)) for side in pixels.shape[1:3]]
    path = folder / f"{name}.tif"
    tifffile.imwrite(path, np.pad(pixels, [(0, 0), *missing], mode="symmetric"), photometric="minisblack")
    return path


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0, 1, 4, 9, 5, 2], "peak"),
        ([9, 5, 1, 2, 6], "dip"),
        ([1, 2, 3, 4], "slope"),
        ([4, 3, 1], "slope"),
        ([0, 5, 1, 6, 0], "several"),
        ([0, 5, 4.8, 9, 0.2, 0], "peak"),
        ([10, 10.05, 10], "flat"),
        ([0, 0, 0], "flat"),
    ],
)
def test_a_curve_is_called_by_its_turns_and_small_ones_do_not_count(curve: list[float], expected: str) -> None:
    assert shape(np.array(curve, np.float64)) == expected


def test_the_slice_and_its_distance_are_told_in_slices_um_and_depths(tmp_path: Path) -> None:
    result = told(write(tmp_path / "a.tif", best=5, recommended_in_focus_index=3, numerical_aperture=0.75))
    brenner = result["measures"]["brenner"]
    assert (brenner["slice"], brenner["off_slices"], brenner["shape"]) == (5, 2, "peak")
    assert brenner["off_um"] == pytest.approx(1.0)
    assert brenner["off_depths"] == pytest.approx(1.0 / (0.535 / 0.75**2))
    assert max(brenner["curve"]) == brenner["curve"][5] == 1.0


def test_distances_run_along_rising_z_whatever_the_files_order(tmp_path: Path) -> None:
    result = told(write(tmp_path / "a.tif", best=5, falling=True, recommended_in_focus_index=3))
    brenner = result["measures"]["brenner"]
    assert (brenner["slice"], brenner["off_slices"]) == (5, -2)
    assert brenner["off_um"] == pytest.approx(-1.0)
    assert brenner["off_depths"] is None
    assert result["z"] == sorted(result["z"])


def test_an_aperture_that_is_given_stands_in_for_one_that_is_not_stated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", recommended_in_focus_index=4)
    assert told(path)["depth_of_field_um"] is None
    assert told(path, aperture=0.5)["depth_of_field_um"] == pytest.approx(2.14)


def test_without_a_recommended_slice_only_the_found_one_is_told(tmp_path: Path) -> None:
    result = told(write(tmp_path / "a.tif"))
    assert result["recommended"] is None
    assert result["measures"]["brenner"]["off_slices"] is None
    assert result["measures"]["brenner"]["slice"] == 4


def test_smoothing_comes_before_the_measures(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif")
    noisy = tifffile.imread(path) + np.random.default_rng(0).integers(0, 60, (9, 96, 96), dtype=np.uint8)
    noisy[8] = np.random.default_rng(1).integers(60, 180, (96, 96), dtype=np.uint8)
    tifffile.imwrite(path, noisy, photometric="minisblack")
    assert told(path)["measures"]["laplacian"]["slice"] == 8
    assert told(path, smooth_px=3.0)["measures"]["laplacian"]["slice"] != 8


@pytest.mark.parametrize("shape_px", [(2, 64, 64), (5, 15, 64)])
def test_a_stack_that_makes_no_curve_is_refused(tmp_path: Path, shape_px: tuple[int, int, int]) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros(shape_px, np.uint8), photometric="minisblack")
    with pytest.raises(StackError, match="a curve needs three slices"):
        told(path)


@pytest.mark.parametrize("wrong", [9, -1, "middle"])
def test_a_recommended_slice_that_cannot_be_is_refused(tmp_path: Path, wrong: object) -> None:
    with pytest.raises(StackError, match="recommended_in_focus_index"):
        told(write(tmp_path / "a.tif", recommended_in_focus_index=wrong))


def test_every_measure_has_a_short_name() -> None:
    assert list(SHORT) == list(MEASURES)
    assert len(set(SHORT.values())) == len(SHORT) == 15


def test_the_table_tells_offsets_marks_and_units(tmp_path: Path) -> None:
    near = told(write(tmp_path / "near.tif", best=5, recommended_in_focus_index=3))
    alone = told(write(tmp_path / "alone.tif", best=5))
    out = io.StringIO()
    show([near, alone], Console(file=out))
    lines = out.getvalue().splitlines()
    in_slices, in_um = (next(line for line in lines[start:] if "near" in line) for start in (0, 6))
    assert in_slices.split("|")[2].strip() == "+2"
    assert in_um.split("|")[2].strip() == "+1"
    assert next(line for line in lines if "alone" in line).split("|")[2].strip() == "(5)"
    assert "depths" not in out.getvalue()


def test_the_command_prints_tables_or_one_document(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", recommended_in_focus_index=4)
    table = CliRunner().invoke(app, ["measures", str(path)])
    document = CliRunner().invoke(app, ["measures", str(path), "--json"])
    assert "off by, slices" in table.stdout
    assert json.loads(document.stdout)["stacks"][0]["measures"]["tenengrad"]["off_slices"] == 0


@recorded
@pytest.mark.parametrize("name", ["organoid_evos_A01", "organoid_evos_A02", "pseudoscorpion_transmitted"])
def test_what_absorbs_is_found_by_all_but_entropy_within_a_slice(name: str) -> None:
    off = {measure: abs(of["off_slices"]) for measure, of in told_of(name)["measures"].items()}
    assert off.pop("entropy") > 5
    assert max(off.values()) <= 1


@recorded
@pytest.mark.parametrize("name", ["bead_widefield_na085", "lightsheet_mito_cell2"])
def test_what_glows_is_found_by_all_but_entropy_within_a_slice(name: str) -> None:
    off = {measure: abs(of["off_slices"]) for measure, of in told_of(name)["measures"].items()}
    assert off.pop("entropy") > 5
    assert max(off.values()) <= 1


@recorded
@pytest.mark.parametrize("name", YEAST)
def test_gradients_of_a_thin_phase_object_dip_where_the_others_say_that_it_is_in_focus(name: str) -> None:
    result = told_of(name)
    for measure in ("brenner", "tenengrad", "vollath_f4", "variance"):
        of = result["measures"][measure]
        assert of["off_slices"] != 0
        assert (of["shape"], of["lowest"]) in {("dip", result["recommended"]), ("several", result["recommended"])}


@recorded
@pytest.mark.parametrize("name", YEAST)
def test_on_a_thin_phase_object_the_sweep_says_that_there_is_no_peak_and_goes_back(name: str, tmp_path: Path) -> None:
    stack = mirrored(name, tmp_path)
    runs = replay(stack, "sweep", None, None, "factory", None, lambda _done, _of, _word: None)["starts"]
    assert {(run["verdict"], run["ending"]) for run in runs} == {("OUT_OF_RANGE", "RETURNED")}
    assert all(run["end_index"] == run["start_index"] for run in runs)


def test_the_green_channel_of_a_colour_stack_is_what_is_measured(tmp_path: Path) -> None:
    pixels = np.full((3, 32, 32, 3), 100, np.uint8)
    pixels[:, :, 16:, 0] = 200
    pixels[1, :, 16:, 1] = 200
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    result = told(tmp_path / "a.tif")["measures"]["brenner"]
    assert (result["slice"], result["curve"]) == (1, [0.0, 1.0, 0.0])
