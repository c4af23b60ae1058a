"""A board that begins with what updates put into service: damaged, unusable, or ended again and again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kill_board import small_board
from repository_simulator import NOW, Simulator
from updating import bundle, install, repacked, version_of

from edge_app.appliance import Appliance
from edge_app.bundle import Manifest, ModelBundle
from edge_app.config import Settings
from edge_app.errors import RuntimeFailed
from edge_app.opening import assemble
from edge_app.ota.board import ships
from edge_app.ota.clock import Reference
from edge_app.ota.depot import Depot
from edge_app.ota.repository import Repository
from edge_app.ota.state import Slot, Stage, State
from edge_app.runtime import Runtime, open_runtime
from firmware.errors import FirmwareError

NAME = "spectral_20x"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "board.toml").write_text(small_board())
    return Settings(board=str(tmp_path / "board.toml"), state=tmp_path, runtime="onnxruntime", threads=1)


@pytest.fixture
def depot(tmp_path: Path) -> Depot:
    return Depot(tmp_path)


@contextmanager
def open_board(settings: Settings, serves: bool = True) -> Iterator[Appliance]:
    with assemble(settings, builds=serves) as appliance:
        yield appliance


def label(settings: Settings, serves: bool = True) -> str:
    with open_board(settings, serves) as appliance:
        model = appliance.controller.model
        assert model is not None
        return model.label


def unusable(version: str) -> bytes:
    """A sound bundle of a network that is none."""
    about = ships(NAME)
    assert about is not None
    kept: dict[str, object] = {
        field: getattr(about.manifest, field) for field in Manifest.model_fields if field not in ("name", "version")
    }
    return bundle(version, NAME, **kept)


def test_what_an_update_brought_serves_from_the_start(settings: Settings, depot: Depot) -> None:
    install(depot, repacked("1.1.0"), "1.1.0", NAME)
    assert label(settings) == "spectral_20x@1.1.0"


def test_where_its_file_is_damaged_the_one_that_ships_serves(settings: Settings, depot: Depot) -> None:
    version = install(depot, repacked("1.1.0"), "1.1.0", NAME)
    depot.path_of(version).write_bytes(b"torn")
    assert label(settings) == "spectral_20x@1.0.0"


@pytest.mark.parametrize("serves", [True, False])
def test_a_model_that_cannot_be_opened_is_left_for_the_one_before(
    settings: Settings, depot: Depot, serves: bool
) -> None:
    good, bad = repacked("1.1.0"), unusable("1.2.0")
    before = install(depot, good, "1.1.0", NAME)
    other = install(depot, bundle("1.0.0", "other", task="quality"), "1.0.0", "other")
    now = version_of(bad, "1.2.0", NAME)
    depot.keep(now, bad)
    slot = Slot(serving=now, previous=before)
    depot.change(lambda state: state.model_copy(update={"slots": {**state.slots, NAME: slot}}))
    assert label(settings, serves) == "spectral_20x@1.1.0"
    state = depot.state()
    assert state.slots["other"].serving == other
    if serves:
        assert state.slots[NAME].serving == before
        assert "spectral_20x@1.2.0 was left since it could not be opened" in state.is_bad("spectral_20x@1.2.0", "")
        assert state.stage is Stage.ROLLED_BACK
    else:
        assert state.slots[NAME].serving == now


def test_where_no_model_can_be_opened_none_is_to_blame(settings: Settings, depot: Depot) -> None:
    install(depot, repacked("1.1.0"), "1.1.0", NAME)
    before = depot.state()
    with pytest.raises(RuntimeFailed):
        assemble(settings.model_copy(update={"runtime": "tensorrt"}), builds=True)
    assert depot.state() == before


def watch(depot: Depot, name: str = NAME) -> None:
    """A new model serves, and is watched."""
    version = install(depot, repacked("1.1.0", name), "1.1.0", name)
    depot.change(lambda state: state.model_copy(update={"watched": version, "stage": Stage.WATCHED}))


def test_a_new_model_with_which_the_service_ends_three_times_is_left(settings: Settings, depot: Depot) -> None:
    watch(depot)
    for _ in range(3):
        depot.change(State.begun)
    assert label(settings) == "spectral_20x@1.0.0"
    assert "the service ended 3 times before it finished a job" in depot.state().reason


def test_clean_ends_and_commands_beside_the_service_do_not_count(settings: Settings, depot: Depot) -> None:
    watch(depot)
    for serves in (True, False) * 4:
        assert label(settings, serves) == "spectral_20x@1.1.0"
    assert depot.state().starts == 0


def test_a_job_that_ended_proves_the_new_model(settings: Settings, depot: Depot) -> None:
    watch(depot)
    depot.change(State.begun)
    depot.change(State.begun)
    with open_board(settings) as appliance:
        assert depot.state().starts == 3
        appliance.focus("single_shot", lambda *_: None).result.result(60.0)
        assert depot.state().starts == 0


def test_a_look_of_the_new_model_proves_that_it_can_be_asked(settings: Settings, depot: Depot) -> None:
    watch(depot)
    with open_board(settings) as appliance:
        assert depot.state().starts == 1
        assert appliance.measure().result(60.0).task == "defocus"
        assert depot.state().starts == 0


def test_a_start_that_failed_for_want_of_a_camera_does_not_count(
    settings: Settings, depot: Depot, tmp_path: Path
) -> None:
    watch(depot)
    other = tmp_path / "other.toml"
    other.write_text(small_board().replace('driver = "simulated"', 'driver = "gstreamer"', 1))
    for _ in range(4):
        with pytest.raises(FirmwareError):
            assemble(settings.model_copy(update={"board": str(other)}), builds=True)
    assert (depot.state().starts, depot.state().stage) == (0, Stage.WATCHED)


def test_a_start_that_failed_for_a_setting_that_is_wrong_does_not_count(settings: Settings, depot: Depot) -> None:
    watch(depot)
    for _ in range(4):
        with pytest.raises(RuntimeFailed):
            assemble(settings.model_copy(update={"runtime": "tensorrt"}), builds=True)
    assert (depot.state().starts, depot.state().stage, depot.state().bad) == (0, Stage.WATCHED, ())
    assert label(settings) == "spectral_20x@1.1.0"


def test_a_start_counts_while_its_model_is_opened_and_not_while_its_devices_are(
    settings: Settings, depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(depot)
    at_model, at_devices = [], []

    def opened(*given: Any) -> Runtime:
        at_model.append(depot.state().starts)
        return open_runtime(*given)

    monkeypatch.setattr("edge_app.model.open_runtime", opened)
    with assemble(settings, expect=lambda _s: at_devices.append(depot.state().starts), builds=True):
        assert depot.state().starts == 1
    assert (at_model, at_devices[0]) == ([1], 0)


def test_a_start_that_does_not_open_the_model_that_is_watched_does_not_count(settings: Settings, depot: Depot) -> None:
    watch(depot, "hh_net_20x")
    with open_board(settings):
        assert (depot.state().starts, depot.state().stage) == (0, Stage.WATCHED)


def test_a_model_that_is_first_opened_after_the_start_counts_from_then_until_it_answers(
    settings: Settings, depot: Depot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "board.toml").write_text(small_board().replace("_px = 224", "_px = 448"))
    watch(depot, "hh_net_20x")
    opening: list[tuple[str, int]] = []

    def opened(bundle: ModelBundle, *given: Any) -> Runtime:
        opening.append((bundle.manifest.label, depot.state().starts))
        return open_runtime(bundle, *given)

    monkeypatch.setattr("edge_app.model.open_runtime", opened)
    with open_board(settings) as appliance:
        appliance.run("look", lambda controller: controller.model_for("quality").label).result.result(60.0)
        assert opening == [("spectral_20x@1.0.0", 0), ("hh_net_20x@1.1.0", 1)]
        assert appliance.measure().result(60.0).task == "defocus"
        assert depot.state().starts == 1
        assert appliance.measure(task="quality").result(60.0).task == "quality"
        assert depot.state().starts == 0


def test_a_later_opening_that_fails_with_an_error_does_not_count(
    settings: Settings, depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(depot, "hh_net_20x")
    opening: list[int] = []

    def failing(*_given: Any) -> Runtime:
        opening.append(depot.state().starts)
        raise RuntimeFailed("the accelerator is out of memory")

    with open_board(settings) as appliance:
        monkeypatch.setattr("edge_app.model.open_runtime", failing)
        for _ in range(4):
            assert isinstance(appliance.measure(task="quality").exception(60.0), RuntimeFailed)
            assert (depot.state().starts, depot.state().stage) == (0, Stage.WATCHED)
    assert opening == [1] * 4


def test_the_watch_of_a_model_that_does_not_serve_any_more_is_over(settings: Settings, depot: Depot) -> None:
    watch(depot)
    watched = depot.state().watched
    assert watched is not None
    depot.path_of(watched).write_bytes(b"torn")
    assert label(settings) == "spectral_20x@1.0.0"
    assert depot.state().watched is None
    assert "does not serve any more" in depot.state().reason


# What a loss of power may leave of what the repository's client keeps.


def wreck(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "zeros": bytes(len(data))}[how])


@pytest.mark.parametrize("how", ["gone", "empty", "half", "zeros"])
def test_files_of_the_repository_that_a_loss_of_power_tore_are_fetched_again(tmp_path: Path, how: str) -> None:
    simulator, reference = Simulator(), Reference(NOW, "", "")
    entry = simulator.offer(b"bundle" * 4000)
    simulator.publish()

    def update(seen: dict[str, int]) -> dict[str, int]:
        repository = Repository(simulator.bootstrap(), tmp_path / "r", simulator, reference, seen=seen)
        assert repository.catalogue("stable").bundles == (entry,)
        assert repository.fetch("stable", entry, tmp_path / "incoming" / "b").read_bytes() == b"bundle" * 4000
        repository.settle()
        return repository.versions

    seen = update({})
    files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file() and not path.is_symlink()]
    assert len(files) > 5
    for path in files:
        if path.exists():
            wreck(path, how)
        assert update(seen) == seen, path
    for path in files:
        if path.exists():
            wreck(path, how)
    assert update(seen) == seen
