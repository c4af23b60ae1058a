"""The scripts by which Mender and RAUC carry a repository: stand-ins take the place of parfocal, runuser and chown."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "packaging/rollout"
STAND_INS = {
    "runuser": 'shift 3\nexec "$@"',
    "chown": "exit 0",
    "parfocal": """echo "$*" >> "$BOARD/calls"
case "$1 $2" in
"update status")
    told=serving
    [ "$(cat "$BOARD/state")" = watched ] || [ ! -f "$BOARD/about" ] || told=about
    printf '{\\n "serving": "%s",\\n "previous": "",\\n' "$(cat "$BOARD/$told")"
    printf ' "state": "%s",\\n "reason": ""\\n}\\n' "$(cat "$BOARD/state")"
    ;;
"update rollback") [ "$6" != "$(cat "$BOARD/serving")" ] || echo old@1.0.0 > "$BOARD/serving" ;;
"update apply")
    [ "$(cat "$6/metadata/timestamp.json")" = fresh ] || { echo "error: it has expired; refresh it" >&2; exit 1; }
    echo "$6" > "$BOARD/unpacked"
    if ! grep -qFx "$(cat "$BOARD/offer")" "$BOARD/banned" "$BOARD/serving"; then
        cat "$BOARD/offer" > "$BOARD/serving"
        echo watched > "$BOARD/state"
    fi
    [ ! -f "$BOARD/another" ] || mv "$BOARD/another" "$BOARD/about"
    [ "$8" = "$(cat "$BOARD/serving")" ] || { echo "error: $8 does not serve" >&2; exit 1; }
    ;;
esac""",
    "df": 'printf "Filesystem 1024-blocks Used Available\\nx 1 1 %s\\n" "$(cat "$BOARD/free_kb")"',
}


class Board:
    """A board's scripts and what they reach, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, body in STAND_INS.items():
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\n{body}\n")
            path.chmod(0o755)
        for script in SCRIPTS.glob("*.sh"):
            moved = script.read_text().replace("/usr/lib/parfocal/", f"{folder}/").replace("/var/tmp/", f"{folder}/")
            (folder / script.name).write_text(moved)
        (folder / "serving").write_text("old@1.0.0\n")
        (folder / "state").write_text("settled\n")
        (folder / "banned").touch()
        (folder / "free_kb").write_text("1000000")
        self.offer("new@2.0.0")

    def offer(self, label: str, timestamp: str = "fresh") -> None:
        """Put a repository together, as a folder and as a payload that expects what it offers."""
        (self.folder / "offer").write_text(f"{label}\n")
        metadata = self.folder / "payload/repository/metadata"
        metadata.mkdir(parents=True, exist_ok=True)
        (metadata / "timestamp.json").write_text(timestamp)
        (self.folder / "payload/EXPECT").write_text(f"{label}\n")
        self.pack()

    def pack(self) -> None:
        """Make the tar of what the payload holds now."""
        for place in ("files", "tmp"):
            (self.folder / "tree" / place).mkdir(parents=True, exist_ok=True)
        payload, tar = self.folder / "payload", self.folder / "tree/files/repository.tar"
        subprocess.run(["tar", "-C", payload, "-cf", tar, "."], check=True)

    def run(self, script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "BOARD": str(self.folder),
            "RAUC_BUNDLE_MOUNT_POINT": str(self.folder / "payload"),
        }
        command = ["sh", self.folder / script, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def mender(self, state: str) -> subprocess.CompletedProcess[str]:
        return self.run("mender_module.sh", state, self.folder / "tree")

    @property
    def serving(self) -> str:
        return (self.folder / "serving").read_text().strip()


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_raucs_handler_applies_the_folder_of_the_bundle(board: Board) -> None:
    done = board.run("rauc_handler.sh")
    assert done.returncode == 0, done.stderr
    assert board.serving == "new@2.0.0"
    assert done.stdout.startswith("<< debug ")


def test_raucs_handler_hands_on_why_a_candidate_was_refused(board: Board) -> None:
    board.offer("new@2.0.0", "stale")
    done = board.run("rauc_handler.sh")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "<< error it has expired; refresh it"
    assert board.serving == "old@1.0.0"


def test_nothing_is_left_of_what_was_unpacked(board: Board) -> None:
    board.run("rauc_handler.sh")
    assert not Path((board.folder / "unpacked").read_text().strip()).exists()
    assert list(board.folder.glob("parfocal-models.*")) == []


@pytest.mark.parametrize(
    ("question", "answer"), [("NeedsArtifactReboot", "No"), ("SupportsRollback", "Yes"), ("SomethingNew", "")]
)
def test_menders_module_answers_what_it_is_asked(board: Board, question: str, answer: str) -> None:
    done = board.mender(question)
    assert (done.returncode, done.stdout.strip()) == (0, answer)


def test_menders_module_applies_and_goes_back(board: Board) -> None:
    assert board.mender("ArtifactInstall").returncode == 0
    assert board.serving == "new@2.0.0"
    assert board.mender("ArtifactCommit").returncode == 0
    assert board.mender("ArtifactRollback").returncode == 0
    assert board.serving == "old@1.0.0"


def test_an_artifact_that_was_refused_takes_nothing_away_when_mender_rolls_it_back(board: Board) -> None:
    board.offer("new@2.0.0", "stale")
    assert board.mender("ArtifactInstall").returncode == 1
    assert board.mender("ArtifactRollback").returncode == 0
    assert "rollback" not in (board.folder / "calls").read_text()


def test_a_model_that_the_status_tells_of_only_since_another_was_refused_is_not_left(board: Board) -> None:
    (board.folder / "banned").write_text("new@2.0.0\n")
    (board.folder / "another").write_text("other@1.0.5\n")
    assert board.mender("ArtifactInstall").returncode == 1
    assert '"serving": "other@1.0.5"' in board.run("bin/parfocal", "update", "status").stdout
    assert board.mender("ArtifactRollback").returncode == 0
    assert "rollback" not in (board.folder / "calls").read_text()


def test_an_artifact_that_brought_nothing_new_takes_nothing_away_either(board: Board) -> None:
    board.offer("old@1.0.0")
    assert board.mender("ArtifactInstall").returncode == 0
    assert board.mender("ArtifactRollback").returncode == 0
    assert "rollback" not in (board.folder / "calls").read_text()


def test_scripts_unpack_as_the_user_of_the_service() -> None:
    text = (SCRIPTS / "take_models.sh").read_text()
    assert 'as_service() { runuser -u parfocal -- "$@"; }' in text
    assert text.count("tar -x") == text.count("as_service tar -x") == 1


def test_a_second_try_of_a_version_that_the_board_does_not_take_again_fails(board: Board) -> None:
    (board.folder / "banned").write_text("new@2.0.0\n")
    assert board.mender("ArtifactInstall").returncode == 1
    done = board.run("rauc_handler.sh")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "<< error new@2.0.0 does not serve")
    assert board.serving == "old@1.0.0"


def test_a_board_that_went_back_by_itself_keeps_its_model_when_mender_rolls_back(board: Board) -> None:
    assert board.mender("ArtifactInstall").returncode == 0
    (board.folder / "serving").write_text("older@0.9.0\n")
    assert board.mender("ArtifactRollback").returncode == 0
    assert board.serving == "older@0.9.0"


def test_another_version_than_was_expected_is_left_again_when_mender_rolls_back(board: Board) -> None:
    (board.folder / "payload/EXPECT").write_text("new@3.0.0\n")
    board.pack()
    assert board.mender("ArtifactInstall").returncode == 1
    assert board.serving == "new@2.0.0"
    assert board.mender("ArtifactRollback").returncode == 0
    assert board.serving == "old@1.0.0"


@pytest.mark.parametrize(
    "wrong", ["", "new", "new@", "new@2.0.0 --json", "--help@1", "$(id)@1.0.0", "a@1\nb@2", "link"]
)
def test_a_payload_that_does_not_say_what_shall_serve_is_refused_and_shows_nothing(board: Board, wrong: str) -> None:
    expect = board.folder / "payload/EXPECT"
    expect.write_text(wrong)
    if wrong == "link":
        (board.folder / "secret").write_text("hush@1.0.0")
        expect.unlink()
        expect.symlink_to(board.folder / "secret")
    board.pack()
    done = board.mender("ArtifactInstall")
    assert done.returncode == 1
    assert done.stderr.strip().startswith("error: the payload says in no file EXPECT which NAME@VERSION shall serve")
    assert "hush" not in done.stderr
    assert "apply" not in (board.folder / "calls").read_text()


def test_a_payload_without_the_file_is_refused_by_raucs_handler_too(board: Board) -> None:
    (board.folder / "payload/EXPECT").unlink()
    done = board.run("rauc_handler.sh")
    assert done.returncode == 1
    assert "<< error the payload says in no file EXPECT" in done.stdout


@pytest.mark.parametrize("room", ["little free", "bound"])
def test_no_more_is_unpacked_than_the_bound_and_half_of_what_is_free(board: Board, room: str) -> None:
    (board.folder / "payload/repository/metadata/large").write_bytes(os.urandom(300_000))
    board.pack()
    assert board.mender("ArtifactInstall").returncode == 0
    (board.folder / "serving").write_text("old@1.0.0\n")
    (board.folder / "calls").unlink()
    if room == "bound":
        script = board.folder / "take_models.sh"
        script.write_text(script.read_text().replace("most_kb=524288", "most_kb=200"))
    else:
        (board.folder / "free_kb").write_text("400")
    done = board.mender("ArtifactInstall")
    assert done.returncode == 1
    assert "error: the payload is larger than 200 kB" in done.stderr
    assert "apply" not in (board.folder / "calls").read_text()
    assert list(board.folder.glob("parfocal-models.*")) == []


def test_a_payload_that_is_cut_is_refused(board: Board) -> None:
    (board.folder / "payload/repository/metadata/large").write_bytes(os.urandom(300_000))
    board.pack()
    os.truncate(board.folder / "tree/files/repository.tar", 150_000)
    done = board.mender("ArtifactInstall")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "error: the payload is no whole tar; make it anew")
