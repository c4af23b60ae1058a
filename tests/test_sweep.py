"""The sweep alone, on curves of arithmetic and on recorded stacks: no camera, no motor, no clock."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_app.answer import Verdict
from edge_app.patches import PatchGrid, content
from edge_app.sharpness import sharpness
from edge_app.strategies import sweep
from edge_app.strategy import GiveUp, Ground, MoveTo, Observation, Settled, shown_better
from firmware.stacks import Stack, open_stack, replay_profile

DATA = Path(__file__).parents[2] / "shared" / "data"
STACKS = (
    "organoid_evos_A01",
    "organoid_evos_A02",
    "cells_nikon90i_40x_set1",
    "lightsheet_mito_cell2",
    "bead_widefield_na085",
    "pseudoscorpion_transmitted",
)
GROUND = Ground(-60.0, 60.0, 0.95, 3.0, 0.6, 24.0)
Eye = Callable[[float], Observation]


@dataclass
class Run:
    """What a sweep did: where it looked and why, how it ended."""

    path: list[float]
    reasons: list[str]
    end: Settled | GiveUp
    first: Observation
    last: Observation

    @property
    def kept(self) -> float:
        """Where the job would end: a controller goes back to the start without evidence."""
        better = isinstance(self.end, Settled) and shown_better(self.first, self.last)
        return self.path[-1] if better else self.path[0]


def run(start: float, eye: Eye, ground: Ground = GROUND) -> Run:
    first = eye(start)
    plan, path, reasons, last = sweep.plan(first, ground), [start], [], first
    try:
        decision = next(plan)
        while True:
            assert isinstance(decision, MoveTo)
            assert ground.low_um <= decision.z_um <= ground.high_um
            path.append(decision.z_um)
            reasons.append(decision.why)
            last = eye(decision.z_um)
            decision = plan.send(last)
    except StopIteration as ended:
        return Run(path, reasons, ended.value, first, last)


def specimen(focus_um: float, noise: float = 0.0, height: float = 1.0, content: bool = True, seed: int = 0) -> Eye:
    """Four patches whose sharpness peaks at `focus_um`, over a floor; noise differs from look to look."""
    rng = np.random.default_rng(seed)

    def look(z_um: float) -> Observation:
        curve = 0.02 + 0.02 * height / (1.0 + ((z_um - focus_um) / 1.5) ** 2)
        sharp = curve * np.array([1.0, 0.5, 2.0, 0.1]) * (1 + noise * rng.standard_normal(4))
        return Observation(z_um, None, sharp.astype(np.float32), np.full(4, content))

    return look


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.02])
@pytest.mark.parametrize("start", [-23.0, -7.3, 0.0, 0.4, 12.0, 22.9])
def test_the_sweep_ends_in_focus_from_anywhere_in_its_range(start: float, noise: float) -> None:
    done = run(start, specimen(0.2, noise))
    assert isinstance(done.end, Settled)
    assert done.path[-1] == pytest.approx(0.2, abs=0.3)
    assert len(done.path) <= 25


@pytest.mark.parametrize("start", [-50.0, 45.0])
def test_a_focus_beyond_the_first_range_is_followed(start: float) -> None:
    done = run(start, specimen(-np.sign(start) * 5.0))
    assert done.path[-1] == pytest.approx(-np.sign(start) * 5.0, abs=0.3)


def test_looks_run_downwards_but_for_the_way_to_the_top() -> None:
    done = run(4.0, specimen(-6.0))
    rises = sum(after > before for before, after in pairwise(done.path))
    assert rises <= 3


def test_no_place_is_looked_at_twice_before_the_last_move() -> None:
    path = run(1.0, specimen(-3.3)).path[:-1]
    assert min(np.diff(sorted(path))) > 0.25


def test_dirt_on_one_patch_does_not_win() -> None:
    clean = specimen(-4.0)

    def look(z_um: float) -> Observation:
        seen = clean(z_um)
        seen.sharpness[3] += np.float32(1.0 / (1.0 + (z_um - 15.0) ** 2))
        return seen

    assert run(0.0, look).path[-1] == pytest.approx(-4.0, abs=0.5)


def test_patches_without_content_have_no_say() -> None:
    clean = specimen(-4.0)

    def look(z_um: float) -> Observation:
        seen = clean(z_um)
        seen.sharpness[1:] = np.float32(np.exp(-abs(z_um - 12.0)))
        seen.informative[1:] = False
        return seen

    assert run(0.0, look).path[-1] == pytest.approx(-4.0, abs=0.3)


def test_a_dark_ground_without_informative_patches_is_still_swept() -> None:
    done = run(9.0, specimen(-4.0, content=False))
    assert isinstance(done.end, Settled)
    assert done.path[-1] == pytest.approx(-4.0, abs=0.3)


@pytest.mark.parametrize(("content", "verdict"), [(False, Verdict.NO_CONTENT), (True, Verdict.OUT_OF_RANGE)])
@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_no_peak(content: bool, verdict: Verdict, seed: int) -> None:
    end = run(0.0, specimen(0.0, 0.02, height=0.0, content=content, seed=seed)).end
    assert isinstance(end, GiveUp)
    assert end.verdict is verdict


@pytest.mark.parametrize("focus_um", [-75.0, 75.0])
def test_sharpness_that_rises_to_the_end_of_the_travel_is_not_taken_for_focus(focus_um: float) -> None:
    end = run(0.0, specimen(focus_um, height=60.0)).end
    assert isinstance(end, GiveUp)
    assert end.verdict is Verdict.OUT_OF_RANGE


def test_a_start_in_focus_is_not_thrown_away() -> None:
    done = run(2.0, specimen(2.0))
    assert done.kept == pytest.approx(2.0, abs=0.1)


def test_a_black_camera_is_no_accident() -> None:
    def look(z_um: float) -> Observation:
        return Observation(z_um, None, np.zeros(4, np.float32), np.zeros(4, bool))

    assert isinstance(run(0.0, look).end, GiveUp)


@lru_cache(maxsize=1)
def seen_in(path: Path) -> tuple[Stack, list[tuple[NDArray[np.float32], NDArray[np.bool_]]]]:
    """A stack, and per slice what the controller would measure."""
    stack, slices = open_stack(path), []
    grid = PatchGrid.fit(stack.height_px, stack.width_px)
    for index in range(stack.count):
        pixels = stack.pixels(index)
        rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
        slices.append((sharpness(rgb, grid), content(rgb, grid).informative))
    return stack, slices


def recorded(name: str) -> tuple[Stack, Eye, Ground, int]:
    """A stack, an eye for it, the ground that its board gives a sweep, and the recommended index."""
    path = DATA / f"{name}.tif"
    stack, slices = seen_in(path)
    profile = replay_profile(path)
    focus, axis = profile.focus, profile.axis
    ground = Ground(
        axis.low_um,
        axis.high_um,
        focus.sweep_fine_um,
        focus.sweep_coarse_um,
        focus.sweep_fine_um,
        focus.sweep_half_range_um,
    )
    entries = json.loads((DATA / "stacks.json").read_text())["stacks"]
    best = next(entry["recommended_in_focus_index"] for entry in entries if entry["id"] == name)
    return stack, lambda z: Observation(z, None, *slices[stack.nearest(z)]), ground, best


@pytest.mark.skipif(not DATA.is_dir(), reason="the recorded stacks are not here")
@pytest.mark.parametrize("name", STACKS)
def test_on_a_recorded_stack_the_sweep_ends_within_a_slice_of_focus_from_every_slice(name: str) -> None:
    stack, eye, ground, best = recorded(name)
    for start in stack.positions:
        done = run(start, eye, ground)
        assert abs(stack.nearest(done.path[-1]) - best) <= 1
        assert len(done.path) <= 25


@pytest.mark.skipif(not DATA.is_dir(), reason="the recorded stacks are not here")
@pytest.mark.parametrize("name", STACKS)
def test_going_back_without_evidence_still_ends_within_a_slice_of_focus(name: str) -> None:
    stack, eye, ground, best = recorded(name)
    ends = [stack.nearest(run(start, eye, ground).kept) for start in stack.positions]
    assert max(abs(end - best) for end in ends) <= 1, ends
