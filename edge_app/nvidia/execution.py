"""Execution: an engine at work: its buffers, its two streams, and the order in which patches go through them.

A batch goes through in pieces. Each is copied into page-locked memory and uploaded on one stream, and computed on the
other once an event says that it has arrived, so that a piece is uploaded while the one before it is computed.
"""

from __future__ import annotations

import logging
import math
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from numpy.typing import NDArray

from edge_app.errors import RuntimeFailed
from edge_app.feed import NOTHING, Beside, Feed, Intake, rows_of
from edge_app.nvidia import engine as engines
from edge_app.nvidia import graph as graphs
from edge_app.nvidia import sdk
from edge_app.nvidia.context import Context
from edge_app.nvidia.layout import PIECE, Layout, Piece, equal_pieces, pieces
from edge_app.nvidia.order import MOST, Order
from edge_app.nvidia.pinned import AnswerPool

_CLOSE_S = 5.0
_FLOAT_BYTES = 4
_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING; pycuda has no name for it. While another kind records, the legacy stream refuses work."""

_opening = threading.Lock()
"""Engines are loaded and recorded one after the other: what loading asks of the driver may break a recording."""

_log = logging.getLogger(__name__)


class Execution:
    """An engine with all that it needs, on the GPU and beside it; call it from any thread, one at a time.

    Args:
        plan: A serialised engine.
        order: What it was built for.

    Raises:
        PlanRefused: The engine cannot be loaded.
        RuntimeFailed: It is for another network, or memory is short.
    """

    def __init__(self, plan: bytes, order: Order) -> None:
        self.device = sdk.device()
        self._order = order
        self._lock = threading.Lock()
        self._broken = ""
        self._closed = False
        self._intake = Intake(order.label, order.input, order.also)
        # The patch is bytes, all else floats.
        inputs = (math.prod(order.shapes[order.input]), *(_FLOAT_BYTES * width for _, width in order.also))
        self._layout = Layout(inputs, tuple(_FLOAT_BYTES * math.prod(tail) for tail in order.answers.values()))
        self._graph: graphs.Graph | None = None
        self._fixed: Context | None = None
        with _opening, self._faults():
            try:
                self._open(plan)
                self._record()
            except BaseException:
                self._free()
                raise

    def infer(self, counts: NDArray[np.uint8], also: Beside = NOTHING) -> dict[str, NDArray[np.float32]]:
        """As `Runtime.infer`; the arrays stay as they are while they are held.

        Raises:
            RuntimeFailed: The batch is not of this shape, or the GPU or TensorRT failed.
        """
        side = self._order.patch_px
        if counts.ndim != 4 or counts.shape[1:] != (side, side, 3) or counts.dtype != np.uint8:
            want = f"(N, {side}, {side}, 3) uint8"
            raise RuntimeFailed(f"{self._order.label} takes {want}, and was given {counts.shape} {counts.dtype}")
        feed = self._intake.feed(counts, also)
        if len(counts) == 0:
            return {name: np.empty((0, *tail), np.float32) for name, tail in self._order.answers.items()}
        with self._lock, self._faults():
            answers = self._answers.take(len(counts))
            for first in range(0, len(counts), MOST):
                rows = slice(first, first + MOST)
                self._run(rows_of(feed, rows), [answer[rows] for answer in answers])
        return dict(zip(self._order.outputs, answers, strict=True))

    def close(self) -> None:
        """Free all of it; once. Answers that somebody holds stay."""
        if not self._lock.acquire(timeout=_CLOSE_S):
            _log.warning("the engine of %s is still computing; its memory is left to the system", self._order.label)
            return
        try:
            if not self._closed:
                self._closed = True
                with self.device.current():
                    self._free()
        finally:
            self._lock.release()

    def _open(self, plan: bytes) -> None:
        cuda, layout = self.device.cuda, self._layout
        self._runtime, self._engine = engines.open_engine(plan, self._order.label)
        self._check_tensors()
        self._memory_bytes = max(1, int(self._engine.device_memory_size_v2))
        self._memory = cuda.mem_alloc(self._memory_bytes)
        self._context = self._new_context()
        self._upload, self._compute = cuda.Stream(_NON_BLOCKING), cuda.Stream(_NON_BLOCKING)
        self._began, self._arrived = (cuda.Event(cuda.event_flags.DISABLE_TIMING) for _ in range(2))
        self._input = cuda.mem_alloc(layout.input_bytes)
        self._output = cuda.mem_alloc(layout.output_bytes)
        self._hosts: Feed = {}
        for name, shape in self._order.shapes.items():
            kind = np.uint8 if name == self._order.input else np.float32
            self._hosts[name] = cuda.pagelocked_empty((MOST, *shape), kind)
        self._answers = AnswerPool(self.device, self._order.answers.values(), MOST)

    def _new_context(self) -> Context:
        return Context(self._engine, self._order, int(self._memory), self._memory_bytes)

    def _check_tensors(self) -> None:
        """The engine's inputs and outputs are the bundle's, by name and type; their order may be another."""
        trt, engine, order = sdk.tensorrt(), self._engine, self._order
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {(name, engine.get_tensor_mode(name), engine.get_tensor_dtype(name)) for name in names}
        wanted = {(order.input, trt.TensorIOMode.INPUT, trt.DataType.UINT8)}
        wanted |= {(name, trt.TensorIOMode.INPUT, trt.DataType.FLOAT) for name, _ in order.also}
        wanted |= {(name, trt.TensorIOMode.OUTPUT, trt.DataType.FLOAT) for name in order.outputs}
        if found != wanted:
            odd = ", ".join(sorted(f"{name} ({dtype})" for name, _, dtype in found ^ wanted))
            raise RuntimeFailed(f"the engine of {order.label} is for another network: {odd}; build it anew")
        # A longer answer would be written over the next one's memory.
        for name, tail in order.answers.items():
            shape = tuple(engine.get_tensor_shape(name))
            if shape[1:] != tail:
                what = f"{name} is {shape}, and the golden answers are {(-1, *tail)}"
                raise RuntimeFailed(f"the engine of {order.label} is for another network: {what}; build it anew")

    def _run(self, feed: Feed, answers: list[NDArray[np.float32]]) -> None:
        """At most MOST patches, from host memory to host memory; waits until they are there."""
        try:
            count = len(feed[self._order.input])
            if self._graph is not None and count == self._order.usual:
                run = equal_pieces(count)
                for name, host in self._hosts.items():
                    host[:count] = feed[name]
                self._graph.launch(self._compute.handle)
            else:
                run = pieces(count, PIECE)
                self._enqueue(self._context, run, feed)
            self._download(run, answers)
        except BaseException:
            # Copies that are under way still use the page-locked memory that the next run will fill.
            with suppress(self.device.cuda.Error):
                self._upload.synchronize()
                self._compute.synchronize()
            raise
        self._compute.synchronize()

    def _enqueue(self, context: Context, run: list[Piece], feed: Feed | None) -> None:
        """Upload and compute piece by piece; None where the inputs are in page-locked memory already."""
        for piece in run:
            addresses: dict[str, int] = {}
            for index, (name, host) in enumerate(self._hosts.items()):
                here = host[piece.first : piece.end]
                if feed is not None:
                    here[:] = feed[name][piece.first : piece.end]
                addresses[name] = int(self._input) + self._layout.input_at(index, piece)
                self.device.cuda.memcpy_htod_async(addresses[name], here, self._upload)
            # A wait is for the event as it was recorded last, so that one event does for all pieces.
            self._compute.wait_for_event(self._arrived.record(self._upload))
            addresses |= {name: self._answer_at(index, piece) for index, name in enumerate(self._order.outputs)}
            context.compute(self._compute.handle, piece.size, addresses)

    def _download(self, run: list[Piece], answers: list[NDArray[np.float32]]) -> None:
        for piece in run:
            for index, answer in enumerate(answers):
                here = answer[piece.first : piece.end]
                self.device.cuda.memcpy_dtoh_async(here, self._answer_at(index, piece), self._compute)

    def _answer_at(self, index: int, piece: Piece) -> int:
        return int(self._output) + self._layout.output_at(index, piece)

    def _record(self) -> None:
        """Record the usual batch as a graph, on a context whose shape never changes; without one it goes on too."""
        if not self._order.steady:
            return
        run = equal_pieces(self._order.usual)
        fixed = self._fixed = self._new_context()

        def fork_and_enqueue() -> None:
            self._upload.wait_for_event(self._began.record(self._compute))
            self._enqueue(fixed, run, None)

        for host in self._hosts.values():
            host[:] = 0
        # The first call after a change of shape does what cannot be recorded.
        self._enqueue(fixed, run, None)
        self._compute.synchronize()
        try:
            self._graph = graphs.record(self._compute.handle, fork_and_enqueue)
        except (graphs.GraphError, RuntimeFailed, self.device.cuda.Error) as error:
            self._fixed = None
            _log.warning("no CUDA graph for %s, goes on without: %s", self._order.label, str(error))

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Make the context current, and turn what the SDKs raise into a sentence."""
        if self._closed:
            raise RuntimeFailed(f"the engine of {self._order.label} is closed")
        if self._broken:
            raise RuntimeFailed(self._broken)
        error_type = self.device.cuda.Error
        try:
            with self.device.current():
                sdk.logger().forget()
                try:
                    yield
                except BaseException as error:
                    _forget_frames(error)
                    if isinstance(error, (error_type, graphs.GraphError)):
                        raise RuntimeFailed(self._explained(error)) from error
                    raise
        except error_type as error:
            self._broken = f"the GPU's context cannot be used any more ({error}): restart the service"
            raise RuntimeFailed(self._broken) from error

    def _explained(self, error: Exception) -> str:
        what = f"the GPU failed on {self._order.label}: {error}"
        try:
            self.device.cuda.Context.synchronize()
        except self.device.cuda.Error:
            self._broken = f"{what}; the GPU's context cannot be used any more: restart the service"
            return self._broken
        return what

    def _free(self) -> None:
        """Free what there is, what uses first; the context is current."""
        graph, self._graph = self._graph, None
        if graph is not None:
            with suppress(graphs.GraphError):
                graph.close()
        for name in ("_fixed", "_context", "_engine", "_runtime", "_arrived", "_began", "_upload", "_compute"):
            self.__dict__.pop(name, None)
        owned = [self.__dict__.pop(name, None) for name in ("_input", "_output", "_memory")]
        owned += [host.base for host in self.__dict__.pop("_hosts", {}).values()]
        answers = self.__dict__.pop("_answers", None)
        frees = [memory.free for memory in owned if memory is not None]
        for free in [*frees, *([] if answers is None else [answers.close])]:
            with suppress(self.device.cuda.Error):
                free()


def _forget_frames(error: BaseException | None) -> None:
    """Drop the variables that a traceback keeps: streams, events and engines must go while the context is current."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
