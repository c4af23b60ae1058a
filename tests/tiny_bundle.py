"""A whole bundle of a few kilobytes, for tests of what happens to bundles rather than of what they say."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from oracle import manifest

from edge_app.bundle import Input, golden_bytes, pack

NAME, SIDE = "tiny", 8


def tiny(version: str = "1.0.0", golden_um: float = 0.0, **passport: Any) -> bytes:
    """A bundle that holds every patch to be in focus; no two versions have the same bytes.

    Args:
        version: Its version.
        golden_um: What its golden outputs say that it answers; but for 0 no runtime will confirm it.
        passport: Other values of its passport.
    """
    plain = manifest()
    page = plain.model_copy(
        update={
            "name": NAME,
            "version": version,
            "input": Input(name="counts", patch_px=SIDE),
            "passport": plain.passport.model_copy(update=passport),
        }
    )
    counts = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    outputs = {name: np.zeros(2, np.float32) for name in page.outputs}
    outputs["defocus_um"] += np.float32(golden_um)
    return pack(page, _graph(page.outputs), golden_bytes(counts, outputs))


def flipped(graph: bytes, output: str = "defocus_um") -> bytes:
    """A graph whose one output has its sign turned: it focuses the wrong way, and does so reproducibly."""
    model = onnx.load(io.BytesIO(graph))
    inner = f"{output}_before"
    for node in model.graph.node:
        node.output[:] = [inner if name == output else name for name in node.output]
        node.input[:] = [inner if name == output else name for name in node.input]
    model.graph.node.append(helper.make_node("Neg", [inner], [output]))
    data: bytes = model.SerializeToString()
    return data


def _graph(outputs: tuple[str, ...]) -> bytes:
    nodes = [
        helper.make_node("Cast", ["counts"], ["light"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["light", "none"], ["dark"]),
        *(helper.make_node("ReduceMean", ["dark", "whole"], [name], keepdims=0) for name in outputs),
    ]
    constants: dict[str, NDArray[Any]] = {"whole": np.array([1, 2, 3], np.int64), "none": np.array(0, np.float32)}
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("counts", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data: bytes = made.SerializeToString()
    return data
