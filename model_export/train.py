"""One training loop for every family that regresses with an uncertainty: checkpoints, resume, progress."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from firmware import plugins
from firmware.errors import UnknownPlugin
from model_export.data import Tiles, draw_batch
from model_export.errors import BadRecipe, NoData
from model_export.recipe import Recipe

Batch = tuple[NDArray[np.uint8], NDArray[np.float32]]
Progress = Callable[[int, int, float], None]
_AHEAD = 4


@dataclass(frozen=True)
class Trained:
    """A network and what its training cost."""

    net: nn.Module
    steps: int
    duration_s: float
    loss: float
    device: str


def build(recipe: Recipe) -> nn.Module:
    """The family's network with the recipe's numbers, seeded.

    Raises:
        BadRecipe: There is no such family, or it does not take these numbers.
    """
    torch.manual_seed(recipe.seed)
    try:
        net: nn.Module = family_of(recipe).Net(**recipe.network)
    except TypeError as error:
        raise BadRecipe(f"family {recipe.family!r} does not take {recipe.network}: {error}") from error
    return net


def family_of(recipe: Recipe) -> ModuleType:
    """The recipe's file in families/.

    Raises:
        BadRecipe: There is none of that name.
    """
    try:
        return plugins.load("model_export.families", recipe.family)
    except UnknownPlugin as error:
        raise BadRecipe(f"recipe {recipe.name!r}: {error}") from error


def train(recipe: Recipe, tiles: Tiles, run: Path, progress: Progress, steps: int | None = None) -> Trained:
    """Train from the last checkpoint in `run`, or from nothing.

    Args:
        recipe: The numbers.
        tiles: The training split.
        run: Folder of `checkpoint.pt`.
        progress: Called with (step, steps, mean loss).
        steps: End earlier or later than the recipe says (the learning rate follows).

    Raises:
        NoData: The checkpoint is another recipe's.
    """
    table = recipe.training
    steps = steps or table.steps
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = build(recipe).train()
    net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), lr=table.learning_rate, weight_decay=table.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: _rate(s, steps, table.warmup_steps))
    checkpoint = run / "checkpoint.pt"
    first, spent_s, mean = 0, 0.0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        _same_recipe(state, recipe, run)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first, spent_s, mean = state["step"], state["duration_s"], state["loss"]
    started = time.monotonic() - spent_s
    with closing(_batches(recipe, tiles, first, steps)) as batches:
        for step, (counts, depths) in enumerate(batches, first):
            with torch.autocast(device.type, torch.bfloat16):
                defocus_um, log_sigma = net(torch.from_numpy(counts).to(device))
            truth_um = torch.from_numpy(depths).to(device)
            loss = objective(defocus_um.float(), log_sigma.float(), truth_um, table.clip_um)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 2.0)
            optimiser.step()
            schedule.step()
            mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
            if (step + 1) % table.checkpoint_every == 0 or step + 1 == steps:
                _save(checkpoint, recipe, net, optimiser, schedule, step + 1, time.monotonic() - started, mean)
            progress(step + 1, steps, mean)
    return Trained(net.eval().cpu(), max(steps, first), time.monotonic() - started, mean, device_name(device))


def load_trained(recipe: Recipe, run: Path) -> Trained:
    """The network of the last checkpoint in `run`, ready to be asked.

    Raises:
        NoData: There is no checkpoint, or it is of another network.
    """
    checkpoint = run / "checkpoint.pt"
    if not checkpoint.exists():
        raise NoData(f"{run} has no checkpoint; train first: parfocal-model train {recipe.name} --run {run}")
    net = build(recipe)
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        _same_recipe(state, recipe, run)
        net.load_state_dict(state["net"])
    except (RuntimeError, KeyError, EOFError, UnpicklingError) as error:
        raise NoData(f"{checkpoint} does not hold this recipe's network: {error}") from error
    return Trained(net.eval(), state["step"], state["duration_s"], state["loss"], state.get("device", "cpu"))


def device_name(device: torch.device) -> str:
    """The device in words, for the record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def objective(defocus_um: Tensor, log_sigma: Tensor, truth_um: Tensor, clip_um: float) -> Tensor:
    """Huber on the error, stricter near focus, plus the Gaussian likelihood of the error under sigma.

    The likelihood does not reach the defocus (its error is detached), so that an easy sigma cannot buy off a
    hard patch. Of a truth beyond `clip_um` any answer beyond it on the same side is right.
    """
    truth = truth_um.clamp(-clip_um, clip_um)
    error = defocus_um - truth
    over = (truth_um.abs() > clip_um) & (defocus_um * truth.sign() > clip_um)
    error = torch.where(over, torch.zeros_like(error), error)
    scale = 0.4 + 0.1 * truth.abs()
    huber = nn.functional.huber_loss(error / scale, torch.zeros_like(error), delta=1.0)
    log_sigma = log_sigma.clamp(-5.0, 3.0)
    likelihood = (log_sigma + 0.5 * error.detach().square() * torch.exp(-2 * log_sigma)).mean()
    return huber + 0.1 * likelihood


def _rate(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(steps - warmup, 1), 1.0)))


def _batches(recipe: Recipe, tiles: Tiles, first: int, steps: int) -> Generator[Batch, None, None]:
    """Batches drawn ahead by one thread; batch number k depends on the seed and k only."""

    def draw(step: int) -> Batch:
        return draw_batch(tiles, np.random.default_rng([recipe.seed, 77, step]), recipe.training.batch)

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        ahead = deque(pool.submit(draw, step) for step in range(first, min(first + _AHEAD, steps)))
        for step in range(first + _AHEAD, steps + _AHEAD):
            batch = ahead.popleft().result()
            if step < steps:
                ahead.append(pool.submit(draw, step))
            yield batch


def _same_recipe(state: dict[str, Any], recipe: Recipe, run: Path) -> None:
    if state.get("recipe") != recipe.sha256:
        raise NoData(
            f"{run} holds a checkpoint of another recipe, or of {recipe.name} before it changed; give another --run"
        )


def _save(
    path: Path,
    recipe: Recipe,
    net: nn.Module,
    optimiser: Any,
    schedule: Any,
    step: int,
    duration_s: float,
    loss: float,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "recipe": recipe.sha256,
        "net": net.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        "step": step,
        "duration_s": duration_s,
        "loss": loss,
        "device": device_name(next(net.parameters()).device),
    }
    draft = path.with_suffix(".draft")
    torch.save(state, draft)
    draft.replace(path)
