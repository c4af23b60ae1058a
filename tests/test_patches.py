"""Cutting and rejecting: the grid covers what it says, and blank is told from content at any defocus."""

import numpy as np
import pytest

from edge_app.errors import GridTooLarge
from edge_app.patches import Content, PatchGrid, RegionOfInterest, chosen, content
from firmware.optics import Optics, PupilTable
from firmware.rendering import make_slide, render
from firmware.sensor import Sensor


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


FULL = PatchGrid(8, 11, 0, 0)


def shown(grid: PatchGrid, contrast: np.ndarray) -> Content:
    """Patches of a given contrast (N,), all well lit."""
    return Content(contrast.astype(np.float32), np.full(grid.count, 200, np.float32), np.zeros(grid.count, np.float32))


def varied(grid: PatchGrid, seed: int = 0) -> Content:
    return shown(grid, np.random.default_rng(seed).uniform(0.1, 0.5, grid.count))


def per_block(mask: np.ndarray, grid: PatchGrid, side: int) -> np.ndarray:
    """How many of a mask's patches lie in every block of a grid."""
    image = np.pad(mask.reshape(grid.rows, grid.columns), ((0, -grid.rows % side), (0, -grid.columns % side)))
    blocks = image.reshape(image.shape[0] // side, side, -1, side)
    return np.asarray(blocks.sum(axis=(1, 3)))


@pytest.mark.parametrize("seen", [varied(FULL), shown(FULL, np.full(88, 0.3))], ids=["varied", "all alike"])
def test_two_of_every_four_are_asked_where_all_show_something(seen: Content) -> None:
    kept = per_block(chosen(seen, FULL, 48), FULL, 2)
    assert kept.shape == (4, 6)
    assert (kept == 2).all()


def test_those_with_most_contrast_are_asked() -> None:
    contrast = np.full(88, 0.1)
    contrast[[0, 12]] = 0.4
    kept = chosen(shown(FULL, contrast), FULL, 48)
    assert kept[[0, 12]].all()
    assert not kept[[1, 11]].any()


def test_all_are_asked_where_few_show_something() -> None:
    contrast = np.zeros(88)
    contrast[:44] = 0.3
    seen = shown(FULL, contrast)
    assert np.array_equal(chosen(seen, FULL, 48), seen.informative)


def test_all_are_asked_of_a_model_without_a_limit() -> None:
    assert chosen(varied(FULL), FULL).all()


def test_blank_patches_are_never_asked() -> None:
    contrast = np.random.default_rng(1).uniform(0.1, 0.5, 88)
    contrast[::4] = 0.0
    seen = shown(FULL, contrast)
    assert not (chosen(seen, FULL, 30) & ~seen.informative).any()


@pytest.mark.parametrize(("rows", "columns"), [(8, 11), (13, 18), (9, 9), (1, 60), (30, 40)])
@pytest.mark.parametrize("at_most", [1, 2, 7, 48])
def test_never_more_are_asked_than_a_model_wants(rows: int, columns: int, at_most: int) -> None:
    grid = PatchGrid(rows, columns, 0, 0)
    assert 1 <= chosen(varied(grid), grid, at_most).sum() <= at_most


def test_a_large_frame_is_asked_all_over() -> None:
    grid = PatchGrid(13, 18, 0, 0)
    assert (per_block(chosen(varied(grid), grid, 48), grid, 6) > 0).all()


def test_choosing_again_chooses_the_same() -> None:
    first, again = (chosen(varied(FULL, 3), FULL, 48) for _ in range(2))
    assert np.array_equal(first, again)
