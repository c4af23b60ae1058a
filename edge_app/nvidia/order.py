"""Order: the engine that a bundle wants on this machine, and the key that it is kept under."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from edge_app.bundle import ModelBundle
from edge_app.nvidia.driver import Gpu

RECIPE = 1
"""Raised when `engine.py` builds otherwise than before, so that engines are built anew."""

MOST = 88
USUAL = 48


@dataclass(frozen=True)
class Order:
    """What goes into an engine.

    `usual` is the batch that it is tuned for, and `steady` whether a frame gives that many rather than any number;
    `outputs` are the network's, by name.
    """

    model: str
    label: str
    onnx: bytes
    input: str
    patch_px: int
    outputs: tuple[str, ...]
    usual: int
    precision: str
    tensorrt: str
    gpu: str
    architecture: str
    multiprocessors: int
    steady: bool = True
    recipe: int = RECIPE

    @property
    def key(self) -> str:
        """SHA-256 over all that makes one engine differ from another; GPUs of one name may differ in size."""
        told = {**self.described(), "onnx": hashlib.sha256(self.onnx).hexdigest()}
        del told["label"], told["model"], told["steady"]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def described(self) -> dict[str, Any]:
        """All but the network itself, as plain values."""
        return {name: value for name, value in asdict(self).items() if name != "onnx"}


def order_for(bundle: ModelBundle, gpu: Gpu, tensorrt: str) -> Order:
    """The engine for a bundle on this GPU with this TensorRT."""
    manifest = bundle.manifest
    return Order(
        model=manifest.name,
        label=manifest.label,
        onnx=bundle.onnx,
        input=manifest.input.name,
        patch_px=manifest.input.patch_px,
        outputs=tuple(manifest.outputs),
        usual=min(manifest.input.patches_at_most or USUAL, MOST),
        precision=manifest.precision,
        tensorrt=tensorrt,
        gpu=gpu.name,
        architecture=gpu.architecture,
        multiprocessors=gpu.multiprocessors,
        steady=manifest.input.patches_at_most > 0,
    )


def order_from(described: dict[str, Any], onnx: bytes) -> Order:
    """The order that was described."""
    known = {field.name for field in fields(Order)}
    values = {name: value for name, value in described.items() if name in known}
    return Order(**{**values, "outputs": tuple(values["outputs"]), "onnx": onnx})
