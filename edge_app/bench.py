"""Benchmark: where a frame's time goes, per model and runtime, beside this machine's own sgemm rate.

Everything is measured in one run and in turns, so that ratios hold when the machine's speed drifts.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge_app import bench_service
from edge_app.answer import DEFOCUS
from edge_app.bundle import read, shipped
from edge_app.controller import Controller
from edge_app.errors import RuntimeFailed
from edge_app.linear import rgb8
from edge_app.model import Model, open_model
from edge_app.patches import PatchGrid, chosen, content
from edge_app.runtime import available
from edge_app.selection import choose
from firmware.camera import Camera, Exposure
from firmware.clock import ManualClock
from firmware.frames import Frame, FrameOptics, Pixels
from firmware.microscope import Microscope, open_microscope
from firmware.profile import load_profile

STAGES = ("capture", "cut", "reject", "sharpness", "infer", "fuse")
ROUNDS = 9
_SGEMM = 2048
REFERENCE = "ldse_net_20x"
Progress = Callable[[int, int, str], None]


class HeldFrame(Camera):
    """A camera whose frame is already there, so that capturing costs what the line costs and no rendering."""

    def __init__(self, microscope: Microscope, pixels: Pixels) -> None:
        super().__init__(microscope.profile.camera, microscope.clock, microscope.profile.name)
        self._pixels = pixels

    def _next(self, timeout_s: float) -> Exposure:
        del timeout_s
        now_s = self._clock.now_s()
        return Exposure(now_s, now_s, self._pixels.copy)


def bench(
    threads: int, progress: Progress, rounds: int = ROUNDS, starts: bench_service.Plan | None = None
) -> dict[str, Any]:
    """Measure factory bundles in every runtime on one 2592x1944 frame of tissue, `rounds` times in turns.

    Those that accept the board `simulated`, and LDSE-Net beside them. Each is asked about those patches that serving
    would ask it about. Then servers of that board are started in every runtime, as `starts` plans.

    Returns:
        `rows` per model and runtime; for the model that this board uses `stages_ms` in its fastest runtime, and
        `ratios` as {"median", "low", "high"}; `service` as `bench_service.bench` gives it.

    Raises:
        RuntimeFailed: No runtime or no bundle can be used here.
    """
    threads = threads or os.cpu_count() or 1
    progress(0, 5, "rendering a frame")
    microscope = open_microscope(load_profile("simulated"), ManualClock())
    if microscope.world is not None:
        microscope.world.load_field(0, "tissue")
    frame = microscope.capture()
    microscope.camera = HeldFrame(microscope, frame.pixels)
    progress(1, 5, "timing runtimes in turns with sgemm")
    models = _open_all(frame.optics, threads)
    inputs = [_asked(model, frame) for model in models]
    rows, times = _rows(models, inputs, threads, rounds)
    usual = read(choose(frame.optics)).manifest.label
    by_speed = sorted((statistics.median(times[k]), k) for k, model in enumerate(models) if model.label == usual)
    fastest, slowest = by_speed[0][1], by_speed[-1][1]
    model, counts = models[fastest], inputs[fastest]
    progress(2, 5, f"timing the stages of a frame with {model.runtime.name}")
    stages = _stages(Controller(microscope, model), rounds)
    progress(3, 5, "comparing with one patch at a time and with torch")
    ratios = {"one_by_one_over_batch": _one_by_one(model, counts, rounds)}
    eager = _against_eager(model, counts, threads, rounds)
    if eager is not None:
        ratios["torch_eager_over_fastest"] = eager
    ratios["slowest_runtime_over_fastest"] = _spread(
        [slow / fast for slow, fast in zip(times[slowest], times[fastest], strict=True)]
    )
    ratios |= _against_reference(models, times, fastest)
    overhead = sum(ms for stage, ms in stages.items() if stage != "infer") / sum(stages.values())
    runtimes = sorted({one.runtime.name for one in models})
    service = bench_service.bench(runtimes, lambda text: progress(4, 5, text), starts)
    progress(5, 5, "done")
    return {
        "rows": rows,
        "stages_ms": {stage: round(ms, 3) for stage, ms in stages.items()},
        "ratios": ratios,
        "all_but_inference": round(overhead, 4),
        "cores": os.cpu_count(),
        "service": service,
    }


def print_table(result: dict[str, Any], console: Console) -> None:
    """Show a result to a person."""
    table = Table("ms per frame", "patches", "GFLOP/s", "of sgemm", "threads")
    table.add_column("model and runtime", no_wrap=True)
    for row in result["rows"]:
        cells = (
            f"{row['ms_per_frame']:.1f}",
            str(row["batch"]),
            f"{row['gflops']:.0f}",
            f"{row['fraction_of_sgemm']:.0%}",
        )
        table.add_row(*cells, str(row["threads"]), f"{row['model']} {row['runtime']}")
    console.print(table)
    stages = Table("stage", "ms")
    for stage, ms in result["stages_ms"].items():
        stages.add_row(stage, f"{ms:.2f}")
    console.print(stages)
    console.print(f"everything but inference takes {result['all_but_inference']:.1%} of a frame's time")
    for name, ratio in result["ratios"].items():
        console.print(f"{name}: {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})")
    bench_service.print_table(result["service"], console)


def _open_all(optics: FrameOptics, threads: int) -> list[Model]:
    usable = [name for name, missing in available().items() if not missing]
    wanted = [
        path
        for path, bundle in shipped()
        if bundle.manifest.task == DEFOCUS
        and (bundle.manifest.name == REFERENCE or bundle.manifest.passport.check(optics) is None)
    ]
    opened = [open_model(path, name, threads) for path in wanted for name in usable]
    # A runtime with a note is another one in disguise, as where no TensorRT engine has been built yet.
    models = [model for model in opened if not model.note]
    if not models:
        raise RuntimeFailed("nothing to measure: no factory bundle or no runtime; run `parfocal doctor`")
    return models


def _asked(model: Model, frame: Frame) -> NDArray[np.uint8]:
    """The patches of a frame that serving would hand to a model: (K, P, P, 3) uint8."""
    rgb = rgb8(frame, model.undoes_tone)
    grid = PatchGrid.fit(rgb.shape[0], rgb.shape[1], model.patch_px)
    return grid.cut(rgb, chosen(content(rgb, grid, model.min_contrast), grid, model.patches_at_most))


def _against_reference(models: list[Model], times: list[list[float]], fastest: int) -> dict[str, dict[str, float]]:
    """How much longer LDSE-Net, the published layout, takes per frame than the bundle that this board uses."""
    usual, ratios = models[fastest].label, {}
    runs = {
        (model.label == usual, model.runtime.name): time
        for model, time in zip(models, times, strict=True)
        if model.label == usual or model.bundle.manifest.name == REFERENCE
    }
    for (own, runtime), mine in runs.items():
        if own and (False, runtime) in runs:
            pairs = zip(runs[False, runtime], mine, strict=True)
            ratios[f"{REFERENCE}_over_used_in_{runtime}"] = _spread([theirs / ours for theirs, ours in pairs])
    if (False, "onnxruntime") in runs:
        pairs = zip(runs[False, "onnxruntime"], times[fastest], strict=True)
        ratios[f"{REFERENCE}_in_onnxruntime_over_fastest"] = _spread([theirs / ours for theirs, ours in pairs])
    return ratios


def _rows(
    models: list[Model], inputs: list[NDArray[np.uint8]], threads: int, rounds: int
) -> tuple[list[dict[str, Any]], list[list[float]]]:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((_SGEMM, _SGEMM), dtype=np.float32)
    calls: list[Callable[[], object]] = [lambda: a @ a]
    calls += [lambda m=model, c=counts: m.infer(c) for model, counts in zip(models, inputs, strict=True)]  # type: ignore[misc]
    sgemm, *times = _in_turns(calls, rounds)
    rate = [2 * _SGEMM**3 / seconds / 1e9 for seconds in sgemm]
    rows = []
    for model, counts, seconds in zip(models, inputs, times, strict=True):
        gflops = [model.bundle.manifest.flop_per_patch * len(counts) / s / 1e9 for s in seconds]
        rows.append(
            {
                "model": model.label,
                "runtime": model.runtime.name,
                "batch": len(counts),
                "threads": threads,
                "ms_per_frame": round(statistics.median(seconds) * 1e3, 2),
                "gflops": round(statistics.median(gflops), 1),
                "fraction_of_sgemm": round(statistics.median(g / r for g, r in zip(gflops, rate, strict=True)), 4),
            }
        )
    return rows, times


def _in_turns(calls: list[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Time every call once a round, all in turns, after one warm-up round: seconds[call][round]."""
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for call, record in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            if turn:
                record.append(time.perf_counter() - began)
            time.sleep(0.05)
    return seconds


def _stages(controller: Controller, rounds: int) -> dict[str, float]:
    looks = [controller.look().stage_ms for _ in range(rounds + 1)][1:]  # a frame that is kept is memory not reused
    stages = {stage: statistics.median(look.get(stage, 0.0) for look in looks) for stage in STAGES}
    stages["capture"] += statistics.median(look.get("convert", 0.0) for look in looks)
    return stages


def _one_by_one(model: Model, counts: NDArray[np.uint8], rounds: int) -> dict[str, float]:
    def singly() -> None:
        for k in range(len(counts)):
            model.infer(counts[k : k + 1])

    alone, together = _in_turns([singly, lambda: model.infer(counts)], rounds)
    return _spread([a / b for a, b in zip(alone, together, strict=True)])


def _against_eager(model: Model, counts: NDArray[np.uint8], threads: int, rounds: int) -> dict[str, float] | None:
    """Torch eager runs in a process of its own (this package never imports torch) and takes its turn on request."""
    if importlib.util.find_spec("torch") is None:
        return None
    recipe = model.bundle.manifest.training.recipe
    command = [
        str(Path(sys.executable).parent / "parfocal-model"),
        "eager",
        recipe,
        "--threads",
        str(threads),
    ]
    with subprocess.Popen(  # noqa: S603
        [*command, "--patches", str(len(counts))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ratios = []
        for turn in range(rounds + 1):
            process.stdin.write("go\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                return None
            began = time.perf_counter()
            model.infer(counts)
            if turn:
                ratios.append(float(answer) / (time.perf_counter() - began))
        process.stdin.close()
    return _spread(ratios)


def _spread(ratios: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(ratios), 3),
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
    }
