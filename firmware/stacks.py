"""Stack: a recorded z-stack whose slices are read one at a time, and the board that replays it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

from firmware.errors import StackError
from firmware.profile import BoardProfile, load_profile
from firmware.stack_layout import StackLayout, check_magic, read_layout
from firmware.stack_notes import StackNotes, beside, inside, stated

_WHITE_PERCENT = 99.99
_WHITE_COUNT = 250.0
_COARSE_LOOKS = 12
_STEPS_PER_GAP = 16
_TRAVERSE_S = 0.1


@dataclass(frozen=True)
class Stack:
    """A recorded z-stack. A slice is named by its index in the file, whatever the order of z.

    `positions` (N,) says where each slice lies, in `z_unit`: um or, where nothing states z, slices (the index
    itself). `white` is the stored value that is shown as 250 of 255, one for a whole 16-bit stack, so that
    brightness and sharpness compare between its slices; None where 8 bits are stored and shown as they are.
    """

    layout: StackLayout
    notes: StackNotes
    positions: tuple[float, ...]
    z_unit: Literal["um", "slice"]
    white: float | None = None

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.layout.path.stem

    @property
    def count(self) -> int:
        """How many slices."""
        return self.layout.count

    @property
    def height_px(self) -> int:
        """Rows of a slice."""
        return self.layout.shape[0]

    @property
    def width_px(self) -> int:
        """Columns of a slice."""
        return self.layout.shape[1]

    @property
    def channels(self) -> int:
        """3 for RGB, 1 for grey."""
        return 3 if len(self.layout.shape) == 3 else 1

    @property
    def dtype(self) -> str:
        """How the file stores a value: "uint8" or "uint16"."""
        return np.dtype(self.layout.dtype).name

    @property
    def z_um(self) -> tuple[float, ...] | None:
        """(N,) position of each slice in um, or None where nothing states it."""
        return self.notes.z_um

    @property
    def order(self) -> tuple[int, ...]:
        """(N,) the slices from the lowest z to the highest."""
        return tuple(sorted(range(self.count), key=self.positions.__getitem__))

    def nearest(self, z: float) -> int:
        """The slice nearest to a position in `z_unit`."""
        return min(range(self.count), key=lambda index: abs(self.positions[index] - z))

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Read one slice: (H, W) or (H, W, 3) uint8.

        Raises:
            StackError: There is no such slice, or the file has changed or is damaged.
        """
        if not 0 <= index < self.count:
            raise StackError(f"{self.name} has slices 0 to {self.count - 1}, not {index}")
        stored = self.layout.read(index)
        if self.white is None:
            return stored.astype(np.uint8, copy=False)
        scaled: NDArray[np.float32] = stored * np.float32(_WHITE_COUNT / self.white) + np.float32(0.5)
        return np.clip(scaled, 0, 255).astype(np.uint8)


def open_stack(path: str | Path, z_um: Sequence[float] | None = None, z_step_um: float | None = None) -> Stack:
    """Open a z-stack: TIFF, ImageJ or OME-TIFF; grey or RGB; 8 or 16 bit.

    z comes from the first that states it: the arguments, `<file>.json` or `stacks.json` beside the file, OME
    or ImageJ metadata; without any the stack is handled in slices. It may be uneven, and may fall.

    Args:
        path: The file.
        z_um: One position per slice, in the file's order.
        z_step_um: Or the distance from slice to slice.

    Raises:
        StackError: The file is missing, no TIFF, cut short, no stack of equal slices, or z does not fit it.
    """
    path = Path(path)
    check_magic(path)
    try:
        with _quiet_parser(), tifffile.TiffFile(path) as tif:
            layout = read_layout(tif, path)
            notes = stated(z_um, z_step_um, layout.count).or_else(beside(path, layout.count))
            if notes.z_um is None or notes.pixel_um is None:
                notes = notes.or_else(inside(tif, layout.count))
    except StackError:
        raise
    except Exception as error:  # a parser that meets damaged bytes may raise anything
        raise StackError(f"{path.name} is damaged or cut short; copy it again") from error
    positions = notes.z_um or tuple(float(index) for index in range(layout.count))
    stack = Stack(layout, notes, positions, "um" if notes.z_um else "slice")
    return replace(stack, white=_white(layout)) if stack.dtype == "uint16" else stack


def replay_profile(
    stack_path: str | Path, z_um: Sequence[float] | None = None, z_step_um: float | None = None
) -> BoardProfile:
    """The board `replay`, filled in from a stack. In slices, one slice counts as 1.0 um.

    The axis covers exactly the stack; a sweep goes over the whole of it, coarsely in about a dozen looks and
    finely from slice to slice.

    Raises:
        StackError: As `open_stack`.
    """
    stack = open_stack(stack_path, z_um, z_step_um)
    base = load_profile("replay").model_dump(mode="json")
    notes = stack.notes
    magnification = notes.magnification or (1.0 if notes.pixel_um else None)
    base["description"] = f"Replays {stack.name}: {stack.count} slices, z in {stack.z_unit}"
    base["objective"][0] |= {
        "magnification": magnification,
        "numerical_aperture": notes.numerical_aperture,
        "immersion_index": _immersion_index(notes.numerical_aperture or 0.0),
    }
    base["camera"] |= {
        "width_px": stack.width_px,
        "height_px": stack.height_px,
        "colour": stack.channels == 3,
        "pixel_um": notes.pixel_um * magnification if notes.pixel_um and magnification else None,
        "options": {"stack": str(stack_path), "z_um": z_um and list(z_um), "z_step_um": z_step_um},
    }
    motion = _motion(sorted(stack.positions))
    base["axis"] |= motion["axis"]
    base["focus"] |= motion["focus"]
    return BoardProfile.model_validate(base)


def _immersion_index(numerical_aperture: float) -> float:
    """Of the thinnest of air, oil and dense oil that lets an aperture below 1.7 through; no stack states it."""
    return next(index for index in (1.0, 1.515, 1.7) if numerical_aperture < index)


def _motion(z: list[float]) -> dict[str, dict[str, Any]]:
    """Axis and sweep for slices at rising positions z (N,)."""
    gaps = [above - below for below, above in pairwise(z)]
    span, usual = z[-1] - z[0], median(gaps)
    step = min(gaps) / _STEPS_PER_GAP
    coarse = usual * min(max(round(len(z) / _COARSE_LOOKS), 1), 3)
    return {
        "axis": {
            "um_per_step": step,
            "low_um": z[0] - step,
            "high_um": z[-1] + step,
            "speed_um_s": span / _TRAVERSE_S,
        },
        "focus": {
            "towards_um": span + 2 * step,
            "away_um": span + 2 * step,
            "path_um": 20 * span,
            "sweep_coarse_um": coarse,
            "sweep_fine_um": max(min(gaps), usual / 8),
            "sweep_half_range_um": span + 2 * step,
        },
    }


def _white(layout: StackLayout) -> float:
    """The brightest value of the brightest slice, a few hot pixels aside; reads the whole stack once."""
    brightest = max(float(np.percentile(layout.read(index), _WHITE_PERCENT)) for index in range(layout.count))
    return max(brightest, 1.0)


@contextmanager
def _quiet_parser() -> Iterator[None]:
    """Keep tifffile's own log lines from joining the one sentence that is raised."""
    log = logging.getLogger("tifffile")
    was, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was
