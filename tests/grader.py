"""A model that grades focus by the simulated world's truth at mid-exposure, a little unsure, and takes its time."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from oracle import manifest

from edge_app.answer import Answer, Mask
from edge_app.bundle import Manifest, ModelBundle
from edge_app.feed import NOTHING, Beside
from edge_app.model import Model
from edge_app.patches import PatchGrid
from edge_app.tasks import quality
from edge_app.tasks.quality import INDICES, QualityGrade
from firmware.clock import Clock
from firmware.frames import FrameOptics, Pixels
from firmware.optics import depth_of_field_um
from firmware.simulation import Scene, World

Wrong = Callable[[float], float]
"""The distance index that is graded, by the true one."""
_DOUBT = 0.35


def probabilities(distances: NDArray[np.float64], doubt: float = _DOUBT) -> NDArray[np.float32]:
    """Of the seven classes: (N,) distances from focus in spacings to (N, 7)."""
    edges = np.array([3.5, 2.5, 1.5, 0.5, -0.5, -1.5, -2.5])
    above = 1 / (1 + np.exp(-(distances[:, None] - edges) / (0.3 * doubt)))
    inner = np.diff(above, axis=1)
    blurred = above[:, :1] + 1 - above[:, -1:]
    return np.concatenate([blurred, inner], axis=1).astype(np.float32)


def graded(chances: NDArray[np.float32], spacing_um: float, grid: PatchGrid, asked: Mask) -> QualityGrade:
    """A frame's grade from its patches' probabilities (N, 7), NaN where a patch was not asked."""
    return quality.grade(chances[asked], asked, grid, spacing_um, "grader")


class Grader:
    """A runtime that knows where the frame that was developed last was taken; its noise is in spacings."""

    name, note = "grader", ""

    def __init__(self, world: World, clock: Clock, took_s: float, noise: float, wrong: Wrong) -> None:
        self._world, self._clock, self._took_s = world, clock, took_s
        self._noise, self._wrong = noise, wrong
        self._rng = np.random.default_rng(7)
        self._develop = world.develop
        self._defocus_um = 0.0
        world.develop = self._noted  # type: ignore[method-assign]

    def _noted(self, scene: Scene) -> Pixels:
        self._defocus_um = scene.defocus_um - self._world._mean_height_um()
        return self._develop(scene)

    def infer(self, counts: NDArray[np.uint8], also: Beside = NOTHING) -> dict[str, NDArray[np.float32]]:
        """(K, P, P, 3) uint8 to (K, 7) probabilities."""
        del also
        self._clock.sleep(self._took_s)
        true = self._defocus_um / (2.0 * self._world.depth_of_field_um)
        return {"chances": probabilities(self._wrong(true) + self._rng.normal(0.0, self._noise, len(counts)))}


def _answer(
    outputs: dict[str, NDArray[np.float32]], asked: Mask, grid: PatchGrid, manifest: Manifest, optics: FrameOptics
) -> Answer:
    del manifest
    chances = np.full((grid.count, len(INDICES)), np.nan, np.float32)
    chances[asked] = outputs["chances"]
    assert optics.numerical_aperture is not None
    return graded(chances, 2.0 * depth_of_field_um(optics.numerical_aperture), grid, asked)


def grader(
    world: World, clock: Clock, took_s: float = 0.05, noise: float = 0.1, wrong: Wrong = lambda true: true
) -> Model:
    """A model of the task quality for 20x/0.75."""
    about = manifest().model_copy(update={"name": "grader", "task": "quality"})
    task = cast("ModuleType", SimpleNamespace(answer=_answer, refuse=quality.refuse))
    nothing = np.zeros((1, 224, 224, 3), np.uint8)
    return Model(ModelBundle(about, b"", nothing, {}, "grader", 0), Grader(world, clock, took_s, noise, wrong), task)


class Source:
    """Gives one model for the task quality."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def model_for(self, optics: FrameOptics, loaded: Model | None = None, task: str = "") -> Model:
        """The model."""
        del optics, loaded, task
        return self._model
