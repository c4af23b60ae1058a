"""Windows: pieces of any specimen in any modality, as one plane of some camera behind a drawn microscope shows them.

Modalities: bright field (light that stains let through), fluorescence (light that they emit), and dark ground (light
in proportion to what they absorb, on a faint ground: a stand-in for dark field and reflected light, incoherent as all
here). Beside the simulator's specimens there are abstract ones, of steps, ridges, grain and points at random scales,
so that the score learns blur and not biology.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from firmware.focal_stack import focal_stack
from firmware.optics import Floats, Optics, PupilTable, fine_ratio, good_size
from firmware.processing import Processing, process
from firmware.sensor import Sensor, expose
from firmware.specimens import make_specimen
from firmware.texture import add_repeated, grain, noise, ridges

STAINED = ("tissue", "smear", "sparse")
KINDS = (*STAINED, "fluorescence", "dark", "abstract_dark", "abstract_bright")
"""What a recipe may name: the simulator's specimens, these on dark ground, and abstract ones of both contrasts."""
RESPONSES = ((0.06, 0.88, 0.06), (0.3, 0.45, 0.25), (0.0, 1.0, 0.0))
"""Shares of red, green and blue in a plane: green of a colour camera, a camera without filters, one line."""
_BRIGHT = (*STAINED, "abstract_bright")
_EDGE_PX = 32
_FAINT = 1e-4


@dataclass(frozen=True)
class Cameras:
    """Shares of the cameras that bend grey values by a gamma, and of those that compress by JPEG."""

    gamma_share: float
    jpeg_share: float


def light_of(kind: str, rng: np.random.Generator, size_px: int, pitch_um: float) -> Floats:
    """The light of a square of specimen, (3, n, n) float32; 1 is clear glass, or the brightest on dark ground."""
    if kind.startswith("abstract"):
        amount = _abstract(rng, size_px, pitch_um)
        grey = np.exp(-amount) if kind in _BRIGHT else np.float32(rng.uniform(0.005, 0.05)) + amount
        light: Floats = np.repeat(grey[None], 3, axis=0).astype(np.float32)
    elif kind == "dark":
        stained = np.asarray(make_specimen(str(rng.choice(STAINED)), rng, (size_px, size_px), pitch_um))
        light = (rng.uniform(0.005, 0.04) - np.log(np.maximum(stained, _FAINT))).astype(np.float32)
    else:
        light = np.array(make_specimen(kind, rng, (size_px, size_px), pitch_um), np.float32)
    if kind not in _BRIGHT:
        light /= np.float32(np.percentile(light, 99.5) + _FAINT)
    return light


def seen(
    kind: str, rng: np.random.Generator, optics: Optics, table: PupilTable, z_um: NDArray[np.float64], side_px: int
) -> Floats:
    """The ideal image of a new specimen of this kind at (Z,) defocus values: (Z, side, side) float32.

    What lies beyond the square comes from its other side; the seam is kept out of the image, its blur is not: that is
    an edge like any other. The specimen is magnified at random, by 0.5 to 2.
    """
    a, b = fine_ratio(optics)
    size = good_size(side_px + _EDGE_PX, a, b)
    zoom = float(np.exp(rng.uniform(np.log(0.5), np.log(2.0))))
    light = light_of(kind, rng, size // a * b, optics.pixel_um * a / b * zoom)
    response = RESPONSES[int(rng.choice(len(RESPONSES), p=(0.6, 0.2, 0.2)))]
    images = focal_stack(light, table, table.radial_otf(z_um), response)
    first = (size - side_px) // 2
    return images[:, first : first + side_px, first : first + side_px]


def photographed(light: Floats, kind: str, rng: np.random.Generator, cameras: Cameras) -> NDArray[np.uint8]:
    """What a drawn camera makes of an ideal image (S, S): (S, S) uint8."""
    bright = kind in _BRIGHT
    exposure = rng.uniform(0.45, 0.95) if bright else np.exp(rng.uniform(np.log(0.08), 0.0))
    sensor = Sensor(
        full_well_e=rng.uniform(5000, 14000),
        read_noise_e=rng.uniform(3, 10),
        exposure=float(exposure),
        pattern="mono",
        mono_response=(1.0, 0.0, 0.0),
    )
    counts = expose(np.broadcast_to(light, (3, *light.shape)), sensor, rng)
    bends, squeezes = rng.uniform(size=2) < (cameras.gamma_share, cameras.jpeg_share)
    gamma, quality = float(rng.uniform(1.6, 2.4)), int(rng.integers(70, 96))
    if not bends and not squeezes:
        return counts.astype(np.uint8, copy=False)
    settings = Processing(
        curve="gamma" if bends else "linear", gamma=gamma if bends else 1.0, jpeg_quality=quality if squeezes else 0
    )
    return process(counts, sensor, settings)


def cut(image: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """All windows of an image (S, S) side by side, grey repeated: (N, side, side, 3) uint8."""
    count = len(image) // side_px
    whole = image[: count * side_px, : count * side_px].reshape(count, side_px, count, side_px).swapaxes(1, 2)
    return np.repeat(whole.reshape(-1, side_px, side_px)[..., None], 3, axis=3)


def _abstract(rng: np.random.Generator, size_px: int, pitch_um: float) -> Floats:
    """One to four textures, each at a scale of 4 to 90 points: (n, n) float32, 0 and more."""
    shape = (size_px, size_px)
    total = np.zeros(shape, np.float32)
    for _ in range(int(rng.integers(1, 5))):
        scale_um = pitch_um * float(np.exp(rng.uniform(np.log(4), np.log(90))))
        amount = np.float32(rng.uniform(0.1, 0.8))
        match int(rng.integers(4)):
            case 0:
                field = noise(rng, shape, pitch_um, scale_um, rng.uniform(1, 3))
                edge, soft = np.float32(rng.uniform(-0.8, 1.2)), np.float32(rng.uniform(0.02, 0.3))
                total += amount * np.clip((field - edge) / soft, 0, 1)
            case 1:
                field = noise(rng, shape, pitch_um, scale_um, rng.uniform(1, 3))
                total += amount * ridges(field, rng.uniform(0.04, 0.2))
            case 2:
                add_repeated(total, rng.uniform(0.03, 0.3), grain(rng, pitch_um))
            case _:
                total += 2 * amount * _points(rng, size_px)
    return np.maximum(total, 0)


def _points(rng: np.random.Generator, size_px: int) -> Floats:
    """Spots of one size at random places: (n, n) float32, the brightest 1."""
    spots = np.zeros((size_px, size_px), np.float32)
    count = int(rng.poisson(size_px**2 * np.exp(rng.uniform(np.log(1e-4), np.log(1e-2))))) + 1
    spots[rng.integers(0, size_px, count), rng.integers(0, size_px, count)] = rng.uniform(0.3, 1, count)
    blurred = cv2.GaussianBlur(spots, (0, 0), float(np.exp(rng.uniform(np.log(0.6), np.log(4)))))
    return np.asarray(blurred / (blurred.max() + 1e-6), np.float32)
