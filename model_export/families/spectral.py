"""Spectral: signed defocus from how each colour's power falls over spatial frequency, by a small dense network.

A patch is weighed by a Hann window and transformed by matrix products with cosines and sines; power and
cross-power of the colours are averaged over rings of frequency. Ratios between colours cancel the specimen and
leave the optics: with longitudinal colour and spherical aberration they tell the side of focus. The front end has
nothing to learn; it is the same graph in training and serving.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

TASK = "defocus"
READS = "features"
OUTPUTS = ("defocus_um", "log_sigma", "side", "distance_um", "thickness_um")
SIDE_PX = 224
_LEVEL_STEP = 8
# What is added to power, which is counted in it: the exporter drops an addition of 1e-8 or less.
_FLOOR = 1e-6


class Rings(nn.Module):
    """Log power, colour ratios and coherence in rings of spatial frequency.

    Args:
        rings: How many, logarithmically spaced from 2 to `highest` cycles per patch.
        highest: The highest frequency that the optics pass, in cycles per patch (less than S / 2).
        colours: 3, or 1 for a monochrome camera.
        density: Whether to take the logarithm of the counts first (bright field) or not (fluorescence).
        patch_px: Side P of a patch, a multiple of `side_px`: larger ones are binned to that.
        side_px: Side S of what is transformed, even.
    """

    def __init__(
        self,
        rings: int,
        highest: int,
        colours: int,
        density: bool,
        patch_px: int = SIDE_PX,
        side_px: int = SIDE_PX,
    ) -> None:
        super().__init__()
        self.highest, self.colours, self.density, self.middle = highest, colours, density, side_px // 2
        self.binning, rest = divmod(patch_px, side_px)
        if rest or not self.binning:
            raise ValueError(f"patch_px is {patch_px}, which is no multiple of {side_px}")
        n, f = np.arange(1, self.middle + 1), np.arange(1, highest + 1)
        window = 0.5 - 0.5 * np.cos(2 * np.pi * n / side_px)
        angle = 2 * np.pi * np.outer(n, f) / side_px
        waves = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) * window[:, None]
        waves /= math.sqrt(3 / 16 * side_px)  # half of the sum of the window's squares
        waves[-1, :highest] /= 2
        radius = np.hypot(f[:, None], f[None, :])
        centres = np.geomspace(2.0, highest, rings)
        place = np.interp(np.log(radius), np.log(centres), np.arange(rings))
        place[(radius > highest) | (radius < 2.0)] = 1e4
        self.register_buffer("waves", torch.from_numpy(waves.astype(np.float32)), persistent=False)
        self.register_buffer("place", torch.from_numpy(place.reshape(-1, 1).astype(np.float32)), persistent=False)
        self.register_buffer("ring", torch.arange(rings, dtype=torch.float32)[None], persistent=False)
        self.waves: Tensor
        self.place: Tensor
        self.ring: Tensor

    @property
    def width(self) -> int:
        """How many features a patch has."""
        rings, pairs = self.ring.shape[1], self.colours - 1
        return int(rings * (self.colours + 2 * pairs) + self.colours)

    def forward(self, counts: Tensor) -> Tensor:
        """(N, P, P, 3) uint8 to (N, F) float32."""
        x = counts[..., : self.colours].permute(0, 3, 1, 2).float() + 1.0
        if self.binning > 1:
            x = functional.avg_pool2d(x, self.binning)
        if self.density:
            x = torch.log(x)
        level = x[:, :, ::_LEVEL_STEP, ::_LEVEL_STEP].mean(dim=(2, 3))
        cosine_cosine, cosine_sine, sine_cosine, sine_sine = parts = self._transform(x, level)
        power = cosine_cosine.square() + cosine_sine.square() + sine_cosine.square() + sine_sine.square()
        rings = torch.relu(1.0 - torch.abs(self.place - self.ring))
        rings = rings / rings.sum(dim=0, keepdim=True)
        power = power.flatten(2) @ rings / _FLOOR  # (N, C, R)
        if not self.density:
            power = power / level.square()[:, :, None]
        log_power = torch.log(power + 1.0) + math.log(_FLOOR)
        features = [log_power.flatten(1)]
        if self.colours > 1:
            first, second, third, fourth = (part[:, :-1] * part[:, 1:] for part in parts)
            shared = (first + second + third + fourth).flatten(2) @ rings / _FLOOR  # (N, C - 1, R)
            if not self.density:
                shared = shared / (level[:, :-1] * level[:, 1:])[:, :, None]
            features.append((log_power[:, :-1] - log_power[:, 1:]).flatten(1))
            features.append((shared / torch.sqrt(power[:, :-1] * power[:, 1:] + 1.0)).flatten(1))
        features.append(torch.log(level) if not self.density else level)
        return torch.cat(features, dim=1)

    def _transform(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(N, C, S, S) and its mean (N, C) to four (N, C, K, K): cosines or sines down, cosines or sines across.

        The window is zero in row 0; row n and row S - n share a cosine and have opposite sines, so that sums and
        differences of rows take half of the work down, and only the sums know the mean. Row S / 2 meets itself in the
        sum: its cosines are halved. Turning columns round would take longer than the work that it spares.
        """
        cosines, sines = self.waves[:, : self.highest], self.waves[:, self.highest :]
        above, below = x[:, :, 1 : self.middle + 1], torch.flip(x[:, :, self.middle :], (2,))
        even = cosines.T @ (above + below - 2 * level[:, :, None, None])
        odd = sines.T @ (above - below)
        edge = torch.zeros_like(cosines[:1])
        cosines = torch.cat([edge, cosines[:-1], 2 * cosines[-1:], torch.flip(cosines[:-1], (0,))])
        sines = torch.cat([edge, sines, -torch.flip(sines[:-1], (0,))])
        return even @ cosines, even @ sines, odd @ cosines, odd @ sines


class Net(nn.Module):
    """(N, P, P, 3) uint8 to (N,) defocus in um, log sigma, logit of "above focus", distance, thickness in um."""

    def __init__(
        self,
        rings: int,
        highest: int,
        hidden: list[int],
        scale_um: float,
        colours: int = 3,
        density: bool = True,
        patch_px: int = SIDE_PX,
    ) -> None:
        super().__init__()
        self.scale_um = scale_um
        self.front = Rings(rings, highest, colours, density, patch_px)
        layers: list[nn.Module] = []
        width = self.front.width
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.centre: Tensor
        self.spread: Tensor
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
        return out[:, 0] * self.scale_um, out[:, 1], out[:, 2], out[:, 3] * self.scale_um, out[:, 4] * self.scale_um

    def forward(self, counts: Tensor) -> tuple[Tensor, ...]:
        """The outputs per patch."""
        return self.answer(self.front(counts))
