"""The demo and the benchmark: whole runs, small."""

from pathlib import Path

import pytest

from edge_app import bench, demo
from edge_app.bench_service import Plan
from firmware.errors import FirmwareError

JOB = {"field", "start_um", "end_um", "residual_um", "frames", "moves", "seconds", "verdict"}


def silent(_done: int, _total: int, _text: str) -> None:
    return


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, object]:
    return demo.demo(15, 3, "simulated_tiny", folder, silent)


def test_the_plan_holds_blank_fields_and_starts_beyond_the_range() -> None:
    jobs = demo.plan_jobs(30, 7)
    starts = [job.start_um for job in jobs if job.why == "content"]
    assert [sum(job.why == why for job in jobs) for why in ("content", "blank", "beyond")] == [25, 3, 2]
    assert len({job.field for job in jobs}) == 30
    assert min(starts) < -9
    assert max(starts) > 9
    assert all(abs(job.start_um) > 12 for job in jobs if job.why == "beyond")


def test_every_job_is_told(result: dict[str, list[dict[str, object]]]) -> None:
    assert len(result["jobs"]) == 15
    assert all(set(job) >= JOB for job in result["jobs"])


def test_no_job_ends_worse_and_the_odd_ones_are_handled(result: dict[str, dict[str, float]]) -> None:
    summary = result["summary"]
    assert summary["ended_worse"] == 0
    assert summary["blank_fields_recognised"] == summary["blank_fields"] == 1
    assert summary["beyond_range_handled"] == summary["beyond_range"] == 1


def test_four_patches_are_enough_to_focus(result: dict[str, dict[str, float]]) -> None:
    assert result["summary"]["median_abs_residual_um"] <= 0.3
    assert result["summary"]["median_frames"] <= 3


def test_the_world_has_the_flaws_that_the_demo_promises(result: dict[str, dict[str, float]]) -> None:
    world = result["world"]
    assert 0.5 <= world["backlash_um"] <= 4
    assert world["stale_frames"] == 2
    assert world["drift_um_per_min"] == 0.5
    assert world["um_per_step"] <= 0.05
    assert world["vibration_um"] > 0


def test_three_pictures_are_written(result: dict[str, list[str]]) -> None:
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in result["pictures"])
    assert len(result["pictures"]) == 3


def test_a_server_that_cannot_start_is_one_clear_error(folder: Path) -> None:
    with pytest.raises(FirmwareError, match="nowhere"):
        demo.demo(1, 1, "nowhere", folder, silent)


def test_the_benchmark_compares_runtimes_stages_and_torch() -> None:
    measured = bench.bench(0, silent, rounds=2, starts=Plan("simulated_tiny", 1, 0.0, 0.2))
    assert {row["runtime"] for row in measured["rows"]} >= {"onnxruntime", "openvino"}
    assert all(1 <= row["batch"] <= 88 and row["fraction_of_sgemm"] > 0 for row in measured["rows"])
    assert set(measured["stages_ms"]) >= {"capture", "cut", "reject", "infer", "fuse"}
    assert {"one_by_one_over_batch", "torch_eager_over_fastest"} <= set(measured["ratios"])
