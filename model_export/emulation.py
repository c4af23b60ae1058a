"""Emulation: what a device's arithmetic makes of a graph, written out as an fp32 graph that any CPU runs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from model_export.graph import WEIGHTED, cast_node, parse, rebuilt, recast, types_of

_SPLIT = np.array(2.0**13 + 1, np.float32)


def halves_rounded(data: bytes) -> bytes:
    """An fp16 graph as fp32 with the rounding to halves written out behind every node.

    ONNX Runtime has few kernels for halves on a CPU: it computes such nodes in fp32, drops the casts that it put
    between them, and with them the rounding, overflow included. It keeps casts that stand in the graph. Sums inside a
    node are fp32 here; a device may sum in halves.
    """
    model = onnx.load_from_string(data)
    halves = {name for name, kind in types_of(model).items() if kind == TensorProto.FLOAT16}
    for tensor in model.graph.initializer:
        if tensor.name in halves:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    out: list[NodeProto] = []
    for node in model.graph.node:
        recast(node, TensorProto.FLOAT16, TensorProto.FLOAT)
        out.append(node)
        for slot, name in enumerate(node.output):
            if name in halves:
                node.output[slot], half = f"{name}_exact", f"{name}_half"
                out.append(cast_node(f"{name}_exact", half, TensorProto.FLOAT16))
                out.append(cast_node(half, name, TensorProto.FLOAT))
    return rebuilt(model, out)


def tf32(data: bytes) -> bytes:
    """An fp32 graph with both operands of every convolution and matrix product rounded to TF32's 10 bits of mantissa.

    Tensor cores do so unless they are told not to; those that cut the bits off instead of rounding do worse. Sums stay
    in fp32. Rounding is Veltkamp's splitting (Dekker, Numerische Mathematik 18, 1971): c = (2^13 + 1) x, c - (c - x).
    """
    model = parse(data)
    model.graph.initializer.append(numpy_helper.from_array(_SPLIT, "tf32_split"))
    rounded: dict[str, str] = {}
    out: list[NodeProto] = []
    for node in model.graph.node:
        for slot, name in enumerate(node.input[:2]) if node.op_type in WEIGHTED else ():
            if name not in rounded:
                wide, rest, rounded[name] = (f"{name}_tf32_{step}" for step in ("wide", "rest", "rounded"))
                out += [
                    helper.make_node("Mul", [name, "tf32_split"], [wide]),
                    helper.make_node("Sub", [wide, name], [rest]),
                    helper.make_node("Sub", [wide, rest], [rounded[name]]),
                ]
            node.input[slot] = rounded[name]
        out.append(node)
    return rebuilt(model, out)
