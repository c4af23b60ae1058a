"""The benchmark of the server: its table, and the memory that the server of a whole board may take."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from edge_app import bench_service
from edge_app.bench_service import Plan
from edge_app.errors import RuntimeFailed
from edge_app.runtime import available

BOUND_MB = 350.0
USABLE = [name for name, missing in available().items() if not missing]


def default_runtime() -> str:
    return "openvino" if "openvino" in USABLE else "onnxruntime"


@pytest.fixture(scope="module")
def row() -> dict[str, Any]:
    (only,) = bench_service.bench(["onnxruntime"], lambda _: None, Plan("simulated_tiny", 2, 0.0, 0.2))
    return only


def test_an_estimate_comes_after_the_server_answers(row: dict[str, Any]) -> None:
    assert 0.0 < row["serving_s"]["low"] <= row["serving_s"]["median"] <= row["serving_s"]["high"]
    assert row["serving_s"]["low"] < row["first_estimate_s"]["low"] <= row["first_estimate_s"]["median"]
    assert row["starts"] == 2


def test_memory_is_that_of_a_server_and_its_peak_is_above_all(row: dict[str, Any]) -> None:
    assert 40.0 < row["start_mb"] <= row["rest_mb"] <= row["peak_mb"] < BOUND_MB
    assert row["load_mb"]["median"] <= row["load_mb"]["peak"] <= row["peak_mb"]
    assert row["after_mb"] <= row["peak_mb"]


def test_the_load_is_looks_and_focus_jobs(row: dict[str, Any]) -> None:
    assert row["focus_jobs"] >= 1
    assert row["looks"] == 5 * row["focus_jobs"]


def test_the_table_shows_every_runtime(row: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    bench_service.print_table([row, {**row, "runtime": "another"}], Console(width=200))
    shown = capsys.readouterr().out
    assert "onnxruntime" in shown
    assert "another" in shown
    assert f"{row['peak_mb']:.0f}" in shown


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(RuntimeFailed, match=r"did not start.*there is no"):
        bench_service.bench(["no_such_runtime"], lambda _: None, Plan("simulated_tiny", 1))


def test_a_process_that_has_ended_has_no_memory() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(FileNotFoundError):
        bench_service.memory_mb(process.pid, "VmRSS")


def test_the_server_of_a_whole_board_stays_within_its_memory() -> None:
    (row,) = bench_service.bench([default_runtime()], lambda _: None, Plan("simulated", 1, 0.5, 3.0))
    assert row["looks"] >= 5
    assert row["first_estimate_s"]["low"] > 0.0
    assert row["peak_mb"] <= BOUND_MB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told how to keep its heap small")
def test_the_heap_gives_back_what_it_frees() -> None:
    told = subprocess.run(
        [sys.executable, "-c", _FREES], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert told == ["True", "True"]


_FREES = """
import numpy as np
from edge_app import heap
from edge_app.bench_service import memory_mb
import os
told = heap.keep_small()
np.ones(30 * 2**20, np.uint8)  # left alone, glibc would from now on keep as much as this
before_mb = memory_mb(os.getpid(), "VmRSS")
blocks = [np.ones(5 * 2**20, np.uint8) for _ in range(8)]
last = np.ones(1000)
del blocks
print(told, memory_mb(os.getpid(), "VmRSS") < before_mb + 10)
"""
