"""Steering by speed on the simulated 20x/0.75: jobs from both sides of focus, their errors, bounds and courses.

    python tests/velocity_trial.py [--jobs 54] [--seed 11] [--bundle factory] [--took-ms 60] [--out velocity-out]

`--bundle` is a bundle of the task quality by name or path, or `truth`, which grades by the world's truth, a little
unsure. Either way a look takes `--took-ms` of the board's time for the network, on top of what the camera takes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from grader import Source, grader
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edge_app.answer import Verdict
from edge_app.controller import Controller
from edge_app.feed import NOTHING, Beside
from edge_app.job import Look, Outcome
from edge_app.model import Model, ModelSource
from edge_app.runtime import Runtime
from edge_app.strategy import Decision, Glide
from edge_app.tasks.quality import NAMES, QualityGrade
from firmware.clock import Clock, ManualClock
from firmware.gliding import GlidingAxis
from firmware.microscope import Microscope, open_microscope, with_simulation
from firmware.profile import BoardProfile, load_profile
from firmware.simulation import World

REACH_DEPTHS = 8.0
ERROR_UM = 1.0
KINDS = ("tissue", "smear", "sparse")
_GREEN, _RED, _GREY, _BAND = "#1b7837", "#b2182b", "#8c8c8c", "#d9f0d3"


class Slow:
    """A runtime that takes its time on the board's clock."""

    def __init__(self, runtime: Runtime, clock: Clock, took_s: float) -> None:
        self._runtime, self._clock, self._took_s = runtime, clock, took_s
        self.name, self.note = runtime.name, runtime.note

    def infer(self, counts: NDArray[np.uint8], also: Beside = NOTHING) -> dict[str, NDArray[np.float32]]:
        """The runtime's answer."""
        self._clock.sleep(self._took_s)
        return self._runtime.infer(counts, also)


@dataclass
class Course:
    """One job as it went: true distance from focus of the carriage at every turn of the motor, and every look.

    `turns` are (time s, distance um, whether towards the specimen), `looks` (time s, position um, true distance um,
    index, speed um/s), `bounds_um` what each glide towards the specimen stated.
    """

    start_um: float
    kind: str
    turns: list[tuple[float, float, bool]] = field(default_factory=list)
    looks: list[tuple[float, float, int, float]] = field(default_factory=list)
    bounds_um: list[float] = field(default_factory=list)
    outcome: Outcome | None = None
    error_um: float = 0.0

    @property
    def beyond_um(self) -> float:
        """How far a way towards the specimen led below focus, or below the start where that is lower."""
        lowest_um = min(self.start_um, 0.0)
        return max((lowest_um - distance_um for _, distance_um, towards in self.turns if towards), default=0.0)

    @property
    def bound_um(self) -> float:
        """The least of the bounds that its glides stated; without one, what a rest at focus may miss by."""
        return min(self.bounds_um, default=ERROR_UM)

    @property
    def graded(self) -> bool:
        """Whether its first look showed something that could be graded."""
        return self.outcome is not None and (self.outcome.verdict is Verdict.OK or len(self.looks) > 1)

    def line(self) -> str:
        """What became of it."""
        assert self.outcome is not None
        return (
            f"{self.kind:7s} from {self.start_um:+6.2f} um: {self.outcome.ending.value}, {self.error_um:+.2f} um from "
            f"focus after {len(self.looks)} looks and {self.outcome.duration_s:.1f} s; {self.beyond_um:.2f} of "
            f"{self.bound_um:.1f} um beyond focus; {self.outcome.sentence}"
        )


def say(text: str) -> None:
    """A line of the report."""
    print(text, flush=True)  # noqa: T201


def board(seed: int, side_px: int) -> BoardProfile:
    """The simulated board with a smaller sensor: tilt, play, drift, ringing and stale frames as they ship."""
    profile = load_profile("simulated")
    camera = profile.camera.model_copy(update={"width_px": side_px, "height_px": side_px})
    share = side_px / profile.camera.width_px
    smaller = profile.model_copy(update={"camera": camera})
    return with_simulation(smaller, seed=seed, tilt_x_um=1.0 * share, tilt_y_um=-0.6 * share)


def model_for(microscope: Microscope, bundle: str, took_s: float, loaded: list[Model]) -> Model:
    """The model that grades, in time that it takes; a bundle is opened once."""
    world = microscope.world
    assert world is not None
    if bundle == "truth":
        return grader(world, microscope.clock, took_s)
    if not loaded:
        loaded.append(ModelSource(bundle, threads=2).model_for(microscope.optics, task="quality"))
    return replace(loaded[0], runtime=Slow(loaded[0].runtime, microscope.clock, took_s))


def run(start_um: float, number: int, options: argparse.Namespace, loaded: list[Model]) -> Course:
    """One job on a board of its own."""
    kind = KINDS[number % len(KINDS)]
    with open_microscope(board(options.seed + number, options.side), ManualClock()) as microscope:
        world, axis = microscope.world, microscope.axis
        assert world is not None
        assert isinstance(axis, GlidingAxis)
        world.load_field(number, kind)
        for _ in range(2):
            axis.move_by(start_um - world.truth_um())
        course = Course(world.truth_um(), kind)
        _record(world, microscope.clock, course)

        def note(_number: int, look: Look, decision: Decision) -> None:
            _note(course, world, look, decision)

        model = model_for(microscope, options.bundle, options.took_ms / 1e3, loaded)
        source = Source(model)
        course.outcome = Controller(microscope, None, source).focus("velocity", note)  # type: ignore[arg-type]
        course.error_um = world.truth_um()
    return course


def _record(world: World, clock: Clock, course: Course) -> None:
    """Note where the carriage is whenever the motor turns; looking at the stage from here would turn it again."""
    stage, turn = world.stage, world.stage.turn

    def noted(distance_um: float, stops: bool = True) -> None:
        turn(distance_um, stops)
        height_um = world._focus_um() + world._mean_height_um()
        course.turns.append((clock.now_s(), stage._carriage_um - height_um, distance_um < 0))

    stage.turn = noted  # type: ignore[method-assign]


def _note(course: Course, world: World, look: Look, decision: Decision) -> None:
    grade = look.seen.answer
    assert isinstance(grade, QualityGrade)
    speed_um_s = 0.0
    if isinstance(decision, Glide):
        towards = decision.z_um < look.seen.z_um
        speed_um_s = -decision.speed_um_s if towards else decision.speed_um_s
        if towards:
            course.bounds_um.append(float(decision.why.split(" um beyond")[0].split()[-1]))
    at_s = look.frame.captured_at_s
    times_s = [time_s for time_s, _, _ in course.turns]
    true_um = float(np.interp(at_s, times_s, [um for _, um, _ in course.turns])) if times_s else course.start_um
    course.looks.append((at_s, true_um, grade.index, speed_um_s))


def summary(courses: Sequence[Course], depth_um: float) -> dict[str, object]:
    """The figures of all jobs; blank fields, of which nothing can be graded, are counted and left out."""
    seen = [course for course in courses if course.graded]
    ended = Counter(course.outcome.ending.value for course in seen if course.outcome is not None)
    errors_um = np.abs([course.error_um for course in seen])
    times_s = [course.outcome.duration_s for course in seen if course.outcome is not None]
    return {
        "jobs": len(seen),
        "blank": len(courses) - len(seen),
        "endings": dict(ended),
        "error_median_um": round(float(np.median(errors_um)), 3),
        "error_p95_um": round(float(np.percentile(errors_um, 95)), 3),
        "error_max_um": round(float(errors_um.max()), 3),
        "error_median_depths_of_field": round(float(np.median(errors_um)) / depth_um, 3),
        "beyond_focus_max_um": round(max(course.beyond_um for course in courses), 3),
        "least_bound_um": round(min(course.bound_um for course in courses if course.bounds_um), 3),
        "beyond_their_bound": sum(course.beyond_um > course.bound_um for course in courses),
        "looks_median": float(np.median([len(course.looks) for course in seen])),
        "duration_median_s": round(float(np.median(times_s)), 2),
        "duration_max_s": round(float(np.max(times_s)), 2),
    }


def draw(courses: Sequence[Course], path: Path, depth_um: float) -> None:
    """As the paper's Figure 6: distance, speed and class over time, of some jobs from either side."""
    figure = Figure(figsize=(10.0, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 2, sharex="col", sharey="row")
    far = [course for course in courses if course.start_um > 0]
    for column, (group, title) in enumerate(
        ((far, "from too far"), ([c for c in courses if c not in far], "too close"))
    ):
        chosen = sorted(group, key=lambda course: course.start_um)
        _columns(axes[:, column], [chosen[k] for k in np.unique(np.linspace(0, len(chosen) - 1, 5).astype(int))])
        axes[0, column].axhspan(-depth_um / 2, depth_um / 2, color=_BAND)
        axes[0, column].set_title(f"{len(group)} jobs {title}; five of them")
        axes[2, column].set_xlabel("time since the first look (s)")
    axes[0, 0].set_ylabel("distance from true focus (um)")
    axes[1, 0].set_ylabel("commanded speed (um/s)\npositive: away")
    axes[2, 0].set_ylabel("distance index")
    axes[2, 0].set_yticks(list(NAMES), [f"{index} {name}" for index, name in NAMES.items()], fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _columns(axes: NDArray[np.object_], courses: Sequence[Course]) -> None:
    above, middle, below = axes.tolist()
    assert isinstance(above, Axes)
    for course in courses:
        began_s = course.looks[0][0]
        line = above.plot([t - began_s for t, _, _ in course.turns], [um for _, um, _ in course.turns], linewidth=1.2)
        times_s, true_um, indices, speeds = zip(*course.looks, strict=True)
        seen_s = [time_s - began_s for time_s in times_s]
        colour = line[0].get_color()
        above.plot(seen_s, true_um, ".", color=colour, markersize=4)
        middle.step(seen_s, speeds, where="post", color=colour, linewidth=1.2)
        below.plot(seen_s, indices, ".-", color=colour, linewidth=0.7, markersize=4)
    above.axhline(0.0, color=_GREY, linewidth=0.6)
    middle.axhline(0.0, color=_GREY, linewidth=0.6)


def main() -> int:
    """Run, print, draw; 1 where a bound or the error was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=54)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--side", type=int, default=600, help="of the square sensor, pixels")
    parser.add_argument("--bundle", default="factory")
    parser.add_argument("--took-ms", type=float, default=60.0, help="what the network takes for a look")
    parser.add_argument("--out", type=Path, default=Path("velocity-out"))
    options = parser.parse_args()
    depth_um = load_profile("simulated").objective[0].depth_of_field_um or 1.0
    rng, loaded = np.random.default_rng(options.seed), list[Model]()
    places = (np.arange(options.jobs) + rng.uniform(0, 1, options.jobs)) / options.jobs * 2 - 1
    places[[0, -1]] = -1.0, 1.0
    courses = []
    for number, place in enumerate(places * REACH_DEPTHS * depth_um):
        course = run(float(place), number, options, loaded)
        courses.append(course)
        assert course.outcome is not None
        say(f"{number + 1:3d} {course.line()}")
    figures = summary(courses, depth_um)
    say(json.dumps(figures, indent=2))
    draw(courses, options.out / "velocity.png", depth_um)
    say(f"drawn in {options.out / 'velocity.png'}")
    missed = figures["beyond_their_bound"] or float(str(figures["error_max_um"])) >= ERROR_UM
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
