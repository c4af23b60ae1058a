"""few_shot on recorded stacks: the curve from another stack, from the stack itself, or from every second slice."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from edge_app.errors import BadRequest
from edge_app.model import ModelSource
from edge_app.replay import replay
from edge_app.replay_curve import CurveWish, half, record_curve, whole
from firmware.stacks import open_stack

BEST = 10
DATA = Path(__file__).parents[2] / "shared" / "data"


def stack(folder: Path, name: str = "specimen", seed: int = 8, count: int = 21) -> Path:
    """A textured specimen, blurred the more the farther a slice lies from `BEST`."""
    noise = np.random.default_rng(seed).normal(0, 1, (280, 410)).astype(np.float32)
    grain = cv2.GaussianBlur(noise, (0, 0), 1.0) * 2 + cv2.GaussianBlur(noise, (0, 0), 12) * 12
    pixels = [cv2.GaussianBlur(grain, (0, 0), 0.4 + 0.6 * abs(k - BEST)) for k in range(count)]
    counts = np.clip(130 + 25 * np.array(pixels), 0, 255).astype(np.uint8)
    tifffile.imwrite(folder / f"{name}.tif", counts, photometric="minisblack")
    return folder / f"{name}.tif"


def nobody(*_: object) -> None:
    return


def test_a_curve_is_read_off_a_recorded_stack(tmp_path: Path) -> None:
    curve = record_curve(whole(open_stack(stack(tmp_path))), ModelSource("deepfocus"))
    assert curve.z_um[int(curve.score.argmin())] == pytest.approx(0.0, abs=0.6)
    assert len(curve.z_um) == 21


def test_a_stack_is_focused_by_the_curve_of_another(tmp_path: Path) -> None:
    tested, other = stack(tmp_path), stack(tmp_path, "other", seed=9)
    result = replay(tested, "few_shot", None, 2.0, "deepfocus", CurveWish(other), nobody)
    ends = [row["end_index"] for row in result["starts"] if row["ending"] == "FOCUSED"]
    assert result["curve"]["of"] == "other.tif"
    assert len(ends) >= 15
    assert all(abs(end - BEST) <= 1 for end in ends)


def test_held_out_slices_are_the_only_ones_focused(tmp_path: Path) -> None:
    result = replay(stack(tmp_path), "few_shot", None, None, "deepfocus", CurveWish(hold_out=True), nobody)
    assert result["curve"]["slices"] == 11
    assert [row["start_index"] for row in result["starts"]] == list(range(1, 21, 2))
    assert {row["end_index"] % 2 for row in result["starts"]} == {1}


def test_without_a_curve_every_start_stays_and_says_why(tmp_path: Path) -> None:
    result = replay(stack(tmp_path, count=7), "few_shot", None, None, "deepfocus", None, nobody)
    assert {row["ending"] for row in result["starts"]} == {"STAYED"}
    assert "parfocal calibrate focus" in result["starts"][0]["sentence"]


def test_a_stack_without_structure_gives_no_curve(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "grey.tif", np.full((9, 280, 410), 120, np.uint8), photometric="minisblack")
    with pytest.raises(BadRequest, match="grey gives no focus curve: no patch shows any structure"):
        replay(tmp_path / "grey.tif", "few_shot", None, None, "deepfocus", CurveWish(), nobody)


def test_half_a_stack_keeps_its_positions_and_what_is_known_of_it(tmp_path: Path) -> None:
    recorded = open_stack(stack(tmp_path), None, 2.0)
    odd = half(recorded, 1, tmp_path)
    assert odd.indices == list(range(1, 21, 2))
    assert odd.z_um == [2.0 * index for index in odd.indices]
    assert odd.nearest(7.0) in (3, 5)
    assert odd.profile.axis.um_per_step == pytest.approx(4.0)


@pytest.mark.skipif(not DATA.is_dir(), reason="the recorded stacks are not here")
@pytest.mark.parametrize(("curve_of", "focused"), [("A01", "A02"), ("A02", "A01")])
def test_an_organoid_well_is_focused_from_every_slice_by_the_curve_of_another(curve_of: str, focused: str) -> None:
    wish = CurveWish(DATA / f"organoid_evos_{curve_of}.tif")
    result = replay(DATA / f"organoid_evos_{focused}.tif", "few_shot", None, None, "deepfocus", wish, nobody)
    assert [row["end_index"] for row in result["starts"]] == [6] * 11


@pytest.mark.skipif(not DATA.is_dir(), reason="the recorded stacks are not here")
def test_a_bead_on_black_is_refused_before_the_model_is_asked() -> None:
    with pytest.raises(BadRequest, match="gives no focus curve: the frame is nearly black"):
        replay(
            DATA / "bead_widefield_na085.tif", "few_shot", None, None, "deepfocus", CurveWish(hold_out=True), nobody
        )
