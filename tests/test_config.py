"""Settings: defaults < TOML file < environment < flags, and nothing unknown."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from edge_app.config import Settings, read_settings, state_folder
from edge_app.errors import BadSettings

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "parfocal.toml"
    path.write_text('board = "from-file"\nlisten = "from-file:1"\nthreads = 1\n')
    return path


def test_defaults_listen_on_this_machine_only() -> None:
    assert read_settings().listen == "127.0.0.1:50051"


def test_each_source_overrules_the_one_below(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARFOCAL_LISTEN", "from-environment:1")
    monkeypatch.setenv("PARFOCAL_THREADS", "2")
    settings = read_settings(file, threads=3)
    assert (settings.board, settings.listen, settings.threads) == ("from-file", "from-environment:1", 3)
    assert settings.bundle == "factory"


def test_the_environment_can_name_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARFOCAL_CONFIG", str(file))
    assert read_settings().board == "from-file"


def test_flags_that_are_none_were_not_given(file: Path) -> None:
    assert read_settings(file, board=None).board == "from-file"


@pytest.mark.parametrize("text", ['bord = "x"', "threads = -1", "threads = [", 'seed = "x"', "[board]\na = 1"])
def test_a_wrong_file_is_one_line_that_names_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(BadSettings) as told:
        read_settings(path)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


def test_a_missing_file_is_told() -> None:
    with pytest.raises(BadSettings, match=r"no configuration file nowhere\.toml"):
        read_settings(Path("nowhere.toml"))


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARFOCAL_BORAD", "simulated")
    with pytest.raises(BadSettings, match="PARFOCAL_BORAD"):
        read_settings()


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(BadSettings, match="unknown key"):
        read_settings(speed=3)


def test_settings_cannot_be_changed_and_travel_to_another_process() -> None:
    settings = read_settings(seed=4)
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 5
    assert pickle.loads(pickle.dumps(settings)) == settings == Settings(seed=4)


def test_a_way_to_ask_is_no_address_to_listen_on() -> None:
    with pytest.raises(BadSettings, match=r"tls:127\.0\.0\.1:2' is how clients ask for TLS; to serve it listen on"):
        read_settings(listen="127.0.0.1:1,tls:127.0.0.1:2")


@pytest.mark.parametrize("listen", ["foo", "0.0.0.0:99999", "localhost:", ":50051", "host:http"])
def test_an_address_that_is_none_is_refused(listen: str) -> None:
    with pytest.raises(BadSettings, match="HOST:PORT"):
        read_settings(listen=listen)


def test_state_lies_where_systemd_says(clean_environment: pytest.MonkeyPatch) -> None:
    clean_environment.setenv("STATE_DIRECTORY", "/var/lib/parfocal:/var/lib/other")
    assert state_folder() == Path("/var/lib/parfocal")


def test_state_lies_in_the_users_own_folder_otherwise(clean_environment: pytest.MonkeyPatch) -> None:
    clean_environment.delenv("STATE_DIRECTORY", raising=False)
    clean_environment.setenv("XDG_STATE_HOME", "/home/maker/state")
    assert state_folder(machine=Path("/nowhere")) == Path("/home/maker/state/parfocal")


def test_a_machine_with_a_state_folder_has_one_for_everybody(
    clean_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clean_environment.delenv("STATE_DIRECTORY", raising=False)
    assert state_folder(machine=tmp_path) == tmp_path


def test_a_state_folder_can_be_named(clean_environment: pytest.MonkeyPatch) -> None:
    assert read_settings(state="here").state == Path("here")
