"""A whole frame of a tilted specimen, tile by tile, each tile at its own defocus (pure; uses all cores)."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware.optics import Floats, PupilTable, Sensor, expose, fine_ratio, good_size, image, spread_um
from firmware.specimens import transmission

_CORE_PX = 320


@dataclass(frozen=True)
class Slide:
    """A specimen under the objective: (3, H, W) on the fine grid, `margin_px` wider than the frame."""

    light: Floats
    margin_px: int
    height_px: int
    width_px: int


def make_slide(
    kind: str,
    seed: tuple[int, ...],
    table: PupilTable,
    height_px: int,
    width_px: int,
    margin_um: float = 32.0,
) -> Slide:
    """A random specimen that fills a frame and a margin around it, for these optics."""
    a, b = fine_ratio(table.optics)
    margin = _multiple(margin_um / table.optics.pixel_um, a)
    high, wide = (_multiple(side + 2 * margin, a) // a * b for side in (height_px, width_px))
    light = transmission(kind, np.random.default_rng(seed), (high, wide), table.optics.pixel_um * a / b)
    return Slide(light, margin, height_px, width_px)


def render(
    slide: Slide,
    table: PupilTable,
    defocus_at: Callable[[float, float], float],
    sensor: Sensor,
    seed: tuple[int, ...],
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Expose one frame.

    Args:
        slide: The specimen.
        table: The pupils.
        defocus_at: Defocus in um at a place (x_um, y_um) of the specimen, (0, 0) in the middle of the frame;
            taken as constant within a tile of some 320 pixels.
        sensor: The camera.
        seed: Of the noise; the result does not depend on the number of cores.

    Returns:
        (H, W, 3) counts.
    """
    a, b = fine_ratio(table.optics)
    pixel_um = table.optics.pixel_um
    half_wide, half_high = slide.width_px * pixel_um / 2, slide.height_px * pixel_um / 2
    corners = [abs(defocus_at(x, y)) for x in (-half_wide, half_wide) for y in (-half_high, half_high)]
    farthest = min(max(corners), table.reach_um)
    na, n = table.optics.numerical_aperture, table.optics.immersion_index
    margin = _multiple(spread_um(farthest + 1.0, na, n) / pixel_um + 6, a)
    size = good_size(_multiple(max(_CORE_PX, 1.5 * margin), a) + 2 * margin, a, b)
    core = (size - 2 * margin) // a * a
    tops = range(0, slide.height_px, core)
    lefts = range(0, slide.width_px, core)
    places = [(top, left) for top in tops for left in lefts]
    middle_y, middle_x = slide.height_px / 2, slide.width_px / 2
    centres = [(left + core / 2 - middle_x, top + core / 2 - middle_y) for top, left in places]
    depths = np.array([defocus_at(x * pixel_um, y * pixel_um) for x, y in centres])
    otfs = table.radial_otf(np.clip(depths, -table.reach_um, table.reach_um))
    frame = np.empty((slide.height_px, slide.width_px, 3), np.uint8 if sensor.bits <= 8 else np.uint16)

    def paint(k: int) -> None:
        top, left = places[k]
        origin = (slide.margin_px + top - margin, slide.margin_px + left - margin)
        piece = _piece(slide.light, origin, size, a, b)
        high, wide = min(core, slide.height_px - top), min(core, slide.width_px - left)
        seen = image(piece, table, otfs[k])[:, margin : margin + high, margin : margin + wide]
        frame[top : top + high, left : left + wide] = expose(seen, sensor, np.random.default_rng([*seed, k]))

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="render") as pool:
        list(pool.map(paint, range(len(places))))
    return frame


def _multiple(value: float, of: int) -> int:
    return -(-int(np.ceil(value)) // of) * of


def _piece(light: Floats, origin_px: tuple[int, int], size_px: int, a: int, b: int) -> Floats:
    """A square of the fine grid; where it leaves the slide, the specimen is mirrored."""
    fine = size_px // a * b
    top, left = (o // a * b for o in origin_px)
    height, width = light.shape[1:]
    if top >= 0 and left >= 0 and top + fine <= height and left + fine <= width:
        return light[:, top : top + fine, left : left + fine]
    rows, columns = _mirrored(top, fine, height), _mirrored(left, fine, width)
    return np.ascontiguousarray(light[:, rows[:, None], columns[None, :]])


def _mirrored(first: int, count: int, length: int) -> NDArray[np.int64]:
    index = np.arange(first, first + count) % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)
