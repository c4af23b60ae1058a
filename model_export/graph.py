"""Graph: the nodes of an ONNX graph, what depends on what and which types it holds; rebuilt and checked."""

from __future__ import annotations

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, shape_inference

from model_export.export import cast_first

WEIGHTED = ("Conv", "Gemm", "MatMul")
"""What multiplies by weights."""


def parse(data: bytes) -> ModelProto:
    """A graph from bytes, its counts cast before anything else, and every node with a name."""
    model = onnx.load_from_string(data)
    cast_first(model)
    for k, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{k}"
    return model


def rebuilt(model: ModelProto, nodes: list[NodeProto]) -> bytes:
    """The graph with these nodes instead of its own: checked, and without constants that nothing reads."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:], copy.graph.initializer[:], copy.graph.value_info[:], copy.metadata_props[:]
    copy.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    copy.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    onnx.checker.check_model(copy, full_check=True)
    return copy.SerializeToString()


def cast_node(name: str, made: str, to: int) -> NodeProto:
    """A Cast of one value into another name and type."""
    return helper.make_node("Cast", [name], [made], name=f"cast_{name}_to_{made}", to=to)


def recast(node: NodeProto, was: int, to: int) -> None:
    """Let a Cast into one type become a Cast into another; other nodes stay."""
    for attribute in node.attribute:
        if (node.op_type, attribute.name, attribute.i) == ("Cast", "to", was):
            attribute.i = to


def types_of(model: ModelProto) -> dict[str, int]:
    """The element type of every value, by name."""
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def floats_of(model: ModelProto) -> set[str]:
    """The values that are fp32."""
    return {name for name, kind in types_of(model).items() if kind == TensorProto.FLOAT}


def constants_of(model: ModelProto) -> set[str]:
    """The values that no input decides."""
    known = {tensor.name for tensor in model.graph.initializer} | {""}
    for node in model.graph.node:
        if known.issuperset(node.input):
            known.update(node.output)
    return known


def leading_to(nodes: list[NodeProto], ends: set[int]) -> set[int]:
    """These nodes, by index, and all that lead to them."""
    found: set[int] = set()
    wanted: set[str] = set()
    for k in range(len(nodes) - 1, -1, -1):
        if k in ends or wanted.intersection(nodes[k].output):
            found.add(k)
            wanted.update(nodes[k].input)
    return found


def following(nodes: list[NodeProto], starts: set[int]) -> set[int]:
    """These nodes, by index, and all that follow from them."""
    found: set[int] = set()
    made: set[str] = set()
    for k, node in enumerate(nodes):
        if k in starts or made.intersection(node.input):
            found.add(k)
            made.update(node.output)
    return found
