"""A network of two inputs and a wide answer, small enough to know by heart, as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_app.bundle import FACTORY, Also, Input, ModelBundle, golden_bytes, pack, read

SIDE, FEATURES, CLASSES = 8, 18, 7
WEIGHTS = np.random.default_rng(5).normal(0, 0.3, (FEATURES, CLASSES)).astype(np.float32)
Arrays = dict[str, NDArray[np.float32]]


def asked(count: int, seed: int = 1) -> tuple[NDArray[np.uint8], Arrays]:
    """Patches of which no two have one mean, and features of which no two rows are alike."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 60, (count, SIDE, SIDE, 3)) + rng.permutation(count)[:, None, None, None] % 190
    return counts.astype(np.uint8), {"handcrafted": rng.normal(0, 1, (count, FEATURES)).astype(np.float32)}


def truth(counts: NDArray[np.uint8], also: Arrays) -> Arrays:
    """What the network answers: its logits (N, 7), and their sum (N,)."""
    mean = counts.reshape(len(counts), -1).mean(axis=1, dtype=np.float64) / 100
    logits = mean[:, None] + also["handcrafted"].astype(np.float64) @ WEIGHTS
    return {"logits": logits.astype(np.float32), "total": logits.sum(axis=1).astype(np.float32)}


def graph() -> bytes:
    """The mean of a patch in hundreds, and a matrix product of its features beside it."""
    nodes = [
        helper.make_node("Cast", ["counts"], ["light"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["light", "whole"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "hundred"], ["level"]),
        helper.make_node("Unsqueeze", ["level", "columns"], ["column"]),
        helper.make_node("MatMul", ["handcrafted", "weights"], ["product"]),
        helper.make_node("Add", ["column", "product"], ["logits"]),
        helper.make_node("ReduceSum", ["logits", "columns"], ["total"], keepdims=0),
    ]
    constants: dict[str, NDArray[Any]] = {
        "whole": np.array([1, 2, 3], np.int64),
        "columns": np.array([1], np.int64),
        "hundred": np.array(100, np.float32),
        "weights": WEIGHTS,
    }
    model = helper.make_graph(
        nodes,
        "two_inputs",
        # Nothing promises that the patches come first.
        [
            helper.make_tensor_value_info("handcrafted", TensorProto.FLOAT, ["n", FEATURES]),
            helper.make_tensor_value_info("counts", TensorProto.UINT8, ["n", SIDE, SIDE, 3]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES]),
            helper.make_tensor_value_info("total", TensorProto.FLOAT, ["n"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(model, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    data: bytes = made.SerializeToString()
    return data


def two_inputs(folder: Path) -> ModelBundle:
    """The bundle, as it is read from a file."""
    goes_in = Input(name="counts", patch_px=SIDE, patches_at_most=48, also=(Also(name="handcrafted", width=FEATURES),))
    manifest = read(FACTORY / "spectral_20x_grey.parfocal").manifest.model_copy(
        update={"name": "two_inputs", "input": goes_in, "outputs": ("logits", "total")}
    )
    counts, also = asked(6, seed=2)
    path = folder / "two_inputs.parfocal"
    path.write_bytes(pack(manifest, graph(), golden_bytes(counts, dict(truth(counts, also)), dict(also))))
    return read(path)
