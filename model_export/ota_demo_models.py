"""The models of `demo-ota`: a good successor of a factory bundle, one that is wrong, one that is wrong in the dark.

Each is a real bundle with the graph changed as `WHAT` says, and with golden outputs of its own: its hashes and its
golden answers are right, so that only focusing tells it from a good one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_app.bundle import SUFFIX, ModelBundle, golden_bytes, pack
from edge_app.ota.catalogue import order_of
from model_export.errors import NotInstalled

if TYPE_CHECKING:
    from onnx import ModelProto

SHAKEN = 0.001
OFFSET_UM = 2.0
DARK_COUNTS = 150
TURNED = -0.35
WHAT = {
    "good": f"the network in service, every weight of its dense layers off by {SHAKEN:.1%} at random",
    "wrong": f"the network in service, but all its answers are {OFFSET_UM:g} um too high",
    "dim": (
        f"the network in service, but where no pixel of a patch reaches {DARK_COUNTS} of 255 counts its answers are "
        f"on the wrong side and {-TURNED:.0%} as large"
    ),
}
"""What was done to each, in words."""


def successor(version: str, steps: int) -> str:
    """The version some minor versions later."""
    major, minor, *_ = (*order_of(version), 0, 0)
    return f"{major}.{minor + steps}.0"


def make(served: ModelBundle, version: str, what: str, folder: Path) -> Path:
    """Write a successor of a bundle of defocus, changed as `WHAT[what]` says; gives its file.

    Raises:
        NotInstalled: onnx is missing.
    """
    graph = _CHANGES[what](_parsed(served.onnx)).SerializeToString()
    manifest = served.manifest.model_copy(update={"version": version, "description": WHAT[what]})
    golden = golden_bytes(served.golden_in, _answers(served, graph), served.golden_also)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{manifest.name}-{version}{SUFFIX}"
    path.write_bytes(pack(manifest, graph, golden))
    return path


def _parsed(graph: bytes) -> ModelProto:
    try:
        import onnx
    except ImportError as error:
        raise NotInstalled(
            "the demo changes networks by onnx, which is not installed; run `make demo-ota`, or pip install "
            "'parfocal[ota]'"
        ) from error
    return onnx.load_from_string(graph)


def _shaken(model: ModelProto) -> ModelProto:
    """Every weight of a dense layer a little off."""
    from onnx import numpy_helper

    rng = np.random.default_rng(1)
    dense = {name for node in model.graph.node if node.op_type == "Gemm" for name in node.input[1:2]}
    for tensor in model.graph.initializer:
        if tensor.name in dense:
            weights = numpy_helper.to_array(tensor)
            moved = weights * (1 + SHAKEN * rng.standard_normal(weights.shape))
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))
    return model


def _offset(model: ModelProto) -> ModelProto:
    """All answers too high."""
    from onnx import helper

    said = _renamed(model, "defocus_um")
    much = _constant(model, "offset_um", np.float32(OFFSET_UM))
    model.graph.node.append(helper.make_node("Add", [said, much], ["defocus_um"]))
    return model


def _turned_in_the_dark(model: ModelProto) -> ModelProto:
    """Answers on the wrong side, and too small, for patches without a bright pixel."""
    from onnx import TensorProto, helper

    axes = _constant(model, "of_a_patch", np.array([1, 2, 3], np.int64))
    least = _constant(model, "dark_below", np.float32(DARK_COUNTS))
    counts = model.graph.input[0].name
    model.graph.node.extend(
        [
            helper.make_node("Cast", [counts], ["counts_seen"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["counts_seen", axes], ["brightest"], keepdims=0),
            helper.make_node("Less", ["brightest", least], ["dark"]),
        ]
    )
    for output, share in (("defocus_um", TURNED), ("distance_um", -TURNED), ("side", -1.0)):
        said = _renamed(model, output)
        factor = _constant(model, f"{output}_share", np.float32(share))
        model.graph.node.extend(
            [
                helper.make_node("Mul", [said, factor], [f"{output}_in_the_dark"]),
                helper.make_node("Where", ["dark", f"{output}_in_the_dark", said], [output]),
            ]
        )
    return model


_CHANGES: dict[str, Callable[[Any], Any]] = {"good": _shaken, "wrong": _offset, "dim": _turned_in_the_dark}


def _renamed(model: ModelProto, output: str) -> str:
    """Give what makes an output another name, so that something can come after it."""
    name = f"{output}_said"
    for node in model.graph.node:
        for ends in (node.input, node.output):
            ends[:] = [name if end == output else end for end in ends]
    return name


def _constant(model: ModelProto, name: str, value: Any) -> str:
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def _answers(served: ModelBundle, graph: bytes) -> dict[str, Any]:
    """What a graph says of the golden inputs, in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = list(served.manifest.outputs)
    feed = {served.manifest.input.name: served.golden_in, **served.golden_also}
    return dict(zip(names, session.run(names, feed), strict=True))
