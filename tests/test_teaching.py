"""Every task as it is taught: a file holds all that is asked of it, and networks of any inputs and widths export."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_app.bundle import Also, ModelBundle, find, read
from firmware import plugins
from model_export.errors import BadRecipe
from model_export.recipe import Table, load_recipe
from model_export.teaching import Asked, Teaching, teaching_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

torch = pytest.importorskip("torch", reason="model_export needs torch")
TASKS = plugins.names("model_export.teaching")
every_task = pytest.mark.parametrize("task", TASKS)


@every_task
def test_a_task_holds_all_that_is_asked_of_it(task: str) -> None:
    file = teaching_of(task)
    asked = {name for name in vars(Teaching) if not name.startswith("_")} | set(Teaching.__annotations__)
    assert [name for name in asked if not hasattr(file, name)] == []
    assert all(issubclass(table, Table) for table in (file.Data, file.Acceptance, file.Calibration, file.Objective))
    assert callable(getattr(file.Acceptance, "missed", None))
    assert {"train_specimens", "validation_specimens", "min_contrast"} <= set(file.Data.model_fields)
    assert file.TRUTHS
    assert not {"specimen", "tiles", "features"} & set(file.TRUTHS)


@every_task
def test_a_task_is_one_that_boards_answer_for(task: str) -> None:
    assert task in plugins.names("edge_app.tasks")


@every_task
def test_a_task_is_read_without_torch(task: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; import model_export.teaching.{task}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_task_is_told_what_there_is() -> None:
    with pytest.raises(BadRecipe, match=r"no 'juggling' in model_export/teaching/; it has: .*defocus"):
        teaching_of("juggling")


def test_a_recipe_that_names_no_task_is_of_defocus_and_keeps_its_hash() -> None:
    recipe = load_recipe("spectral_20x")
    assert recipe.task == "defocus"
    assert recipe.sha256 == read_shipped().manifest.training.recipe_sha256


def read_shipped() -> ModelBundle:
    return read(find("spectral_20x"))


def wide_net() -> nn.Module:
    """Reads patches of 32 pixels and three numbers beside each; answers one number, and four."""
    from torch import nn

    class Wide(nn.Module):
        """Two linear layers, one for each input."""

        def __init__(self) -> None:
            super().__init__()
            self.of_patch = nn.Linear(3, 4)
            self.of_whole = nn.Linear(3, 4)

        def forward(self, counts: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
            mean = counts.float().mean(dim=(1, 2)) / 255.0
            logits = self.of_patch(mean) + self.of_whole(whole)
            return logits.sum(dim=1), logits

    torch.manual_seed(1)
    return Wide().eval()


def asked(count: int = 9) -> Asked:
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return Asked(counts, {"whole": rng.normal(size=(count, 3)).astype(np.float32)})


def test_a_network_of_two_inputs_and_a_wide_output_exports_with_a_free_batch() -> None:
    from model_export.export import answers_of, check_parity, to_onnx

    given, outputs = asked(), ("total", "logits")
    graph = to_onnx(wide_net(), outputs, 32, {"whole": 3})
    golden = answers_of(wide_net(), given.counts, outputs, given.also)
    assert golden["logits"].shape == (9, 4)
    assert check_parity(graph, golden, given.counts, given.also) < 1e-4


def test_what_is_read_beside_a_patch_must_be_that_patchs() -> None:
    from model_export.errors import ParityError
    from model_export.export import answers_of, check_parity, to_onnx

    given, outputs = asked(), ("total", "logits")
    graph = to_onnx(wide_net(), outputs, 32, {"whole": 3})
    golden = answers_of(wide_net(), given.counts, outputs, given.also)
    with pytest.raises(ParityError, match="total"):
        check_parity(graph, golden, given.counts, {"whole": given.also["whole"][::-1].copy()})


def test_an_exported_graph_is_asked_in_pieces_with_what_belongs_to_each() -> None:
    from model_export.export import Exported, answers_of, to_onnx

    given, outputs = asked(19), ("total", "logits")
    graph = to_onnx(wide_net(), outputs, 32, {"whole": 3})
    golden = answers_of(wide_net(), given.counts, outputs, given.also)
    answers = Exported(graph, given.counts, golden, 0.0, given.also).predictor()(given.counts, given.also)
    assert answers["logits"] == pytest.approx(golden["logits"], abs=1e-4)
    assert answers["total"] == pytest.approx(golden["total"], abs=1e-4)


def test_a_bundle_keeps_what_was_read_beside_its_golden_patches(tmp_path: Path) -> None:
    from model_export.export import Exported, answers_of, make_bundle, to_onnx

    given, outputs, like = asked(4), ("total", "logits"), read_shipped().manifest
    graph = to_onnx(wide_net(), outputs, 32, {"whole": 3})
    golden = answers_of(wide_net(), given.counts, outputs, given.also)
    also = like.input.model_copy(update={"patch_px": 32, "also": (Also(name="whole", width=3),)})
    manifest = like.model_copy(update={"input": also, "outputs": outputs, "calibration": None})
    path = tmp_path / "wide.parfocal"
    path.write_bytes(make_bundle(manifest, Exported(graph, given.counts, golden, 0.5, given.also), {"some": {}}))
    bundle = read(path)
    assert np.array_equal(bundle.golden_also["whole"], given.also["whole"])
    assert bundle.golden_out["logits"].shape == (4, 4)
    assert bundle.manifest.metrics == {"some": {}, "onnx_parity": 0.5}
