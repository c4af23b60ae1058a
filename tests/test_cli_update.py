"""parfocal update: what it prints, how it ends, and a whole update from a stick."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from kill_board import small_board
from repository_simulator import Simulator
from updating import badly, rehearsed, repacked

from edge_app import cli, console
from edge_app.model import Model
from edge_app.ota import rehearsal
from edge_app.ota.candidate import Progress
from edge_app.ota.depot import Depot
from edge_app.ota.rehearsal_rule import Rehearsal

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
