"""The few-shot strategy alone, on a stage of arithmetic: a score by patch, a tilted slide, no camera and no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_app.answer import Verdict
from edge_app.curve import FocusCurve, NoCurve, curve_of
from edge_app.patches import PatchGrid
from edge_app.strategies import few_shot
from edge_app.strategy import GiveUp, Ground, MoveTo, Observation, Settled
from edge_app.tasks import sharpness
from edge_app.tasks.sharpness import BlurScores

GRID = PatchGrid(6, 8, 0, 0, 128)
GROUND = Ground(-60.0, 60.0, 0.95, 3.0, 0.6, 24.0)
Doubles = NDArray[np.float64]
Blur = Callable[[Doubles], Doubles]
SHAPES: dict[str, Blur] = {
    "soft vee": lambda z: np.sqrt(z**2 + 1.0) / 8,
    "moffat": lambda z: 0.2 + 1 - (1 + (z / 3) ** 2) ** -1.0,
    "logarithm": lambda z: np.log1p(np.hypot(z, 0.5)),
    "lopsided": lambda z: np.hypot(z, 1.0) / 8 * (1 + 0.1 * np.tanh(z / 6)) + 0.0125 * np.exp(-(z**2)),
}


def slope(across_um: float, down_um: float = 0.0) -> Doubles:
    """(N,) how much higher each patch's focus lies."""
    rows, columns = np.divmod(np.arange(GRID.count), GRID.columns)
    return (columns / (GRID.columns - 1) - 0.5) * across_um + (rows / (GRID.rows - 1) - 0.5) * down_um


@cache
def curve_for(shape: str) -> FocusCurve:
    z = np.linspace(-7.6, 7.6, 33)
    found = curve_of(z, SHAPES[shape](z)[:, None] * np.ones(GRID.count), "20x", "deepfocus@1", "0" * 64)
    assert not isinstance(found, NoCurve)
    return found[0]


@dataclass
class Stage:
    """A slide that a score sees; `looks` are the positions that were looked at."""

    blur: Blur
    tilt_um: Doubles
    noise: float = 0.0
    gain: float = 1.0
    offset: float = 0.0
    blank: float = 0.0
    model: str = "deepfocus@1"
    verdicts: Callable[[float], Verdict] = lambda _: Verdict.OK

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(4)
        self.shown = self.rng.uniform(size=GRID.count) >= self.blank

    def look(self, z_um: float) -> Observation:
        verdict = self.verdicts(z_um)
        sharp = np.full(GRID.count, 1 / (1 + z_um**2), np.float32)
        if verdict is not Verdict.OK:
            answer = replace(sharpness.refuse(verdict, "why", GRID), model=self.model)
            return Observation(z_um, answer, sharp, answer.informative)
        clean = self.gain * self.blur(z_um - self.tilt_um) + self.offset
        scores = np.where(self.shown, clean + self.rng.normal(0, self.noise, GRID.count), np.nan).astype(np.float32)
        answer = BlurScores(verdict, "", float(np.nanmedian(scores)), scores, GRID, self.shown, self.model)
        return Observation(z_um, answer, sharp, self.shown)


@dataclass
class Run:
    """What a plan did: where it looked and what it said, how it ended."""

    path: list[float]
    said: list[str]
    end: Settled | GiveUp
    shifts_um: list[NDArray[np.float32] | None]


def run(start_um: float, stage: Stage, curve: FocusCurve | None, ground: Ground = GROUND) -> Run:
    plan = few_shot.plan(stage.look(start_um), replace(ground, curve=curve))
    path, said, shifts = [start_um], [], []
    try:
        decision = next(plan)
        while True:
            assert isinstance(decision, MoveTo)
            assert ground.low_um <= decision.z_um <= ground.high_um
            path.append(decision.z_um)
            said.append(decision.why)
            shifts.append(decision.shifts_um)
            decision = plan.send(stage.look(decision.z_um))
    except StopIteration as ended:
        return Run(path, said, ended.value, [*shifts, ended.value.shifts_um])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("start_um", [-30.0, -7.5, -1.0, 0.2, 3.0, 22.0])
def test_focus_is_reached_from_near_and_far_on_a_tilted_slide(shape: str, start_um: float) -> None:
    done = run(start_um, Stage(SHAPES[shape], slope(2.0, -1.0), noise=0.01), curve_for(shape))
    assert isinstance(done.end, Settled)
    assert done.path[-1] == pytest.approx(0.0, abs=0.1)


def test_near_focus_it_takes_three_looks_a_mirrored_one_and_a_check() -> None:
    done = run(2.0, Stage(SHAPES["soft vee"], slope(0.0)), curve_for("soft vee"))
    assert len(done.path) == 5
    assert "R2 of a parabola 1.00, of a line" in done.said[2]
    assert done.path[3] == pytest.approx(-2.0, abs=0.1)
    assert isinstance(done.end, Settled)


def test_where_no_look_can_be_mirrored_a_pair_is_taken() -> None:
    done = run(0.1, Stage(SHAPES["soft vee"], slope(0.0)), curve_for("soft vee"))
    pair_um = 1.25 * curve_for("soft vee").width_um / 8
    assert done.path[3:5] == pytest.approx([pair_um, -pair_um], abs=0.1)
    assert len(done.path) == 6


@pytest.mark.parametrize(("gain", "offset"), [(0.8, 0.05), (1.2, -0.05)])
def test_a_specimen_that_scores_a_little_otherwise_is_focused_too(gain: float, offset: float) -> None:
    stage = Stage(SHAPES["soft vee"], slope(1.0), 0.01, gain, offset)
    done = run(5.0, stage, curve_for("soft vee"))
    assert done.path[-1] == pytest.approx(0.0, abs=0.1)


def test_the_regions_shifts_show_the_slope_of_the_slide() -> None:
    tilt_um = slope(3.0, -1.5)
    done = run(4.0, Stage(SHAPES["soft vee"], tilt_um), curve_for("soft vee"))
    last = done.shifts_um[-1]
    assert last is not None
    assert last + done.path[-1] == pytest.approx(tilt_um, abs=0.1)


def test_blank_regions_have_no_shift_and_no_vote() -> None:
    stage = Stage(SHAPES["soft vee"], slope(2.0), noise=0.01, blank=0.7)
    done = run(4.0, stage, curve_for("soft vee"))
    last = done.shifts_um[-1]
    assert last is not None
    assert (np.isfinite(last) == stage.shown).all()
    assert done.path[-1] == pytest.approx(0.0, abs=0.15)


def test_without_a_curve_it_says_how_to_get_one() -> None:
    done = run(3.0, Stage(SHAPES["soft vee"], slope(0.0)), None)
    assert isinstance(done.end, GiveUp)
    assert done.end.verdict is Verdict.OPTICS_UNKNOWN
    assert "parfocal calibrate focus" in done.end.why
    assert done.path == [3.0]


def test_the_curve_of_another_model_is_not_used() -> None:
    stage = Stage(SHAPES["soft vee"], slope(0.0), model="deepfocus@2")
    done = run(3.0, stage, curve_for("soft vee"))
    assert isinstance(done.end, GiveUp)
    assert "deepfocus@1" in done.end.why
    assert "deepfocus@2" in done.end.why
    assert done.path == [3.0]


def test_a_field_without_structure_is_no_content() -> None:
    stage = Stage(SHAPES["soft vee"], slope(0.0), verdicts=lambda _: Verdict.NO_CONTENT)
    done = run(3.0, stage, curve_for("soft vee"))
    assert isinstance(done.end, GiveUp)
    assert done.end.verdict is Verdict.NO_CONTENT
    assert done.path == [3.0]


def test_a_look_too_far_out_to_show_anything_narrows_the_search_instead_of_ending_it() -> None:
    stage = Stage(SHAPES["soft vee"], slope(0.0), verdicts=lambda z: Verdict.NO_CONTENT if z > 9 else Verdict.OK)
    done = run(5.0, stage, curve_for("soft vee"))
    assert max(done.path) > 9
    assert isinstance(done.end, Settled)
    assert done.path[-1] == pytest.approx(0.0, abs=0.1)


def test_the_travel_is_used_up_before_it_gives_up() -> None:
    ground = replace(GROUND, low_um=10.0)
    done = run(30.0, Stage(SHAPES["soft vee"], slope(0.0)), curve_for("soft vee"), ground)
    assert isinstance(done.end, GiveUp)
    assert done.end.verdict is Verdict.OUT_OF_RANGE
    assert min(done.path) == 10.0


def test_focus_beside_the_end_of_the_travel_is_reached() -> None:
    ground = replace(GROUND, low_um=-1.5)
    done = run(5.0, Stage(SHAPES["soft vee"], slope(0.0)), curve_for("soft vee"), ground)
    assert isinstance(done.end, Settled)
    assert done.path[-1] == pytest.approx(0.0, abs=0.1)


def test_a_score_that_does_not_change_with_z_is_not_matched() -> None:
    stage = Stage(lambda z: np.full_like(z, 0.5), slope(0.0), noise=0.01)
    done = run(3.0, stage, curve_for("soft vee"))
    assert isinstance(done.end, GiveUp)
    assert done.end.verdict in (Verdict.OUT_OF_RANGE, Verdict.DISAGREEMENT)


def test_regions_that_disagree_about_focus_are_said_to() -> None:
    layers = np.random.default_rng(3).uniform(-9, 9, GRID.count)
    done = run(2.0, Stage(SHAPES["soft vee"], layers), curve_for("soft vee"))
    assert isinstance(done.end, GiveUp)
    assert done.end.verdict is Verdict.DISAGREEMENT


def test_a_score_that_bends_otherwise_than_the_curve_is_not_believed() -> None:
    stage = Stage(lambda z: 2.5 * SHAPES["soft vee"](z), slope(0.0))
    done = run(3.0, stage, curve_for("soft vee"))
    assert isinstance(done.end, GiveUp)
    assert done.end.verdict is Verdict.DISAGREEMENT
    assert "calibrate again" in done.end.why


def slipping(slip_um: float, sent: Callable[[MoveTo], bool]) -> tuple[Settled | GiveUp, float]:
    """A job on a stage that ends elsewhere where `sent` says so, and does not know; gives where it really is too."""
    stage = Stage(SHAPES["soft vee"], slope(0.0))
    plan = few_shot.plan(stage.look(2.0), replace(GROUND, curve=curve_for("soft vee")))
    decision, really_um = next(plan), 2.0
    while True:
        assert isinstance(decision, MoveTo)
        really_um = decision.z_um + (slip_um if sent(decision) else 0.0)
        try:
            decision = plan.send(replace(stage.look(really_um), z_um=decision.z_um))
        except StopIteration as ended:
            return ended.value, really_um


def test_a_last_look_that_is_no_less_blurred_than_those_beside_it_is_not_focus() -> None:
    end, _ = slipping(3.0, lambda decision: ", move by" in decision.why or decision.why.startswith("refine"))
    assert isinstance(end, GiveUp)
    assert end.verdict is Verdict.DISAGREEMENT
    assert "the stage did not go where it was sent" in end.why


def test_a_stage_that_drifts_after_the_bracket_is_followed() -> None:
    end, really_um = slipping(0.4, lambda decision: "bracket" not in decision.why)
    assert isinstance(end, Settled)
    assert really_um == pytest.approx(0.0, abs=0.3)
