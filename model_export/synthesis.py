"""Synthetic tiles: specimens drawn from a recipe's conditions, seen by its cameras at many depths, with their z."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_app.patches import PatchGrid
from firmware.optics import PupilTable, fine_ratio, good_size, spread_um
from firmware.rendering import Slide, make_slide, see
from firmware.sensor import expose
from model_export.errors import NoData
from model_export.recipe import Recipe
from model_export.teaching import Made, Progress, teaching_of

if TYPE_CHECKING:
    from model_export.teaching.defocus import Data

SPLITS = {"train": 0, "validation": 1}
SPECIMENS_PER_SHARD = 250
_MAKER = "recipe.json"
_DURATION = "duration_s.txt"
_EDGE_PX = 8


@dataclass(frozen=True)
class Specimen:
    """All tiles of one specimen.

    `tiles` is (Z, S, S, 3) uint8 as networks see them; `z_um` the defocus of every patch of the tile's grid,
    (Z, R, C) float32, counted from the absorbance-weighted mean depth of what lies in the patch; `thickness_um`
    how far its layers lie apart, 0 where it has but one.
    """

    tiles: NDArray[np.uint8]
    z_um: NDArray[np.float32]
    thickness_um: float


Depths = Callable[[np.random.Generator, "Data"], NDArray[np.float64]]
"""Draws defocus values for one specimen, um."""


def draw_depths(rng: np.random.Generator, data: Data) -> NDArray[np.float64]:
    """Defocus values for one specimen, um: stratified over the range, some near focus, some far beyond."""
    count = data.depths_per_specimen
    if rng.uniform() < data.far_share:
        return rng.choice([-1.0, 1.0], count) * rng.uniform(data.range_um, data.far_um, count)
    edge = 1.2 * data.range_um
    z = (np.arange(count) + rng.uniform(0, 1, count)) / count * 2 * edge - edge
    near = rng.uniform(size=count) < 0.3
    z[near] = rng.normal(0, 0.12 * data.range_um, int(near.sum()))
    return z


def specimen_tiles(recipe: Recipe, split: str, index: int, draw: Depths = draw_depths) -> Specimen:
    """All tiles of one specimen, every one before a camera of its own; `recipe.data` is as the task defocus has it."""
    seed = (recipe.seed, SPLITS[split], index)
    rng = np.random.default_rng(seed)
    side = recipe.data.tile_px
    conditions = recipe.pick(rng)
    setting = conditions.draw(rng)
    depths = draw(rng, recipe.data)
    farthest = float(np.abs(depths).max()) + setting.thickness_um / 2 + 0.1
    table = PupilTable(setting.optics, farthest)
    margin_um = _margin_px(table, side, farthest) * setting.optics.pixel_um
    slide = make_slide(
        setting.kind,
        (*seed, 1),
        table,
        side,
        side,
        margin_um,
        thickness_um=setting.thickness_um,
        layers=conditions.slide.layers if setting.thickness_um else 1,
    )
    grid = PatchGrid.fit(side, side, recipe.patch_px)
    heights = slide.heights_um(grid.patch_px, grid.rows, grid.columns, grid.top_px, grid.left_px)
    tiles = np.empty((len(depths), side, side, 3), np.uint8)
    for slot, z in enumerate(depths.tolist()):
        light = _seen(slide, table, z)
        camera = setting.with_camera(rng)
        tiles[slot] = camera.seen(expose(light, camera.sensor, rng))
    return Specimen(tiles, (depths[:, None, None] - heights[None]).astype(np.float32), setting.thickness_um)


def _margin_px(table: PupilTable, side_px: int, farthest_um: float) -> int:
    """How much of the specimen around a tile is needed at the largest defocus, in pixels."""
    optics = table.optics
    farthest_um += optics.coverslip_spread_um
    spread = spread_um(farthest_um + 1.0, optics.numerical_aperture, optics.immersion_index) / optics.pixel_um
    return (good_size(side_px + 2 * int(spread + _EDGE_PX), *fine_ratio(optics)) - side_px + 1) // 2


def _seen(slide: Slide, table: PupilTable, z_um: float) -> NDArray[np.float32]:
    """The middle of a slide at one defocus: (3, S, S) float32; less margin is rendered where less is needed."""
    a, b = fine_ratio(table.optics)
    side = slide.height_px
    reach_um = abs(z_um) + max(abs(layer.height_um) for layer in slide.layers)
    size = good_size(side + 2 * (_margin_px(table, side, reach_um) - 1), a, b)
    light = see(slide, table, (slide.margin_px - (size - side) // 2,) * 2, size, z_um)
    edge = (size - side) // 2
    return light[:, edge : edge + side, edge : edge + side]


def write_shards(
    recipe: Recipe,
    split: str,
    specimens: int,
    out: Path,
    workers: int,
    progress: Progress,
) -> None:
    """Write shards for one split into `out`; shards that are already there are kept.

    Each shard is as many `SPLIT-NNN.NAME.npy` as the task's `make` gives arrays of a specimen, one after the other.

    Raises:
        NoData: The folder holds the shards of another recipe.
    """
    check_maker(out, recipe)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MAKER).write_text(_key(recipe), encoding="utf-8")
    last = teaching_of(recipe.task).TRUTHS[-1]
    done, began = 0, time.monotonic() - data_duration_s(out)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:  # a fork would inherit torch's locks
        for first in range(0, specimens, SPECIMENS_PER_SHARD):
            members = range(first, min(first + SPECIMENS_PER_SHARD, specimens))
            stem = f"{split}-{first // SPECIMENS_PER_SHARD:03d}"
            if not (out / f"{stem}.{last}.npy").exists():
                _write_shard(out, stem, last, pool.map(partial(_make, recipe, split), members, chunksize=4))
                (out / _DURATION).write_text(f"{time.monotonic() - began:.1f}", encoding="utf-8")
            done += len(members)
            progress(done, specimens)


def data_duration_s(folder: Path) -> float:
    """How long it took to write a folder's shards, all runs together."""
    record = folder / _DURATION
    return float(record.read_text(encoding="utf-8")) if record.exists() else 0.0


def _make(recipe: Recipe, split: str, index: int) -> Made:
    return teaching_of(recipe.task).make(recipe, split, index)


def check_maker(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder whose shards another recipe made.

    Raises:
        NoData: It is so.
    """
    maker = folder / _MAKER
    if maker.exists() and maker.read_text(encoding="utf-8") != _key(recipe):
        raise NoData(f"{folder} was made by another recipe; make new shards in another folder")


def _key(recipe: Recipe) -> str:
    """What of a recipe decides its shards, as JSON."""
    parts = {"family", "task", "seed", "conditions", "data", "network"}
    return json.dumps(recipe.model_dump(include=parts, exclude_unset=True), sort_keys=True)


def _write_shard(out: Path, stem: str, last: str, made: Iterator[Made]) -> None:
    """`last` is written last: a shard without it is not there."""
    specimens = list(made)
    for name in sorted(specimens[0], key=lambda name: name == last):
        np.save(out / f"{stem}.{name}.npy", np.concatenate([arrays[name] for arrays in specimens]))
