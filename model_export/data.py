"""What networks are trained on: tiles to crop at random, or the features of patches; splits are by specimen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from edge_app.patches import PATCH_PX, PatchGrid, content
from model_export.errors import NoData
from model_export.families import family_of
from model_export.recipe import Recipe
from model_export.synthesis import Made, Specimen, check_maker

_TRIES = 200


class Batch(NamedTuple):
    """What a network reads of N patches, and (N,) float32 in um: their defocus, and how thick their specimens are."""

    seen: NDArray[Any]
    z_um: NDArray[np.float32]
    thickness_um: NDArray[np.float32]


class Split(Protocol):
    """One split, opened for reading."""

    def draw(self, rng: np.random.Generator, size: int) -> Batch:
        """`size` patches at random.

        Raises:
            NoData: Next to nothing in this split is informative.
        """
        ...


@dataclass(frozen=True)
class Tiles:
    """Tiles of all shards: memory-mapped (T, S, S, 3) uint8 each; what is (N,) runs over all."""

    shards: tuple[NDArray[np.uint8], ...]
    z_um: NDArray[np.float32]
    thickness_um: NDArray[np.float32]
    specimen: NDArray[np.int32]
    min_contrast: float
    patch_px: int = PATCH_PX

    def tile(self, index: int) -> NDArray[np.uint8]:
        """One tile, (S, S, 3) uint8."""
        for shard in self.shards:
            if index < len(shard):
                tile: NDArray[np.uint8] = shard[index]
                return tile
            index -= len(shard)
        raise IndexError(index)

    def draw(self, rng: np.random.Generator, size: int) -> Batch:
        """Informative random crops: (size, P, P, 3) uint8."""
        patches = np.empty((size, self.patch_px, self.patch_px, 3), np.uint8)
        chosen: list[int] = []
        for _ in range(_TRIES * size):
            index = int(rng.integers(len(self.z_um)))
            crop = random_crop(self.tile(index), rng, self.patch_px)
            if is_informative(crop, self.min_contrast):
                patches[len(chosen)] = crop
                chosen.append(index)
            if len(chosen) == size:
                return Batch(patches, self.z_um[chosen], self.thickness_um[chosen])
        raise NoData("these tiles show next to nothing; give the recipe other kinds of specimen or more light")


@dataclass(frozen=True)
class Features:
    """Features (N, F) float32 of all informative patches, and what is (N,) of each."""

    features: NDArray[np.float32]
    z_um: NDArray[np.float32]
    thickness_um: NDArray[np.float32]
    specimen: NDArray[np.int32]

    def draw(self, rng: np.random.Generator, size: int) -> Batch:
        """Rows at random: (size, F) float32."""
        if not len(self.z_um):
            raise NoData("no patch is informative; give the recipe other kinds of specimen or more light")
        rows = rng.integers(len(self.z_um), size=size)
        return Batch(self.features[rows], self.z_um[rows], self.thickness_um[rows])


def reduce(recipe: Recipe, specimen: Specimen, index: int) -> Made:
    """What a shard keeps of one specimen: what the recipe's family reads."""
    tiles = specimen.tiles
    if family_of(recipe.family).READS == "tiles":
        return {"tiles": tiles, **_truths(specimen, specimen.z_um.mean(axis=(1, 2)), index)}
    grid = PatchGrid.fit(tiles.shape[1], tiles.shape[2], recipe.patch_px)
    keep = np.stack([content(tile, grid, recipe.data.min_contrast).informative for tile in tiles])
    patches = np.concatenate([grid.cut(tile, kept) for tile, kept in zip(tiles, keep, strict=True)])
    front = _front(recipe.family, json.dumps(recipe.network))
    with torch.inference_mode():
        parts = [front(torch.from_numpy(patches[k : k + 8])) for k in range(0, len(patches), 8)]
    features = torch.cat(parts).numpy() if parts else np.empty((0, front.width), np.float32)
    return {"features": features, **_truths(specimen, specimen.z_um.reshape(keep.shape)[keep], index)}


def _truths(specimen: Specimen, z_um: NDArray[np.float32], index: int) -> Made:
    """What is known of a specimen's tiles or patches, all (N,)."""
    thickness = np.full(len(z_um), specimen.thickness_um, np.float32)
    return {"z": z_um, "thickness": thickness, "specimen": np.full(len(z_um), index, np.int32)}


@lru_cache(maxsize=1)
def _front(family: str, network: str) -> Any:
    torch.set_num_threads(1)
    return family_of(family).Net(**json.loads(network)).front


def open_split(folder: Path, split: str, recipe: Recipe) -> Tiles | Features:
    """Open a split for reading.

    Raises:
        NoData: The folder has no such shards, one is truncated, or another recipe made them.
    """
    check_maker(folder, recipe)
    kind = family_of(recipe.family).READS
    stems = sorted(p.name[: -len(".z.npy")] for p in folder.glob(f"{split}-*.z.npy"))
    if not stems:
        command = f"parfocal-model synth {recipe.name} --data {folder}"
        raise NoData(f"{folder} has no shards of the split {split!r}; make them with: {command}")
    try:
        shards = [np.load(folder / f"{stem}.{kind}.npy", mmap_mode="r") for stem in stems]
        z_um, thickness_um, specimen = (
            np.concatenate([np.load(folder / f"{stem}.{name}.npy") for stem in stems])
            for name in ("z", "thickness", "specimen")
        )
    except (OSError, ValueError) as error:
        what = f"{folder}: a shard of {split!r} cannot be read ({error})"
        raise NoData(f"{what}; remove it and run synth again") from error
    if kind == "tiles":
        return Tiles(tuple(shards), z_um, thickness_um, specimen, recipe.data.min_contrast, recipe.patch_px)
    return Features(np.concatenate(shards), z_um, thickness_um, specimen)


def random_crop(tile: NDArray[np.uint8], rng: np.random.Generator, side: int = PATCH_PX) -> NDArray[np.uint8]:
    """A crop of so many pixels at a random place, in one of its eight orientations."""
    top, left = rng.integers(0, tile.shape[0] - side + 1, 2)
    crop = tile[top : top + side, left : left + side]
    if rng.uniform() < 0.5:
        crop = crop.swapaxes(0, 1)
    return np.ascontiguousarray(crop[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))])


def is_informative(patch: NDArray[np.uint8], min_contrast: float) -> bool:
    """Whether a patch shows so much that it would be asked about."""
    return bool(content(patch, PatchGrid(1, 1, 0, 0, patch.shape[0]), min_contrast).informative[0])
