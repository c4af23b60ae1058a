"""Replay: the whole appliance on a recorded z-stack, once from every slice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from edge_app.answer import DEFOCUS
from edge_app.controller import Controller, strategy_of
from edge_app.model import ModelSource
from edge_app.patches import PatchGrid
from edge_app.replay_curve import CurveWish, Shown, record_curve, stacks_of
from edge_app.sharpness import sharpness
from firmware.clock import ManualClock
from firmware.microscope import open_microscope
from firmware.stacks import Stack, open_stack, replay_profile

Progress = Callable[[int, int, str], None]


def replay(
    stack: Path,
    strategy: str,
    z_um: list[float] | None,
    z_step_um: float | None,
    bundle: str,
    wish: CurveWish | None,
    progress: Progress,
) -> dict[str, Any]:
    """Focus a recorded stack from each of its slices.

    Args:
        stack: A TIFF or OME-TIFF.
        strategy: A file in strategies/.
        z_um: Positions of the slices, if the file does not know them.
        z_step_um: Or their spacing.
        bundle: The model, for strategies that ask one.
        wish: Where the focus curve comes from, for the strategy few_shot.
        progress: Called with (starts done, starts, text).

    Returns:
        {"stack", "strategy", "z_unit", "sharpest_index", "starts": [{"start_index", "end_index", "frames",
        "verdict", "ending", "sentence"}]}, indices as in the file; with a focus curve also "curve": {"of", "slices",
        "width", "explained"}, its width in the stack's unit of z.

    Raises:
        StackError: The stack cannot be used.
        AppError: The strategy is unknown, its frames are smaller than a patch, or the stack has no focus curve.
    """
    recorded = open_stack(stack, z_um, z_step_um)
    source, task = ModelSource(bundle), strategy_of(strategy).TASK
    result: dict[str, Any] = {"stack": stack.name, "strategy": strategy, "z_unit": recorded.z_unit}
    with TemporaryDirectory(prefix="parfocal-") as folder:
        curve = None
        if wish is None:
            shown = Shown(stack, list(recorded.positions), list(range(recorded.count)))
            profile = replay_profile(stack, z_um, z_step_um)
        else:
            shown, of = stacks_of(stack, wish, (z_um, z_step_um), Path(folder))
            profile, curve = shown.profile, record_curve(of, source)
            result["curve"] = {
                "of": wish.on.name if wish.on else "every second slice" if wish.hold_out else stack.name,
                "slices": len(curve.z_um),
                "width": curve.width_um,
                "explained": curve.explained,
            }
        model = source.model_for(profile.frame_optics(profile.objective[0])) if task == DEFOCUS else None
        with open_microscope(profile, ManualClock()) as microscope:
            controller = Controller(microscope, model, source)
            if curve is not None:
                controller.curves.keep(curve)
            starts = []
            for done in range(len(shown.indices)):
                progress(done, len(shown.indices), f"from slice {shown.indices[done]}")
                starts.append(_from_slice(controller, shown, done, strategy))
    progress(len(starts), len(starts), "done")
    return result | {"sharpest_index": _sharpest(recorded), "starts": starts}


def print_table(result: dict[str, Any], console: Console) -> None:
    """Show a result to a person."""
    if result["z_unit"] == "slice":
        console.print("nothing states where the slices lie, so they are counted; state --z-step-um if you know it")
    table = Table("start slice", "end slice", "looks", "verdict", "ending", "why")
    for row in result["starts"]:
        cells = (str(row[key]) for key in ("start_index", "end_index", "frames", "verdict", "ending", "sentence"))
        table.add_row(*cells)
    console.print(table)
    if "curve" in result:
        curve = result["curve"]
        width = f"{curve['width']:.3g} {'slices' if result['z_unit'] == 'slice' else 'um'}"
        console.print(f"curve from {curve['of']}: {curve['slices']} slices, {width} wide")
    console.print(f"{result['stack']}: slice {result['sharpest_index']} is the sharpest of the file")


def _from_slice(controller: Controller, shown: Shown, start: int, strategy: str) -> dict[str, Any]:
    axis = controller.microscope.axis
    axis.move_to(shown.z_um[start])
    outcome = controller.focus(strategy, lambda _number, _look, _why: None)
    return {
        "start_index": shown.indices[start],
        "end_index": shown.nearest(axis.z_um),
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
