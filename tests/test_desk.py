"""The switch between two looks: while others measure and focus, change the objective or close, and back by itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from blur_oracle import blur_model
from conftest import PATIENCE_S, HeldClock, small_board
from oracle import Oracle, manifest
from power import PowerDisk
from test_metrics import told
from updating import NAME, Offering, bundle, executed, install, serving, silent, updates

from edge_app.answer import Verdict
from edge_app.appliance import Appliance
from edge_app.config import Settings
from edge_app.controller import Controller
from edge_app.errors import BundleCorrupt, Busy, JobStopped, RuntimeFailed, UpdateRefused
from edge_app.job import Ending, Outcome
from edge_app.metrics import Metrics
from edge_app.model import Model, ModelSource, open_model
from edge_app.ota import desk
from edge_app.ota.desk import Desk
from edge_app.ota.staging import Say
from edge_app.ota.state import Stage
from edge_app.ota.tally import Tally
from edge_app.updates import Status
from firmware.microscope import open_microscope

OLD, NEW = "1.0.0", "1.1.0"
ANY_OBJECTIVE = manifest().passport.model_copy(update={"numerical_aperture": (0.2, 0.8), "pixel_um": (0.1, 0.5)})


@dataclass(frozen=True)
class Source(ModelSource):
    """Bundles that need no runtime; `hook` is called before each is opened."""

    opener: Callable[..., Model] = open_model
    hook: Callable[[Path], None] = lambda _path: None

    def _open(self, path: Path) -> Model:
        self.hook(path)
        return self.opener(path)


class Rig:
    """A small board that serves the old one, with a newer candidate that is ready."""

    name = NAME

    def __init__(self, folder: Path) -> None:
        self.clock, self.disk = HeldClock(), PowerDisk(folder)
        microscope = open_microscope(small_board(), self.clock)
        assert microscope.world is not None
        microscope.world.load_field(3, "tissue")
        self.hook: Callable[[], None] = lambda: None
        self.updates = updates(folder, Offering(), self.disk)
        self.depot = self.updates.depot
        install(self.depot, self._bundle(OLD), OLD, self.name)
        opener = executed(microscope.world)
        shelf = self.depot.shelf()
        source = Source(self.name, shelf=shelf, opener=opener, hook=lambda _: self.hook())
        self.appliance = Appliance(Controller(microscope, opener(shelf.find(self.name)), source))
        self.desk = self.appliance.desk = Desk(Settings(), self.appliance, self.updates)

    def _bundle(self, version: str) -> bytes:
        return bundle(version, self.name, passport=ANY_OBJECTIVE)

    def make_ready(self, version: str = NEW) -> None:
        """Stage a newer one."""
        offering = Offering()
        offering.offer(version, self.name, data=self._bundle(version))
        assert updates(self.disk.folder, offering, self.disk).stage(self.name, silent).state == "ready"

    def activate(self, candidate: str = "") -> str:
        return asyncio.run(self.desk.activate(candidate)).state

    @property
    def open(self) -> str:
        """The label of the model that answers."""
        model = self.appliance.controller.model
        return model.label if model else ""

    @property
    def recorded(self) -> str:
        """The version that serves by the record."""
        known = {self._bundle(version): version for version in (OLD, NEW)}
        return known[serving(self.depot)]


class Shipped(Rig):
    """The same, whose bundles have the name of one that ships, so that something is left when both are gone."""

    name = "spectral_20x"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    yield from opened(Rig(tmp_path))


@pytest.fixture
def shipped(tmp_path: Path) -> Iterator[Rig]:
    yield from opened(Shipped(tmp_path))


def opened(made: Rig) -> Iterator[Rig]:
    made.make_ready()
    yield made
    made.clock.release()
    made.appliance.close()


def outcome(ending: Ending, verdict: Verdict = Verdict.OK) -> Outcome:
    return Outcome(ending, verdict, "", 0.0, 0.0, 2, 1, 1.0, "single_shot", None)


GOOD, BAD = outcome(Ending.FOCUSED), outcome(Ending.RETURNED, Verdict.DISAGREEMENT)


def count(rig: Rig, end: object, jobs: int) -> None:
    for _ in range(jobs):
        rig.desk.watcher.ended("focus", end)


def left(rig: Rig) -> None:
    """Wait for the model to be left."""
    assert rig.desk._leaving is not None
    rig.desk._leaving.join(PATIENCE_S)


# The switch.


def test_nobody_who_measures_is_refused_while_the_model_changes(rig: Rig) -> None:
    ended = threading.Event()

    def measure() -> int:
        count = 0
        while not ended.is_set():
            assert rig.appliance.measure().result(PATIENCE_S).seen.answer is not None
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        counts = [pool.submit(measure) for _ in range(4)]
        for _ in range(3):
            rig.activate()
            assert rig.open == "net@1.1.0"
            asyncio.run(rig.desk.roll_back())
            assert rig.open == "net@1.0.0"
            rig.depot.change(lambda state: state.model_copy(update={"bad": ()}))
            rig.make_ready()
        ended.set()
        assert all(one.result(PATIENCE_S) > 0 for one in counts)


def test_a_focus_job_ends_with_the_model_with_which_it_began(rig: Rig) -> None:
    asked: list[str] = []
    rig.clock.hold(4)
    job = rig.appliance.focus("single_shot", lambda *_: asked.append(rig.open))
    assert rig.clock.reached.wait(PATIENCE_S)
    with ThreadPoolExecutor(1) as pool:
        switching = pool.submit(rig.activate)
        rig.clock.release()
        assert isinstance(job.result.result(PATIENCE_S), Outcome)
        assert switching.result(PATIENCE_S) == "watched"
    assert set(asked) == {"net@1.0.0"}
    assert (rig.open, rig.recorded) == ("net@1.1.0", NEW)


def test_the_switch_is_no_mover(rig: Rig) -> None:
    controller, taking, release = rig.appliance.controller, threading.Event(), threading.Event()
    adopt = controller.adopt

    def held(*given: Any) -> bool:
        taking.set()
        return release.wait(PATIENCE_S) and adopt(*given)

    controller.adopt = held  # type: ignore[assignment]
    with ThreadPoolExecutor(1) as pool:
        switching = pool.submit(rig.activate)
        try:
            assert taking.wait(PATIENCE_S)
            assert rig.appliance.busy_with == ""
            job = rig.appliance.focus("single_shot", lambda *_: None)
        finally:
            release.set()
        assert switching.result(PATIENCE_S) == "watched"
    assert isinstance(job.result.result(PATIENCE_S), Outcome)


def test_an_objective_that_was_changed_meanwhile_gets_the_new_model_too(rig: Rig) -> None:
    opened: list[str] = []

    def change() -> None:
        opened.append(rig.appliance.controller.microscope.objective.name)
        if len(opened) == 1:
            rig.appliance.run("objective", lambda c: c.select_objective("10x")).result.result(PATIENCE_S)

    rig.hook = change
    assert rig.activate() == "watched"
    assert (rig.open, rig.recorded, opened) == ("net@1.1.0", NEW, ["20x", "10x"])


def test_an_objective_that_does_not_come_to_rest_is_told_and_the_record_has_the_new_one(rig: Rig) -> None:
    names = iter(["10x", "20x", "10x", "20x"])

    def change() -> None:
        rig.hook = lambda: None
        rig.appliance.run("objective", lambda c: c.select_objective(next(names))).result.result(PATIENCE_S)
        rig.hook = change

    rig.hook = change
    with pytest.raises(Busy, match="the new model serves after the next start"):
        rig.activate()
    assert rig.recorded == NEW


def test_a_model_of_another_task_that_was_opened_meanwhile_is_looked_for_again(rig: Rig) -> None:
    controller, world = rig.appliance.controller, rig.appliance.controller.microscope.world
    assert world is not None
    tries: list[int] = []

    def open_another() -> None:
        tries.append(1)
        if len(tries) == 1:
            controller.models.put(replace(blur_model(world), why="by the old source"))

    rig.hook = open_another
    rig.activate()
    assert len(tries) > 1
    assert rig.open == "net@1.1.0"
    assert all(model.why != "by the old source" for model in controller.models.all())


def test_a_service_that_closes_meanwhile_leaves_a_record_of_exactly_one(rig: Rig) -> None:
    rig.hook = rig.appliance.close  # type: ignore[assignment]
    with pytest.raises(JobStopped):
        rig.activate()
    assert rig.recorded == NEW


def test_a_model_that_the_service_cannot_open_is_refused_for_good_and_the_old_one_answers(rig: Rig) -> None:
    def fail() -> None:
        raise RuntimeFailed("the accelerator is out of memory")

    rig.hook = fail
    with pytest.raises(UpdateRefused, match="cannot be opened by the service: the accelerator"):
        rig.activate()
    assert (rig.open, rig.recorded) == ("net@1.0.0", OLD)
    assert rig.depot.state().is_bad("net@1.1.0", "")


def test_a_model_that_cannot_be_opened_once_the_record_names_it_is_left_again(rig: Rig) -> None:
    tries: list[int] = []

    def open_once() -> None:
        tries.append(1)
        if len(tries) == 2:
            raise RuntimeFailed("the accelerator is out of memory")
        rig.appliance.run("objective", lambda c: c.select_objective("10x")).result.result(PATIENCE_S)

    rig.hook = open_once
    with pytest.raises(UpdateRefused, match="cannot be opened by the service: the accelerator"):
        rig.activate()
    rig.desk.follow()
    assert (rig.open, rig.recorded, rig.depot.state().stage) == ("net@1.0.0", OLD, Stage.ROLLED_BACK)
    assert rig.depot.state().is_bad("net@1.1.0", "")


def test_a_disk_that_is_full_at_the_switch_changes_nothing(rig: Rig) -> None:
    rig.disk.full_at = rig.disk.operations + 1
    with pytest.raises(Exception, match="nothing was changed and the old model serves"):
        rig.activate()
    rig.disk.restart()
    assert (rig.open, rig.recorded) == ("net@1.0.0", OLD)
    assert rig.activate() == "watched"


def test_a_switch_asked_for_by_another_name_is_refused(rig: Rig) -> None:
    with pytest.raises(UpdateRefused, match=r"net@1\.1\.0 is ready on this board, and not net@2"):
        rig.activate("net@2.0.0")
    rig.activate("net@1.1.0")
    with pytest.raises(UpdateRefused, match=r"net@1\.1\.0 serves on this board, and not net@1\.0"):
        asyncio.run(rig.desk.roll_back("net@1.0.0"))
    with pytest.raises(UpdateRefused, match="no candidate that is ready"):
        rig.activate()


@pytest.mark.parametrize("withdrawn", [True, False])
def test_a_candidate_that_is_ready_is_asked_about_again_before_it_is_taken(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, withdrawn: bool
) -> None:
    offering = Offering()
    if not withdrawn:
        offering.offer(NEW, data=rig._bundle(NEW))

    async def staged(_settings: Settings, name: str, say: Say) -> Status:
        return updates(rig.disk.folder, offering, rig.disk).stage(name, say)

    monkeypatch.setattr(desk, "staged", staged)
    status = asyncio.run(rig.desk.apply("", stage_only=False, say=silent))
    assert offering.asked == 1
    if withdrawn:
        assert "no longer what the channel offers" in status.reason
    assert rig.recorded == (OLD if withdrawn else NEW)


def test_one_switch_at_a_time(rig: Rig) -> None:
    def again() -> None:
        rig.hook = lambda: None
        with pytest.raises(Busy):
            rig.activate()

    rig.hook = again
    assert rig.activate() == "watched"


def test_a_record_that_another_process_wrote_is_followed(rig: Rig) -> None:
    rig.desk.follow()
    assert rig.open == "net@1.0.0"
    rig.updates.activate()
    assert rig.open == "net@1.0.0"
    rig.desk.follow()
    assert rig.open == "net@1.1.0"
    assert rig.desk.watcher.watched_jobs == 0
    count(rig, GOOD, 1)
    assert rig.desk.watcher.watched_jobs == 1
    rig.updates.roll_back(NAME)
    rig.desk.follow()
    assert rig.open == "net@1.0.0"


def test_a_record_that_cannot_be_followed_is_told_once_and_what_is_new_there_left(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise RuntimeFailed("the accelerator is out of memory")

    rig.hook = fail
    rig.updates.activate()
    rig.desk.follow()
    rig.desk.follow()
    assert (rig.open, len(tries), caplog.messages.count("record not followed")) == ("net@1.0.0", 1, 1)
    assert rig.recorded == OLD
    assert "could not be opened: the accelerator is out of memory" in rig.updates.status().reason
    assert rig.depot.state().is_bad(f"{NAME}@{NEW}", "")


def test_a_record_that_names_no_new_model_and_cannot_be_followed_is_tried_again_after_a_pause(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise RuntimeFailed("the accelerator is out of memory for a moment")

    rig.activate()
    rig.updates.roll_back(NAME)
    rig.hook = fail
    for _ in range(2 * (desk._PAUSE + 1)):
        rig.desk.follow()
    assert (rig.open, len(tries), caplog.messages.count("record not followed")) == ("net@1.1.0", 2, 1)
    rig.hook = lambda: None
    for _ in range(desk._PAUSE + 1):
        rig.desk.follow()
    assert (rig.open, rig.recorded) == ("net@1.0.0", OLD)


def test_a_record_that_cannot_be_followed_on_a_full_disk_is_told_too(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeFailed("the accelerator is out of memory")

    rig.hook = fail
    rig.updates.activate()
    rig.disk.full_at = rig.disk.operations + 1
    rig.desk.follow()
    assert "not remembered" in caplog.messages
    assert (rig.open, rig.recorded) == ("net@1.0.0", NEW)


def test_a_service_attends_to_its_record_until_it_closes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_app.ota.desk.FOLLOW_S", 0.01)
    looked = threading.Event()
    rig.desk.follow = looked.set  # type: ignore[method-assign]
    rig.desk.attend()
    assert looked.wait(PATIENCE_S)


def test_a_service_that_closes_does_not_wait_for_a_model_that_it_opens_to_follow(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_app.ota.desk.FOLLOW_S", 0.01)
    opening, closed, closed_meanwhile = threading.Event(), threading.Event(), threading.Event()

    def slowly() -> None:
        opening.set()
        if closed.wait(PATIENCE_S):
            closed_meanwhile.set()

    rig.hook = slowly
    rig.updates.activate()
    rig.desk.attend()
    assert opening.wait(PATIENCE_S)
    assert rig.appliance.close()
    closed.set()
    assert closed_meanwhile.wait(PATIENCE_S)


# The watch.


def test_a_new_model_without_answers_is_left_by_itself_for_the_old_one(rig: Rig) -> None:
    rig.activate()
    model = rig.appliance.controller.model
    assert model is not None

    def no_answer(*_: Any) -> dict[str, Any]:
        raise RuntimeFailed("the accelerator hangs")

    assert isinstance(model.runtime, Oracle)
    vars(model.runtime)["infer"] = no_answer
    for _ in range(2):
        job = rig.appliance.focus("single_shot", lambda *_: None)
        assert isinstance(job.result.exception(PATIENCE_S), RuntimeFailed)
    left(rig)
    assert (rig.open, rig.recorded, rig.depot.state().stage) == ("net@1.0.0", OLD, Stage.ROLLED_BACK)
    assert "2 jobs in a row got no answer" in rig.depot.state().reason
    assert rig.appliance.focus("single_shot", lambda *_: None).result.result(PATIENCE_S).ending is not None


def test_a_new_model_that_cannot_be_opened_for_a_job_is_left_too(rig: Rig) -> None:
    rig.activate()
    rig.appliance._unanswered = "defocus"
    rig.appliance.controller.models._open = {}
    count(rig, BundleCorrupt("its file is torn"), 2)
    left(rig)
    assert (rig.recorded, rig.depot.state().stage) == (OLD, Stage.ROLLED_BACK)


def test_a_new_model_that_focuses_worse_is_left_by_itself_and_not_taken_again(rig: Rig) -> None:
    count(rig, GOOD, 40)
    rig.activate()
    count(rig, BAD, 7)
    assert rig.desk._leaving is None
    count(rig, BAD, 1)
    left(rig)
    assert (rig.open, rig.recorded) == ("net@1.0.0", OLD)
    assert rig.depot.state().is_bad("net@1.1.0", "")


def test_a_new_model_that_does_as_well_settles(rig: Rig) -> None:
    count(rig, GOOD, 40)
    rig.activate()
    count(rig, GOOD, 63)
    assert rig.desk.watcher.watched_jobs == 63
    assert rig.depot.state().stage is Stage.WATCHED
    count(rig, GOOD, 1)
    assert (rig.depot.state().stage, rig.recorded, rig.open) == (Stage.SETTLED, NEW, "net@1.1.0")


def test_jobs_that_somebody_stopped_and_other_jobs_say_nothing(rig: Rig) -> None:
    rig.activate()
    count(rig, outcome(Ending.STOPPED), 8)
    rig.desk.watcher.ended("move", None)
    rig.desk.watcher.ended("focus", KeyError("of the camera"))
    assert rig.desk.watcher.watched_jobs == 0


def test_leaving_waits_for_a_switch_that_is_under_way(rig: Rig) -> None:
    count(rig, GOOD, 40)
    rig.activate()
    with rig.desk._one:
        count(rig, BAD, 8)
        assert rig.open == "net@1.1.0"
    left(rig)
    assert rig.open == "net@1.0.0"


def test_the_watch_leaves_no_second_model_where_somebody_left_its_own_meanwhile(shipped: Rig) -> None:
    count(shipped, GOOD, 40)
    shipped.activate()
    count(shipped, BAD, 7)

    def one_more() -> None:
        shipped.hook = lambda: None
        count(shipped, BAD, 1)

    shipped.hook = one_more
    asyncio.run(shipped.desk.roll_back())
    left(shipped)
    assert (shipped.open, serving(shipped.depot, shipped.name)) == ("spectral_20x@1.0.0", shipped._bundle(OLD))
    assert [bad.why for bad in shipped.depot.state().bad] == [
        "spectral_20x@1.1.0 was left because somebody asked for it"
    ]


def test_the_watch_leaves_no_second_model_where_another_process_left_its_own_meanwhile(shipped: Rig) -> None:
    count(shipped, GOOD, 40)
    shipped.activate()

    def roll_back() -> None:
        shipped.hook = lambda: None
        updates(shipped.disk.folder, Offering(), shipped.disk).roll_back(shipped.name)

    shipped.hook = roll_back
    count(shipped, BAD, 8)
    left(shipped)
    shipped.desk.follow()
    assert (shipped.open, serving(shipped.depot, shipped.name)) == ("spectral_20x@1.0.0", shipped._bundle(OLD))
    assert [bad.label for bad in shipped.depot.state().bad] == ["spectral_20x@1.1.0"]


def test_the_watch_leaves_its_own_model_where_one_of_another_name_came_into_service_meanwhile(rig: Rig) -> None:
    count(rig, GOOD, 40)
    rig.activate()
    offering = Offering()
    offering.offer("1.0.0", "another", data=bundle("1.0.0", "another", passport=ANY_OBJECTIVE))
    with rig.desk._one:
        count(rig, BAD, 8)
        updates(rig.disk.folder, offering, rig.disk).stage("another", silent)
        rig.updates.activate()
    left(rig)
    state = rig.depot.state()
    assert (rig.open, rig.recorded, [bad.label for bad in state.bad]) == ("net@1.0.0", OLD, ["net@1.1.0"])
    assert state.watched is not None
    assert state.watched.label == "another@1.0.0"
    assert state.serves(state.watched)


def test_leaving_that_failed_is_tried_again(rig: Rig) -> None:
    count(rig, GOOD, 40)
    rig.activate()
    rig.disk.full_at = rig.disk.operations + 1
    count(rig, BAD, 8)
    left(rig)
    assert rig.open == "net@1.1.0"
    rig.disk.restart()
    count(rig, BAD, 8)
    left(rig)
    assert (rig.open, rig.recorded) == ("net@1.0.0", OLD)


def test_what_was_counted_outlives_the_service(rig: Rig) -> None:
    rig.activate()
    count(rig, GOOD, 5)
    again = Desk(Settings(), rig.appliance, rig.updates)
    assert again.watcher.watched_jobs == 5


def test_a_record_of_jobs_that_is_damaged_counts_as_none(rig: Rig) -> None:
    rig.activate()
    count(rig, GOOD, 5)
    (rig.depot.folder / "record.json").write_text("{")
    assert Desk(Settings(), rig.appliance, rig.updates).watcher.watched_jobs == 0


# The ends of a service that count against the watched model.


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service follows its record only when it is told to."""
    monkeypatch.setattr("edge_app.ota.desk.FOLLOW_S", PATIENCE_S)


def test_a_model_that_was_switched_to_counts_until_it_answers(rig: Rig) -> None:
    rig.activate()
    assert rig.depot.state().starts == 1
    rig.appliance.measure().result(PATIENCE_S)
    assert rig.depot.state().starts == 0


def test_a_job_proves_the_model(rig: Rig) -> None:
    rig.activate()
    count(rig, GOOD, 1)
    assert rig.depot.state().starts == 0


def test_a_clean_end_proves_the_model(rig: Rig) -> None:
    rig.activate()
    rig.appliance.close()
    assert rig.depot.state().starts == 0


@pytest.mark.usefixtures("unhurried")
def test_a_model_that_is_opened_to_follow_the_record_counts_from_its_opening(rig: Rig) -> None:
    opening: list[int] = []
    rig.hook = lambda: opening.append(rig.depot.state().starts)
    rig.desk.attend()
    rig.updates.activate()
    rig.desk.follow()
    assert (rig.open, opening, rig.depot.state().starts) == ("net@1.1.0", [1], 1)


@pytest.mark.usefixtures("unhurried")
def test_a_service_counts_once_however_often_it_opens_the_model(rig: Rig) -> None:
    opened: list[Path] = []
    rig.hook = lambda: opened.append(Path())
    rig.activate()
    rig.desk.attend()
    rig.appliance.controller.models._open = {}
    rig.appliance.run("look", lambda controller: controller.model_for("defocus").label).result.result(PATIENCE_S)
    assert (len(opened), rig.depot.state().starts) == (2, 1)


def test_neither_another_model_of_its_task_nor_the_end_of_a_service_that_never_opened_it_proves_the_model(
    rig: Rig,
) -> None:
    watched = install(rig.depot, bundle("1.0.0", "other"), "1.0.0", "other")
    rig.depot.change(lambda state: state.model_copy(update={"watched": watched, "starts": 2}))
    rig.desk.attend()
    rig.desk.watcher.read_again()
    assert "infer" in rig.appliance.measure().result(PATIENCE_S).stage_ms
    rig.appliance.close()
    assert rig.depot.state().starts == 2


def test_a_job_that_is_being_counted_while_its_model_is_to_be_watched_anew_is_not_counted_for_it(rig: Rig) -> None:
    rig.activate()
    count(rig, GOOD, 3)
    rig.depot.change(lambda state: state.model_copy(update={"counted": False}))
    anew = threading.Thread(target=rig.desk.watcher.read_again)

    def while_counted(tally: Tally) -> Tally:
        anew.start()
        anew.join(0.3)
        return tally.after(GOOD)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Tally, "after_failure", while_counted)
        rig.appliance._unanswered = "defocus"
        count(rig, RuntimeFailed("of the accelerator"), 1)
    anew.join(PATIENCE_S)
    assert rig.desk.watcher.watched_jobs == 0


def test_a_version_that_was_left_is_counted_in_the_metrics(rig: Rig) -> None:
    metrics = Metrics()
    metrics.update_from(rig.desk.standing)
    rig.activate()
    asyncio.run(rig.desk.roll_back())
    assert told(metrics)("parfocal_update_bad_versions") == 1
