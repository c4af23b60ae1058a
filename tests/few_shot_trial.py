"""Trial, not a test: calibrate focus once on the simulated board, then focus many other fields by few_shot.

`python tests/few_shot_trial.py 20x [jobs] [bundle]`; the table of docs/few_shot.md is made of what it prints.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from edge_app.controller import Controller
from edge_app.focus_calibration import Wish, calibrate_focus
from edge_app.job import Ending
from edge_app.model import ModelSource
from firmware.clock import ManualClock
from firmware.microscope import open_microscope
from firmware.profile import BoardProfile, load_profile

REACH_DEPTHS, SEED, CLOSER = 8.0, 11, 0.05


def board(objective: str) -> BoardProfile:
    """The board `simulated` with this objective and smaller frames; at 10x its axis may go as far as is needed."""
    profile = load_profile("simulated")
    chosen = next(o for o in profile.objective if o.name == objective).model_copy(update={"parfocal_offset_um": 0.0})
    camera = profile.camera.model_copy(update={"width_px": 1296, "height_px": 972})
    changes: dict[str, Any] = {"camera": camera, "objective": (chosen,)}
    if objective == "10x":
        changes["axis"] = profile.axis.model_copy(update={"low_um": -160.0, "high_um": 160.0})
        far = {"towards_um": 120.0, "away_um": 120.0, "path_um": 1500.0}
        changes["focus"] = profile.focus.model_copy(update=far)
        changes["simulation"] = {**(profile.simulation or {}), "tilt_x_um": 3.0, "tilt_y_um": -2.0}
    return profile.model_copy(update=changes)


def say(line: str) -> None:
    """A line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(objective: str, jobs: int = 62, bundle: str = "factory") -> None:
    """Say each job's start and end in depths of field, and what they came to."""
    profile = board(objective)
    depth_um = profile.objective[0].depth_of_field_um
    assert depth_um is not None
    rng, ends, worse = np.random.default_rng(SEED), [], 0
    with open_microscope(profile, ManualClock()) as microscope:
        world, axis = microscope.world, microscope.axis
        assert world is not None
        controller = Controller(microscope, None, ModelSource(bundle))
        world.load_field(1, "tissue")
        axis.move_by(depth_um - world.truth_um())
        say(calibrate_focus(controller, Wish(), True, lambda *_: None).sentence)
        for field in range(2, 2 + jobs):
            world.load_field(field)
            wanted_um = rng.uniform(-REACH_DEPTHS, REACH_DEPTHS) * depth_um
            for _ in range(3):
                axis.move_by(wanted_um - world.truth_um())
            start = world.truth_um() / depth_um
            outcome = controller.focus("few_shot", lambda *_: None)
            end = world.truth_um() / depth_um
            worse += abs(end) > abs(start) + CLOSER
            ends.append(abs(end))
            told = "" if outcome.ending is Ending.FOCUSED else f" {outcome.ending.name}: {outcome.sentence}"
            kind = world.kind_of(field)
            say(f"{field} {kind} {start:+.2f} to {end:+.3f}, {outcome.frames} looks{told}")
    mean, median, most, worst = np.mean(ends), np.median(ends), np.percentile(ends, 95), np.max(ends)
    say(f"{jobs} jobs: mean {mean:.3f}, median {median:.3f}, 95 % {most:.3f}, worst {worst:.3f}; {worse} ended worse")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0], int(given[1]) if len(given) > 1 else 62, given[2] if len(given) > 2 else "factory")
