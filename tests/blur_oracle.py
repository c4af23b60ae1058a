"""A sharpness model that knows the simulated world's truth: its score rises evenly on both sides of focus."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from oracle import manifest

from edge_app.answer import DEFOCUS
from edge_app.bundle import Input, ModelBundle
from edge_app.feed import NOTHING, Beside
from edge_app.model import Model, ModelSource
from edge_app.passport import Passport
from edge_app.tasks import sharpness
from firmware.frames import FrameOptics
from firmware.simulation import World

PATCH_PX = 128
SHA = "5c" * 32


class Blur:
    """A runtime that scores the true distance from focus in depths of field, with a little seeded noise."""

    name = "blur oracle"
    note = ""

    def __init__(self, world: World, rise: float = 0.2) -> None:
        self._world, self._rise = world, rise
        self._rng = np.random.default_rng(6)

    def infer(self, counts: NDArray[np.uint8], also: Beside = NOTHING) -> dict[str, NDArray[np.float32]]:
        """(K, P, P, 3) uint8 to (K,) float32 by output name."""
        del also
        depths = self._world.truth_um() / self._world.depth_of_field_um
        said = self._rise * np.hypot(depths, 0.7) + self._rng.normal(0.0, 0.01, len(counts))
        return {"blur": np.asarray(said + 0.1, np.float32)}


def blur_model(world: World, rise: float = 0.2) -> Model:
    """A model of the task sharpness for any optics; with no `rise` it says the same everywhere."""
    plain = manifest().model_copy(
        update={
            "name": "blur-oracle",
            "task": "sharpness",
            "input": Input(name="counts", patch_px=PATCH_PX),
            "outputs": sharpness.OUTPUTS,
            "passport": Passport(
                numerical_aperture=None, pixel_um=None, immersion_index=None, colour=None, contrast=None, range_um=None
            ),
            "calibration": None,
        }
    )
    nothing = np.zeros((1, PATCH_PX, PATCH_PX, 3), np.uint8)
    return Model(ModelBundle(plain, b"", nothing, {}, SHA, 0), Blur(world, rise), sharpness)


class BlurSource(ModelSource):
    """Where a controller finds one model, whatever it asks for."""

    def __init__(self, model: Model) -> None:
        super().__init__("blur oracle")
        object.__setattr__(self, "_model", model)

    def model_for(self, optics: FrameOptics, loaded: Model | None = None, task: str = DEFOCUS) -> Model:
        """The model."""
        del optics, loaded, task
        model: Model = self.__dict__["_model"]
        return model
