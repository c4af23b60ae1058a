"""A slide under the objective: one or more thin layers at their heights, and what can be known of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from firmware.optics import Floats, Light, PupilTable, fine_ratio
from firmware.specimens import GLOWING, make_specimen

_STEP = 4
_CLEAR = 0.05
"""What absorbs or shines less than this share counts as nothing."""


@dataclass(frozen=True)
class Layer:
    """A thin piece of specimen: the light (3, H, W) that it sends on, and its height.

    `height_um` is positive towards the objective, in um of objective travel: at stage defocus z the layer's own
    defocus is z - height.
    """

    light: Light
    height_um: float = 0.0


@dataclass(frozen=True)
class Slide:
    """Layers on the fine grid, `margin_px` wider than the frame on every side.

    A pixel is `ratio[1] / ratio[0]` steps of the grid wide. Layers that glow add up, others multiply.
    """

    layers: tuple[Layer, ...]
    margin_px: int
    height_px: int
    width_px: int
    ratio: tuple[int, int] = (1, 1)
    glows: bool = False

    @property
    def reach_um(self) -> float:
        """Height of the layer farthest from the middle."""
        return max(abs(layer.height_um) for layer in self.layers)

    def covered(self) -> NDArray[np.bool_]:
        """Where the slide, seen sharply, shows something.

        That is more than 5 % absorbed in any colour, or, if it glows, more than 5 % of its peak above its ground.

        Returns:
            (H, W) bool of every `_STEP`-th point of the fine grid.
        """
        light = _sparse(self.layers[0])
        for layer in self.layers[1:]:
            more = _sparse(layer)
            light = light + more if self.glows else light * more
        if not self.glows:
            return np.asarray(light.min(axis=0) < 1.0 - _CLEAR)
        above = light - light.min(axis=(1, 2), keepdims=True)
        return np.asarray(above.max(axis=0) > _CLEAR * above.max())

    def coverage(self, patch_px: int, rows: int, columns: int, top_px: int, left_px: int) -> NDArray[np.float64]:
        """Share of every patch that shows something (see `covered`).

        Args:
            patch_px: Side of the square patches, which lie side by side.
            rows: Of the grid of patches.
            columns: Likewise.
            top_px: Where the grid begins in the frame.
            left_px: Likewise.

        Returns:
            (rows, columns) float64.
        """
        return self._coverage(self._edges(top_px, patch_px, rows), self._edges(left_px, patch_px, columns))

    def frame_coverage(self) -> float:
        """The same for the whole frame, without its margin."""
        return float(self._coverage(*self._frame())[0, 0])

    def heights_um(self, patch_px: int, rows: int, columns: int, top_px: int, left_px: int) -> NDArray[np.float64]:
        """Mean height in every patch, weighted by absorbance (by emission if the slide glows).

        The true defocus of a patch is the stage's defocus there minus this. Where nothing weighs, every layer
        weighs the same. The arguments are those of `coverage`.

        Returns:
            (rows, columns) float64.
        """
        return self._heights_um(self._edges(top_px, patch_px, rows), self._edges(left_px, patch_px, columns))

    def mean_height_um(self) -> float:
        """The same for the whole frame."""
        return float(self._heights_um(*self._frame())[0, 0])

    def _coverage(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        area = np.outer(np.diff(rows), np.diff(columns))
        return np.asarray(_sums(self.covered().astype(np.float64), rows, columns) / area)

    def _heights_um(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        if len(self.layers) == 1:
            return np.full((len(rows) - 1, len(columns) - 1), self.layers[0].height_um)
        weights = np.stack([_sums(self._weight(layer), rows, columns) for layer in self.layers])
        weights += 1e-9 * max(float(weights.max()), 1.0)
        heights = np.array([layer.height_um for layer in self.layers])
        return np.asarray(np.tensordot(heights, weights, axes=1) / weights.sum(axis=0))

    def _weight(self, layer: Layer) -> NDArray[np.float64]:
        """How much a layer shows, at every `_STEP`-th point."""
        light = _sparse(layer).astype(np.float64)
        weight = light - light.min(axis=(1, 2), keepdims=True) if self.glows else -np.log(light)
        return np.asarray(weight.mean(axis=0))

    def _frame(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The frame as one patch: its edges."""
        return self._edges(0, self.height_px, 1), self._edges(0, self.width_px, 1)

    def _edges(self, first_px: int, size_px: int, count: int) -> NDArray[np.int64]:
        """Where patches begin and the last one ends, in `_STEP`s of the fine grid."""
        a, b = self.ratio
        places = self.margin_px + first_px + size_px * np.arange(count + 1)
        return np.rint(places * b / (a * _STEP)).astype(np.int64)


def _sparse(layer: Layer) -> Floats:
    """The light of every `_STEP`-th point: (3, h, w)."""
    return np.asarray(layer.light[:, ::_STEP, ::_STEP], np.float32)


def _sums(values: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums over the rectangles between neighbouring edges: (R-1, C-1)."""
    inside = values[rows[0] : rows[-1], columns[0] : columns[-1]]
    by_row = np.add.reduceat(inside, rows[:-1] - rows[0], axis=0)
    return np.asarray(np.add.reduceat(by_row, columns[:-1] - columns[0], axis=1))


def make_slide(
    kind: str,
    seed: tuple[int, ...],
    table: PupilTable,
    height_px: int,
    width_px: int,
    margin_um: float = 32.0,
    *,
    thickness_um: float = 0.0,
    layers: int = 1,
) -> Slide:
    """A random specimen that fills a frame and a margin around it, for these optics.

    Args:
        kind: A key of `specimens.KINDS`.
        seed: Of everything that is left to chance.
        table: Gives the fine grid.
        height_px: Of the frame.
        width_px: Likewise.
        margin_um: How far the specimen reaches beyond the frame.
        thickness_um: The layers' heights are spread over +- half of this, one in each of as many even parts.
        layers: Their number. All are of one kind; each has its own structure and a random share of the
            absorbance. If they glow, the brightest keeps its brightness, and overlaps may exceed 1. A single
            layer lies at height 0.
    """
    a, b = fine_ratio(table.optics)
    margin = multiple(margin_um / table.optics.pixel_um, a)
    high, wide = (multiple(side + 2 * margin, a) // a * b for side in (height_px, width_px))
    pitch_um = table.optics.pixel_um * a / b
    seeds = [seed, *((*seed, 31, k) for k in range(1, layers))]
    specimens = [make_specimen(kind, np.random.default_rng(s), (high, wide), pitch_um) for s in seeds]
    glows = kind in GLOWING
    heights = [0.0]
    if layers > 1:
        rng = np.random.default_rng([*seed, 37])
        heights = (((np.arange(layers) + rng.uniform(size=layers)) / layers - 0.5) * thickness_um).tolist()
        shares = rng.dirichlet(np.full(layers, 4.0))
        shares /= shares.max() if glows else 1.0
        specimens = [replace(made, share=float(share)) for made, share in zip(specimens, shares, strict=True)]
    stack = tuple(Layer(made, height) for made, height in zip(specimens, heights, strict=True))
    return Slide(stack, margin, height_px, width_px, (a, b), glows)


def multiple(value: float, of: int) -> int:
    """The smallest multiple of `of` that is not below `value`."""
    return -(-int(np.ceil(value)) // of) * of
