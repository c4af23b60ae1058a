"""OpenVINO on the CPU, in fp32: the fastest runtime on x86, and on Arm where it is installed."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_app.bundle import ModelBundle

BATCH = 8


def missing() -> str:
    """What is not installed, or ""."""
    if importlib.util.find_spec("openvino") is None:
        return "the package openvino is not installed; pip install 'parfocal[openvino]'"
    return ""


class OpenVino:
    """One compiled model; patches go through in pieces of 8, which fit the cache, plus one odd rest."""

    name = "openvino"

    def __init__(self, compiled: Any, bundle: ModelBundle) -> None:
        self._request = compiled.create_infer_request()
        self._outputs = list(bundle.manifest.outputs)

    def infer(self, counts: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """(N, P, P, 3) uint8 to (N,) float32 by output name."""
        out = {name: np.empty(len(counts), np.float32) for name in self._outputs}
        for k in range(0, len(counts), BATCH):
            piece = counts[k : k + BATCH]
            result = self._request.infer([piece], share_inputs=True, share_outputs=True)
            for i, name in enumerate(self._outputs):
                out[name][k : k + len(piece)] = result[i]
        return out


def load(bundle: ModelBundle, threads: int) -> OpenVino:
    """Compile a bundle in fp32."""
    import openvino

    core = openvino.Core()
    model = core.read_model(bundle.onnx)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads or os.cpu_count() or 1,
        "NUM_STREAMS": 1,
    }
    return OpenVino(core.compile_model(model, "CPU", settings), bundle)
