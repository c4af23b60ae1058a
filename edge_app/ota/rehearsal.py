"""Rehearsal: the model in service and a new one do the same focus jobs, on a simulated or recorded microscope.

It touches no hardware and no thread of the service: it runs in the caller's process, on boards of its own whose time
is turned by hand. What comes of it is judged in `rehearsal_rule`.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator

import numpy as np

from edge_app.errors import UpdateError
from edge_app.model import Model
from edge_app.ota.rehearsal_board import KINDS, REACH_SHARE, Simulated, Stage, depth_um, simulated
from edge_app.ota.rehearsal_jobs import COURSES, Course, Place, Players
from edge_app.ota.rehearsal_rule import FEWEST, Pair, Rehearsal
from edge_app.ota.rehearsal_stacks import reading_recorded, recorded_places
from firmware.microscope import with_simulation

__all__ = ["COURSES", "Stage", "rehearse"]

Progress = Callable[[int, int, str], None]
"""Pairs done, pairs planned, and what is being done."""


def rehearse(
    old: Model | None,
    new: Model,
    where: Stage,
    progress: Progress,
    limit_s: float = 180.0,
    now_s: Callable[[], float] = time.monotonic,
    pairs: int = 0,
) -> Rehearsal:
    """Let two models do the same focus jobs; a tuned bundle's on stacks of this board, else on a simulated microscope.

    Args:
        old: The model in service, of the same task; None where none serves it.
        new: The candidate.
        where: The board that it is for.
        progress: Told before each pair.
        limit_s: No pair is begun that may not end within this; what was done until then must suffice.
        now_s: The time that `limit_s` is counted in.
        pairs: How many, where it is not to be what the task's course says.

    Raises:
        UpdateError: This board could not rehearse it, which says nothing of the bundle: its task is not known here, no
            stack fits, or there were fewer than `FEWEST` pairs in time.
        UpdateRefused: It is one that no board can rehearse.
    """
    began_s = now_s()
    task = new.bundle.manifest.task
    if task not in COURSES:
        raise UpdateError(f"{new.label} is for {task}, which this version cannot rehearse; update parfocal first")
    course = COURSES[task]
    wanted = pairs or course.pairs
    tuned = bool(new.bundle.manifest.training.stage)
    if tuned:
        old, new = old and reading_recorded(old), reading_recorded(new)
        places: Iterator[Place] = iter(recorded_places(where, new, wanted))
        on = "stacks recorded on this board"
    else:
        places, on = _simulated_places(where, old, new, wanted), "the simulated microscope"
    done = _all_pairs(Players(course, old, new), places, wanted, progress, limit_s - (now_s() - began_s), now_s)
    took_s = now_s() - began_s
    if len(done) < min(FEWEST, wanted):
        cure = (
            "update when the board is less busy" if not tuned else "record more stacks, or update when it is less busy"
        )
        raise UpdateError(
            f"{new.label} was not rehearsed enough: {len(done)} of the {min(FEWEST, wanted)} pairs of jobs that are "
            f"needed, in {took_s:.0f} s; {cure}"
        )
    return Rehearsal(task, course.strategy, on, old.label if old else "", new.label, tuple(done), took_s)


def _simulated_places(where: Stage, old: Model | None, new: Model, wanted: int) -> Iterator[Place]:
    """Endless: fields of a world of the seed, starts evenly over the range in random order, then again."""
    course = COURSES[new.bundle.manifest.task]
    patch_px = max(new.patch_px, old.patch_px if old else 0)
    reach_um = _reach_um(where, new, course, patch_px)
    profile = with_simulation(simulated(where, new, patch_px, reach_um), seed=where.seed)
    rng = np.random.default_rng([where.seed, 23])
    kinds = KINDS[profile.contrast]
    number = 0
    while True:
        shares = (rng.permutation(wanted) + rng.uniform(0, 1, wanted)) / wanted * 2 - 1
        for share in shares.tolist():
            number += 1
            yield Simulated(profile, number, kinds[number % len(kinds)], share * reach_um)


def _reach_um(where: Stage, new: Model, course: Course, patch_px: int) -> float:
    """From how far jobs begin: most of the passport's range, or so many depths of field where it has none."""
    range_um = new.bundle.manifest.passport.range_um
    if range_um is not None:
        return REACH_SHARE * range_um
    return course.reach_depths * depth_um(simulated(where, new, patch_px, 1.0))


def _all_pairs(
    players: Players,
    places: Iterator[Place],
    wanted: int,
    progress: Progress,
    left_s: float,
    now_s: Callable[[], float],
) -> list[Pair]:
    """Pairs until there are enough, the places run out, or one more might take too long."""
    began_s = now_s()
    done: list[Pair] = []
    longest_s, tried = 0.0, 0
    for place in places:
        begun_s = now_s()
        if len(done) == wanted or tried == 2 * wanted or begun_s - began_s + longest_s > left_s:
            break
        progress(len(done), wanted, f"rehearsing: {place.name}")
        pair = players.pair(place)
        done += [] if pair is None else [pair]
        gc.collect()  # worlds hold slides of many MB in rings of references
        longest_s, tried = max(longest_s, now_s() - begun_s), tried + 1
    progress(len(done), wanted, "rehearsed")
    return done
