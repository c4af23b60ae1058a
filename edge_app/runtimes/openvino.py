"""OpenVINO on the CPU, in fp32: the fastest runtime on x86, and on Arm where it is installed."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_app.bundle import ModelBundle
from edge_app.feed import NOTHING, Beside, intake_of, rows_of

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
        self._intake = intake_of(bundle.manifest)
        self._none = {name: bundle.golden_out[name][:0] for name in bundle.manifest.outputs}

    def infer(self, counts: NDArray[np.uint8], also: Beside = NOTHING) -> dict[str, NDArray[np.float32]]:
        """As `Runtime.infer`."""
        feed = self._intake.feed(counts, also)
        # The queue keeps the callback: one that knew `self` would keep the queue, where no garbage collector looks.
        # Nor may it raise: OpenVINO would end the process. So shapes are looked at afterwards, by `concatenate`.
        outputs, answers = range(len(self._none)), dict[int, list[NDArray[np.float32]]]()

        def keep(request: Any, first: int) -> None:
            answers[first] = [request.get_output_tensor(i).data.copy() for i in outputs]

        self._queue.set_callback(keep)
        piece = max(1, min(PIECE, -(-len(counts) // self._streams)))
        for first in range(0, len(counts), piece):
            self._queue.start_async(rows_of(feed, slice(first, first + piece)), first, share_inputs=True)
        self._queue.wait_all()
        parts = [answers[first] for first in sorted(answers)]
        return {
            name: np.concatenate([none, *(p[i] for p in parts)]) for i, (name, none) in enumerate(self._none.items())
        }


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
