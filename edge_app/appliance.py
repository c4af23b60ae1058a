"""Appliance: the one thread that owns camera, motor and inference, and the rules for everybody else.

A mover (focus, move, home) runs alone; a second one is told Busy at once. Measurers wait in a bounded line
and share the newest frame: one look, taken for them or passing by in a focus job, answers all that wait.
`stop` may be called from anywhere. Before each step the thread says how long it may take at most
(`Microscope.expect`), at every idle tick too; then it also looks for a camera that was lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from edge_app import heap
from edge_app.answer import DEFOCUS
from edge_app.calibration import Calibrated, OnReading, calibrate_mechanics
from edge_app.controller import Controller, task_of
from edge_app.errors import BundleError, Busy, JobStopped, NotReady, RuntimeFailed
from edge_app.focus_calibration import TASK as SHARPNESS
from edge_app.focus_calibration import FocusCalibrated, OnSlice, Slice, Wish, calibrate_focus
from edge_app.job import Look, OnLook, Outcome
from edge_app.line import Asked, Line
from edge_app.model import Model
from edge_app.patches import RegionOfInterest
from edge_app.record import Listener, Record, client_of_this_call
from edge_app.strategy import Decision
from firmware.errors import CameraError
from firmware.microscope import JUDGING_S

if TYPE_CHECKING:
    from edge_app.ota.desk import Desk

T = TypeVar("T")
TICK_S = 2.0
"""How often an idle thread is heard of, and looks for a lost camera."""
CLOSE_S = 12.0
"""How long a closing appliance waits for its thread."""
_JOB_S = 60.0


@dataclass
class Job:
    """A mover: its name for others to read, who asked, its result, and whether somebody stopped it."""

    name: str
    run: Callable[[Controller], Any]
    client: str = field(default_factory=client_of_this_call)
    result: Future[Any] = field(default_factory=Future)
    stopped: threading.Event = field(default_factory=threading.Event)


class Appliance:
    """Owns a controller on a thread of its own; close it, or use a with-block, to leave hardware at rest.

    `desk` has the board's updates, on a board that keeps any.
    """

    def __init__(self, controller: Controller, tick_s: float = TICK_S, close_s: float = CLOSE_S) -> None:
        self.controller = controller
        self.desk: Desk | None = None
        self._tick_s, self._close_s = tick_s, close_s
        self._record = Record(controller)
        self._condemned = ""
        self._failed: dict[str, tuple[Model, str]] = {}
        self._unanswered = ""
        self._worked = False
        self._wake = threading.Condition()
        self._job: Job | None = None
        self._waiting = Line(self._wake)
        self._between: list[tuple[Callable[[Controller], Any], Future[Any]]] = []
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="parfocal-hardware", daemon=True)
        self._thread.start()

    @property
    def busy_with(self) -> str:
        """The name of the running mover, or ""."""
        job = self._job
        return job.name if job else ""

    @property
    def condemned(self) -> str:
        """Why this appliance is of no more use, or ""."""
        return self._condemned

    @property
    def blind(self) -> str:
        """Why there are no frames at the moment, or ""."""
        return self.controller.microscope.lost

    @property
    def ailing(self) -> str:
        """Why a model that is open gave no answer when it was last asked, or ""."""
        loaded = self.controller.models.loaded
        return "; ".join(why for task, (model, why) in self._failed.items() if model is loaded(task))

    def tell(self, listener: Listener) -> None:
        """Have somebody hear of every look and every job's end from now on."""
        self._record.tell(listener)

    @property
    def unanswered(self) -> str:
        """The task of the last asking that brought no answer, since its model failed or cannot be opened, or ""."""
        return self._unanswered

    def condemn(self, why: str) -> None:
        """Stop the axis for good and refuse all jobs: the hardware thread no longer answers. From any thread."""
        with self._wake:
            self._condemned = why
            self.controller.microscope.axis.stop()

    def run(self, name: str, call: Callable[[Controller], T]) -> Job:
        """Hand a mover to the hardware thread.

        Raises:
            Busy: Another mover is running.
            JobStopped: The appliance is closing.
            NotReady: The hardware thread no longer answers.
        """
        with self._wake:
            self._check()
            if self._job is not None:
                raise Busy(f"{self._job.name} is running; wait for it to end, or stop it")
            self._job = Job(name, call)
            self._wake.notify()
            return self._job

    def focus(self, strategy: str, on_look: OnLook, roi: RegionOfInterest | None = None) -> Job:
        """Start a focus job; its looks also answer those who wait for a measurement. Raises as `run`."""

        def run(controller: Controller) -> Outcome:
            def share(number: int, look: Look, decision: Decision) -> None:
                self._heard(look)
                on_look(number, look, decision)
                self._share(look, roi)

            controller.microscope.find_camera()
            return self._asking(lambda: controller.focus(strategy, share, roi), task_of(strategy))

        return self.run("focus", run)

    def calibrate_mechanics(self, keep: bool, on_reading: OnReading) -> Job:
        """Start to measure the axis; its looks also answer those who wait for a measurement. Raises as `run`."""

        def run(controller: Controller) -> Calibrated:
            def share(number: int, look: Look, steps: int, why: str) -> None:
                self._heard(look)
                on_reading(number, look, steps, why)
                self._share(look, None)

            controller.microscope.find_camera()
            return self._asking(lambda: calibrate_mechanics(controller, keep, share), DEFOCUS)

        return self.run("calibrate", run)

    def calibrate_focus(self, wish: Wish, keep: bool, on_slice: OnSlice) -> Job:
        """Start to record a focus curve; its looks also answer those who wait for a measurement. Raises as `run`."""

        def run(controller: Controller) -> FocusCalibrated:
            def share(slice_: Slice, look: Look) -> None:
                self._heard(look)
                on_slice(slice_, look)
                self._share(look, None)

            controller.microscope.find_camera()
            return self._asking(lambda: calibrate_focus(controller, wish, keep, share), SHARPNESS)

        return self.run("calibrate focus", run)

    def measure(self, roi: RegionOfInterest | None = None, task: str = DEFOCUS) -> Future[Look]:
        """Look without a move; ask the model of a task, or with "" only take the frame. Cancel the future to withdraw.

        Raises:
            Busy: Too many are waiting already.
            JobStopped: The appliance is closing.
            NotReady: The hardware thread no longer answers.
        """
        with self._wake:
            self._check()
            return self._waiting.join(roi, task).result

    def between(self, call: Callable[[Controller], T]) -> Future[T]:
        """Have something quick done on the hardware thread between two looks, once no job runs.

        It is no mover: nobody is told Busy for it. Cancel the future to withdraw it. Raises as `measure`, but Busy.
        """
        with self._wake:
            self._check()
            result: Future[T] = Future()
            self._between.append((call, result))
            self._wake.notify()
            return result

    def stop(self, job: Job | None = None) -> Job | None:
        """Halt whatever moves, or only `job` if it still runs.

        Returns:
            The job that was told to stop, whose result says when the hardware rests; None if none ran.
        """
        with self._wake:
            running = self._job
            if running is None or (job is not None and job is not running):
                return None
            running.stopped.set()
            self.controller.microscope.axis.stop()
            return running

    def close(self) -> bool:
        """Stop, wait for the thread, leave camera and axis at rest; False if the thread does not end."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self.stop()
        self._thread.join(timeout=self._close_s)
        if self._thread.is_alive():
            self._leave_behind()
            return False
        self.controller.microscope.expect(_JOB_S)
        self.controller.microscope.close()
        if self.desk is not None:
            self.desk.close()
        return True

    def __enter__(self) -> Appliance:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _leave_behind(self) -> None:
        """The thread hangs: stop the axis, and where it rests, as it does while the camera hangs, cut its power."""
        axis = self.controller.microscope.axis
        axis.stop()
        if not axis.moving:
            axis.close()

    def _check(self) -> None:
        if self._condemned:
            raise NotReady(self._condemned)
        if self._closing:
            raise JobStopped("the board is being closed; ask again in a moment")

    def _work(self) -> None:
        while True:
            self.controller.microscope.expect(self._tick_s + JUDGING_S)
            with self._wake:
                self._wake.wait_for(lambda: self._between or self._job or self._waiting or self._closing, self._tick_s)
                between, self._between = self._between, []
                job, waiting, closing = self._job, len(self._waiting), self._closing
            for call, result in between:
                self._do(call, result)
            if job is not None:
                self._run(job)
            elif closing:
                self._refuse_waiting()
                return
            elif waiting:
                self._measure()
            elif not between:
                self._idle()
                continue
            self._worked = True

    def _do(self, call: Callable[[Controller], Any], result: Future[Any]) -> None:
        if not result.set_running_or_notify_cancel():
            return
        try:
            result.set_result(call(self.controller))
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            result.set_exception(error)
        self._record.model()

    def _run(self, job: Job) -> None:
        microscope = self.controller.microscope
        job.result.set_running_or_notify_cancel()
        microscope.expect(_JOB_S)
        ended = self._record.job(job.name, job.client)
        try:
            result = self._begun(job)
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            self._mind(error)
            ended(error)
            self._finish(job)
            job.result.set_exception(error)
        else:
            ended(result)
            self._finish(job)
            job.result.set_result(result)
        finally:
            with self._wake:
                if not self._closing and not self._condemned:
                    microscope.axis.release()

    def _mind(self, error: BaseException) -> None:
        """A camera that failed is opened anew before the next frame."""
        if isinstance(error, CameraError):
            self.controller.microscope.lose(error)
        self._record.camera()

    def _asking(self, call: Callable[[], T], task: str) -> T:
        """Call what may ask the model of a task, and note it if that failed."""
        try:
            return call()
        except (RuntimeFailed, BundleError) as error:
            self._unanswered = task
            model = self.controller.models.loaded(task)
            if model is not None:
                self._failed = {**self._failed, task: (model, str(error))}
                self._record.answers(model, str(error))
            raise

    def _heard(self, look: Look) -> None:
        """Pass a look on, and note it if the model answered: most refusals are made without it."""
        self._record.looked(look)
        model = self.controller.models.loaded(look.task)
        if "infer" in look.stage_ms and model is not None:
            self._failed = {task: failed for task, failed in self._failed.items() if task != look.task}
            self._record.answers(model, "")

    def _idle(self) -> None:
        """Nobody wants anything: look for a lost camera, and once after each spell of work give memory back."""
        self._look_for_camera()
        if self._worked:
            self._worked = False
            heap.give_back()

    def _look_for_camera(self) -> None:
        """Open a camera that was lost, and believe it when a frame came."""
        if not self.controller.microscope.lost:
            return
        try:
            self.controller.microscope.capture()
        except Exception as error:  # noqa: BLE001 - a driver may raise anything, and this thread must live
            self._mind(error)
        else:
            self._record.camera()

    def _begun(self, job: Job) -> Any:
        if job.stopped.is_set():
            raise JobStopped(f"{job.name} was stopped before it began")
        return job.run(self.controller)

    def _finish(self, job: Job) -> None:
        with self._wake:
            if self._job is job:
                self._job = None

    def _measure(self) -> None:
        """One look for everybody who waits with the same wish as the first."""
        first = self._waiting.first()
        if first is not None:
            self._look_for(first, lambda: self.controller.look(first.task, first.roi))

    def _share(self, look: Look, roi: RegionOfInterest | None) -> None:
        """Answer waiting measurers with a look of a running job; judge its frame for other tasks if the job did not.

        Who asks a model that is not open waits for the end of the job, and so does everybody while the axis moves.
        """
        self._answer(look, roi)
        if self.controller.microscope.axis.moving:
            return
        others = self._waiting.those(lambda a: a.roi == roi and self.controller.models.loaded(a.task) is not None)
        for task, asking in {asked.task: asked for asked in others}.items():
            self._look_for(asking, lambda task=task: self.controller.judge(look.frame, task, roi))  # type: ignore[misc]

    def _look_for(self, first: Asked, take: Callable[[], Look]) -> None:
        try:
            look = self._asking(take, first.task)
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            self._mind(error)
            self._waiting.refuse(lambda a: (a.roi, a.task) == (first.roi, first.task), error)
        else:
            self._record.look()
            self._heard(look)
            self._answer(look, first.roi)

    def _answer(self, look: Look, roi: RegionOfInterest | None) -> None:
        self._waiting.answer(lambda a: a.roi == roi and a.task in ("", look.task), look)

    def _refuse_waiting(self) -> None:
        closed = JobStopped("the board is being closed; ask again in a moment")
        with self._wake:
            between, self._between = self._between, []
        for _, result in between:
            if result.set_running_or_notify_cancel():
                result.set_exception(closed)
        self._waiting.refuse(lambda _: True, closed)
