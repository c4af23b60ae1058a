"""Which factory bundle a board gets: the best of those that accept its optics and camera."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_app import bundle as bundles
from edge_app import doctor
from edge_app.bundle import Manifest, golden_bytes, pack, read
from edge_app.config import Settings
from edge_app.controller import Controller
from edge_app.errors import BundleCorrupt, BundleNotFound, RuntimeFailed
from edge_app.model import ModelSource
from edge_app.opening import assemble
from edge_app.passport import Passport
from edge_app.selection import choose, preferred, select
from firmware.clock import ManualClock
from firmware.errors import ProfileError
from firmware.frames import FrameOptics
from firmware.microscope import Microscope, open_microscope
from firmware.profile import load_profile

SHIPPED = read(bundles.find("ldse_net_20x"))
OPTICS = FrameOptics(0.75, 0.1725, response="linear")
TEN: dict[str, Any] = {
    "numerical_aperture": (0.25, 0.35),
    "pixel_um": (0.3, 0.4),
    "longitudinal_colour_um_accepted": None,
}


def manifest(name: str, error_um: float | None = None, **passport: Any) -> Manifest:
    figures = {} if error_um is None else {"specimens": {"frame": {"mae_um": error_um}}}
    fields = SHIPPED.manifest.passport.model_dump() | passport
    update = {"name": name, "metrics": figures, "passport": Passport.model_validate(fields)}
    return SHIPPED.manifest.model_copy(update=update)


def chosen(manifests: list[Manifest], optics: FrameOptics = OPTICS) -> str | None:
    index, mirrored = preferred(manifests, optics), preferred(manifests[::-1], optics)
    assert (index is None) == (mirrored is None)
    if index is None or mirrored is None:
        return None
    assert manifests[index] is manifests[::-1][mirrored]
    return manifests[index].name


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the factory's."""
    monkeypatch.setattr(bundles, "FACTORY", tmp_path)
    return tmp_path


def put(folder: Path, made: Manifest, onnx: bytes = SHIPPED.onnx) -> Path:
    path = folder / f"{made.name}.parfocal"
    path.write_bytes(pack(made, onnx, golden_bytes(SHIPPED.golden_in, SHIPPED.golden_out)))
    return path


@pytest.fixture
def microscope() -> Iterator[Microscope]:
    with open_microscope(load_profile("simulated_tiny"), ManualClock()) as opened:
        yield opened


def test_a_bundle_for_fewer_responses_is_preferred() -> None:
    own = manifest("own", 0.5, response=("linear",))
    broad = manifest("broad", 0.01, response=("linear", "raw"), pixel_um=(0.17, 0.175))
    assert chosen([own, broad]) == "own"
    assert chosen([own, broad], replace(OPTICS, response="raw")) == "broad"


def test_of_equal_responses_the_smaller_frame_error_is_preferred() -> None:
    wide = manifest("wide", 0.2, numerical_aperture=(0.5, 0.9))
    assert chosen([manifest("narrow", 0.3), wide]) == "wide"
    assert chosen([manifest("narrow", 0.1), wide]) == "narrow"


def test_where_errors_cannot_be_compared_the_narrower_optics_are_preferred() -> None:
    wide = manifest("a_wide", numerical_aperture=(0.5, 0.9))
    assert chosen([wide, manifest("narrow", 0.5)]) == "narrow"
    assert chosen([wide, manifest("narrow", 0.5)], replace(OPTICS, numerical_aperture=0.6)) == "a_wide"


def test_of_bundles_alike_the_first_by_name_is_preferred() -> None:
    assert chosen([manifest("b", 0.2), manifest("a")]) == "a"
    odd = manifest("c").model_copy(update={"metrics": {"onnx_parity": 0.001, "specimens": {"frame": None}}})
    assert chosen([odd, manifest("b", 0.2)]) == "b"


def test_errors_are_compared_on_a_set_that_all_report() -> None:
    more = {"optics": {"frame": {"mae_um": 0.01}}, "specimens": {"frame": {"mae_um": 0.4}}}
    assert chosen([manifest("a", 0.3), manifest("b").model_copy(update={"metrics": more})]) == "a"


@pytest.mark.parametrize(
    "other",
    [
        {"response": "unknown"},
        {"colour": False},
        {"contrast": "fluorescence"},
        {"numerical_aperture": 0.3},
        {"numerical_aperture": None},
    ],
)
def test_where_every_passport_refuses_none_is_preferred(other: dict[str, Any]) -> None:
    assert chosen([manifest("a"), manifest("b")], replace(OPTICS, **other)) is None


@pytest.mark.parametrize("board", ["simulated", "simulated_tiny"])
def test_the_boards_that_ship_get_a_bundle_for_every_objective(board: str) -> None:
    profile = load_profile(board)
    for objective in profile.objective:
        optics = profile.frame_optics(objective)
        assert read(choose(optics)).manifest.passport.check(optics) is None


def test_where_none_fits_choosing_says_what_would(shelf: Path) -> None:
    put(shelf, manifest("twenty"))
    put(shelf, manifest("ten", **TEN))
    with pytest.raises(BundleNotFound, match=r"no factory bundle fits; ten@.* comes closest: .* NA 0\.25 to 0\.35"):
        choose(replace(OPTICS, numerical_aperture=0.4, pixel_um=0.45))


def test_where_none_fits_a_board_starts_with_the_closest(shelf: Path) -> None:
    put(shelf, manifest("a_grey", colour=False))
    closest = put(shelf, manifest("b_linear"))
    choice = select("factory", replace(OPTICS, response="unknown"))
    assert (choice.path, choice.fits) == (closest, False)
    assert "Declare [camera.response]" in choice.why


def test_with_unknown_optics_a_bundle_is_still_had() -> None:
    assert not select("factory", FrameOptics()).fits


def test_an_empty_shelf_is_one_clear_error(shelf: Path) -> None:
    with pytest.raises(BundleNotFound, match="use the strategy sweep"):
        select("factory", OPTICS)


def test_a_damaged_bundle_leaves_the_others_in_service(shelf: Path) -> None:
    (shelf / "a.parfocal").write_bytes(b"damaged")
    (shelf / "bad.parfocal").mkdir()
    whole = put(shelf, manifest("c"))
    assert choose(OPTICS) == whole
    assert [path for path, _ in bundles.shipped()] == [whole]


def test_an_objective_that_no_training_covered_gets_no_bundle(shelf: Path) -> None:
    put(shelf, manifest("twenty", spherical_waves_accepted=(0.0, 0.35)))
    assert select("factory", replace(OPTICS, spherical_waves=0.3)).fits
    with pytest.raises(BundleNotFound, match=r"declares 0\.5 as spherical_waves"):
        choose(replace(OPTICS, spherical_waves=0.5))


def test_a_bundle_by_name_is_taken_whether_it_fits_or_not(shelf: Path) -> None:
    path = put(shelf, manifest("ten", **TEN))
    put(shelf, manifest("twenty"))
    assert (select("ten", OPTICS).path, select("ten", OPTICS).fits) == (path, False)
    assert select(str(path), replace(OPTICS, numerical_aperture=0.3, pixel_um=0.345)).fits
    (shelf / "bad.parfocal").write_bytes(b"damaged")
    with pytest.raises(BundleCorrupt):
        select("bad", OPTICS)


def test_another_objective_gets_its_own_bundle_and_back(shelf: Path, microscope: Microscope) -> None:
    put(shelf, manifest("twenty"))
    put(shelf, manifest("ten", **TEN))
    source = ModelSource()
    controller = Controller(microscope, source.model_for(microscope.optics), source)
    labels = []
    for name in ("10x", "20x"):
        controller.select_objective(name)
        assert controller.model is not None
        assert controller.model.bundle.manifest.passport.check(microscope.optics) is None
        labels.append(controller.model.bundle.manifest.name)
    assert labels == ["ten", "twenty"]


def test_an_objective_that_no_bundle_fits_keeps_the_loaded_one(shelf: Path, microscope: Microscope) -> None:
    put(shelf, manifest("twenty"))
    source = ModelSource()
    controller = Controller(microscope, source.model_for(microscope.optics), source)
    before = controller.model
    controller.select_objective("10x")
    assert controller.model is not None
    assert before is not None
    assert controller.model.runtime is before.runtime
    assert microscope.objective.name == "10x"


def test_a_bundle_that_still_fits_is_not_loaded_again(shelf: Path, microscope: Microscope) -> None:
    put(shelf, manifest("twenty"))
    source = ModelSource()
    controller = Controller(microscope, source.model_for(microscope.optics), source)
    before = controller.model
    controller.select_objective("20x")
    assert controller.model is not None
    assert before is not None
    assert controller.model.runtime is before.runtime


def test_a_model_that_cannot_be_had_leaves_the_old_objective(shelf: Path, microscope: Microscope) -> None:
    put(shelf, manifest("twenty"))
    put(shelf, manifest("ten", **TEN), onnx=b"nonsense")
    source = ModelSource()
    controller = Controller(microscope, source.model_for(microscope.optics), source)
    with pytest.raises(RuntimeFailed, match="refused ten"):
        controller.select_objective("10x")
    with pytest.raises(ProfileError):
        controller.select_objective("40x")
    assert controller.model is not None
    assert (microscope.objective.name, controller.model.bundle.manifest.name) == ("20x", "twenty")


def test_a_board_opens_with_the_bundle_that_fits_it(shelf: Path) -> None:
    put(shelf, manifest("a_raw", response=("raw",)))
    put(shelf, manifest("b_linear"))
    with assemble(Settings(board="simulated_tiny"), ManualClock()) as appliance:
        model = appliance.controller.model
        assert model is not None
        assert (model.bundle.manifest.name, model.why[:8]) == ("b_linear", "the only")


def test_doctor_says_which_bundle_each_objective_gets(shelf: Path) -> None:
    put(shelf, manifest("twenty"))
    found = {(item["what"], item["name"]): item["detail"] for item in doctor.examine()["findings"]}
    assert "20x: twenty@" in found["board", "simulated_tiny"]
    assert "10x: none fits" in found["board", "simulated_tiny"]
