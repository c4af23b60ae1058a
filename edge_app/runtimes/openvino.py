"""OpenVINO on the CPU, in fp32: the fastest runtime on x86, and on Arm where it is installed."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_app.bundle import ModelBundle

PIECE = 4


def missing() -> str:
    """What is not installed, or ""."""
    if importlib.util.find_spec("openvino") is None:
        return "the package openvino is not installed; pip install 'parfocal[openvino]'"
    return ""


class OpenVino:
    """One compiled model and as many single-threaded streams as there are threads, none waiting for another.

    Patches go through in pieces that fit a core's cache.
    """

    name = "openvino"
    note = ""

    def __init__(self, queue: Any, bundle: ModelBundle) -> None:
        self._queue = queue
        self._streams = len(queue)
        self._outputs = list(bundle.manifest.outputs)

    def infer(self, counts: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """(N, P, P, 3) uint8 to (N,) float32 by output name."""
        # The queue keeps the callback: one that knew `self` would keep the queue, where no garbage collector looks.
        names = self._outputs
        out = {name: np.empty(len(counts), np.float32) for name in names}

        def keep(request: Any, first: int) -> None:
            for i, name in enumerate(names):
                answer = request.get_output_tensor(i).data
                out[name][first : first + len(answer)] = answer

        self._queue.set_callback(keep)
        piece = max(1, min(PIECE, -(-len(counts) // self._streams)))
        for first in range(0, len(counts), piece):
            self._queue.start_async([counts[first : first + piece]], first, share_inputs=True)
        self._queue.wait_all()
        return out


def load(bundle: ModelBundle, threads: int) -> OpenVino:
    """Compile a bundle in fp32."""
    # Importing OpenVINO reports home over the network; a board talks to nobody unasked. Its own stub takes over.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    core = openvino.Core()
    model = core.read_model(bundle.onnx)
    streams = threads or os.cpu_count() or 1
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": streams, "NUM_STREAMS": streams}
    return OpenVino(openvino.AsyncInferQueue(core.compile_model(model, "CPU", settings), streams), bundle)
