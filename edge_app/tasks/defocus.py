"""The task `defocus`: each patch's signed defocus in um and its standard deviation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_app.bundle import Manifest
from edge_app.estimate import DefocusEstimate, fuse
from edge_app.patches import PatchGrid

OUTPUTS = ("defocus_um", "log_sigma")


def answer(
    outputs: dict[str, NDArray[Any]], informative: NDArray[np.bool_], grid: PatchGrid, manifest: Manifest
) -> DefocusEstimate:
    """One estimate from the outputs for the informative patches, each (K,)."""
    sigma_um = sigma_of(outputs["log_sigma"])
    defocus_um = np.asarray(outputs["defocus_um"], np.float32)
    return fuse(defocus_um, sigma_um, informative, grid, manifest.calibration, manifest.label)


def sigma_of(log_sigma: NDArray[Any]) -> NDArray[np.float32]:
    """Standard deviations in um, (K,) float32, from the network's second output; its extremes are cut off."""
    return np.asarray(np.exp(np.clip(log_sigma, -5.0, 3.0)), np.float32)
