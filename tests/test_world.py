"""The World before a camera: what cameras of every response hand over, and where thick specimens are in focus."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from firmware.clock import ManualClock
from firmware.errors import ProfileError
from firmware.microscope import with_simulation
from firmware.profile import BoardProfile, CameraProfile, load_profile
from firmware.response import inverse_lut
from firmware.simulation import World, passed_um, read_simulation

STILL = {"vibration_um": 0.0, "drift_um_per_min": 0.0, "tilt_x_um": 0.0, "tilt_y_um": 0.0, "field_height_um": 0.0}
TISSUE = {"kinds": {"tissue": 1.0}}
UNKNOWN, LINEAR = {"response": {"kind": "unknown"}}, {"response": {"kind": "linear"}}


def board(camera: dict[str, Any] | None = None, **flaws: Any) -> BoardProfile:
    profile = load_profile("simulated_tiny")
    settings = {**profile.camera.model_dump(), "width_px": 240, "height_px": 224, **(camera or {})}
    changed = profile.model_copy(update={"camera": CameraProfile.model_validate(settings)})
    return with_simulation(changed, **{**STILL, **TISSUE, **flaws})


def world_of(camera: dict[str, Any] | None = None, **flaws: Any) -> World:
    world = World(board(camera, **flaws), ManualClock())
    world.load_field(1)
    return world


def frame_of(camera: dict[str, Any] | None = None, **flaws: Any) -> NDArray[np.float64]:
    world = world_of(camera, **flaws)
    pixels = world.develop(world.catch())
    profile = board(camera).camera
    assert pixels.shape == profile.frame_shape
    assert pixels.dtype == (np.uint8 if profile.bits == 8 else np.uint16)
    return pixels.astype(np.float64)


@lru_cache
def plain_frame() -> NDArray[np.float64]:
    return frame_of()


def test_an_exposure_on_the_way_is_the_mean_of_what_it_passed() -> None:
    world = world_of(read_noise_e=0.0, full_well_e=1e9)
    way_um = (3.0, 2.0, 1.0, 0.0, -1.0)
    passed = passed_um(way_um, world.depth_of_field_um)
    sharp = [world.develop(world.catch([um])).astype(np.float64) for um in passed]
    seen = world.develop(world.catch(way_um)).astype(np.float64)
    assert len(passed) == 9
    assert np.abs(seen - np.mean(sharp, axis=0)).mean() < 0.4
    assert np.abs(seen - world.develop(world.catch([1.0]))).mean() > 2.0


def test_a_thick_specimen_on_the_way_is_the_mean_of_its_images_too() -> None:
    world = world_of(read_noise_e=0.0, full_well_e=1e9, thickness_um=4.0, layers=2)
    way_um = (1.0, 0.5, 0.0, -0.5, -1.0)
    sharp = [world.develop(world.catch([um])).astype(np.float64) for um in passed_um(way_um, world.depth_of_field_um)]
    assert np.abs(world.develop(world.catch(way_um)) - np.mean(sharp, axis=0)).mean() < 0.4


def test_a_way_that_is_short_beside_the_depth_of_field_is_rendered_once_and_the_same_to_the_bit() -> None:
    still, slow = world_of(), world_of()
    assert passed_um((2.02, 2.0, 1.98), 0.95) == (2.0,)
    assert np.array_equal(still.develop(still.catch([2.0])), slow.develop(slow.catch([2.02, 2.0, 1.98])))


@pytest.mark.parametrize(("span_um", "count"), [(0.047, 1), (0.05, 2), (0.3, 5), (0.76, 9), (20.0, 9)])
def test_what_is_passed_is_a_tenth_of_a_depth_of_field_apart_up_to_nine_places(span_um: float, count: int) -> None:
    passed = passed_um(np.linspace(0.0, span_um, 9).tolist(), 0.95)
    assert len(passed) == count
    assert np.mean(passed) == pytest.approx(span_um / 2)


def test_an_unknown_response_without_processing_is_linear() -> None:
    assert np.array_equal(frame_of(UNKNOWN), frame_of(LINEAR))


def test_a_raw_camera_hands_over_its_mosaic_in_its_bits_above_its_black_level() -> None:
    response = {"kind": "raw", "pattern": "GBRG", "black_level": 64}
    mosaic, full = frame_of({"bits": 12, "response": response}), frame_of({"bits": 12, **LINEAR})
    red = (mosaic[1::2, 0::2] - 64) / (4095 - 64)
    assert red.mean() == pytest.approx(full[1::2, 0::2, 0].mean() / 4095, rel=0.01)
    assert mosaic.max() > 255


def test_a_declared_curve_is_undone_by_its_table() -> None:
    tone = frame_of({"response": {"kind": "tone", "curve": "srgb"}}, jpeg_quality=10, contrast=1.0)
    linear = frame_of(LINEAR)
    undone = 255 * inverse_lut("srgb")[tone.astype(np.uint8)]
    assert np.abs(undone - linear).mean() < 6.0
    assert np.abs(undone.mean(axis=(0, 1)) - linear.mean(axis=(0, 1))).max() < 2.0


@pytest.mark.parametrize(
    "flaws",
    [
        {"white_balance": (1.2, 1.0, 0.8)},
        {"curve": "gamma", "gamma": 2.0},
        {"contrast": 0.5},
        {"saturation": 1.5},
        {"sharpening": 1.0},
        {"jpeg_quality": 60},
    ],
)
def test_every_switch_of_the_processing_is_seen_by_an_unknown_camera_alone(flaws: dict[str, Any]) -> None:
    world, plain = (world_of(UNKNOWN, **changes) for changes in (flaws, {"saturation": 1.001}))
    assert np.abs(world.develop(world.catch()).astype(float) - plain.develop(plain.catch())).mean() > 0.5
    assert read_simulation(board(LINEAR, **flaws)).camera(board(LINEAR).camera)[1] is None


def test_a_monochrome_camera_gives_one_plane() -> None:
    grey, colour = frame_of({"colour": False, "bits": 12}), frame_of({"bits": 12})
    assert grey.mean() == pytest.approx((colour @ [0.3, 0.45, 0.25]).mean(), rel=0.02)
    assert frame_of({"colour": False, "response": {"kind": "tone", "curve": "srgb"}}).mean() > grey.mean() / 16


def test_a_camera_that_processes_cannot_have_twelve_bits() -> None:
    with pytest.raises(ProfileError, match="gives 8 bits, not 12"):
        World(board({"bits": 12, "response": {"kind": "unknown"}}, jpeg_quality=90), ManualClock())


@pytest.mark.parametrize(
    "flaws",
    [
        {"coverslip_error_um": 30.0},
        {"condenser_ratio": 0.3},
        {"thickness_um": 4.0, "layers": 2},
        {"field_curvature_um": 3.0},
        {"vignetting": 0.3},
    ],
)
def test_every_switch_of_the_light_changes_the_frame(flaws: dict[str, Any]) -> None:
    assert np.abs(frame_of(**flaws) - plain_frame()).mean() > 1.0


@pytest.mark.parametrize("flaws", [{"thickness_um": 4.0}, {"condenser_ratio": 1.5}, {"vignetting": 1.0}])
def test_what_cannot_be_simulated_is_refused(flaws: dict[str, Any]) -> None:
    with pytest.raises(ProfileError, match=next(iter(flaws))):
        World(board(**flaws), ManualClock())


def test_a_thick_specimen_is_in_focus_at_its_mean_height() -> None:
    thick, thin = world_of(thickness_um=8.0, layers=2), world_of()
    slide, _ = thick._slide_of(1, "tissue")
    low, high = (layer.height_um for layer in slide.layers)
    assert low < thin.truth_um() - thick.truth_um() < high
    thick.stage.turn(-thick.truth_um())
    assert thick.truth_um() == pytest.approx(0.0, abs=thick.table.backlash_um)


def test_coverage_is_that_of_the_field_and_not_of_what_lies_around_it() -> None:
    world = world_of(kinds={"sparse": 1.0})
    slide, _ = world._slide_of(1, "sparse")
    a, b = slide.ratio
    top, high, wide = (side * b // a for side in (slide.margin_px, slide.height_px, slide.width_px))
    absorbs = np.asarray(slide.layers[0].light).min(axis=0) < 0.95
    within = absorbs[top : top + high, top : top + wide].mean()
    assert abs(within - absorbs.mean()) > 0.02
    assert world.coverage() == pytest.approx(within, abs=0.004)


@pytest.mark.parametrize("name", ["simulated", "simulated_tiny"])
def test_what_every_objective_declares_is_what_is_simulated(name: str) -> None:
    profile = load_profile(name)
    world = World(profile, ManualClock())
    for objective in profile.objective:
        world.choose_objective(objective.name)
        optics, described = world._table_for_objective().optics, world.describe()
        assert objective.spherical_waves == optics.spherical_waves == described["spherical_waves"]
        assert objective.longitudinal_colour_um == optics.longitudinal_colour_um
        assert described["longitudinal_colour_um"] == list(optics.longitudinal_colour_um)


def test_an_objective_that_declares_nothing_has_the_aberrations_of_the_simulation() -> None:
    flawed = board(spherical_waves=0.3, longitudinal_colour_um=(0.7, 0.0, -0.6))
    silent = {"spherical_waves": None, "longitudinal_colour_um": None}
    bare = flawed.objective[0].model_copy(update=silent)
    optics = World(flawed.model_copy(update={"objective": (bare,)}), ManualClock())._table_for_objective().optics
    assert (optics.spherical_waves, optics.longitudinal_colour_um) == (0.3, (0.7, 0.0, -0.6))


@pytest.mark.parametrize(
    ("white_balance", "level"),
    [((1.8, 1.0, 1.6), 209), ((2.0, 1.5, 1.8), 209), ((1.2, 1.0, 0.8), 167)],
)
def test_clear_glass_comes_out_grey_and_below_full_scale(
    white_balance: tuple[float, float, float], level: float
) -> None:
    seen = frame_of(UNKNOWN, kinds={"blank": 1.0}, white_balance=white_balance)
    assert seen.mean(axis=(0, 1)) == pytest.approx([level] * 3, abs=2.0)
    assert seen.max() < 255


def test_a_fluorescent_field_is_dark_with_bright_cells() -> None:
    seen = frame_of(kinds={"fluorescence": 1.0})
    assert np.median(seen) < 60
    assert seen.max() > 2 * np.median(seen)
