"""Shards as batches: random crops, flips and turns of tiles, blank crops left out; splits are by specimen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_app.patches import PATCH_PX, PatchGrid, content
from model_export.errors import NoData
from model_export.recipe import Recipe
from model_export.synthesis import check_maker

_TRIES = 200


@dataclass(frozen=True)
class Tiles:
    """All shards of one split.

    `shards` are memory-mapped (T, S, S, 3) uint8; `z_um` (N,) float32 and `specimen` (N,) int32 run over all.
    """

    shards: tuple[NDArray[np.uint8], ...]
    z_um: NDArray[np.float32]
    specimen: NDArray[np.int32]

    def tile(self, index: int) -> NDArray[np.uint8]:
        """One tile, (S, S, 3) uint8."""
        for shard in self.shards:
            if index < len(shard):
                tile: NDArray[np.uint8] = shard[index]
                return tile
            index -= len(shard)
        raise IndexError(index)


def open_tiles(folder: Path, split: str, recipe: Recipe) -> Tiles:
    """Open a split for reading.

    Raises:
        NoData: The folder has no such shards, one is truncated, or another recipe made them.
    """
    check_maker(folder, recipe)
    stems = sorted(p.name[: -len(".tiles.npy")] for p in folder.glob(f"{split}-*.tiles.npy"))
    if not stems:
        command = f"parfocal-model synth {recipe.name} --data {folder}"
        raise NoData(f"{folder} has no shards of the split {split!r}; make them with: {command}")
    try:
        shards = tuple(np.load(folder / f"{stem}.tiles.npy", mmap_mode="r") for stem in stems)
        depths = np.concatenate([np.load(folder / f"{stem}.z.npy") for stem in stems])
        specimen = np.concatenate([np.load(folder / f"{stem}.specimen.npy") for stem in stems])
    except (OSError, ValueError) as error:
        what = f"{folder}: a shard of {split!r} cannot be read ({error})"
        raise NoData(f"{what}; remove it and run synth again") from error
    return Tiles(shards, depths, specimen)


def draw_batch(tiles: Tiles, rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Informative random crops: (size, 224, 224, 3) uint8 and their defocus (size,) float32 in um.

    Raises:
        NoData: Next to nothing in these tiles is informative.
    """
    patches = np.empty((size, PATCH_PX, PATCH_PX, 3), np.uint8)
    depths = np.empty(size, np.float32)
    slot = 0
    for _ in range(_TRIES * size):
        index = int(rng.integers(len(tiles.z_um)))
        crop = random_crop(tiles.tile(index), rng)
        if is_informative(crop):
            patches[slot], depths[slot] = crop, tiles.z_um[index]
            slot += 1
        if slot == size:
            return patches, depths
    raise NoData("these tiles show next to nothing; give the recipe other kinds of specimen or more light")


def random_crop(tile: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A crop of 224x224 at a random place, in one of its eight orientations."""
    top, left = rng.integers(0, tile.shape[0] - PATCH_PX + 1, 2)
    crop = tile[top : top + PATCH_PX, left : left + PATCH_PX]
    if rng.uniform() < 0.5:
        crop = crop.swapaxes(0, 1)
    return np.ascontiguousarray(crop[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))])


def is_informative(patch: NDArray[np.uint8]) -> bool:
    """Whether serving would ask the network about this patch."""
    return bool(content(patch, PatchGrid(1, 1, 0, 0, patch.shape[0])).informative[0])
