"""Pupils: the Zernike coefficients of what an objective does to light, and the microscopes that they are drawn from.

Coefficients are those of Noll's orthonormal polynomials over the pupil, Z4 = sqrt(3) (2 rho^2 - 1) for defocus and
Z11 = sqrt(5) (6 rho^4 - 6 rho^2 + 1) for spherical aberration, in waves at 535 nm: the projections of the exact phase
of `firmware.optics.PupilTable`, 2 * integral of W Z rho d rho from 0 to 1. To first order in the aperture, z um of
defocus are z NA^2 / (4 sqrt(3) n lambda) waves: a depth of field is 0.144.

Source: R. J. Noll, J. Opt. Soc. Am. 66, 207 (1976), table I.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware.optics import GREEN_NM, Optics, PupilTable, depth_of_field_um

REFERENCE_EDGE = 0.2
"""Where the pupil has its edge that scores refer to, in cycles per pixel: NA pixel / lambda; 10x/0.3 has 0.19."""
_NODES = 64
_COLOUR_DEPTHS = (0.53, 0.0, -0.42)
_CENTRES_NM = (620.0, 535.0, 460.0)
_HALF_LINE_NM = 10.0
Doubles = NDArray[np.float64]
Range = tuple[float, float]


class Zernike(NamedTuple):
    """Waves of defocus and of spherical aberration, (Z,) each."""

    defocus: Doubles
    spherical: Doubles


def zernike(table: PupilTable, defocus_um: Doubles) -> Zernike:
    """The coefficients of green light at (Z,) defocus values, um; defocus is about zero in focus."""
    x, weights = np.polynomial.legendre.leggauss(_NODES)
    rho, measure = (x + 1) / 2, weights * (x + 1) / 2
    waves = table.pupil_phase(defocus_um, GREEN_NM, rho) / (2 * np.pi)
    square = rho**2
    defocus = waves @ (np.sqrt(3) * (2 * square - 1) * measure)
    spherical = waves @ (np.sqrt(5) * (6 * square**2 - 6 * square + 1) * measure)
    return Zernike(defocus, spherical)


def edge_of(optics: Optics) -> float:
    """The edge of the pupil on the pixel grid, cycles per pixel: NA pixel / lambda."""
    return optics.numerical_aperture * optics.pixel_um / (GREEN_NM * 1e-3)


def referred(waves: Doubles, edge: float) -> Doubles:
    """Waves of defocus that blur as many pixels behind the reference pupil as these do behind a pupil of this edge.

    The geometric blur is z NA / n in the specimen, and so, in pixels, in proportion to waves / edge.
    """
    return np.asarray(np.abs(waves) * REFERENCE_EDGE / edge, np.float64)


def draw_optics(rng: np.random.Generator, aperture: Range, edge: Range, spherical: Range, coverslip: float) -> Optics:
    """One microscope, dry.

    Args:
        rng: The source of chance.
        aperture: Numerical apertures, drawn evenly in their logarithm.
        edge: Edges of the pupil in cycles per pixel; they make the pixel.
        spherical: Of W040, waves.
        coverslip: How often a coverslip is 1 to 7 um too thick, for apertures above 0.4.
    """
    na = float(np.exp(rng.uniform(*np.log(aperture))))
    colour_um = rng.uniform(0, 1.4) * depth_of_field_um(na) * np.asarray(_COLOUR_DEPTHS)
    thick = na > 0.4 and rng.uniform() < coverslip
    shifts = rng.uniform(-8, 8, 3)
    lines = [(c + s - _HALF_LINE_NM, c + s + _HALF_LINE_NM) for c, s in zip(_CENTRES_NM, shifts.tolist(), strict=True)]
    return Optics(
        numerical_aperture=na,
        pixel_um=float(rng.uniform(*edge)) * GREEN_NM * 1e-3 / na,
        spherical_waves=float(rng.uniform(*spherical)),
        longitudinal_colour_um=(float(colour_um[0]), 0.0, float(colour_um[2])),
        lines_nm=tuple(lines),
        coverslip_error_um=float(rng.uniform(1, 7)) if thick else 0.0,
    )
