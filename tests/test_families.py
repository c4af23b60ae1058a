"""Every model family: builds from a recipe, answers as its task demands, stays small, exports faithfully."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from firmware import plugins
from model_export.recipe import Recipe, load_recipe, recipe_names

if TYPE_CHECKING:
    from torch import nn

torch = pytest.importorskip("torch", reason="model_export needs torch")
FAMILIES = plugins.names("model_export.families")
EVERYWHERE = {
    *("Abs", "Add", "AveragePool", "BatchNormalization", "Cast", "Concat", "Conv", "Div", "Gather", "Gemm", "Log"),
    *("MatMul", "MaxPool", "Mul", "Neg", "Pow", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Sigmoid", "Slice"),
    *("Split", "Sqrt", "Sub", "Tanh", "Transpose", "Unsqueeze"),
}
"""What ONNX Runtime, OpenVINO and the support matrix of TensorRT's ONNX parser all name, since TensorRT 8.4."""
every_family = pytest.mark.parametrize("family", FAMILIES)


def recipe_of(family: str) -> Recipe:
    """The first recipe for a family."""
    return next(recipe for name in recipe_names() if (recipe := load_recipe(name)).family == family)


@lru_cache
def net_of(family: str) -> nn.Module:
    """A network that has seen some noise, so that its normalisations are not the identity."""
    from model_export.train import build

    net = build(recipe_of(family)).train()
    with torch.no_grad():
        net(*noise(family, 4, seed=1))
    return net.eval()


def noise(family: str, count: int, seed: int) -> list[Any]:
    """Tensors of noise for all that a family reads: patches first."""
    from model_export.export import random_also, random_counts

    counts = random_counts(count, seed, recipe_of(family).patch_px)
    return [torch.from_numpy(part) for part in (counts, *random_also(family, count, seed).values())]


@lru_cache
def onnx_of(family: str) -> bytes:
    from model_export.export import to_onnx
    from model_export.families import also_of

    outputs = plugins.load("model_export.families", family).OUTPUTS
    return to_onnx(net_of(family), outputs, recipe_of(family).patch_px, also_of(family))


@every_family
def test_a_family_gives_one_row_per_patch_for_each_output(family: str) -> None:
    with torch.no_grad():
        answers = net_of(family)(*noise(family, 3, seed=2))
    assert len(answers) == len(plugins.load("model_export.families", family).OUTPUTS)
    for answer in answers:
        assert answer.shape[0] == 3
        assert answer.dim() <= (1 if recipe_of(family).task == "defocus" else 2)
        assert bool(torch.isfinite(answer).all())


@every_family
def test_a_family_belongs_to_a_task_and_gives_its_outputs(family: str) -> None:
    module = plugins.load("model_export.families", family)
    assert module.TASK in plugins.names("edge_app.tasks")
    assert module.TASK in plugins.names("model_export.teaching")
    assert recipe_of(family).task == module.TASK
    required = plugins.load("edge_app.tasks", module.TASK).OUTPUTS
    assert module.OUTPUTS[: len(required)] == required
    if module.TASK == "defocus":
        assert set(module.OUTPUTS) - set(required) <= {"side", "distance_um", "thickness_um"}


@every_family
def test_a_family_that_reads_features_answers_to_them_as_to_patches(family: str) -> None:
    reads = plugins.load("model_export.families", family).READS
    net: Any = net_of(family)
    assert reads in ("tiles", "features")
    if reads == "features":
        with torch.no_grad():
            counts, *also = noise(family, 2, seed=6)
            features = net.front(counts)
            assert features.shape == (2, net.front.width)
            for answer, whole in zip(net.answer(features, *also), net(counts, *also), strict=True):
                assert torch.equal(answer, whole)


@pytest.mark.parametrize("name", recipe_names())
def test_what_a_recipe_learns_is_small(name: str) -> None:
    from model_export.train import build

    recipe = load_recipe(name)
    at_most_kib = 2048 if recipe.task == "quality" else 480
    assert sum(parameter.numel() for parameter in build(recipe).parameters()) * 4 <= at_most_kib * 1024


@every_family
def test_a_family_exports_operators_that_every_runtime_knows(family: str) -> None:
    import onnx

    graph = onnx.load_from_string(onnx_of(family)).graph
    assert {node.op_type for node in graph.node} <= EVERYWHERE
    assert {node.domain for node in graph.node} == {""}


@every_family
def test_a_family_builds_the_same_network_from_the_same_seed(family: str) -> None:
    from model_export.train import build

    one, other = (build(recipe_of(family)).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_ldse_net_does_not_care_how_bright_the_lamp_is() -> None:
    from model_export.export import random_counts

    dim = random_counts(2, seed=3) // 3 + 20
    bright = (2 * (dim.astype(np.int64) + 1) - 1).astype(np.uint8)
    with torch.no_grad():
        under_dim, under_bright = (net_of("ldse_net")(torch.from_numpy(c))[0] for c in (dim, bright))
    assert under_bright == pytest.approx(under_dim, abs=1e-3)


@every_family
def test_a_family_exports_with_a_free_batch_and_answers_as_in_torch(family: str) -> None:
    from model_export.export import answers_of, check_parity, random_also, random_counts

    outputs = plugins.load("model_export.families", family).OUTPUTS
    counts, also = random_counts(5, 4, recipe_of(family).patch_px), random_also(family, 5, seed=4)
    golden = answers_of(net_of(family), counts, outputs, also)
    assert check_parity(onnx_of(family), golden, counts, also) < 2e-3


@every_family
def test_an_export_that_answers_differently_is_refused(family: str) -> None:
    from model_export.errors import ParityError
    from model_export.export import answers_of, check_parity, random_also, random_counts

    outputs = plugins.load("model_export.families", family).OUTPUTS
    counts, also = random_counts(2, 5, recipe_of(family).patch_px), random_also(family, 2, seed=5)
    golden = answers_of(net_of(family), counts, outputs, also)
    golden[outputs[0]] = golden[outputs[0]] + np.float32(0.01)
    with pytest.raises(ParityError, match=outputs[0]):
        check_parity(onnx_of(family), golden, counts, also)


@every_family
def test_an_export_is_the_same_bytes_every_time(family: str) -> None:
    from model_export.export import to_onnx
    from model_export.families import also_of

    outputs = plugins.load("model_export.families", family).OUTPUTS
    assert to_onnx(net_of(family), outputs, recipe_of(family).patch_px, also_of(family)) == onnx_of(family)
