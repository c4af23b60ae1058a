"""parfocal-model: synth, train, evaluate, export, precision, engine, measures, trials, publish, demo-ota."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge_app import console
from edge_app.errors import AppError
from firmware.errors import FirmwareError
from model_export import cli_ota_demo, cli_publish
from model_export.errors import ExportError, NotAccepted, NotInstalled
from model_export.precision_table import print_precisions
from model_export.recipe import Recipe, load_recipe
from model_export.teaching import teaching_of

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(cli_publish.app, name="publish")
app.command("demo-ota")(cli_ota_demo.demo_ota)
_err = Console(stderr=True)
_TELL_EVERY = 20
RecipeName = Annotated[str, typer.Argument(help="a name from model_export/recipes, or a .toml file")]
DataDir = Annotated[Path, typer.Option("--data", help="folder of the shards")]
RunDir = Annotated[Path, typer.Option("--run", help="folder of the checkpoint")]
Specimens = Annotated[int, typer.Option(min=1, help="slides of each evaluation set")]
Depths = Annotated[int, typer.Option(min=1, help="frames of each slide, one in every stratum of the range")]


class To(str, Enum):
    """Which variants of a bundle to make."""

    FP16 = "fp16"
    INT8 = "int8"
    ALL = "all"


@app.command()
def synth(
    recipe: RecipeName,
    data: DataDir = Path("runs/shards"),
    workers: Annotated[int | None, typer.Option(min=1, help="processes; one for every core if not given")] = None,
) -> None:
    """Render the recipe's training and validation specimens; shards that are there are kept."""
    table = _read(recipe)

    from model_export.synthesis import write_shards

    counts = {"validation": table.data.validation_specimens, "train": table.data.train_specimens}
    for split, count in counts.items():
        with _Bar(f"{split} specimens") as update:
            write_shards(table, split, count, data, workers or os.cpu_count() or 1, update)
    _err.print(f"shards are in {data}; next: parfocal-model train {recipe} --data {data}")


@app.command()
def train(
    recipe: RecipeName,
    data: DataDir = Path("runs/shards"),
    run: RunDir = Path("runs/train"),
    steps: Annotated[int | None, typer.Option(min=1, help="how many; the recipe's if not given")] = None,
) -> None:
    """Train from the last checkpoint in --run, or from nothing."""
    table = _read(recipe)

    from model_export.data import open_split
    from model_export.export import current_commit
    from model_export.train import train as loop
    from model_export.train import validate

    split, unseen = (open_split(data, name, table) for name in ("train", "validation"))
    run.mkdir(parents=True, exist_ok=True)
    record = run / "commit.txt"
    commits = record.read_text(encoding="utf-8").split() if record.exists() else []
    if current_commit() not in commits:
        record.write_text(" ".join([*commits, current_commit()]), encoding="utf-8")
    with _Bar("steps") as update:

        def told(done: int, total: int, loss: float) -> None:
            if done % _TELL_EVERY == 0 or done == total:
                update(done, total, f"loss {loss:.3f}")

        trained = loop(table, split, run, told, steps)
    told_of = validate(table, trained.net, unseen)
    _err.print(
        f"trained {trained.steps} steps in {trained.duration_s / 60:.1f} min; on single patches of the validation "
        f"specimens {told_of}; "
        f"next: parfocal-model export {recipe} --data {data} --run {run}"
    )


@app.command()
def export(
    recipe: RecipeName,
    data: DataDir = Path("runs/shards"),
    run: RunDir = Path("runs/train"),
    out: Annotated[Path, typer.Option(help="the bundle to write")] = Path("runs/model.parfocal"),
    seed: Annotated[int, typer.Option(help="of the evaluation sets; any integer")] = 1,
    specimens: Specimens = 12,
    depths: Depths = 12,
    accept: Annotated[bool, typer.Option(help="refuse a model beyond the recipe's acceptance limits")] = True,
) -> None:
    """Calibrate, evaluate on the recipe's sets, and pack the trained network as a bundle."""
    table = _read(recipe)

    from edge_app.bundle import read
    from model_export.card import model_card
    from model_export.export import export_network, golden_patches, make_bundle, manifest_of
    from model_export.frames import Subject
    from model_export.synthesis import data_duration_s
    from model_export.train import load_trained

    teaching, trained, golden = teaching_of(table.task), load_trained(table, run), golden_patches(table)
    exported = export_network(table, trained, golden.counts, golden.also)
    subject = Subject(exported.predictor(), table.patches_at_most, table.min_contrast, table.patch_px)
    with _Bar("calibration frames") as update:
        calibrations = teaching.calibrate(table, subject, update)
    commit = (run / "commit.txt").read_text(encoding="utf-8") if (run / "commit.txt").exists() else "unknown"
    manifest = manifest_of(table, trained, exported, calibrations, commit, data_duration_s(data))
    metrics: dict[str, Any] = {}
    for name in table.sets:
        with _Bar(f"{name} frames") as update:
            measured = teaching.measure(manifest, subject, name, seed, (specimens, depths), update)
        metrics[name] = {"seed": seed, **measured.figures}
    if accept:
        _accept(table, metrics)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(make_bundle(manifest, exported, metrics))
    card = out.with_suffix(".md")
    card.write_text(model_card(read(out).manifest), encoding="utf-8")
    teaching.show(metrics, Console())
    _err.print(f"wrote {out} and {card} ({out.stat().st_size / 1024:.0f} KiB); try: parfocal focus --bundle {out}")


@app.command()
def evaluate(
    bundle: Annotated[str, typer.Argument(help="a bundle file, a factory bundle's name, or factory")] = "factory",
    set_name: Annotated[str, typer.Option("--set", help="a name from model_export/sets, or a .toml file")] = "nominal",
    seed: Annotated[int, typer.Option(help="any integer; each gives other specimens, optics and cameras")] = 1,
    specimens: Specimens = 12,
    depths: Depths = 12,
    runtime: Annotated[str, typer.Option(help="a runtime; the fastest that is installed if empty")] = "",
    pictures: Annotated[Path, typer.Option(help="folder of the plots")] = Path("runs/evaluation"),
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document, draw nothing")] = False,
) -> None:
    """Score a bundle on whole frames that no training has seen.

    `factory` is the bundle that the appliance would pick for a board with the set's optics and camera.
    """
    from edge_app.bundle import find
    from edge_app.model import open_model
    from edge_app.selection import choose
    from model_export.evaluate import load_set
    from model_export.frames import subject_of

    model = open_model(choose(load_set(set_name).frame_optics()) if bundle == "factory" else find(bundle), runtime)
    manifest = model.bundle.manifest
    teaching = teaching_of(manifest.task)
    subject = subject_of(model)
    with _Bar(f"{set_name} frames") as update:
        measured = teaching.measure(manifest, subject, set_name, seed, (specimens, depths), update)
    result = {"set": set_name, "seed": seed, "bundle": model.label, **measured.figures}
    if measured.note:
        _err.print(f"note: {measured.note}")
    if as_json:
        print(json.dumps(result))  # noqa: T201
        return
    teaching.show({set_name: result}, Console())
    for path in measured.draw(f"{model.label} on {set_name}", pictures):
        _err.print(f"wrote {path}")


@app.command()
def precision(  # noqa: PLR0913, PLR0917 - an argument is an option
    bundle: Annotated[str, typer.Argument(help="an fp32 bundle: a file, or a factory bundle's name")],
    to: Annotated[To, typer.Option(help="what to make bundles of")] = To.ALL,
    sets: Annotated[list[str] | None, typer.Option(help="repeat for several; the recipe's if not given")] = None,
    seed: Annotated[int, typer.Option(help="of the evaluation sets; any integer")] = 4,
    specimens: Specimens = 12,
    depths: Depths = 12,
    recipe: Annotated[str, typer.Option(help="what trained the bundle; by the name in its record if empty")] = "",
    calibrate_on: Annotated[int, typer.Option(min=1, help="training specimens that set the scales")] = 32,
    emulate: Annotated[bool, typer.Option(help="also score TF32, and halves throughout; neither is written")] = False,
    out: Annotated[Path, typer.Option(help="folder of the bundles")] = Path("runs/precision"),
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Make fp16 and int8 bundles of an fp32 one, score all on the same frames, and say which should serve."""
    from edge_app.bundle import find, read

    original = read(find(bundle))
    table = _read(recipe or original.manifest.training.recipe)

    from model_export.comparison import document, score_together
    from model_export.evaluate import load_set
    from model_export.variants import EMULATED, calibration_patches, check_recipe, make_variant, write_variant

    check_recipe(original.manifest, table)
    wanted = [load_set(name) for name in sets or table.sets]
    with _Bar("calibration specimens") as update:
        patches = calibration_patches(table, calibrate_on, _ticks(update, calibrate_on))
    asked = [kind for kind in ("fp16", "int8") if to.value in (kind, "all")]
    variants = [make_variant(original, kind, patches) for kind in (*asked, *(EMULATED if emulate else ()))]
    scored = {}
    for each in wanted:
        with _Bar(f"{each.name} frames") as update:
            ticks = _ticks(update, specimens * depths)
            scored[each.name] = score_together(each, original, variants, seed, (specimens, depths), ticks)
    for variant in variants[: len(asked)]:
        figures = {name: of[variant.precision] for name, of in scored.items()}
        metrics = {name: {"seed": seed, **given.figures} for name, given in figures.items() if given is not None}
        if len(metrics) < len(figures):
            _err.print(f"{variant.precision} is not written: an answer of it is not a number")
            continue
        path = write_variant(original, variant, metrics, len(patches), out)
        _err.print(f"wrote {path} ({path.stat().st_size / 1024:.0f} KiB)")
    result = document(original, variants, scored, seed)
    if as_json:
        print(json.dumps(result))  # noqa: T201
        return
    print_precisions(result, Console())


@app.command()
def engine(
    bundle: Annotated[str, typer.Argument(help="a bundle file, a factory bundle's name, or factory")] = "",
    board: Annotated[str | None, typer.Option(help="only what this board's objectives get: a name, or a file")] = None,
    config: Annotated[Path | None, typer.Option(help="a TOML file with settings: board, bundle, runtime")] = None,
    if_possible: Annotated[bool, typer.Option("--if-possible", help="do nothing, and succeed, without a GPU")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Build TensorRT engines on this device, or find those that are built, prove them, and time them.

    `parfocal serve` builds what it needs by itself, and serves by ONNX Runtime meanwhile.
    """
    from edge_app.errors import RuntimeFailed
    from model_export.engine import bundles_for, engine_for, missing, show

    why = missing()
    if why and not if_possible:
        raise RuntimeFailed(f"no TensorRT engine can be built here: {why}")
    if why:
        _err.print(f"no TensorRT engine is built: {why}", soft_wrap=True, markup=False)
    results = []
    for path in [] if why else bundles_for(bundle, board, config):
        with _Bar(f"{path.stem}, %") as update:
            results.append(engine_for(path, lambda part, update=update: update(round(100 * part), 100) is None))  # type: ignore[misc]
    if as_json:
        print(json.dumps({"engines": results, "why_none": why}))  # noqa: T201
    else:
        show(results, Console())
    raise typer.Exit(1 if any(result["error"] for result in results) else 0)


@app.command()
def measures(
    stacks: Annotated[list[Path], typer.Argument(help="recorded z-stacks (TIFF)")],
    smooth_px: Annotated[float, typer.Option(min=0, help="sigma of a Gaussian taken first; 0 takes none")] = 0.0,
    aperture: Annotated[float | None, typer.Option(min=0.01, max=0.99, help="NA in air, where none is stated")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Which slice of recorded stacks every classical focus measure finds, and what its curve looks like."""
    from firmware.stacks import open_stack
    from model_export.measuring import measure_stack, show

    opened = [open_stack(path) for path in stacks]
    with _Bar("slices") as update:
        ticks = _ticks(update, sum(stack.count for stack in opened))
        results = [measure_stack(stack, smooth_px, aperture, ticks) for stack in opened]
    if as_json:
        print(json.dumps({"stacks": results}))  # noqa: T201
        return
    show(results, Console())


@app.command()
def trials(
    name: Annotated[str, typer.Argument(help="deepfocus: the experiments of its paper")],
    experiment: Annotated[str, typer.Option(help="accuracy, curves or images; all if not given")] = "",
    bundle: Annotated[str, typer.Option(help="a bundle file, or a factory bundle's name; NAME's if not given")] = "",
    objective: Annotated[list[str] | None, typer.Option(help="10x, 20x or 40x, repeatable; all three")] = None,
    specimens: Annotated[int, typer.Option(min=1, help="specimens that no training has seen")] = 120,
    starts: Annotated[int, typer.Option(min=1, help="how often each is focused")] = 2,
    out: Annotated[Path, typer.Option(help="folder of the pictures")] = Path("runs/trials"),
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Measure what a system does on its own ground: errors by number of images, curves of many specimens."""
    from model_export.trials import Amount, run_all, show

    results = run_all(name, experiment, bundle or name, objective or [], Amount(specimens, starts), out, _Bar)
    print(json.dumps(results)) if as_json else show(results, Console())  # noqa: T201


@app.command(hidden=True)
def eager(
    recipe: RecipeName,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    patches: Annotated[int, typer.Option(min=1)] = 88,
) -> None:
    """Time one frame in torch eager for every line on stdin; `parfocal bench` takes turns with it."""
    import torch

    from model_export.train import build

    torch.set_num_threads(threads)
    table = load_recipe(recipe)
    net = build(table).eval()
    side = table.patch_px
    counts = torch.randint(256, (patches, side, side, 3), dtype=torch.uint8)
    for _ in sys.stdin:
        began = time.perf_counter()
        with torch.inference_mode():
            net(counts)
        print(time.perf_counter() - began, flush=True)  # noqa: T201


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(console.run(app, sys.argv[1:], "parfocal-model", (ExportError, AppError, FirmwareError)))


def _read(name: str) -> Recipe:
    """A recipe that can be trained and judged here.

    Raises:
        BadRecipe: There is none, it is wrong, or its evaluation sets are not for it.
        NotInstalled: A library for training is missing.
    """
    recipe = load_recipe(name)
    teaching_of(recipe.task).check_recipe(recipe)
    missing = [module for module in ("torch", "onnx", "onnxscript") if find_spec(module) is None]
    if missing:
        cure = "run `make setup EXTRAS=openvino,train`, or pip install 'parfocal[train]'"
        raise NotInstalled(f"training needs {', '.join(missing)}, which is not installed; {cure}")
    return recipe


def _accept(recipe: Recipe, metrics: dict[str, Any]) -> None:
    missed = [f"{name}: {miss}" for name, limits in recipe.acceptance.items() for miss in limits.missed(metrics[name])]
    if missed:
        what = f"not accepted: {'; '.join(missed)}"
        raise NotAccepted(f"{what}. Train longer, or pass --no-accept to pack it all the same")


def _ticks(update: Callable[..., None], total: int) -> Callable[[], None]:
    """A callback that counts its calls onto a bar."""
    counter = itertools.count(1)
    return lambda: update(next(counter), total)


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


if __name__ == "__main__":
    main()
