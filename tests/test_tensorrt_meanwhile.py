"""A bundle is served at once, its engine is built by a process of its own, and takes over between two batches."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import stand_in_gpu as machine
import stand_in_jetson as jetson
import stand_in_tensorrt as tensorrt
from numpy.typing import NDArray

from edge_app import runtime as runtimes
from edge_app.bundle import FACTORY, ModelBundle, read
from edge_app.errors import RuntimeFailed
from edge_app.model import ModelSource
from edge_app.nvidia import background
from edge_app.nvidia.cache import EngineCache
from edge_app.nvidia.making import make
from edge_app.runtimes import tensorrt as runtime
from firmware.frames import FrameOptics
from firmware.profile import load_profile

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return read(FACTORY / "spectral_20x_grey.parfocal")


@pytest.fixture
def gpu(tmp_path: Path) -> Iterator[machine.Gpu]:
    with jetson.installed(tmp_path) as gpu:
        jetson.tell_builders()
        yield gpu


def opened(bundle: ModelBundle, builds: bool = True) -> runtimes.Runtime:
    return runtimes.open_runtime(bundle, "tensorrt", 1, builds)


def ended(bundle: ModelBundle) -> background.Build:
    """The build of a bundle's engine, when it has ended and its callers have been told."""
    build = background.build(runtime.order(bundle), Path("unused"))
    build._thread.join(PATIENCE_S)
    assert not build._thread.is_alive()
    return build


def is_right(served: runtimes.Runtime, bundle: ModelBundle) -> None:
    for name, values in served.infer(bundle.golden_in).items():
        np.testing.assert_allclose(values, bundle.golden_out[name], atol=1e-3)


def test_onnx_runtime_serves_until_the_engine_is_built(gpu: machine.Gpu, bundle: ModelBundle) -> None:
    served = opened(bundle)
    assert served.name == "onnxruntime"
    assert served.note.startswith("the TensorRT engine is being built, ")
    is_right(served, bundle)
    assert ended(bundle).error == ""
    assert served.note == "the TensorRT engine is built and takes over at the next look"
    assert gpu.launches == 1, "what was recorded was asked too, before it serves"
    is_right(served, bundle)
    assert (served.name, served.note) == ("tensorrt", "")


def test_a_server_that_is_asked_without_pause_refuses_nothing_while_it_changes_over(
    gpu: machine.Gpu, bundle: ModelBundle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    served = opened(bundle)
    names = []
    until_s = time.monotonic() + PATIENCE_S
    while served.name != "tensorrt" and time.monotonic() < until_s:
        is_right(served, bundle)
        names.append(served.name)
    is_right(served, bundle)
    assert names[0] == "onnxruntime"
    assert names == sorted(names), "there is no way back"
    assert served.name == "tensorrt"
    assert [r.message for r in caplog.records if "serves from now on" in r.message] == [
        f"{bundle.manifest.label}: tensorrt serves from now on, onnxruntime did before"
    ]


def test_the_engine_is_found_at_the_next_start(gpu: machine.Gpu, bundle: ModelBundle) -> None:
    opened(bundle)
    ended(bundle)
    background.stop_all()
    again = opened(bundle, builds=False)
    assert (again.name, again.note) == ("tensorrt", "")
    assert gpu.launches > 0, "what was recorded was asked too, before it serves"
    assert background._builds == {}


def test_one_look_starts_no_build_and_says_how_to_get_one(gpu: machine.Gpu, bundle: ModelBundle) -> None:
    served = opened(bundle, builds=False)
    assert served.name == "onnxruntime"
    assert "parfocal serve" in served.note
    assert served.note.endswith("; onnxruntime serves")
    assert background._builds == {}


def test_a_model_source_builds_only_where_it_may(gpu: machine.Gpu, bundle: ModelBundle) -> None:
    path = str(FACTORY / "spectral_20x_grey.parfocal")
    optics = dataclasses.replace(board_optics(), colour=False)
    assert "has not been prepared" in ModelSource(path, "tensorrt", 1).model_for(optics).note
    assert "is being built" in ModelSource(path, "tensorrt", 1, builds=True).model_for(optics).note


def test_without_a_name_tensorrt_is_preferred(gpu: machine.Gpu, bundle: ModelBundle) -> None:
    served = runtimes.open_runtime(bundle, "", 1, builds=True)
    assert "the TensorRT engine is being built" in served.note
    ended(bundle)
    background.stop_all()
    assert runtimes.open_runtime(bundle, "", 1).name == "tensorrt"


def test_one_look_without_a_name_is_by_the_fastest_that_can_serve_now(
    gpu: machine.Gpu, bundle: ModelBundle, caplog: pytest.LogCaptureFixture
) -> None:
    assert runtimes.open_runtime(bundle, "", 1).name == "openvino"
    assert "tensorrt has not been prepared for this model" in caplog.text
    assert background._builds == {}


def test_two_models_of_one_bundle_share_one_build(gpu: machine.Gpu, bundle: ModelBundle) -> None:
    first, second = opened(bundle), opened(bundle)
    assert len(background._builds) == 1
    ended(bundle)
    for served in (first, second):
        is_right(served, bundle)
        assert served.name == "tensorrt"


def test_a_model_that_was_dropped_loads_no_engine(gpu: machine.Gpu, bundle: ModelBundle) -> None:
    served = opened(bundle)
    del served
    gc.collect()
    ended(bundle)
    assert gpu.primary == 0, "this process has not touched the GPU"


@pytest.mark.parametrize(
    ("fault", "told"),
    [({"build": "no kernel fits"}, "no kernel fits"), ({"parse": "no such operator"}, "no such operator"),
     ({"crash_at": 1}, "was ended by signal 11")],
)  # fmt: skip
def test_a_build_that_fails_is_told_and_onnx_runtime_goes_on(
    gpu: machine.Gpu, bundle: ModelBundle, fault: dict[str, object], told: str
) -> None:
    for name, value in fault.items():
        setattr(tensorrt.FAULTS, name, value)
    jetson.tell_builders()
    served = opened(bundle)
    ended(bundle)
    is_right(served, bundle)
    assert served.name == "onnxruntime"
    assert told in served.note
    assert served.note.endswith("; onnxruntime serves")
    assert "could not be built" in opened(bundle).note, "it is not tried again and again"


def test_an_engine_with_wrong_answers_never_serves(gpu: machine.Gpu, bundle: ModelBundle) -> None:
    tensorrt.FAULTS.wrong_by = 0.05
    jetson.tell_builders()
    served = opened(bundle)
    ended(bundle)
    is_right(served, bundle)
    assert served.name == "onnxruntime"
    assert "off by 0.05" in served.note
    gc.collect()
    assert gpu.left() == {}


def test_a_kept_engine_with_wrong_answers_never_serves(gpu: machine.Gpu, bundle: ModelBundle, tmp_path: Path) -> None:
    tensorrt.FAULTS.wrong_by = 0.05
    make(runtime.order(bundle), EngineCache(tmp_path / "engines"), lambda _: True)
    for builds in (False, True):
        served = opened(bundle, builds)
        assert served.name == "onnxruntime"
        assert "off by 0.05" in served.note
    assert background._builds == {}


def test_where_onnx_runtime_is_wrong_too_nothing_serves(gpu: machine.Gpu, bundle: ModelBundle) -> None:
    wrong = {name: values + 1.0 for name, values in bundle.golden_out.items()}
    with pytest.raises(RuntimeFailed, match="golden"):
        opened(dataclasses.replace(bundle, golden_out=wrong))


def test_a_killed_builder_is_a_build_that_failed(gpu: machine.Gpu, bundle: ModelBundle) -> None:
    tensorrt.FAULTS.hang_at = 1
    jetson.tell_builders()
    served = opened(bundle)
    wait_for(lambda: "12%" in served.note)
    os.kill(background.build(runtime.order(bundle), Path("unused"))._process.pid, signal.SIGKILL)
    ended(bundle)
    assert "signal 9" in served.note
    is_right(served, bundle)


def test_builds_end_with_this_process(gpu: machine.Gpu, bundle: ModelBundle) -> None:
    tensorrt.FAULTS.hang_at = 1
    jetson.tell_builders()
    served = opened(bundle)
    build = background.build(runtime.order(bundle), Path("unused"))
    wait_for(lambda: "12%" in served.note)
    background.stop_all()
    assert build._process.returncode == -signal.SIGKILL
    assert not build._thread.is_alive()


def test_a_builder_whose_parent_died_ends_by_itself(gpu: machine.Gpu, bundle: ModelBundle) -> None:
    tensorrt.FAULTS.hang_at = 1
    jetson.tell_builders()
    served = opened(bundle)
    build = background.build(runtime.order(bundle), Path("unused"))
    wait_for(lambda: "12%" in served.note)
    assert build._process.stdin is not None
    build._process.stdin.close()
    assert build._process.wait(PATIENCE_S) == 75


def test_an_engine_that_cannot_be_kept_serves_from_memory(
    gpu: machine.Gpu, bundle: ModelBundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "engines").write_text("a file where the folder should be")
    served = opened(bundle)
    ended(bundle)
    is_right(served, bundle)
    assert served.name == "tensorrt"
    assert any("not kept" in record.message for record in caplog.records)


@pytest.mark.parametrize("change", ["gpu", "tensorrt", "network"])
def test_another_gpu_tensorrt_or_network_is_built_anew(
    gpu: machine.Gpu, bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    opened(bundle)
    ended(bundle)
    if change == "gpu":
        gpu.name = "Another GPU"
    elif change == "tensorrt":
        monkeypatch.setattr(tensorrt, "__version__", "11.4.0.106")
    else:
        bundle = read(FACTORY / "spectral_20x.parfocal")
    jetson.tell_builders()
    served = opened(bundle)
    assert "is being built" in served.note
    ended(bundle)
    is_right(served, bundle)
    assert served.name == "tensorrt"


def test_a_kept_engine_that_cannot_be_loaded_stays_until_another_is_built(
    gpu: machine.Gpu, bundle: ModelBundle, tmp_path: Path
) -> None:
    cache, order = EngineCache(tmp_path / "engines"), runtime.order(bundle)
    path = cache.keep(order, b"of a TensorRT that says the same version", 1.0, ())
    old = path.read_bytes()
    assert "build it anew" in opened(bundle, builds=False).note
    served = opened(bundle)
    assert "is being built" in served.note
    assert path.read_bytes() == old
    ended(bundle)
    is_right(served, bundle)
    assert served.name == "tensorrt"
    assert path.read_bytes() != old


def test_a_good_engine_that_finds_no_memory_stays(gpu: machine.Gpu, bundle: ModelBundle, tmp_path: Path) -> None:
    cache, order = EngineCache(tmp_path / "engines"), runtime.order(bundle)
    kept = make(order, cache, lambda _: True)
    tensorrt.FAULTS.no_memory = True
    jetson.tell_builders()
    assert "(out of memory); free some memory" in opened(bundle, builds=False).note
    served = opened(bundle)
    ended(bundle)
    assert "could not be built: " in served.note
    tensorrt.FAULTS.no_memory = False
    found = cache.find(order)
    assert found is not None
    assert found.plan == kept.plan
    assert opened(bundle, builds=False).name == "tensorrt"


def test_an_engine_of_the_service_that_cannot_be_loaded_is_not_said_to_be_discarded(
    gpu: machine.Gpu, bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(runtime, "SHARED", tmp_path / "shared")
    path = EngineCache(tmp_path / "shared").keep(runtime.order(bundle), b"of another", 1.0, ())
    assert opened(bundle, builds=False).name == "onnxruntime"
    assert path.exists()
    assert "discarded" not in caplog.text


@pytest.mark.parametrize("kept", [False, True], ids=["after_a_change_over", "from_the_cache"])
def test_a_gpu_that_fails_in_service_is_given_up_for_onnx_runtime(
    gpu: machine.Gpu, bundle: ModelBundle, tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: bool
) -> None:
    if kept:
        make(runtime.order(bundle), EngineCache(tmp_path / "engines"), lambda _: True)
    served = opened(bundle)
    if not kept:
        ended(bundle)
    is_right(served, bundle)
    assert (served.name, served.note) == ("tensorrt", "")
    gpu.kill("an illegal memory access was encountered")
    for _ in range(2):
        is_right(served, bundle)
        assert served.name == "onnxruntime"
    assert served.note.endswith("; tensorrt is given up until the next start; onnxruntime serves")
    assert [r.levelno for r in caplog.records if "is given up" in r.message] == [logging.WARNING]


def test_a_spare_runtime_that_answers_wrongly_does_not_take_over(
    gpu: machine.Gpu, bundle: ModelBundle, tmp_path: Path
) -> None:
    wrong = {name: values + 1.0 for name, values in bundle.golden_out.items()}
    tensorrt.FAULTS.wrong_by = 1.0
    make(runtime.order(bundle), EngineCache(tmp_path / "engines"), lambda _: True)
    served = opened(dataclasses.replace(bundle, golden_out=wrong))
    assert served.name == "tensorrt"
    gpu.kill("an illegal memory access was encountered")
    with pytest.raises(RuntimeFailed, match=r"onnxruntime answers .* wrongly"):
        served.infer(bundle.golden_in)


def test_onnx_runtime_that_fails_is_given_up_for_nothing(gpu: machine.Gpu, bundle: ModelBundle) -> None:
    class Failing:
        name, note = "onnxruntime", ""

        def infer(self, counts: object, also: object = None) -> dict[str, NDArray[np.float32]]:
            raise RuntimeFailed("no")

    served = runtimes.Meanwhile(Failing(), "tensorrt", bundle, lambda: pytest.fail("there is no other"))
    with pytest.raises(RuntimeFailed, match="no"):
        served.infer(bundle.golden_in)


def test_the_thread_that_infers_is_the_one_that_changes_over(gpu: machine.Gpu, bundle: ModelBundle) -> None:
    served = opened(bundle)
    ended(bundle)
    assert served.name == "onnxruntime", "nothing changes before the next batch"
    told: list[str] = []

    def ask() -> None:
        is_right(served, bundle)
        told.append(served.name)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert told == ["tensorrt"]


def board_optics() -> FrameOptics:
    profile = load_profile("simulated")
    return profile.frame_optics(profile.objective[0])


def wait_for(true: Callable[[], bool]) -> None:
    """What another process does has no clock that could be passed."""
    until_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until_s
        time.sleep(0.01)
