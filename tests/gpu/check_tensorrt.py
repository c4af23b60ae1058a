"""TensorRT on a real GPU builds an engine of every factory bundle, and it answers as the bundle's golden outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_app import bundle as bundles
from edge_app.nvidia import driver, engine, making, sdk
from edge_app.nvidia.cache import EngineCache
from edge_app.nvidia.execution import Execution
from edge_app.runtime import checked
from edge_app.runtimes import tensorrt

GPU = driver.probe()
LACKS = GPU if isinstance(GPU, str) else sdk.missing()
pytestmark = [pytest.mark.skipif(bool(LACKS), reason=LACKS or "-"), pytest.mark.timeout(1200)]


@pytest.mark.parametrize("path", bundles.factory_bundles(), ids=lambda path: path.stem)
def test_an_engine_is_built_right_kept_and_found_again(path: Path, tmp_path: Path) -> None:
    bundle = bundles.read(path)
    order, cache = tensorrt.order(bundle), EngineCache(tmp_path)
    parts: list[float] = []

    def progress(part: float) -> bool:
        parts.append(part)
        return True

    kept = making.make(order, cache, progress)
    execution = Execution(kept.plan, order)
    checked("tensorrt", bundle, lambda: tensorrt.TensorRt(execution), usual=True)
    assert execution._graph is not None
    assert parts == sorted(parts)
    found = EngineCache(tmp_path).find(order)
    assert found is not None
    assert found.plan == kept.plan


def test_batches_of_all_sizes_answer_as_each_patch_does_alone(tmp_path: Path) -> None:
    bundle = bundles.read(bundles.find("spectral_20x"))
    order = tensorrt.order(bundle)
    execution = Execution(making.make(order, EngineCache(tmp_path), lambda _: True).plan, order)
    rows = np.resize(np.arange(len(bundle.golden_in)), 200)
    alone = execution.infer(bundle.golden_in)
    for count in (1, 7, 24, 48, 88, 200):
        answers = execution.infer(bundle.golden_in[rows[:count]])
        for name, golden in alone.items():
            assert answers[name] == pytest.approx(golden[rows[:count]], abs=0.02)
    execution.close()


def test_an_engine_tells_its_layers(tmp_path: Path) -> None:
    order = tensorrt.order(bundles.read(bundles.find("spectral_20x")))
    kept = making.make(order, EngineCache(tmp_path), lambda _: True)
    with sdk.device().current():
        runtime, opened = engine.open_engine(kept.plan, order.label)
        layers = engine.layers(opened)
        del opened, runtime
    assert layers
    assert all(layer.name for layer in layers)
