"""LDSE-Net: a lightweight densely connected network with squeeze-excitation that regresses signed defocus.

Layout after the paper: 7x7/2 stem with padding 3, 3x3/2 max pool, four dense blocks of
BN-activation-convolution, transitions of BN-Tanh-1x1-average pool, squeeze-excitation with Tanh after the
last dense block, global average pooling, fully connected. Ours are the front end (optical density, so that
illumination and stain strength cancel) and the second output, the log of the error's standard deviation.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

TASK = "defocus"
READS = "tiles"
OUTPUTS = ("defocus_um", "log_sigma")


class OpticalDensity(nn.Module):
    """Counts to normalised optical densities and their differences between colours."""

    def forward(self, counts: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 to (N, 5, H, W) float32."""
        density = -torch.log((counts.permute(0, 3, 1, 2).float() + 1.0) / 256.0)
        density = density - _mean(density)
        density = density / torch.sqrt(_mean(density * density) + 1e-4)
        red, green, blue = density.split(1, dim=1)
        return torch.cat([density, 2.0 * (red - green), 2.0 * (green - blue)], dim=1)


def _mean(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, 1, 1), row by row: runtimes that sum 50,000 floats in one go lose digits."""
    return x.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)


class DenseLayer(nn.Module):
    """BN, ReLU, 3x3 convolution; appends its `growth` channels to what came in."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + growth, H, W)."""
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], dim=1)


class Transition(nn.Module):
    """BN, Tanh, 1x1 convolution, 2x2 average pool."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, out, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out, H/2, W/2)."""
        return self.pool(self.conv(torch.tanh(self.norm(x))))  # type: ignore[no-any-return]


class SqueezeExcitation(nn.Module):
    """Weighs channels by what the whole patch shows."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.excite = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        weights = torch.sigmoid(self.excite(torch.tanh(self.squeeze(x.mean(dim=(2, 3))))))
        return x * weights[:, :, None, None]


class Net(nn.Module):
    """(N, 224, 224, 3) uint8 to (N,) defocus in um and (N,) log sigma in log um."""

    def __init__(self, stem: int, growth: int, layers: list[int], transitions: list[int], scale_um: float) -> None:
        super().__init__()
        self.scale_um = scale_um
        self.front = OpticalDensity()
        self.stem = nn.Conv2d(5, stem, 7, stride=2, padding=3, bias=False)
        self.stem_norm = nn.BatchNorm2d(stem)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks: list[nn.Module] = []
        channels = stem
        for depth, out in zip(layers, [*transitions, 0], strict=True):
            widths = range(channels, channels + depth * growth + 1, growth)
            blocks += [DenseLayer(width, growth) for width, _ in pairwise(widths)]
            channels += depth * growth
            if out:
                blocks.append(Transition(channels, out))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels)
        self.attention = SqueezeExcitation(channels, 4)
        self.head = nn.Linear(channels, 2)

    def forward(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Signed defocus and log sigma, both per patch."""
        x = self.pool(torch.relu(self.stem_norm(self.stem(self.front(counts)))))
        x = self.attention(torch.relu(self.norm(self.blocks(x))))
        out = self.head(x.mean(dim=(2, 3)))
        return out[:, 0] * self.scale_um, out[:, 1]
