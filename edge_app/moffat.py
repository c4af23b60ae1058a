"""Moffat: the smooth dip that a focus curve is fitted with, and its robust fit.

A Moffat function is A. F. J. Moffat's profile (Astronomy and Astrophysics 3, 455 (1969)), upside down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
_BETAS = (0.3, 6.0)
_CENTRES, _ALPHAS, _POWERS = 11, 9, 7
_ZOOMS, _ZOOM = 10, 0.5
_ROUNDS = 3
_OUTLIER = 1.5
_MOST = 1.2
_TINY = 1e-12


@dataclass(frozen=True)
class Moffat:
    """b(z) = base + height (1 - (1 + ((z - centre) / alpha)^2)^-beta): a dip of full depth `height`."""

    base: float
    height: float
    alpha_um: float
    beta: float
    centre_um: float = 0.0

    @property
    def width_um(self) -> float:
        """Full width at half maximum of the dip, um."""
        return 2 * self.alpha_um * math.sqrt(2 ** (1 / self.beta) - 1)

    def at(self, z_um: Doubles) -> Doubles:
        """The value at positions of any shape."""
        return np.asarray(self.base + self.height * _shape(z_um - self.centre_um, self.alpha_um, self.beta))


def fit(z_um: Doubles, values: Doubles) -> tuple[Moffat, float]:
    """The Moffat function through points, by robust least squares; gives it and the share of variance explained.

    A search over centre, width and power, ever finer, with base and height solved at each; points that stand out count
    less (Huber). It always ends: where no dip fits, little is explained, and the caller is to refuse. The height is at
    most 1.2 times what the points rise, so that the width is one that was recorded.

    Args:
        z_um: (M,) rising positions.
        values: (M,) there.
    """
    weights = np.ones(len(z_um))
    best = _search(z_um, values, weights)
    for _ in range(_ROUNDS):
        left = np.abs(values - best.at(z_um))
        limit = _OUTLIER * 1.4826 * float(np.median(left)) + _TINY
        weights = np.minimum(1.0, limit / np.maximum(left, _TINY))
        best = _search(z_um, values, weights)
    mean = float(np.average(values, weights=weights))
    total = float(weights @ (values - mean) ** 2)
    rest = float(weights @ (values - best.at(z_um)) ** 2)
    return best, 1 - rest / max(total, _TINY)


def _search(z: Doubles, values: Doubles, weights: Doubles) -> Moffat:
    """The best of a grid over (centre, log alpha, log beta), which then closes in on it."""
    span, step = float(z[-1] - z[0]), float(np.median(np.diff(z)))
    middle = np.array([float(z[int(np.argmin(values))]), math.log(span * step) / 2, math.log(1.0)])
    reach = np.array([span / 4, math.log(span / step) / 2 + 0.7, math.log(_BETAS[1])])
    low = np.array([z[0], math.log(step / 2), math.log(_BETAS[0])])
    high = np.array([z[-1], math.log(2 * span), math.log(_BETAS[1])])
    best: tuple[float, Moffat] | None = None
    for _ in range(_ZOOMS):
        axes = [
            np.unique(np.clip(np.linspace(m - r, m + r, n), lo, hi))
            for m, r, n, lo, hi in zip(middle, reach, (_CENTRES, _ALPHAS, _POWERS), low, high, strict=True)
        ]
        found = _best_of(z, values, weights, axes)
        if best is None or found[0] < best[0]:
            best = found
        dip = best[1]
        middle = np.array([dip.centre_um, math.log(dip.alpha_um), math.log(dip.beta)])
        reach = reach * _ZOOM
    assert best is not None
    return best[1]


def _best_of(z: Doubles, values: Doubles, weights: Doubles, axes: list[Doubles]) -> tuple[float, Moffat]:
    """The cost and the function of the best point of a grid, base and height by least squares."""
    centre, alpha, beta = (part[..., None] for part in np.meshgrid(*axes, indexing="ij"))
    shape = _shape(z - centre, np.exp(alpha), np.exp(beta))
    total = weights.sum()
    mean_shape, mean_value = shape @ weights / total, float(values @ weights / total)
    apart = shape - mean_shape[..., None]
    height = (apart * (values - mean_value)) @ weights / np.maximum((apart**2) @ weights, _TINY)
    height = np.clip(height, 0.0, _MOST * float(np.ptp(values)))
    base = mean_value - height * mean_shape
    left = values - base[..., None] - height[..., None] * shape
    cost = (left**2) @ weights
    at = np.unravel_index(int(cost.argmin()), cost.shape)
    numbers = (base[at], height[at], math.exp(alpha[at][0]), math.exp(beta[at][0]), centre[at][0])
    return float(cost[at]), Moffat(*map(float, numbers))


def _shape(z: Doubles, alpha: Doubles | float, beta: Doubles | float) -> Doubles:
    return np.asarray(1 - (1 + (z / alpha) ** 2) ** -beta, np.float64)
