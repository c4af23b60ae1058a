"""From a trained network to a bundle: ONNX with a dynamic batch, parity, golden outputs, manifest."""

from __future__ import annotations

import platform
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

from edge_app.bundle import Also, Calibrations, Input, Manifest, Training, golden_bytes, pack
from edge_app.patches import PATCH_PX
from model_export.errors import NoData, ParityError
from model_export.families import also_of, family_of
from model_export.frames import Further, Predict
from model_export.recipe import Recipe
from model_export.teaching import Asked, teaching_of
from model_export.train import Trained

_PARITY = 2e-3
_GOLDEN = 6
_GOLDEN_SPECIMENS = 8
_FOLDED = 1024  # constants larger than that are not multiplied out: graphs must stay small
_MOVES = ("Transpose", "Slice", "Reshape")  # what changes no value, only its place
OPSET = 18
INPUT = "counts"


_NONE: Further = {}


def to_onnx(
    net: nn.Module, outputs: Sequence[str], patch_px: int = PATCH_PX, also: Mapping[str, int] | None = None
) -> bytes:
    """Export (N, P, P, 3) uint8 to one (N,) or (N, W) float32 per output, N free, and simplify the graph.

    `also` are the further inputs: their widths by name, in the order in which the network takes them.
    """
    further = dict(also or {})
    examples = _nothing(2, patch_px, further)
    free = {0: torch.export.Dim("patches", min=1, max=4096)}
    as_free = {0: torch.export.Dim.AUTO}  # found to be the same; naming it again is warned of
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        program = torch.onnx.export(
            net.float().eval().to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
            examples,
            input_names=[INPUT, *further],
            output_names=list(outputs),
            dynamic_shapes=(free, *(as_free,) * len(further)),
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


def answers_of(
    net: nn.Module, counts: NDArray[np.uint8], outputs: Sequence[str], also: Further = _NONE
) -> dict[str, NDArray[np.float32]]:
    """The trained network's own answers in fp32: each output (N,) or (N, W)."""
    read = [torch.from_numpy(part) for part in (counts, *also.values())]
    with torch.inference_mode():
        answers = [net(*(part[k : k + 16] for part in read)) for k in range(0, len(counts), 16)]
    return {name: torch.cat([a[i] for a in answers]).numpy() for i, name in enumerate(outputs)}


def check_parity(
    data: bytes, golden: dict[str, NDArray[np.float32]], counts: NDArray[np.uint8], also: Further = _NONE
) -> float:
    """Hold the exported graph against the network, one patch at a time and all at once.

    Returns:
        The largest difference, in the outputs' own units.

    Raises:
        ParityError: They differ by more than 0.002.
    """
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    read: dict[str, NDArray[Any]] = {INPUT: counts, **also}
    together = session.run(list(golden), read)
    alone = [session.run(list(golden), _part(read, k, 1)) for k in range(len(counts))]
    worst = 0.0
    for i, (name, expected) in enumerate(golden.items()):
        single = np.concatenate([answer[i] for answer in alone])
        difference = float(max(np.abs(together[i] - expected).max(), np.abs(single - expected).max()))
        if not difference <= _PARITY:
            raise ParityError(f"the exported {name} differs from the trained one by {difference:.3g}")
        worst = max(worst, difference)
    return worst


def flop_per_patch(net: nn.Module, patch_px: int = PATCH_PX, also: Mapping[str, int] | None = None) -> float:
    """Floating-point operations of convolutions and matrix products for one patch."""
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        net(*_nothing(1, patch_px, dict(also or {})))
    return float(counter.get_total_flops())


def _nothing(count: int, patch_px: int, further: dict[str, int]) -> tuple[torch.Tensor, ...]:
    """Inputs of the right shapes."""
    counts = torch.zeros((count, patch_px, patch_px, 3), dtype=torch.uint8)
    return counts, *(torch.zeros((count, width)) for width in further.values())


def _part(read: Mapping[str, NDArray[Any]], first: int, count: int) -> dict[str, NDArray[Any]]:
    return {name: values[first : first + count] for name, values in read.items()}


@dataclass(frozen=True)
class Exported:
    """A graph that was held against its network.

    `golden_in` is (N, P, P, 3) uint8, `golden_out` (N,) or (N, W) by output, `golden_also` (N, width) by further
    input.
    """

    onnx: bytes
    golden_in: NDArray[np.uint8]
    golden_out: dict[str, NDArray[np.float32]]
    parity: float
    golden_also: Further = field(default_factory=dict)

    def predictor(self) -> Predict:
        """What the graph, and nothing else, says of patches (K, P, P, 3) uint8: its outputs by name."""
        session = onnxruntime.InferenceSession(self.onnx, providers=["CPUExecutionProvider"])
        names = list(self.golden_out)

        def predict(counts: NDArray[np.uint8], also: Further = _NONE) -> dict[str, NDArray[np.float32]]:
            read: dict[str, NDArray[Any]] = {INPUT: counts, **also}
            parts = [session.run(names, _part(read, k, 8)) for k in range(0, len(counts), 8)]
            return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}

        return predict


def export_network(
    recipe: Recipe, trained: Trained, golden_counts: NDArray[np.uint8], also: Further = _NONE
) -> Exported:
    """Export a network and hold the graph against it on patches (N, P, P, 3) uint8, some of which it keeps.

    `also` is what the network reads beside them.

    Raises:
        ParityError: The ONNX does not answer as the network.
    """
    outputs = family_of(recipe.family).OUTPUTS
    onnx_bytes = to_onnx(trained.net, outputs, recipe.patch_px, also_of(recipe.family))
    golden = answers_of(trained.net, golden_counts, outputs, also)
    parity = check_parity(onnx_bytes, golden, golden_counts, also)
    kept, kept_also = _part(golden, 0, _GOLDEN), _part(also, 0, _GOLDEN)
    return Exported(onnx_bytes, golden_counts[:_GOLDEN], kept, parity, kept_also)


def manifest_of(
    recipe: Recipe,
    trained: Trained,
    exported: Exported,
    calibration: Calibrations | None,
    commit: str,
    data_duration_s: float,
) -> Manifest:
    """All that a bundle states but its metrics and hashes.

    Args:
        recipe: What was trained.
        trained: The network and what it cost.
        exported: Its graph.
        calibration: Of its sigma, behind objectives that were measured and behind others; None where it has none.
        commit: Of the code that trained it.
        data_duration_s: What the shards cost.
    """
    teaching, further = teaching_of(recipe.task), also_of(recipe.family)
    return Manifest(
        name=recipe.name,
        version=recipe.version,
        description=recipe.description,
        task=recipe.task,
        family=recipe.family,
        parameters=sum(p.numel() for p in trained.net.parameters()),
        flop_per_patch=flop_per_patch(trained.net, recipe.patch_px, further),
        input=Input(
            name=INPUT,
            patch_px=recipe.patch_px,
            patches_at_most=recipe.patches_at_most,
            min_contrast=recipe.min_contrast,
            also=tuple(Also(name=name, width=width) for name, width in further.items()),
        ),
        outputs=tuple(exported.golden_out),
        passport=teaching.passport(recipe),
        calibration=calibration,
        facts=teaching.facts(recipe),
        metrics={},
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


def make_bundle(manifest: Manifest, exported: Exported, metrics: dict[str, Any]) -> bytes:
    """Everything into one file; `metrics` are by evaluation set."""
    complete = manifest.model_copy(update={"metrics": {**metrics, "onnx_parity": exported.parity}})
    return pack(complete, exported.onnx, golden_bytes(exported.golden_in, exported.golden_out, exported.golden_also))


def golden_patches(recipe: Recipe) -> Asked:
    """What the first validation specimens give to hold a graph against its network, at least one patch.

    Raises:
        NoData: Not one of these specimens shows anything.
    """
    given = [teaching_of(recipe.task).golden(recipe, index) for index in range(_GOLDEN_SPECIMENS)]
    counts = np.concatenate([asked.counts for asked in given])
    if not len(counts):
        raise NoData("no validation specimen is informative; give the recipe other kinds of specimen")
    return Asked(counts, {name: np.concatenate([asked.also[name] for asked in given]) for name in given[0].also})


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


def random_counts(count: int, seed: int, patch_px: int = PATCH_PX) -> NDArray[np.uint8]:
    """Noise patches (N, P, P, 3) for checks that need no specimen."""
    return np.random.default_rng(seed).integers(0, 256, (count, patch_px, patch_px, 3), dtype=np.uint8)


def random_also(family: str, count: int, seed: int) -> Further:
    """Noise for what a family reads beside patches."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(count, width)).astype(np.float32) for name, width in also_of(family).items()}
