"""Stacks: what may be recorded, where z comes from, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from firmware.errors import StackError
from firmware.stacks import open_stack

DATA = Path(__file__).parents[2] / "shared" / "data"
Image = NDArray[Any]
Plane = dict[str, object]


def slices(count: int = 5, dtype: str = "uint8", colour: bool = False) -> Image:
    shape = (count, 12, 16, 3) if colour else (count, 12, 16)
    return np.random.default_rng(count).integers(0, 200, shape).astype(dtype)


def write(path: Path, pixels: Image, photometric: str = "minisblack", **options: Any) -> Path:
    tifffile.imwrite(path, pixels, photometric=photometric, **options)
    return path


def ome(path: Path, count: int = 4, **metadata: object) -> Path:
    return write(path, slices(count), ome=True, metadata={"axes": "ZYX", **metadata})


def planes(z: list[float], unit: str | None) -> Plane:
    return {"PositionZ": z} | ({"PositionZUnit": [unit] * len(z)} if unit else {})


@pytest.mark.parametrize("dtype", ["uint8", ">u2", "<u2"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"bigtiff": True}, {"rowsperstrip": 5}])
def test_slices_come_one_at_a_time_in_the_files_order(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    pixels = slices(5, dtype)
    order = dtype[0] if dtype[0] in "<>" else None
    stack = open_stack(write(tmp_path / "a.tif", pixels, byteorder=order, **options))
    scale = 1.0 if stack.white is None else 250.0 / stack.white
    for index in range(5):
        expected = np.minimum(pixels[index] * scale, 255)
        np.testing.assert_allclose(stack.pixels(index), expected, atol=0.51)


def test_a_stack_says_its_shape(tmp_path: Path) -> None:
    stack = open_stack(write(tmp_path / "well.tif", slices(3, colour=True), photometric="rgb"))
    assert (stack.name, stack.count, stack.height_px, stack.width_px) == ("well", 3, 12, 16)
    assert (stack.channels, stack.dtype, stack.pixels(0).shape) == (3, "uint8", (12, 16, 3))


def test_pages_written_one_by_one_are_a_stack(tmp_path: Path) -> None:
    pixels = slices()
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in pixels:
            writer.write(page, contiguous=False, metadata=None)
    np.testing.assert_array_equal(open_stack(tmp_path / "a.tif").pixels(3), pixels[3])


def test_sixteen_bits_are_scaled_by_one_white_for_the_whole_stack(tmp_path: Path) -> None:
    pixels = np.full((3, 40, 40), 1000, np.uint16) * np.array([1, 2, 4], np.uint16)[:, None, None]
    stack = open_stack(write(tmp_path / "a.tif", pixels))
    assert [int(stack.pixels(i).mean().round()) for i in range(3)] == [63, 125, 250]


def test_a_few_hot_pixels_do_not_darken_a_stack(tmp_path: Path) -> None:
    pixels = np.full((3, 400, 400), 500, np.uint16)
    pixels[1, 7, 7] = 65535
    assert open_stack(write(tmp_path / "a.tif", pixels)).pixels(0)[0, 0] == 250


def test_a_black_sixteen_bit_stack_stays_black(tmp_path: Path) -> None:
    stack = open_stack(write(tmp_path / "a.tif", np.zeros((3, 8, 8), np.uint16)))
    assert stack.pixels(2).max() == 0


def test_without_any_z_a_stack_is_handled_in_slices(tmp_path: Path) -> None:
    stack = open_stack(write(tmp_path / "a.tif", slices(4)))
    assert (stack.z_um, stack.z_unit, stack.positions) == (None, "slice", (0.0, 1.0, 2.0, 3.0))


def test_falling_and_uneven_z_keeps_the_files_indices(tmp_path: Path) -> None:
    stack = open_stack(write(tmp_path / "a.tif", slices(4)), z_um=[9.0, 2.0, 4.5, -3.0])
    assert stack.order == (3, 1, 2, 0)
    assert [stack.nearest(z) for z in (-100.0, 1.0, 4.0, 7.0)] == [3, 1, 2, 0]


def test_a_step_may_be_negative(tmp_path: Path) -> None:
    assert open_stack(write(tmp_path / "a.tif", slices(3)), z_step_um=-0.5).z_um == (0.0, -0.5, -1.0)


def test_arguments_count_before_a_sidecar_and_a_sidecar_before_metadata(tmp_path: Path) -> None:
    path = ome(tmp_path / "a.ome.tif", 3, PhysicalSizeZ=7.0, PhysicalSizeZUnit="µm")
    assert open_stack(path).z_um == (0.0, 7.0, 14.0)
    (tmp_path / "stacks.json").write_text(json.dumps({"stacks": [{"file": path.name, "z_step_um": 2.0}]}))
    assert open_stack(path).z_um == (0.0, 2.0, 4.0)
    (tmp_path / "a.ome.tif.json").write_text(json.dumps({"z_positions_um": [1, 5, 6]}))
    assert open_stack(path).z_um == (1.0, 5.0, 6.0)
    assert open_stack(path, z_step_um=0.1).z_um == (0.0, 0.1, 0.2)


def test_an_entry_for_another_file_is_not_ours(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", slices())
    (tmp_path / "stacks.json").write_text(json.dumps({"stacks": [{"file": "b.tif", "z_step_um": 2.0}]}))
    assert open_stack(path).z_unit == "slice"


def test_positions_relative_to_focus_serve_where_no_others_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", slices(3))
    side = {"z_positions_um": None, "z_rel_to_focus_um": [-3, 0, 4], "z_step_um": 3, "author": "unread"}
    (tmp_path / "a.tif.json").write_text(json.dumps(side))
    assert open_stack(path).z_um == (-3.0, 0.0, 4.0)


def test_optics_are_known_only_where_a_number_states_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", slices())
    side: dict[str, object] = {"pixel_size_um": 0.2, "numerical_aperture": "NA 0.85 (file name)"}
    (tmp_path / "a.tif.json").write_text(json.dumps(side))
    assert open_stack(path).notes.numerical_aperture is None
    (tmp_path / "a.tif.json").write_text(json.dumps(side | {"numerical_aperture": 0.85, "magnification": 40}))
    notes = open_stack(path).notes
    assert (notes.numerical_aperture, notes.pixel_um, notes.magnification) == (0.85, 0.2, 40.0)


@pytest.mark.parametrize(
    ("metadata", "z_um"),
    [
        ({"Plane": planes([3.0, 1.0, 2.0, 7.5], "µm")}, (3.0, 1.0, 2.0, 7.5)),
        ({"Plane": planes([0, 500, 1000, 1500], "nm")}, (0.0, 0.5, 1.0, 1.5)),
        ({"PhysicalSizeZ": 0.002, "PhysicalSizeZUnit": "mm"}, (0.0, 2.0, 4.0, 6.0)),
        ({"PhysicalSizeZ": 2.0, "PhysicalSizeZUnit": "pixel"}, None),
        ({"Plane": planes([5.0] * 4, "µm"), "PhysicalSizeZ": 1.5}, (0.0, 1.5, 3.0, 4.5)),
        ({"Plane": planes([1.0, 2.0, 3.0, 4.0], "reference frame")}, None),
        ({}, None),
    ],
    ids=["planes", "nanometres", "size", "no length", "stuck stage", "reference frame", "silent"],
)
def test_ome_states_z(tmp_path: Path, metadata: Plane, z_um: tuple[float, ...] | None) -> None:
    assert open_stack(ome(tmp_path / "a.ome.tif", 4, **metadata)).z_um == pytest.approx(z_um)


def test_ome_states_the_pixel(tmp_path: Path) -> None:
    path = ome(tmp_path / "a.ome.tif", PhysicalSizeX=325.0, PhysicalSizeXUnit="nm")
    assert open_stack(path).notes.pixel_um == pytest.approx(0.325)


@pytest.mark.parametrize(("unit", "step_um"), [("micron", 0.5), ("\\u00B5m", 0.5), ("mm", 500.0), ("pixel", None)])
def test_imagej_states_z(tmp_path: Path, unit: str, step_um: float | None) -> None:
    metadata = {"axes": "ZYX", "spacing": 0.5, "unit": unit}
    stack = open_stack(write(tmp_path / "a.tif", slices(3), imagej=True, metadata=metadata))
    assert stack.z_um == (None if step_um is None else (0.0, step_um, 2 * step_um))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"z_um": [0, 1, 2]}, "z is given for 3 slices, but the file has 5"),
        ({"z_um": [0, 1, 2, 1, 4]}, "two slices have the same z, 1 um"),
        ({"z_um": [0, 1, math.nan, 3, 4]}, "not a number"),
        ({"z_um": [0, 1, math.inf, 3, 4]}, "not a number"),
        ({"z_step_um": 0.0}, "same z"),
        ({"z_step_um": math.nan}, "not a number"),
        ({"z_um": [0, 1, 2, 3, 4], "z_step_um": 1.0}, "not both"),
    ],
)
def test_z_that_cannot_be_is_refused(tmp_path: Path, given: dict[str, Any], says: str) -> None:
    path = write(tmp_path / "a.tif", slices(5))
    with pytest.raises(StackError, match=says):
        open_stack(path, **given)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ('{"z_positions_um": [0, NaN, 2, 3, 4]}', "finite"),
        ('{"z_positions_um": [0, 1]}', "2 slices, but the file has 5"),
        ('{"numerical_aperture": 7.5}', "numerical_aperture"),
        ('{"z_step_um": "half a micron"}', "z_step_um"),
    ],
)
def test_a_wrong_sidecar_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path / "a.tif", slices(5))
    (tmp_path / "a.tif.json").write_text(text)
    with pytest.raises(StackError, match=rf"a\.tif\.json.*{says}"):
        open_stack(path)


def mixed(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        for rows in (12, 10, 12):
            writer.write(slices()[0][:rows], contiguous=False, metadata=None)


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "cannot read"),
    "a folder": (lambda path: path.mkdir(), "cannot read"),
    "empty": (lambda path: path.write_bytes(b""), "not a TIFF"),
    "text": (lambda path: path.write_text("no picture at all"), "not a TIFF"),
    "only a header": (lambda path: path.write_bytes(b"II*\0"), "cut short"),
    "no pages": (lambda path: path.write_bytes(b"II*\0\0\0\0\0"), "cut short"),
    "one slice": (lambda path: write(path, slices()[0]), "one slice"),
    "one colour slice": (lambda path: write(path, slices(1, colour=True)[0], photometric="rgb"), "one slice"),
    "shapes": (mixed, "different shapes"),
    "float": (lambda path: write(path, slices(5, "float32")), "float32 pixels"),
    "signed": (lambda path: write(path, slices(5, "int16")), "int16 pixels"),
    "inverted": (lambda path: write(path, slices(), photometric="miniswhite"), "miniswhite"),
    "time": (
        lambda path: write(path, slices(6).reshape(2, 3, 12, 16), imagej=True, metadata={"axes": "TZYX"}),
        "T=2, Z=3",
    ),
    "channels": (
        lambda path: write(path, slices(6).reshape(3, 2, 12, 16), imagej=True, metadata={"axes": "ZCYX"}),
        "C=2",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_is_no_stack_is_refused_in_one_sentence(
    tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, says = UNUSABLE[case]
    make(tmp_path / "a.tif")
    with pytest.raises(StackError, match=says) as refusal:
        open_stack(tmp_path / "a.tif")
    assert "\n" not in str(refusal.value)
    assert not caplog.records


@pytest.mark.parametrize("layout", ["contiguous", "pages", "zlib", "imagej", "ome"])
def test_a_file_cut_anywhere_is_refused_or_still_whole(tmp_path: Path, layout: str) -> None:
    options: dict[str, dict[str, Any]] = {
        "contiguous": {},
        "pages": {"metadata": None, "contiguous": False},
        "zlib": {"compression": "zlib"},
        "imagej": {"imagej": True, "metadata": {"axes": "ZYX", "spacing": 0.5, "unit": "um"}},
        "ome": {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeZ": 0.5}},
    }
    original = write(tmp_path / "whole.tif", slices(6), **options[layout])
    stack, whole, cut = open_stack(original), original.read_bytes(), tmp_path / "cut.tif"
    refused = 0
    for size in (*range(0, len(whole), len(whole) // 60), len(whole) // 2, len(whole) - 40):
        cut.write_bytes(whole[:size])
        try:
            rest = open_stack(cut)
        except StackError:
            refused += 1
        else:
            assert rest.z_um == stack.z_um
            assert all(np.array_equal(rest.pixels(i), stack.pixels(i)) for i in range(6))
    assert refused >= 58


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_a_file_that_shrinks_after_opening_is_one_error(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write(tmp_path / "a.tif", slices(), **options)
    stack = open_stack(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(StackError, match=r"slice 4 of a\.tif cannot be read"):
        stack.pixels(4)


@pytest.mark.parametrize("index", [-1, 5])
def test_a_slice_that_is_not_there_is_refused(tmp_path: Path, index: int) -> None:
    stack = open_stack(write(tmp_path / "a.tif", slices(5)))
    with pytest.raises(StackError, match="slices 0 to 4"):
        stack.pixels(index)


@pytest.mark.skipif(not DATA.is_dir(), reason="the recorded stacks are not here")
def test_every_recorded_stack_opens_as_its_list_says() -> None:
    for entry in json.loads((DATA / "stacks.json").read_text())["stacks"]:
        stack = open_stack(DATA / entry["file"])
        found = (stack.count, stack.height_px, stack.width_px, stack.channels, stack.dtype)
        assert found == tuple(entry[key] for key in ("n_slices", "height", "width", "channels", "dtype"))
        assert stack.pixels(stack.count - 1).dtype == np.uint8
        assert stack.notes.pixel_um == entry["pixel_size_um"]
