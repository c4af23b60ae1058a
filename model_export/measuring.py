"""Every classical focus measure on recorded z-stacks: which slice each finds, and what its curve looks like."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from rich import box
from rich.console import Console
from rich.table import Table

from edge_app.measures import MEASURES
from firmware.errors import StackError
from firmware.optics import depth_of_field_um
from firmware.stacks import Stack
from firmware.table import explain

SHORT = {
    "high_pass_energy": "HPF",
    "tenengrad": "TEN",
    "laplacian_variance": "LAPV",
    "wavelet_energy": "EWC",
    "modified_laplacian": "SML",
    "wavelet_sparsity": "WS",
    "brenner": "BRE",
    "laplacian": "LAP",
    "modulus_difference": "SMD",
    "vollath_f4": "F4",
    "vollath_f5": "F5",
    "standard_deviation": "STD",
    "variance": "VAR",
    "entropy": "ENT",
    "wavelet_transform": "DWT",
}
_MARKS = {"peak": "", "dip": "v", "slope": "/", "several": "~", "flat": "="}
_FACTS = (
    "curves",
    "object",
    "slices",
    "step, um",
    "depth, um",
    "recommended",
    "found",
    "within 1",
    "lowest there",
    "one peak",
    "one dip",
)
_LEGEND = (
    "A cell says how far the largest value lies from the recommended slice; in brackets the slice itself, where none "
    "is recommended. Curve: no mark, one peak; v, a dip; / rising or falling all the way; ~ several turns; "
    "= flat. * the smallest value lies in the recommended slice."
)
_TURN = 0.1
_FLAT = 0.01
_LEAST_PX = 16
_WIDE = 200


class Sidecar(BaseModel):
    """What is read from beside a stack, other than what the board reads."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    recommended_in_focus_index: int | None = None
    object_type: str | None = None


def measure_stack(stack: Stack, smooth_px: float, aperture: float | None, tick: Callable[[], None]) -> dict[str, Any]:
    """Every measure on every slice of a stack, seen as the board sees it: 8 bits, the green or only channel.

    Args:
        stack: Open; the recommended slice and the kind of object come from `<file>.json` or `stacks.json` beside it.
        smooth_px: Sigma of a Gaussian taken first; 0 takes none.
        aperture: Numerical aperture in air, for a stack that does not state its own.
        tick: Called after each slice.

    Returns:
        Facts of the stack and for each measure the `slice` of its largest value, `off_slices`, `off_um` and
        `off_depths` from the recommended one along rising z (None where not known), the `lowest` slice, the `shape`
        of the curve and the `curve` itself, 0 to 1, along rising z.

    Raises:
        StackError: Fewer than three slices, slices too small to measure, notes that cannot be, or a damaged file.
    """
    if stack.count < 3 or min(stack.height_px, stack.width_px) < _LEAST_PX:
        found = f"{stack.count} slices of {stack.width_px}x{stack.height_px} pixels"
        raise StackError(f"{stack.name} has {found}; a curve needs three slices of {_LEAST_PX}x{_LEAST_PX} pixels")
    values: dict[str, list[float]] = {name: [] for name in MEASURES}
    for index in stack.order:
        grey = _grey(stack, index, smooth_px)
        for name, measure in MEASURES.items():
            values[name].append(float(measure(grey)))
        tick()
    side = _beside(stack.layout.path, stack.count)
    stated = stack.notes.numerical_aperture or aperture
    depth_um = depth_of_field_um(stated) if stated else None
    wanted = side.recommended_in_focus_index
    return {
        "stack": stack.name,
        "slices": stack.count,
        "z_unit": stack.z_unit,
        "z": [stack.positions[index] for index in stack.order],
        "object": side.object_type,
        "recommended": wanted,
        "depth_of_field_um": depth_um,
        "smooth_px": smooth_px,
        "measures": {name: _told(stack, np.array(curve), wanted, depth_um) for name, curve in values.items()},
    }


def shape(curve: NDArray[np.float64]) -> str:
    """What a curve (N,) looks like: "peak", "dip", "slope", "several" turns, or "flat".

    A turn counts where the curve comes back by more than a tenth of its range; flat is a range below a hundredth of
    the largest value.
    """
    low, high = float(curve.min()), float(curve.max())
    if high - low <= _FLAT * max(abs(high), abs(low)):
        return "flat"
    ways = _ways((curve - low) / (high - low))
    return {(1, -1): "peak", (-1, 1): "dip", (1,): "slope", (-1,): "slope"}.get(tuple(ways), "several")


def show(results: Sequence[dict[str, Any]], out: Console) -> None:
    """Print what each measure finds on each stack, in slices and, where known, um and depths; and how curves look."""
    wide = Console(file=out.file, width=_WIDE)
    for unit in ("slices", "um", "depths"):
        known = [each for each in results if unit == "slices" or _told_in(each, unit)]
        found = Table(f"off by, {unit}", *SHORT.values(), box=box.MARKDOWN)
        for result in known:
            found.add_row(result["stack"], *(_cell(result, name, unit) for name in SHORT))
        if known:
            wide.print(found, highlight=False)
    wide.print(_LEGEND, markup=False, highlight=False, soft_wrap=True)
    facts = Table(*_FACTS, box=box.MARKDOWN)
    for result in results:
        facts.add_row(*_facts(result))
    wide.print(facts, highlight=False)


def _grey(stack: Stack, index: int, smooth_px: float) -> NDArray[np.float32]:
    pixels = stack.pixels(index)
    grey = np.asarray(pixels if pixels.ndim == 2 else pixels[..., 1], np.float32)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), smooth_px), np.float32) if smooth_px else grey


def _told(stack: Stack, curve: NDArray[np.float64], wanted: int | None, depth_um: float | None) -> dict[str, Any]:
    best = stack.order[int(curve.argmax())]
    known_um = wanted is not None and stack.z_um is not None
    off_um = stack.positions[best] - stack.positions[wanted] if wanted is not None and known_um else None
    return {
        "slice": best,
        "off_slices": None if wanted is None else stack.order.index(best) - stack.order.index(wanted),
        "off_um": off_um,
        "off_depths": None if off_um is None or depth_um is None else off_um / depth_um,
        "lowest": stack.order[int(curve.argmin())],
        "shape": shape(curve),
        "curve": [round(float(value), 5) for value in (curve - curve.min()) / max(float(np.ptp(curve)), 1e-300)],
    }


def _ways(curve: NDArray[np.float64]) -> list[int]:
    """The ways (1 up, -1 down) that a curve (N,) of range 0 to 1 goes, turns below `_TURN` left out."""
    ways: list[int] = []
    low = high = float(curve[0])
    for value in map(float, curve[1:]):
        low, high = min(low, value), max(high, value)
        way = -1 if ways[-1:] == [1] or high - value > _TURN else 1
        if ways[-1:] != [way] and (high - value if way < 0 else value - low) > _TURN:
            ways.append(way)
            low = high = value
    return ways


def _beside(path: Path, count: int) -> Sidecar:
    """What `<file>.json` or else `stacks.json` tells of the stack; opening it has seen that they are JSON."""
    own, shared = path.with_name(path.name + ".json"), path.with_name("stacks.json")
    listed: Any = []
    if own.is_file():
        listed = [json.loads(own.read_text(encoding="utf-8")) | {"file": path.name}]
    elif shared.is_file():
        listed = json.loads(shared.read_text(encoding="utf-8"))
        listed = listed.get("stacks", []) if isinstance(listed, dict) else listed
    entry = next((each for each in listed if isinstance(each, dict) and each.get("file") == path.name), {})
    try:
        side = Sidecar.model_validate(entry)
    except ValidationError as error:
        raise StackError(f"notes beside {path.name}: {explain(error)}") from error
    if side.recommended_in_focus_index is not None and not 0 <= side.recommended_in_focus_index < count:
        wrong = f"recommended_in_focus_index {side.recommended_in_focus_index}"
        raise StackError(f"notes beside {path.name}: {wrong} is none of slices 0 to {count - 1}; correct it")
    return side


def _cell(result: dict[str, Any], name: str, unit: str) -> str:
    told = result["measures"][name]
    off = told[f"off_{unit}"]
    if result["recommended"] is None:
        text = f"({told['slice']})"
    elif off is None:
        text = "-"
    else:
        text = f"{off:+.4g}" if off else "0"
    return text + _MARKS[told["shape"]] + ("*" if told["lowest"] == result["recommended"] else "")


def _told_in(result: dict[str, Any], unit: str) -> bool:
    return any(told[f"off_{unit}"] is not None for told in result["measures"].values())


def _facts(result: dict[str, Any]) -> list[str]:
    of = list(result["measures"].values())
    known = result["recommended"] is not None
    steps = np.diff(result["z"])
    even = result["z_unit"] == "um" and np.ptp(steps) < 1e-3 * steps.mean()
    return [
        result["stack"],
        result["object"] or "-",
        str(result["slices"]),
        f"{steps.mean():.4g}" if even else "-" if result["z_unit"] != "um" else "uneven",
        f"{result['depth_of_field_um']:.2f}" if result["depth_of_field_um"] else "-",
        str(result["recommended"]) if known else "-",
        str(sum(told["off_slices"] == 0 for told in of)) if known else "-",
        str(sum(abs(told["off_slices"]) <= 1 for told in of)) if known else "-",
        str(sum(told["lowest"] == result["recommended"] for told in of)) if known else "-",
        str(sum(told["shape"] == "peak" for told in of)),
        str(sum(told["shape"] == "dip" for told in of)),
    ]
