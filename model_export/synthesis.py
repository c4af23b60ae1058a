"""Synthetic tiles: random specimens behind random aberrations, exposed by firmware.optics, with their z."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firmware.optics import Optics, PupilTable, Sensor, expose, fine_ratio, good_size, image, spread_um
from firmware.specimens import transmission
from model_export.errors import NoData
from model_export.recipe import OpticsTable, Recipe

SPLITS = {"train": 0, "validation": 1, "specimens": 2, "optics": 3, "demo": 4}
SPECIMENS_PER_SHARD = 250
_MAKER = "recipe.json"


def draw_optics(rng: np.random.Generator, table: OpticsTable) -> Optics:
    """One microscope out of the recipe's ranges."""
    nominal = Optics()
    shift = rng.uniform(-1, 1, 3) * table.wavelength_shift_nm
    shifted = [np.add(lines, s) for lines, s in zip(nominal.lines_nm, shift, strict=True)]
    colour = rng.uniform(*table.longitudinal_colour_scale) * np.asarray(nominal.longitudinal_colour_um)
    return Optics(
        numerical_aperture=rng.uniform(*table.numerical_aperture),
        pixel_um=rng.uniform(*table.pixel_um),
        spherical_waves=rng.uniform(*table.spherical_waves),
        longitudinal_colour_um=(float(colour[0]), float(colour[1]), float(colour[2])),
        lines_nm=tuple(tuple(lines.tolist()) for lines in shifted),
    )


def draw_sensor(rng: np.random.Generator, table: OpticsTable) -> Sensor:
    """One linear 8-bit camera out of the recipe's ranges."""
    red, green, blue = 1 + rng.uniform(-1, 0, 3) * table.gain_spread
    return Sensor(
        full_well_e=rng.uniform(*table.full_well_e),
        read_noise_e=rng.uniform(*table.read_noise_e),
        exposure=rng.uniform(*table.exposure),
        gains=(red, green, blue),
    )


def draw_depths(rng: np.random.Generator, recipe: Recipe) -> NDArray[np.float64]:
    """Defocus values for one specimen, um: stratified over the range, some near focus, some far beyond."""
    data, count = recipe.data, recipe.data.depths_per_specimen
    if rng.uniform() < data.far_share:
        return rng.choice([-1.0, 1.0], count) * rng.uniform(data.range_um, data.far_um, count)
    edge = 1.2 * data.range_um
    z = (np.arange(count) + rng.uniform(0, 1, count)) / count * 2 * edge - edge
    near = rng.uniform(size=count) < 0.3
    z[near] = rng.normal(0, 1.2, int(near.sum()))
    return z


def specimen_tiles(recipe: Recipe, split: str, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """All tiles of one specimen: (Z, S, S, 3) uint8 and their defocus (Z,) float32 in um."""
    rng = np.random.default_rng([recipe.seed, SPLITS[split], index])
    optics = draw_optics(rng, recipe.optics)
    kinds = recipe.data.kinds
    kind = str(rng.choice(list(kinds), p=np.asarray(list(kinds.values())) / sum(kinds.values())))
    depths = draw_depths(rng, recipe)
    table = PupilTable(optics, float(np.abs(depths).max()) + 0.1)
    a, b = fine_ratio(optics)

    def size_for(z_um: float) -> int:
        margin = spread_um(abs(z_um) + 1.0, optics.numerical_aperture) / optics.pixel_um
        return good_size(recipe.data.tile_px + 2 * int(margin + 8), a, b)

    largest = size_for(float(np.abs(depths).max())) // a * b
    light = transmission(kind, rng, (largest, largest), optics.pixel_um * a / b)
    tiles = np.empty((len(depths), recipe.data.tile_px, recipe.data.tile_px, 3), np.uint8)
    for slot, (z, otf) in enumerate(zip(depths, table.radial_otf(depths), strict=True)):
        fine = size_for(float(z)) // a * b
        off = (largest - fine) // 2
        seen = image(light[:, off : off + fine, off : off + fine], table, otf)
        edge = (seen.shape[1] - recipe.data.tile_px) // 2
        core = seen[:, edge : edge + recipe.data.tile_px, edge : edge + recipe.data.tile_px]
        tiles[slot] = expose(core, draw_sensor(rng, recipe.optics), rng)
    return tiles, depths.astype(np.float32)


def write_shards(
    recipe: Recipe, split: str, specimens: int, out: Path, workers: int, progress: Callable[[int, int], None]
) -> None:
    """Write shards of tiles for one split into `out`; shards that are already there are kept.

    Each shard is `SPLIT-NNN.tiles.npy` (T, S, S, 3) uint8, `.z.npy` (T,) float32 and `.specimen.npy` (T,)
    int32.

    Raises:
        NoData: The folder holds the shards of another recipe.
    """
    check_maker(out, recipe)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MAKER).write_text(_key(recipe), encoding="utf-8")
    done = 0
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:  # a fork would inherit torch's locks
        for first in range(0, specimens, SPECIMENS_PER_SHARD):
            members = range(first, min(first + SPECIMENS_PER_SHARD, specimens))
            stem = out / f"{split}-{first // SPECIMENS_PER_SHARD:03d}"
            if not stem.with_suffix(".z.npy").exists():
                made = pool.map(partial(specimen_tiles, recipe, split), members, chunksize=4)
                _write_shard(stem, members, made)
            done += len(members)
            progress(done, specimens)


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
    return json.dumps(recipe.model_dump(include={"seed", "optics", "data"}, exclude_unset=True), sort_keys=True)


def _write_shard(stem: Path, members: range, made: Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]) -> None:
    tiles, depths = zip(*made, strict=True)
    per = tiles[0].shape[0]
    np.save(stem.with_suffix(".tiles.npy"), np.concatenate(tiles))
    np.save(stem.with_suffix(".specimen.npy"), np.repeat(np.asarray(members, np.int32), per))
    np.save(stem.with_suffix(".z.npy"), np.concatenate(depths))
