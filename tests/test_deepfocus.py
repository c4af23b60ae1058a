"""DeepFocus as it is learnt: the pupil's coefficients, windows of any specimen, the front end, the bundle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_app.bundle import FACTORY, read
from firmware.focal_stack import focal_stack
from firmware.optics import Optics, PupilTable, depth_of_field_um, fine_ratio, good_size, image
from model_export.pupils import REFERENCE_EDGE, draw_optics, edge_of, referred, zernike
from model_export.recipe import load_recipe
from model_export.teaching import sharpness
from model_export.windows import KINDS, Cameras, cut, light_of, photographed, seen

torch = pytest.importorskip("torch", reason="model_export needs torch")
PLAIN = Cameras(0.0, 0.0)


def perfect(aperture: float, pixel_um: float) -> Optics:
    return Optics(aperture, pixel_um, spherical_waves=0.0, longitudinal_colour_um=(0.0, 0.0, 0.0))


def light(seed: int, size: int) -> Any:
    return np.random.default_rng(seed).random((3, size, size), dtype=np.float32)


def test_a_depth_of_field_is_a_seventh_of_a_wave_of_defocus() -> None:
    optics = perfect(0.1, 1.0)
    depth_um = depth_of_field_um(0.1)
    found = zernike(PupilTable(optics, depth_um), np.array([-depth_um, 0.0, depth_um]))
    expected = 1 / (4 * np.sqrt(3))
    assert found.defocus == pytest.approx([expected, 0.0, -expected], rel=0.01, abs=1e-3)


def test_spherical_aberration_is_one_over_six_root_five_of_seidels() -> None:
    table = PupilTable(Optics(0.1, 1.0, spherical_waves=0.6), 1.0)
    assert zernike(table, np.zeros(1)).spherical == pytest.approx([0.6 / (6 * np.sqrt(5))], rel=0.01)


def test_waves_are_the_same_behind_the_reference_pupil_where_pixels_are_blurred_the_same() -> None:
    blur_px = 12.0
    for aperture, pixel_um in ((0.1, 1.2), (0.2, 0.3), (0.15, 0.5)):
        optics = perfect(aperture, pixel_um)
        z_um = blur_px * pixel_um / aperture
        waves = zernike(PupilTable(optics, z_um), np.array([z_um])).defocus
        paraxial = blur_px * REFERENCE_EDGE / (4 * np.sqrt(3))
        assert referred(waves, edge_of(optics)) == pytest.approx([paraxial], rel=0.03)


def test_drawn_microscopes_keep_to_their_ranges() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_optics(rng, (0.12, 0.9), (0.07, 0.27), (-0.1, 0.4), 0.5) for _ in range(200)]
    assert all(0.12 <= o.numerical_aperture <= 0.9 and 0.07 <= edge_of(o) <= 0.27 for o in drawn)
    assert {o.coverslip_error_um > 0 for o in drawn if o.numerical_aperture > 0.4} == {True, False}
    assert all(o.coverslip_error_um == 0 for o in drawn if o.numerical_aperture <= 0.4)


def test_a_focal_stack_is_what_pixels_see_of_each_colour_summed() -> None:
    optics = Optics(0.75, 0.1725)
    table, (a, b) = PupilTable(optics, 3.0), fine_ratio(optics)
    fine = good_size(60, a, b) // a * b
    otfs, of = table.radial_otf(np.array([-2.0, 1.0])), light(1, fine)
    stack = focal_stack(of, table, otfs, (0.2, 0.5, 0.3))
    for seen_at, otf in zip(stack, otfs, strict=True):
        expected = np.tensordot(np.array([0.2, 0.5, 0.3], np.float32), image(of, table, otf), axes=1)
        assert seen_at == pytest.approx(expected, abs=2e-5)


def test_a_colour_that_a_camera_does_not_see_does_not_count() -> None:
    optics = Optics(0.3, 0.345)
    table = PupilTable(optics, 1.0)
    of = light(2, good_size(48, *fine_ratio(optics)))
    changed = of.copy()
    changed[0] = 0.5
    otfs = table.radial_otf(np.zeros(1))
    first, second = (focal_stack(each, table, otfs, (0.0, 1.0, 0.0)) for each in (of, changed))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_windows_that_blur_takes_detail_from(kind: str) -> None:
    optics = perfect(0.3, 0.345)
    table = PupilTable(optics, 60.0)
    rng = np.random.default_rng(5)
    sharp, blurred = seen(kind, rng, optics, table, np.array([0.0, 60.0]), 256)
    assert np.isfinite(sharp).all()
    assert np.abs(np.diff(sharp)).mean() > 1.5 * np.abs(np.diff(blurred)).mean()


def test_light_on_dark_ground_reaches_one_and_bright_ground_is_glass() -> None:
    for kind in ("dark", "fluorescence", "abstract_dark"):
        assert np.percentile(light_of(kind, np.random.default_rng(3), 256, 0.3), 99.5) == pytest.approx(1.0, abs=0.01)
    assert light_of("abstract_bright", np.random.default_rng(3), 256, 0.3).max() <= 1.0


def test_a_camera_that_bends_grey_values_lifts_the_dark_ones() -> None:
    faint = np.full((64, 64), 0.1, np.float32)
    plain = photographed(faint, "tissue", np.random.default_rng(4), PLAIN)
    bent = photographed(faint, "tissue", np.random.default_rng(4), Cameras(1.0, 0.0))
    assert plain.dtype == bent.dtype == np.uint8
    assert bent.mean() > 2 * plain.mean()


def test_windows_are_cut_in_reading_order_and_grey_is_repeated() -> None:
    picture = np.arange(256 * 256, dtype=np.uint32).reshape(256, 256).astype(np.uint8)
    windows = cut(picture, 128)
    assert windows.shape == (4, 128, 128, 3)
    assert np.array_equal(windows[1, :, :, 0], picture[:128, 128:])
    assert np.array_equal(windows[2, :, :, 2], picture[128:, :128])


def test_a_specimen_is_the_same_again_and_states_one_truth_for_each_window() -> None:
    recipe = load_recipe("deepfocus")
    first, again = (sharpness.make(recipe, "train", 3) for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert {len(values) for values in first.values()} == {len(first["waves"])}
    assert set(sharpness.TRUTHS) <= set(first)
    assert (first["waves"] >= 0).all()
    other = sharpness.make(recipe, "validation", 3)
    assert other["edge"][0] != first["edge"][0]


def test_a_recipe_of_this_task_states_no_conditions_and_only_kinds_that_there_are() -> None:
    conditions = load_recipe("spectral_20x").conditions
    with pytest.raises(ValueError, match=r"remove \[\[conditions\]\]"):
        sharpness.check_conditions(conditions)
    data = load_recipe("deepfocus").data.model_dump()
    with pytest.raises(ValueError, match="there is no kind granite"):
        sharpness.Data(**{**data, "kinds": {"granite": 1.0}})


def test_the_cost_is_least_for_the_compressed_truth_and_sigma_does_not_move_the_score() -> None:
    recipe = load_recipe("deepfocus")
    truth = {name: torch.full((4,), value) for name, value in (("waves", 1.0), ("spherical", 0.05), ("edge", 0.2))}
    right = 0.15 * float(np.arcsinh(1.0 / 0.15))
    costs = []
    for offset in (-0.1, 0.0, 0.1):
        blur = torch.full((4,), right + offset, requires_grad=True)
        answers = {"blur": blur, "log_sigma": torch.zeros(4), "spherical": truth["spherical"], "edge": truth["edge"]}
        cost = sharpness.objective(answers, truth, recipe)
        costs.append(float(cost.detach()))
    assert costs[1] < min(costs[0], costs[2])
    (pull,) = torch.autograd.grad(cost, blur)
    alone = torch.nn.functional.huber_loss(blur / 0.15, torch.full((4,), right / 0.15), delta=0.3) / 0.3
    assert torch.allclose(pull, torch.autograd.grad(alone, blur)[0])


def test_limits_that_are_not_kept_are_told_in_words() -> None:
    limits = sharpness.Acceptance(mae_waves=0.02, rank=0.95)
    assert limits.missed({"patch": {"mae_waves": 0.01, "rank": 0.97}}) == []
    missed = limits.missed({"patch": {"mae_waves": 0.03, "rank": 0.9}})
    assert missed == ["mae_waves 0.030 (at most 0.02)", "rank 0.900 (at least 0.95)"]


def test_the_front_end_sees_a_patch_turned_and_mirrored_as_the_same() -> None:
    from model_export.families.deepfocus import Front

    patch = np.random.default_rng(6).integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)
    ways = (patch, patch.swapaxes(1, 2), patch[:, ::-1], patch[:, :, ::-1])
    with torch.inference_mode():
        straight, *turned = (Front()(torch.from_numpy(np.ascontiguousarray(way))) for way in ways)
    assert torch.allclose(straight, turned[0], atol=1e-3)
    # The window is zero in row 0 and not in row 127, so that mirroring shifts it by a pixel.
    assert all(torch.allclose(straight, each, atol=0.2) for each in turned)


def test_the_front_end_reads_green_alone() -> None:
    from model_export.families.deepfocus import Front

    patch = np.random.default_rng(7).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    other = patch.copy()
    other[..., ::2] = 9
    with torch.inference_mode():
        assert torch.equal(*(Front()(torch.from_numpy(each)) for each in (patch, other)))


def test_the_network_refuses_another_size_of_patch() -> None:
    from model_export.families.deepfocus import Net

    with pytest.raises(ValueError, match="this network reads 128"):
        Net([8], patch_px=224)


def test_the_shipped_bundle_takes_any_optics_and_stays_small() -> None:
    manifest = read(FACTORY / "deepfocus.parfocal").manifest
    assert manifest.task == "sharpness"
    assert manifest.passport.numerical_aperture is None
    assert manifest.passport.pixel_um is None
    assert manifest.passport.contrast is None
    assert manifest.passport.colour is None
    assert manifest.calibration is None
    assert manifest.facts == {"knee_waves": 0.15, "reference_edge": REFERENCE_EDGE}
    assert len(read(FACTORY / "deepfocus.parfocal").onnx) < 500_000
