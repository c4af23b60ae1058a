"""The task `defocus`: each patch's signed defocus in um and its standard deviation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_app.bundle import Manifest
from edge_app.estimate import Answers, DefocusEstimate, fuse, refuse
from edge_app.patches import PatchGrid
from firmware.frames import FrameOptics

__all__ = ["OUTPUTS", "answer", "answers_of", "lacks", "refuse", "sigma_of"]

OUTPUTS = ("defocus_um", "log_sigma")
"""What every model of this task answers; some also give `side`, a logit, `distance_um` and `thickness_um`."""


def answer(
    outputs: dict[str, NDArray[Any]],
    informative: NDArray[np.bool_],
    grid: PatchGrid,
    manifest: Manifest,
    optics: FrameOptics,
) -> DefocusEstimate:
    """One estimate from the outputs for the asked patches, each (K,), of a frame through these optics."""
    return fuse(answers_of(outputs), informative, grid, manifest.calibration_for(optics), manifest.label)


def lacks(manifest: Manifest) -> list[str]:
    """What a manifest must state for this task and does not."""
    needed = {"a calibration of sigma": manifest.calibration, "a range": manifest.passport.range_um}
    return [what for what, stated in needed.items() if stated is None]


def answers_of(outputs: dict[str, NDArray[Any]]) -> Answers:
    """The outputs (K,) by name as what they mean."""
    side, distance_um, thickness_um = (outputs.get(name) for name in ("side", "distance_um", "thickness_um"))
    return Answers(
        np.asarray(outputs["defocus_um"], np.float32),
        sigma_of(outputs["log_sigma"]),
        None if side is None else np.asarray(1 / (1 + np.exp(-np.clip(side, -30, 30))), np.float32),
        None if distance_um is None else np.asarray(distance_um, np.float32),
        None if thickness_um is None else np.asarray(thickness_um, np.float32),
    )


def sigma_of(log_sigma: NDArray[Any]) -> NDArray[np.float32]:
    """Standard deviations in um, (K,) float32, from the network's second output; its extremes are cut off."""
    return np.asarray(np.exp(np.clip(log_sigma, -5.0, 3.0)), np.float32)
