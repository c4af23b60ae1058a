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
    sigma_um = np.exp(np.clip(outputs["log_sigma"], -5.0, 3.0)).astype(np.float32)
    defocus_um = np.asarray(outputs["defocus_um"], np.float32)
    return fuse(defocus_um, sigma_um, informative, grid, manifest.calibration, manifest.label)
