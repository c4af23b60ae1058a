"""Which of a Raspberry Pi camera's streams answers a board file, and how its bytes become the promised pixels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from firmware.errors import CameraError, ProfileError
from firmware.frames import Pixels
from firmware.profile import CameraProfile

_LUMA_FIRST = ("YUV420", "YVU420", "NV12", "NV21")


@dataclass(frozen=True)
class Layout:
    """How a stream's bytes become the board file's pixels; `shift` takes left-justified samples down."""

    stream: Literal["raw", "main"]
    width_px: int
    height_px: int
    bits: int
    colour: bool = False
    wide: bool = False
    shift: int = 0

    def pixels(self, rows: NDArray[np.uint8]) -> Pixels:
        """Pixels of what `make_array` copied out: (H, W, 3), or rows of bytes with padding at their end."""
        if self.colour:
            return rows
        samples = rows.view("<u2") if self.wide else rows
        samples = samples[: self.height_px, : self.width_px]
        if self.shift:
            samples >>= self.shift  # in place: the copy is ours
        kind = np.uint8 if self.bits == 8 else np.uint16
        return cast("Pixels", np.ascontiguousarray(samples, dtype=kind))


def stream_of(profile: CameraProfile) -> Literal["raw", "main"]:
    """The stream that answers a board file.

    Raises:
        ProfileError: No stream of a Pi's camera gives what the board file declares.
    """
    response = profile.response
    if profile.width_px % 2 or profile.height_px % 2:
        raise ProfileError("camera.width_px and height_px must be even for a Raspberry Pi's camera")
    if response.kind == "linear" and profile.colour:
        raise ProfileError(
            'camera.response.kind = "linear" is not to be had in colour: the Pi\'s ISP bends the counts; '
            'take kind = "raw", or "unknown"'
        )
    if response.kind in ("raw", "linear"):
        if profile.bits not in (8, 10, 12, 16):
            raise ProfileError(f"camera.bits = {profile.bits}, but raw frames have 8, 10, 12 or 16; correct it")
        return "raw"
    if profile.bits != 8:
        raise ProfileError(f'camera.bits = {profile.bits}, but the ISP gives 8; write 8, or response.kind = "raw"')
    return "main"


def isp_format(profile: CameraProfile) -> str:
    """picamera2 names RGB formats by significance, so "BGR888" lies in memory as R, G, B."""
    return "BGR888" if profile.colour else "YUV420"


def unpacked(native: str, bits: int) -> str:
    """The sensor's own raw format, unpacked: "SBGGR12_CSI2P" becomes "SBGGR12".

    The Pi 4 then gives right-justified 16-bit words, the Pi 5 16-bit samples, where a packed format would be
    compressed with loss (libcamera, pipeline/rpi/pisp/pisp.cpp, platformValidate). The order must be the sensor's:
    libcamera lets a wrong one stand, unless it flips the picture.
    """
    order = re.search("[RGB]{4}", native)
    return f"S{order[0]}{bits}" if order else f"R{bits}"


def layout_of(profile: CameraProfile, configured: Mapping[str, Any]) -> Layout:
    """Compare what libcamera settled on with the board file.

    Raises:
        ProfileError: A key of the board file is wrong; the message has the right value.
        CameraError: The camera gives a format that cannot be read.
    """
    name, asked = stream_of(profile), isp_format(profile)
    given, size = configured[name]["format"], tuple(configured[name]["size"])
    if size != (profile.width_px, profile.height_px):
        raise ProfileError(
            f"the board file has width_px and height_px {profile.width_px}x{profile.height_px}, but the camera's "
            f"nearest mode is {size[0]}x{size[1]}; correct them in [camera]"
        )
    layout = partial(Layout, name, size[0], size[1], profile.bits)
    if name == "raw":
        return layout(**_samples(profile, given, configured["sensor"]["bit_depth"]))
    if profile.colour and given == asked:
        return layout(colour=True)
    if not profile.colour and given in _LUMA_FIRST:
        return layout()
    raise CameraError(f"the camera gives {given} where {asked} was asked for; take a camera that a Pi's ISP develops")


def _samples(profile: CameraProfile, given: str, sensor_bits: int) -> dict[str, Any]:
    """How wide a raw sample is, and how far up it lies.

    The Pi 4 names the sensor's own depth and right-justifies; the Pi 5 names 16 bits (platformValidate again) and
    left-justifies, on the scale of SensorBlackLevels. `check_counts` notices where that is not so.
    """
    if "_" in given:
        raise CameraError(f"the camera packs its raw frames ({given}) though unpacked ones were asked for; update it")
    found = re.fullmatch(r"S?([RGB]+)(\d+)", given)
    if found is None:
        raise CameraError(f'the camera\'s raw format {given} is not known here; take response.kind = "unknown"')
    order, depth = found[1], int(found[2])
    if (order == "R") is profile.colour:
        right = ("false", "linear") if order == "R" else ("true", "raw")
        raise ProfileError(
            f'camera.colour is wrong: the camera gives {given}; write colour = {right[0]} and kind = "{right[1]}"'
        )
    if profile.colour and order != profile.response.pattern:
        raise ProfileError(
            f'camera.response.pattern is "{profile.response.pattern}", but this camera gives "{order}"; '
            f'write pattern = "{order}"'
        )
    if sensor_bits != profile.bits:
        raise ProfileError(
            f"camera.bits is {profile.bits}, but the sensor's mode has {sensor_bits}; write bits = {sensor_bits}"
        )
    return {"wide": depth > 8, "shift": depth - sensor_bits}


def check_black_level(profile: CameraProfile, metadata: Mapping[str, Any]) -> None:
    """Compare the declared black level with the camera's (four values, on a scale of 16 bits).

    A measured one may differ a little; a forgotten one, or one of another bit depth, differs by factors.

    Raises:
        ProfileError: They cannot both be right.
    """
    levels = metadata.get("SensorBlackLevels")
    if not levels:
        return
    found = sum(levels) / len(levels) / 2 ** (16 - profile.bits)
    if abs(profile.response.black_level - found) > 1 + found / 4:
        raise ProfileError(
            f"camera.response.black_level is {profile.response.black_level:g}, but the camera reports {found:g} at "
            f"{profile.bits} bits; write black_level = {found:g}, or what you measured in the dark"
        )


def check_counts(profile: CameraProfile, counts: Pixels) -> None:
    """Raw counts that are justified in another way than `Layout` thinks are too small or too large: (H, W).

    Raises:
        CameraError: They are.
    """
    brightest, black = int(counts[::64].max()), profile.response.black_level
    if not 0.75 * black <= brightest < 2**profile.bits:
        raise CameraError(
            f"raw counts reach {brightest}, which cannot be with bits = {profile.bits} and black_level = {black:g}; "
            "this camera justifies its samples in another way: report it"
        )
