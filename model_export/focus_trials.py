"""Trials of DeepFocus: the experiments of its paper, on specimens no training has seen, with what serves on boards.

`accuracy` runs the strategy few_shot from starts within eight depths of field, after one calibration stack; `curves`
compares b(z) of many specimens with the classical measures (the paper's Table 1); `images` gives the error after each
image beside measures that a bounded Brent search climbs (its Figure 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_app.curve import FocusCurve, NoCurve, curve_of
from edge_app.model import Model
from edge_app.strategies import few_shot
from edge_app.strategy import GiveUp, Ground, MoveTo, Observation, Settled
from edge_app.tasks.sharpness import BlurScores
from model_export.errors import NoData
from model_export.flat_world import MODALITIES, FlatWorld, look_at

SEED = 61
FIELD_PX = 1024
START_DEPTHS = 8.0
STEP_DEPTHS = 0.5
_CALIBRATED = 10_000
_ROOM_DEPTHS = 40.0
Tick = Callable[[], None]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Job:
    """One focusing: where it began, and how far off focus it would have gone after each match, um.

    `errors_um` maps how many images were matched to the error of that match; `final_um` is where it ended, after
    `looks` images, the checking one included, or NaN with a verdict. `patch_um` is the mean absolute error of the
    single regions in the last match.
    """

    modality: str
    start_um: float
    errors_um: dict[int, float]
    final_um: float
    looks: int
    patch_um: float
    verdict: str = ""


def calibrate(
    model: Model, objective: str, range_depths: float, seed: int = SEED, field_px: int = FIELD_PX
) -> FocusCurve:
    """One stack of one specimen in bright field, as `parfocal calibrate focus` records it.

    Raises:
        NoData: It gives no curve.
    """
    world = FlatWorld(objective, _CALIBRATED * len(MODALITIES), seed, field_px, 1.0)
    z_um = np.arange(-range_depths, range_depths + STEP_DEPTHS / 2, STEP_DEPTHS) * world.depth_of_field_um
    world = FlatWorld(objective, _CALIBRATED * len(MODALITIES), seed, field_px, float(z_um[-1]))
    looks = [look_at(model, rgb, z) for z, rgb in zip(z_um.tolist(), world.photographs(z_um), strict=True)]
    scores = np.stack([_scores(look) for look in looks])
    made = curve_of(z_um, scores, objective, model.label, model.bundle.sha256)
    if isinstance(made, NoCurve):
        raise NoData(f"the calibration stack at {objective} gives no curve: {made.sentence}")
    return made[0]


def accuracy(
    model: Model, objective: str, curve: FocusCurve, specimens: int, starts: int, tick: Tick, seed: int = SEED
) -> list[Job]:
    """So many specimens, each focused from so many starts within `START_DEPTHS` depths of field."""
    jobs = []
    for index in range(specimens):
        depth_um = FlatWorld(objective, 0, seed, 128, 1.0).depth_of_field_um
        world = FlatWorld(objective, index, seed, FIELD_PX, _ROOM_DEPTHS * depth_um)
        rng = np.random.default_rng((seed, index, 3))
        for start_um in rng.uniform(-START_DEPTHS, START_DEPTHS, starts) * depth_um:
            jobs.append(focus(model, world, curve, float(start_um)))
            tick()
    return jobs


def focus(model: Model, world: FlatWorld, curve: FocusCurve, start_um: float) -> Job:
    """Run few_shot's plan on a perfect stage."""
    depth_um, reach_um = world.depth_of_field_um, world.reach_um
    ground = Ground(-reach_um, reach_um, depth_um, depth_um, depth_um / 10, reach_um, curve=curve)
    look = world.look(model, start_um)
    plan, looks, errors_um, patch_um = few_shot.plan(look, ground), 1, {}, math.nan
    try:
        motion = next(plan)
        while True:
            if isinstance(motion, MoveTo) and motion.shifts_um is not None:
                found_um = look.z_um + motion.shifts_um[np.isfinite(motion.shifts_um)]
                errors_um[looks], patch_um = abs(float(np.median(found_um))), float(np.abs(found_um).mean())
            look = world.look(model, motion.z_um)
            looks += 1
            motion = plan.send(look)
    except StopIteration as stop:
        end: Settled | GiveUp = stop.value
    gave_up = isinstance(end, GiveUp)
    verdict = f"{end.verdict.value}: {end.why}" if isinstance(end, GiveUp) else ""
    final_um = math.nan if gave_up else abs(look.z_um)
    return Job(world.modality, start_um, errors_um, final_um, looks, patch_um, verdict)


def summary(jobs: list[Job]) -> dict[str, Any]:
    """Mean, median and 95th percentile of the errors, um.

    `final_um` is where jobs ended, by modality; `final_by_images_um` the same by how many images there were before the
    check; `after_images_um` where each match with so many images pointed, the first ones included.
    """
    done = [job for job in jobs if not job.verdict]
    final = {"all": done, **{name: [job for job in done if job.modality == name] for name in MODALITIES}}
    after = {k: [job.errors_um[k] for job in jobs if k in job.errors_um] for k in range(3, 9)}
    looks = sorted({job.looks for job in done})
    return {
        "jobs": len(jobs),
        "gave_up": len(jobs) - len(done),
        "final_um": {name: spread([job.final_um for job in some]) for name, some in final.items()},
        "final_by_images_um": {k - 1: spread([j.final_um for j in done if j.looks == k]) for k in looks},
        "patch_um": spread([job.patch_um for job in done]),
        "after_images_um": {k: spread(errors) for k, errors in after.items() if errors},
        "images": {k: sum(job.looks == k for job in done) for k in looks},
        "refusals": sorted({job.verdict for job in jobs if job.verdict}),
    }


def spread(errors_um: list[float]) -> dict[str, float]:
    """How many, and their mean, median and 95th percentile."""
    values = np.array(errors_um)
    if not len(values):
        return {"n": 0}
    told = {"mean": values.mean(), "median": np.median(values), "p95": np.percentile(values, 95)}
    return {"n": len(values), **{name: round(float(value), 4) for name, value in told.items()}}


def raw(jobs: list[Job]) -> Iterator[dict[str, Any]]:
    """Every job as JSON."""
    return (asdict(job) for job in jobs)


def _scores(look: Observation) -> Doubles:
    """(N,) scores of a look, NaN where a patch was not asked."""
    assert isinstance(look.answer, BlurScores)
    return look.answer.scores.astype(np.float64)
