"""A whole frame of a tilted specimen, tile by tile, each tile at its own defocus (pure; uses all cores).

Where a slide has several layers, each is blurred by its own defocus; the images of layers that absorb are
multiplied, which holds as long as each of them absorbs weakly, and those of layers that glow are added.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from firmware import coherence
from firmware.optics import Floats, Light, PupilTable, fine_ratio, good_size, image, spread_um
from firmware.sensor import Counts, Sensor, expose
from firmware.slide import Layer, Slide, make_slide, multiple

__all__ = ["DefocusAt", "Field", "Layer", "Slide", "make_slide", "render", "see"]

DefocusAt = Callable[[float, float], float]
"""Defocus in um at a place (x_um, y_um) of the specimen; (0, 0) is the middle of the frame."""
_CORE_PX = 320


@dataclass(frozen=True)
class Field:
    """What changes from the middle of a frame to its edges.

    `tilt_um` is the specimen's rise from edge to edge of the frame, along x and along y. `field_curvature_um`
    is the extra defocus in the corners, growing with the distance from the middle squared; `vignetting` is the
    share of light lost there, growing likewise.
    """

    tilt_um: tuple[float, float] = (0.0, 0.0)
    field_curvature_um: float = 0.0
    vignetting: float = 0.0

    def defocus_at(self, middle_um: float, slide: Slide, pixel_um: float) -> DefocusAt:
        """The defocus all over a frame with `middle_um` in its middle."""
        wide_um, high_um = slide.width_px * pixel_um, slide.height_px * pixel_um
        corner_um2 = (wide_um**2 + high_um**2) / 4

        def at(x_um: float, y_um: float) -> float:
            rise = self.tilt_um[0] * x_um / wide_um + self.tilt_um[1] * y_um / high_um
            return middle_um - rise + self.field_curvature_um * (x_um**2 + y_um**2) / corner_um2

        return at


@dataclass(frozen=True)
class _Tiles:
    """How a frame is cut: corners (top, left) of tiles of `core_px`, rendered `size_px` wide with a margin."""

    places: list[tuple[int, int]]
    core_px: int
    margin_px: int
    size_px: int


def render(
    slide: Slide,
    table: PupilTable,
    defocus_at: DefocusAt | Sequence[DefocusAt],
    sensor: Sensor,
    seed: tuple[int, ...],
    vignetting: float = 0.0,
) -> Counts:
    """Expose one frame.

    Args:
        slide: The specimen.
        table: The pupils; its optics say whether the light is partially coherent.
        defocus_at: Defocus at every place; taken as constant within a tile of some 320 pixels. Several are what a
            moving stage went through while the frame was exposed: their light is averaged.
        sensor: The camera.
        seed: Of the noise; the result does not depend on the number of cores.
        vignetting: Share of light lost in the corners.

    Returns:
        Counts: (H, W, 3), or (H, W) where the sensor has a pattern.
    """
    passed = (defocus_at,) if callable(defocus_at) else defocus_at
    tiles = _cut(slide, table, passed)
    pixel_um = table.optics.pixel_um
    from_middle = np.array(tiles.places) + tiles.core_px / 2 - np.array([slide.height_px, slide.width_px]) / 2
    middles = (from_middle * pixel_um).tolist()
    locals_ = [_local(slide, table, np.array([at(x, y) for y, x in middles])) for at in passed]
    seen_with = _moments(slide, table, locals_)
    frame = sensor.blank_frame(slide.height_px, slide.width_px)

    def paint(k: int) -> None:
        top, left = tiles.places[k]
        origin = (slide.margin_px + top - tiles.margin_px, slide.margin_px + left - tiles.margin_px)
        lights = (
            _light(slide, table, origin, tiles.size_px, local[k], None if otfs is None else otfs[k])
            for local, otfs in seen_with
        )
        seen = _mean(lights, len(seen_with))
        high, wide = min(tiles.core_px, slide.height_px - top), min(tiles.core_px, slide.width_px - left)
        seen = seen[:, tiles.margin_px : tiles.margin_px + high, tiles.margin_px : tiles.margin_px + wide]
        if vignetting:
            seen = seen * _shade(slide, top, left, high, wide, vignetting)
        counts = expose(seen, sensor, np.random.default_rng([*seed, k]), (top, left))
        frame[top : top + high, left : left + wide] = counts

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="render") as pool:
        list(pool.map(paint, range(len(tiles.places))))
    return frame


def see(slide: Slide, table: PupilTable, origin_px: tuple[int, int], size_px: int, defocus_um: float) -> Floats:
    """The light of one square of a slide, all at one stage defocus, before any camera.

    Args:
        slide: The specimen.
        table: The pupils.
        origin_px: Row and column of the square in the slide, counted from the corner of its margin.
        size_px: Its side: from `good_size`. The blur wraps around, so ask for a margin of `spread_um`.
        defocus_um: At height 0.

    Returns:
        (3, size, size) float32.
    """
    local = _local(slide, table, np.array([defocus_um]))
    otfs = _otfs(slide, table, local)
    return _light(slide, table, origin_px, size_px, local[0], None if otfs is None else otfs[0])


def _cut(slide: Slide, table: PupilTable, passed: Sequence[DefocusAt]) -> _Tiles:
    optics = table.optics
    a, b = fine_ratio(optics)
    half_wide, half_high = slide.width_px * optics.pixel_um / 2, slide.height_px * optics.pixel_um / 2
    places = [(x, y) for x in (-half_wide, 0.0, half_wide) for y in (-half_high, 0.0, half_high)]
    depths = [abs(at(x, y)) for at in passed for x, y in places]
    farthest = min(max(depths) + slide.reach_um, table.reach_um) + optics.coverslip_spread_um
    spread = spread_um(farthest + 1.0, optics.numerical_aperture, optics.immersion_index)
    margin = multiple(spread / optics.pixel_um + 6, a)
    size = good_size(multiple(max(_CORE_PX, 1.5 * margin), a) + 2 * margin, a, b)
    core = (size - 2 * margin) // a * a
    corners = [(top, left) for top in range(0, slide.height_px, core) for left in range(0, slide.width_px, core)]
    return _Tiles(corners, core, margin, size)


def _local(slide: Slide, table: PupilTable, defocus_um: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every layer's own defocus, no farther than the table reaches: (Z,) to (Z, L)."""
    heights = np.array([layer.height_um for layer in slide.layers])
    return np.asarray(np.clip(defocus_um[:, None] - heights, -table.reach_um, table.reach_um))


def _otfs(slide: Slide, table: PupilTable, local_um: NDArray[np.float64]) -> Floats | None:
    """OTFs (Z, L, C, F), or None where the light is partially coherent; what glows is always incoherent."""
    if table.optics.condenser_ratio and not slide.glows:
        return None
    otfs = table.radial_otf(local_um.ravel())
    return otfs.reshape(*local_um.shape, *otfs.shape[1:])


def _moments(
    slide: Slide, table: PupilTable, locals_: list[NDArray[np.float64]]
) -> list[tuple[NDArray[np.float64], Floats | None]]:
    """Defoci (Z, L) and OTFs (Z, L, C, F) of the moments to average; one mean OTF does where light only adds up."""
    moments = [(local, _otfs(slide, table, local)) for local in locals_]
    otfs = [otf for _, otf in moments if otf is not None]
    if len(moments) == 1 or not otfs or (len(slide.layers) > 1 and not slide.glows):
        return moments
    return [(locals_[0], _mean(otfs, len(otfs)))]


def _mean(parts: Iterable[Floats], count: int) -> Floats:
    """Of arrays of one shape; one alone is given back as it is."""
    total: Floats = reduce(np.add, parts)
    return total / np.float32(count) if count > 1 else total


def _light(
    slide: Slide,
    table: PupilTable,
    origin_px: tuple[int, int],
    size_px: int,
    local_um: NDArray[np.float64],
    otfs: Floats | None,
) -> Floats:
    """Light (3, size, size) of a square, margin included, every layer at its own defocus (L,)."""
    a, b = fine_ratio(table.optics)
    total: Floats | None = None
    for k, layer in enumerate(slide.layers):
        piece = _piece(layer.light, origin_px, size_px, a, b)
        if otfs is None:
            through = coherence.image(np.asarray(piece), table, float(local_um[k]))
        else:
            through = image(piece, table, otfs[k])
        if total is None:
            total = through
        elif slide.glows:
            total += through
        else:
            total *= through
    assert total is not None
    return total


def _shade(slide: Slide, top: int, left: int, high: int, wide: int, vignetting: float) -> Floats:
    """What vignetting leaves of the light in a tile: (high, wide)."""
    y = np.arange(top, top + high) + 0.5 - slide.height_px / 2
    x = np.arange(left, left + wide) + 0.5 - slide.width_px / 2
    corner = (slide.height_px**2 + slide.width_px**2) / 4
    return (1 - vignetting * np.add.outer(y * y, x * x) / corner).astype(np.float32)


def _piece(light: Light, origin_px: tuple[int, int], size_px: int, a: int, b: int) -> Light:
    """A square of the fine grid; where it leaves the slide, the specimen is mirrored."""
    fine = size_px // a * b
    top, left = (o // a * b for o in origin_px)
    height, width = light.shape[1:]
    if top >= 0 and left >= 0 and top + fine <= height and left + fine <= width:
        inside: Light = light[:, top : top + fine, left : left + fine]
        return inside
    mirrored: Light = light[:, _mirrored(top, fine, height)[:, None], _mirrored(left, fine, width)[None, :]]
    return mirrored


def _mirrored(first: int, count: int, length: int) -> NDArray[np.int64]:
    index = np.arange(first, first + count) % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)
