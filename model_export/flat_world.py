"""A flat world: one flat specimen on a perfect stage behind an objective as designed, photographed at any defocus.

What DeepFocus's paper measured in: no tilt, no play, no drift; focus is at 0 um. What lies beyond the field comes from
its other side. Modalities are "bright field" (stained tissue and smears), "fluorescence", and "dark ground" (the same
stains seen by a grey camera as light in proportion to their absorbance: a stand-in for dark field and reflection).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edge_app.answer import screen
from edge_app.model import Model
from edge_app.patches import PatchGrid, chosen, content
from edge_app.strategy import Observation
from firmware.focal_stack import focal_stack
from firmware.frames import FrameOptics
from firmware.optics import Optics, PupilTable, depth_of_field_um, fine_ratio, good_size
from firmware.sensor import Sensor, expose
from model_export.evaluate import load_set
from model_export.windows import RESPONSES, light_of

OBJECTIVES = {"10x/0.30": "10x", "20x/0.75": "nominal", "40x/0.65": "40x"}
"""Objectives by name, and the evaluation set that states each."""
MODALITIES = ("bright field", "fluorescence", "dark ground")
_GREEN, _GREY = RESPONSES[0], RESPONSES[1]
_MARGIN_PX = 24
_STEP = 1000.0


class FlatWorld:
    """One specimen behind one objective.

    Args:
        objective: A key of `OBJECTIVES`.
        index: Which specimen; its modality goes round `MODALITIES`.
        seed: With `index`, the only source of chance.
        side_px: Side of the square field.
        reach_um: Farthest defocus that can be asked for.
    """

    def __init__(self, objective: str, index: int, seed: int, side_px: int, reach_um: float) -> None:
        rng = np.random.default_rng((seed, index))
        self.optics: Optics = load_set(OBJECTIVES[objective]).conditions.optics.draw(np.random.default_rng(0))
        self.modality = MODALITIES[index % len(MODALITIES)]
        self.depth_of_field_um = depth_of_field_um(self.optics.numerical_aperture)
        self.reach_um, self._side_px, self._seed = reach_um, side_px, (seed, index)
        self._table = PupilTable(self.optics, reach_um + 0.1)
        a, b = fine_ratio(self.optics)
        size = good_size(side_px + _MARGIN_PX, a, b)
        kinds = {"bright field": ("tissue", "smear"), "fluorescence": ("fluorescence",), "dark ground": ("dark",)}
        kind = str(rng.choice(kinds[self.modality]))
        self._light = light_of(kind, rng, size // a * b, self.optics.pixel_um * a / b)
        exposure = 0.8 if self.modality == "bright field" else 0.6
        self._sensor = Sensor(exposure=exposure, pattern="mono", mono_response=(1.0, 0.0, 0.0))

    def photographs(self, z_um: NDArray[np.float64]) -> Iterator[NDArray[np.uint8]]:
        """A frame (S, S, 3) uint8, grey repeated, at each of (Z,) defocus values, um; the same at the same place."""
        response = _GREY if self.modality == "dark ground" else _GREEN
        side, otfs = self._side_px, self._table.radial_otf(np.clip(z_um, -self.reach_um, self.reach_um))
        for z, image in zip(z_um.tolist(), focal_stack(self._light, self._table, otfs, response), strict=True):
            rng = np.random.default_rng((*self._seed, 7, round((z + self.reach_um) * _STEP)))
            light = np.broadcast_to(image[:side, :side], (3, side, side))
            counts = expose(light, self._sensor, rng).astype(np.uint8)
            yield np.repeat(counts[..., None], 3, axis=2)

    def look(self, model: Model, z_um: float) -> Observation:
        """What the board's line makes of a photograph at one defocus."""
        (rgb,) = self.photographs(np.array([z_um]))
        return look_at(model, rgb, z_um)


def look_at(model: Model, rgb: NDArray[np.uint8], z_um: float) -> Observation:
    """What the board's line makes of a frame, (H, W, 3) uint8; the patches' sharpness is left at zero."""
    grid = PatchGrid.fit(rgb.shape[0], rgb.shape[1], model.patch_px)
    seen = content(rgb, grid, model.min_contrast)
    asked = chosen(seen, grid, model.patches_at_most)
    refused = screen(seen)
    if refused is not None:
        answer = model.refuse(refused, grid)
    else:
        answer = model.answer(model.infer(grid.cut(rgb, asked)), asked, grid, FrameOptics())
    return Observation(z_um, answer, np.zeros(grid.count, np.float32), asked)
