"""Precision: an fp32 graph rewritten for halves or for eight-bit integers, the types standing in the graph itself.

TensorRT builds engines strongly typed, so a lower precision is another graph. What must stay in fp32 is found by the
graph's shape and by the values that calibration patches send through it, never by names.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from model_export.emulation import halves_rounded
from model_export.errors import ExportError
from model_export.graph import (
    WEIGHTED,
    cast_node,
    constants_of,
    floats_of,
    following,
    leading_to,
    parse,
    rebuilt,
    recast,
)

# A half holds at most 65504; frames that calibration did not see get a factor of four.
_LARGEST = 65504.0 / 4
_SMALLEST_NORMAL = 2.0**-14
_PERCENTILE = 99.99
_BATCH = 4
_UNTYPED = ("Constant", "ConstantOfShape")  # they state their type themselves and are cast behind


@dataclass(frozen=True)
class Spread:
    """What patches made of one value of the graph: the largest |x|, and the median |x| of what is not zero."""

    largest: float
    median: float

    @property
    def fits_halves(self) -> bool:
        """Whether halves hold it: no overflow, and most of it not below the smallest normal half."""
        return self.largest <= _LARGEST and (self.median == 0 or self.median >= _SMALLEST_NORMAL)


@dataclass(frozen=True)
class Parts:
    """A graph's two parts, as indices of its nodes.

    `front` is what makes features of counts and has learned nothing; `weighted` are the convolutions and matrix
    products with learned weights. `halves_fit` tells whether halves hold all that the graph computes.
    """

    front: frozenset[int]
    weighted: tuple[int, ...]
    halves_fit: bool


def spreads(model: ModelProto, patches: NDArray[np.uint8]) -> dict[str, Spread]:
    """What calibration patches (N, P, P, 3) make of every fp32 value that a node computes, by name."""
    floats, outputs = floats_of(model), {value.name for value in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name in floats]
    probed = ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for values in _answers(probed.SerializeToString(), patches, names):
        for name, value in zip(names, values, strict=True):
            size = np.abs(value[value != 0])
            seen[name].append((float(size.max()), float(np.median(size))) if size.size else (0.0, 0.0))
    found = {name: np.array(parts) for name, parts in seen.items()}
    return {name: Spread(float(p[:, 0].max()), float(np.median(p[:, 1]))) for name, p in found.items()}


def parts_of(model: ModelProto, patches: NDArray[np.uint8]) -> Parts:
    """Find a graph's front end.

    A node whose values halves cannot hold belongs to the front end, and so does all that leads to it. The learned part
    begins at the first convolutions and matrix products with constant weights after these; the rest up to there is
    front end too.

    Raises:
        ExportError: There are no such weights.
    """
    nodes, constants = list(model.graph.node), constants_of(model)
    beyond = {name for name, spread in spreads(model, patches).items() if not spread.fits_halves}
    touched = {k for k, node in enumerate(nodes) if beyond.intersection([*node.input, *node.output])}
    held = leading_to(nodes, touched)
    weighted = [
        k
        for k, node in enumerate(nodes)
        if node.op_type in WEIGHTED and k not in held and len(constants.intersection(node.input[:2])) == 1
    ]
    if not weighted:
        raise ExportError("this graph has no convolution or matrix product with weights that could be made smaller")
    learned = following(nodes, set(weighted))
    return Parts(frozenset(range(len(nodes))) - learned, tuple(weighted), not touched)


def fp16(data: bytes, patches: NDArray[np.uint8], whole: bool | None = None) -> bytes:
    """The graph in halves: all of it, or from its learned part on.

    The front end stays in fp32 where halves cannot hold its values, and where rounding them moves the first output by
    more than twice what rounding the learned part alone does (mean over the patches).

    Args:
        data: The fp32 graph.
        patches: (N, P, P, 3) uint8, which decide.
        whole: True to put all of it into halves, False to spare the front end, whatever the patches say.

    Raises:
        ExportError: The graph has no learned part.
    """
    parts = parts_of(parse(data), patches)
    spared, throughout = (_to_halves(parse(data), kept) for kept in (parts.front, frozenset[int]()))
    if whole is None:
        some, all_of_it = (_moved(data, halves_rounded(graph), patches) for graph in (spared, throughout))
        whole = parts.halves_fit and all_of_it <= 2 * some
    return throughout if whole else spared


def int8(data: bytes, patches: NDArray[np.uint8]) -> bytes:
    """The graph with Q/DQ pairs before the learned convolutions and matrix products, all zero points zero.

    Weights are quantised channel by channel, activations up to what 99.99 % of their values over the patches
    (N, P, P, 3) do not exceed: up to the largest, steps are wider and answers lie farther off. Biases, what lies
    between, and the front end stay in fp32.

    Raises:
        ExportError: The graph has no learned part.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = parse(data)
    parts = parts_of(model, patches)
    add_pre_process_metadata(model)  # says that shapes are settled; without it every call advises to settle them
    with tempfile.TemporaryDirectory() as folder, _hushed():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            _Reader(model.graph.input[0].name, patches),
            op_types_to_quantize=list(WEIGHTED),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[model.graph.node[k].name for k in parts.weighted],
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={
                "CalibPercentile": _PERCENTILE,
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": list(WEIGHTED),
            },
        )
        made = onnx.load(path)
    return rebuilt(made, list(made.graph.node))


class _Reader:
    """Calibration patches one by one, as `quantize_static` asks for them: its histograms want equal batches."""

    def __init__(self, name: str, patches: NDArray[np.uint8]) -> None:
        self._patches = ({name: patch[None]} for patch in patches)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next patch, (1, P, P, 3), or None."""
        return next(self._patches, None)


def _to_halves(model: ModelProto, kept: frozenset[int]) -> bytes:
    """Every node in halves but the kept ones, to which no other leads; casts at the border and before outputs."""
    floats, weights = floats_of(model), {tensor.name: tensor for tensor in model.graph.initializer}
    halves: dict[str, str] = {}  # the name in halves of what is fp32
    made: list[str] = []
    out: list[NodeProto] = []

    def half(name: str) -> str:
        if name not in halves:
            halves[name] = f"{name}_fp16"
            if name in weights:
                rounded = numpy_helper.to_array(weights[name]).astype(np.float16)
                model.graph.initializer.append(numpy_helper.from_array(rounded, halves[name]))
            else:
                out.append(cast_node(name, halves[name], TensorProto.FLOAT16))
        return halves[name]

    for k, node in enumerate(model.graph.node):
        if k not in kept and node.op_type not in _UNTYPED:
            recast(node, TensorProto.FLOAT, TensorProto.FLOAT16)
            inputs = [half(name) if name in floats else name for name in node.input]
            made += [name for name in node.output if name in floats]
            halves |= {name: f"{name}_fp16" for name in node.output if name in floats}
            outputs = [halves.get(name, name) for name in node.output]
            del node.input[:], node.output[:]
            node.input.extend(inputs)
            node.output.extend(outputs)
        out.append(node)
    ends = [value.name for value in model.graph.output if value.name in made]
    return rebuilt(model, [*out, *(cast_node(halves[name], name, TensorProto.FLOAT) for name in ends)])


def _moved(data: bytes, other: bytes, patches: NDArray[np.uint8]) -> float:
    """The mean distance between the first outputs of two graphs over patches (N, P, P, 3); NaN where one has none."""
    one, two = (np.concatenate([values[0] for values in _answers(graph, patches)]) for graph in (data, other))
    return float(np.abs(one - two).mean())


def _answers(graph: bytes, patches: NDArray[np.uint8], names: list[str] | None = None) -> Iterator[list[NDArray[Any]]]:
    """What a graph makes of patches (N, P, P, 3), a few at a time: its outputs, or those with these names."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    counts = session.get_inputs()[0].name
    for k in range(0, len(patches), _BATCH):
        yield session.run(names, {counts: patches[k : k + _BATCH]})


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep what the quantiser prints and advises, by the root logger, out of a command's output."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
