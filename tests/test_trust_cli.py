"""parfocal trust and --identity: what the command line makes, shows once, and passes on."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from keyed_board import keyed

from edge_app import console
from edge_app.access import trust as trusts
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
    clean_environment.setattr(trusts, "MACHINE_SETTINGS", tmp_path / "etc/parfocal.toml")

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


def _service_reads(tmp_path: Path, text: str) -> None:
    trusts.MACHINE_SETTINGS.parent.mkdir()
    trusts.MACHINE_SETTINGS.write_text(text.format(folder=tmp_path / "services"))


def test_without_other_settings_the_verbs_work_where_the_service_reads(
    run: Run, tmp_path: Path, clean_environment: pytest.MonkeyPatch
) -> None:
    clean_environment.delenv("PARFOCAL_TRUST")
    _service_reads(tmp_path, 'trust = "{folder}"\n')
    said = [
        run("trust", *words)[1]["folder"]
        for words in (
            ("init",),
            ("renew",),
            ("add", "anna", "--role", "viewer"),
            ("revoke", "anna"),
            ("list",),
        )
    ]
    assert said == [str(tmp_path / "services")] * 5
    assert [client.revoked is None for client in Trust(tmp_path / "services").clients()] == [False]


@pytest.mark.parametrize("by", ["--trust", "--config", "PARFOCAL_CONFIG", "PARFOCAL_TRUST"])
def test_a_folder_that_is_named_goes_before_the_services(
    run: Run, tmp_path: Path, clean_environment: pytest.MonkeyPatch, by: str
) -> None:
    clean_environment.delenv("PARFOCAL_TRUST")
    _service_reads(tmp_path, 'trust = "{folder}"\n')
    (tmp_path / "mine.toml").write_text(f'trust = "{tmp_path / "mine"}"\n')
    named = str(tmp_path / ("mine" if by.endswith(("trust", "TRUST")) else "mine.toml"))
    if by.startswith("PARFOCAL"):
        clean_environment.setenv(by, named)
    given = () if by.startswith("PARFOCAL") else (by, named)
    assert run("trust", "init", *given)[1]["folder"] == str(tmp_path / "mine")


def test_settings_of_the_service_that_may_not_be_read_end_the_verb(
    run: Run, tmp_path: Path, clean_environment: pytest.MonkeyPatch
) -> None:
    _service_reads(tmp_path, "")
    opened = Path.open

    def guarded(path: Path, *rest: Any, **more: Any) -> Any:
        if path == trusts.MACHINE_SETTINGS:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *rest, **more)

    clean_environment.setattr(Path, "open", guarded)
    code, said = run("trust", "init")
    assert (code, said["error"]["kind"]) == (1, "BadSettings")
    assert (
        "parfocal.toml, which says where the service's keys are: Permission denied; use sudo"
        in said["error"]["message"]
    )
    assert not (tmp_path / "trust").exists()
    assert run("trust", "init", "--trust", "mine")[1]["folder"] == str(tmp_path / "mine")


def test_every_verb_that_changes_keys_prints_their_folder(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("init",), ("renew",), ("add", "anna", "--role", "viewer"), ("revoke", "anna")):
        assert console.run(app, ["trust", *words]) == 0
        assert f" in {tmp_path / 'trust'}" in capsys.readouterr().out


def test_a_kit_that_cannot_be_written_lets_nobody_in(run: Run, tmp_path: Path) -> None:
    run("trust", "init")
    (tmp_path / "file").touch()
    add = ("trust", "add", "anna", "--role", "viewer")
    assert "cannot make file/kit" in run(*add, "--out", "file/kit")[1]["error"]["message"]
    assert run("trust", "list")[1]["clients"] == []
    assert run(*add, "--out", "kit")[0] == 0


def test_a_machine_whose_name_no_certificate_can_have_gets_keys_without_it(
    run: Run, clean_environment: pytest.MonkeyPatch
) -> None:
    clean_environment.setattr(socket, "gethostname", lambda: "my machine")
    assert run("trust", "init")[0] == 0
    assert run("trust", "renew", "--also", "my machine")[1]["error"]["kind"] == "BadRequest"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "bob", "--role", "viewer"), "there is a client bob already; revoke it first"),
        (("add", "anna", "--role", "king"), "there is no role 'king'"),
        (("add", "anna", "--role", "viewer", "--out", "."), "is there already"),
        (("add", "../anna", "--role", "viewer"), "cannot be a client's name"),
        (("revoke", "anna"), "there is no client anna to revoke; there are: bob"),
        (("init",), "has keys already"),
    ],
)
def test_what_cannot_be_is_one_clear_sentence(run: Run, arguments: tuple[str, ...], message: str) -> None:
    run("trust", "init")
    run("trust", "add", "bob", "--role", "viewer")
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
