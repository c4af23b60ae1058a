"""Runtime: whatever executes a bundle's ONNX; one file each in runtimes/, chosen by name or by what is here."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_app.bundle import ModelBundle
from edge_app.errors import RuntimeFailed
from firmware import plugins
from firmware.errors import UnknownPlugin

PACKAGE = "edge_app.runtimes"
PREFERENCE = ("tensorrt", "openvino", "onnxruntime")
_TOLERANCE = 0.02


class Runtime(Protocol):
    """A loaded network."""

    name: str

    def infer(self, counts: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """(N, P, P, 3) uint8 to each output by name, (N,) float32; N may change from call to call.

        Raises:
            RuntimeFailed: The runtime refused the batch.
        """
        ...


def available() -> dict[str, str]:
    """Every runtime in the folder, with "" if it can be used here or what is missing."""
    return {name: plugins.load(PACKAGE, name).missing() for name in plugins.names(PACKAGE)}


def open_runtime(bundle: ModelBundle, name: str = "", threads: int = 0) -> Runtime:
    """Load a bundle and hold its answers against the golden ones before it may serve.

    Args:
        bundle: The model.
        name: A runtime, or "" for the fastest that is installed.
        threads: 0 for as many as there are cores.

    Raises:
        RuntimeFailed: The runtime is missing, refuses the model, or answers differently from the golden outputs.
    """
    chosen = name or _preferred()
    try:
        module = plugins.load(PACKAGE, chosen)
    except UnknownPlugin as error:
        raise RuntimeFailed(str(error)) from error
    missing: str = module.missing()
    if missing:
        raise RuntimeFailed(f"the runtime {chosen!r} cannot be used here: {missing}")
    try:
        runtime: Runtime = module.load(bundle, threads)
        answers = runtime.infer(bundle.golden_in)
    except RuntimeFailed:
        raise
    except Exception as error:
        raise RuntimeFailed(f"{chosen} refused {bundle.manifest.label}: {error}") from error
    _compare(chosen, bundle, answers)
    return runtime


def _preferred() -> str:
    usable = {name for name, missing in available().items() if not missing}
    for name in (*PREFERENCE, *sorted(usable)):
        if name in usable:
            return name
    raise RuntimeFailed("no inference runtime is installed; pip install 'parfocal[openvino]' or onnxruntime")


def _compare(name: str, bundle: ModelBundle, answers: dict[str, NDArray[Any]]) -> None:
    for output, golden in bundle.golden_out.items():
        if output not in answers or answers[output].shape != golden.shape:
            raise RuntimeFailed(f"{name} does not give {output!r} of {bundle.manifest.label}")
        worst = float(np.abs(answers[output] - golden).max())
        if not worst <= _TOLERANCE:
            raise RuntimeFailed(
                f"{name} answers {bundle.manifest.label} wrongly: {output} is off by {worst:.3g} on the golden "
                "inputs; do not use it, and report this with `parfocal doctor`"
            )
