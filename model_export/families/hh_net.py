"""HH-Net: seven ordered focus classes from patches of 300 pixels and eighteen handcrafted features of their frame.

Layout after the paper: what comes from the patch becomes 224 numbers, what comes from the frame 32; the 256
together go through one more layer of 256 to seven logits, in the order of `edge_app.tasks.quality.INDICES`. The
variant "paper" has the paper's trunk, thirteen convolutions in five stages, each ended by 2x2 max pooling, on all of
whose last map (9x9x512) the 224 stand; how many convolutions each stage has (2, 2, 3, 3, 3) and the pooling are our
reading. It is here to be built, exported and compared: it takes raw counts, which shards of this family do not keep.
The variant "edge" has the same inputs, outputs and head, and the spectral family's rings of frequency for a trunk.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model_export.families.spectral import Rings

TASK = "quality"
READS = "features"
OUTPUTS = ("logits",)
ALSO = {"handcrafted": 18}
SIDE_PX = 300
CLASSES = 7
STAGES = ((5, 64, 2), (3, 128, 2), (3, 256, 3), (3, 512, 3), (3, 512, 3))
"""Kernel, channels and convolutions of each of the paper's stages."""
_FROM_PATCH, _FROM_FRAME, _HEAD = 224, 32, 256
_FAR = 3.0


class Pixels(nn.Module):
    """Counts as they are, scaled: the front end of the paper's network."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 3 * SIDE_PX**2

    def forward(self, counts: Tensor) -> Tensor:
        """(N, 300, 300, 3) uint8 to (N, 270000) float32 of -1 to 1, colours first."""
        return (counts.permute(0, 3, 1, 2).float() / 127.5 - 1.0).flatten(1)


class Convolutions(nn.Module):
    """The paper's trunk."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for kernel, out, depth in STAGES:
            for _ in range(depth):
                layers += [nn.Conv2d(channels, out, kernel, padding=kernel // 2), nn.ReLU()]
                channels = out
            layers.append(nn.MaxPool2d(2))
        self.stages = nn.Sequential(*layers)
        self.width = channels * (SIDE_PX >> len(STAGES)) ** 2

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 270000) to (N, 41472)."""
        return self.stages(pixels.reshape(-1, 3, SIDE_PX, SIDE_PX)).flatten(1)  # type: ignore[no-any-return]


class Net(nn.Module):
    """(N, 300, 300, 3) uint8 and (N, 18) float32 to (N, 7) logits.

    Args:
        variant: "edge" or "paper".
        rings: Of the edge variant's front end, like `highest`, which is in cycles per patch.
        highest: See `families.spectral.Rings`.
        dropouts: Shares that are dropped in training from the 256 numbers and from the layer after them.
        handcrafted: Whether the features of the frame are looked at; without them their 32 numbers are 0.
        patch_px: Side of a patch; 300 is the only one.
    """

    def __init__(
        self,
        variant: str,
        rings: int = 28,
        highest: int = 128,
        dropouts: tuple[float, float] = (0.7, 0.5),
        handcrafted: bool = True,
        patch_px: int = SIDE_PX,
    ) -> None:
        super().__init__()
        if variant not in ("edge", "paper") or patch_px != SIDE_PX:
            raise ValueError(f"variant is {variant!r} and patch_px {patch_px}; it takes edge or paper, and {SIDE_PX}")
        self.handcrafted = handcrafted
        self.front: Pixels | Rings
        self.trunk: Convolutions | Standardise
        if variant == "paper":
            self.front, self.trunk = Pixels(), Convolutions()
        else:
            self.front = Rings(rings, highest, 3, True, SIDE_PX, SIDE_PX)
            self.trunk = Standardise(self.front.width)
        self.of_patch = nn.Linear(self.trunk.width, _FROM_PATCH)
        self.frame = Standardise(ALSO["handcrafted"])
        self.of_frame = nn.Linear(ALSO["handcrafted"], _FROM_FRAME)
        self.head = nn.Sequential(
            nn.Dropout(dropouts[0]),
            nn.Linear(_FROM_PATCH + _FROM_FRAME, _HEAD),
            nn.ReLU(),
            nn.Dropout(dropouts[1]),
            nn.Linear(_HEAD, CLASSES),
        )

    def standardise(self, features: Tensor, handcrafted: Tensor) -> None:
        """Set what both inputs are centred on and divided by, from (N, F) and (N, 18) of the training split."""
        if isinstance(self.trunk, Standardise):
            self.trunk.learn(features)
        self.frame.learn(handcrafted)

    def answer(self, features: Tensor, handcrafted: Tensor) -> tuple[Tensor]:
        """(N, F) of the patches and (N, 18) of their frames to the logits, (N, 7)."""
        patch = torch.relu(self.of_patch(self.trunk(features)))
        # A frame unlike any in training pulls no farther than the most unusual of those.
        frame = torch.relu(self.of_frame(_FAR * torch.tanh(self.frame(handcrafted) / _FAR)))
        if not self.handcrafted:
            frame = frame * 0.0
        return (self.head(torch.cat([patch, frame], dim=1)),)

    def forward(self, counts: Tensor, handcrafted: Tensor) -> tuple[Tensor]:
        """The logits per patch."""
        return self.answer(self.front(counts), handcrafted)


class Standardise(nn.Module):
    """Subtracts the mean over the training split, and divides by its standard deviation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.centre: Tensor
        self.spread: Tensor

    def learn(self, values: Tensor) -> None:
        """From (N, width)."""
        self.centre.copy_(values.mean(dim=0))
        self.spread.copy_(values.std(dim=0) + 1e-3)

    def forward(self, values: Tensor) -> Tensor:
        """(N, width) to the same."""
        return (values - self.centre) / self.spread
