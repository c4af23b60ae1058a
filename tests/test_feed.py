"""What a network reads beside patches stays with its patch, and wide answers come back whole, in every runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import stand_in_gpu as machine
import stand_in_jetson as jetson

from edge_app import runtime as runtimes
from edge_app.bundle import FACTORY, ModelBundle, read
from edge_app.errors import RuntimeFailed
from edge_app.feed import NOTHING, Intake
from edge_app.nvidia.cache import EngineCache, cache_folder
from edge_app.nvidia.execution import Execution
from edge_app.nvidia.making import make
from edge_app.nvidia.order import MOST
from edge_app.runtimes import tensorrt
from model_export.engine import engine_for

pytest.importorskip("onnx", reason="the network of two inputs is made with onnx")

from two_inputs import CLASSES, FEATURES, SIDE, Arrays, asked, truth, two_inputs

PLAIN = ("onnxruntime", "openvino")
INTAKE = Intake("model@1", "counts", (("handcrafted", FEATURES),))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return two_inputs(tmp_path_factory.mktemp("two"))


@pytest.fixture
def gpu(tmp_path: Path) -> Iterator[machine.Gpu]:
    with jetson.installed(tmp_path) as gpu:
        yield gpu


@pytest.fixture
def execution(gpu: machine.Gpu, bundle: ModelBundle, tmp_path: Path) -> Iterator[Execution]:
    order = tensorrt.order(bundle)
    opened = Execution(make(order, EngineCache(tmp_path / "engines"), lambda _: True).plan, order)
    yield opened
    opened.close()


def right(answers: Arrays, wanted: Arrays) -> None:
    assert list(answers) == list(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(answers[name], values, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("count", [1, 2, 4, 5, 16, 17, 48, 53])
def test_every_row_is_answered_with_what_is_beside_it(bundle: ModelBundle, name: str, count: int) -> None:
    counts, also = asked(count)
    right(runtimes.open_runtime(bundle, name, 2).infer(counts, also), truth(counts, also))


@pytest.mark.parametrize("eager", [False, True], ids=["late_copies", "early_copies"])
@pytest.mark.parametrize("count", [1, 12, 24, 25, 47, 48, 49, MOST, MOST + 1, MOST + 37])
def test_every_row_is_answered_with_what_is_beside_it_on_a_gpu(
    gpu: machine.Gpu, execution: Execution, count: int, eager: bool
) -> None:
    gpu.eager_copies = eager
    for seed in (1, 2):
        counts, also = asked(count, seed)
        right(execution.infer(counts, also), truth(counts, also))
    assert gpu.launches == (2 if count == 48 else 0), "the usual batch is replayed, what is beside it too"
    assert gpu.pageable_copies == 0


def test_what_was_beside_patches_before_is_not_beside_the_next(execution: Execution) -> None:
    (counts, also), (_, other) = asked(48, 1), asked(48, 2)
    held = [execution.infer(counts, beside) for beside in (also, other, also)]
    for answers, beside in zip(held, (also, other, also), strict=True):
        right(answers, truth(counts, beside))


def test_nothing_of_a_second_input_is_left_on_the_gpu(gpu: machine.Gpu, execution: Execution) -> None:
    execution.infer(*asked(30))
    execution.close()
    assert gpu.left() == {}


def test_no_patches_are_no_answers_of_the_right_width(execution: Execution, bundle: ModelBundle) -> None:
    counts, also = asked(0)
    for opened in (execution, runtimes.open_runtime(bundle, "openvino", 1)):
        shapes = {name: values.shape for name, values in opened.infer(counts, also).items()}
        assert shapes == {"total": (0,), "logits": (0, CLASSES)}


@pytest.mark.parametrize("name", PLAIN)
def test_rows_that_do_not_lie_one_after_the_other_are_read_right(bundle: ModelBundle, name: str) -> None:
    counts, also = asked(20)
    opened = runtimes.open_runtime(bundle, name, 2)
    for rows in (also["handcrafted"][::-1], np.broadcast_to(also["handcrafted"][:1], (20, FEATURES))):
        right(opened.infer(counts, {"handcrafted": rows}), truth(counts, {"handcrafted": rows}))


@pytest.mark.parametrize("name", PLAIN)
def test_golden_answers_that_belong_to_other_rows_do_not_serve(bundle: ModelBundle, name: str) -> None:
    turned = {"handcrafted": np.roll(bundle.golden_also["handcrafted"], 1, axis=0)}
    with pytest.raises(RuntimeFailed, match="golden"):
        runtimes.open_runtime(dataclasses.replace(bundle, golden_also=turned), name)


def of_another_width(bundle: ModelBundle) -> ModelBundle:
    return dataclasses.replace(bundle, golden_out={**bundle.golden_out, "logits": bundle.golden_out["total"]})


@pytest.mark.parametrize("name", PLAIN)
def test_golden_answers_of_another_width_are_refused(bundle: ModelBundle, name: str) -> None:
    with pytest.raises(RuntimeFailed, match=f"{name} (refused|does not give)"):
        runtimes.open_runtime(of_another_width(bundle), name)


def test_an_engine_whose_answers_are_wider_than_the_room_for_them_is_refused(
    gpu: machine.Gpu, bundle: ModelBundle, tmp_path: Path
) -> None:
    order = tensorrt.order(of_another_width(bundle))
    kept = make(order, EngineCache(tmp_path), lambda _: True)
    with pytest.raises(RuntimeFailed, match=r"another network: logits is \(-1, 7\), and .* are \(-1,\)"):
        Execution(kept.plan, order)
    assert gpu.left() == {}


def test_a_network_whose_second_input_is_of_another_width_is_not_built(
    gpu: machine.Gpu, bundle: ModelBundle, tmp_path: Path
) -> None:
    order = dataclasses.replace(tensorrt.order(bundle), also=(("handcrafted", 19),))
    with pytest.raises(RuntimeFailed, match=r"handcrafted \(-1, 18\).*, not .*handcrafted \(-1, 19\)"):
        make(order, EngineCache(tmp_path), lambda _: True)


def test_what_serves_after_a_gpu_that_failed_reads_what_is_beside_patches_too(
    gpu: machine.Gpu, bundle: ModelBundle
) -> None:
    make(tensorrt.order(bundle), EngineCache(cache_folder()), lambda _: True)
    served = runtimes.open_runtime(bundle, "tensorrt", 1)
    counts, also = asked(30)
    right(served.infer(counts, also), truth(counts, also))
    assert served.name == "tensorrt"
    gpu.kill("an illegal memory access was encountered")
    right(served.infer(counts, also), truth(counts, also))
    assert served.name == "onnxruntime"


def test_an_engine_of_two_inputs_is_proven_and_timed_by_hand(gpu: machine.Gpu, tmp_path: Path) -> None:
    two_inputs(tmp_path)
    told = engine_for(tmp_path / "two_inputs.parfocal", lambda _: True, turns=1)
    assert told["error"] == ""
    assert set(told["median_ms"]) == {"1", "48", str(MOST)}


@pytest.mark.parametrize(
    ("also", "told"),
    [
        ({}, "was given nothing"),
        ({"handcrafted": np.zeros((3, FEATURES), np.float32)}, r"handcrafted \(3, 18\) float32"),
        ({"handcrafted": np.zeros((4, 17), np.float32)}, r"handcrafted \(4, 17\) float32"),
        ({"handcrafted": np.zeros((4, FEATURES))}, r"handcrafted \(4, 18\) float64"),
        ({"features": np.zeros((4, FEATURES), np.float32)}, r"features \(4, 18\) float32"),
    ],
)
def test_what_does_not_fit_beside_patches_is_refused(also: Arrays, told: str) -> None:
    with pytest.raises(RuntimeFailed, match=rf"model@1 takes handcrafted \(4, 18\) float32 .*{told}.*use a bundle"):
        INTAKE.feed(np.zeros((4, SIDE, SIDE, 3), np.uint8), also)


@pytest.mark.parametrize("name", PLAIN)
def test_a_network_of_patches_only_takes_nothing_beside_them(name: str) -> None:
    plain = read(FACTORY / "spectral_20x_grey.parfocal")
    opened = runtimes.open_runtime(plain, name, 1)
    assert set(opened.infer(plain.golden_in, NOTHING)) == set(plain.manifest.outputs)
    with pytest.raises(RuntimeFailed, match="takes nothing beside 6 patches, and was given handcrafted"):
        opened.infer(plain.golden_in, asked(6)[1])
