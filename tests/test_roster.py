"""The roster, and a board that has a model for each task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from blur_oracle import blur_model
from numpy.typing import NDArray
from oracle import Oracle, oracle

from edge_app.answer import Verdict
from edge_app.controller import Controller
from edge_app.errors import BundleNotFound, RuntimeFailed
from edge_app.estimate import DefocusEstimate
from edge_app.model import Model, ModelSource
from edge_app.passport import Passport
from edge_app.roster import LOADING_S, Roster
from edge_app.tasks.sharpness import BlurScores
from firmware.frames import FrameOptics

if TYPE_CHECKING:
    from conftest import Bench

WAIT_S = 20.0
ANY = Passport(numerical_aperture=None, pixel_um=None, immersion_index=None, colour=None, contrast=None, range_um=None)


class Shelf(ModelSource):
    """A source that gives what `make` says, and notes what was asked for."""

    def __init__(self, make: Callable[[str], Model]) -> None:
        super().__init__("shelf")
        object.__setattr__(self, "make", make)
        object.__setattr__(self, "asked", [])

    def model_for(self, optics: FrameOptics, loaded: Model | None = None, task: str = "defocus") -> Model:
        """The model."""
        del optics, loaded
        self.__dict__["asked"].append(task)
        made: Model = self.__dict__["make"](task)
        return made


def with_sharpness(bench: Bench) -> Controller:
    """The bench's controller with a model of sharpness open beside that of defocus."""
    controller, model = bench.appliance.controller, blur_model(bench.world)
    about = model.bundle.manifest
    asks_all = about.model_copy(update={"input": about.input.model_copy(update={"min_contrast": 0.0})})
    controller.models.put(replace(model, bundle=replace(model.bundle, manifest=asks_all)))
    return controller


def out_of_memory(_oracle: Oracle, _counts: NDArray[np.uint8], _also: object = None) -> dict[str, NDArray[np.float32]]:
    raise MemoryError("the accelerator is out of memory")


def test_a_model_is_opened_once_and_its_time_is_announced(bench: Bench) -> None:
    told: list[float] = []
    shelf = Shelf(lambda _: blur_model(bench.world))
    roster = Roster(oracle(bench.world), shelf, told.append)
    assert roster.of("sharpness", FrameOptics()) is roster.of("sharpness", FrameOptics())
    assert roster.of("defocus", FrameOptics()).label.startswith("oracle")
    assert (shelf.__dict__["asked"], told) == (["sharpness"], [LOADING_S])


def test_other_optics_change_all_models_or_none(bench: Bench) -> None:
    def make(task: str) -> Model:
        if task == "sharpness":
            raise BundleNotFound("the disk is gone")
        return replace(oracle(bench.world), why="anew")

    before = oracle(bench.world)
    roster = Roster(before, Shelf(make), lambda _s: None)
    roster.put(blur_model(bench.world))
    with pytest.raises(BundleNotFound):
        roster.change(FrameOptics())
    assert roster.loaded("defocus") is before


def test_without_a_source_a_missing_model_is_an_error_that_names_the_cure() -> None:
    roster = Roster(None, None, lambda _s: None)
    assert roster.fitting("quality", FrameOptics()) is None
    with pytest.raises(RuntimeFailed, match=r"no model is loaded for quality; .*--bundle factory"):
        roster.of("quality", FrameOptics())


def test_measurers_of_two_tasks_each_get_their_own_answer(bench: Bench) -> None:
    with_sharpness(bench)
    end = bench.block()
    asked = [bench.appliance.measure(task=task) for task in ("defocus", "sharpness", "")]
    end()
    defocus, sharpness, plain = (future.result(WAIT_S).seen.answer for future in asked)
    assert isinstance(defocus, DefocusEstimate)
    assert isinstance(sharpness, BlurScores)
    assert sharpness.verdict is Verdict.OK
    assert plain is defocus


def test_a_measurer_of_another_open_model_is_answered_while_a_job_runs(bench: Bench) -> None:
    with_sharpness(bench)
    end = bench.block()
    waiting = bench.appliance.measure(task="sharpness")
    end()
    job = bench.appliance.focus("single_shot", lambda *_: None)
    assert isinstance(waiting.result(WAIT_S).seen.answer, BlurScores)
    job.result.result(WAIT_S)


def test_a_model_that_is_not_open_is_not_opened_in_the_middle_of_a_job(bench: Bench) -> None:
    looks: list[int] = []
    shelf = Shelf(lambda _: blur_model(bench.world))
    controller = bench.appliance.controller
    controller.models = Roster(controller.model, shelf, lambda _s: None)
    opened: list[list[str]] = []

    def noted(number: int, *_: object) -> None:
        looks.append(number)
        if number == 1:
            waiting.append(bench.appliance.measure(task="sharpness"))
        opened.append(list(shelf.__dict__["asked"]))

    waiting: list[object] = []
    bench.microscope.axis.move_to(6.0)
    bench.appliance.focus("single_shot", noted).result.result(WAIT_S)
    assert isinstance(waiting[0].result(WAIT_S).seen.answer, BlurScores)  # type: ignore[attr-defined]
    assert len(looks) > 1
    assert opened == [[]] * len(looks)


def test_the_failure_of_one_model_is_not_hidden_by_the_answer_of_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with_sharpness(bench)
    monkeypatch.setattr(Oracle, "infer", out_of_memory)
    assert isinstance(bench.appliance.measure().exception(WAIT_S), RuntimeFailed)
    assert "infer" in bench.appliance.measure(task="sharpness").result(WAIT_S).stage_ms
    assert "out of memory" in bench.appliance.ailing
    assert isinstance(bench.appliance.measure(task="quality").exception(WAIT_S), RuntimeFailed)
    assert "out of memory" in bench.appliance.ailing
    told = [message for message in caplog.messages if message in ("model failed", "model answers again")]
    assert told == ["model failed"]


def test_a_frame_does_not_grow_old_while_its_model_is_opened(bench: Bench) -> None:
    taken: list[int] = []
    controller = bench.appliance.controller
    capture = bench.microscope.capture

    def make(_task: str) -> Model:
        taken.append(-1)
        return blur_model(bench.world)

    def noted() -> object:
        taken.append(1)
        return capture()

    bench.microscope.capture = noted  # type: ignore[method-assign,assignment]
    controller.models = Roster(controller.model, Shelf(make), lambda _s: None)
    bench.appliance.measure(task="sharpness").result(WAIT_S)
    assert taken == [-1, 1]


@pytest.mark.parametrize(
    ("stated", "optics", "verdict"),
    [
        ({}, FrameOptics(), None),
        ({"numerical_aperture": (0.2, 0.4)}, FrameOptics(), Verdict.OPTICS_UNKNOWN),
        ({"numerical_aperture": (0.2, 0.4)}, FrameOptics(numerical_aperture=0.3), None),
        ({"pixel_um": (1.0, 2.0)}, FrameOptics(pixel_um=0.2), Verdict.WRONG_OPTICS),
        ({"immersion_index": 1.0}, FrameOptics(immersion_index=1.5), Verdict.WRONG_OPTICS),
        ({"contrast": "brightfield"}, FrameOptics(contrast="fluorescence"), Verdict.WRONG_OPTICS),
        ({"colour": False}, FrameOptics(colour=True), Verdict.WRONG_OPTICS),
        ({"colour": None}, FrameOptics(colour=True), None),
    ],
)
def test_a_passport_minds_only_what_it_states(
    stated: dict[str, object], optics: FrameOptics, verdict: Verdict | None
) -> None:
    refusal = ANY.model_copy(update={"response": ("unknown",), **stated}).check(optics)
    assert (refusal and refusal[0]) == verdict
    assert refusal is None or "nan" not in refusal[1]
