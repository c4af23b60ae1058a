"""parfocal-model publish: every command of the runbook does what the runbook says, and every verb speaks JSON."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from publishing_bench import Board, small_bundle

from edge_app import bundle, console
from edge_app.errors import AppError
from model_export import cli_publish
from model_export.cli import app
from model_export.errors import ExportError

RUNBOOK = Path(__file__).parents[1] / "docs" / "publishing.md"
VERBS = {
    command.name or str(getattr(command.callback, "__name__", "")) for command in cli_publish.app.registered_commands
}
KEYS = ("--keys", "keys")

Tell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tell:
    """Runs `parfocal-model publish` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(cli_publish.VARIABLE, "of the runbook")

    def run(*words: str) -> tuple[int, str, str]:
        code = console.run(app, ["publish", *words], "parfocal-model", (ExportError, AppError))
        return code, *capsys.readouterr()

    return run


def told(tell: Tell, *words: str) -> dict[str, Any]:
    """What a command that must succeed says in JSON."""
    code, out, err = tell(*words, "--json")
    assert (code, err) == (0, ""), out
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def sections() -> dict[str, list[str]]:
    """The runbook's commands by heading."""
    found: dict[str, list[str]] = {}
    for line in RUNBOOK.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        elif line.startswith("    "):
            found.setdefault(heading, []).append(line.strip())
    return found


def follow(tell: Tell, heading: str, **instead: str) -> None:
    """Do what a section says, with places of this test for those of a real machine."""
    for line in sections()[heading]:
        for word, place in {"/srv/www": "www", "/media/stick": "stick", **instead}.items():
            line = line.replace(word, place)  # noqa: PLW2901
        if line.startswith("parfocal-model publish "):
            code, out, err = tell(*shlex.split(line)[2:])
            assert code == 0, (line, out, err)
        else:
            subprocess.run(["sh", "-euc", line], check=True)


def offered(repo: str, channel: str) -> dict[str, float]:
    from datetime import datetime, timezone

    now = datetime.now(timezone.utc)
    client = Board(Path(repo).resolve(), Path("root.json").read_bytes(), Path("board").resolve())
    client.offered(channel, now)
    return {entry.label: entry.share for entry in client.catalogue(channel, now).bundles}


def test_the_whole_runbook_can_be_followed(tell: Tell, tmp_path: Path) -> None:
    small_bundle(tmp_path, "spectral_20x").rename("spectral_20x.parfocal")
    follow(tell, "Set up")
    follow(tell, "A new model")
    assert offered("www/models", "candidate") == {"spectral_20x@1.1.0": 0.1}
    assert offered("models", "candidate") == {}
    assert offered("models", "stable") == {"spectral_20x@1.1.0": 1.0}
    follow(tell, "Keep it alive")
    follow(tell, "Change keys before anything happens")
    follow(tell, "Everything expired")
    follow(tell, "By stick")
    assert offered("stick/models", "stable") == {"spectral_20x@1.1.0": 1.0}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "stable", "candidate", "targets", "root"])
def test_the_runbook_gets_rid_of_a_key_of_any_role(tell: Tell, role: str) -> None:
    follow(tell, "Set up")
    (key, *_) = next(of["keys"] for of in told(tell, "status", "models")["roles"] if of["role"] == role)
    follow(tell, "A key is lost or stolen", KEYID=key["id"])
    now = [of["id"] for said in told(tell, "status", "models")["roles"] for of in said["keys"]]
    assert key["id"] not in now
    assert offered("models", "stable") == {}


def test_every_command_of_the_runbook_is_run_by_a_test() -> None:
    assert set(sections()) == {
        "Set up",
        "A new model",
        "Keep it alive",
        "Change keys before anything happens",
        "A key is lost or stolen",
        "Everything expired",
        "By stick",
    }


def test_the_runbook_is_about_every_verb() -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f"publish {verb} " not in text] == []


def test_every_verb_prints_one_json_document(tell: Tell, tmp_path: Path) -> None:
    path = str(small_bundle(tmp_path))
    said = {
        "init": told(tell, "init", "models", *KEYS, "--root-keys", "3", "--days", "timestamp=7"),
        "add": told(tell, "add", "models", path, *KEYS, "--share", "0.1"),
        "renumber": told(tell, "renumber", path, "1.0.1", "--out", str(tmp_path / "next.parfocal")),
        "share": told(tell, "share", "models", "small", "0.2", *KEYS),
        "promote": told(tell, "promote", "models", "small", "1.0.0", *KEYS),
        "withdraw": told(tell, "withdraw", "models", "small", "1.0.0", *KEYS),
        "hold": told(tell, "hold", "models", "stable", *KEYS),
        "release": told(tell, "release", "models", "stable", *KEYS),
        "refresh": told(tell, "refresh", "models", *KEYS),
        "renew": told(tell, "renew", "models", "stable", "root", *KEYS),
        "rotate": told(tell, "rotate", "models", "stable", *KEYS),
        "root": told(tell, "root", "models", "--out", "root.json"),
        "copy": told(tell, "copy", "models", "stick"),
        "prune": told(tell, "prune", "models"),
        "status": told(tell, "status", "models", *KEYS),
    }
    key = next(of for of in said["status"]["roles"] if of["role"] == "timestamp")["keys"][0]["id"]
    said["revoke"] = told(tell, "revoke", "models", key, *KEYS)
    assert set(said) == VERBS
    assert bundle.read(tmp_path / "next.parfocal").manifest.label == "small@1.0.1"
    assert said["add"]["signed"] == {"candidate": 2, "snapshot": 2, "timestamp": 2}
    assert len(said["init"]["new_keys"]) == 8
    assert [of["days"] for of in said["status"]["roles"] if of["role"] == "timestamp"] == [7]


def test_a_fault_is_one_line_or_one_document(tell: Tell) -> None:
    tell("init", "models", *KEYS)
    code, out, err = tell("hold", "models", "nightly", *KEYS)
    assert (code, out, err.count("\n")) == (1, "", 1)
    code, out, err = tell("hold", "models", "nightly", *KEYS, "--json")
    assert (code, json.loads(out)["error"]["kind"], err) == (1, "PublishError", "")


def test_lives_that_are_no_numbers_are_refused(tell: Tell) -> None:
    code, _, err = tell("init", "models", *KEYS, "--days", "timestamp:7")
    assert (code, "ROLE=DAYS" in err) == (1, True)


def test_keys_without_a_passphrase_are_said_to_be_open(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tell("init", "models", *KEYS)[1]
    monkeypatch.delenv(cli_publish.VARIABLE)
    shutil.rmtree("models")
    unlocked = tell("init", "models", "--keys", "others")[1]
    assert ("not encrypted" in locked, "not encrypted" in unlocked) == (False, True)


def test_the_status_for_people_shows_files_shares_and_holds(tell: Tell, tmp_path: Path) -> None:
    tell("init", "models", *KEYS)
    tell("add", "models", str(small_bundle(tmp_path)), *KEYS, "--share", "0.1")
    tell("hold", "models", "candidate", *KEYS)
    code, out, err = tell("status", "models", *KEYS)
    assert (code, err) == (0, "")
    assert all(word in out for word in ("candidate (held)", "small@1.0.0", "10%", "timestamp", "nothing"))
