"""parfocal trust and --identity: what the command line makes, shows once, and passes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from keyed_board import keyed

from edge_app import console
from edge_app.access.roles import Role
from edge_app.access.trust import Trust
from edge_app.cli import app

if TYPE_CHECKING:
    from conftest import Bench

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path, clean_environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in a folder of its own, with its keys there; gives exit code and document."""
    clean_environment.chdir(tmp_path)
    clean_environment.setenv("PARFOCAL_TRUST", str(tmp_path / "trust"))

    def call(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = console.run(app, [*arguments, "--json"])
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return code, document

    return call


def test_init_makes_keys_in_the_folder_that_the_settings_name(run: Run, tmp_path: Path) -> None:
    code, said = run("trust", "init", "--also", "scope.example")
    assert code == 0
    assert said["folder"] == str(tmp_path / "trust")
    assert said["certificate"] == Trust(tmp_path / "trust").keys().board.sha256


def test_add_makes_a_kit_named_for_the_client(run: Run, tmp_path: Path) -> None:
    run("trust", "init")
    code, said = run("trust", "add", "anna", "--role", "operator", "--days", "10")
    assert code == 0
    assert said["kit"] == str(tmp_path / "parfocal-anna")
    assert {path.name for path in (tmp_path / "parfocal-anna").iterdir()} == {
        "authority.pem",
        "client.key",
        "client.pem",
    }


def test_a_token_is_shown_and_put_into_the_kit(run: Run, tmp_path: Path) -> None:
    run("trust", "init")
    _, said = run("trust", "add", "bot", "--role", "viewer", "--token", "--out", "kit")
    assert (tmp_path / "kit" / "token").read_text().strip() == said["token"]
    assert "token" not in run("trust", "list")[1]["clients"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "anna", "--role", "king"), "there is no role 'king'"),
        (("add", "anna", "--role", "viewer", "--out", "."), "is there already"),
        (("add", "../anna", "--role", "viewer"), "cannot be a client's name"),
        (("revoke", "anna"), "there is no client anna to revoke; there are: none"),
        (("init",), "has keys already"),
    ],
)
def test_what_cannot_be_is_one_clear_sentence(run: Run, arguments: tuple[str, ...], message: str) -> None:
    run("trust", "init")
    code, said = run("trust", *arguments)
    assert code in (1, 2)
    assert message in said["error"]["message"]


@pytest.mark.parametrize("verb", [("list",), ("renew",), ("add", "anna", "--role", "viewer"), ("revoke", "anna")])
def test_without_keys_every_verb_says_how_to_make_them(run: Run, verb: tuple[str, ...]) -> None:
    code, said = run("trust", *verb)
    assert code == 1
    assert "parfocal trust init" in said["error"]["message"]


def test_the_list_says_who_may_and_who_no_longer(run: Run) -> None:
    run("trust", "init")
    run("trust", "add", "anna", "--role", "admin")
    run("trust", "add", "bob", "--role", "viewer")
    run("trust", "revoke", "bob")
    known = {client["name"]: client["revoked"] for client in run("trust", "list")[1]["clients"]}
    assert known["anna"] is None
    assert known["bob"] is not None


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_a_verb_asks_another_machine_with_the_kit_that_it_is_given(
    run: Run, bench: Bench, tmp_path: Path, clean_environment: pytest.MonkeyPatch, by: str
) -> None:
    with keyed(bench.appliance, tmp_path / "board") as board:
        kit = str(board.kit("anna", Role.VIEWER))
        if by == "environment":
            clean_environment.setenv("PARFOCAL_IDENTITY", kit)
        given = ("--identity", kit) if by == "flag" else ()
        assert run(*given, "position", "--at", board.far)[1]["z_um"] == 0.0
        code, said = run(*given, "move", "--by", "1", "--at", board.far)
    assert code == 1
    assert said["error"]["kind"] == "NotAllowed"


def test_a_verb_without_a_kit_says_how_to_get_one(run: Run) -> None:
    code, said = run("position", "--at", "192.0.2.1:50052")
    assert code == 1
    assert said["error"]["kind"] == "NotIdentified"
    assert "--identity" in said["error"]["message"]
