"""parfocal update: what it prints, how it ends, and a whole update from a stick."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from kill_board import small_board
from repository_simulator import Simulator
from updating import Offering, badly, install, rehearsed, repacked, updates

from edge_app import cli, console
from edge_app.config import Settings
from edge_app.errors import Busy, JobStopped, RemoteError, Unreachable
from edge_app.model import Model
from edge_app.ota import rehearsal
from edge_app.ota.candidate import Progress
from edge_app.ota.depot import Depot
from edge_app.ota.desk import Desk
from edge_app.ota.disk import RealDisk
from edge_app.ota.rehearsal_rule import Rehearsal
from edge_app.ota.state import Stage
from edge_app.stubs.parfocal.v1 import models_pb2
from edge_app.updates import Status

ROOT = Path(__file__).parent.parent
KEYS = ["serving", "previous", "candidate", "state", "reason"]
Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], clean_environment: pytest.MonkeyPatch) -> Run:
    """Runs `parfocal update ... --json` on a small board without a service; gives its code and its document."""
    del clean_environment
    (tmp_path / "board.toml").write_text(small_board())
    # Nobody listens on port 1.
    lines = [f'board = "{tmp_path}/board.toml"', f'state = "{tmp_path}/state"', 'listen = "127.0.0.1:1"']
    (tmp_path / "parfocal.toml").write_text("\n".join([*lines, 'runtime = "onnxruntime"', "threads = 1", ""]))

    def ran(*words: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        at = () if "--at" in words else ("--config", str(tmp_path / "parfocal.toml"))
        code = console.run(cli.app, ["update", *words, *at, "--json"])
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return code, document

    return ran


@pytest.fixture
def stick(tmp_path: Path) -> tuple[str, ...]:
    """A repository in a folder, with a newer bundle, and the words that name it."""
    simulator = Simulator(datetime.now(timezone.utc))
    simulator.offer(repacked("1.1.0"), "spectral_20x", "1.1.0")
    simulator.publish()
    for path, data in simulator.files.items():
        (tmp_path / "stick" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stick" / path).write_bytes(data)
    (tmp_path / "root.json").write_bytes(simulator.bootstrap())
    return "--from", str(tmp_path / "stick"), "--root", str(tmp_path / "root.json")


def short(monkeypatch: pytest.MonkeyPatch, rehearse: Callable[[Model | None, Model, Progress], Rehearsal]) -> None:
    """Have rehearsals end at once."""
    monkeypatch.setattr(rehearsal, "rehearse", lambda old, new, _where, progress: rehearse(old, new, progress))


def test_status_of_a_board_that_was_never_updated(run: Run) -> None:
    code, said = run("status")
    assert (code, list(said)) == (0, KEYS)
    assert said == dict.fromkeys(KEYS, "") | {"serving": "spectral_20x@1.0.0", "state": "idle"}


def test_a_whole_update_from_a_stick_and_back(
    run: Run, stick: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    short(monkeypatch, rehearsed)
    code, said = run("check", *stick)
    assert (code, list(said), said["state"], said["candidate"]) == (0, KEYS, "available", "spectral_20x@1.1.0")
    code, said = run("apply", *stick, "--stage-only")
    assert (code, said["state"], said["serving"]) == (0, "ready", "spectral_20x@1.0.0")
    code, said = run("apply", *stick)
    assert (code, list(said), said["state"]) == (0, KEYS, "watched")
    assert (said["serving"], said["previous"]) == ("spectral_20x@1.1.0", "spectral_20x@1.0.0")
    assert Depot(tmp_path / "state").shelf().find("spectral_20x").read_bytes() == repacked("1.1.0")
    code, said = run("rollback")
    assert (code, list(said), said["state"], said["serving"]) == (0, KEYS, "rolled_back", "spectral_20x@1.0.0")
    code, said = run("apply", *stick)
    assert (code, said["state"]) == (0, "rolled_back")
    assert "is not tried again" in said["reason"]


def test_a_candidate_that_focuses_badly_is_an_error_and_a_status_that_says_why(
    run: Run, stick: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    short(monkeypatch, badly)
    code, said = run("apply", *stick)
    assert (code, said["error"]["kind"]) == (1, "UpdateRefused")
    assert "focuses worse" in said["error"]["message"]
    code, said = run("status")
    assert (code, said["state"], said["serving"], said["candidate"]) == (0, "refused", "spectral_20x@1.0.0", "")
    assert "focuses worse" in said["reason"]


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (("check",), "UpdateError", "this board has no repository"),
        (("check", "--from", "nowhere"), "TrustUnusable", "root of trust"),
        (("rollback",), "UpdateRefused", "nothing to go back to"),
        (("status", "--at", "127.0.0.1:1"), "Unreachable", "127.0.0.1:1"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(run: Run, words: tuple[str, ...], kind: str, said: str) -> None:
    code, document = run(*words)
    assert (code, document["error"]["kind"]) == (1, kind)
    assert said in document["error"]["message"]


def test_apply_without_a_repository_is_no_error_so_that_a_timer_stays_quiet(run: Run) -> None:
    code, said = run("apply")
    assert (code, list(said), said["state"]) == (0, KEYS, "idle")
    assert "nothing to do" in said["reason"]


def test_apply_by_the_configuration_that_ships_is_no_error(
    clean_environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del clean_environment
    code = console.run(cli.app, ["update", "apply", "--config", str(ROOT / "systemd/parfocal.toml"), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (code, list(said), said["state"]) == (0, KEYS, "idle")
    assert "nothing to do" in said["reason"]


def test_a_user_who_may_not_read_the_record_is_told_no_status(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_disk: RealDisk, path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(RealDisk, "read", refuse)
    code, said = run("status")
    assert (code, said["error"]["kind"]) == (1, "StateUnusable")
    assert "sudo -u parfocal" in said["error"]["message"]


@pytest.mark.parametrize("folder", ["state", "another"])
def test_only_the_service_of_this_very_board_is_asked(
    run: Run, address: str, bench: Bench, tmp_path: Path, folder: str
) -> None:
    served = updates(tmp_path / folder, Offering())
    for state in {tmp_path / "state", tmp_path / folder}:
        install(Depot(state), repacked("1.1.0"), "1.1.0", "spectral_20x")
    asked: list[str] = []
    desk = bench.appliance.desk = Desk(Settings(), bench.appliance, served)

    async def roll_back(serving: str = "") -> Status:
        asked.append(serving)
        return served.roll_back()

    desk.roll_back = roll_back  # type: ignore[method-assign]
    config = tmp_path / "parfocal.toml"
    config.write_text(config.read_text().replace("127.0.0.1:1", address))
    code, said = run("rollback")
    assert (code, said["state"], said["serving"]) == (0, "rolled_back", "spectral_20x@1.0.0")
    assert asked == (["spectral_20x@1.1.0"] if folder == "state" else [])
    assert (Depot(tmp_path / folder).state().slots == {}) == (folder == "state")


class Service:
    """The client of a service that takes the record as far as `does` says, and then fails."""

    does: Callable[[Path], object]
    fault: Exception
    state: Path
    limits_s: list[float | None]

    def __init__(self, address: str, timeout_s: float | None = 60.0, identity: Path | None = None) -> None:
        del address, identity
        self.timeout_s = timeout_s

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def models(self) -> models_pb2.ListReply:
        return models_pb2.ListReply(depot=Depot(self.state).mark())

    def asked(self, _label: str) -> None:
        self.limits_s.append(self.timeout_s)
        type(self).does(self.state)
        raise self.fault

    activate = roll_back = asked


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Service]:
    """A service of this board that is asked in place of one over the wire."""
    Service.state, Service.limits_s, Service.fault = tmp_path / "state", [], Busy("another switch is under way")
    monkeypatch.setattr("edge_app.client.Client", Service)
    return Service


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("fault", [RemoteError("no answer"), Unreachable("gone"), Busy("a job"), JobStopped("closed")])
def test_a_switch_that_the_service_reports_as_failed_is_what_the_record_says(
    run: Run,
    stick: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    service: type[Service],
    fault: Exception,
    done: bool,
) -> None:
    short(monkeypatch, rehearsed)
    service.fault = fault
    service.does = lambda state: updates(state, Offering()).activate() if done else None
    code, said = run("apply", *stick)
    assert (code, said["state"], said["serving"]) == (0, "watched", "spectral_20x@1.1.0")
    service.does = lambda state: updates(state, Offering()).roll_back() if done else None
    code, said = run("rollback")
    assert (code, said["state"], said["serving"]) == (0, "rolled_back", "spectral_20x@1.0.0")
    assert service.limits_s == [None, None]


def test_going_back_at_another_machine_waits_for_the_job_that_runs_there(run: Run, service: type[Service]) -> None:
    service.does = lambda _state: None
    assert run("rollback", "--at", "127.0.0.1:1")[0] == 1
    assert service.limits_s == [None]


@pytest.mark.parametrize(
    "words", [("check", "--from", "x"), ("apply", "--channel", "stable"), ("status", "--state", "x")]
)
def test_what_only_a_servers_own_configuration_says_is_refused_with_at(run: Run, words: tuple[str, ...]) -> None:
    code, said = run(*words, "--at", "127.0.0.1:1")
    assert code == 2
    assert "has its own configuration" in said["error"]["message"]


def test_a_server_that_keeps_no_updates_says_so(run: Run, address: str, bench: Bench) -> None:
    assert bench.appliance.desk is None
    for verb in ("status", "check", "apply", "rollback"):
        code, said = run(verb, "--at", address)
        assert (code, said["error"]["kind"]) == (1, "UpdateError"), verb
        assert "keeps no updates" in said["error"]["message"]


def test_a_person_reads_it_line_by_line(
    run: Run, stick: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run("status")
    words = ["update", "check", *stick, "--config", str(tmp_path / "parfocal.toml")]
    assert console.run(cli.app, words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["serving", "previous", "candidate", "state"]
    assert lines[2].split()[1] == "spectral_20x@1.1.0"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_update_that_somebody_ended_is_no_try_of_its_candidate(
    run: Run, stick: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def ended(*_: object) -> Rehearsal:
        os.kill(os.getpid(), number)
        time.sleep(20.0)
        raise AssertionError

    short(monkeypatch, ended)
    before = signal.getsignal(number)
    with suppress(json.JSONDecodeError):  # who ended it wants no document
        run("apply", *stick)
    state = Depot(tmp_path / "state").state()
    assert (state.stage, state.tries) == (Stage.STAGING, {})
    assert signal.getsignal(number) is before


def test_a_state_that_is_a_file_is_said_to_be_no_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, document = run("status", "--state", str(tmp_path / "file"))
    assert (code, document["error"]["kind"]) == (1, "StateUnusable")
    assert "file is no folder" in document["error"]["message"]
