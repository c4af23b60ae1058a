"""What networks are trained on: tiles to crop at random, or the features of patches; splits are by specimen."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from edge_app.patches import PATCH_PX, PatchGrid, content
from model_export.errors import NoData
from model_export.families import also_of, family_of
from model_export.recipe import Recipe
from model_export.synthesis import Specimen, check_maker
from model_export.teaching import Made, teaching_of

_TRIES = 200
_ALSO = "also."


class Batch(NamedTuple):
    """What a network reads of N patches, by name what it reads beside them (N, width), and what is true of them.

    `seen` is (N, P, P, 3) uint8 or features (N, F) float32; truths are (N,) or (N, W) by name.
    """

    seen: NDArray[Any]
    also: dict[str, NDArray[np.float32]]
    truth: Made


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
    """Tiles of all shards: memory-mapped (T, S, S, 3) uint8 each; `truth`, `also` and `specimen` run over all.

    `turns` says whether what is true of a crop is also true of it turned and mirrored.
    """

    shards: tuple[NDArray[np.uint8], ...]
    truth: Made
    specimen: NDArray[np.int32]
    min_contrast: float
    patch_px: int = PATCH_PX
    also: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    turns: bool = True

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
            index = int(rng.integers(len(self.specimen)))
            crop = random_crop(self.tile(index), rng, self.patch_px, self.turns)
            if is_informative(crop, self.min_contrast):
                patches[len(chosen)] = crop
                chosen.append(index)
            if len(chosen) == size:
                return Batch(patches, _rows(self.also, chosen), _rows(self.truth, chosen))
        raise NoData("these tiles show next to nothing; give the recipe other kinds of specimen or more light")


@dataclass(frozen=True)
class Features:
    """Features (N, F) float32 of all informative patches; what is true of each, and what is read beside it."""

    features: NDArray[np.float32]
    truth: Made
    specimen: NDArray[np.int32]
    also: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def draw(self, rng: np.random.Generator, size: int) -> Batch:
        """Rows at random: (size, F) float32."""
        if not len(self.specimen):
            raise NoData("no patch is informative; give the recipe other kinds of specimen or more light")
        rows = rng.integers(len(self.specimen), size=size)
        return Batch(self.features[rows], _rows(self.also, rows), _rows(self.truth, rows))


class Reduced(NamedTuple):
    """What a shard keeps of a specimen's tiles in any task; (N,) each row's z in um, and which tile it is of."""

    made: Made
    z_um: NDArray[np.float32]
    tile: NDArray[np.int64]


def reduce(recipe: Recipe, specimen: Specimen, index: int) -> Reduced:
    """What the recipe's family reads of one specimen: its tiles, or the features of their informative patches."""
    tiles = specimen.tiles
    if family_of(recipe.family).READS == "tiles":
        return _reduced({"tiles": tiles}, specimen.z_um.mean(axis=(1, 2)), np.arange(len(tiles)), index)
    grid = PatchGrid.fit(tiles.shape[1], tiles.shape[2], recipe.patch_px)
    keep = np.stack([content(tile, grid, recipe.data.min_contrast).informative for tile in tiles])
    patches = np.concatenate([grid.cut(tile, kept) for tile, kept in zip(tiles, keep, strict=True)])
    z_um = specimen.z_um.reshape(keep.shape)[keep]
    return _reduced({"features": features_of(recipe, patches)}, z_um, np.nonzero(keep)[0], index)


def features_of(recipe: Recipe, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the front end of the recipe's family gives of patches (N, P, P, 3) uint8: (N, F) float32."""
    front = _front(recipe.family, json.dumps(recipe.network))
    with torch.inference_mode():
        parts = [front(torch.from_numpy(patches[k : k + 8])) for k in range(0, len(patches), 8)]
    features: NDArray[np.float32] = torch.cat(parts).numpy() if parts else np.empty((0, front.width), np.float32)
    return features


def _reduced(made: Made, z_um: NDArray[np.float32], tile: NDArray[np.int64], index: int) -> Reduced:
    return Reduced({**made, "specimen": np.full(len(z_um), index, np.int32)}, z_um, tile)


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
    teaching, kind = teaching_of(recipe.task), family_of(recipe.family).READS
    last = f".{teaching.TRUTHS[-1]}.npy"
    stems = sorted(p.name[: -len(last)] for p in folder.glob(f"{split}-*{last}"))
    if not stems:
        command = f"parfocal-model synth {recipe.name} --data {folder}"
        raise NoData(f"{folder} has no shards of the split {split!r}; make them with: {command}")

    def read(name: str) -> NDArray[Any]:
        return np.concatenate([np.load(folder / f"{stem}.{name}.npy") for stem in stems])

    try:
        shards = [np.load(folder / f"{stem}.{kind}.npy", mmap_mode="r") for stem in stems]
        truth, specimen = {name: read(name) for name in teaching.TRUTHS}, read("specimen")
        also = {name: read(f"{_ALSO}{name}") for name in also_of(recipe.family)}
    except (OSError, ValueError) as error:
        what = f"{folder}: a shard of {split!r} cannot be read ({error})"
        raise NoData(f"{what}; remove it and run synth again") from error
    if kind == "tiles":
        least = recipe.data.min_contrast
        return Tiles(tuple(shards), truth, specimen, least, recipe.patch_px, also, teaching.TURNS)
    return Features(np.concatenate(shards), truth, specimen, also)


def _rows(of: dict[str, NDArray[Any]], rows: Any) -> dict[str, NDArray[Any]]:
    return {name: values[rows] for name, values in of.items()}


def random_crop(
    tile: NDArray[np.uint8], rng: np.random.Generator, side: int = PATCH_PX, turns: bool = True
) -> NDArray[np.uint8]:
    """A crop of so many pixels at a random place, in one of its eight orientations or as it stands."""
    top, left = rng.integers(0, tile.shape[0] - side + 1, 2)
    crop = tile[top : top + side, left : left + side]
    if not turns:
        return np.ascontiguousarray(crop)
    if rng.uniform() < 0.5:
        crop = crop.swapaxes(0, 1)
    return np.ascontiguousarray(crop[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))])


def is_informative(patch: NDArray[np.uint8], min_contrast: float) -> bool:
    """Whether a patch shows so much that it would be asked about; every patch does where the least contrast is 0."""
    return not min_contrast or bool(content(patch, PatchGrid(1, 1, 0, 0, patch.shape[0]), min_contrast).informative[0])
