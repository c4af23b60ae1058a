"""The journal: one line per event, whoever logs it."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_app.client import Client
from edge_app.journal import configure, goes_to_journal, log_of
from firmware.errors import CameraError, MotorFault, OutOfLimits

if TYPE_CHECKING:
    from conftest import Bench

WAIT_S = 20.0
Lines = Callable[[], list[str]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What was logged, without times."""
    stream = io.StringIO()
    level = logging.getLogger().level
    handler = configure(stream, {})
    yield lambda: [line.partition(" ")[2] for line in stream.getvalue().splitlines()]
    logging.captureWarnings(False)
    logging.getLogger().removeHandler(handler)
    logging.getLogger().setLevel(level)


def test_an_event_is_one_line_with_its_values(lines: Lines) -> None:
    log_of("edge_app.x").info("job ended", job="focus", took_s=1.23456, moves=2, why="within reach = good", client="")
    assert lines() == ['info job ended job=focus took_s=1.235 moves=2 why="within reach = good"']


def test_a_traceback_is_one_field_of_its_line(lines: Lines) -> None:
    try:
        raising(ValueError("two\nlines"))(None)
    except ValueError:
        logging.getLogger("firmware.y").exception("it failed\nunexpectedly")
    (line,) = lines()
    assert line.startswith('error it failed unexpectedly traceback="Traceback')
    assert "two\\nlines" in line


def test_firmware_and_libraries_end_in_the_same_lines(lines: Lines) -> None:
    logging.getLogger("firmware.ledger").warning("%s is full", "the disk")
    assert lines() == ["warning the disk is full"]


def test_what_a_value_is_called_never_collides_with_the_library(lines: Lines) -> None:
    log_of("edge_app.x").info("model chosen", name="a", msg="b", args="c", module="d", message="e")
    assert lines() == ["info model chosen name=a msg=b args=c module=d message=e"]


def test_every_line_begins_with_its_time_unless_the_journal_has_one() -> None:
    stream = io.StringIO()
    handler = configure(stream, {})
    log_of("edge_app.x").info("started")
    logging.getLogger().removeHandler(handler)
    logging.getLogger().setLevel(logging.WARNING)
    logging.captureWarnings(False)
    time, _, rest = stream.getvalue().partition(" ")
    assert time.endswith("+00:00")
    assert rest == "info started\n"


@pytest.mark.parametrize(("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3)])
def test_a_line_for_systemds_journal_begins_with_its_priority_and_has_no_time(
    level: str, priority: int, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("w+") as stream:
        found = os.fstat(stream.fileno())
        environment = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}", "PARFOCAL_DEBUG": "1"}
        handler = configure(stream, environment)
        getattr(log_of("edge_app.x"), level)("started")
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(logging.WARNING)
        logging.captureWarnings(False)
        stream.seek(0)
        assert stream.read() == f"<{priority}>started\n"


def test_a_stream_that_was_redirected_is_not_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        assert not goes_to_journal(stream, {"JOURNAL_STREAM": "1:2"})
        assert not goes_to_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})


def test_without_configuration_events_are_dropped() -> None:
    command = "from edge_app.journal import log_of; log_of('edge_app.x').error('motion fault', job='move')"
    ran = subprocess.run([sys.executable, "-c", command], capture_output=True, check=True)
    assert (ran.stdout, ran.stderr) == (b"", b"")


# What an appliance says.


def fields(line: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in line.split() if "=" in part)


def test_a_focus_job_leaves_its_verdict_places_and_time(lines: Lines, bench: Bench) -> None:
    bench.microscope.axis.move_to(9.0)
    bench.appliance.focus("single_shot", lambda *_: None).result.result(WAIT_S)
    began, ended = lines()
    assert began.startswith("info job started job=focus")
    found = fields(ended)
    assert (found["ending"], found["verdict"], found["start_um"]) == ("FOCUSED", "OK", "9")
    assert {"end_um", "frames", "moves", "took_s", "defocus_um"} <= found.keys()


def test_a_job_says_which_client_asked_for_it(lines: Lines, client: Client) -> None:
    client.move_to(3.0)
    assert ["client=ipv4:127.0.0.1:" in line for line in lines()] == [True, True]


def test_a_fault_of_the_motion_is_an_error_and_a_refusal_is_not(lines: Lines, bench: Bench) -> None:
    for error in (MotorFault("no supply"), OutOfLimits("too far")):
        failing = bench.appliance.run("move", raising(error))
        assert failing.result.exception(WAIT_S) is error
    found = [line for line in lines() if line.startswith("error")]
    assert found == ['error motion fault job=move kind=MotorFault why="no supply" trust=homed']


def raising(error: Exception) -> Callable[[Any], None]:
    def call(_: Any) -> None:
        raise error

    return call


def test_a_camera_that_is_lost_and_comes_back_is_said_once_each(lines: Lines, bench: Bench) -> None:
    camera = bench.microscope.camera
    camera._next = raising(CameraError("unplugged"))  # type: ignore[assignment]
    for _ in range(2):
        bench.appliance.measure(task="").exception(WAIT_S)
    bench.appliance.measure(task="").result(WAIT_S)
    said = [line for line in lines() if "camera" in line]
    assert said == ["error camera lost camera=simulated why=unplugged", "info camera back camera=simulated"]


def test_another_objective_has_its_model_chosen(lines: Lines, bench: Bench) -> None:
    model = bench.appliance.controller.model
    assert model is not None
    renamed = model.bundle.manifest.model_copy(update={"name": "other"})
    other = replace(model, bundle=replace(model.bundle, manifest=renamed), why="it fits better")
    bench.appliance.run("objective", lambda c: c.models.put(other)).result.result(WAIT_S)
    assert lines()[-1] == f'info model chosen model={other.label} why="it fits better" runtime=oracle objective=20x'
