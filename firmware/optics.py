"""The light: from what a thin specimen sends to the objective to what pixels see, at any defocus (pure).

Each wavelength has a circularly symmetric pupil with exact (not paraxial) defocus, spherical aberration and
longitudinal colour. In incoherent light its optical transfer function (OTF) multiplies the specimen's
spectrum; the pixel integrates, and sampling folds. `coherence.py` does partially coherent light.

Defocus is positive when the objective is farther from the specimen than in focus, in um of objective
travel, zero where green (535 nm) has its best Strehl ratio.

Source: J. W. Goodman, Introduction to Fourier Optics, chapters 6 (OTF, aberrations) and 7; the Hankel pair
for symmetric pupils is his section 2.1. Exact defocus and coverslip phase: S. F. Gibson and F. Lanni, JOSA
A 8, 1601 (1991).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
GREEN_NM = 535.0
_TAIL_UM = 8.0
_FREQUENCIES = 384
_STRIP_VALUES = 2**16


class Light(Protocol):
    """Light (C, H, W) float32 that can be read piece by piece: an array, or something that works it out."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Colours, rows and columns."""
        ...

    def __getitem__(self, where: Any, /) -> Any:
        """One colour's rows and columns as an array (h, w); behind a `:` for the colours, a smaller `Light`."""
        ...

    def __array__(self) -> NDArray[Any]:
        """All of it."""
        ...


def depth_of_field_um(numerical_aperture: float, immersion_index: float = 1.0) -> float:
    """Depth of field n lambda / NA^2 at 535 nm, in um: the one place where it is computed."""
    return immersion_index * GREEN_NM * 1e-3 / numerical_aperture**2


def spread_um(defocus_um: float, numerical_aperture: float, immersion_index: float = 1.0) -> float:
    """Radius of the geometric blur |z| tan(asin(NA/n)): how far light wanders sideways, in um."""
    return abs(defocus_um) * math.tan(math.asin(numerical_aperture / immersion_index))


@dataclass(frozen=True)
class Optics:
    """One objective with its aberrations, as light sees it.

    `longitudinal_colour_um` are the focus shifts of the red, green and blue channel centres (positive: that
    colour focuses farther from the specimen); lines between are interpolated over wavelength.
    `spherical_waves` is Seidel's W040 in waves at 535 nm. `lines_nm` are the wavelengths of R, G, B.
    `coverslip_error_um` is how much thicker the coverslip is than the objective expects, of glass with
    `coverslip_index`. `condenser_ratio` is the condenser's aperture over the objective's, 0 to 1; 0 stands for
    incoherent light, for which alone `PupilTable.radial_otf` and `image` hold.
    """

    numerical_aperture: float = 0.75
    pixel_um: float = 0.1725
    immersion_index: float = 1.0
    spherical_waves: float = 0.15
    longitudinal_colour_um: tuple[float, float, float] = (0.5, 0.0, -0.4)
    lines_nm: tuple[tuple[float, ...], ...] = ((610.0, 630.0), (525.0, 545.0), (450.0, 470.0))
    coverslip_error_um: float = 0.0
    coverslip_index: float = 1.515
    condenser_ratio: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.condenser_ratio <= 1.0:
            raise ValueError(f"a condenser ratio of {self.condenser_ratio:g} lies outside 0 to 1")
        if self.coverslip_error_um and self.numerical_aperture >= self.coverslip_index:
            raise ValueError(
                f"light of NA {self.numerical_aperture:g} does not pass a coverslip of index "
                f"{self.coverslip_index:g}; set coverslip_error_um to 0"
            )

    @property
    def shortest_um(self) -> float:
        """The shortest wavelength, in um."""
        return min(min(lines) for lines in self.lines_nm) * 1e-3

    @property
    def cutoff_per_um(self) -> float:
        """The highest spatial frequency any colour passes, 2 NA / lambda, in cycles per um."""
        return 2.0 * self.numerical_aperture / self.shortest_um

    @property
    def coverslip_spread_um(self) -> float:
        """How far apart in depth the coverslip's error lets axial and marginal rays focus, in um."""
        if not self.coverslip_error_um:
            return 0.0
        na, n, glass = self.numerical_aperture, self.immersion_index, self.coverslip_index
        marginal = math.sqrt((n * n - na * na) / (glass * glass - na * na))
        return abs(self.coverslip_error_um * (n / glass - marginal))

    def line_shifts_um(self) -> tuple[tuple[float, ...], ...]:
        """Focus shift of every line, by its wavelength, in um."""
        centres = [float(np.mean(lines)) for lines in self.lines_nm]
        order = np.argsort(centres)
        x = np.asarray(centres)[order]
        y = np.asarray(self.longitudinal_colour_um)[order]
        return tuple(tuple(_extrapolate(line, x, y) for line in lines) for lines in self.lines_nm)


def _extrapolate(at: float, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    k = int(np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2))
    return float(y[k] + (y[k + 1] - y[k]) * (at - x[k]) / (x[k + 1] - x[k]))


def bessel_j0(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """J0 for x >= 0, absolute error under 1e-7 (Abramowitz and Stegun, 9.4.1 and 9.4.3)."""
    s = np.minimum(x, 3.0) / 3.0
    s *= s
    small = 1 + s * (
        -2.2499997 + s * (1.2656208 + s * (-0.3163866 + s * (0.0444479 + s * (-0.0039444 + s * 0.00021))))
    )
    t = 3.0 / np.maximum(x, 3.0)
    size = 0.79788456 + t * (
        -0.00000077 + t * (-0.0055274 + t * (-0.00009512 + t * (0.00137237 + t * (-0.00072805 + t * 0.00014476))))
    )
    angle = (
        x
        - 0.78539816
        + t
        * (-0.04166397 + t * (-0.00003954 + t * (0.00262573 + t * (-0.00054125 + t * (-0.00029333 + t * 0.00013558)))))
    )
    return np.where(x < 3.0, small, size * np.cos(angle) / np.sqrt(np.maximum(x, 3.0)))


def _hankel(scale: float, x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> Floats:
    """J0(scale * x * y), weighted row by row: (X, Y), some rows at a time."""
    out = np.empty((len(x), len(y)), np.float32)
    for rows in _strips(len(x), len(y)):
        out[rows] = bessel_j0(scale * np.outer(x[rows], y)) * weights[rows, None]
    return out


@lru_cache(maxsize=64)
def _quadrature(nodes: int, end: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, weights = np.polynomial.legendre.leggauss(nodes)
    return 0.5 * end * (x + 1.0), 0.5 * end * weights


class PupilTable:
    """Radial OTFs of one `Optics` for any defocus up to `reach_um`; build once, ask often."""

    def __init__(self, optics: Optics, reach_um: float) -> None:
        self.optics = optics
        self.reach_um = reach_um
        na, n = optics.numerical_aperture, optics.immersion_index
        self._shifts = optics.line_shifts_um()
        farthest = reach_um + max(abs(s) for shifts in self._shifts for s in shifts) + 1.0
        farthest += optics.coverslip_spread_um
        radius = spread_um(farthest, na, n) + _TAIL_UM * max(1.0, 0.72 / na)
        depth_cycles = farthest * (n - math.sqrt(n * n - na * na)) / optics.shortest_um
        cycles = depth_cycles + radius * na / optics.shortest_um
        rho, weights = _quadrature(int(96 + 4 * cycles), 1.0)
        self._rho = rho
        self._measure = weights * rho
        r, weights = _quadrature(int(32 + 3 * radius * optics.cutoff_per_um), radius)
        self.frequencies_per_um = np.linspace(0.0, optics.cutoff_per_um, _FREQUENCIES)
        self._to_otf = _hankel(2 * np.pi, r, self.frequencies_per_um, weights * r)
        self._to_field = {
            line: _hankel(2 * np.pi * na / (line * 1e-3), rho, r, np.ones(len(rho)))
            for lines in optics.lines_nm
            for line in lines
        }
        self._zero_um = self._best_green_um()

    def radial_otf(self, defocus_um: NDArray[np.float64] | float) -> Floats:
        """OTF of every channel at each defocus: (Z, C, F) float32, real because the pupils are symmetric."""
        z = np.atleast_1d(np.asarray(defocus_um, dtype=np.float64))
        if np.abs(z).max() > self.reach_um + 1e-6:
            raise ValueError(f"defocus {np.abs(z).max():.2f} um is beyond this table's {self.reach_um:.2f} um")
        colours = zip(self.optics.lines_nm, self._shifts, strict=True)
        return np.stack([self._channel(z, lines, shifts) for lines, shifts in colours], axis=1)

    def _channel(self, z: NDArray[np.float64], lines: tuple[float, ...], shifts: tuple[float, ...]) -> Floats:
        total = np.zeros((len(z), _FREQUENCIES), np.float32)
        for line, shift in zip(lines, shifts, strict=True):
            phase = self._phase(z + self._zero_um - shift, line, self._rho)
            pupil = (self._measure * np.exp(1j * phase)).astype(np.complex64)
            field = pupil.real @ self._to_field[line] + 1j * (pupil.imag @ self._to_field[line])
            psf = field.real**2 + field.imag**2
            otf = psf @ self._to_otf
            total += otf / otf[:, :1]
        return total / np.float32(len(lines))

    def pupil_phase(
        self, defocus_um: NDArray[np.float64], line_nm: float, rho: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Phase of one line's wave in the pupil, in radians.

        Args:
            defocus_um: (Z,) counted from this line's own focus: subtract its `line_shifts_um`.
            line_nm: Wavelength.
            rho: (P,) places in the pupil, 0 in the middle and 1 at the edge.

        Returns:
            (Z, P).
        """
        return self._phase(defocus_um + self._zero_um, line_nm, rho)

    def _phase(self, z: NDArray[np.float64], line_nm: float, rho: NDArray[np.float64]) -> NDArray[np.float64]:
        path_um = np.outer(z, self._defocus_path(rho))
        aberration_um = self.optics.spherical_waves * GREEN_NM * 1e-3 * rho**4
        if self.optics.coverslip_error_um:
            aberration_um = aberration_um + self.optics.coverslip_error_um * self._coverslip_path(rho)
        return 2 * np.pi / (line_nm * 1e-3) * (path_um + aberration_um)

    def _defocus_path(self, rho: NDArray[np.float64]) -> NDArray[np.float64]:
        """Optical path per um of defocus, relative to the axis."""
        na, n = self.optics.numerical_aperture, self.optics.immersion_index
        return np.asarray(np.sqrt(n * n - (na * rho) ** 2) - n)

    def _coverslip_path(self, rho: NDArray[np.float64]) -> NDArray[np.float64]:
        """Optical path per um of excess coverslip, which displaces immersion, relative to the axis."""
        na, glass = self.optics.numerical_aperture, self.optics.coverslip_index
        return np.asarray(np.sqrt(glass * glass - (na * rho) ** 2) - glass - self._defocus_path(rho))

    def _best_green_um(self) -> float:
        span = 1.5 * depth_of_field_um(self.optics.numerical_aperture, self.optics.immersion_index)
        z = np.linspace(-span, span, 601)
        if self.optics.coverslip_error_um:
            z = self._balance_um() + np.linspace(-1, 1, 1201) * (span + 0.5 * self.optics.coverslip_spread_um)
        strehl = np.abs(np.exp(1j * self._phase(z, GREEN_NM, self._rho)) @ self._measure)
        return float(z[int(np.argmax(strehl))])

    def _balance_um(self) -> float:
        """The defocus that cancels most of the coverslip's path, by least squares over the pupil's area."""
        path, cover = self._defocus_path(self._rho), self._coverslip_path(self._rho)
        path = path - np.average(path, weights=self._measure)
        return -self.optics.coverslip_error_um * float(
            np.average(path * cover, weights=self._measure) / np.average(path * path, weights=self._measure)
        )


def fine_ratio(optics: Optics) -> tuple[int, int]:
    """(a, b) such that pixel * a / b is the render pitch: no coarser than lambda_min / (4 NA).

    Raises:
        ValueError: The pixels are more than twice too coarse for these optics.
    """
    limit = optics.shortest_um / (4.0 * optics.numerical_aperture) / optics.pixel_um
    for a, b in ((1, 1), (5, 6), (4, 5), (3, 4), (2, 3), (3, 5), (1, 2)):
        if a / b <= limit:
            return a, b
    raise ValueError(f"a pixel of {optics.pixel_um} um undersamples NA {optics.numerical_aperture} too far")


def good_size(at_least: int, a: int, b: int) -> int:
    """The smallest pixel count >= `at_least` whose transforms, here and on the fine grid, are quick."""
    size = -(-at_least // a) * a
    while not (_smooth(size) and _smooth(size // a * b) and size % 2 == 0 and (size // a * b) % 2 == 0):
        size += a
    return size


def _smooth(n: int) -> bool:
    for p in (2, 3, 5):
        while n % p == 0:
            n //= p
    return n == 1


@lru_cache(maxsize=8)
def _grid(fine: int, pitch_um: float, cutoff_per_um: float, pixel_um: float) -> tuple[NDArray[np.int32], Floats]:
    """Where in a radial OTF the frequencies lie, and what a pixel passes of them: (n/2+1, n/2+1) both."""
    f = np.fft.rfftfreq(fine, pitch_um)
    radius = np.hypot(f[:, None], f[None, :]) * ((_FREQUENCIES * 8 - 1) / cutoff_per_um)
    index = np.minimum(radius + 0.5, _FREQUENCIES * 8).astype(np.int32)
    pixel = np.sinc(f * pixel_um)[:, None] * np.sinc(f * pixel_um)[None, :]
    return index, pixel.astype(np.float32)


def weigh(spectrum: NDArray[np.complex64], factor: Floats) -> None:
    """Multiply a half spectrum (n, n/2+1) by what is the same up and down: (n/2+1, n/2+1) of rows from 0 on."""
    half = len(factor)
    spectrum[:half] *= factor
    spectrum[half:] *= factor[half - 2 : 0 : -1]


def _strips(length: int, width: int) -> Iterator[slice]:
    """All of so many rows, some at a time: numpy transforms in double precision, and this much stays in the cache."""
    step = max(_STRIP_VALUES // width, 8)
    return (slice(first, min(first + step, length)) for first in range(0, length, step))


def spectrum_of(light: Light, colour: int) -> NDArray[np.complex64]:
    """`rfft2` of one colour of a square: (n, n/2+1) complex64."""
    n = light.shape[-1]
    spectrum = np.empty((n, n // 2 + 1), np.complex64)
    for rows in _strips(n, n):
        spectrum[rows] = np.fft.rfft(light[colour, rows])
    for columns in _strips(n // 2 + 1, n):
        spectrum[:, columns] = np.fft.fft(spectrum[:, columns], axis=0)
    return spectrum


def _fold(spectrum: NDArray[np.complex64], out: int) -> NDArray[np.complex64]:
    """Sample in space by folding a half spectrum (n, n/2+1) onto (out, out/2+1): aliases land as they do."""
    n = spectrum.shape[0]
    if out == n:
        return spectrum
    keep, extra = out // 2, n // 2 - out // 2

    def by_rows(part: NDArray[np.complex64]) -> NDArray[np.complex64]:
        rows = np.concatenate([part[:keep], part[-keep:]])
        rows[keep : keep + extra] += part[keep : keep + extra]
        rows[keep - extra : keep] += part[n - n // 2 : n - keep]
        return rows

    folded = by_rows(spectrum[:, : keep + 1])
    mirrored = np.roll(by_rows(spectrum[:, keep : keep + extra + 1])[::-1], 1, axis=0)
    folded[:, keep - extra :] += np.conj(mirrored[:, ::-1])
    return folded


def image(light: Light, table: PupilTable, otf: Floats) -> Floats:
    """What ideal pixels see of a square piece of specimen.

    Args:
        light: (C, n, n) float32 on the fine pitch of `fine_ratio`; taken as periodic, so keep a margin of at least
            `spread_um` and throw it away afterwards.
        table: The pupils (for optics and frequency scale).
        otf: (C, F) radial OTFs from `PupilTable.radial_otf`.

    Returns:
        (C, m, m) float32 mean transmission per pixel, m = n * a / b.
    """
    a, b = fine_ratio(table.optics)
    n = light.shape[-1]
    m = n // b * a
    result = np.empty((len(otf), m, m), np.float32)
    for c, radial in enumerate(otf):
        spectrum = spectrum_of(light, c)
        weigh(spectrum, passed(radial, n, table.optics))
        sampled(spectrum, table.optics, result[c])
    return result


def passed(radial: Floats, n: int, optics: Optics) -> Floats:
    """A radial OTF (F,) at the frequencies of an n x n grid: (n/2+1, n/2+1)."""
    fine = np.linspace(0, _FREQUENCIES - 1, _FREQUENCIES * 8)
    dense = np.append(np.interp(fine, np.arange(_FREQUENCIES), radial), 0.0).astype(np.float32)
    return np.asarray(np.take(dense, _grid(n, *_scale(optics))[0], mode="clip"), np.float32)


def sampled(spectrum: NDArray[np.complex64], optics: Optics, out: Floats) -> None:
    """Integrate light over the pixels and sample it.

    Args:
        spectrum: (n, n/2+1) complex64 half spectrum on the fine pitch of `fine_ratio`; it is used up.
        optics: For pitch and pixel.
        out: (m, m) float32 for the result, m = n * a / b.
    """
    n, m = len(spectrum), len(out)
    weigh(spectrum, _grid(n, *_scale(optics))[1])
    seen = np.asarray(np.fft.irfft2(_fold(spectrum, m), s=(m, m)), np.float32)
    np.multiply(seen, np.float32((m / n) ** 2), out=out)


def _scale(optics: Optics) -> tuple[float, float, float]:
    a, b = fine_ratio(optics)
    return optics.pixel_um * a / b, optics.cutoff_per_um, optics.pixel_um
