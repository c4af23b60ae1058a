"""Every name that our code and our stand-ins take from NVIDIA's SDKs is a real one, in every version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nvidia_names as names
import pytest

TESTS = Path(__file__).parent
OURS = [
    *sorted((names.ROOT / "edge_app" / "nvidia").glob("*.py")),
    names.ROOT / "edge_app" / "runtimes" / "tensorrt.py",
]
every_version = pytest.mark.parametrize("version", names.VERSIONS)
REAL: dict[str, Any] = {
    "classes": {
        "Builder": {
            "methods": {
                "__init__": [[["self", False], ["logger", False]]],
                "build": [[["self", False], ["plan", True]]],
            },
            "properties": ["logger"],
            "constants": [],
            "members": [],
        },
        "Flag": {"methods": {}, "properties": [], "constants": [], "members": ["TF32"]},
    },
    "functions": {"volume": [[["iterable", False]]], "alloc": [[["arg1", False], ["flags", True]]]},
    "values": ["__version__"],
}


HANDLES = {
    "stand_in_tensorrt.py": frozenset({"Faults", "installed", "tell_builders"}),
    "stand_in_pycuda.py": frozenset(
        {
            *("Gpu", "open_library", "reset"),
            *("Event.capture", "Event.mark", "Event.stream", "Stream.capture", "Stream.lane"),
        }
    ),
}
"""What a stand-in has besides, for tests to hold; our code must not."""


def stated(name: str) -> list[names.Stated]:
    return list(names.stated((TESTS / name).read_text(), HANDLES[name]))


def wrong(code: str, version: str = "10.3.0") -> list[str]:
    return names.faults(list(names.stated(code, frozenset({"Bench", "Flag.held"}))), REAL, version)


@every_version
def test_every_name_of_the_stand_in_is_one_of_tensorrt(version: str) -> None:
    assert not names.faults(stated("stand_in_tensorrt.py"), names.tensorrt(version), version)


def test_every_name_of_the_stand_in_is_one_of_pycuda() -> None:
    assert not names.faults(stated("stand_in_pycuda.py"), names.pycuda(), "2026.1")


def test_the_stand_ins_state_what_engines_are_built_and_run_with() -> None:
    tensorrt = {one.name for one in stated("stand_in_tensorrt.py")}
    assert tensorrt >= {"Builder.create_network", "OnnxParser.parse", "IExecutionContext.execute_async_v3"}
    assert {one.name for one in stated("stand_in_pycuda.py")} >= {
        "Stream.synchronize",
        "mem_alloc",
        "memcpy_htod_async",
    }


@every_version
@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_our_code_takes_only_what_tensorrt_has(path: Path, version: str) -> None:
    real = names.tensorrt(version)
    found = [names.unknown(name, call, real) for name, call in names.taken(path.read_text(), {"trt", "tensorrt"})]
    assert not any(found), sorted(filter(None, found))


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_our_code_takes_only_what_pycuda_has(path: Path) -> None:
    real = names.pycuda()
    found = [names.unknown(name, call, real) for name, call in names.taken(path.read_text(), {"cuda"})]
    assert not any(found), sorted(filter(None, found))


def test_nothing_is_a_handle_that_the_real_bindings_have() -> None:
    real = {"stand_in_tensorrt.py": names.tensorrt("10.3.0"), "stand_in_pycuda.py": names.pycuda()}
    assert not [one for file, own in HANDLES.items() for one in own if not names.unknown(one, None, real[file])]


def test_our_code_takes_names_from_both() -> None:
    everything = "\n".join(path.read_text().replace("from __future__ import annotations", "") for path in OURS)
    assert "Builder" in {name for name, _ in names.taken(everything, {"trt"})}
    assert "Stream" in {name for name, _ in names.taken(everything, {"cuda"})}


def test_our_code_asks_the_driver_only_for_what_it_exports_today() -> None:
    asked = set().union(*(names.functions_named(path.read_text()) for path in OURS))
    assert {"cuInit", "cuDeviceGetCount"} <= asked
    assert asked <= names.driver_functions()


def test_a_driver_without_a_gpu_is_told_in_a_sentence() -> None:
    told = names.run(names.rig() / "pycuda", "-c", "from edge_app.nvidia import driver; print(driver.probe())")
    assert told.startswith("the NVIDIA driver answers error 100 (CUDA_ERROR_NO_DEVICE) to cuInit; ")


def test_what_is_missing_without_a_gpu_is_the_gpu() -> None:
    told = names.run(names.rig() / "pycuda", "-c", "from edge_app.nvidia import sdk; print(sdk.missing())")
    assert "CUDA_ERROR_NO_DEVICE" in told


def test_pycuda_refuses_to_begin_without_a_gpu_by_an_error_that_we_catch() -> None:
    real = names.pycuda()
    assert real["refusal"] == "cuInit failed: no CUDA-capable device is detected"
    assert all("Error" in real["classes"][kind]["bases"] for kind in ("RuntimeError", "LogicError", "MemoryError"))


def test_the_real_bindings_are_really_read() -> None:
    real = names.tensorrt("10.3.0")
    assert len(real["classes"]) > 150
    assert real["classes"]["Builder"]["methods"]["create_network"] == [[["self", False], ["flags", True]]]
    assert "FP16" in real["classes"]["BuilderFlag"]["members"]
    assert "FP16" not in names.tensorrt("11.4.0.106")["classes"]["BuilderFlag"]["members"]


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("class Builder:\n def invent(self): ...", "there is no Builder.invent"),
        ("class Made: ...", "there is no Made"),
        ("class Flag:\n FP4 = 1", "there is no Flag.FP4"),
        ("class Builder:\n def set(self):\n  self.speed = 1", "there is no Builder.speed"),
        ("class Builder:\n def build(self, engine): ...", "Builder.build('self', 'engine') is none of"),
        ("class Builder:\n def build(self, plan, more): ...", "is none of"),
        ("class Builder:\n def __init__(self): ...", "Builder.__init__('self',) is none of"),
        ("def volume(iterable=()): ...", "volume('iterable',) is none of"),
        ("def volume(): ...", "volume() is none of"),
        ("def area(): ...", "there is no area"),
    ],
)
def test_a_stand_in_with_a_made_up_name_is_found_out(code: str, fault: str) -> None:
    assert any(fault in told for told in wrong(code))


def test_a_made_up_name_in_either_stand_in_would_be_found_out() -> None:
    invented = "\nclass Stream:\n    def hurry(self): ...\nclass Builder:\n    def hurry(self): ...\n"
    for file, real, version in (
        ("stand_in_tensorrt.py", names.tensorrt("11.4.0.106"), "11.4.0.106"),
        ("stand_in_pycuda.py", names.pycuda(), "2026.1"),
    ):
        source = (TESTS / file).read_text() + invented
        assert any("hurry" in told for told in names.faults(list(names.stated(source)), real, version))


@pytest.mark.parametrize(
    "code",
    [
        "class Builder:\n def __init__(self, logger):\n  self.logger = logger\n  self._own = 1",
        "class Builder:\n def build(self): ...\n @property\n def logger(self): ...\n def _mine(self): ...",
        "class Bench: ...\nclass _Own: ...\nclass Flag:\n TF32 = 1\n held = 2",
        "def alloc(size, flags=0): ...",
        "class Builder:\n SINCE = '11.0'\n def invent(self): ...",
        "class Builder:\n @until('10.0')\n def invent(self): ...",
    ],
)
def test_a_stand_in_that_has_only_real_names_passes(code: str) -> None:
    assert not wrong(code)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("trt.Builder(log).build()", ""),
        ("self.trt.Flag.TF32", ""),
        ("trt.Flag.FP16", "there is no Flag.FP16"),
        ("trt.Engine", "there is no Engine"),
        ("trt.Builder()", "Builder is not called like that"),
        ("trt.volume(shape=3)", "volume is not called like that"),
        ("trt.volume(iterable=3)", ""),
    ],
)
def test_code_that_takes_a_made_up_name_is_found_out(code: str, fault: str) -> None:
    told = [names.unknown(path, call, REAL) for path, call in names.taken(code, {"trt"})]
    assert told
    assert any(told) == bool(fault)
    assert any(fault in one for one in told)


def test_a_driver_function_is_found_as_attribute_and_as_text() -> None:
    assert names.functions_named("library.cuInit(0)\ncall('cuMemAlloc_v2')\nx = 'custom'") == {
        "cuInit",
        "cuMemAlloc_v2",
    }
