"""Runtimes: every one that is installed answers the factory bundle's golden inputs, in any batch."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_app import runtime as runtimes
from edge_app.bundle import factory_bundles, find, read
from edge_app.errors import RuntimeFailed
from edge_app.model import open_model
from firmware import plugins

USABLE = sorted(name for name, missing in runtimes.available().items() if not missing)


def test_at_least_two_runtimes_are_here() -> None:
    assert {"onnxruntime", "openvino"} <= set(USABLE)


@pytest.mark.parametrize("name", USABLE)
@pytest.mark.parametrize("path", factory_bundles(), ids=lambda p: p.stem)
def test_a_patch_gets_the_same_answer_alone_and_in_company(path: Path, name: str) -> None:
    bundle = read(path)
    engine = runtimes.open_runtime(bundle, name)
    rows = np.arange(19) % len(bundle.golden_in)
    counts = bundle.golden_in[rows]
    also = {name: values[rows] for name, values in bundle.golden_also.items()}
    together = engine.infer(counts, also)
    alone = engine.infer(counts[7:8], {name: values[7:8] for name, values in also.items()})
    for output in bundle.manifest.outputs:
        assert together[output].shape == (19, *bundle.golden_out[output].shape[1:])
        assert alone[output][0] == pytest.approx(together[output][7], abs=1e-3)


@pytest.mark.parametrize("name", USABLE)
def test_a_bundle_with_other_golden_answers_does_not_serve(name: str) -> None:
    bundle = read(find("ldse_net_20x"))
    wrong = {key: value + 1.0 for key, value in bundle.golden_out.items()}
    with pytest.raises(RuntimeFailed, match="golden"):
        runtimes.open_runtime(dataclasses.replace(bundle, golden_out=wrong), name)


@pytest.mark.parametrize("name", USABLE)
def test_a_graph_that_is_none_is_one_clear_error(name: str) -> None:
    bundle = dataclasses.replace(read(find("ldse_net_20x")), onnx=b"nonsense")
    with pytest.raises(RuntimeFailed, match="refused"):
        runtimes.open_runtime(bundle, name)


def test_an_unknown_runtime_names_the_known_ones() -> None:
    with pytest.raises(RuntimeFailed, match="onnxruntime"):
        runtimes.open_runtime(read(find("ldse_net_20x")), "abacus")


def test_openvino_is_imported_without_its_telemetry() -> None:
    runtimes.open_runtime(read(find("ldse_net_20x")), "openvino")
    assert sys.modules["openvino_telemetry"] is None


def test_a_model_that_the_fastest_runtime_answers_wrongly_is_served_by_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = read(find("ldse_net_20x"))
    module = plugins.load(runtimes.PACKAGE, "openvino")
    right = module.OpenVino.infer
    off = {"defocus_um": np.float32(1.8)}
    monkeypatch.setattr(
        module.OpenVino, "infer", lambda self, *asked: {k: v + off.get(k, 0) for k, v in right(self, *asked).items()}
    )
    assert runtimes.open_runtime(bundle).name == "onnxruntime"
    assert "openvino answers" in caplog.text


class Failing:
    """A runtime that fails in its own words."""

    name, note = "failing", ""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def infer(self, counts: object, also: object = None) -> dict[str, NDArray[np.float32]]:
        raise self._error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeFailed("the GPU is broken: restart the service"), "^the GPU is broken: restart the service$"),
        (ValueError("odd"), "^failing failed on .*: odd; restart the server$"),
    ],
)
def test_a_runtime_that_fails_is_told_with_one_cure(error: Exception, told: str) -> None:
    path = find("ldse_net_20x")
    model = dataclasses.replace(open_model(path, "onnxruntime"), runtime=Failing(error))
    with pytest.raises(RuntimeFailed, match=told):
        model.infer(read(path).golden_in)
