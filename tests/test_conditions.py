"""Conditions: what is drawn stays in its ranges, follows its seed, and is declared as a board file would."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from firmware.sensor import expose
from model_export.conditions import CameraTable, Conditions, Setting, SlideTable
from model_export.errors import BadRecipe
from model_export.evaluate import load_set
from model_export.recipe import RECIPES, Recipe, load_recipe

ANY_CAMERA = load_recipe("spectral_20x_any_camera").conditions[1]


def drawn(conditions: Conditions, count: int = 60) -> list[Setting]:
    rng = np.random.default_rng(1)
    return [conditions.draw(rng) for _ in range(count)]


def with_camera(**camera: object) -> Conditions:
    """The nominal conditions before another camera."""
    return load_set("nominal").conditions.model_copy(update={"camera": CameraTable.model_validate(camera)})


def seen(conditions: Conditions, seed: int = 1) -> tuple[Setting, np.ndarray]:
    """A setting, and what a network sees of an evenly lit field."""
    rng = np.random.default_rng(seed)
    setting = conditions.draw(rng)
    light = np.full((3, 32, 48), 0.5, np.float32)
    return setting, setting.seen(expose(light, setting.sensor, rng))


def inside(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]


def test_the_same_seed_draws_the_same() -> None:
    one, again, other = (ANY_CAMERA.draw(np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert one == again
    assert one != other


def test_optics_and_sensors_stay_in_their_ranges() -> None:
    table, settings = ANY_CAMERA.optics, drawn(ANY_CAMERA)
    assert all(inside(s.optics.numerical_aperture, table.numerical_aperture) for s in settings)
    assert all(inside(s.optics.pixel_um, table.pixel_um) for s in settings)
    assert all(inside(s.optics.spherical_waves, table.spherical_waves) for s in settings)
    assert all(inside(s.sensor.exposure, table.exposure) for s in settings)
    assert all(inside(s.sensor.full_well_e, table.full_well_e) for s in settings)
    assert all(max(s.sensor.gains) <= 1.0 for s in settings)


def test_the_middle_of_conditions_cuts_the_ranges_of_the_optics_and_nothing_else() -> None:
    middle = ANY_CAMERA.middle(0.5)
    wide, narrow = ANY_CAMERA.optics, middle.optics
    assert narrow.numerical_aperture == pytest.approx((0.73875, 0.76125))
    assert narrow.spherical_waves == pytest.approx((0.0875, 0.2625))
    assert narrow.wavelength_shift_nm == wide.wavelength_shift_nm / 2
    assert narrow.longitudinal_colour_um == wide.longitudinal_colour_um
    assert (middle.camera, middle.slide) == (ANY_CAMERA.camera, ANY_CAMERA.slide)
    assert ANY_CAMERA.middle(1.0).optics.numerical_aperture == pytest.approx(wide.numerical_aperture)


def test_thicker_slides_come_from_the_upper_half_of_their_range() -> None:
    thicker = ANY_CAMERA.thicker()
    assert thicker.slide.thickness_um == pytest.approx((1.5, 2.4))
    assert thicker.slide.thick_share == ANY_CAMERA.slide.thick_share
    assert thicker.optics == ANY_CAMERA.optics


def test_what_a_camera_does_to_its_counts_stays_in_its_ranges() -> None:
    table = ANY_CAMERA.camera
    done = [s.processing for s in drawn(ANY_CAMERA) if s.processing is not None]
    assert all(inside(p.saturation, table.saturation) for p in done)
    assert all(inside(p.sharpening, table.sharpening) for p in done)
    assert all(inside(p.jpeg_quality, table.jpeg_quality) for p in done)
    assert all(inside(p.gamma, table.gamma) for p in done if p.curve == "gamma")
    assert {p.curve for p in done} == {"srgb", "gamma"}


def test_a_slide_is_as_thick_and_tilted_as_its_table_says() -> None:
    slide = load_set("nominal").conditions.slide
    told = {"thick_share": 0.5, "thickness_um": (1.0, 2.0), "tilt_um": 3.0, "vignetting": (0.1, 0.2)}
    conditions = load_set("nominal").conditions.model_copy(update={"slide": slide.model_copy(update=told)})
    settings = drawn(conditions)
    assert all(s.thickness_um == 0.0 or inside(s.thickness_um, (1.0, 2.0)) for s in settings)
    assert {s.thickness_um == 0.0 for s in settings} == {True, False}
    assert all(inside(tilt, (-3.0, 3.0)) for s in settings for tilt in s.tilt_um)
    assert all(inside(s.vignetting, (0.1, 0.2)) for s in settings)


def test_quantiles_give_every_kind_of_specimen_its_share() -> None:
    conditions, rng = ANY_CAMERA, np.random.default_rng(1)
    kinds = Counter(conditions.draw(rng, (k + 0.5) / 50).kind for k in range(50))
    assert kinds == {"tissue": 31, "smear": 12, "sparse": 7}


def test_without_a_quantile_kinds_come_about_as_often_as_their_shares_say() -> None:
    kinds = Counter(setting.kind for setting in drawn(ANY_CAMERA, 300))
    assert kinds["tissue"] > kinds["smear"] > kinds["sparse"] > 15


def test_an_objective_that_was_measured_declares_its_aberrations() -> None:
    optics = load_set("nominal").frame_optics()
    assert (optics.spherical_waves, optics.longitudinal_colour_um) == (0.15, (0.5, 0.0, -0.4))
    assert optics.numerical_aperture == 0.75
    assert optics.pixel_um == pytest.approx(0.1725)


def test_an_objective_that_nobody_measured_declares_its_type_only() -> None:
    first, second = (s.frame_optics() for s in drawn(load_set("optics").conditions, 2))
    assert first == second
    assert (first.spherical_waves, first.longitudinal_colour_um) == (None, None)
    assert first.numerical_aperture == 0.75


def test_a_raw_camera_gives_a_mosaic_that_is_seen_in_colour() -> None:
    setting, rgb = seen(with_camera(response="raw", bits=12, black_level=(200.0, 200.0)))
    assert setting.response.kind == setting.frame_optics().response == "raw"
    assert setting.response.pattern == setting.sensor.pattern != ""
    assert setting.response.black_level == 200.0
    assert rgb.shape == (32, 48, 3)
    assert rgb.mean() == pytest.approx(0.5 * 0.8 * 255, rel=0.1)


def test_every_mosaic_is_drawn() -> None:
    assert {s.sensor.pattern for s in drawn(load_set("raw").conditions)} == {"RGGB", "BGGR", "GRBG", "GBRG"}


def test_an_unknown_camera_hands_over_a_picture_and_declares_nothing() -> None:
    setting, rgb = seen(load_set("jpeg").conditions)
    assert setting.processing is not None
    assert setting.response.kind == setting.frame_optics().response == "unknown"
    assert rgb.shape == (32, 48, 3)
    assert rgb.dtype == np.uint8
    assert rgb.mean() > 1.2 * 0.5 * 0.8 * 255


def test_clear_glass_comes_out_about_grey_whatever_the_white_balance() -> None:
    _, rgb = seen(with_camera(response="unknown", bits=12, white_balance=(1.9, 2.0), jpeg_quality=(95, 95)))
    red, green, blue = rgb.reshape(-1, 3).mean(axis=0)
    assert red == pytest.approx(green, rel=0.08)
    assert blue == pytest.approx(green, rel=0.08)


def test_some_unknown_cameras_are_linear_without_saying_so() -> None:
    plain = drawn(with_camera(response="unknown", bits=12, plain_share=1.0, jpeg_quality=(90, 90)), 3)
    assert all(s.processing is None and s.sensor.pattern == "" and s.sensor.bits == 8 for s in plain)
    assert all(s.response.kind == "unknown" for s in plain)


def test_a_monochrome_camera_shows_grey() -> None:
    setting, rgb = seen(load_set("symmetric").conditions)
    assert not setting.frame_optics().colour
    assert np.array_equal(rgb[..., 0], rgb[..., 2])


def test_another_camera_looks_at_the_same_slide_through_the_same_optics() -> None:
    one = ANY_CAMERA.draw(np.random.default_rng(2))
    other = one.with_camera(np.random.default_rng(3))
    assert (one.optics, one.kind, one.tilt_um) == (other.optics, other.kind, other.tilt_um)
    assert one.sensor != other.sensor


def test_a_misspelt_condition_is_refused() -> None:
    with pytest.raises(ValidationError, match="sharpness"):
        with_camera(sharpness=(0.0, 1.0))


@pytest.mark.parametrize(
    ("slide", "message"),
    [
        ({"kinds": {"tisue": 1.0}}, "no kind of specimen 'tisue'; the kinds are: tissue"),
        ({"kinds": {}}, "at least one kind of specimen"),
        ({"kinds": {"tissue": 1.0, "smear": 0.0}}, "share of 'smear' must be above 0"),
        ({"kinds": {"tissue": 1.0}, "blank_at_least": 1.1}, "less than or equal to 1"),
    ],
)
def test_a_slide_that_cannot_be_drawn_is_refused(slide: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SlideTable.model_validate(slide)


def changed(folder: Path, old: str, new: str) -> Recipe:
    """The recipe of the first bundle with one text in its place."""
    text = (RECIPES / "spectral_20x.toml").read_text(encoding="utf-8")
    assert old in text
    (folder / "changed.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    return load_recipe(str(folder / "changed.toml"))


MIXED = "[conditions.camera]\nmonochrome = true\n\n[conditions.slide]"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tissue = 0.62", "tisue = 0.62", r"conditions\.0\.slide\.kinds: there is no kind of specimen 'tisue'"),
        ('"nominal", "optics"', '"nominal", "soup"', "sets: there is no evaluation set 'soup'; the sets are: 10x"),
        ('"nominal", "optics"', '"nominal"', "acceptance has limits for optics; add it to sets"),
        ("known = true", 'contrast = "fluorescence"', "mix brightfield and fluorescence; write one recipe"),
        ("[conditions.slide]", MIXED, "mix monochrome and colour cameras; write one recipe"),
        (
            "layers = 3",
            "tilt_um = 1.0",
            r"conditions\.0\.slide\.tilt_um shapes whole frames and training would",
        ),
        ("layers = 3", "field_curvature_um = 1.0", "field_curvature_um shapes whole frames"),
        ("layers = 3", "vignetting = [0.0, 0.1]", "vignetting shapes whole frames"),
        ("layers = 3", "blank_at_least = 0.6", "blank_at_least shapes whole frames"),
    ],
)
def test_a_recipe_that_could_not_be_trained_as_it_says_is_refused(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRecipe, match=message):
        changed(tmp_path, old, new)


def test_a_recipe_may_say_that_its_slides_are_level(tmp_path: Path) -> None:
    assert changed(tmp_path, "layers = 3", "tilt_um = 0.0\nvignetting = [0.0, 0.0]").conditions[0].slide.tilt_um == 0.0


def test_other_limits_do_not_make_another_recipe(tmp_path: Path) -> None:
    assert changed(tmp_path, "frame_mae_um = 0.08", "frame_mae_um = 0.07").sha256 == load_recipe("spectral_20x").sha256
    assert changed(tmp_path, "batch = ", "batch = 1").sha256 != load_recipe("spectral_20x").sha256
