"""The line from camera to motor: one look (capture, cut, reject, infer, fuse), one decision, one move.

Read this file first. Everything here runs on the one hardware thread; only the axis's `stop` comes from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from edge_app.answer import DEFOCUS, Answer, Verdict, screen
from edge_app.curve import FocusCurve
from edge_app.curves import Curves
from edge_app.errors import UnknownStrategy
from edge_app.job import Ending, Job, Look, OnLook, Outcome, Stopwatch
from edge_app.linear import rgb8
from edge_app.measured import Memory
from edge_app.model import Model, ModelSource
from edge_app.passages import passage_of, returned_by
from edge_app.patches import MIN_CONTRAST, PATCH_PX, PatchGrid, RegionOfInterest, chosen, content
from edge_app.roster import Roster
from edge_app.sharpness import sharpness
from edge_app.strategy import (
    Decision,
    GiveUp,
    Glide,
    Ground,
    MoveTo,
    Observation,
    Plan,
    Settled,
    sharper,
    shown_better,
)
from edge_app.watch import Finding, Kind, MoveWatch, Suspicion
from firmware import plugins
from firmware.errors import FirmwareError, MotionStopped, TravelSpent, UnknownPlugin
from firmware.frames import Frame, FrameOptics
from firmware.microscope import Microscope
from firmware.travel import Move, Travel

STRATEGIES = "edge_app.strategies"
_SAME = 1.3
# A way that is made again costs two more of its kind, play included.
_WAYS = 4
_ALL = 0.7
_STALE = "the camera only gave frames from before they were asked for; check its buffers, or raise flush_frames"


class StrategyModule(Protocol):
    """What a file in strategies/ holds."""

    SUMMARY: str
    TASK: str

    def plan(self, first: Observation, ground: Ground) -> Plan:
        """Decide, look by look."""
        ...


class Controller:
    """One microscope, at most one model for each task, and the order in which things happen.

    `model` is open from the start; with a `source` those of other tasks are opened when they are first asked, and all
    are looked for again when another objective is in place. `memory` is what the board measured of itself.
    """

    def __init__(
        self,
        microscope: Microscope,
        model: Model | None,
        source: ModelSource | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.microscope = microscope
        self.models = Roster(model, source, microscope.expect)
        self.memory = memory or Memory(microscope.profile, None)
        self.curves = Curves(microscope.profile, self.memory.folder)
        self.watch = MoveWatch()

    @property
    def model(self) -> Model | None:
        """The model for defocus, if it is open."""
        return self.models.loaded(DEFOCUS)

    def select_objective(self, name: str) -> float:
        """Note that another objective is in place, with the model for it; a model that cannot be had changes nothing.

        Returns:
            The distance moved, um.

        Raises:
            ProfileError: The board has no such objective.
            AppError: Its model cannot be loaded.
            AxisError: As `ZAxis.move_by`; the objective and the model are the new ones.
        """
        self.models.change(self.microscope.profile.frame_optics(self.microscope.objective_named(name)))
        return self.microscope.select_objective(name)

    def adopt(self, source: ModelSource, models: Sequence[Model], optics: FrameOptics) -> bool:
        """Go by another source's models, opened for these optics; False, and nothing, if others are in place now."""
        if self.microscope.optics != optics:
            return False
        self.models.resupply(source, models)
        return True

    def look(self, task: str = DEFOCUS, roi: RegionOfInterest | None = None, like: str = "") -> Look:
        """Capture a fresh frame and judge it: camera, patches, rejection, one batch, one answer.

        Raises:
            CameraError: No frame could be had.
            GridTooLarge: Not one patch fits the frame or the region.
            RuntimeFailed: A model is needed and there is none, or it failed.
        """
        if task:
            self.model_for(task)  # a frame must not grow old while its model is opened
        watch = Stopwatch()
        with watch("capture"):
            frame = self.microscope.capture()
        return self.judge(frame, task, roi, watch, like)

    def judge(
        self,
        frame: Frame,
        task: str = DEFOCUS,
        roi: RegionOfInterest | None = None,
        watch: Stopwatch | None = None,
        like: str = "",
    ) -> Look:
        """Judge a frame that is already here: the line from pixels to answer. Raises as `look`.

        The model of `task` is asked, none for "". Where its passport accepts the optics, or that of the task that this
        look is to be `like`, the frame is read and cut as that model wants.
        """
        watch = watch or Stopwatch()
        with watch("convert"):
            reader = self.models.fitting(task or like, frame.optics)
            rgb = rgb8(frame, reader is None or reader.undoes_tone)
            grid = PatchGrid.fit(frame.height_px, frame.width_px, reader.patch_px if reader else PATCH_PX, roi)
        with watch("reject"):
            judge = reader or self.model
            seen = content(rgb, grid, judge.min_contrast if judge else MIN_CONTRAST)
            informative = seen.informative
        with watch("sharpness"):
            sharp = sharpness(rgb, grid)
        answer: Answer | None = None
        if task:
            model = self.model_for(task)
            stale = None if frame.fresh else (Verdict.STALE_FRAME, _STALE)
            refusal = stale or model.refusal(frame.optics) or screen(seen)
            if refusal is not None:
                answer = model.refuse(refusal, grid)
            else:
                with watch("cut"):
                    asked = chosen(seen, grid, model.patches_at_most)
                    counts = grid.cut(rgb, asked)
                    also = model.also(rgb if roi is None else roi.of(rgb))
                with watch("infer"):
                    outputs = model.infer(counts, also)
                with watch("fuse"):
                    answer = model.answer(outputs, asked, grid, frame.optics)
        observation = Observation(frame.z_um, answer, sharp, informative, frame.fresh)
        return Look(frame, observation, watch.ms, task)

    def focus(self, strategy: str, on_look: OnLook, roi: RegionOfInterest | None = None) -> Outcome:
        """Run one strategy to its end; never leave the axis worse off than it was.

        The job ends at its start again unless there is evidence beyond the estimate (the sharpness of the same
        patches) that its last position is better. Its start is where the first look is taken, after any play in
        the screw has been taken out. A job that is stopped ends where it was halted.

        Args:
            strategy: A file in strategies/.
            on_look: Called with each look's number from 1, the look, and what is decided on it.
            roi: Look at this part of the sensor only.

        Raises:
            UnknownStrategy: There is no such strategy.
            FirmwareError: Camera or axis failed; the axis is at rest.
            AppError: The model failed or the grid does not fit.
        """
        module = strategy_of(strategy)
        axis = self.microscope.axis
        job = Job(strategy, module.TASK, axis.z_um, self.microscope.clock.now_s(), roi, axis.losses)
        travel = self.microscope.job_travel()

        try:
            with self.microscope.camera.held():
                axis.move_to(job.start_um, travel)
                look = self._looked(job, job.task)
                plan: Plan = module.plan(look.seen, self._ground(travel.low_um, travel.high_um, look))
                decision = _decide(plan, look.seen, first=True)
                while isinstance(decision, (MoveTo, Glide)):
                    on_look(len(job.seen), look, decision)
                    before = look.seen
                    del look  # its frame would be kept while the next is taken
                    if isinstance(decision, Glide):
                        look = self._glided(job, decision, travel)
                    else:
                        move = axis.move_to(decision.z_um, travel)
                        job.moves += 1
                        after = self._looked(job, job.task)
                        look = self._watched(job, before, move, after, travel, on_look)
                    decision = _decide(plan, look.seen)
                on_look(len(job.seen), look, decision)
                axis.rest()
        except MotionStopped as stopped:
            return self._outcome(job, Ending.STOPPED, Verdict.OK, str(stopped))
        except TravelSpent as spent:
            if not job.seen:
                return self._outcome(job, Ending.STAYED, Verdict.OUT_OF_RANGE, str(spent))
            decision = GiveUp(Verdict.OUT_OF_RANGE, str(spent))
        except Exception:
            self._retreat(job)
            raise
        return self._conclude(job, decision)

    def _glided(self, job: Job, decision: Glide, travel: Travel) -> Look:
        """Be on the way at a set speed, and look meanwhile; whatever is decided next but another glide ends it."""
        axis = self.microscope.axis
        if not axis.moving:
            job.moves += 1
        axis.glide(decision.z_um, decision.speed_um_s, travel)
        return self._looked(job, job.task)

    def _watched(
        self, job: Job, before: Observation, move: Move, after: Look, travel: Travel, on_look: OnLook
    ) -> Look:
        """Compare what was seen of a move with what was commanded; a suspicion drives back and looks again.

        Gives the look to decide on: `after`, or, where the way was made again, the one at its end.
        """
        passage = passage_of(before, move, after.seen, job.last_dz_um)
        job.last_dz_um = move.to_um - move.from_um
        noted = self.watch.note(passage) if passage is not None else None
        if isinstance(noted, Finding):
            job.findings.append(noted)
        if not isinstance(noted, Suspicion) or not self._can_repeat(move, travel):
            return after
        why = f"the move seems to have ended {noted.loss_um:.2f} um short; back to see whether steps were lost"
        returned = self._gone(job, after, MoveTo(move.from_um, why), travel, on_look)
        apart = returned_by(before, returned.seen)
        found = self.watch.confirm(noted, *apart) if apart is not None else None
        why = found.sentence if found is not None else _unconfirmed(noted)
        if found is not None:
            job.findings.append(found)
        return self._gone(job, returned, MoveTo(move.to_um, f"{why}; on again"), travel, on_look)

    def _can_repeat(self, move: Move, travel: Travel) -> bool:
        """Whether a way may be made twice more: an axis that does not know its place has no travel to spare."""
        return self.microscope.axis.trusted and travel.path_um >= _WAYS * abs(move.to_um - move.from_um)

    def _gone(self, job: Job, look: Look, decision: MoveTo, travel: Travel, on_look: OnLook) -> Look:
        """Make a move that the watch asks for, and look."""
        on_look(len(job.seen), look, decision)
        self.microscope.axis.move_to(decision.z_um, travel)
        job.moves += 1
        return self._looked(job, job.task)

    def _looked(self, job: Job, task: str) -> Look:
        """A look of a job; the job keeps what was seen, not the frame."""
        look = self.look(task, job.roi, like=job.task)
        job.seen.append(look.seen)
        return look

    def _conclude(self, job: Job, decision: Settled | GiveUp) -> Outcome:
        first, last = job.seen[0], job.seen[-1]
        if job.moves == 0:
            verdict = decision.verdict if isinstance(decision, GiveUp) else Verdict.OK
            return self._outcome(job, Ending.STAYED, verdict, decision.why)
        if isinstance(decision, Settled) and shown_better(first, last):
            deciding = first.answer.verdict if first.answer else Verdict.OK
            return self._outcome(job, Ending.FOCUSED, deciding, decision.why)
        if isinstance(decision, Settled):
            decision = GiveUp(Verdict.OK, f"{decision.why}, but no sharper than the start")
        return self._came_back(job, decision)

    def _came_back(self, job: Job, decision: GiveUp) -> Outcome:
        """Return to the start, and see whether it still is the start."""
        try:
            self.microscope.axis.go_back(job.start_um, job.losses)
            came_back = self._is_back(job)
        except MotionStopped as stopped:
            return self._outcome(job, Ending.STOPPED, decision.verdict, str(stopped))
        except Exception:
            with suppress(FirmwareError):
                self._mind_lost_steps(job)
            raise
        job.moves += 1
        if not came_back:
            self.microscope.axis.distrust()
            lost = "the frame there is not the one it began with, so the axis has lost steps: home it"
            return self._outcome(job, Ending.RETURNED, decision.verdict, f"{decision.why}; went back, but {lost}")
        return self._outcome(job, Ending.RETURNED, decision.verdict, f"{decision.why}; went back to the start")

    def _is_back(self, job: Job) -> bool:
        """Whether the start looks as it did: its sharpness, on the same patches, is what it was."""
        first = job.seen[0]
        again = self._looked(job, "").seen
        return not again.fresh or 1 / _SAME <= sharper(first, again) <= _SAME

    def _retreat(self, job: Job) -> None:
        """After a fault: try to go back to the start, and let the fault speak."""
        with suppress(FirmwareError):
            self.microscope.axis.rest()
        with suppress(FirmwareError):
            self.microscope.axis.go_back(job.start_um, job.losses)
        with suppress(FirmwareError):
            self._mind_lost_steps(job)

    def _mind_lost_steps(self, job: Job) -> None:
        """At its end a job that lost steps costs the trust: until then it goes by what it sees."""
        if any(found.kind is Kind.LOST_STEPS for found in job.findings):
            self.microscope.axis.distrust()

    def _outcome(self, job: Job, ending: Ending, verdict: Verdict, sentence: str) -> Outcome:
        self._mind_lost_steps(job)
        return Outcome(
            ending=ending,
            verdict=verdict,
            sentence=sentence,
            start_um=job.start_um,
            end_um=self.microscope.axis.z_um,
            frames=len(job.seen),
            moves=job.moves,
            duration_s=self.microscope.clock.now_s() - job.began_s,
            strategy=job.strategy,
            last=job.seen[-1].answer if job.seen else None,
            findings=tuple(job.findings),
        )

    def model_for(self, task: str) -> Model:
        """The model of a task for the objective in place, opened now if it was not. Raises as `Roster.of`."""
        return self.models.of(task, self.microscope.optics)

    def _ground(self, low_um: float, high_um: float, first: Look) -> Ground:
        focus = self.microscope.profile.focus
        return Ground(
            low_um,
            high_um,
            self.microscope.objective.depth_of_field_um or focus.sweep_fine_um,
            focus.sweep_coarse_um,
            focus.sweep_fine_um,
            focus.sweep_half_range_um,
            self.microscope.profile.axis.speed_um_s,
            self.microscope.clock.now_s() - first.frame.captured_at_s,
            self._curve(first.task),
        )

    def _curve(self, task: str) -> FocusCurve | None:
        """How the scores of a task's model rise around focus under the objective in place, if that was recorded."""
        model = self.models.loaded(task)
        return None if model is None else self.curves.known(self.microscope.objective, model.bundle.sha256)


def strategy_of(name: str) -> StrategyModule:
    """A strategy's file.

    Raises:
        UnknownStrategy: There is none of that name.
    """
    try:
        module: StrategyModule = plugins.load(STRATEGIES, name)
    except UnknownPlugin as error:
        raise UnknownStrategy(str(error)) from error
    return module


def task_of(name: str) -> str:
    """The task whose model a strategy asks; "" for one that asks none, or that does not exist."""
    return plugins.load(STRATEGIES, name).TASK if name in plugins.names(STRATEGIES) else ""


def _decide(plan: Plan, seen: Observation, first: bool = False) -> Decision:
    """The plan's next decision, its return value being the last; no decision is taken on a stale frame."""
    if not seen.fresh:
        return GiveUp(Verdict.STALE_FRAME, _STALE)
    try:
        return next(plan) if first else plan.send(seen)
    except StopIteration as ended:
        end: Settled | GiveUp = ended.value
        return end


def _unconfirmed(suspicion: Suspicion) -> str:
    """What is said where the way back ended where it should: the stage may not have moved at all."""
    if suspicion.loss_um > _ALL * abs(suspicion.passage.commanded_um):
        return "the stage does not seem to follow the motor at all: check its supply and the coupling"
    return "no steps were lost"
