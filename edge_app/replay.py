"""Replay: the whole appliance on a recorded z-stack, once from every slice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from edge_app.controller import STRATEGIES, Controller
from edge_app.errors import UnknownStrategy
from edge_app.measures import sharpness
from edge_app.model import ModelSource
from edge_app.patches import PatchGrid
from firmware import plugins
from firmware.clock import ManualClock
from firmware.errors import UnknownPlugin
from firmware.microscope import open_microscope
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
    optics = profile.frame_optics(profile.objective[0])
    model = ModelSource(bundle).model_for(optics) if _needs_model(strategy) else None
    starts = []
    with open_microscope(profile, ManualClock()) as microscope:
        controller = Controller(microscope, model)
        for done in range(recorded.count):
            progress(done, recorded.count, f"from slice {done}")
            starts.append(_from_slice(controller, recorded, done, strategy))
    progress(recorded.count, recorded.count, "done")
    return {
        "stack": stack.name,
        "strategy": strategy,
        "z_unit": recorded.z_unit,
        "sharpest_index": _sharpest(recorded),
        "starts": starts,
    }


def print_table(result: dict[str, Any], console: Console) -> None:
    """Show a result to a person."""
    if result["z_unit"] == "slice":
        console.print("nothing states where the slices lie, so they are counted; state --z-step-um if you know it")
    table = Table("start slice", "end slice", "looks", "verdict", "ending", "why")
    for row in result["starts"]:
        cells = (str(row[key]) for key in ("start_index", "end_index", "frames", "verdict", "ending", "sentence"))
        table.add_row(*cells)
    console.print(table)
    console.print(f"{result['stack']}: slice {result['sharpest_index']} is the sharpest of the file")


def _from_slice(controller: Controller, recorded: Stack, start: int, strategy: str) -> dict[str, Any]:
    axis = controller.microscope.axis
    axis.move_to(recorded.positions[start])
    outcome = controller.focus(strategy, lambda _number, _look, _why: None)
    return {
        "start_index": start,
        "end_index": recorded.nearest(axis.z_um),
        "frames": outcome.frames,
        "verdict": outcome.verdict.name,
        "ending": outcome.ending.name,
        "sentence": outcome.sentence,
    }


def _sharpest(recorded: Stack) -> int:
    """The slice with the highest sharpness over the whole frame."""
    scores = []
    for index in range(recorded.count):
        pixels = recorded.pixels(index)
        rgb = np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels
        scores.append(float(sharpness(rgb, PatchGrid.fit(*rgb.shape[:2])).mean()))
    return int(np.argmax(scores))


def _needs_model(strategy: str) -> bool:
    try:
        return bool(plugins.load(STRATEGIES, strategy).NEEDS_MODEL)
    except UnknownPlugin as error:
        raise UnknownStrategy(str(error)) from error
