"""A bundle is read as it was packed, or not at all; its passport refuses foreign optics."""

import io
import re
import tracemalloc
import zipfile
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_app.answer import Verdict
from edge_app.bundle import (
    Calibrations,
    CalibrationTable,
    Input,
    Manifest,
    Training,
    factory_bundles,
    find,
    golden_bytes,
    pack,
    read,
)
from edge_app.errors import BundleCorrupt, BundleNotFound
from edge_app.passport import Passport
from firmware.frames import FrameOptics
from model_export.card import model_card
from model_export.recipe import load_recipe, recipe_names

MEASURED = CalibrationTable(patch_scale=1.0, floor_um=0.1, patch_share=0.0, spread_share=1.0)
OTHERS = CalibrationTable(patch_scale=1.0, floor_um=0.3, patch_share=0.0, spread_share=1.0)


def small_bundle() -> bytes:
    manifest = Manifest(
        name="small",
        version="1",
        description="for tests",
        task="defocus",
        family="none",
        parameters=1,
        flop_per_patch=1.0,
        input=Input(name="counts", patch_px=8),
        outputs=("defocus_um", "log_sigma"),
        passport=Passport(numerical_aperture=(0.7, 0.8), pixel_um=(0.16, 0.18), range_um=10.0),
        calibration=Calibrations(known=MEASURED, unknown=OTHERS),
        metrics={},
        training=Training(
            recipe="r",
            recipe_sha256="0",
            seed=1,
            commit="c",
            steps=1,
            duration_s=1.0,
            device="cpu",
            versions={},
        ),
        sha256={},
    )
    counts = np.zeros((1, 8, 8, 3), np.uint8)
    return pack(
        manifest,
        b"not really onnx",
        golden_bytes(counts, {name: np.ones(1, np.float32) for name in ("defocus_um", "log_sigma")}),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "small.parfocal"
    file.write_bytes(small_bundle())
    return file


def test_what_is_packed_is_what_is_read(path: Path) -> None:
    bundle = read(path)
    assert bundle.manifest.label == "small@1"
    assert bundle.onnx == b"not really onnx"
    assert bundle.golden_out["defocus_um"].tolist() == [1.0]


def test_packing_twice_gives_the_same_bytes() -> None:
    assert small_bundle() == small_bundle()


def test_a_flipped_byte_anywhere_is_found(tmp_path: Path) -> None:
    data = small_bundle()
    file = tmp_path / "flipped.parfocal"
    missed = []
    for place in range(len(data)):
        file.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            read(file)
        except BundleCorrupt:
            continue
        missed.append(place)
    assert missed == []


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_bundle_is_refused(tmp_path: Path, keep: float) -> None:
    data = small_bundle()
    file = tmp_path / "short.parfocal"
    file.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(BundleCorrupt, match="fetch it again"):
        read(file)


def test_bytes_after_the_end_are_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(BundleCorrupt):
        read(path)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("way", ["deflated", "one stretch of bytes for many members"])
def test_what_would_unpack_to_more_than_its_bytes_is_refused_before_it_is_unpacked(
    tmp_path: Path, way: str, inside: bool
) -> None:
    large = io.BytesIO()
    np.save(large, np.zeros(30_000_000, np.uint8))
    bomb = zipped(large.getvalue()) if way == "deflated" else repeated(large.getvalue()[:1_000_000], 30)
    if inside:
        whole = small_bundle()
        file = zipfile.ZipFile(io.BytesIO(whole))
        bomb = pack(Manifest.model_validate_json(file.read("manifest.json")), file.read("model.onnx"), bomb)
    path = tmp_path / "bomb.parfocal"
    path.write_bytes(bomb)
    tracemalloc.start()
    with pytest.raises(BundleCorrupt, match="not packed as a bundle is"):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15_000_000


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("input.npy", data)
    return buffer.getvalue()


def repeated(data: bytes, times: int) -> bytes:
    """A zip that lists the same stored bytes again and again."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("input.npy", data)
        for number in range(times):
            info = copy(archive.infolist()[0])
            info.filename = f"{number}.npy"
            archive.filelist.append(info)
    return buffer.getvalue()


def test_a_missing_bundle_names_those_that_ship() -> None:
    with pytest.raises(BundleNotFound, match="factory bundle"):
        find("nowhere")


def optics(**known: Any) -> FrameOptics:
    return FrameOptics(**{"numerical_aperture": 0.75, "pixel_um": 0.1725, "response": "linear", **known})


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (optics(), None),
        (optics(numerical_aperture=0.65), Verdict.WRONG_OPTICS),
        (optics(pixel_um=0.0863), Verdict.WRONG_OPTICS),
        (optics(immersion_index=1.515), Verdict.WRONG_OPTICS),
        (optics(colour=False), Verdict.WRONG_OPTICS),
        (optics(contrast="fluorescence"), Verdict.WRONG_OPTICS),
        (optics(response="raw"), Verdict.WRONG_OPTICS),
        (optics(response="tone"), Verdict.WRONG_OPTICS),
        (optics(response="unknown"), Verdict.OPTICS_UNKNOWN),
        (FrameOptics(pixel_um=0.17), Verdict.OPTICS_UNKNOWN),
        (FrameOptics(numerical_aperture=0.75), Verdict.OPTICS_UNKNOWN),
    ],
)
def test_the_passport_accepts_only_its_own_optics(path: Path, seen: FrameOptics, verdict: Verdict | None) -> None:
    refusal = read(path).manifest.passport.check(seen)
    assert (refusal[0] if refusal else None) is verdict


def test_a_refusal_says_what_would_fit(path: Path) -> None:
    refusal = read(path).manifest.passport.check(optics(numerical_aperture=0.4))
    assert refusal is not None
    assert "NA 0.7 to 0.8" in refusal[1]


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (optics(response="unknown"), "reads linear frames.* unknown. Declare \\[camera.response\\].* or the sweep"),
        (optics(response="tone"), "reads linear frames.* response is tone. Use a bundle for tone frames"),
        (optics(contrast="fluorescence"), "for brightfield, and the board shows fluorescence"),
    ],
)
def test_a_refusal_of_the_camera_says_what_to_do(path: Path, seen: FrameOptics, says: str) -> None:
    refusal = read(path).manifest.passport.check(seen)
    assert refusal is not None
    assert re.search(says, refusal[1])


def passport(**more: Any) -> Passport:
    return Passport(numerical_aperture=(0.7, 0.8), pixel_um=(0.16, 0.18), range_um=10.0, **more)


def test_a_bundle_for_grey_frames_refuses_colour_cameras() -> None:
    refusal = passport(colour=False).check(optics())
    assert refusal is not None
    assert "reads grey frames" in refusal[1]
    assert passport(colour=False).check(optics(colour=False)) is None


def test_a_passport_may_accept_several_responses() -> None:
    both = passport(response=("raw", "unknown"))
    assert [both.check(optics(response=kind)) is None for kind in ("raw", "unknown", "linear")] == [True, True, False]


def test_a_passport_without_the_newer_fields_is_for_linear_brightfield() -> None:
    old = {"numerical_aperture": [0.7, 0.8], "pixel_um": [0.16, 0.18], "range_um": 10.0}
    assert Passport.model_validate(old).check(optics()) is None
    assert Passport.model_validate(old).response == ("linear",)
    assert not Passport.model_validate(old).knows(optics(spherical_waves=0.1, longitudinal_colour_um=(0.5, 0.0, -0.4)))


@pytest.mark.parametrize(
    ("aberrations", "known"),
    [
        ({"spherical_waves": 0.15, "longitudinal_colour_um": (0.5, 0.0, -0.4)}, True),
        ({"spherical_waves": 0.25, "longitudinal_colour_um": (0.5, 0.0, -0.4)}, False),
        ({"spherical_waves": 0.15, "longitudinal_colour_um": (0.5, 0.0, 0.4)}, False),
        ({"spherical_waves": 0.15}, False),
        ({"longitudinal_colour_um": (0.5, 0.0, -0.4)}, False),
        ({}, False),
    ],
)
def test_a_passport_knows_measured_objectives_inside_its_ranges(aberrations: dict[str, Any], known: bool) -> None:
    ranges = ((0.4, 0.6), (-0.1, 0.1), (-0.5, -0.3))
    measured = passport(spherical_waves=(0.1, 0.2), longitudinal_colour_um=ranges)
    assert measured.knows(optics(**aberrations)) is known
    assert measured.check(optics(**aberrations)) is None


TRAINED: dict[str, Any] = {
    "spherical_waves_accepted": (0.0, 0.35),
    "longitudinal_colour_um_accepted": ((0.3, 0.7), (-1e-6, 1e-6), (-0.56, -0.24)),
}


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"spherical_waves": 0.5}, "declares 0.5 as spherical_waves, and this model is for 0 to 0.35. Correct"),
        ({"longitudinal_colour_um": (0.5, 0.1, -0.4)}, "0.1 as longitudinal_colour_um of green, .* for 0 to 0. "),
        ({"longitudinal_colour_um": (0.5, 0.0, 0.4)}, "0.4 as longitudinal_colour_um of blue, .* -0.56 to -0.24. "),
    ],
)
@pytest.mark.parametrize("colour", [True, False])
def test_declared_aberrations_that_training_never_covered_are_refused(
    declared: dict[str, Any], says: str, colour: bool
) -> None:
    refusal = passport(colour=colour, **TRAINED).check(optics(colour=colour, **declared))
    assert refusal is not None
    assert refusal[0] is Verdict.WRONG_OPTICS
    assert re.search(says, refusal[1])
    assert "or use the sweep" in refusal[1]


@pytest.mark.parametrize(
    "declared",
    [
        {},
        {"spherical_waves": 0.35},
        {"longitudinal_colour_um": (0.5, 0.0, -0.4)},
        {"spherical_waves": 0.0, "longitudinal_colour_um": (0.3, 0.0, -0.56)},
    ],
)
def test_aberrations_inside_what_was_trained_or_not_declared_are_accepted(declared: dict[str, Any]) -> None:
    assert passport(**TRAINED).check(optics(**declared)) is None


def test_a_passport_from_before_these_ranges_accepts_any_aberrations() -> None:
    old = {"numerical_aperture": [0.7, 0.8], "pixel_um": [0.16, 0.18], "range_um": 10.0}
    strange = optics(spherical_waves=2.0, longitudinal_colour_um=(-5.0, 0.0, 5.0))
    assert Passport.model_validate(old).check(strange) is None


def test_sigma_is_made_otherwise_behind_an_objective_that_was_measured(path: Path) -> None:
    measured = optics(spherical_waves=0.1, longitudinal_colour_um=(0.0, 0.0, 0.0))
    ranges = ((-0.1, 0.1),) * 3
    manifest = read(path).manifest.model_copy(
        update={"passport": passport(spherical_waves=(0.0, 0.2), longitudinal_colour_um=ranges)}
    )
    assert manifest.calibration_for(measured).floor_um == MEASURED.floor_um
    assert manifest.calibration_for(optics()).floor_um == OTHERS.floor_um


@pytest.mark.parametrize("shipped", factory_bundles(), ids=lambda p: p.stem)
def test_every_factory_bundle_is_whole_and_small(shipped: Path) -> None:
    bundle = read(shipped)
    assert bundle.manifest.parameters * 4 <= 480 * 1024
    assert len(bundle.onnx) <= (600 if bundle.manifest.task != "quality" else 2000) * 1024
    assert bundle.manifest.training.commit
    recipe = load_recipe(bundle.manifest.training.recipe)
    assert bundle.manifest.training.recipe_sha256 == recipe.sha256
    assert set(recipe.sets) <= set(bundle.manifest.metrics)
    if bundle.manifest.task == "defocus":
        assert all(bundle.manifest.metrics[name]["frame"]["mae_um"] > 0 for name in recipe.sets)


def test_every_bundle_that_ships_has_its_recipe_and_its_card() -> None:
    assert {path.stem for path in factory_bundles()} <= set(recipe_names())
    assert all(path.with_suffix(".md").exists() for path in factory_bundles())


@pytest.mark.parametrize("shipped", factory_bundles(), ids=lambda p: p.stem)
def test_every_factory_bundle_has_its_card(shipped: Path) -> None:
    assert shipped.with_suffix(".md").read_text(encoding="utf-8") == model_card(read(shipped).manifest)
