"""Engines are kept under a key of all that makes them differ, whole or not at all, and proven before they are used."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import stand_in_gpu as machine
import stand_in_jetson as jetson
import stand_in_tensorrt as tensorrt

from edge_app.bundle import FACTORY, ModelBundle, read
from edge_app.errors import RuntimeFailed, StateUnusable
from edge_app.nvidia.build import write_order
from edge_app.nvidia.cache import EngineCache, cache_folder
from edge_app.nvidia.driver import Gpu
from edge_app.nvidia.engine import Layer
from edge_app.nvidia.making import make
from edge_app.nvidia.order import MOST, Order, order_for, order_from
from edge_app.runtimes import tensorrt as runtime

GPU = Gpu("Orin", (8, 7), 8 * 2**30, "12.6", 8)
LAYERS = (Layer("conv", "CaskConvolution", "Float"),)
PLAN = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return read(FACTORY / "spectral_20x_grey.parfocal")


@pytest.fixture
def order(bundle: ModelBundle) -> Order:
    return order_for(bundle, GPU, "10.3.0")


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.fixture
def gpu(tmp_path: Path) -> Iterator[machine.Gpu]:
    with jetson.installed(tmp_path) as gpu:
        yield gpu


def test_what_is_kept_is_found_as_it_was(cache: EngineCache, order: Order) -> None:
    path = cache.keep(order, PLAN, 61.5, LAYERS)
    found = cache.find(order)
    assert found is not None
    assert (found.plan, found.build_s, found.layers, found.path) == (PLAN, 61.5, LAYERS, path)
    assert [entry.name for entry in cache.folder.iterdir()] == [path.name]


def test_nothing_is_found_where_nothing_was_kept(cache: EngineCache, order: Order) -> None:
    assert cache.find(order) is None


def test_engines_of_the_service_are_found_by_others_who_keep_theirs_elsewhere(tmp_path: Path, order: Order) -> None:
    service = EngineCache(tmp_path / "var")
    person = EngineCache(tmp_path / "home", tmp_path / "var")
    path = service.keep(order, PLAN, 1.0, LAYERS)
    found = person.find(order)
    assert found is not None
    assert found.path == path
    path.write_bytes(path.read_bytes()[:-1])
    assert person.find(order) is None
    assert path.exists(), "it is the service's to discard"


CHANGES: dict[str, object] = {
    "onnx": b"another network",
    "tensorrt": "10.16.1.11",
    "gpu": "Orin Nano",
    "architecture": "8.9",
    "multiprocessors": 16,
    "precision": "fp16",
    "usual": 24,
    "input": "pixels",
    "patch_px": 448,
    "outputs": ("defocus_um",),
    "recipe": 2,
    "also": (("handcrafted", 18),),
    "wide": (("side", (7,)),),
}


@pytest.mark.parametrize("field", CHANGES)
def test_the_key_changes_with_all_that_changes_an_engine(cache: EngineCache, order: Order, field: str) -> None:
    cache.keep(order, PLAN, 1.0, LAYERS)
    other = dataclasses.replace(order, **{field: CHANGES[field]})  # type: ignore[arg-type]
    assert other.key != order.key
    assert cache.find(other) is None


def test_every_field_of_an_order_is_in_its_key_but_its_names_and_how_it_is_asked() -> None:
    assert {field.name for field in dataclasses.fields(Order)} == {*CHANGES, "model", "label", "steady"}


def test_engines_from_before_there_were_second_inputs_and_wide_outputs_keep_their_keys() -> None:
    outputs = ("defocus_um", "side")
    old = Order("m", "m@1", b"network", "counts", 224, outputs, 48, "fp32", "10.3.0", "Orin", "8.7", 8)
    assert old.key == "7ec8805102d62be24c2f7550aeb0fb1565981c9b950e0d44b00e8eaee1b01235"


def test_another_name_or_version_of_one_network_needs_no_other_engine(order: Order) -> None:
    assert dataclasses.replace(order, model="copy", label="copy@2").key == order.key


def test_the_usual_batch_is_what_the_bundle_asks_at_most_and_steady_where_it_says_so(bundle: ModelBundle) -> None:
    def usual(at_most: int) -> tuple[int, bool]:
        asked = bundle.manifest.input.model_copy(update={"patches_at_most": at_most})
        manifest = bundle.manifest.model_copy(update={"input": asked})
        order = order_for(dataclasses.replace(bundle, manifest=manifest), GPU, "10.3.0")
        return order.usual, order.steady

    assert [usual(n) for n in (0, 12, 48, 300)] == [(48, False), (12, True), (48, True), (MOST, True)]


def test_a_gpu_of_the_same_name_and_another_size_wants_another_engine(bundle: ModelBundle, order: Order) -> None:
    larger = dataclasses.replace(GPU, multiprocessors=16)
    assert order_for(bundle, larger, "10.3.0").key != order.key


@pytest.mark.parametrize("field", ["label", "also", "wide"])
def test_an_order_reaches_another_process_whole(order: Order, tmp_path: Path, field: str) -> None:
    order = dataclasses.replace(order, **{"label": "m@2", field: CHANGES.get(field, "m@2")})  # type: ignore[arg-type]
    with (tmp_path / "order").open("w+b") as file:
        write_order(order, file)
        file.seek(0)
        told = json.loads(file.readline())
        assert order_from(told, file.read(told["onnx_bytes"])) == order


@pytest.mark.parametrize("where", ["first line", "plan", "last byte", "cut", "empty"])
def test_a_file_that_is_not_as_it_was_written_is_discarded(
    cache: EngineCache, order: Order, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = cache.keep(order, PLAN, 1.0, LAYERS)
    data = bytearray(path.read_bytes())
    if where == "cut":
        del data[-100:]
    elif where == "empty":
        data.clear()
    else:
        data[{"first line": 20, "plan": len(data) - 5000, "last byte": -1}[where]] ^= 1
    path.write_bytes(data)
    assert cache.find(order) is None
    assert not path.exists()
    assert "is discarded and has to be built anew" in caplog.text


def test_a_file_under_a_wrong_name_is_discarded(cache: EngineCache, order: Order) -> None:
    path = cache.keep(order, PLAN, 1.0, LAYERS)
    other = dataclasses.replace(order, tensorrt="11.4.0.106")
    path.rename(cache.path(other))
    assert cache.find(other) is None


def test_the_newest_two_engines_of_a_model_are_kept(cache: EngineCache, order: Order) -> None:
    other_model = dataclasses.replace(order, model="spectral_20x", onnx=b"another")
    cache.keep(other_model, PLAN, 1.0, LAYERS)
    orders = [dataclasses.replace(order, recipe=number) for number in range(2, 6)]
    for age, each in enumerate(orders):
        path = cache.keep(each, PLAN, 1.0, LAYERS)
        os.utime(path, (1000.0 + age, 1000.0 + age))
    assert [cache.find(each) is not None for each in orders] == [False, False, True, True]
    assert cache.find(other_model) is not None


def test_an_engine_that_is_used_counts_as_new(cache: EngineCache, order: Order) -> None:
    old, newer, newest = (dataclasses.replace(order, recipe=number) for number in (2, 3, 4))
    for age, each in enumerate((old, newer)):
        os.utime(cache.keep(each, PLAN, 1.0, LAYERS), (1000.0 + age, 1000.0 + age))
    cache.find(old)
    cache.keep(newest, PLAN, 1.0, LAYERS)
    assert [cache.find(each) is not None for each in (old, newer, newest)] == [True, False, True]


def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(cache: EngineCache, order: Order) -> None:
    cache.keep(order, PLAN, 1.0, LAYERS)
    other = dataclasses.replace(order, recipe=2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(PLAN) // 2, limits[1]))
    try:
        with pytest.raises(StateUnusable, match=r"engines cannot be kept in .*; make room"):
            cache.keep(other, PLAN, 1.0, LAYERS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert cache.find(order) is not None
    assert cache.find(other) is None
    assert [entry.name for entry in cache.folder.iterdir()] == [cache.path(order).name]


def test_a_folder_that_cannot_be_is_a_sentence_and_locks_nothing(
    tmp_path: Path, order: Order, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "engines").write_text("a file")
    cache = EngineCache(tmp_path / "engines")
    with cache.locked():
        assert cache.find(order) is None
    assert "build.lock cannot be opened (" in caplog.text
    assert "engines cannot be kept" not in caplog.text
    with pytest.raises(StateUnusable, match=r"Not a directory|File exists"):
        cache.keep(order, PLAN, 1.0, LAYERS)


KILLED = """
import os, signal, sys
from pathlib import Path
from edge_app.nvidia import cache as c
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
sys.path.insert(0, {tests!r})
from test_engines import *
order = order_for(read(FACTORY / "spectral_20x_grey.parfocal"), GPU, "10.3.0")
EngineCache(Path({folder!r})).keep(order, PLAN, 1.0, LAYERS)
"""


def test_a_writer_killed_in_the_middle_leaves_no_engine_and_the_next_one_does(
    cache: EngineCache, order: Order
) -> None:
    program = KILLED.format(tests=str(Path(__file__).parent), folder=str(cache.folder))
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert len(list(cache.folder.iterdir())) == 1
    assert cache.find(order) is None
    path = cache.keep(order, PLAN, 1.0, LAYERS)
    assert [entry.name for entry in cache.folder.iterdir()] == [path.name]


def test_the_second_of_two_builders_waits_and_finds_what_the_first_built(
    gpu: machine.Gpu, bundle: ModelBundle, cache: EngineCache
) -> None:
    order, built, asked = runtime.order(bundle), [], threading.Event()

    def second() -> None:
        asked.set()
        built.append(make(order, cache, lambda _: pytest.fail("the second builds")))

    with cache.locked():
        thread = threading.Thread(target=second)
        thread.start()
        assert asked.wait(20)
        cache.keep(order, PLAN, 2.0, LAYERS)
    thread.join()
    assert built[0].plan == PLAN


def test_engines_of_two_models_are_built_one_after_the_other(
    gpu: machine.Gpu, bundle: ModelBundle, cache: EngineCache
) -> None:
    order, began = runtime.order(bundle), threading.Event()
    other = dataclasses.replace(order, model="another", usual=24)
    later: list[bool] = []

    def second() -> None:
        began.set()
        make(other, cache, lambda _: True)

    thread = threading.Thread(target=second)

    def first(_: float) -> bool:
        if not began.is_set():
            thread.start()
            assert began.wait(20)
            thread.join(0.2)
        later.append(thread.is_alive())
        return True

    make(order, cache, first)
    thread.join()
    assert all(later)
    assert [cache.find(each) is not None for each in (order, other)] == [True, True]


def test_an_engine_that_is_there_waits_for_nobody(cache: EngineCache, order: Order) -> None:
    cache.keep(order, PLAN, 1.0, LAYERS)
    with cache.locked():
        assert make(order, cache, lambda _: True).plan == PLAN


def test_a_lock_is_never_removed_while_others_may_hold_it(cache: EngineCache, order: Order) -> None:
    with cache.locked():
        for number in range(2, 6):
            cache.keep(dataclasses.replace(order, recipe=number), PLAN, 1.0, LAYERS)
        assert (cache.folder / "build.lock").exists()


def test_what_a_service_keeps_can_be_read_by_everybody_and_its_lock_be_taken(tmp_path: Path, order: Order) -> None:
    cache = EngineCache(tmp_path / "engines")
    before = os.umask(0o027)
    try:
        with cache.locked():
            path = cache.keep(order, PLAN, 1.0, LAYERS)
    finally:
        os.umask(before)
    modes = [each.stat().st_mode & 0o777 for each in (path, cache.folder, cache.folder / "build.lock")]
    assert modes == [0o644, 0o755, 0o666]


def test_an_engine_is_kept_where_its_times_are_not(
    gpu: machine.Gpu, bundle: ModelBundle, cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    order = runtime.order(bundle)
    (cache.folder / "timing-10.3.0-8.7.cache").mkdir(parents=True)
    made = make(order, cache, lambda _: True)
    assert made.path == cache.path(order)
    assert cache.find(order) is not None
    assert "the next build takes them again: " in caplog.text


def test_an_engine_that_is_made_anew_replaces_the_kept_one_only_where_that_succeeds(
    gpu: machine.Gpu, bundle: ModelBundle, cache: EngineCache
) -> None:
    order = runtime.order(bundle)
    cache.keep(order, PLAN, 1.0, LAYERS)
    tensorrt.FAULTS.no_memory = True
    with pytest.raises(RuntimeFailed, match="out of memory"):
        make(order, cache, lambda _: True, anew=True)
    found = cache.find(order)
    assert found is not None
    assert found.plan == PLAN
    tensorrt.FAULTS.no_memory = False
    made = make(order, cache, lambda _: True, anew=True)
    assert made.plan != PLAN
    found = cache.find(order)
    assert found is not None
    assert found.plan == made.plan


def test_what_is_made_is_kept_and_found_the_next_time(
    gpu: machine.Gpu, bundle: ModelBundle, cache: EngineCache
) -> None:
    order, parts = runtime.order(bundle), []

    def told(part: float) -> bool:
        parts.append(part)
        return True

    first = make(order, cache, told)
    again = make(order, cache, lambda _: pytest.fail("it is built again"))
    assert again.plan == first.plan
    assert [layer.kind for layer in first.layers] == ["Cast", "Myelin"]
    assert parts[-1] == 1.0
    assert cache.timing(order).endswith(b":.")
    assert (cache.folder / "timing-10.3.0-8.7.cache").read_bytes() == cache.timing(order)
    assert gpu.left() == {}


def test_what_cannot_be_kept_is_made_all_the_same(
    gpu: machine.Gpu, bundle: ModelBundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "engines").write_text("a file")
    made = make(runtime.order(bundle), EngineCache(tmp_path / "engines"), lambda _: True)
    assert made.path is None
    assert made.plan
    assert "engines cannot be kept" in caplog.text


def test_a_gpu_that_fails_while_an_engine_is_built_is_a_sentence(
    gpu: machine.Gpu, bundle: ModelBundle, cache: EngineCache
) -> None:
    tensorrt.FAULTS.build = "CUDA error 700"
    with pytest.raises(RuntimeFailed, match=r"cannot build an engine for .*CUDA error 700"):
        make(runtime.order(bundle), cache, lambda _: True)
    assert not list(cache.folder.glob("*.engine"))


def test_the_folder_is_systemds_else_the_machines_else_the_users(tmp_path: Path) -> None:
    shared = tmp_path / "var"
    home = {"HOME": str(tmp_path)}
    assert cache_folder({**home, "CACHE_DIRECTORY": "/c/one:/c/two"}, shared) == Path("/c/one/engines")
    assert cache_folder(home, shared) == tmp_path / ".cache" / "parfocal" / "engines"
    assert cache_folder({**home, "XDG_CACHE_HOME": "/x"}, shared) == Path("/x/parfocal/engines")
    shared.mkdir()
    assert cache_folder(home, shared) == shared
