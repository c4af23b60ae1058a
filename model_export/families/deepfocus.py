"""DeepFocus: how blurred a patch is, as the defocus coefficient of its pupil, from one plane of 128 pixels square.

After A. Shajkofci and M. Liebling, "DeepFocus: a few-shot microscope slide auto-focus using a sample invariant
CNN-based sharpness function", ISBI 2020 (arXiv 2001.00667): a network regresses the Zernike parameters of the pupil,
is trained once over many microscopes, and its defocus coefficient is the score. Theirs is convolutional. Here a front
end with nothing to learn measures power in rings of spatial frequency, and how sparse edges are at octaves of scale;
a small dense network reads these. docs/deepfocus.md compares it with a convolutional one on the same data.

Coefficients are those of Noll's orthonormal Zernike polynomials, in waves at 535 nm, and absolute. A patch shows blur
in pixels; how many waves that are depends on how finely the pupil is sampled. `blur` therefore counts as if every
pupil had its edge at 0.2 cycles per pixel (`model_export.pupils.REFERENCE_EDGE`), and grows as the logarithm far from
focus: `knee * asinh(waves / knee)`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

TASK = "sharpness"
READS = "features"
OUTPUTS = ("blur", "log_sigma", "spherical", "edge")
SIDE_PX = 128
_GREEN = 1
_HIGHEST = SIDE_PX // 2 - 1
_FLOOR = 1e-2
_OCTAVES = 5


class Front(nn.Module):
    """Log power in rings of spatial frequency, and moments of the second and first differences in octaves.

    Rings are 0.5 to 2.4 cycles per patch wide and reach into the corners of the spectrum, where noise alone is left.
    """

    def __init__(self) -> None:
        super().__init__()
        n, f = np.arange(SIDE_PX), np.arange(1, _HIGHEST + 1)
        window = 0.5 - 0.5 * np.cos(2 * np.pi * n / SIDE_PX)
        angle = 2 * np.pi * np.outer(n, f) / SIDE_PX
        waves = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) * window[:, None]
        waves /= math.sqrt(3 / 16 * SIDE_PX)  # half of the sum of the window's squares
        centres = _centres()
        place = np.interp(np.hypot(f[:, None], f[None, :]), centres, np.arange(len(centres)))
        self.rings = len(centres)
        self.register_buffer("waves", torch.from_numpy(waves.astype(np.float32)), persistent=False)
        self.register_buffer("place", torch.from_numpy(place.reshape(-1, 1).astype(np.float32)), persistent=False)
        self.register_buffer("ring", torch.arange(self.rings, dtype=torch.float32)[None], persistent=False)
        self.waves: Tensor
        self.place: Tensor
        self.ring: Tensor

    @property
    def width(self) -> int:
        """How many features a patch has."""
        return self.rings + 2 + 6 * _OCTAVES

    def forward(self, counts: Tensor) -> Tensor:
        """(N, 128, 128, 3) uint8 to (N, F) float32."""
        plane = counts[..., _GREEN].float()
        level = plane.mean(dim=(1, 2), keepdim=True)
        plane = plane - level
        spread = plane.square().mean(dim=(1, 2))
        features = [self._power(plane), torch.log(level[:, :, 0] + 1.0), torch.log(spread + 0.1)[:, None]]
        octave = plane[:, None]
        for _ in range(_OCTAVES):
            features += _moments(octave)
            octave = functional.avg_pool2d(octave, 2)
        return torch.cat(features, dim=1)

    def _power(self, plane: Tensor) -> Tensor:
        """(N, 128, 128) without its mean to (N, R): power of both diagonals, from sums of cosines and sines."""
        cosines, sines = self.waves[:, :_HIGHEST], self.waves[:, _HIGHEST:]
        even, odd = cosines.T @ plane, sines.T @ plane
        parts = (even @ cosines, even @ sines, odd @ cosines, odd @ sines)
        power = parts[0].square() + parts[1].square() + parts[2].square() + parts[3].square()  # (N, K, K)
        rings = torch.relu(1.0 - torch.abs(self.place - self.ring))
        rings = rings / rings.sum(dim=0, keepdim=True)
        return torch.log(power.flatten(1) @ rings / _FLOOR + 1.0)


def _centres() -> list[float]:
    """Middles of the rings, in cycles per patch: each 18 % farther out, but by 0.5 to 2.4."""
    centres = [1.5]
    while centres[-1] < SIDE_PX * 2 / 3:
        centres.append(centres[-1] + min(max(0.18 * centres[-1], 0.5), 2.4))
    return centres


def _moments(x: Tensor) -> list[Tensor]:
    """(N, 1, S, S) to six of (N, 1): power, and two measures of sparsity, of second and of first differences."""
    second = 4 * x[:, :, 1:-1, 1:-1] - x[:, :, :-2, 1:-1] - x[:, :, 2:, 1:-1] - x[:, :, 1:-1, :-2] - x[:, :, 1:-1, 2:]
    across, down = x[:, :, :, 2:] - x[:, :, :, :-2], x[:, :, 2:, :] - x[:, :, :-2, :]
    found = []
    for parts in ((second,), (across, down)):
        size, power, fourth = _mean(parts, 1), _mean(parts, 2), _mean(parts, 4)
        first, squared = torch.log(size + 0.01), torch.log(power + 1e-3)
        found += [squared, squared - 2 * first, torch.log(fourth + 1e-4) - 2 * squared]
    return found


def _mean(parts: tuple[Tensor, ...], order: int) -> Tensor:
    """Mean absolute value to the power of 1, 2 or 4 over one part or two: (N, 1)."""
    powers = [part.abs() if order == 1 else part.square() for part in parts]
    means = [(p.square() if order == 4 else p).mean(dim=(2, 3)) for p in powers]
    return means[0] if len(means) == 1 else 0.5 * (means[0] + means[1])


class Net(nn.Module):
    """(N, 128, 128, 3) uint8 to (N,) blur in waves, log of its sigma, spherical in waves, edge in cycles per pixel.

    `knee` is where, in waves, the score turns from proportional to logarithmic.
    """

    def __init__(self, hidden: list[int], knee: float = 0.15, patch_px: int = SIDE_PX) -> None:
        super().__init__()
        if patch_px != SIDE_PX:
            raise ValueError(f"patch_px is {patch_px}, and this network reads {SIDE_PX}")
        self.knee = knee
        self.front = Front()
        width = self.front.width
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.centre: Tensor
        self.spread: Tensor
        layers: list[nn.Module] = []
        for out in hidden:
            layers += [nn.Linear(width, out), nn.ReLU()]
            width = out
        self.head = nn.Sequential(*layers, nn.Linear(width, len(OUTPUTS)))

    def standardise(self, features: Tensor) -> None:
        """Set what is subtracted from features, and divided by, from (N, F) of the training split."""
        self.centre.copy_(features.mean(dim=0))
        self.spread.copy_(features.std(dim=0) + 1e-3)

    def answer(self, features: Tensor) -> tuple[Tensor, ...]:
        """(N, F) features to the outputs, (N,) each."""
        out = self.head((features - self.centre) / self.spread)
        return out[:, 0] * self.knee, out[:, 1], out[:, 2] * 0.1, out[:, 3] * 0.1

    def forward(self, counts: Tensor) -> tuple[Tensor, ...]:
        """The outputs per patch."""
        return self.answer(self.front(counts))
