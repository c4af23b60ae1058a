"""Pictures: a frame as PNG, and a frame with the defocus of each patch drawn over it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.estimate import PatchMap
from edge_app.linear import rgb8
from edge_app.patches import PatchGrid
from firmware.frames import Frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDE_IN = 8.0


def png(frame: Frame, max_px: int = 0) -> bytes:
    """A frame as PNG: as the camera gave it, in its own depth, but a raw mosaic with its colours filled in.

    The longer side is at most `max_px`; 0 for all.
    """
    shown: NDArray[Any] = rgb8(frame) if frame.response.kind == "raw" else frame.pixels
    longer = max(shown.shape[:2])
    if 0 < max_px < longer:
        high, wide = (max(1, round(side * max_px / longer)) for side in shown.shape[:2])
        shown = cv2.resize(shown, (wide, high), interpolation=cv2.INTER_AREA)
    bgr = shown if shown.ndim == 2 else cv2.cvtColor(shown, cv2.COLOR_RGB2BGR)
    ok, encoded = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    assert ok
    return bytes(encoded.tobytes())


def from_png(data: bytes) -> NDArray[np.uint8]:
    """A PNG as (H, W, 3) RGB, 8 bit."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError("these bytes are not a picture")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def defocus_map(rgb: NDArray[np.uint8], patches: PatchMap, full_width_px: int, title: str, path: Path) -> None:
    """Draw each patch's defocus over its frame, with a colour bar in um.

    Patches that are blank, or were not asked, are hatched.

    Args:
        rgb: (H, W, 3) the frame, at any scale.
        patches: What each patch said; the grid is in pixels of the full frame.
        full_width_px: Width of the full frame, which gives the scale of `rgb`.
        title: A line above the picture.
        path: Where to write; the suffix gives the format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    high, wide = rgb.shape[:2]
    figure = Figure(figsize=(_WIDE_IN, _WIDE_IN * high / wide * 0.85 + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(rgb)
    known = np.abs(patches.defocus_um[np.isfinite(patches.defocus_um)])
    reach_um = max(float(known.max()) if known.size else 0.0, 1.0)
    colours = ScalarMappable(Normalize(-reach_um, reach_um), "coolwarm")
    _draw_patches(axes, patches, wide / full_width_px, colours)
    figure.colorbar(colours, ax=axes, label="defocus (µm); positive: objective too far", shrink=0.9)
    axes.set_title(f"{title} (hatched: blank, or not asked)", fontsize=10)
    axes.set_axis_off()
    figure.savefig(path, dpi=150)


def _draw_patches(axes: Axes, patches: PatchMap, scale: float, colours: object) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.patches import Rectangle

    assert isinstance(colours, ScalarMappable)
    side = patches.grid.patch_px * scale
    for index, defocus_um in enumerate(patches.defocus_um):
        x, y = _corner(patches.grid, index)
        known = bool(np.isfinite(defocus_um))
        style = (
            {"facecolor": (*colours.to_rgba(np.asarray(defocus_um))[:3], 0.45), "edgecolor": "white"}
            if known
            else {"facecolor": (0.5, 0.5, 0.5, 0.35), "edgecolor": (0.3, 0.3, 0.3, 0.8), "hatch": "///"}
        )
        axes.add_patch(Rectangle((x * scale, y * scale), side, side, linewidth=0.6, **style))
        if known:
            middle = (x * scale + side / 2, y * scale + side / 2)
            axes.text(*middle, f"{defocus_um:+.1f}", ha="center", va="center", fontsize=7)


def _corner(grid: PatchGrid, index: int) -> tuple[int, int]:
    row, column = divmod(index, grid.columns)
    return grid.left_px + column * grid.patch_px, grid.top_px + row * grid.patch_px
