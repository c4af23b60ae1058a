"""Variants: a bundle's network in other precisions, each a bundle of its own with its own golden outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edge_app.answer import DEFOCUS
from edge_app.bundle import SUFFIX, Manifest, ModelBundle, Precision, golden_bytes, pack
from edge_app.feed import NOTHING, Beside, intake_of, rows_of
from edge_app.patches import PatchGrid, content
from model_export.emulation import halves_rounded, tf32
from model_export.errors import BadRecipe, ExportError, NoData, ParityError
from model_export.frames import Predict
from model_export.precision import fp16, int8
from model_export.recipe import Recipe
from model_export.synthesis import specimen_tiles

EMULATED = ("tf32", "fp16_whole")
"""What is scored to show what it would do, and never packed: TF32 operands, and halves in the front end too."""
# How far golden answers may lie from fp32's: outputs in um as a share of the range, others as they are.
MAY_MOVE: dict[str, tuple[float, float]] = {"fp16": (0.005, 0.05), "int8": (0.1, 1.0)}
_PATCHES = 4
_BATCH = 8


@dataclass(frozen=True)
class Variant:
    """A graph made of a bundle's: what it answers as a device of that precision would, and how far that lies off.

    `golden_out` (N,) by output are its answers to the bundle's golden inputs, `moved` their largest distance from
    fp32's by output; NaN where an answer is not a number.
    """

    precision: str
    onnx: bytes
    predict: Predict
    golden_out: dict[str, NDArray[np.float32]]
    moved: dict[str, float]


def check_bundle(manifest: Manifest) -> float:
    """See that variants of a bundle can be made and scored; gives its range in um.

    Raises:
        ExportError: It is not fp32, not of defocus, or reads more than the patches that calibrate variants.
    """
    label, inputs = manifest.label, ", ".join(each.name for each in manifest.input.also)
    if manifest.precision != "fp32":
        raise ExportError(f"{label} is {manifest.precision} already; give the fp32 bundle that it was made of")
    if inputs:
        raise ExportError(f"{label} reads {inputs} beside patches, and patches alone calibrate; use it in fp32")
    if manifest.task != DEFOCUS or manifest.passport.range_um is None:
        raise ExportError(f"{label} is of {manifest.task}, and variants are scored by um of defocus; use it in fp32")
    return manifest.passport.range_um


def check_recipe(manifest: Manifest, recipe: Recipe) -> None:
    """See that variants of a bundle can be made, and that a recipe is the one that trained it.

    Raises:
        BadRecipe: It is another.
        ExportError: As `check_bundle`.
    """
    check_bundle(manifest)
    if recipe.sha256 != manifest.training.recipe_sha256:
        what = f"{manifest.label} was not trained by the recipe {recipe.name!r} as it stands"
        raise BadRecipe(f"{what}; give the file that was used with --recipe")


def calibration_patches(recipe: Recipe, specimens: int, progress: Callable[[], None]) -> NDArray[np.uint8]:
    """Some informative patches (N, P, P, 3) uint8 of each of the first training specimens.

    Raises:
        NoData: None is informative.
    """
    grid = PatchGrid.fit(recipe.data.tile_px, recipe.data.tile_px, recipe.patch_px)
    found: list[NDArray[np.uint8]] = []
    for index in range(specimens):
        tiles = specimen_tiles(recipe, "train", index).tiles
        cut = np.concatenate([grid.cut(t, content(t, grid, recipe.min_contrast).informative) for t in tiles])
        found.append(cut[np.linspace(0, len(cut) - 1, min(_PATCHES, len(cut))).astype(int)])
        progress()
    patches = np.concatenate(found)
    if not len(patches):
        raise NoData("no calibration patch shows anything; take more specimens, or a recipe with other kinds of them")
    return patches


def make_variant(bundle: ModelBundle, kind: str, patches: NDArray[np.uint8]) -> Variant:
    """The bundle's graph in another precision (fp16, int8, or one of EMULATED); patches (N, P, P, 3) uint8 calibrate.

    Raises:
        ExportError: As `check_bundle`, or the graph has nothing to make smaller.
        ParityError: The golden answers lie too far from fp32's.
    """
    check_bundle(bundle.manifest)
    makers: dict[str, Callable[[], bytes]] = {
        "fp16": lambda: fp16(bundle.onnx, patches),
        "int8": lambda: int8(bundle.onnx, patches),
        "tf32": lambda: tf32(bundle.onnx),
        "fp16_whole": lambda: fp16(bundle.onnx, patches, whole=True),
    }
    made = makers[kind]()
    predict = predictor(bundle, halves_rounded(made) if kind.startswith("fp16") else made)
    golden = predict(bundle.golden_in)
    moved = {name: float(np.abs(golden[name] - bundle.golden_out[name]).max()) for name in golden}
    if kind in MAY_MOVE:
        _check_moved(bundle, kind, moved)
    return Variant(kind, made, predict, golden, moved)


def predictor(bundle: ModelBundle, graph: bytes) -> Predict:
    """What a graph with the bundle's inputs and outputs says of patches (K, P, P, 3) uint8, in ONNX Runtime.

    What it reads beside them is a second argument, (K, width) float32 by input.
    """
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names, intake = list(bundle.manifest.outputs), intake_of(bundle.manifest)

    def predict(counts: NDArray[np.uint8], also: Beside = NOTHING) -> dict[str, NDArray[np.float32]]:
        feed = intake.feed(counts, also)
        parts = [session.run(names, rows_of(feed, slice(k, k + _BATCH))) for k in range(0, len(counts), _BATCH)]
        return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}

    return predict


def write_variant(bundle: ModelBundle, variant: Variant, metrics: dict[str, Any], patches: int, folder: Path) -> Path:
    """Write a bundle of a variant: graph, golden outputs and metrics are its own, all else is the fp32 bundle's.

    Args:
        bundle: The fp32 bundle.
        variant: Of a precision that is packed.
        metrics: The variant's figures by set.
        patches: How many calibrated it.
        folder: Where to; the file is called NAME_PRECISION.parfocal.
    """
    kind = cast("Precision", variant.precision)
    record = {
        "made_of": f"{bundle.manifest.label}, sha256 {bundle.sha256}",
        "made_with": f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, {patches} calibration patches",
        "moved_at_most": round(max(variant.moved.values()), 6),
    }
    manifest = bundle.manifest.model_copy(
        update={
            "name": f"{bundle.manifest.name}_{kind}",
            "description": f"{bundle.manifest.description}, in {kind}",
            "precision": kind,
            "metrics": {**metrics, **record},
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{manifest.name}{SUFFIX}"
    path.write_bytes(pack(manifest, variant.onnx, golden_bytes(bundle.golden_in, dict(variant.golden_out))))
    return path


def _check_moved(bundle: ModelBundle, kind: str, moved: dict[str, float]) -> None:
    (share, plain), range_um = MAY_MOVE[kind], check_bundle(bundle.manifest)
    for name, distance in moved.items():
        most = share * range_um if name.endswith("_um") else plain
        if not distance <= most:
            what = f"{name} of {bundle.manifest.label} in {kind} lies {distance:.3g} off fp32 on the golden inputs"
            raise ParityError(f"{what} (at most {most:g}); use the fp32 bundle")
