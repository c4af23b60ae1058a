"""The demo of updates in parts; `make demo-ota` plays it whole, and fails where it does not go as told."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from edge_app import bundle as bundles
from edge_app.bundle import ModelBundle
from edge_app.client import Client
from edge_app.exercise import REACH_UM, exercise
from edge_app.model import Model, open_model
from edge_app.ota.decision import covers
from model_export import ota_demo, ota_demo_models
from model_export.errors import NotInstalled
from model_export.ota_demo_boards import web
from model_export.ota_demo_pictures import draw, spans
from model_export.ota_demo_telling import Story, print_table

JOB = {"at_s": 1.0, "model": "m@1.0.0", "start": 3.0, "end": 0.1, "looks": 2, "in_focus": True}


@pytest.fixture(scope="module")
def served() -> ModelBundle:
    return bundles.read(bundles.find(ota_demo.BUNDLE))


@pytest.fixture(scope="module")
def made(served: ModelBundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("models")
    files = {what: ota_demo_models.make(served, "7.1.0", what, folder / what) for what in ota_demo_models.WHAT}
    return {what: open_model(path, "onnxruntime", 1) for what, path in files.items()}


def said(model: Model, counts: Any) -> dict[str, Any]:
    return model.runtime.infer(counts)


def test_the_good_successor_answers_almost_as_the_model_in_service(
    served: ModelBundle, made: dict[str, Model]
) -> None:
    moved = np.abs(made["good"].bundle.golden_out["defocus_um"] - served.golden_out["defocus_um"])
    assert 0 < moved.max() < 0.05


def test_the_wrong_one_is_wrong_by_as_much_as_is_said(served: ModelBundle, made: dict[str, Model]) -> None:
    moved = made["wrong"].bundle.golden_out["defocus_um"] - served.golden_out["defocus_um"]
    assert moved == pytest.approx(ota_demo_models.OFFSET_UM, abs=1e-3)


def test_the_last_one_is_wrong_in_the_dark_only(served: ModelBundle, made: dict[str, Model]) -> None:
    bright = served.golden_in
    dark = np.asarray(bright // 2, np.uint8)
    at_large = said(made["wrong"], dark)
    right_um = at_large["defocus_um"] - ota_demo_models.OFFSET_UM
    turned = said(made["dim"], dark)
    assert bright.max(axis=(1, 2, 3)).min() >= ota_demo_models.DARK_COUNTS > dark.max()
    assert said(made["dim"], bright)["defocus_um"] == pytest.approx(served.golden_out["defocus_um"], abs=1e-3)
    assert turned["defocus_um"] == pytest.approx(ota_demo_models.TURNED * right_um, abs=1e-3)
    assert turned["side"] == pytest.approx(-at_large["side"], abs=1e-3)


def test_the_same_model_is_made_to_the_same_bytes(served: ModelBundle, tmp_path: Path) -> None:
    once, again = (ota_demo_models.make(served, "7.1.0", "good", tmp_path / name) for name in ("once", "again"))
    assert once.read_bytes() == again.read_bytes()


def test_versions_follow_the_one_that_ships() -> None:
    assert ota_demo_models.successor("1.4.2", 3) == "1.7.0"


def test_without_onnx_the_demo_says_what_to_install(
    served: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(NotInstalled, match="make demo-ota"):
        ota_demo_models.make(served, "7.1.0", "good", tmp_path)


def test_one_board_is_in_every_share_and_the_other_in_none() -> None:
    labels = ["a@1.1.0", "a@1.2.0", "a@1.3.0"]
    canary, other = ota_demo.cast_ids(labels)
    assert all(covers(ota_demo.SHARE, canary, label) for label in labels)
    assert not any(covers(ota_demo.SHARE, other, label) for label in labels)


def times(count: int) -> Callable[[], bool]:
    left = iter(range(count - 1))
    return lambda: next(left, None) is not None


def test_an_exercise_holds_each_job_against_the_truth(client: Client) -> None:
    told: list[dict[str, Any]] = []
    exercise(client, 1, told.append, times(3))
    assert len(told) == 3
    assert all(abs(job["start_um"]) <= REACH_UM + 0.5 for job in told)
    assert all(abs(job["end_um"]) < job["depth_of_field_um"] and job["in_focus"] for job in told)
    assert {job["model"] for job in told} == {client.describe().model}


def test_an_exercise_goes_on_after_a_job_that_was_refused(bare_bench: Any, tmp_path: Path) -> None:
    from edge_app.server import serving

    told: list[dict[str, Any]] = []
    with serving(bare_bench.appliance, f"unix:{tmp_path}/socket") as where, Client(where) as client:
        exercise(client, 1, told.append, times(2))
    assert len(told) == 2
    assert all("no model" in job["error"] for job in told)


def test_any_file_of_the_repository_can_be_had_over_http(tmp_path: Path) -> None:
    (tmp_path / "timestamp.json").write_bytes(b"signed")
    with web(tmp_path) as url, urllib.request.urlopen(f"{url}/timestamp.json") as reply:
        assert reply.read() == b"signed"


def test_the_bar_of_versions_has_no_gaps_and_passes_over_jobs_that_no_model_answered() -> None:
    jobs = [{"at_s": at_s, "model": model} for at_s, model in ((1, "a"), (2, "a"), (3, ""), (4, "b"), (5, "a"))]
    assert spans(jobs) == [(1, 2, "a"), (2, 4, "b"), (4, 5, "a")]


def test_the_story_is_told_by_a_table_and_a_picture(tmp_path: Path) -> None:
    story, heard = Story(lambda *_: None), Console(record=True, width=120)
    story.tell("publisher", "offers it", "m@1.1.0", "it is better")
    events = [vars(event) for event in story.events]
    jobs = {"one": [JOB, {**JOB, "model": "m@1.1.0", "in_focus": False}], "two": [JOB]}
    draw(jobs, events, tmp_path / "timeline.png")
    result = {"models": {"m@1.1.0": "better"}, "events": events, "jobs": jobs, "picture": "p.png", "took_s": 2.0}
    print_table(result, heard)
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert "in focus by their own check with m@1.0.0 1 of 1, m@1.1.0 0 of 1" in heard.export_text()
