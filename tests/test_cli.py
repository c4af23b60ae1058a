"""The command line: each verb prints one JSON document on request, and a fault is one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_app import console, doctor
from edge_app.cli import app
from edge_app.client import Client
from edge_app.pictures import from_png
from edge_app.stubs.parfocal.v1 import focus_pb2, microscope_pb2
from edge_app.verbs import in_focus, status_lines

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.usefixtures("clean_environment")
COMMAND = [sys.executable, "-c", "from edge_app.cli import main; main()"]
VERBS = {command.name or str(command.callback.__name__) for command in app.registered_commands if command.callback}
OF_OTHERS = ("replay", "demo", "bench", "find")
TINY = ("--board", "simulated_tiny", "--bundle", "none")


class Terminal:
    """Runs a command line in this process and reads what it printed."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        self._capture.readouterr()
        code = console.run(app, list(arguments))
        out, err = self._capture.readouterr()
        return code, out, err

    def json(self, *arguments: str) -> tuple[int, Any]:
        """Exit code and the one document on stdout."""
        code, out, _ = self(*arguments, "--json")
        return code, json.loads(out)


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replay, demo and bench are tested elsewhere; here they only answer."""
    from edge_app import bench, demo, replay
    from edge_app.access import finding

    def answer(*arguments: Any) -> dict[str, Any]:
        *_, progress = arguments
        progress(1, 2, "halfway")
        return {"answered": float("nan")}

    monkeypatch.setattr(replay, "replay", answer)
    monkeypatch.setattr(demo, "demo", answer)
    monkeypatch.setattr(bench, "bench", answer)
    monkeypatch.setattr(finding, "find", lambda *_: [])


def _arguments(verb: str, address: str, folder: Path) -> list[str]:
    at = ["--at", address]
    return {
        "focus": ["focus", *at],
        "measure": ["measure", *at, "--map", str(folder / "map.png")],
        "move": ["move", *at, "--to", "3"],
        "home": ["home", *at],
        "capture": ["capture", *at, str(folder / "frame.png")],
        "models": ["models", *at],
        "position": ["position", *at],
        "status": ["status", *at],
        "stop": ["stop", *at],
        "doctor": ["doctor"],
        "replay": ["replay", "stack.tif"],
        "demo": ["demo", "--runs", "1"],
        "bench": ["bench"],
        "find": ["find"],
    }[verb]


@pytest.mark.parametrize("verb", sorted(VERBS - {"serve", "set-zero"}))
@pytest.mark.usefixtures("stubbed")
def test_every_verb_prints_one_json_document(terminal: Terminal, address: str, tmp_path: Path, verb: str) -> None:
    code, result = terminal.json(*_arguments(verb, address, tmp_path))
    assert code == 0, result
    assert isinstance(result, dict)
    assert "error" not in result


@pytest.mark.parametrize("verb", sorted(VERBS - {"serve", "set-zero", "doctor", *OF_OTHERS}))
def test_every_verb_has_a_line_for_people(terminal: Terminal, address: str, tmp_path: Path, verb: str) -> None:
    code, out, err = terminal(*_arguments(verb, address, tmp_path))
    assert (code, err) == (0, "")
    assert out.strip()


def test_serve_prints_its_address_as_one_json_document() -> None:
    command = [*COMMAND, "serve", *TINY, "--listen", "127.0.0.1:0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        document = "".join(_document(iter(server.stdout.readline, "")))
        with Client(json.loads(document)["address"]) as client:
            assert client.describe().board == "simulated_tiny"
        server.send_signal(signal.SIGINT)
        assert server.stdout.read() == ""
    assert server.returncode == 0


def _document(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield line
        if line == "}\n":
            return


def test_focus_says_a_line_for_each_look_and_the_outcome(terminal: Terminal, client: Client, address: str) -> None:
    client.load_field(4, "tissue", 8.0)
    code, out, _ = terminal("focus", "--at", address)
    *looks, last = out.splitlines()
    assert code == 0
    assert [line.split()[1] for line in looks] == [str(k) for k in range(len(looks))]
    assert last.startswith("focused: ")


def test_focus_without_success_exits_with_one(terminal: Terminal, client: Client, address: str) -> None:
    client.load_field(4, "blank")
    code, result = terminal.json("focus", "--at", address)
    assert code == 1
    assert result["outcome"]["verdict"] == "VERDICT_NO_CONTENT"


@pytest.mark.parametrize(
    ("kind", "verdict", "good"),
    [
        ("FOCUSED", "OK", True),
        ("FOCUSED", "OUT_OF_RANGE", True),
        ("STAYED", "OK", True),
        ("STAYED", "NO_CONTENT", False),
        ("RETURNED", "OK", True),
        ("RETURNED", "DISAGREEMENT", False),
        ("STOPPED", "OK", False),
    ],
)
def test_only_a_job_that_ends_in_focus_counts_as_success(kind: str, verdict: str, good: bool) -> None:
    outcome = focus_pb2.Outcome(
        kind=focus_pb2.OutcomeKind.Value(f"OUTCOME_KIND_{kind}"),
        verdict=focus_pb2.Verdict.Value(f"VERDICT_{verdict}"),
    )
    assert in_focus(outcome) is good


def test_a_board_is_opened_in_this_process_without_an_address(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "frame.png"
    code, result = terminal.json("capture", str(file), "--board", "simulated_tiny", "--seed", "3")
    assert code == 0
    assert (result["width_px"], result["file"]) == (448, str(file))
    assert from_png(file.read_bytes()).shape == (448, 448, 3)


def test_the_map_is_a_picture(terminal: Terminal, address: str, tmp_path: Path) -> None:
    code, _, _ = terminal("measure", "--at", address, "--map", str(tmp_path / "map.png"))
    assert code == 0
    assert min(from_png((tmp_path / "map.png").read_bytes()).shape[:2]) > 300


def test_a_map_of_a_blank_field_is_drawn_too(terminal: Terminal, client: Client, address: str, tmp_path: Path) -> None:
    client.load_field(4, "blank")
    code, result = terminal.json("measure", "--at", address, "--map", str(tmp_path / "map.png"))
    assert (code, result["estimate"]["verdict"]) == (0, "VERDICT_NO_CONTENT")
    assert (tmp_path / "map.png").is_file()


FAULTS = [
    (["move", "--board", "simulated_tiny", "--to", "900"], "OutOfLimits"),
    (["focus", "--board", "nowhere"], "ProfileError"),
    (["measure", "--at", "127.0.0.1:1"], "Unreachable"),
    (["position", "--config", "nowhere.toml"], "BadSettings"),
    (["measure", *TINY, "--map", "picture.doc"], "RuntimeFailed"),
    (["capture", "/nowhere/frame.png", "--board", "simulated_tiny"], "FileNotFoundError"),
]


@pytest.mark.parametrize(("arguments", "kind"), FAULTS)
def test_a_fault_is_one_line_on_stderr_or_one_document(terminal: Terminal, arguments: list[str], kind: str) -> None:
    code, out, err = terminal(*arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: ")
    told, result = terminal.json(*arguments)
    assert (told, result["error"]["kind"]) == (1, kind)
    assert " ".join(result["error"]["message"].split()) in err


@pytest.mark.parametrize("arguments", [["fly"], ["focus", "--fast"], ["move"], ["capture"]])
def test_wrong_usage_exits_with_two(terminal: Terminal, arguments: list[str]) -> None:
    code, _, err = terminal(*arguments)
    told, result = terminal.json(*arguments)
    assert (code, told, result["error"]["kind"]) == (2, 2, "Usage")
    assert err.startswith("error: ")


def test_a_board_that_nobody_named_is_said_to_be_simulated(terminal: Terminal) -> None:
    _, _, unnamed = terminal("move", "--by", "1")
    _, _, named = terminal("move", "--by", "1", "--board", "simulated_tiny")
    assert "note: this is the simulated microscope" in unnamed
    assert named == ""


def test_the_status_of_a_server_without_a_board_says_why() -> None:
    reply = microscope_pb2.DescribeReply(serving_version="1", trouble="there is no camera; plug it in")
    assert status_lines(reply) == "parfocal 1 serves no board: there is no camera; plug it in"


def test_debug_shows_the_traceback(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    from firmware.errors import ProfileError

    monkeypatch.setenv("PARFOCAL_DEBUG", "1")
    with pytest.raises(ProfileError):
        terminal("focus", "--board", "nowhere")


def test_help_lists_every_verb_without_loading_the_heavy_half() -> None:
    code = "import sys; from edge_app.cli import app; from edge_app import console; "
    code += "console.run(app, ['--help']); heavy = {'grpc', 'cv2', 'numpy'} & set(sys.modules); "
    code += "sys.exit(' '.join(heavy) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)


def test_ctrl_c_stops_the_board_and_leaves_with_130() -> None:
    command = [*COMMAND, "focus", *TINY, "--strategy", "sweep"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as focusing:
        assert focusing.stdout is not None
        assert focusing.stdout.readline().startswith("look 0")
        focusing.send_signal(signal.SIGINT)
        _, err = focusing.communicate(timeout=60)
    assert (focusing.returncode, err) == (130, "")


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help_and_json(terminal: Terminal, verb: str) -> None:
    code, out, _ = terminal(verb, "--help")
    assert code == 0
    assert "--json" in out


def test_doctor_tells_what_is_here_and_what_to_install() -> None:
    result = doctor.examine()
    found = {(item["what"], item["name"]): item for item in result["findings"]}
    assert result["simulated_board_works"]
    assert found["runtime", "onnxruntime"]["ok"]
    assert found["board", "simulated"]["ok"]
    assert all(item["detail"] for item in result["findings"])


def test_numbers_that_json_does_not_have_become_null(terminal: Terminal, stubbed: None) -> None:
    assert terminal.json("bench") == (0, {"answered": None})


def test_the_list_of_models_marks_the_one_that_the_board_would_choose(terminal: Terminal, address: str) -> None:
    _, out, _ = terminal("models", "--at", address)
    blocks = [block.splitlines() for block in out.strip().split("@")[1:]]
    tasks = [block[1].split(",")[0].strip() for block in blocks if "fits this board, and is its choice" in block[3]]
    assert sorted(tasks) == ["defocus", "quality", "sharpness"]
    assert "linear brightfield in colour" in out


def test_set_zero_on_an_axis_with_a_switch_says_to_home_it(terminal: Terminal, address: str) -> None:
    code, _, err = terminal("set-zero", "--at", address)
    assert code == 1
    assert "use home instead" in err


def test_a_flag_that_a_server_cannot_heed_is_refused(terminal: Terminal, address: str) -> None:
    code, _, err = terminal("measure", "--at", address, "--board", "simulated")
    assert code == 2
    assert "--board" in err
