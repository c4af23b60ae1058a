"""The benchmark's ratios: same runtime with same runtime, turn with turn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edge_app import bench

FAST = {"median": 2.0, "low": 1.0, "high": 4.0}


def model(name: str, runtime: str) -> Any:
    """As much of a loaded model as comparing asks for."""
    manifest = SimpleNamespace(name=name)
    return SimpleNamespace(
        label=f"{name}@1", runtime=SimpleNamespace(name=runtime), bundle=SimpleNamespace(manifest=manifest)
    )


def test_ldse_net_is_compared_turn_by_turn_in_the_same_runtime_and_with_the_fastest() -> None:
    models = [model(bench.REFERENCE, "onnxruntime"), model(bench.REFERENCE, "openvino")]
    models += [model("used", "onnxruntime"), model("used", "openvino"), model("other", "onnxruntime")]
    times = [[8.0, 8.0, 8.0], [3.0, 3.0, 3.0], [2.0, 4.0, 8.0], [1.0, 1.0, 2.0], [0.1, 0.1, 0.1]]
    assert bench._against_reference(models, times, 3) == {
        "ldse_net_20x_over_used_in_onnxruntime": FAST,
        "ldse_net_20x_over_used_in_openvino": {"median": 3.0, "low": 1.5, "high": 3.0},
        "ldse_net_20x_in_onnxruntime_over_fastest": {"median": 8.0, "low": 4.0, "high": 8.0},
    }


@pytest.mark.parametrize("runtime", ["openvino", "tensorrt"])
def test_without_ldse_net_in_a_runtime_that_runtime_is_not_compared(runtime: str) -> None:
    models = [model(bench.REFERENCE, "onnxruntime"), model("used", runtime)]
    ratios = bench._against_reference(models, [[8.0], [4.0]], 1)
    assert list(ratios) == ["ldse_net_20x_in_onnxruntime_over_fastest"]


def test_without_ldse_net_there_is_nothing_to_compare_with() -> None:
    assert bench._against_reference([model("used", "onnxruntime")], [[1.0]], 0) == {}
