"""Slides of several layers: where their weight lies, what they cover, and how chance stacks them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from firmware.optics import Floats, Optics, PupilTable
from firmware.slide import Layer, Slide, make_slide

EVERYTHING = (112, 2, 3, 0, 0)
"""The patches of a frame of 224 x 336 pixels."""


@lru_cache
def table() -> PupilTable:
    return PupilTable(Optics(), 1.0)


def half(left: float, right: float, margin_px: int = 20) -> Floats:
    """(3, H, W) of a frame of 224 x 336 pixels on a grid 6/5 as fine; the two halves of the frame differ."""
    high, wide = ((side + 2 * margin_px) * 6 // 5 for side in (224, 336))
    light = np.full((3, high, wide), left, np.float32)
    light[:, :, wide // 2 :] = right
    return light


def cut_to_frame(made: Slide) -> list[Layer]:
    """The layers without the margin."""
    a, b = made.ratio
    edge, high, wide = (side * b // a for side in (made.margin_px, made.height_px, made.width_px))
    cut = (slice(None), slice(edge, edge + high), slice(edge, edge + wide))
    return [Layer(np.asarray(layer.light)[cut], layer.height_um) for layer in made.layers]


def slide(*layers: Layer, glows: bool = False) -> Slide:
    return Slide(layers, 20, 224, 336, (5, 6), glows)


def test_heights_are_weighted_by_absorbance_patch_by_patch() -> None:
    low, high = Layer(half(0.9, 0.9), -2.0), Layer(half(1.0, 0.9**3), 4.0)
    heights = slide(low, high).heights_um(*EVERYTHING)
    assert heights == pytest.approx(np.array([[-2.0, 1.6, 2.5]] * 2), abs=0.15)
    assert slide(low, high).mean_height_um() == pytest.approx((-2 * 1 + 4 * 1.5) / 2.5, abs=0.05)


def test_heights_of_what_glows_are_weighted_by_its_light_above_the_ground() -> None:
    low, high = Layer(half(0.32, 0.02), -1.0), Layer(half(0.02, 0.12), 3.0)
    heights = slide(low, high, glows=True).heights_um(112, 2, 3, 0, 0)
    assert heights[:, [0, 2]] == pytest.approx(np.array([[-1.0, 3.0]] * 2), abs=0.01)


def test_a_single_layer_lies_where_it_lies_and_clear_layers_weigh_the_same() -> None:
    clear = half(1.0, 1.0)
    assert slide(Layer(half(0.3, 0.8), 1.25)).heights_um(*EVERYTHING) == pytest.approx(1.25)
    assert slide(Layer(clear, 1.0), Layer(clear, 4.0)).mean_height_um() == pytest.approx(2.5)


def test_coverage_is_the_share_that_absorbs_more_than_a_twentieth_in_any_colour() -> None:
    faint, red_only = half(0.96, 0.96), half(1.0, 1.0)
    red_only[0, :, red_only.shape[2] // 2 :] = 0.9
    assert slide(Layer(faint)).coverage(*EVERYTHING).max() == 0.0
    assert slide(Layer(faint), Layer(faint)).coverage(*EVERYTHING).min() == 1.0
    assert slide(Layer(red_only)).coverage(*EVERYTHING)[0] == pytest.approx([0.0, 0.5, 1.0], abs=0.03)


def test_coverage_of_what_glows_is_counted_from_its_ground_to_its_peak() -> None:
    ground = half(0.03, 0.03)
    ground[1, :, : ground.shape[2] // 2] = 0.031
    ground[1, 40, 40] = 0.9
    lit = ground.copy()
    lit[2, :, lit.shape[2] // 2 :] = 0.2
    assert slide(Layer(ground), glows=True).coverage(*EVERYTHING).max() < 0.01
    assert slide(Layer(lit), glows=True).coverage(*EVERYTHING)[1] == pytest.approx([0.0, 0.5, 1.0], abs=0.03)
    assert slide(Layer(half(0.02, 0.02)), glows=True).coverage(*EVERYTHING).max() == 0.0


def test_patches_are_found_where_they_lie_in_the_frame() -> None:
    light = half(1.0, 1.0)
    light[:, (20 + 60) * 6 // 5 : (20 + 100) * 6 // 5, (20 + 200) * 6 // 5 : (20 + 240) * 6 // 5] = 0.2
    covered = slide(Layer(light)).coverage(40, 2, 2, 60, 160)
    assert covered == pytest.approx(np.array([[0.0, 1.0], [0.0, 0.0]]), abs=0.1)


def test_layers_are_spread_over_the_thickness_and_differ() -> None:
    thick = make_slide("tissue", (4,), table(), 120, 120, 4.0, thickness_um=6.0, layers=3)
    heights = [layer.height_um for layer in thick.layers]
    assert all(low <= height <= low + 2 for low, height in zip((-3, -1, 1), heights, strict=True))
    first, second, third = (np.log(np.asarray(layer.light)[1]).ravel() for layer in thick.layers)
    assert max(abs(np.corrcoef(first, second)[0, 1]), abs(np.corrcoef(second, third)[0, 1])) < 0.9
    weights = [-np.log(np.asarray(layer.light)).mean() for layer in cut_to_frame(thick)]
    assert thick.mean_height_um() == pytest.approx(np.average(heights, weights=weights), abs=0.05)


@pytest.mark.parametrize(("heights_um", "reach_um"), [((-2.5, 1.0), 2.5), ((-0.5, 0.25, 1.5), 1.5), ((0.0,), 0.0)])
def test_a_slide_reaches_as_far_as_the_layer_farthest_from_the_middle_on_either_side(
    heights_um: tuple[float, ...], reach_um: float
) -> None:
    assert slide(*(Layer(half(0.5, 0.5), height) for height in heights_um)).reach_um == reach_um


def test_the_coverage_of_a_frame_does_not_count_what_lies_around_it() -> None:
    around, within = half(0.5, 0.5), half(1.0, 1.0)
    around[:, 24:-24, 24:-24] = 1.0
    within[:, 24 : 24 + 67, 24:-24] = 0.5
    assert slide(Layer(around)).frame_coverage() == 0.0
    assert slide(Layer(within)).frame_coverage() == pytest.approx(0.25, abs=0.01)


def test_all_layers_together_absorb_about_as_much_as_a_thin_slide() -> None:
    absorbed = {
        layers: np.mean(
            [
                -sum(np.log(np.asarray(layer.light)).mean() for layer in made.layers)
                for made in (
                    make_slide("tissue", (s,), table(), 120, 120, 4.0, thickness_um=3.0 * (layers > 1), layers=layers)
                    for s in range(6)
                )
            ]
        )
        for layers in (1, 4)
    }
    assert 0.4 < absorbed[4] / absorbed[1] < 2.5


def test_the_same_seed_stacks_the_same_layers_and_another_others() -> None:
    one, same, other = (
        make_slide("fluorescence", (s,), table(), 60, 60, 2.0, thickness_um=3.0, layers=2) for s in (1, 1, 2)
    )
    assert one.glows
    assert all(np.array_equal(a.light, b.light) for a, b in zip(one.layers, same.layers, strict=True))
    assert [layer.height_um for layer in one.layers] != [layer.height_um for layer in other.layers]


def test_one_layer_is_the_thin_slide_whatever_the_thickness() -> None:
    thin, thick = (make_slide("smear", (5,), table(), 60, 60, 2.0, thickness_um=t) for t in (0.0, 5.0))
    assert np.array_equal(thin.layers[0].light, thick.layers[0].light)
    assert thick.layers[0].height_um == 0.0
