"""Frames as networks see them: in proportion to light wherever the response is known."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_app.linear import rgb8
from edge_app.pictures import from_png, png
from firmware.bayer import demosaic
from firmware.frames import Frame
from firmware.response import Curve, Pattern, Response, to_curve


def frame(pixels: Any, bits: int = 8, **response: Any) -> Frame:
    return Frame(pixels, 0.0, 0.0, 1.0, bits=bits, response=Response(**response))


def noise(*shape: int, bits: int = 8) -> NDArray[Any]:
    kind = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(3).integers(0, 2**bits, shape).astype(kind)


@pytest.mark.parametrize("kind", ["linear", "unknown"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_full_scale_becomes_255_whatever_the_bits(bits: int, kind: str) -> None:
    grey = np.array([[0, 2**bits - 1], [2 ** (bits - 1), 2**bits - 1]], np.uint8 if bits == 8 else np.uint16)
    assert rgb8(frame(grey, bits, kind=kind))[:, :, 1].tolist() == [[0, 255], [128, 255]]


def test_a_dim_frame_stays_dim() -> None:
    assert rgb8(frame(np.full((2, 2), 100, np.uint16), 12)).max() == 6


@pytest.mark.parametrize("kind", ["linear", "unknown"])
def test_eight_bit_colour_is_passed_on_without_a_copy(kind: str) -> None:
    colour = noise(3, 4, 3)
    assert rgb8(frame(colour, kind=kind)) is colour


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("black", [16.0, 15.4])
def test_the_black_level_becomes_zero_and_full_scale_stays(bits: int, black: float) -> None:
    full = 2**bits - 1
    counts = np.arange(full + 1)
    stored = counts.astype(np.uint8 if bits == 8 else np.uint16)[:, None]
    seen = rgb8(frame(stored, bits, kind="linear", black_level=black))[:, 0, 0]
    light = np.clip((counts - black) / (full - black), 0, 1)
    assert np.abs(seen - 255 * light).max() <= 0.5001
    assert (seen[0], seen[-1]) == (0, 255)


def test_a_frame_keeps_its_own_counts() -> None:
    counts = noise(6, 8, 3)
    before = counts.copy()
    rgb8(frame(counts, kind="linear", black_level=40))
    assert (counts == before).all()


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("pattern", get_args(Pattern))
def test_a_mosaic_is_filled_in_as_its_pattern_says(pattern: str, bits: int) -> None:
    black, full = 20.0, 2**bits - 1
    mosaic = noise(12, 14, bits=bits)
    seen = rgb8(frame(mosaic, bits, kind="raw", pattern=pattern, black_level=black))
    planes = np.moveaxis(demosaic(mosaic.astype(np.float32), pattern), 0, 2)
    light = np.clip((planes - black) / (full - black), 0, 1)
    inside = np.s_[1:-1, 1:-1]
    assert seen.shape == (12, 14, 3)
    assert np.abs(seen[inside] - 255 * light[inside]).max() <= (1.1 if bits == 8 else 0.6)


@pytest.mark.parametrize("pattern", get_args(Pattern))
def test_a_red_light_reaches_red_alone(pattern: str) -> None:
    mosaic = np.zeros((8, 8), np.uint16)
    row, column = divmod(pattern.index("R"), 2)
    mosaic[row::2, column::2] = 4095
    seen = rgb8(frame(mosaic, 12, kind="raw", pattern=pattern))
    assert (seen[2:-2, 2:-2] == (255, 0, 0)).all()


@pytest.mark.parametrize(("curve", "gamma"), [("srgb", 2.2), ("gamma", 1.8), ("linear", 2.2)])
def test_a_tone_curve_is_undone(curve: Curve, gamma: float) -> None:
    light = np.linspace(0, 1, 240).reshape(10, 8, 3)
    shown = np.rint(255 * to_curve(light, curve, gamma)).astype(np.uint8)
    seen = rgb8(frame(shown, kind="tone", curve=curve, gamma=gamma))
    assert np.abs(seen - 255 * light).max() < 1.7


def test_where_the_response_is_unknown_counts_stay_as_they_are() -> None:
    shown = noise(5, 6, 3)
    assert (rgb8(frame(shown)) == shown).all()


def test_a_raw_frame_is_shown_to_people_in_colour() -> None:
    raw = frame(noise(40, 60, bits=12), 12, kind="raw", pattern="BGGR", black_level=64)
    assert (from_png(png(raw)) == rgb8(raw)).all()
    assert from_png(png(raw, 30)).shape == (20, 30, 3)
    assert raw.channels == 3


def test_a_curved_frame_is_shown_to_people_as_the_camera_shaped_it() -> None:
    toned = frame(noise(9, 9, 3), kind="tone", curve="srgb")
    assert (from_png(png(toned)) == toned.pixels).all()


def test_a_model_for_unknown_responses_reads_a_curved_frame_as_it_comes() -> None:
    toned = frame(noise(9, 9, 3), kind="tone", curve="srgb")
    assert (rgb8(toned, undo_tone=False) == toned.pixels).all()
    assert not (rgb8(toned) == toned.pixels).all()
