"""Thirty steps of training on a GPU lose what they lose on the processor. Run as a program it trains, and prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_app.nvidia import driver

ROOT = Path(__file__).parents[2]
STEPS = 30
GPU = driver.probe()


def _lacks() -> str:
    if isinstance(GPU, str):
        return GPU
    torch = pytest.importorskip("torch", reason="model_export needs torch")
    return "" if torch.cuda.is_available() else f"torch {torch.__version__} does not see the GPU: a build for CPUs?"


LACKS = _lacks() if __name__ != "__main__" else ""
pytestmark = [pytest.mark.skipif(bool(LACKS), reason=LACKS or "-"), pytest.mark.timeout(600)]


def train(folder: Path, gpu: bool) -> dict[str, Any]:
    """Loss and device of the tiny recipe, trained by a process that sees the GPU or does not."""
    hidden = {} if gpu else {"CUDA_VISIBLE_DEVICES": ""}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        env={**os.environ, **hidden, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


# Products are in bf16 on both, and added up in another order: a mean of losses may differ by some percent.
def test_thirty_steps_lose_on_the_gpu_what_they_lose_on_the_processor(tmp_path: Path) -> None:
    here, there = train(tmp_path / "cpu", gpu=False), train(tmp_path / "gpu", gpu=True)
    assert here["device"].startswith("cpu")
    assert not there["device"].startswith("cpu")
    assert there["losses"][0] == pytest.approx(here["losses"][0], rel=0.02)
    assert there["losses"][-1] == pytest.approx(here["losses"][-1], rel=0.1)


def _main(folder: Path) -> None:
    from test_training import quiet, tiny

    from model_export.data import open_split
    from model_export.synthesis import write_shards
    from model_export.train import train as train_here

    recipe = tiny(steps=STEPS)
    write_shards(recipe, "train", 3, folder / "shards", 1, quiet)
    losses: list[float] = []
    trained = train_here(
        recipe,
        open_split(folder / "shards", "train", recipe),
        folder / "run",
        lambda _step, _steps, loss: losses.append(loss),
    )
    sys.stdout.write(json.dumps({"losses": losses, "device": trained.device}) + "\n")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
