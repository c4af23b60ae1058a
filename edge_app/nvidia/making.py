"""Making an engine: found among those that are kept, or built and kept."""

from __future__ import annotations

import logging
from pathlib import Path

from edge_app.errors import RuntimeFailed, StateUnusable
from edge_app.nvidia import engine, sdk
from edge_app.nvidia.cache import EngineCache, KeptEngine
from edge_app.nvidia.engine import Built, Layer
from edge_app.nvidia.order import Order
from edge_app.nvidia.progress import Progress

_log = logging.getLogger(__name__)


def make(order: Order, cache: EngineCache, progress: Progress, anew: bool = False) -> KeptEngine:
    """The engine of an order; where it cannot be kept it is given all the same, with a line in the log.

    Args:
        order: What is wanted.
        cache: Where it is looked for and kept.
        progress: As for `engine.build`.
        anew: Build it even if there is one; that one stays unless the new one can be loaded.

    Raises:
        RuntimeFailed: It cannot be built, or `progress` ended it.
    """
    found = None if anew else cache.find(order)
    if found is not None:
        return found
    with cache.locked():
        # Whoever held the lock may have built it.
        found = None if anew else cache.find(order)
        if found is not None:
            return found
        built, layers = _build(order, cache.timing(order), progress)
        path = _kept(order, cache, built, layers)
        return KeptEngine(built.plan, built.build_s, layers, path)


def _build(order: Order, timing: bytes, progress: Progress) -> tuple[Built, tuple[Layer, ...]]:
    """Build it, and load it once to see that it can be and what it consists of."""
    device = sdk.device()
    try:
        with device.current():
            built = engine.build(order, progress, timing)
            runtime, opened = engine.open_engine(built.plan, order.label)
            layers = engine.layers(opened)
            del opened, runtime
    except engine.PlanRefused as error:
        raise RuntimeFailed(str(error)) from error
    except device.cuda.Error as error:
        raise RuntimeFailed(f"the GPU failed while an engine for {order.label} was built: {error}") from error
    return built, layers


def _kept(order: Order, cache: EngineCache, built: Built, layers: tuple[Layer, ...]) -> Path | None:
    path = None
    try:
        path = cache.keep(order, built.plan, built.build_s, layers)
    except StateUnusable as error:
        _log.warning("%s", error)
    try:
        if path is not None and built.timing:
            cache.keep_timing(order, built.timing)
    except StateUnusable as error:
        _log.warning("the kernels' times are not kept, the next build takes them again: %s", error.__cause__)
    return path
