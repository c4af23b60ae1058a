"""A camera's response: what a board file may declare, and the curves that it names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from firmware.profile import CameraProfile
from firmware.response import Curve, Response, from_curve, inverse_lut, to_curve

CURVES: list[tuple[Curve, float]] = [("linear", 1.0), ("srgb", 1.0), ("gamma", 2.2), ("gamma", 0.7)]


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"kind": "linear", "black_level": 4.5},
        {"kind": "raw", "pattern": "GBRG", "black_level": 64},
        {"kind": "tone", "curve": "srgb"},
        {"kind": "tone", "curve": "gamma", "gamma": 1.8},
    ],
)
def test_what_belongs_together_is_accepted_and_survives_a_round_trip(table: dict[str, Any]) -> None:
    response = Response.model_validate(table)
    assert Response.model_validate(response.model_dump(mode="json")) == response


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "raw"}, "needs a pattern: RGGB"),
        ({"kind": "tone"}, 'needs a curve.* say "unknown"'),
        ({"kind": "linear", "pattern": "RGGB"}, "pattern means nothing .* takes black_level; remove it"),
        ({"kind": "tone", "curve": "srgb", "black_level": 16}, "black_level means nothing"),
        ({"kind": "tone", "curve": "srgb", "gamma": 1.8}, 'gamma goes with curve = "gamma"'),
        ({"black_level": 16}, 'kind = "unknown", which takes no other key'),
        ({"kind": "raw", "pattern": "RGBG"}, "pattern"),
        ({"kind": "raw", "pattern": "RGGB", "black_level": -1}, "black_level"),
        ({"kind": "linear", "blacklevel": 16}, "blacklevel"),
    ],
)
def test_what_contradicts_itself_is_refused_in_words_that_help(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Response.model_validate(table)


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        ({"colour": False, "response": {"kind": "raw", "pattern": "RGGB"}}, "raw response needs colour = true"),
        ({"bits": 12, "response": {"kind": "tone", "curve": "srgb"}}, "frames of 8 bits, not 12"),
        ({"bits": 8, "response": {"kind": "linear", "black_level": 255}}, "below full scale, 255 counts"),
    ],
)
def test_a_response_that_the_camera_cannot_have_is_refused(camera: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CameraProfile.model_validate({"driver": "any", "width_px": 8, "height_px": 8, **camera})


def test_a_raw_colour_camera_promises_one_plane() -> None:
    camera = {"driver": "any", "width_px": 6, "height_px": 4}
    raw = CameraProfile.model_validate({**camera, "response": {"kind": "raw", "pattern": "RGGB"}})
    assert raw.frame_shape == (4, 6)
    assert CameraProfile.model_validate(camera).frame_shape == (4, 6, 3)


@pytest.mark.parametrize(("curve", "gamma"), CURVES)
def test_a_curve_and_its_inverse_undo_each_other(curve: Curve, gamma: float) -> None:
    light = np.linspace(0.0, 1.0, 1001)
    shown = to_curve(light, curve, gamma)
    assert (shown[0], shown[-1]) == pytest.approx((0.0, 1.0))
    assert np.all(np.diff(shown) > 0)
    assert from_curve(shown, curve, gamma) == pytest.approx(light, abs=1e-4)


def test_srgb_is_the_published_one() -> None:
    assert to_curve(np.array([0.001, 0.0031308, 0.18, 0.5]), "srgb") == pytest.approx(
        [0.01292, 0.04045, 0.46136, 0.73536], abs=2e-5
    )


@pytest.mark.parametrize(("curve", "gamma"), CURVES)
def test_the_table_gives_each_count_its_light(curve: Curve, gamma: float) -> None:
    table = inverse_lut(curve, gamma)
    assert table.shape == (256,)
    assert table.dtype == np.float32
    assert np.rint(255 * to_curve(table.astype(float), curve, gamma)).tolist() == list(range(256))
