"""StackNotes: what is written about a recorded z-stack, beside the file or inside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import tifffile
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from firmware.errors import StackError
from firmware.table import explain

_UM = {"µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3, "mm": 1e3, "m": 1e6}
_SAME_UM = 1e-6


@dataclass(frozen=True)
class StackNotes:
    """What one source knows; None where it is silent. `z_um` has one entry per slice, in the file's order."""

    z_um: tuple[float, ...] | None = None
    pixel_um: float | None = None
    numerical_aperture: float | None = None
    magnification: float | None = None

    def or_else(self, other: StackNotes) -> StackNotes:
        """These notes, with the gaps filled from a source that counts for less."""
        return StackNotes(
            self.z_um if self.z_um is not None else other.z_um,
            self.pixel_um or other.pixel_um,
            self.numerical_aperture or other.numerical_aperture,
            self.magnification or other.magnification,
        )


class Sidecar(BaseModel):
    """The fields of a sidecar that are read; the others are its author's."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, strict=True)

    z_positions_um: list[float] | None = None
    z_rel_to_focus_um: list[float] | None = None
    z_step_um: float | None = None
    pixel_size_um: float | None = Field(default=None, gt=0)
    numerical_aperture: float | None = Field(default=None, gt=0, lt=1.6)
    magnification: float | None = Field(default=None, gt=0)

    @field_validator("numerical_aperture", "magnification", mode="before")
    @classmethod
    def _numbers_only(cls, value: object) -> object:
        """Prose is not parsed for numbers; it counts as not stated."""
        return None if isinstance(value, str) else value


def stated(z_um: Sequence[float] | None, z_step_um: float | None, count: int) -> StackNotes:
    """Notes from what the caller says.

    Args:
        z_um: One position per slice in the file's order, or None.
        z_step_um: Distance from slice to slice (negative: the file runs downwards), or None.
        count: Slices in the file.

    Raises:
        StackError: Both are given, the count differs, or a value cannot be.
    """
    if z_um is not None and z_step_um is not None:
        raise StackError("give z_um or z_step_um, not both")
    if z_um is not None:
        return StackNotes(_checked(z_um, count, "z_um"))
    return StackNotes(_ladder(z_step_um, count, "z_step_um"))


def beside(path: Path, count: int) -> StackNotes:
    """Notes from `<file>.json`, or from the entry for the file in a `stacks.json` beside it.

    Raises:
        StackError: The sidecar is not readable JSON, or a value in it cannot be.
    """
    entry, where = _entry(path)
    if entry is None:
        return StackNotes()
    try:
        side = Sidecar.model_validate(entry)
    except ValidationError as error:
        raise StackError(f"{where}: {explain(error)}") from error
    listed = side.z_positions_um if side.z_positions_um is not None else side.z_rel_to_focus_um
    z_um = _checked(listed, count, where) if listed is not None else _ladder(side.z_step_um, count, where)
    return StackNotes(z_um, side.pixel_size_um, side.numerical_aperture, side.magnification)


def inside(tif: tifffile.TiffFile, count: int) -> StackNotes:
    """Notes from OME-XML or ImageJ metadata; lengths without a unit of length are not taken for um.

    Raises:
        StackError: It states z, but for another number of slices, or one position twice.
    """
    if tif.is_ome and tif.ome_metadata:
        return _ome(tifffile.xml2dict(tif.ome_metadata), count)
    if tif.is_imagej and tif.imagej_metadata:
        return _imagej(tif.imagej_metadata, count)
    return StackNotes()


def _entry(path: Path) -> tuple[object, str]:
    own, shared = path.with_name(path.name + ".json"), path.with_name("stacks.json")
    if own.is_file():
        return _load(own), own.name
    if shared.is_file():
        listed = _load(shared)
        entries = listed.get("stacks", []) if isinstance(listed, dict) else listed
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and entry.get("file") == path.name:
                return entry, f"{shared.name}, {path.name}"
    return None, ""


def _load(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StackError(f"the sidecar {path.name} cannot be read: {error}") from error


def _ome(document: Mapping[str, Any], count: int) -> StackNotes:
    image = _first(document.get("OME", {}).get("Image", {}))
    pixels = image.get("Pixels", {})
    z_um = _plane_positions(pixels, count)
    if z_um is None:
        step_um = _length(pixels.get("PhysicalSizeZ"), pixels.get("PhysicalSizeZUnit", "µm"))
        z_um = _ladder(step_um, count, "OME PhysicalSizeZ")
    return StackNotes(z_um, _length(pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit", "µm")))


def _plane_positions(pixels: Mapping[str, Any], count: int) -> tuple[float, ...] | None:
    """PositionZ of the planes; without a unit, or if all are alike, it is no record of z."""
    planes = pixels.get("Plane", [])
    planes = planes if isinstance(planes, list) else [planes]
    first = [p for p in planes if p.get("TheC", 0) == 0 and p.get("TheT", 0) == 0]
    first.sort(key=lambda plane: plane.get("TheZ", 0))
    lengths = [_length(p.get("PositionZ"), p.get("PositionZUnit", "")) for p in first]
    positions = [z for z in lengths if z is not None]
    if len(set(positions)) < 2:
        return None
    return _checked(positions, count, "OME PositionZ")


def _imagej(metadata: Mapping[str, Any], count: int) -> StackNotes:
    unit = str(metadata.get("unit", "")).replace("\\u00B5", "µ")
    step_um = _length(metadata.get("spacing"), unit)
    return StackNotes(_ladder(step_um, count, "ImageJ spacing"))


def _first(value: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = value[0] if isinstance(value, list) else value
    return found


def _length(value: object, unit: str) -> float | None:
    """A number with a unit in um, or None."""
    return float(value) * _UM[unit] if isinstance(value, (int, float)) and unit in _UM else None


def _ladder(step_um: float | None, count: int, where: str) -> tuple[float, ...] | None:
    if step_um is None:
        return None
    return _checked([index * step_um for index in range(count)], count, where)


def _checked(z_um: Sequence[float], count: int, where: str) -> tuple[float, ...]:
    values = tuple(float(z) for z in z_um)
    if len(values) != count:
        raise StackError(f"{where}: z is given for {len(values)} slices, but the file has {count}")
    if not all(math.isfinite(z) for z in values):
        raise StackError(f"{where}: a z position is not a number")
    ordered = sorted(values)
    for below, above in pairwise(ordered):
        if above - below < _SAME_UM:
            raise StackError(f"{where}: two slices have the same z, {below:g} um; every slice needs its own")
    return values
