"""Patches: where a frame is cut, and which pieces show anything worth asking a network about.

Training and serving call the same functions here, so that a network never meets a patch it was not shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.errors import GridTooLarge

PATCH_PX = 224
BIN_PX = 8
MIN_CONTRAST = 0.012
_DARK = 10.0
_DIM = 24.0
_BRIGHT = 254.0
_FROM_BLOCK = 2


@dataclass(frozen=True)
class RegionOfInterest:
    """A rectangle of the sensor, in pixels."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int

    def of(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """This part of (H, W, ...), as a view."""
        return pixels[self.y_px : self.y_px + self.height_px, self.x_px : self.x_px + self.width_px]


@dataclass(frozen=True)
class PatchGrid:
    """A centred grid of `rows` x `columns` square patches without overlap."""

    rows: int
    columns: int
    top_px: int
    left_px: int
    patch_px: int = PATCH_PX

    @classmethod
    def fit(
        cls, height_px: int, width_px: int, patch_px: int = PATCH_PX, roi: RegionOfInterest | None = None
    ) -> PatchGrid:
        """The largest grid inside a frame or a region of it; 88 patches for 2592x1944.

        Raises:
            GridTooLarge: Not one patch fits, or the region leaves the frame.
        """
        area = roi or RegionOfInterest(0, 0, width_px, height_px)
        inside = (
            min(area.x_px, area.y_px) >= 0
            and area.x_px + area.width_px <= width_px
            and area.y_px + area.height_px <= height_px
        )
        if not inside:
            raise GridTooLarge(
                f"the region {area.width_px}x{area.height_px} at ({area.x_px}, {area.y_px}) leaves the frame of "
                f"{width_px}x{height_px} pixels; choose one inside it"
            )
        rows, columns = area.height_px // patch_px, area.width_px // patch_px
        if rows < 1 or columns < 1:
            raise GridTooLarge(
                f"a patch of {patch_px}x{patch_px} pixels does not fit into {area.width_px}x{area.height_px}; "
                "use a larger frame or region"
            )
        top = area.y_px + (area.height_px - rows * patch_px) // 2
        left = area.x_px + (area.width_px - columns * patch_px) // 2
        return cls(rows, columns, top, left, patch_px)

    @property
    def count(self) -> int:
        """Patches in the grid."""
        return self.rows * self.columns

    def region(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The part of (H, W, ...) that the grid covers, as a view."""
        return pixels[
            self.top_px : self.top_px + self.rows * self.patch_px,
            self.left_px : self.left_px + self.columns * self.patch_px,
        ]

    def cut(self, rgb: NDArray[np.uint8], keep: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
        """Patches of (H, W, 3) uint8 in reading order, only those in `keep` if given: (N, P, P, 3) uint8."""
        p = self.patch_px
        tiles = self.region(rgb).reshape(self.rows, p, self.columns, p, 3).swapaxes(1, 2)
        if keep is None:
            return np.ascontiguousarray(tiles).reshape(-1, p, p, 3)
        wanted = np.flatnonzero(keep)
        out = np.empty((len(wanted), p, p, 3), np.uint8)
        for slot, index in enumerate(wanted):
            out[slot] = tiles[index // self.columns, index % self.columns]
        return out

    def per_patch(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean over each patch of an image that covers the region at any scale: (N,) or (N, C)."""
        means = cv2.resize(image, (self.columns, self.rows), interpolation=cv2.INTER_AREA)
        return np.asarray(means, np.float32).reshape(self.count, *image.shape[2:])


@dataclass(frozen=True)
class Content:
    """What the patches show, before any network looks.

    All (N,): `contrast` is the relative spread of brightness at scales above `BIN_PX` pixels, which blur does
    not take away, on dark ground relative to `_DIM` counts; `brightness` is the count (0 to 255) of
    its bright parts, two deviations above the mean; `saturated` is the share of blown-out bins.
    """

    contrast: NDArray[np.float32]
    brightness: NDArray[np.float32]
    saturated: NDArray[np.float32]
    min_contrast: float = MIN_CONTRAST

    @property
    def informative(self) -> NDArray[np.bool_]:
        """(N,) True where a patch is worth asking about."""
        usable = (self.brightness > _DARK) & (self.saturated < 0.5)
        return (self.contrast > self.min_contrast) & usable


def content(rgb: NDArray[np.uint8], grid: PatchGrid, min_contrast: float = MIN_CONTRAST) -> Content:
    """Measure every patch of a frame (H, W, 3) uint8 in one pass over bins of 8x8 pixels, every other row of them.

    `min_contrast` is what tells specimen from blank; a model brings its own.
    """
    bins_high, bins_wide = grid.rows * grid.patch_px // BIN_PX, grid.columns * grid.patch_px // BIN_PX
    rows = grid.region(rgb)[::2]
    bins = cv2.resize(rows, (bins_wide, bins_high), interpolation=cv2.INTER_AREA).astype(np.float32)
    mean = grid.per_patch(bins)
    spread = np.sqrt(np.maximum(grid.per_patch(bins * bins) - mean * mean, 0.0))
    darkest = np.minimum(np.minimum(bins[:, :, 0], bins[:, :, 1]), bins[:, :, 2])
    blown = grid.per_patch((darkest >= _BRIGHT).astype(np.float32))
    bright = (mean + 2 * spread).mean(axis=1)
    return Content((spread / np.maximum(mean, _DIM)).max(axis=1), bright, blown, min_contrast)


def chosen(seen: Content, grid: PatchGrid, at_most: int = 0) -> NDArray[np.bool_]:
    """Which informative patches to ask about, (N,).

    All of them, unless they are more than `at_most` (0 sets no limit): then the two with most contrast in every
    block of two by two, or in larger blocks where these are too many, so that they stay spread over the frame.
    """
    informative = seen.informative
    if not at_most or int(informative.sum()) <= at_most:
        return informative
    side = _block(grid, at_most)
    rank = np.where(informative, seen.contrast, -1.0).reshape(grid.rows, grid.columns)
    rank = np.pad(rank, ((0, -grid.rows % side), (0, -grid.columns % side)), constant_values=-1.0)
    high, wide = rank.shape[0] // side, rank.shape[1] // side
    blocks = rank.reshape(high, side, wide, side).swapaxes(1, 2).reshape(high * wide, -1)
    best = np.argsort(-blocks, axis=1, kind="stable")[:, : min(_FROM_BLOCK, at_most)]
    keep = np.zeros(blocks.shape, bool)
    np.put_along_axis(keep, best, True, axis=1)
    keep &= blocks >= 0
    kept = keep.reshape(high, wide, side, side).swapaxes(1, 2).reshape(rank.shape)
    return np.ascontiguousarray(kept[: grid.rows, : grid.columns]).ravel()


def _block(grid: PatchGrid, at_most: int) -> int:
    """The side of the smallest blocks, in patches, that leave no more than `at_most` of the grid."""
    side = 2
    while _FROM_BLOCK * -(-grid.rows // side) * -(-grid.columns // side) > at_most and side < max(
        grid.rows, grid.columns
    ):
        side += 1
    return side
