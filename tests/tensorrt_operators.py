"""What TensorRT's ONNX parser documents: operators, element types, restrictions; and what a graph has beyond that.

Sources: the support matrix docs/operators.md of https://github.com/onnx/onnx-tensorrt for TensorRT 8.5 (commit
6d0ab7be324d02c7feb3a306b6fdbeae84f71ddc) and for TensorRT 10.15, and docs/Changelog.md there. The matrix of 10.3, the
oldest release that we use, was not at hand: an operator and its types stand here where both name them, and
restrictions where either has them (8.5 writes INT32 for both widths; INT64 has its own type since 9.0).
LayerNormalization was added in 8.6, UINT8 inputs and outputs in 8.5. The parser of 9.0 to 10.5 was built with ONNX
1.14, whose opset is 19.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

OPSETS = range(9, 20)

_FLOAT = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})
_INTEGER = frozenset({TensorProto.INT32, TensorProto.INT64})
_BOOL = frozenset({TensorProto.BOOL})
_NUMBERS = _FLOAT | _INTEGER
_ANY = _NUMBERS | _BOOL
TYPES = {
    **dict.fromkeys(("Abs", "Add", "Div", "Max", "Min", "Mul", "Neg", "Pad", "Sub"), _NUMBERS),
    **dict.fromkeys(("AveragePool", "BatchNormalization", "Clip", "Conv", "ConstantOfShape", "Erf", "Exp"), _FLOAT),
    **dict.fromkeys(("Gemm", "GlobalAveragePool", "HardSigmoid", "LayerNormalization", "LeakyRelu", "Log"), _FLOAT),
    **dict.fromkeys(("MatMul", "MaxPool", "Pow", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceSum"), _FLOAT),
    **dict.fromkeys(("Relu", "Resize", "Sigmoid", "Softmax", "Sqrt", "Tanh"), _FLOAT),
    **dict.fromkeys(("Concat", "Constant", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Shape"), _ANY),
    **dict.fromkeys(("Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where"), _ANY),
    "Cast": _ANY | {TensorProto.UINT8},
    "QuantizeLinear": _FLOAT | {TensorProto.INT8},
    "DequantizeLinear": _FLOAT | {TensorProto.INT8},
}
"""By operator: the types that its inputs and outputs may have."""

# Inputs that must be known when the engine is built, by index. The matrix says so of Reduce*, Squeeze and Unsqueeze,
# and 8.5's of the axes of Slice; the rest of what Slice and Split are told is known in our graphs too, and stays so.
_CONSTANT = {
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceSum", "Split", "Squeeze", "Unsqueeze"), (1,)),
    "Slice": (1, 2, 3, 4),
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
}
_POOLS = ("AveragePool", "MaxPool")
_FIRST_OUTPUT_ONLY = ("MaxPool", "LayerNormalization")


def beyond(data: bytes) -> list[str]:
    """A sentence for each thing in a graph that TensorRT's ONNX parser does not document; none if it is all there."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(data), strict_mode=True)
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    types = {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.value_info, *graph.output]}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    found = [f"opset {o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import if not _known(o)]
    for node in graph.node:
        where = f"{node.op_type} {node.name or node.output[0]}"
        found += [f"{where}: {what}" for what in _of_node(node, constants, types)]
    return found + list(_of_bytes(graph, types))


def _known(opset: onnx.OperatorSetIdProto) -> bool:
    return opset.domain in {"", "ai.onnx"} and opset.version in OPSETS


def _of_node(node: onnx.NodeProto, constants: dict[str, np.ndarray], types: dict[str, int]) -> Iterator[str]:
    allowed = TYPES.get(node.op_type)
    if allowed is None or node.domain not in {"", "ai.onnx"}:
        yield "the operator is not documented"
        return
    for name in filter(None, [*node.input, *node.output]):
        if name not in types:
            yield f"the type of {name} is not known"
        elif types[name] not in allowed | _beside(node, name):
            yield f"{name} is {TensorProto.DataType.Name(types[name])}"
    for index in _CONSTANT.get(node.op_type, ()):
        if len(node.input) > index and node.input[index] and node.input[index] not in constants:
            yield f"input {index}, {node.input[index]}, is not a constant"
    if node.op_type in _POOLS:
        yield from _of_pool(node)
    if node.op_type in _FIRST_OUTPUT_ONLY and len([name for name in node.output if name]) > 1:
        yield "only its first output is supported"
    if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
        yield from _of_scale(node, constants)


def _beside(node: onnx.NodeProto, name: str) -> frozenset[int]:
    """Types of inputs that hold places, sizes or conditions, and no values."""
    where = list(node.input).index(name) if name in node.input else -1
    if node.op_type == "Where" and where == 0:
        return _BOOL
    return _INTEGER if where > 0 or node.op_type in {"Shape", "ConstantOfShape"} else frozenset()


def _of_pool(node: onnx.NodeProto) -> Iterator[str]:
    attributes = {a.name: list(a.ints) for a in node.attribute if a.ints}
    if len(attributes.get("kernel_shape", [])) not in {2, 3}:
        yield "pooling is 2D or 3D only"
    if any(step != 1 for step in attributes.get("dilations", [])):
        yield "dilations must be ones"


def _of_scale(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> Iterator[str]:
    """Scales above zero are IQuantizeLayer's rule, zero points of zero the matrix's."""
    if not (constants.get(node.input[1], np.zeros(1)) > 0).all():
        yield "its scale is not above zero"
    if len(node.input) > 2 and node.input[2] and np.any(constants.get(node.input[2], np.ones(1))):
        yield "its zero point is not zero"


def _of_bytes(graph: onnx.GraphProto, types: dict[str, int]) -> Iterator[str]:
    """UINT8 is for inputs and outputs of the network only, INT8 for what QuantizeLinear gives."""
    ends = {value.name for value in [*graph.input, *graph.output]}
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for name in node.output:
            if types.get(name) == TensorProto.UINT8 and name not in ends:
                yield f"{node.op_type} {name}: UINT8 is for the network's inputs and outputs only"
            if types.get(name) == TensorProto.INT8 and node.op_type != "QuantizeLinear":
                yield f"{node.op_type} {name}: INT8 comes from QuantizeLinear only"
        for name in node.input:
            if types.get(name) == TensorProto.UINT8 and not (node.op_type == "Cast" and _to_float(node)):
                yield f"{node.op_type} {name}: UINT8 must be cast to floats first"
    yield from (f"{name}: a constant of UINT8" for name in constants if types[name] == TensorProto.UINT8)


def _to_float(node: onnx.NodeProto) -> bool:
    return any(a.name == "to" and a.i in _FLOAT for a in node.attribute)
