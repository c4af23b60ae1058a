"""One training loop for every family of every task: checkpoints, resume, progress."""

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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_export.data import Batch, Features, Split, Tiles
from model_export.errors import BadRecipe, NoData
from model_export.families import family_of
from model_export.recipe import Recipe
from model_export.teaching import teaching_of

Progress = Callable[[int, int, float], None]
_AHEAD = 4
_VALIDATED = 1000


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
        BadRecipe: There is no such family, it is of another task, or it does not take these numbers.
    """
    torch.manual_seed(recipe.seed)
    family = family_of(recipe.family)
    if recipe.task != family.TASK:
        what = f"family {recipe.family!r} is of the task {family.TASK!r}, and the recipe of {recipe.task!r}"
        raise BadRecipe(f"{what}; correct `task` or `family` in {recipe.name}")
    try:
        net: nn.Module = family.Net(**recipe.network)
    except (TypeError, ValueError) as error:
        raise BadRecipe(f"family {recipe.family!r} does not take {recipe.network}: {error}") from error
    return net


def train(recipe: Recipe, split: Tiles | Features, run: Path, progress: Progress, steps: int | None = None) -> Trained:
    """Train from the last checkpoint in `run`, or from nothing.

    Args:
        recipe: The numbers.
        split: The training split.
        run: Folder of `checkpoint.pt`.
        progress: Called with (step, steps, mean loss).
        steps: End earlier or later than the recipe says (the learning rate follows).

    Raises:
        NoData: The checkpoint is another recipe's or another network's, or cannot be read.
    """
    table = recipe.training
    steps = steps or table.steps
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = build(recipe).train()
    blur = torch.zeros(0)
    if isinstance(split, Features):
        features = torch.from_numpy(split.features)
        net.standardise(features, *_tensors(split.also))  # type: ignore[operator]
        blur = table.feature_noise * (features.std(dim=0) + 1e-3).to(device)
    net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), lr=table.learning_rate, weight_decay=table.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: _rate(s, steps, table.warmup_steps))
    checkpoint = run / "checkpoint.pt"
    first, spent_s, mean = 0, 0.0, 0.0
    if checkpoint.exists():
        state = _restore(net, checkpoint, recipe, device)
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first, spent_s, mean = state["step"], state["duration_s"], state["loss"]
    started = time.monotonic() - spent_s
    names, objective = family_of(recipe.family).OUTPUTS, teaching_of(recipe.task).objective
    with closing(_batches(recipe, split, first, steps)) as batches:
        for step, batch in enumerate(batches, first):
            seen, *also = (part.to(device) for part in _tensors({"seen": batch.seen, **batch.also}))
            answers = _ask(net, seen, also, blur, (recipe.seed, step))
            truth = {name: torch.from_numpy(values).to(device) for name, values in batch.truth.items()}
            loss = objective(dict(zip(names, answers, strict=True)), truth, recipe)
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


def validate(recipe: Recipe, net: nn.Module, split: Split) -> str:
    """How good a network is on patches of a split, in the words of its task."""
    batch = split.draw(np.random.default_rng([recipe.seed, 78]), _VALIDATED)
    ask: Callable[..., tuple[Tensor, ...]] = net if batch.seen.dtype == np.uint8 else net.answer  # type: ignore[assignment]
    parts = zip(*(part.split(64) for part in _tensors({"seen": batch.seen, **batch.also})), strict=True)
    with torch.inference_mode():
        told = [ask(*part) for part in parts]
    columns = (torch.cat(column).numpy() for column in zip(*told, strict=True))
    answers = dict(zip(family_of(recipe.family).OUTPUTS, columns, strict=True))
    return teaching_of(recipe.task).validate(recipe, answers, batch.truth)


def load_trained(recipe: Recipe, run: Path) -> Trained:
    """The network of the last checkpoint in `run`, ready to be asked.

    Raises:
        NoData: There is no checkpoint, or it is of another network.
    """
    checkpoint = run / "checkpoint.pt"
    if not checkpoint.exists():
        raise NoData(f"{run} has no checkpoint; train first: parfocal-model train {recipe.name} --run {run}")
    net = build(recipe)
    state = _restore(net, checkpoint, recipe, torch.device("cpu"))
    return Trained(net.eval(), state["step"], state["duration_s"], state["loss"], state.get("device", "cpu"))


def device_name(device: torch.device) -> str:
    """The device in words, for the record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def _rate(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(steps - warmup, 1), 1.0)))


def _ask(net: nn.Module, seen: Tensor, also: list[Tensor], blur: Tensor, seed: tuple[int, int]) -> tuple[Tensor, ...]:
    """The network's answers in fp32: to patches (N, P, P, 3) uint8 by way of bf16, or to features (N, F).

    What is random depends on `seed` only: what the network drops, and the noise, times `blur` (F,), on the features.
    """
    answers: tuple[Tensor, ...]
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    torch.manual_seed(state)
    if seen.dtype == torch.uint8:
        with torch.autocast(seen.device.type, torch.bfloat16):
            answers = net(seen, *also)
    else:
        drawn = torch.Generator(seen.device).manual_seed(state)
        noise = torch.randn(seen.shape, generator=drawn, device=seen.device)
        answers = net.answer(seen + blur * noise, *also)  # type: ignore[operator]
    return tuple(answer.float() for answer in answers)


def _tensors(arrays: dict[str, NDArray[Any]]) -> list[Tensor]:
    return [torch.from_numpy(array) for array in arrays.values()]


def _batches(recipe: Recipe, split: Split, first: int, steps: int) -> Generator[Batch, None, None]:
    """Batches drawn ahead by one thread; batch number k depends on the seed and k only."""

    def draw(step: int) -> Batch:
        return split.draw(np.random.default_rng([recipe.seed, 77, step]), recipe.training.batch)

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        ahead = deque(pool.submit(draw, step) for step in range(first, min(first + _AHEAD, steps)))
        for step in range(first + _AHEAD, steps + _AHEAD):
            batch = ahead.popleft().result()
            if step < steps:
                ahead.append(pool.submit(draw, step))
            yield batch


def _restore(net: nn.Module, checkpoint: Path, recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """Load a checkpoint into a network, and give all that it holds."""
    try:
        state: dict[str, Any] = torch.load(checkpoint, map_location=device, weights_only=True)
        if state.get("recipe") != recipe.trains:
            what = f"a checkpoint of another recipe, or of {recipe.name} before it changed"
            raise NoData(f"{checkpoint.parent} holds {what}; give another --run")
        net.load_state_dict(state["net"])
    except (RuntimeError, KeyError, EOFError, UnpicklingError) as error:
        raise NoData(f"{checkpoint} does not hold this recipe's network: {error}") from error
    return state


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
        "recipe": recipe.trains,
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
