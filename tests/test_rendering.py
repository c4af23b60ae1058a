"""Whole frames: tilt, seams, what lies beyond the slide's edge, and independence of the number of cores."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from firmware.optics import Floats, Optics, PupilTable, Sensor
from firmware.rendering import Slide, _piece, make_slide, render

STEADY = Sensor(full_well_e=1e7, read_noise_e=0.0, bits=16)


@lru_cache
def table() -> PupilTable:
    return PupilTable(Optics(), 12.0)


@lru_cache
def slide(height_px: int = 400, width_px: int = 900) -> Slide:
    return make_slide("tissue", (1, 2), table(), height_px, width_px, margin_um=14.0)


def level(defocus_um: float) -> NDArray[np.float64]:
    """The tissue at one defocus all over, nearly without noise."""
    return render(slide(), table(), lambda _x, _y: defocus_um, STEADY, (3,)).astype(np.float64)


def sharpness(rgb: NDArray[np.float64]) -> float:
    return float(np.square(np.diff(rgb[..., 1], axis=1)).mean() / rgb[..., 1].mean() ** 2)


@pytest.mark.parametrize("cores", [1, 2, 7])
def test_a_frame_does_not_depend_on_the_number_of_cores(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = render(slide(), table(), lambda x, _y: x / 50, Sensor(), (3, 4))
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert np.array_equal(render(slide(), table(), lambda x, _y: x / 50, Sensor(), (3, 4)), expected)


def test_another_seed_gives_other_noise_on_the_same_specimen() -> None:
    one, other = (render(slide(), table(), lambda _x, _y: 1.0, Sensor(), (seed,)) for seed in (1, 2))
    difference = one.astype(np.float64) - other
    assert 1.0 < difference.std() < 6.0
    assert abs(difference.mean()) < 0.1


def test_a_frame_has_the_shape_and_depth_of_its_camera() -> None:
    narrow = make_slide("smear", (5,), table(), 130, 250)
    assert render(narrow, table(), lambda _x, _y: 0.0, Sensor(), (1,)).shape == (130, 250, 3)
    assert render(narrow, table(), lambda _x, _y: 0.0, Sensor(bits=12), (1,)).dtype == np.uint16


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_a_tilt_leaves_the_edge_sharp_that_lies_in_focus(slope: float) -> None:
    half_um = slide().width_px * table().optics.pixel_um / 2
    tilted = render(slide(), table(), lambda x, _y: 5.0 * (1 + slope * x / half_um), STEADY, (3,)).astype(float)
    in_focus, left, right = level(0.0), slice(0, 200), slice(-200, None)
    lost_left, lost_right = (sharpness(tilted[:, s]) / sharpness(in_focus[:, s]) for s in (left, right))
    assert (lost_left > 2 * lost_right) == (slope > 0)
    assert (lost_right > 2 * lost_left) == (slope < 0)


def test_a_tilt_along_y_runs_from_top_to_bottom() -> None:
    seen: list[float] = []

    def defocus_at(_x_um: float, y_um: float) -> float:
        seen.append(y_um)
        return 0.0

    render(slide(900, 300), table(), defocus_at, STEADY, (3,))
    assert min(seen) == pytest.approx(-max(seen), rel=0.2)
    assert max(seen) == pytest.approx(450 * table().optics.pixel_um, rel=0.01)


def test_seams_between_tiles_are_fainter_than_a_cameras_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    in_tiles = level(3.0)
    monkeypatch.setattr("firmware.rendering._CORE_PX", 900)
    noise = 65535 * np.sqrt(0.5 / Sensor().full_well_e)
    assert np.abs(in_tiles - level(3.0)).max() < noise


def test_inside_the_slide_a_piece_is_the_slide_itself() -> None:
    light = numbered(40, 60)
    assert np.array_equal(_piece(light, (4, 8), 24, 4, 4), light[:, 4:28, 8:32])


def test_beyond_its_edges_the_slide_is_mirrored() -> None:
    light = numbered(8, 8)
    piece = _piece(light, (-3, -3), 14, 1, 1)
    mirrored = np.pad(light, ((0, 0), (3, 3), (3, 3)), mode="symmetric")
    assert np.array_equal(piece, mirrored)


def numbered(height: int, width: int) -> Floats:
    return np.arange(3 * height * width, dtype=np.float32).reshape(3, height, width)


def test_a_defocus_beyond_the_tables_reach_shows_its_end() -> None:
    small = make_slide("tissue", (1,), table(), 120, 120)
    far, end = (
        render(small, table(), lambda _x, _y, at=at: at, STEADY, (1,))  # type: ignore[misc]
        for at in (30.0, 12.0)
    )
    assert np.array_equal(far, end)


def test_a_full_frame_of_2592_by_1944_is_rendered() -> None:
    full = make_slide("tissue", (9,), table(), 1944, 2592, margin_um=4.0)
    frame = render(full, table(), lambda x, _y: x / 400, Sensor(), (1,))
    assert frame.shape == (1944, 2592, 3)
    assert frame.reshape(-1, 3).std(axis=0).min() > 3.0
