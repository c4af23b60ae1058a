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
    `outputs` are the network's, by name; `wide` those that answer a patch with more than a number, with the shape of
    that. `also` are the inputs beside the patches, with the floats that each takes of a patch.
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
    also: tuple[tuple[str, int], ...] = ()
    wide: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What each input takes of a patch, the patch itself first."""
        return {self.input: (self.patch_px, self.patch_px, 3), **{name: (width,) for name, width in self.also}}

    @property
    def answers(self) -> dict[str, tuple[int, ...]]:
        """The shape of a patch's answer, by output."""
        return dict.fromkeys(self.outputs, ()) | dict(self.wide)

    @property
    def key(self) -> str:
        """SHA-256 over all that makes one engine differ from another; GPUs of one name may differ in size."""
        told = {**self.described(), "onnx": hashlib.sha256(self.onnx).hexdigest()}
        del told["label"], told["model"], told["steady"]
        for name in ("also", "wide"):  # engines from before there were such networks keep their keys
            if not told[name]:
                del told[name]
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
        also=tuple((each.name, each.width) for each in manifest.input.also),
        wide=tuple((name, shape) for name in manifest.outputs if (shape := bundle.golden_out[name].shape[1:])),
    )


def order_from(described: dict[str, Any], onnx: bytes) -> Order:
    """The order that was described."""
    known = {field.name for field in fields(Order)}
    values = {name: value for name, value in described.items() if name in known}
    also = tuple((name, width) for name, width in described["also"])
    wide = tuple((name, tuple(shape)) for name, shape in described["wide"])
    return Order(**{**values, "outputs": tuple(values["outputs"]), "onnx": onnx, "also": also, "wide": wide})
