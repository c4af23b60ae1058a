"""Whole frames: tilt, layers, mosaics, seams, what lies beyond the slide's edge, independence of the cores."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from firmware import coherence
from firmware.optics import Floats, Optics, PupilTable, good_size
from firmware.rendering import Field, Layer, Slide, _piece, make_slide, render, see
from firmware.sensor import Sensor

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


def small(*layers: Layer, glows: bool = False) -> Slide:
    """A frame of 90 x 130 pixels, without a margin."""
    return Slide(layers, 0, 90, 130, (5, 6), glows)


def texture(seed: int) -> Floats:
    return np.random.default_rng(seed).uniform(0.6, 1.0, (3, 108, 156)).astype(np.float32)


def counts(slide: Slide, defocus_um: float, sensor: Sensor = STEADY) -> NDArray[np.float64]:
    return render(slide, table(), lambda _x, _y: defocus_um, sensor, (1,)).astype(np.float64)


def test_a_raised_layer_is_sharp_where_the_stage_is_as_high() -> None:
    flat, raised = small(Layer(texture(1))), small(Layer(texture(1), 3.0))
    assert counts(raised, 4.5) == pytest.approx(counts(flat, 1.5), abs=120)
    assert sharpness(counts(raised, 3.0)) > 2 * sharpness(counts(raised, 0.0))


def test_a_clear_layer_changes_nothing_and_an_even_filter_dims() -> None:
    clear, filtering = (Layer(np.full((3, 108, 156), level, np.float32), 2.0) for level in (1.0, 0.5))
    alone = counts(small(Layer(texture(1))), 1.0)
    assert counts(small(Layer(texture(1)), clear), 1.0) == pytest.approx(alone, abs=120)
    assert counts(small(Layer(texture(1)), filtering), 1.0) == pytest.approx(0.5 * alone, abs=120)


def test_layers_that_glow_add_up() -> None:
    dim = dataclasses.replace(STEADY, exposure=0.4)
    one, other = (counts(small(Layer(texture(seed), seed), glows=True), 0.5, dim) for seed in (1, 2))
    both = counts(small(Layer(texture(1), 1), Layer(texture(2), 2), glows=True), 0.5, dim)
    assert both == pytest.approx(one + other, abs=200)


@pytest.mark.parametrize("pattern", ["RGGB", "GBRG"])
def test_a_mosaic_is_in_phase_across_all_tiles(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware.rendering._CORE_PX", 35)
    colours = np.ones((3, 108, 156), np.float32) * np.array([1.0, 0.6, 0.2], np.float32)[:, None, None]
    sensor = dataclasses.replace(STEADY, pattern=pattern)
    mosaic, full = (counts(small(Layer(colours)), 0.0, s) for s in (sensor, STEADY))
    for place, letter in enumerate(pattern):
        row, column = divmod(place, 2)
        assert mosaic[row::2, column::2] == pytest.approx(full[row::2, column::2, "RGB".index(letter)], abs=150)


def test_vignetting_takes_its_share_in_the_corners_and_nothing_in_the_middle() -> None:
    clear = small(Layer(np.ones((3, 108, 156), np.float32)))
    seen = render(clear, table(), lambda _x, _y: 0.0, STEADY, (1,), 0.3).astype(np.float64)[..., 1]
    assert seen[45, 65] == pytest.approx(0.82 * 65535, rel=0.002)
    assert [seen[0, 0], seen[-1, -1]] == pytest.approx([0.7 * 0.82 * 65535] * 2, rel=0.01)
    assert seen[45, 0] / seen[45, 65] == pytest.approx(1 - 0.3 * 65**2 / (45**2 + 65**2), abs=0.005)


def test_a_field_bends_and_tilts_the_defocus() -> None:
    at = Field(tilt_um=(2.0, -4.0), field_curvature_um=1.5).defocus_at(5.0, small(Layer(texture(1))), 0.2)
    assert at(0.0, 0.0) == 5.0
    assert at(13.0, 9.0) == pytest.approx(5.0 - 1.0 + 2.0 + 1.5)
    assert at(-13.0, -9.0) == pytest.approx(5.0 + 1.0 - 2.0 + 1.5)


def test_a_condenser_in_the_optics_is_used_for_what_absorbs_and_not_for_what_glows() -> None:
    partial = PupilTable(dataclasses.replace(Optics(), condenser_ratio=0.4), 12.0)
    size = good_size(90, 5, 6)
    light = np.random.default_rng(1).uniform(0.6, 1.0, (3, size // 5 * 6, size // 5 * 6)).astype(np.float32)
    dark, bright = (Slide((Layer(light),), 0, size, size, (5, 6), glows) for glows in (False, True))
    assert np.array_equal(see(dark, partial, (0, 0), size, 2.0), coherence.image(light, partial, 2.0))
    assert np.array_equal(see(bright, partial, (0, 0), size, 2.0), see(bright, table(), (0, 0), size, 2.0))


def test_what_is_seen_of_a_square_is_what_a_frame_shows_there() -> None:
    piece = make_slide("tissue", (3,), table(), 100, 100, margin_um=14.0)
    edge = piece.margin_px
    size = good_size(100 + 2 * edge, 5, 6)
    light = see(piece, table(), (0, 0), size, 2.0)[1, edge : edge + 100, edge : edge + 100]
    ideal = dataclasses.replace(STEADY, crosstalk=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
    assert counts(piece, 2.0, ideal)[..., 1] / 65535 == pytest.approx(0.82 * light, abs=0.004)
