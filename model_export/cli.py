"""parfocal-model: synth, train, evaluate, export."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from edge_app.errors import AppError
from edge_app.patches import PATCH_PX
from firmware.errors import FirmwareError
from model_export.errors import ExportError, NoData, NotAccepted
from model_export.recipe import Recipe, load_recipe

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_err = Console(stderr=True)
RecipeName = Annotated[str, typer.Argument(help="a name from model_export/recipes, or a .toml file")]
DataDir = Annotated[Path, typer.Option("--data", help="folder of the shards")]
RunDir = Annotated[Path, typer.Option("--run", help="folder of the checkpoint")]


@app.command()
def synth(recipe: RecipeName, data: DataDir = Path("runs/shards"), workers: int = 2) -> None:
    """Render the recipe's training and validation tiles; shards that are there are kept."""
    from model_export.synthesis import write_shards

    table = load_recipe(recipe)
    counts = {"validation": table.data.validation_specimens, "train": table.data.train_specimens}
    for split, count in counts.items():
        with _Bar(f"{split} specimens") as update:
            write_shards(table, split, count, data, workers, update)
    _err.print(f"shards are in {data}; next: parfocal-model train {recipe} --data {data}")


@app.command()
def train(
    recipe: RecipeName, data: DataDir = Path("runs/shards"), run: RunDir = Path("runs/train"), steps: int = 0
) -> None:
    """Train from the last checkpoint in --run, or from nothing."""
    from model_export.data import open_tiles
    from model_export.export import current_commit
    from model_export.train import train as loop

    table = load_recipe(recipe)
    run.mkdir(parents=True, exist_ok=True)
    record = run / "commit.txt"
    commits = record.read_text(encoding="utf-8").split() if record.exists() else []
    if current_commit() not in commits:
        record.write_text(" ".join([*commits, current_commit()]), encoding="utf-8")
    tiles = open_tiles(data, "train", table)
    with _Bar("steps") as update:

        def told(done: int, total: int, loss: float) -> None:
            update(done, total, f"loss {loss:.3f}")

        trained = loop(table, tiles, run, told, steps or None)
    _err.print(
        f"trained {trained.steps} steps in {trained.duration_s / 60:.1f} min, loss {trained.loss:.3f}; "
        f"next: parfocal-model export {recipe} --data {data} --run {run}"
    )


@app.command()
def export(
    recipe: RecipeName,
    data: DataDir = Path("runs/shards"),
    run: RunDir = Path("runs/train"),
    out: Annotated[Path, typer.Option(help="the bundle to write")] = Path("runs/model.parfocal"),
    specimens: int = 12,
    depths: int = 12,
    accept: Annotated[bool, typer.Option(help="refuse a model beyond the recipe's acceptance limits")] = True,
) -> None:
    """Calibrate, evaluate on unseen specimens and optics, and pack the trained network as a bundle."""
    from edge_app.bundle import read
    from model_export.card import model_card
    from model_export.data import open_tiles
    from model_export.evaluate import answer_all, calibrate, nominal_depth_um, score
    from model_export.export import export_network, make_bundle
    from model_export.train import load_trained

    table = load_recipe(recipe)
    trained = load_trained(table, run)
    exported = export_network(table, trained, _golden(open_tiles(data, "validation", table).shards[0]))
    predict = exported.predictor()
    with _Bar("calibration frames") as update:
        answered = answer_all(predict, table, "calibration", table.seed + 1, specimens, depths, update)
        calibration = calibrate(answered, table.data.range_um)
    metrics: dict[str, Any] = {}
    for name in ("specimens", "optics"):
        with _Bar(f"{name} frames") as update:
            answered = answer_all(predict, table, name, table.seed + 2, specimens, depths, update)
        metrics[name] = score(answered, calibration, nominal_depth_um(table))
    if accept:
        _accept(table, metrics["specimens"])
    commit = (run / "commit.txt").read_text(encoding="utf-8") if (run / "commit.txt").exists() else "unknown"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(make_bundle(table, trained, exported, calibration, metrics, commit))
    card = out.with_suffix(".md")
    card.write_text(model_card(read(out).manifest), encoding="utf-8")
    _table(metrics)
    _err.print(f"wrote {out} and {card} ({out.stat().st_size / 1024:.0f} KiB); try: parfocal focus --bundle {out}")


@app.command()
def evaluate(
    bundle: Annotated[str, typer.Argument(help="a bundle file, or factory")] = "factory",
    set_name: Annotated[str, typer.Option("--set", help="specimens, optics or calibration")] = "specimens",
    seed: int = 1,
    specimens: int = 12,
    depths: int = 12,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Score a bundle on whole frames that no training has seen; any seed gives another set."""
    from edge_app.bundle import find
    from edge_app.model import open_model
    from model_export.evaluate import SETS, answer_all, nominal_depth_um, score

    if set_name not in SETS:
        raise typer.BadParameter(f"there is no set {set_name!r}; the sets are: {', '.join(SETS)}")
    model = open_model(find(bundle))
    table = load_recipe(model.bundle.manifest.training.recipe)

    def predict(counts: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        answers = model.infer(counts)
        return answers["defocus_um"], answers["log_sigma"]

    with _Bar(f"{set_name} frames") as update:
        answered = answer_all(predict, table, set_name, seed, specimens, depths, update)
    result = {
        "set": set_name,
        "seed": seed,
        "bundle": model.label,
        **score(answered, model.bundle.manifest.calibration, nominal_depth_um(table)),
    }
    if as_json:
        print(json.dumps(result))  # noqa: T201
    else:
        _table({set_name: result})


@app.command(hidden=True)
def eager(recipe: RecipeName, threads: int = 2, patches: int = 88) -> None:
    """Time one frame in torch eager for every line on stdin; `parfocal bench` takes turns with it."""
    import torch

    from model_export.export import random_counts
    from model_export.train import build

    torch.set_num_threads(threads)
    net = build(load_recipe(recipe)).eval()
    counts = torch.from_numpy(random_counts(patches, 1))
    for _ in sys.stdin:
        began = time.perf_counter()
        with torch.inference_mode():
            net(counts)
        print(time.perf_counter() - began, flush=True)  # noqa: T201


def main() -> None:
    """Run a command; faults become one line on stderr and exit code 1."""
    try:
        app()
    except (ExportError, AppError, FirmwareError) as error:
        _err.print(f"error: {error}", style="red", highlight=False)
        sys.exit(1)


def _accept(recipe: Recipe, figures: dict[str, Any]) -> None:
    limits = recipe.acceptance
    patch_um, frame_um = figures["patch"]["mae_um"], figures["frame"]["mae_um"]
    sign = figures["patch"]["sign"]
    if patch_um > limits.patch_mae_um or frame_um > limits.frame_mae_um or sign < limits.sign:
        raise NotAccepted(
            f"not accepted: patch error {patch_um:.3f} um (limit {limits.patch_mae_um}), frame error "
            f"{frame_um:.3f} um (limit {limits.frame_mae_um}), right signs {sign:.3f} (limit {limits.sign}); "
            "train longer, or pass --no-accept to look at the bundle anyway"
        )


def _golden(tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from model_export.data import is_informative

    patches = [tile[:PATCH_PX, :PATCH_PX] for tile in tiles]
    chosen = [patch for patch in patches if is_informative(patch)]
    if not chosen:
        raise NoData("the validation shard has no informative tile for golden inputs")
    return np.stack(chosen[::7])


def _table(metrics: dict[str, Any]) -> None:
    columns = {
        "mae_um": "mean |error| um",
        "median_um": "median",
        "p95_um": "p95",
        "near_focus_mae_um": "within 2 um of focus",
        "sign": "sign",
        "coverage_68": "68 %",
        "coverage_95": "95 %",
    }
    table = Table("set", "unit", *columns.values())
    for name, figures in metrics.items():
        for unit in ("patch", "frame"):
            table.add_row(name, unit, *(f"{figures[unit][key]:.3f}" for key in columns))
    Console().print(table)


class _Bar:
    """A progress bar on stderr whose update takes (done, total) and perhaps a word."""

    def __init__(self, text: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=_err)
        self._text = text

    def __enter__(self) -> Callable[..., None]:
        self._bar.start()
        task = self._bar.add_task(self._text, total=None)

        def update(done: int, total: int, word: str = "") -> None:
            self._bar.update(task, completed=done, total=total, description=f"{self._text} {word}".strip())

        return update

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
