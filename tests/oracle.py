"""A model that knows the simulated world's truth, and may be told to be wrong in one definite way."""

import numpy as np
from numpy.typing import NDArray

from edge_app.bundle import Calibrations, CalibrationTable, Input, Manifest, ModelBundle, Training
from edge_app.feed import NOTHING, Beside
from edge_app.model import Model
from edge_app.passport import Passport
from edge_app.tasks import defocus
from firmware.simulation import World

_PLAIN = CalibrationTable(patch_scale=1.0, floor_um=0.05, patch_share=0.0, spread_share=1.0)


class Oracle:
    """A runtime that reads the true defocus, scales and shifts it, and adds a little seeded noise.

    `symmetric` gives every other patch the wrong sign beyond 1.5 um, as optics without aberrations do.
    """

    name = "oracle"
    note = ""

    def __init__(self, world: World, scale: float = 1.0, bias_um: float = 0.0, symmetric: bool = False) -> None:
        self._world = world
        self._scale, self._bias_um, self._symmetric = scale, bias_um, symmetric
        self._rng = np.random.default_rng(5)
        self.asked = 0

    def infer(self, counts: NDArray[np.uint8], also: Beside = NOTHING) -> dict[str, NDArray[np.float32]]:
        """(K, P, P, 3) uint8 to (K,) float32 by output name."""
        self.asked += 1
        del also
        said = self._scale * self._world.truth_um() + self._bias_um + self._rng.normal(0.0, 0.05, len(counts))
        if self._symmetric and abs(self._world.truth_um()) > 1.5:
            said[::2] *= -1
        log_sigma = np.full(len(counts), np.log(0.1), np.float32)
        return {"defocus_um": np.asarray(said, np.float32), "log_sigma": log_sigma}


def manifest() -> Manifest:
    """Of a model for 20x/0.75."""
    return Manifest(
        name="oracle",
        version="1",
        description="reads the simulated world's truth",
        task="defocus",
        family="none",
        parameters=0,
        flop_per_patch=0.0,
        input=Input(name="counts", patch_px=224),
        outputs=defocus.OUTPUTS,
        passport=Passport(numerical_aperture=(0.7, 0.8), pixel_um=(0.15, 0.20), range_um=30.0),
        calibration=Calibrations(known=_PLAIN, unknown=_PLAIN),
        metrics={},
        training=Training(
            recipe="", recipe_sha256="", seed=0, commit="", steps=0, duration_s=0, device="", versions={}
        ),
        sha256={"model.onnx": "0" * 64},
    )


def oracle(world: World, scale: float = 1.0, bias_um: float = 0.0, symmetric: bool = False) -> Model:
    """A model that is never wrong, unless it is told to be."""
    nothing = np.zeros((1, 224, 224, 3), np.uint8)
    runtime = Oracle(world, scale, bias_um, symmetric)
    return Model(ModelBundle(manifest(), b"", nothing, {}, "oracle", 0), runtime, defocus)
