"""A bundle is read as it was packed, or not at all; its passport refuses foreign optics."""

from pathlib import Path

import numpy as np
import pytest

from edge_app.bundle import (
    Input,
    Manifest,
    Passport,
    Training,
    factory_bundles,
    find,
    golden_bytes,
    pack,
    read,
)
from edge_app.errors import BundleCorrupt, BundleNotFound
from edge_app.estimate import Verdict
from firmware.frames import FrameOptics
from model_export.card import model_card


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
        patch_sigma_scale=1.0,
        frame_sigma_floor_um=0.1,
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


def test_a_missing_bundle_names_those_that_ship() -> None:
    with pytest.raises(BundleNotFound, match="factory bundle"):
        find("nowhere")


def optics(**known: float) -> FrameOptics:
    return FrameOptics(**{"numerical_aperture": 0.75, "pixel_um": 0.1725, **known})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (optics(), None),
        (optics(numerical_aperture=0.65), Verdict.WRONG_OPTICS),
        (optics(pixel_um=0.0863), Verdict.WRONG_OPTICS),
        (optics(immersion_index=1.515), Verdict.WRONG_OPTICS),
        (optics(colour=False), Verdict.WRONG_OPTICS),
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


@pytest.mark.parametrize("shipped", factory_bundles(), ids=lambda p: p.stem)
def test_every_factory_bundle_is_whole_and_small(shipped: Path) -> None:
    bundle = read(shipped)
    assert bundle.manifest.parameters * 4 <= 480 * 1024
    assert len(bundle.onnx) <= 600 * 1024
    assert bundle.manifest.training.commit
    assert bundle.manifest.metrics["specimens"]["frame"]["mae_um"] > 0


@pytest.mark.parametrize("shipped", factory_bundles(), ids=lambda p: p.stem)
def test_every_factory_bundle_has_its_card(shipped: Path) -> None:
    assert shipped.with_suffix(".md").read_text(encoding="utf-8") == model_card(read(shipped).manifest)
