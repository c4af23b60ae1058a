"""Context: a state in which an engine computes; several use one memory, as long as they take turns."""

from __future__ import annotations

from typing import Any

from edge_app.errors import RuntimeFailed
from edge_app.nvidia import sdk
from edge_app.nvidia.order import Order


class Context:
    """An execution context of an engine's.

    Args:
        engine: TensorRT's.
        order: What it was built for.
        memory: The address of memory for what lies between layers; no other context uses it at the same time.
        size_bytes: How much there is; at least the engine's `device_memory_size_v2`.

    Raises:
        RuntimeFailed: TensorRT gives none.
    """

    def __init__(self, engine: Any, order: Order, memory: int, size_bytes: int) -> None:
        trt = sdk.tensorrt()
        self._order = order
        self._count = 0
        self._context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if self._context is None:
            raise RuntimeFailed(self._refused("give a context"))
        # The level that the engine was built with is for those who look into it, not for those who serve by it.
        self._context.nvtx_verbosity = trt.ProfilingVerbosity.NONE
        self._context.set_device_memory(memory, size_bytes)

    def compute(self, stream: int, count: int, addresses: dict[str, int]) -> None:
        """Put so many patches on a stream; `addresses` are those of all inputs and outputs.

        Raises:
            RuntimeFailed: TensorRT refuses.
        """
        # A shape that is set again counts as new, and what follows a new one cannot be recorded.
        if count != self._count:
            for name, shape in self._order.shapes.items():
                if not self._context.set_input_shape(name, (count, *shape)):
                    raise RuntimeFailed(self._refused(f"take a batch of {count}"))
            self._count = count
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise RuntimeFailed(self._refused(f"take the memory for {name}"))
        if not self._context.execute_async_v3(stream):
            raise RuntimeFailed(self._refused("compute"))

    def _refused(self, what: str) -> str:
        why = sdk.logger().last_error or "it gave no reason"
        return f"TensorRT refused to {what} for {self._order.label}: {why}"
