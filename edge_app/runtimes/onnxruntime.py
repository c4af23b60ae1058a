"""ONNX Runtime on the CPU: runs everywhere, the reference for the others."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_app.bundle import ModelBundle
from edge_app.feed import NOTHING, Beside, intake_of, rows_of

BATCH = 16


def missing() -> str:
    """What is not installed, or ""."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "the package onnxruntime is not installed; pip install onnxruntime"
    return ""


class OnnxRuntime:
    """One session with its own thread pool; large batches go through in pieces that fit the cache."""

    name = "onnxruntime"
    note = ""

    def __init__(self, session: Any, bundle: ModelBundle) -> None:
        self._session = session
        self._intake = intake_of(bundle.manifest)
        self._outputs = list(bundle.manifest.outputs)

    def infer(self, counts: NDArray[np.uint8], also: Beside = NOTHING) -> dict[str, NDArray[np.float32]]:
        """As `Runtime.infer`."""
        feed = self._intake.feed(counts, also)
        parts = [
            self._session.run(self._outputs, rows_of(feed, slice(k, k + BATCH))) for k in range(0, len(counts), BATCH)
        ]
        return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(self._outputs)}


def load(bundle: ModelBundle, threads: int) -> OnnxRuntime:
    """Load a bundle in fp32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(bundle.onnx, options, providers=["CPUExecutionProvider"])
    return OnnxRuntime(session, bundle)
