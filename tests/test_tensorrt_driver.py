"""The NVIDIA driver is asked before its SDKs are imported, and says in a sentence what is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import stand_in_gpu as machine
import stand_in_jetson as jetson
import stand_in_tensorrt as tensorrt

from edge_app import doctor
from edge_app import runtime as runtimes
from edge_app.bundle import factory_bundles, read
from edge_app.errors import RuntimeFailed
from edge_app.nvidia import driver
from edge_app.runtimes import tensorrt as runtime


@pytest.fixture
def gpu(tmp_path: Path) -> Iterator[machine.Gpu]:
    with jetson.installed(tmp_path) as gpu:
        yield gpu


def test_a_gpu_is_told_by_name_capability_memory_cuda_and_size(gpu: machine.Gpu) -> None:
    found = driver.probe()
    assert found == driver.Gpu("Stand-in GPU", (8, 7), 8 * 2**30, "12.6", 8)
    assert found.architecture == "8.7"


def test_a_machine_without_the_driver_is_told_what_to_install() -> None:
    def none(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    said = driver.probe(none)
    assert isinstance(said, str)
    assert said.startswith("the NVIDIA driver is not installed (libcuda.so.1 was not found)")
    assert "JetPack" in said


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (100, "error 100 (CUDA_ERROR_NO_DEVICE) to cuInit; look for it"),
        (803, "error 803 (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH) to cuInit; its kernel module"),
        (999, "error 999 (unknown) to cuInit; look into the kernel's log"),
        (777, "error 777 (unknown) to cuInit; restart the machine, or install"),
    ],
)
def test_a_driver_that_refuses_is_a_sentence_with_its_error(gpu: machine.Gpu, code: int, told: str) -> None:
    gpu.init_error = code
    said = driver.probe()
    assert isinstance(said, str)
    assert told in said
    assert runtime.missing() == said


def test_a_driver_without_a_gpu_is_a_sentence(gpu: machine.Gpu) -> None:
    gpu.devices = 0
    assert str(driver.probe()).startswith("the NVIDIA driver knows no GPU")


def test_a_library_that_is_no_driver_is_a_sentence() -> None:
    assert "is not a CUDA driver" in str(driver.probe(lambda _: object()))


def test_with_a_gpu_and_the_sdks_nothing_is_missing(gpu: machine.Gpu) -> None:
    assert runtime.missing() == ""
    assert runtimes.available()["tensorrt"] == ""


def test_tensorrt_and_pycuda_are_asked_for_after_the_driver(gpu: machine.Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    assert runtime.missing().startswith("pycuda cannot be imported")
    assert "parfocal[jetson]" in runtime.missing()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert runtime.missing().startswith("tensorrt cannot be imported")
    gpu.devices = 0
    assert "knows no GPU" in runtime.missing()


@pytest.mark.parametrize(
    ("version", "old"), [("8.6.1", True), ("10.2.9", True), ("10.3.0", False), ("11.4.0.106", False)]
)
def test_a_tensorrt_before_10_3_is_too_old(
    gpu: machine.Gpu, monkeypatch: pytest.MonkeyPatch, version: str, old: int
) -> None:
    monkeypatch.setattr(tensorrt, "__version__", version)
    assert runtime.missing().startswith(f"TensorRT {version} is too old") is bool(old)


def test_nothing_of_nvidia_is_imported_where_there_is_no_driver() -> None:
    asked = (
        "import sys; from edge_app.runtimes import tensorrt; print(bool(tensorrt.missing()));"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in ('tensorrt', 'pycuda')))"
    )
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    if told.stdout.startswith("False"):
        pytest.skip("this machine has all of it")
    assert told.stdout == "True\n[]\n"


def test_the_runtime_by_name_is_refused_with_that_sentence(gpu: machine.Gpu) -> None:
    gpu.devices = 0
    with pytest.raises(RuntimeFailed, match="'tensorrt' cannot be used here: the NVIDIA driver knows no GPU"):
        runtimes.open_runtime(read(factory_bundles()[0]), "tensorrt")


def test_doctor_tells_of_the_gpu_and_its_engines_or_why_there_is_none(gpu: machine.Gpu) -> None:
    def found() -> dict[str, object]:
        (one,) = [each for each in doctor.examine()["findings"] if each["what"] == "gpu"]
        return dict(one)

    assert found()["ok"] is True
    assert str(found()["detail"]).startswith("compute capability 8.7, 8.0 GiB, CUDA 12.6; 0 engines in ")
    gpu.devices = 0
    assert found()["ok"] is False
    assert str(found()["detail"]).endswith("; only the runtime tensorrt needs it")
