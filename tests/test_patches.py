"""Cutting and rejecting: the grid covers what it says, and blank is told from content at any defocus."""

import numpy as np
import pytest

from edge_app.errors import GridTooLarge
from edge_app.patches import PatchGrid, RegionOfInterest, content
from firmware.optics import Optics, PupilTable, Sensor
from firmware.rendering import make_slide, render


def test_a_full_sensor_gives_88_patches() -> None:
    grid = PatchGrid.fit(1944, 2592)
    assert (grid.rows, grid.columns, grid.count) == (8, 11, 88)


def test_the_grid_sits_in_the_middle() -> None:
    grid = PatchGrid.fit(500, 700)
    assert (grid.top_px, grid.left_px) == (26, 14)


def test_patches_are_the_pixels_of_their_place() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (480, 700, 3), dtype=np.uint8)
    grid = PatchGrid.fit(480, 700)
    patches = grid.cut(rgb)
    top, left = grid.top_px + 224, grid.left_px + 2 * 224
    assert np.array_equal(patches[grid.columns + 2], rgb[top : top + 224, left : left + 224])


def test_cutting_some_patches_gives_those_of_cutting_all() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (448, 896, 3), dtype=np.uint8)
    grid = PatchGrid.fit(448, 896)
    keep = np.array([1, 0, 0, 1, 0, 1, 1, 0], bool)
    assert np.array_equal(grid.cut(rgb, keep), grid.cut(rgb)[keep])


def test_a_region_limits_the_grid_to_itself() -> None:
    grid = PatchGrid.fit(1944, 2592, roi=RegionOfInterest(1000, 500, 460, 230))
    assert (grid.rows, grid.columns, grid.top_px, grid.left_px) == (1, 2, 503, 1006)


@pytest.mark.parametrize("size", [(223, 400), (400, 100)])
def test_a_frame_smaller_than_a_patch_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(GridTooLarge, match="does not fit"):
        PatchGrid.fit(*size)


def test_a_region_outside_the_frame_is_refused() -> None:
    with pytest.raises(GridTooLarge, match="leaves the frame"):
        PatchGrid.fit(500, 500, roi=RegionOfInterest(300, 0, 300, 300))


@pytest.mark.parametrize("defocus_um", [0.0, 10.0, -10.0, 20.0])
def test_tissue_is_content_and_clear_glass_is_not_at_any_defocus(defocus_um: float) -> None:
    table = PupilTable(Optics(), 21.0)
    for kind, expected in (("tissue", True), ("blank", False)):
        slide = make_slide(kind, (3,), table, 448, 448)
        rgb = render(slide, table, lambda _x, _y: defocus_um, Sensor(), (1,)).astype(np.uint8)
        assert content(rgb, PatchGrid.fit(448, 448)).informative.any() == expected


def test_a_dim_lamp_and_its_noise_are_not_content() -> None:
    table = PupilTable(Optics(), 1.0)
    slide = make_slide("blank", (3,), table, 448, 448, margin_um=4.0)
    rgb = render(slide, table, lambda _x, _y: 0.0, Sensor(exposure=0.15), (1,)).astype(np.uint8)
    assert not content(rgb, PatchGrid.fit(448, 448)).informative.any()


def test_blown_out_patches_are_not_asked_about() -> None:
    rgb = np.full((224, 224, 3), 255, np.uint8)
    rgb[:40] = 100
    assert not content(rgb, PatchGrid.fit(224, 224)).informative.any()
