"""Making an engine: found among those that are kept, or built and kept."""

from __future__ import annotations

import logging

from edge_app.errors import RuntimeFailed, StateUnusable
from edge_app.nvidia import engine, sdk
from edge_app.nvidia.cache import EngineCache, KeptEngine
from edge_app.nvidia.order import Order
from edge_app.nvidia.progress import Progress

_log = logging.getLogger(__name__)


def make(order: Order, cache: EngineCache, progress: Progress) -> KeptEngine:
    """The engine of an order; where it cannot be kept it is given all the same, with a line in the log.

    Raises:
        RuntimeFailed: It cannot be built, or `progress` ended it.
    """
    with cache.locked(order):
        found = cache.find(order)
        if found is not None:
            return found
        device = sdk.device()
        try:
            with device.current():
                built = engine.build(order, progress, cache.timing())
                _, opened = engine.open_engine(built.plan, order.label)
                layers = engine.layers(opened)
                del opened, _
        except engine.PlanRefused as error:
            raise RuntimeFailed(str(error)) from error
        except device.cuda.Error as error:
            raise RuntimeFailed(f"the GPU failed while an engine for {order.label} was built: {error}") from error
        try:
            path = cache.keep(order, built.plan, built.build_s, layers)
            cache.keep_timing(built.timing)
        except StateUnusable as error:
            _log.warning("%s", error)
            return KeptEngine(built.plan, built.build_s, layers, None)
        return KeptEngine(built.plan, built.build_s, layers, path)
