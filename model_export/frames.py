"""Evaluation frames: whole frames of drawn slides at stratified depths, and what a model answered to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_app.linear import rgb8
from edge_app.model import Model
from edge_app.patches import PATCH_PX, PatchGrid, chosen, content
from firmware.frames import Frame, FrameOptics
from firmware.optics import PupilTable, spread_um
from firmware.rendering import Field, Slide, make_slide, render
from model_export.conditions import Conditions, Setting
from model_export.errors import BadRecipe

FRAME_PX = (1944, 2592)
BLANK = 0.02
ATTEMPTS = 40
Further = dict[str, NDArray[np.float32]]
"""What a network reads beside patches, by name: (K, width) each."""
Predict = Callable[..., dict[str, NDArray[np.float32]]]
"""(K, P, P, 3) uint8 and, for networks that read more, by name what they read beside (K, width): outputs by name."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Subject:
    """A model under evaluation: (K, P, P, 3) uint8 to outputs (K,) by name, and how serving asks it."""

    predict: Predict
    patches_at_most: int
    min_contrast: float
    patch_px: int = PATCH_PX


def subject_of(model: Model) -> Subject:
    """An opened bundle; where each patch comes with what is read beside it, the runtime is asked itself."""

    def predict(counts: NDArray[np.uint8], also: Further | None = None) -> dict[str, NDArray[np.float32]]:
        return model.runtime.infer(counts, also) if also else model.infer(counts)

    return Subject(predict, model.patches_at_most, model.min_contrast, model.patch_px)


@dataclass(frozen=True)
class Truth:
    """A frame and all that is true of it.

    `truth_um` is the defocus in the middle, counted from the absorbance-weighted mean depth of the specimen;
    `patch_truth_um` (N,) that of every patch; `covered` (N,) the share of each patch that absorbs (or glows).
    """

    frame: Frame
    truth_um: float
    patch_truth_um: NDArray[np.float32]
    covered: NDArray[np.float32]
    grid: PatchGrid


@dataclass(frozen=True)
class Answered:
    """One frame's truth and a model's raw answers for all of its K informative patches, by output name (K,)."""

    truth_um: float
    patch_truth_um: NDArray[np.float32]
    covered: NDArray[np.float32]
    informative: Mask
    chosen: Mask
    outputs: dict[str, NDArray[Any]]
    grid: PatchGrid
    optics: FrameOptics

    def asked(self) -> tuple[dict[str, NDArray[Any]], Mask]:
        """The answers for those patches that serving would ask about, and which (N,) these are."""
        keep = self.chosen[self.informative]
        return {name: values[keep] for name, values in self.outputs.items()}, self.chosen


def frames_of(
    conditions: Conditions,
    range_um: float,
    seed: tuple[int, ...],
    specimens: int,
    depths: int,
    frame_px: tuple[int, int] = FRAME_PX,
    patch_px: int = PATCH_PX,
) -> Iterator[Truth]:
    """Frames of so many specimens, each at so many depths, one in every stratum of the range."""
    for index in range(specimens):
        rng = np.random.default_rng([*seed, index])
        setting = conditions.draw(rng, (index + 0.5) / specimens)
        z = (np.arange(depths) + rng.uniform(0, 1, depths)) / depths * 2 * range_um - range_um
        yield from frames_at(setting, z, (*seed, index), frame_px, patch_px)


def frames_at(
    setting: Setting, z_um: NDArray[np.float64], seed: tuple[int, ...], frame_px: tuple[int, int], patch_px: int
) -> Iterator[Truth]:
    """Frames of one slide at these defoci (Z,), um."""
    optics = setting.optics
    rise = abs(setting.field_curvature_um) + 0.5 * sum(map(abs, setting.tilt_um)) + setting.thickness_um / 2
    reach = float(np.abs(z_um).max()) + rise + 0.1
    table = PupilTable(optics, reach)
    farthest = reach + optics.coverslip_spread_um + 1.0
    blur_um = spread_um(farthest, optics.numerical_aperture, optics.immersion_index)
    slide = slide_of(setting, (*seed, 1), table, frame_px, blur_um + 12 * optics.pixel_um)
    grid = PatchGrid.fit(*frame_px, patch_px)
    heights, covered = slide.heights_um(*_where(grid)), slide.coverage(*_where(grid))
    field = Field(setting.tilt_um, setting.field_curvature_um, setting.vignetting)
    across = (np.arange(grid.columns) - (grid.columns - 1) / 2) * grid.patch_px * optics.pixel_um
    down = (np.arange(grid.rows) - (grid.rows - 1) / 2) * grid.patch_px * optics.pixel_um
    for k, depth in enumerate(z_um.tolist()):
        at = field.defocus_at(depth, slide, optics.pixel_um)
        local = np.array([[at(x, y) for x in across.tolist()] for y in down.tolist()])
        counts = render(slide, table, at, setting.sensor, (*seed, 2, k), setting.vignetting)
        yield Truth(
            setting.frame(counts),
            depth - slide.mean_height_um(),
            (local - heights).astype(np.float32).ravel(),
            covered.astype(np.float32).ravel(),
            grid,
        )


def slide_of(
    setting: Setting,
    seed: tuple[int, ...],
    table: PupilTable,
    frame_px: tuple[int, int],
    margin_um: float,
    attempts: int = ATTEMPTS,
) -> Slide:
    """The setting's slide: the first of so many draws that is as blank as its conditions say.

    Raises:
        BadRecipe: None of them was.
    """
    wanted = setting.conditions.slide
    grid = PatchGrid.fit(*frame_px)
    for attempt in range(attempts):
        slide = make_slide(
            setting.kind,
            (*seed, attempt) if attempt else seed,
            table,
            *frame_px,
            margin_um,
            thickness_um=setting.thickness_um,
            layers=wanted.layers if setting.thickness_um else 1,
        )
        if not wanted.blank_at_least or (slide.coverage(*_where(grid)) < BLANK).mean() >= wanted.blank_at_least:
            return slide
    raise BadRecipe(
        f"each of {attempts} slides of the kind {setting.kind!r} had less than {wanted.blank_at_least:.0%} of its "
        "patches blank; lower blank_at_least, or leave that kind out"
    )


def _where(grid: PatchGrid) -> tuple[int, int, int, int, int]:
    return grid.patch_px, grid.rows, grid.columns, grid.top_px, grid.left_px


def answer_all(truths: Iterator[Truth], subject: Subject, progress: Callable[[], None]) -> list[Answered]:
    """Ask a model about every informative patch of every frame; `progress` is called after each."""
    answered = []
    for truth in truths:
        rgb = rgb8(truth.frame)
        seen = content(rgb, truth.grid, subject.min_contrast)
        informative = seen.informative
        outputs = subject.predict(truth.grid.cut(rgb, informative)) if informative.any() else {}
        answered.append(
            Answered(
                truth.truth_um,
                truth.patch_truth_um,
                truth.covered,
                informative,
                chosen(seen, truth.grid, subject.patches_at_most),
                outputs,
                truth.grid,
                truth.frame.optics,
            )
        )
        progress()
    return answered
