"""Partially coherent bright field: Abbe's sum over the points of a condenser's aperture (pure).

Every point of the aperture lights the specimen with one plane wave. The specimen passes the amplitude
sqrt(transmission), the objective's pupil filters it, and the intensities of all points add up, because points
of a lamp know nothing of each other.

Sources: M. Born and E. Wolf, Principles of Optics, section 10.6.3 (Abbe's method: the effective source);
J. W. Goodman, Statistical Optics, section 7.2. Points on a sunflower's spiral: H. Vogel, Mathematical
Biosciences 44, 179 (1979).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from firmware.optics import Floats, Optics, PupilTable, fine_ratio, sampled, spread_um

_FEWEST, _MOST = 64, 128
_STEPS = 16384
_GOLDEN = math.pi * (3.0 - math.sqrt(5.0))


def source_points(optics: Optics, defocus_um: float) -> NDArray[np.float64]:
    """Where the condenser's aperture is sampled: pairs of opposite points, evenly spread over its disc.

    Out of focus the shadows of the points part by the condenser's cone, so it takes the more points, the larger
    that cone is in cells of resolution. 128 points are within 2.5 % of a specimen's contrast at 10 um and a
    ratio of 0.7.

    Returns:
        (S, 2) float64 in units of the objective's aperture.
    """
    ratio, na = optics.condenser_ratio, optics.numerical_aperture
    cells = ratio * spread_um(defocus_um, na, optics.immersion_index) * 2 * na / optics.shortest_um
    pairs = int(np.clip(0.5 * math.pi * cells**2, _FEWEST, _MOST)) // 2
    k = np.arange(pairs)
    radius, angle = ratio * np.sqrt((k + 0.5) / pairs), _GOLDEN * k
    half = radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return np.concatenate([half, -half])


def image(transmission: Floats, table: PupilTable, defocus_um: float) -> Floats:
    """What ideal pixels see of a square piece of specimen under a condenser of `condenser_ratio`.

    Args:
        transmission: (C, n, n) float32 on the fine pitch of `fine_ratio`; taken as periodic, so keep a margin
            of at least `spread_um` and throw it away afterwards.
        table: The pupils.
        defocus_um: Of this piece.

    Returns:
        (C, m, m) float32 mean intensity per pixel, m = n * a / b; a clear field gives 1.
    """
    optics = table.optics
    a, b = fine_ratio(optics)
    n = transmission.shape[-1]
    m = n // b * a
    points = source_points(optics, defocus_um)
    result = np.empty((transmission.shape[0], m, m), np.float32)
    for c, (lines, shifts) in enumerate(zip(optics.lines_nm, optics.line_shifts_um(), strict=True)):
        amplitude = np.fft.fft2(np.sqrt(transmission[c])).astype(np.complex64, copy=False)
        total = np.zeros((n, n), np.float32)
        for line, shift in zip(lines, shifts, strict=True):
            step = line * 1e-3 / (optics.numerical_aperture * optics.pixel_um * a / b)
            _add_intensities(total, amplitude, _pupil(table, defocus_um - shift, line), points, step)
        spectrum = np.fft.rfft2(total / np.float32(len(points) * len(lines)))
        sampled(spectrum.astype(np.complex64, copy=False), optics, result[c])
    return result


def _pupil(table: PupilTable, defocus_um: float, line_nm: float) -> NDArray[np.complex64]:
    """One line's pupil at `_STEPS` even steps of rho squared, and nothing beyond its edge."""
    rho = np.sqrt((np.arange(_STEPS) + 0.5) / _STEPS)
    phase = table.pupil_phase(np.array([defocus_um]), line_nm, rho)[0]
    return np.append(np.exp(1j * phase), 0.0).astype(np.complex64)


def _add_intensities(
    total: Floats,
    amplitude: NDArray[np.complex64],
    pupil: NDArray[np.complex64],
    points: NDArray[np.float64],
    step: float,
) -> None:
    """Add every source point's intensity to `total`, (n, n) all; `step` is a cycle per pixel in pupil radii."""
    frequency = np.fft.fftfreq(amplitude.shape[0]) * step
    for y, x in points:
        down, across = (np.square(frequency + at).astype(np.float32) * np.float32(_STEPS) for at in (y, x))
        place = np.minimum(down[:, None] + across[None, :], _STEPS).astype(np.int32)
        wave = np.fft.ifft2(amplitude * pupil[place])
        total += wave.real**2 + wave.imag**2
