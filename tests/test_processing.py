"""What a camera does to its counts: against OpenCV where it does the same, and undone where that is declared."""

from __future__ import annotations

from functools import lru_cache
from typing import get_args

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from firmware.bayer import PATTERNS, demosaic
from firmware.jpeg import quantisation, recompress
from firmware.processing import Processing, process
from firmware.response import Curve, inverse_lut
from firmware.sensor import Counts, Sensor

PLAIN = Processing()
BAYER = Sensor(bits=12, pattern="RGGB", black_level=64.0)
TO_RGB = {
    "RGGB": cv2.COLOR_BayerBG2RGB,
    "BGGR": cv2.COLOR_BayerRG2RGB,
    "GRBG": cv2.COLOR_BayerGB2RGB,
    "GBRG": cv2.COLOR_BayerGR2RGB,
}
CURVES = [(curve, gamma) for curve in get_args(Curve) for gamma in (1.8, 2.2)]


@lru_cache
def picture(height: int = 203, width: int = 310) -> NDArray[np.uint8]:
    """Colourful blobs with noise: (H, W, 3) uint8."""
    rng = np.random.default_rng(1)
    blobs = cv2.resize(rng.uniform(0, 255, (24, 36, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(blobs + rng.normal(0, 3, blobs.shape), 0, 255), np.uint8)


def mosaic_of(rgb: NDArray[np.uint8], pattern: str) -> NDArray[np.uint8]:
    seen = np.empty(rgb.shape[:2], np.uint8)
    for place, letter in enumerate(pattern):
        row, column = divmod(place, 2)
        seen[row::2, column::2] = rgb[row::2, column::2, "RGB".index(letter)]
    return seen


def even(level: float, sensor: Sensor = BAYER) -> Counts:
    """An even grey of a share of full scale, without noise."""
    counts = sensor.blank_frame(24, 30)
    counts[:] = round(sensor.black_level + level * (sensor.full_scale - sensor.black_level))
    return counts


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_mosaic_is_filled_in_as_opencv_does_it(pattern: str) -> None:
    mosaic = mosaic_of(picture(), pattern)
    mine = np.moveaxis(demosaic(mosaic.astype(np.float32), pattern), 0, 2)
    theirs = cv2.cvtColor(mosaic, TO_RGB[pattern])
    assert np.abs(mine - theirs)[2:-2, 2:-2].max() <= 1.0


@pytest.mark.parametrize("pattern", PATTERNS)
def test_measured_pixels_stay_what_they_were_up_to_the_edge(pattern: str) -> None:
    mosaic = mosaic_of(picture(), pattern)
    planes = demosaic(mosaic.astype(np.float32), pattern)
    assert np.array_equal(mosaic_of(np.moveaxis(planes, 0, 2).astype(np.uint8), pattern), mosaic)


def test_a_slope_is_filled_in_without_error_inside() -> None:
    slope = np.add.outer(np.arange(20.0), 2 * np.arange(30.0)).astype(np.float32)
    assert demosaic(slope, "GBRG")[:, 1:-1, 1:-1] == pytest.approx(np.stack([slope] * 3)[:, 1:-1, 1:-1], abs=1e-4)


def test_processing_that_is_off_hands_over_the_counts() -> None:
    assert np.array_equal(process(picture(), Sensor(), PLAIN), picture())


def test_twelve_bits_with_a_black_level_become_eight_without_one() -> None:
    assert process(even(0.0), BAYER, PLAIN).max() == 0
    assert np.unique(process(even(0.5), BAYER, PLAIN)).tolist() == [128]
    assert process(even(1.0), BAYER, PLAIN).min() == 255


def test_a_monochrome_camera_gives_one_plane() -> None:
    sensor = Sensor(pattern="mono", bits=12)
    seen = process(even(0.25, sensor), sensor, Processing((2.0, 1.0, 0.5), 3.0, "gamma", 2.0, jpeg_quality=95))
    assert seen.shape == (24, 30)
    assert np.unique(seen).tolist() == [128]


@pytest.mark.parametrize(("curve", "gamma"), CURVES)
def test_the_inverse_table_undoes_the_curve_up_to_quantisation(curve: Curve, gamma: float) -> None:
    sensor = Sensor(bits=16)
    counts = np.repeat(np.linspace(0, 65535, 3000).astype(np.uint16)[None, :, None], 3, axis=2)
    shown = process(counts, sensor, Processing(curve=curve, gamma=gamma))
    table = inverse_lut(curve, gamma)
    assert table.shape == (256,)
    assert table.dtype == np.float32
    step = np.diff(table).max()
    assert np.abs(table[shown] - counts / 65535.0).max() < 0.6 * step


def test_white_balance_weighs_the_colours_and_clips() -> None:
    seen = process(even(0.4), BAYER, Processing(white_balance=(0.5, 1.0, 3.0)))[10, 10]
    assert seen.tolist() == pytest.approx([51, 102, 255], abs=1)


def test_no_saturation_is_grey_and_more_is_more_colourful() -> None:
    counts = np.broadcast_to(np.array([120, 100, 80], np.uint8), (20, 20, 3))
    grey, vivid = (process(counts, Sensor(), Processing(saturation=s))[5, 5].astype(int) for s in (0.0, 2.0))
    assert np.ptp(grey) == 0
    assert np.ptp(vivid) == pytest.approx(80, abs=1)
    assert vivid @ [0.299, 0.587, 0.114] == pytest.approx(grey[0], abs=1)


def test_contrast_keeps_black_middle_and_white_and_spreads_the_middle() -> None:
    levels = np.broadcast_to(np.array([0, 100, 155, 255], np.uint8)[None, :, None], (8, 4, 3))
    seen = process(levels, Sensor(), Processing(contrast=1.0))[0, :, 1].astype(int)
    v = 100 / 255
    assert seen.tolist() == pytest.approx(
        [0, 255 * (3 * v**2 - 2 * v**3), 255 * (1 - 3 * v**2 + 2 * v**3), 255], abs=1
    )


def test_sharpening_is_an_unsharp_mask_on_luma() -> None:
    grey = np.repeat(picture()[..., 1:2] // 2 + 50, 3, axis=2)
    seen = process(grey, Sensor(), Processing(sharpening=0.8, sharpening_radius_px=1.2))
    plane = grey[..., 0].astype(np.float32)
    soft = cv2.GaussianBlur(plane, (9, 9), 1.2, borderType=cv2.BORDER_REPLICATE)
    assert np.abs(seen[..., 0] - np.clip(plane + 0.8 * (plane - soft), 0, 255)).max() < 1.0


def test_denoising_leaves_the_mean_and_takes_the_noise() -> None:
    noisy = np.random.default_rng(2).normal(120, 10, (100, 120, 3)).astype(np.uint8)
    seen = process(noisy, Sensor(), Processing(denoise_px=1.0)).astype(float)
    assert seen.mean() == pytest.approx(noisy.mean(), abs=0.2)
    assert seen.std() == pytest.approx(noisy.std() / (2 * np.sqrt(np.pi)), rel=0.1)


def test_a_frame_has_no_seams_and_does_not_depend_on_the_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = Processing((1.2, 1.0, 1.3), 1.2, "gamma", 2.2, 0.3, 0.8, 1.5, 0.7, 90)
    mosaic = np.random.default_rng(3).integers(64, 4096, (203, 150), dtype=np.uint16)
    expected = process(mosaic, BAYER, everything)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert np.array_equal(process(mosaic, BAYER, everything), expected)
    monkeypatch.setattr("firmware.processing._BAND_PX", 1024)
    monkeypatch.setattr("firmware.jpeg._BAND_PX", 1024)
    assert np.abs(process(mosaic, BAYER, everything).astype(int) - expected).mean() < 0.02


@pytest.mark.parametrize("quality", [30, 85, 95])
@pytest.mark.parametrize(("subsampling", "factor"), [(True, 0x221111), (False, 0x111111)])
def test_jpegs_loss_is_that_of_libjpeg(quality: int, subsampling: bool, factor: int) -> None:
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    _, coded = cv2.imencode(".jpg", picture()[..., ::-1], settings)
    theirs = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), int)[..., ::-1]
    difference = np.abs(recompress(picture(), quality, subsampling) - theirs).mean()
    assert difference < 0.6
    assert difference < 0.25 * np.abs(picture() - theirs).mean()


def test_grey_jpeg_is_that_of_libjpeg() -> None:
    _, coded = cv2.imencode(".jpg", picture()[..., 1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    theirs = np.asarray(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE), int)
    assert np.abs(recompress(picture()[..., 1], 90) - theirs).mean() < 0.4


def test_the_quality_scale_is_libjpegs() -> None:
    at = {quality: quantisation(quality)[0][0, 0] for quality in (1, 25, 50, 75, 100)}
    assert at == {1: 255, 25: 32, 50: 16, 75: 8, 100: 1}
    assert quantisation(50)[1][1, 2] == 26


def test_processing_with_jpeg_is_processing_and_then_jpeg() -> None:
    shown = process(picture(), Sensor(), PLAIN)
    seen = process(picture(), Sensor(), Processing(jpeg_quality=80, chroma_subsampling=False))
    assert np.array_equal(seen, recompress(shown, 80, chroma_subsampling=False))
