"""From a trained network to a bundle: ONNX with a dynamic batch, parity, golden outputs, manifest."""

from __future__ import annotations

import platform
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxscript.optimizer import optimize_ir
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edge_app.bundle import Calibrations, Input, Manifest, Training, golden_bytes, pack
from edge_app.patches import PATCH_PX
from model_export.data import is_informative
from model_export.errors import NoData, ParityError
from model_export.families import family_of
from model_export.frames import Predict
from model_export.passport import passport_of
from model_export.recipe import Recipe
from model_export.synthesis import specimen_tiles
from model_export.train import Trained

_PARITY = 2e-3
_GOLDEN = 6
_GOLDEN_SPECIMENS = 8
_FOLDED = 1024  # constants larger than that are not multiplied out: graphs must stay small
_MOVES = ("Transpose", "Slice", "Reshape")  # what changes no value, only its place
OPSET = 18
INPUT = "counts"


def to_onnx(net: nn.Module, outputs: Sequence[str], patch_px: int = PATCH_PX) -> bytes:
    """Export (N, P, P, 3) uint8 to one (N,) float32 per output, N free, and simplify the graph."""
    example = torch.zeros((2, patch_px, patch_px, 3), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        program = torch.onnx.export(
            net.float().eval().to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
            (example,),
            input_names=[INPUT],
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("patches", min=1, max=4096)},),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
        assert program is not None
        optimize_ir(program.model, input_size_limit=_FOLDED)
        program.save(path, external_data=False)
        model = onnx.load(path)
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    cast_first(model)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def cast_first(model: onnx.ModelProto) -> None:
    """Make the counts floats before anything else, in place: TensorRT takes bytes at its border only.

    Source: onnx-tensorrt, docs/operators.md: "UINT8 is only supported as network input or output tensor types".
    """
    floats = f"{INPUT}_f32"
    kept = [onnx.helper.make_node("Cast", [INPUT], [floats], to=onnx.TensorProto.FLOAT)]
    now, cast = {INPUT: floats}, {floats}
    for node in model.graph.node:
        read = [now.get(name, name) for name in node.input]
        if node.op_type == "Cast" and read[0] in cast:
            now[node.output[0]] = read[0]
            continue
        del node.input[:]
        node.input.extend(read)
        if node.op_type in _MOVES and read[0] in cast:
            cast.add(node.output[0])
        kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def answers_of(net: nn.Module, counts: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """The trained network's own answers in fp32: each output (N,)."""
    with torch.inference_mode():
        answers = [net(torch.from_numpy(counts[k : k + 16])) for k in range(0, len(counts), 16)]
    return {name: torch.cat([a[i] for a in answers]).numpy() for i, name in enumerate(outputs)}


def check_parity(data: bytes, golden: dict[str, NDArray[np.float32]], counts: NDArray[np.uint8]) -> float:
    """Hold the exported graph against the network, one patch at a time and all at once.

    Returns:
        The largest difference, in the outputs' own units.

    Raises:
        ParityError: They differ by more than 0.002.
    """
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    together = session.run(list(golden), {INPUT: counts})
    alone = [session.run(list(golden), {INPUT: counts[k : k + 1]}) for k in range(len(counts))]
    worst = 0.0
    for i, (name, expected) in enumerate(golden.items()):
        single = np.concatenate([answer[i] for answer in alone])
        difference = float(max(np.abs(together[i] - expected).max(), np.abs(single - expected).max()))
        if not difference <= _PARITY:
            raise ParityError(f"the exported {name} differs from the trained one by {difference:.3g}")
        worst = max(worst, difference)
    return worst


def flop_per_patch(net: nn.Module, patch_px: int = PATCH_PX) -> float:
    """Floating-point operations of convolutions and matrix products for one patch."""
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        net(torch.zeros((1, patch_px, patch_px, 3), dtype=torch.uint8))
    return float(counter.get_total_flops())


@dataclass(frozen=True)
class Exported:
    """A graph that was held against its network: `golden_in` (N, P, P, 3) uint8, `golden_out` (N,) by output."""

    onnx: bytes
    golden_in: NDArray[np.uint8]
    golden_out: dict[str, NDArray[np.float32]]
    parity: float

    def predictor(self) -> Predict:
        """What the graph, and nothing else, says of patches (K, P, P, 3) uint8: its outputs (K,) by name."""
        session = onnxruntime.InferenceSession(self.onnx, providers=["CPUExecutionProvider"])
        names = list(self.golden_out)

        def predict(counts: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
            parts = [session.run(names, {INPUT: counts[k : k + 8]}) for k in range(0, len(counts), 8)]
            return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}

        return predict


def export_network(recipe: Recipe, trained: Trained, golden_counts: NDArray[np.uint8]) -> Exported:
    """Export a network and hold the graph against it on patches (N, P, P, 3) uint8, some of which it keeps.

    Raises:
        ParityError: The ONNX does not answer as the network.
    """
    outputs = family_of(recipe.family).OUTPUTS
    onnx_bytes = to_onnx(trained.net, outputs, recipe.patch_px)
    golden = answers_of(trained.net, golden_counts, outputs)
    parity = check_parity(onnx_bytes, golden, golden_counts)
    kept = {name: answers[:_GOLDEN] for name, answers in golden.items()}
    return Exported(onnx_bytes, golden_counts[:_GOLDEN], kept, parity)


def make_bundle(
    recipe: Recipe,
    trained: Trained,
    exported: Exported,
    calibration: Calibrations,
    metrics: dict[str, Any],
    commit: str,
    data_duration_s: float,
) -> bytes:
    """Everything into one file.

    Args:
        recipe: What was trained.
        trained: The network and what it cost.
        exported: Its graph.
        calibration: Of its sigma, behind objectives that were measured and behind others.
        metrics: By evaluation set.
        commit: Of the code that trained it.
        data_duration_s: What the shards cost.
    """
    manifest = Manifest(
        name=recipe.name,
        version=recipe.version,
        description=recipe.description,
        task=family_of(recipe.family).TASK,
        family=recipe.family,
        parameters=sum(p.numel() for p in trained.net.parameters()),
        flop_per_patch=flop_per_patch(trained.net, recipe.patch_px),
        input=Input(
            name=INPUT,
            patch_px=recipe.patch_px,
            patches_at_most=recipe.patches_at_most,
            min_contrast=recipe.min_contrast,
        ),
        outputs=tuple(exported.golden_out),
        passport=passport_of(recipe),
        calibration=calibration,
        metrics={**metrics, "onnx_parity": exported.parity},
        training=Training(
            recipe=recipe.name,
            recipe_sha256=recipe.sha256,
            seed=recipe.seed,
            commit=commit,
            steps=trained.steps,
            duration_s=round(trained.duration_s, 1),
            data_duration_s=round(data_duration_s, 1),
            device=trained.device,
            versions={
                "torch": torch.__version__,
                "onnx": onnx.__version__,
                "python": platform.python_version(),
            },
        ),
        sha256={},
    )
    return pack(manifest, exported.onnx, golden_bytes(exported.golden_in, exported.golden_out))


def golden_patches(recipe: Recipe) -> NDArray[np.uint8]:
    """Informative patches (N, P, P, 3) of the first validation specimens, at least one.

    Raises:
        NoData: Not one of these specimens shows anything.
    """
    patches: list[NDArray[np.uint8]] = []
    for index in range(_GOLDEN_SPECIMENS):
        for tile in specimen_tiles(recipe, "validation", index).tiles[:3]:
            patch = tile[: recipe.patch_px, : recipe.patch_px]
            if is_informative(patch, recipe.min_contrast):
                patches.append(patch)
    if not patches:
        raise NoData("no validation specimen is informative; give the recipe other kinds of specimen")
    return np.stack(patches)


def current_commit() -> str:
    """The checked-out commit, with a plus where the tree differs from it; "unknown" outside a checkout."""
    try:
        head = _git("rev-parse", "HEAD")
        dirty = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if dirty else "")


def _git(*words: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


def random_counts(count: int, seed: int) -> NDArray[np.uint8]:
    """Noise patches (N, 224, 224, 3) for checks that need no specimen."""
    return np.random.default_rng(seed).integers(0, 256, (count, PATCH_PX, PATCH_PX, 3), dtype=np.uint8)
