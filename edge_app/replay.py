"""Replay: the whole appliance on a recorded z-stack, once from every slice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edge_app.bundle import find
from edge_app.controller import Controller, Look
from edge_app.measures import sharpness
from edge_app.model import Model, open_model
from edge_app.patches import PatchGrid
from edge_app.runtime import available
from firmware import plugins
from firmware.clock import ManualClock
from firmware.microscope import Microscope, open_microscope
from firmware.stacks import Stack, open_stack, replay_profile

Progress = Callable[[int, int, str], None]


def replay(
    stack: Path,
    strategy: str,
    z_um: list[float] | None,
    z_step_um: float | None,
    bundle: str,
    progress: Progress,
) -> dict[str, Any]:
    """Focus a recorded stack from each of its slices.

    Args:
        stack: A TIFF or OME-TIFF.
        strategy: A file in strategies/.
        z_um: Positions of the slices, if the file does not know them.
        z_step_um: Or their spacing.
        bundle: The model, for strategies that ask one.
        progress: Called with (starts done, starts, text).

    Returns:
        {"stack", "strategy", "z_unit", "sharpest_index", "starts": [{"start_index", "end_index", "frames",
        "verdict", "ending", "sentence"}]}, indices as in the file.

    Raises:
        StackError: The stack cannot be used.
        AppError: The strategy is unknown, or its frames are smaller than a patch.
    """
    profile = replay_profile(stack, z_um, z_step_um)
    recorded = open_stack(stack, z_um, z_step_um)
    model = open_model(find(bundle)) if _needs_model(strategy) and any(not m for m in available().values()) else None
    starts = []
    with open_microscope(profile, ManualClock()) as microscope:
        for done in range(recorded.count):
            progress(done, recorded.count, f"from slice {done}")
            starts.append(_from_slice(microscope, model, recorded, done, strategy))
    progress(recorded.count, recorded.count, "done")
    return {
        "stack": stack.name,
        "strategy": strategy,
        "z_unit": recorded.z_unit,
        "sharpest_index": _sharpest(recorded),
        "starts": starts,
    }
