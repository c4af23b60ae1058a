"""Lower precisions are graphs and bundles of their own, scored beside fp32 on the same frames."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from typer.testing import CliRunner

from edge_app.bundle import Also, Manifest, ModelBundle, factory_bundles, find, golden_bytes, pack, read
from edge_app.runtime import open_runtime

if TYPE_CHECKING:
    from typer.testing import Result

torch = pytest.importorskip("torch", reason="model_export needs torch")
onnx = pytest.importorskip("onnx", reason="model_export needs onnx")

import onnxruntime  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from model_export.cli import app  # noqa: E402
from model_export.comparison import Scored, choose, growth, misses  # noqa: E402
from model_export.emulation import halves_rounded, tf32  # noqa: E402
from model_export.errors import BadRecipe, ExportError, ParityError  # noqa: E402
from model_export.evaluate import SETS  # noqa: E402
from model_export.graph import parse, types_of  # noqa: E402
from model_export.precision import fp16, int8, parts_of  # noqa: E402
from model_export.variants import MAY_MOVE, make_variant  # noqa: E402

FP32, FP16, INT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8
# What onnx-tensorrt's operators.md documents of what our graphs hold, QuantizeLinear and DequantizeLinear with it.
DOCUMENTED = """
    Abs Add AveragePool BatchNormalization Cast Concat Conv DequantizeLinear Div Gather Gemm Log MatMul MaxPool Mul Neg
    Pow QuantizeLinear ReduceMean ReduceSum Relu Reshape Sigmoid Slice Split Sqrt Sub Tanh Transpose Unsqueeze
"""
Counts = NDArray[np.uint8]


def toy(gain: float) -> bytes:
    """Counts (N, 2, 2, 3) times a gain, squared, and the logarithm, as a front end; then two random layers."""
    rng = np.random.default_rng(1)
    constants: dict[str, NDArray[Any]] = {
        "gain": np.array(gain, np.float32),
        "one": np.array(1.0, np.float32),
        "flat": np.array([-1, 12], np.int64),
        "w1": rng.normal(0, 0.3, (12, 8)).astype(np.float32),
        "w2": rng.normal(0, 0.3, (1, 8)).astype(np.float32),
        "b2": np.zeros(1, np.float32),
        "column": np.array(0, np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["counts"], ["x"], to=FP32),
        helper.make_node("Mul", ["x", "gain"], ["louder"]),
        helper.make_node("Mul", ["louder", "louder"], ["power"]),
        helper.make_node("Add", ["power", "one"], ["raised"]),
        helper.make_node("Log", ["raised"], ["level"]),
        helper.make_node("Reshape", ["level", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "w1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w2", "b2"], ["answer"], transB=1),
        helper.make_node("Gather", ["answer", "column"], ["defocus_um"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("counts", TensorProto.UINT8, ["n", 2, 2, 3])],
        [helper.make_tensor_value_info("defocus_um", FP32, ["n"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def toy_counts(patches: int = 8) -> Counts:
    return np.random.default_rng(2).integers(1, 256, (patches, 2, 2, 3), dtype=np.uint8)


def run(graph: bytes, counts: Counts) -> Any:
    """All outputs of a graph, one after the other."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return np.concatenate(session.run(None, {"counts": counts}))


def by_type(graph: bytes, op_type: str) -> set[int]:
    """The types that the first inputs of these nodes have."""
    model = onnx.load_from_string(graph)
    types = types_of(model)
    return {types[node.input[0]] for node in model.graph.node if node.op_type == op_type}


@lru_cache
def lower(make: Callable[[bytes, Counts], bytes], name: str) -> bytes:
    """A shipped graph in another precision, calibrated on its golden inputs."""
    shipped = read(find(name))
    return make(shipped.onnx, shipped.golden_in)


@pytest.fixture(scope="module", params=["spectral_20x", "ldse_net_20x"])
def bundle(request: pytest.FixtureRequest) -> ModelBundle:
    return read(find(request.param))


@pytest.fixture(scope="module")
def spectral() -> ModelBundle:
    return read(find("spectral_20x"))


@pytest.mark.parametrize("path", factory_bundles(), ids=lambda path: path.stem)
def test_a_shipped_bundle_says_nothing_of_precision_and_is_fp32(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert "precision" not in json.loads(archive.read("manifest.json"))
    assert read(path).manifest.precision == "fp32"


def repacked(bundle: ModelBundle, manifest: Manifest, folder: Path) -> Path:
    path = folder / "again.parfocal"
    path.write_bytes(pack(manifest, bundle.onnx, golden_bytes(bundle.golden_in, bundle.golden_out)))
    return path


def test_an_fp32_bundle_is_packed_as_before_there_were_precisions(spectral: ModelBundle, tmp_path: Path) -> None:
    path = repacked(spectral, spectral.manifest, tmp_path)
    with zipfile.ZipFile(path) as archive:
        assert "precision" not in json.loads(archive.read("manifest.json"))
    assert read(path).manifest == spectral.manifest


def test_a_bundle_of_another_precision_says_so(spectral: ModelBundle, tmp_path: Path) -> None:
    manifest = spectral.manifest.model_copy(update={"precision": "int8"})
    assert read(repacked(spectral, manifest, tmp_path)).manifest.precision == "int8"


def test_a_precision_that_nobody_knows_is_refused(spectral: ModelBundle) -> None:
    with pytest.raises(ValidationError, match="precision"):
        Manifest.model_validate({**spectral.manifest.model_dump(), "precision": "fp8"})


def test_what_halves_cannot_hold_stays_in_fp32_with_all_that_leads_to_it() -> None:
    made = fp16(toy(300.0), toy_counts())
    assert by_type(made, "Log") == by_type(made, "Mul") == {FP32}
    assert by_type(made, "MatMul") == by_type(made, "Gemm") == {FP16}


def test_where_halves_hold_the_front_end_they_may_take_all_of_it() -> None:
    quiet = toy(0.01)
    model = parse(quiet)
    assert parts_of(model, toy_counts()).halves_fit
    assert not parts_of(parse(toy(300.0)), toy_counts()).halves_fit
    assert by_type(fp16(quiet, toy_counts(), whole=True), "Log") == {FP16}


def test_a_front_end_that_halves_hold_stays_in_fp32_where_rounding_it_costs_more_than_the_rest() -> None:
    ldse = read(find("ldse_net_20x"))
    assert parts_of(parse(ldse.onnx), ldse.golden_in).halves_fit
    assert by_type(lower(fp16, "ldse_net_20x"), "Log") == {FP32}
    whole, spared = (
        run(halves_rounded(fp16(ldse.onnx, ldse.golden_in, whole)), ldse.golden_in) for whole in (True, False)
    )
    exact = run(ldse.onnx, ldse.golden_in)
    assert np.abs(whole - exact).max() > 4 * np.abs(spared - exact).max()


def test_parts_are_found_whatever_nodes_and_values_are_called() -> None:
    model = parse(toy(300.0))
    expected = parts_of(model, toy_counts())
    for node in model.graph.node:
        node.name = f"n{len(node.name)}_{abs(hash(node.output[0]))}"
        for names in (node.input, node.output):
            for slot, name in enumerate(names):
                names[slot] = name if name in ("counts", "defocus_um") else f"v_{name[::-1]}"
    for tensor in model.graph.initializer:
        tensor.name = f"v_{tensor.name[::-1]}"
    assert parts_of(model, toy_counts()) == expected


def test_a_graph_without_weights_has_nothing_to_make_smaller() -> None:
    model = onnx.load_from_string(toy(1.0))
    del model.graph.node[6:], model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("row", FP32, ["n", 12]))
    with pytest.raises(ExportError, match="no convolution or matrix product"):
        int8(model.SerializeToString(), toy_counts())


def test_rounding_written_out_is_what_numpys_halves_give() -> None:
    level = np.log(np.square(toy_counts().astype(np.float16).reshape(8, 12) * np.float16(0.01)) + np.float16(1.0))
    tensors = onnx.load_from_string(toy(0.01)).graph.initializer
    w1, w2 = (
        numpy_helper.to_array(t).astype(np.float16).astype(np.float32) for t in tensors if t.name in ("w1", "w2")
    )
    hidden = (level.astype(np.float32) @ w1).astype(np.float16)
    expected = (np.maximum(hidden, 0).astype(np.float32) @ w2.T).astype(np.float16)[:, 0]
    answers = run(halves_rounded(fp16(toy(0.01), toy_counts(), whole=True)), toy_counts())
    assert answers == pytest.approx(expected.astype(np.float32), abs=2e-3)
    assert np.array_equal(answers, answers.astype(np.float16))


def test_halves_throughout_overflow_in_power_spectra_and_onnx_runtime_alone_would_hide_it(
    spectral: ModelBundle,
) -> None:
    made = fp16(spectral.onnx, spectral.golden_in, whole=True)
    assert np.isfinite(run(made, spectral.golden_in)).all()
    assert not np.isfinite(run(halves_rounded(made), spectral.golden_in)).any()


def test_learned_layers_are_halves_and_the_front_end_is_not(bundle: ModelBundle) -> None:
    made = lower(fp16, bundle.manifest.name)
    assert by_type(made, "Log") == {FP32}
    assert by_type(made, "Gemm") == {FP16}
    assert by_type(made, "Conv") <= {FP16}
    assert by_type(made, "MatMul") <= {FP32}


@pytest.mark.parametrize("make", [fp16, int8], ids=lambda make: make.__name__)
def test_a_variant_takes_and_gives_what_the_bundle_does_and_holds_to_documented_operators(
    make: Any, bundle: ModelBundle
) -> None:
    before, after = parse(bundle.onnx), onnx.load_from_string(lower(make, bundle.manifest.name))
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert [(each.domain, each.version) for each in after.opset_import] == [("", 18)]
    assert {node.op_type for node in after.graph.node} <= set(DOCUMENTED.split())
    assert [node.op_type for node in after.graph.node if "counts" in node.input] == ["Cast"]


def test_eight_bit_pairs_have_positive_scales_and_zero_points_of_zero(bundle: ModelBundle) -> None:
    model = onnx.load_from_string(lower(int8, bundle.manifest.name))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        scale, zero = (values[name] for name in node.input[1:])
        assert (scale > 0).all()
        assert zero.dtype == np.int8
        assert not zero.any()


def test_every_learned_layer_reads_eight_bits_by_channel_and_adds_its_bias_in_fp32(bundle: ModelBundle) -> None:
    model = onnx.load_from_string(lower(int8, bundle.manifest.name))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == len(parts_of(parse(bundle.onnx), bundle.golden_in).weighted)
    for node in layers:
        read_, weight = (makers[name] for name in node.input[:2])
        assert makers[read_.input[0]].op_type == "QuantizeLinear"
        assert values[weight.input[0]].dtype == np.int8
        assert values[weight.input[1]].shape == values[weight.input[0]].shape[:1]
        assert all(values[name].dtype == np.float32 for name in node.input[2:])


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_golden_answers_lie_as_near_to_fp32_as_is_stated(kind: str, bundle: ModelBundle) -> None:
    variant = make_variant(bundle, kind, bundle.golden_in)
    share, plain = MAY_MOVE[kind]
    assert all(moved <= (share * 10 if name.endswith("_um") else plain) for name, moved in variant.moved.items())
    assert max(variant.moved.values()) > 0
    assert len(variant.onnx) < 0.7 * len(bundle.onnx)


def test_a_variant_that_answers_otherwise_is_refused(spectral: ModelBundle) -> None:
    elsewhere = {**spectral.golden_out, "defocus_um": spectral.golden_out["defocus_um"] + 0.2}
    with pytest.raises(ParityError, match=r"defocus_um of spectral_20x.* in fp16 lies 0\.\d+ off .*\(at most 0\.05\)"):
        make_variant(replace(spectral, golden_out=elsewhere), "fp16", spectral.golden_in)


def test_a_variant_is_made_of_fp32_only(spectral: ModelBundle) -> None:
    lower = replace(spectral, manifest=spectral.manifest.model_copy(update={"precision": "fp16"}))
    with pytest.raises(ExportError, match="is fp16 already; give the fp32 bundle"):
        make_variant(lower, "int8", spectral.golden_in)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"input": {"also": (Also(name="handcrafted", width=18),)}}, "reads handcrafted beside patches.*in fp32"),
        ({"task": "sharpness"}, "is of sharpness, and variants are scored by um of defocus.*in fp32"),
        ({"passport": {"range_um": None}}, "scored by um of defocus"),
    ],
)
def test_a_bundle_whose_variants_could_not_be_calibrated_or_scored_is_refused(
    spectral: ModelBundle, change: dict[str, Any], told: str
) -> None:
    parts = {
        name: getattr(spectral.manifest, name).model_copy(update=value) if isinstance(value, dict) else value
        for name, value in change.items()
    }
    other = replace(spectral, manifest=spectral.manifest.model_copy(update=parts))
    with pytest.raises(ExportError, match=told):
        make_variant(other, "fp16", spectral.golden_in)


def test_tf32_rounds_both_operands_to_ten_bits() -> None:
    model = onnx.load_from_string(tf32(toy(300.0)))
    product = next(node for node in model.graph.node if node.op_type == "MatMul")
    names = ["row", product.input[0], product.input[1]]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    row, rounded, weights = session.run(names, {"counts": toy_counts()})
    w1 = next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == "w1")
    assert (rounded != row).any()
    assert np.array_equal(rounded, ten_bits(row))
    assert np.array_equal(weights, ten_bits(w1))


def ten_bits(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounded to nearest by the bits themselves; ties, which are rare, away from zero."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def figures(**changes: Any) -> dict[str, Any]:
    unit = {"mae_um": 0.1, "sign": 0.99, "coverage_68": 0.7, "coverage_95": 0.95}
    return {
        "frames": 200,
        "patches": 5000,
        "abstained": changes.get("abstained", 0.0),
        "patch": unit | changes.get("patch", {}),
        "frame": unit | changes.get("frame", {}),
    }


ERRORS_UM = np.random.default_rng(3).uniform(0.05, 0.15, (10, 20))
BEFORE = Scored(figures(), ERRORS_UM)


def test_growth_is_paired_so_that_a_constant_has_no_interval() -> None:
    grew = growth(ERRORS_UM, ERRORS_UM + 0.02)
    assert (grew.mean_um, grew.low_um, grew.high_um) == pytest.approx((0.02, 0.02, 0.02))
    assert grew.share_high == pytest.approx(0.2, rel=0.1)


def test_frames_that_do_not_count_do_not_grow() -> None:
    errors = ERRORS_UM.copy()
    errors[3] = np.nan
    assert growth(errors, errors + 0.02).mean_um == pytest.approx(0.02)


def test_specimens_that_disagree_widen_the_interval() -> None:
    after = ERRORS_UM + np.linspace(-0.04, 0.04, 10)[:, None]
    grew = growth(ERRORS_UM, after)
    assert grew.low_um < -0.01 < 0.01 < grew.high_um


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (Scored(figures(), ERRORS_UM), []),
        (Scored(figures(), ERRORS_UM * 0.9), []),
        (Scored(figures(), ERRORS_UM + 0.004), []),
        (Scored(figures(), ERRORS_UM + 0.008), ["the frame error may grow by the share 0.08"]),
        (Scored(figures(), ERRORS_UM + 0.012), ["may grow by, um 0.012 (at most 0.01)", "by the share"]),
        (Scored(figures(patch={"sign": 0.988}), ERRORS_UM), []),
        (Scored(figures(patch={"sign": 0.987}), ERRORS_UM), ["patches on the right side fall by 0.003"]),
        (Scored(figures(frame={"coverage_68": 0.67}), ERRORS_UM), ["frame coverage_68 falls by 0.03"]),
        (Scored(figures(patch={"coverage_95": 0.92}), ERRORS_UM), ["patch coverage_95 falls by 0.03"]),
        (Scored(figures(frame={"coverage_95": 0.99}), ERRORS_UM), []),
        (Scored(figures(abstained=0.03), ERRORS_UM), ["frames abstained on grow by 0.03"]),
        (None, ["an answer is not a number"]),
    ],
)
def test_the_rule_names_all_that_a_variant_does_not_keep(after: Scored | None, words: list[str]) -> None:
    told = misses(BEFORE, after, 10.0)
    assert len(told) == len(words)
    assert all(word in miss for miss, word in zip(told, words, strict=True))


def test_a_set_of_few_frames_forgives_one_of_them() -> None:
    few = Scored({**figures(), "frames": 20}, ERRORS_UM)
    assert misses(few, Scored({**figures(frame={"coverage_68": 0.65}), "frames": 20}, ERRORS_UM), 10.0) == []


def test_few_specimens_choose_nothing() -> None:
    few = Scored(figures(), ERRORS_UM[:5])
    assert misses(few, few, 10.0) == ["5 specimens are too few to tell (at least 6)"]


@pytest.mark.parametrize(
    ("int8_misses", "fp16_misses", "choice"),
    [([], [], "int8"), (["x"], [], "fp16"), (["x"], ["x"], "fp32"), ([], ["x"], "int8")],
)
def test_the_lowest_precision_that_keeps_the_rule_on_every_set_is_chosen(
    int8_misses: list[str], fp16_misses: list[str], choice: str
) -> None:
    missed: dict[str, dict[str, list[str]]] = {
        "fp16": {"a": [], "b": fp16_misses},
        "int8": {"a": int8_misses, "b": []},
        "tf32": {"a": [], "b": []},
    }
    assert choose(missed) == choice


def test_what_was_not_asked_for_is_not_chosen() -> None:
    assert choose({"fp16": {"a": ["x"]}, "tf32": {"a": []}}) == "fp32"


def tell(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The command on one specimen at two depths in small frames: what it says, and the folder it wrote."""
    folder = tmp_path_factory.mktemp("precision")
    small = folder / "small.toml"
    text = (SETS / "nominal.toml").read_text(encoding="utf-8")
    small.write_text(f"frame_px = [448, 672]\n{text}", encoding="utf-8")
    few = ("--specimens", 1, "--depths", 2, "--calibrate-on", 1, "--out", folder / "out")
    result = tell("precision", "spectral_20x", "--sets", small, "--emulate", *few, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout), folder


def test_the_command_scores_all_precisions_on_the_same_frames(told: tuple[dict[str, Any], Path]) -> None:
    found = told[0]["sets"]["small"]
    assert list(found) == ["fp32", "fp16", "int8", "tf32", "fp16_whole"]
    assert len({found[kind]["patches"] for kind in ("fp32", "fp16", "int8", "tf32")}) == 1
    assert found["fp16"]["growth"]["mean_um"] == pytest.approx(
        found["fp16"]["frame"]["mae_um"] - found["fp32"]["frame"]["mae_um"], abs=2e-4
    )
    assert found["fp16_whole"] == {"misses": ["an answer is not a number"]}
    assert (told[0]["choice"], told[0]["seed"]) == ("fp32", 4)
    assert told[0]["onnx_bytes"]["int8"] < told[0]["onnx_bytes"]["fp16"] < told[0]["onnx_bytes"]["fp32"]


def test_the_command_writes_the_bundles_and_nothing_that_is_emulated(told: tuple[dict[str, Any], Path]) -> None:
    written = {path.name for path in (told[1] / "out").iterdir()}
    assert written == {"spectral_20x_fp16.parfocal", "spectral_20x_int8.parfocal"}


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_a_variant_keeps_where_it_comes_from_and_has_figures_of_its_own(
    kind: str, told: tuple[dict[str, Any], Path], spectral: ModelBundle
) -> None:
    made = read(told[1] / "out" / f"spectral_20x_{kind}.parfocal").manifest
    assert (made.name, made.precision) == (f"spectral_20x_{kind}", kind)
    for part in ("training", "passport", "calibration", "input", "outputs", "version"):
        assert getattr(made, part) == getattr(spectral.manifest, part)
    assert made.metrics["small"]["frame"] == told[0]["sets"]["small"][kind]["frame"]
    assert spectral.sha256 in made.metrics["made_of"]


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_onnx_runtime_answers_a_variant_as_its_own_golden_outputs(
    kind: str, told: tuple[dict[str, Any], Path], spectral: ModelBundle
) -> None:
    made = read(told[1] / "out" / f"spectral_20x_{kind}.parfocal")
    answers = open_runtime(made, "onnxruntime", 1).infer(made.golden_in)
    assert any((made.golden_out[name] != spectral.golden_out[name]).any() for name in answers)
    assert all(answers[name] == pytest.approx(made.golden_out[name], abs=0.02) for name in answers)


def test_only_what_is_asked_for_is_made_and_the_table_says_what_it_misses(
    told: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    few = ("--specimens", 1, "--depths", 1, "--calibrate-on", 1, "--out", tmp_path)
    result = tell("precision", "spectral_20x", "--to", "fp16", "--sets", told[1] / "small.toml", *few)
    assert result.exit_code == 0, (result.output, result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["spectral_20x_fp16.parfocal"]
    words = " ".join(result.output.split())
    assert "fp16 on small: 1 specimens are too few to tell (at least 6)" in words
    assert "to serve: fp32" in words


def test_a_recipe_that_did_not_train_the_bundle_is_refused(tmp_path: Path) -> None:
    result = tell("precision", "spectral_20x", "--recipe", "spectral_10x", "--out", tmp_path)
    assert isinstance(result.exception, BadRecipe)
    assert "was not trained by the recipe 'spectral_10x' as it stands" in str(result.exception)
