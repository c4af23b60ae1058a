"""Every graph that ships, and that a family exports, keeps to what TensorRT's ONNX parser documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tensorrt_operators import TYPES, beyond

from edge_app import bundle
from firmware import plugins


def graph_of(*nodes: onnx.NodeProto, opset: int = 18, kind: int = TensorProto.FLOAT, **constants: object) -> bytes:
    """A graph from `x` (N, 2, 4, 4) of one type to a float `y`, with constants by name."""
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    sides = [helper.make_tensor_value_info("x", kind, ["n", 2, 4, 4]), helper.make_tensor_value_info("y", 1, None)]
    graph = helper.make_graph(list(nodes), "g", sides[:1], sides[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10).SerializeToString()


@pytest.mark.parametrize("path", bundle.factory_bundles(), ids=lambda path: path.stem)
def test_a_bundle_that_ships_keeps_to_what_tensorrt_documents(path: Path) -> None:
    assert not beyond(bundle.read(path).onnx)


@pytest.mark.parametrize("path", bundle.factory_bundles(), ids=lambda path: path.stem)
def test_a_bundle_that_ships_takes_bytes_of_any_number_of_patches(path: Path) -> None:
    shipped = bundle.read(path)
    counts, *also = onnx.load_from_string(shipped.onnx).graph.input
    assert [each.name for each in also] == [each.name for each in shipped.manifest.input.also]
    side = shipped.manifest.input.patch_px
    dims = counts.type.tensor_type.shape.dim
    assert counts.name == shipped.manifest.input.name
    assert counts.type.tensor_type.elem_type == TensorProto.UINT8
    assert [d.dim_value for d in dims[1:]] == [side, side, 3]
    assert dims[0].dim_param


@pytest.mark.parametrize("path", bundle.factory_bundles(), ids=lambda path: path.stem)
def test_a_bundle_that_ships_answers_in_single_precision_by_name(path: Path) -> None:
    shipped = bundle.read(path)
    outputs = onnx.load_from_string(shipped.onnx).graph.output
    assert tuple(o.name for o in outputs) == shipped.manifest.outputs
    assert {o.type.tensor_type.elem_type for o in outputs} == {TensorProto.FLOAT}


@pytest.mark.parametrize("family", plugins.names("model_export.families"))
def test_what_a_family_exports_keeps_to_what_tensorrt_documents(family: str) -> None:
    from test_families import onnx_of

    assert not beyond(onnx_of(family))


@pytest.mark.parametrize("name", ["spectral_20x", "ldse_net_20x"])
@pytest.mark.parametrize("variant", ["fp16", "int8"])
def test_a_lower_precision_keeps_to_what_tensorrt_documents(name: str, variant: str) -> None:
    from model_export import precision

    shipped = bundle.read(bundle.find(name))
    assert not beyond(getattr(precision, variant)(shipped.onnx, shipped.golden_in))


def test_the_matrix_names_every_operator_that_families_may_use() -> None:
    from test_families import EVERYWHERE

    assert set(TYPES) >= EVERYWHERE


RELU = helper.make_node("Relu", ["f"], ["y"])
CAST = helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)
FIRST_MOVED = (
    helper.make_node("Transpose", ["x"], ["t"]),
    helper.make_node("Cast", ["t"], ["f"], to=TensorProto.FLOAT),
)
FIRST_INTEGER = (
    helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT32),
    helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
)
DOUBLE = (
    helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
    helper.make_node("Cast", ["d"], ["y"], to=TensorProto.FLOAT),
)
FREE_AXES = (helper.make_node("Shape", ["x"], ["s"], start=0, end=1), helper.make_node("ReduceSum", ["x", "s"], ["y"]))
APART = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2])
PLACES = helper.make_node("MaxPool", ["x"], ["y", "places"], kernel_shape=[2, 2])
QUANTISED = (
    helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
    helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
)
CAST_FIRST = "UINT8 must be cast to floats first"
SCALE, ZERO = np.float32(0.1), np.int8(0)
REFUSED = {
    "an operator that is not there": (graph_of(helper.make_node("Det", ["x"], ["y"])), "not documented"),
    "a later opset": (graph_of(helper.make_node("Relu", ["x"], ["y"]), opset=21), "opset ai.onnx 21"),
    "doubles": (graph_of(*DOUBLE), "DOUBLE"),
    "bytes moved first": (graph_of(*FIRST_MOVED, RELU, kind=TensorProto.UINT8), CAST_FIRST),
    "bytes to integers": (
        graph_of(*FIRST_INTEGER, RELU, kind=TensorProto.UINT8),
        "UINT8 must be cast to floats first",
    ),
    "axes that depend": (graph_of(*FREE_AXES), "input 1, s, is not a constant"),
    "dilated pooling": (graph_of(APART, opset=19), "dilations must be ones"),
    "places of maxima": (graph_of(PLACES), "only its first output is supported"),
    "a zero point": (graph_of(*QUANTISED, scale=SCALE, zero=np.int8(3)), "its zero point is not zero"),
    "bytes without a sign": (graph_of(*QUANTISED, scale=SCALE, zero=np.uint8(0)), "UINT8"),
    "a scale of zero": (graph_of(*QUANTISED, scale=np.float32(0), zero=ZERO), "its scale is not above zero"),
}
LAYER_NORM = helper.make_node("LayerNormalization", ["x", "scale"], ["y"])
ACCEPTED = {
    "bytes cast first": graph_of(CAST, RELU, kind=TensorProto.UINT8),
    "quantised": graph_of(*QUANTISED, scale=SCALE, zero=ZERO),
    "a scale per channel": graph_of(
        *(helper.make_node(n.op_type, n.input, n.output, axis=1) for n in QUANTISED),
        scale=np.full(2, SCALE),
        zero=np.zeros(2, np.int8),
    ),
    "layer normalisation": graph_of(LAYER_NORM, scale=np.ones(4, np.float32)),
    "axes that are known": graph_of(helper.make_node("ReduceSum", ["x", "axes"], ["y"]), axes=np.array([1])),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_graph_that_tensorrt_does_not_document_is_found_out(what: str) -> None:
    graph, fault = REFUSED[what]
    assert any(fault in told for told in beyond(graph))


@pytest.mark.parametrize("what", ACCEPTED)
def test_a_graph_that_tensorrt_documents_passes(what: str) -> None:
    assert not beyond(ACCEPTED[what])
