"""Engines by hand: TensorRT engines for bundles, built on this device or found, and how long their batches take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_app import bundle as bundles
from edge_app.answer import DEFOCUS
from edge_app.bundle import ModelBundle
from edge_app.config import read_settings
from edge_app.errors import RuntimeFailed
from edge_app.nvidia import sdk
from edge_app.nvidia.cache import SHARED, EngineCache, KeptEngine, cache_folder
from edge_app.nvidia.engine import PlanRefused
from edge_app.nvidia.execution import Execution
from edge_app.nvidia.making import make
from edge_app.nvidia.order import MOST, Order
from edge_app.nvidia.progress import Progress
from edge_app.runtime import Runtime, checked, golden_rows
from edge_app.runtimes import tensorrt
from edge_app.selection import FACTORY, select
from firmware.profile import load_profile

TURNS = 15
_WARM = 3


def bundles_for(bundle: str, board: str | None, config: Path | None) -> list[Path]:
    """Whose engines are wanted.

    Args:
        bundle: A bundle file, a factory bundle's name, "factory", or "" for what the settings say.
        board: A board by name or file; with it, or with `config`, only what its objectives get.
        config: A TOML file with settings.

    Raises:
        AppError: There is no such bundle, or the settings are wrong.
        FirmwareError: There is no such board.
    """
    if board is None and config is None:
        return bundles.factory_bundles() if bundle in {"", FACTORY} else [bundles.find(bundle)]
    settings = read_settings(config, board=board, bundle=bundle or None)
    if settings.bundle == "none" or settings.runtime not in {"", tensorrt.TensorRt.name}:
        return []
    profile = load_profile(settings.board)
    tasks = {DEFOCUS, *(shipped.manifest.task for _, shipped in bundles.shipped())}
    if settings.bundle != FACTORY:
        tasks.add(bundles.read(bundles.find(settings.bundle)).manifest.task)
    seen = [profile.frame_optics(objective) for objective in profile.objective]
    choices = [select(settings.bundle, optics, task) for optics in seen for task in sorted(tasks)]
    return sorted({choice.path for choice in choices if choice.fits})


def engine_for(path: Path, progress: Progress, turns: int = TURNS) -> dict[str, Any]:
    """Build or find the engine of a bundle, prove it on the golden outputs, and time it.

    Returns:
        {"label", "error"}, the error "" or a sentence; without one also {"key", "precision", "tensorrt", "gpu",
        "kept_in", "size_bytes", "build_s", "found", "layers": [{"name", "kind", "formats"}],
        "median_ms": {batch: ms}}
    """
    bundle = bundles.read(path)
    try:
        return {"label": bundle.manifest.label, "error": "", **_engine(bundle, progress, turns)}
    except RuntimeFailed as error:
        return {"label": bundle.manifest.label, "error": str(error)}


def missing() -> str:
    """What keeps engines from being built here, or ""."""
    return sdk.missing()


def show(results: list[dict[str, Any]], out: Console) -> None:
    """Tables of engines and of their layers."""
    table = Table("model", "precision", "key", "KiB", "built in, s", "ms per batch", "")
    for result in [each for each in results if not each["error"]]:
        times = ", ".join(f"{batch}: {ms:.2f}" for batch, ms in result["median_ms"].items())
        size, took = f"{result['size_bytes'] / 1024:.0f}", f"{result['build_s']:.0f}"
        state = "found" if result["found"] else "built" if result["kept_in"] else "built, not kept"
        table.add_row(result["label"], result["precision"], result["key"][:16], size, took, times, state)
    if table.row_count:
        out.print(table)
    for result in results:
        if result["error"]:
            out.print(f"no engine for {result['label']}: {result['error']}", soft_wrap=True, markup=False)
        layers = Table("layer", "type", "output formats", title=result["label"])
        for layer in result.get("layers", []):
            layers.add_row(escape(layer["name"]), layer["kind"], escape(layer["formats"]))
        if layers.row_count:
            out.print(layers)


def _engine(bundle: ModelBundle, progress: Progress, turns: int) -> dict[str, Any]:
    order, cache = tensorrt.order(bundle), EngineCache(cache_folder(), SHARED)
    found = cache.find(order) is not None
    kept = make(order, cache, progress)
    try:
        runtime = _proven(bundle, order, kept)
    except RuntimeFailed as error:
        if not (found and isinstance(error.__cause__, PlanRefused)):
            raise
        kept, found = make(order, cache, progress, anew=True), False
        runtime = _proven(bundle, order, kept)
    return {
        "key": order.key,
        "precision": order.precision,
        "tensorrt": order.tensorrt,
        "gpu": f"{order.gpu} ({order.architecture})",
        "kept_in": str(kept.path or ""),
        "size_bytes": len(kept.plan),
        "build_s": kept.build_s,
        "found": found,
        "layers": [asdict(layer) for layer in kept.layers],
        "median_ms": _times_ms(runtime, bundle, order, turns),
    }


def _proven(bundle: ModelBundle, order: Order, kept: KeptEngine) -> Runtime:
    name = tensorrt.TensorRt.name
    return checked(name, bundle, lambda: tensorrt.TensorRt(Execution(kept.plan, order)), usual=True)


def _times_ms(runtime: Runtime, bundle: ModelBundle, order: Order, turns: int) -> dict[str, float]:
    """Median time of batches of one, of the usual size, and of the largest, taken in turns."""
    rows = np.arange(len(bundle.golden_in))
    batches = {size: golden_rows(bundle, np.resize(rows, size)) for size in (1, order.usual, MOST)}
    times: dict[int, list[float]] = {size: [] for size in batches}
    for turn in range(_WARM + turns):
        for size, (counts, also) in batches.items():
            took_s = _timed_s(lambda counts=counts, also=also: runtime.infer(counts, also))  # type: ignore[misc]
            if turn >= _WARM:
                times[size].append(took_s)
    return {str(size): statistics.median(taken) * 1e3 for size, taken in times.items()}


def _timed_s(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return time.perf_counter() - began_s
