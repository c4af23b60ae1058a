"""Trial, not a test: how often a rehearsal accepts and refuses; docs/rehearsal.md has what it prints.

    python tests/rehearsal_trial.py defocus [places] [kept.json]     # or quality, sharpness

Every variant of a model does the same jobs once, one at each place. A rehearsal of variant B against A is then as many
pairs as the task has, drawn from all places with replacement, and judged; that is done 2000 times with the same seed.
Jobs that `kept.json` holds are not done again.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_app import bundle
from edge_app.feed import NOTHING, Beside
from edge_app.model import Model, open_model
from edge_app.ota import rehearsal
from edge_app.ota.rehearsal_board import Stage
from edge_app.ota.rehearsal_jobs import COURSES, Players
from edge_app.ota.rehearsal_rule import LOOKS_PRICE, MARGIN, Pair, Rehearsal, Trial, judge
from edge_app.runtime import Runtime
from firmware import simulation
from firmware.optics import PupilTable
from firmware.profile import load_profile
from firmware.rendering import Slide, make_slide

Arrays = dict[str, NDArray[np.float32]]
Bend = Callable[[Arrays, np.random.Generator], Arrays]
SEED, DRAWS = 11, 2000
PLACES = {"defocus": 128, "quality": 48, "sharpness": 48}
IN_SERVICE = {"defocus": "spectral_20x", "quality": "hh_net_20x", "sharpness": "deepfocus"}
OTHERS = {"defocus": ("ldse_net_20x", "spectral_20x_any_camera"), "quality": (), "sharpness": ()}
DEPTH_UM = 0.95


class Bent:
    """A runtime whose answers are bent, by chance of a seed of its own."""

    def __init__(self, runtime: Runtime, bend: Bend) -> None:
        self._runtime, self._bend = runtime, bend
        self._rng = np.random.default_rng(SEED)
        self.name, self.note = runtime.name, runtime.note

    def infer(self, counts: NDArray[np.uint8], also: Beside = NOTHING) -> Arrays:
        """The bent answers."""
        return self._bend(dict(self._runtime.infer(counts, also)), self._rng)


def bent(model: Model, bend: Bend) -> Model:
    """The same model, bent."""
    return replace(model, runtime=Bent(model.runtime, bend))


def _on(output: str, change: Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.floating]]) -> Bend:
    def bend(outputs: Arrays, rng: np.random.Generator) -> Arrays:
        return outputs | {output: np.asarray(change(outputs[output], rng), np.float32)}

    return bend


def _signs(share: float) -> Bend:
    return _on("defocus_um", lambda um, rng: um * np.where(rng.uniform(size=um.shape) < share, -1, 1))


def _noise(um: float) -> Bend:
    return _on("defocus_um", lambda said, rng: said + rng.normal(0, um, said.shape))


BENDS: dict[str, dict[str, Bend]] = {
    "defocus": {
        "noise of 0.1 um a patch": _noise(0.1),
        "noise of 1 um a patch": _noise(1.0),
        "offset +0.25 DoF": _on("defocus_um", lambda um, _: um + 0.25 * DEPTH_UM),
        "offset +0.5 DoF": _on("defocus_um", lambda um, _: um + 0.5 * DEPTH_UM),
        "offset +1 DoF": _on("defocus_um", lambda um, _: um + DEPTH_UM),
        "offset -1 DoF": _on("defocus_um", lambda um, _: um - DEPTH_UM),
        "gain 0.85": _on("defocus_um", lambda um, _: 0.85 * um),
        "gain 0.7": _on("defocus_um", lambda um, _: 0.7 * um),
        "gain 1.4": _on("defocus_um", lambda um, _: 1.4 * um),
        "sign flipped": _signs(1.0),
        "sign flipped on 30 % of patches": _signs(0.3),
        "sign flipped on 10 % of patches": _signs(0.1),
        "blind: always 0": _on("defocus_um", lambda um, _: 0 * um),
        "blind: chance": _on("defocus_um", lambda um, rng: np.full_like(um, rng.uniform(-9, 9))),
    },
    "quality": {
        "noise of 0.3 on the logits": _on("logits", lambda x, rng: x + rng.normal(0, 0.3, x.shape)),
        "one class off": _on("logits", lambda x, _: np.roll(x, 1, axis=-1)),
        "sides swapped": _on("logits", lambda x, _: x[..., [0, 0, 6, 5, 4, 3, 2]]),
        "blind: always in focus": _on("logits", lambda x, _: 0 * x + 8 * np.eye(7)[4]),
        "blind: chance": _on("logits", lambda x, rng: 0 * x + 8 * np.eye(7)[rng.integers(7)]),
    },
    "sharpness": {
        "noise of 0.02": _on("blur", lambda x, rng: x + rng.normal(0, 0.02, x.shape)),
        "noise of 0.2": _on("blur", lambda x, rng: x + rng.normal(0, 0.2, x.shape)),
        "inverted": _on("blur", lambda x, _: 1 - x),
        "blind: always 0.5": _on("blur", lambda x, _: 0 * x + 0.5),
        "blind: chance": _on("blur", lambda x, rng: rng.uniform(0, 1, x.shape)),
    },
}


def say(line: str) -> None:
    """A line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def accepting_linear(model: Model) -> Model:
    """A model that also takes linear frames, whatever it was taught."""
    manifest = model.bundle.manifest
    passport = manifest.passport.model_copy(update={"response": (*manifest.passport.response, "linear")})
    changed = manifest.model_copy(update={"passport": passport})
    return replace(model, bundle=replace(model.bundle, manifest=changed))


def variants(task: str) -> dict[str, Model]:
    """What is compared, by name; the first is the model in service."""
    served = open_model(bundle.find(IN_SERVICE[task]), threads=2)
    found = {IN_SERVICE[task]: served}
    for name in OTHERS[task]:
        found[name] = accepting_linear(open_model(bundle.find(name), threads=2))
    return found | {name: bent(served, bend) for name, bend in BENDS[task].items()}


def jobs(task: str, count: int) -> dict[str, list[Trial]]:
    """Each variant's jobs, at the same places; those where the model in service finds nothing to see are left out."""
    models = variants(task)
    served = models[IN_SERVICE[task]]
    players = {name: _players(task, model) for name, model in models.items()}
    done: dict[str, list[Trial]] = {name: [] for name in models}
    for place in rehearsal._simulated_places(Stage(load_profile("simulated"), seed=SEED), served, served, count):
        first = players[IN_SERVICE[task]].pair(place)
        if first is None:
            continue
        for name, player in players.items():
            done[name].append(first.new if name == IN_SERVICE[task] else _seen(player.pair(place), first.new))
        gc.collect()
        if len(done[IN_SERVICE[task]]) == count:
            break
    return done


def tell(done: dict[str, list[Trial]]) -> None:
    """Say how each variant's jobs ended."""
    for name, trials in done.items():
        say(
            f"{name}: mean loss {np.mean([t.loss for t in trials]):.3f}, median end "
            f"{np.median([t.end for t in trials]):.3f} DoF, helped {sum(t.helped for t in trials)}, failed "
            f"{sum(bool(t.failed) for t in trials)}, worse {sum(t.worse for t in trials)}, wrong "
            f"{sum(t.wrong for t in trials)} of {len(trials)}"
        )


def keep_slides() -> None:
    """Have all variants look at one slide for each field, since making it takes most of a job's time."""
    make: Callable[..., Slide] = make_slide
    kept: dict[tuple[object, ...], Slide] = {}

    def made(kind: str, seed: tuple[int, ...], table: PupilTable, *size: int, **flaws: object) -> Slide:
        key = (kind, seed, size)
        if key not in kept:
            kept.clear()
            kept[key] = make(kind, seed, table, *size, **flaws)
        return kept[key]

    vars(simulation)["make_slide"] = made


def _players(task: str, model: Model) -> Players:
    return Players(COURSES[task], None, model)


def _seen(pair: Pair | None, first: Trial) -> Trial:
    """A job; one that saw nothing where the model in service saw something stayed at the start."""
    return replace(first, end=first.start, claims=False, helped=False) if pair is None else pair.new


def accepted(old: Sequence[Trial], new: Sequence[Trial], pairs: int, shift: float = 0.0) -> float:
    """Share of rehearsals that accept; `shift` makes every new job's end worse by so many depths of field."""
    rng = np.random.default_rng(SEED)
    count = 0
    for _ in range(DRAWS):
        drawn = rng.choice(len(old), pairs).tolist()
        done = tuple(Pair("", old[k], _worse(new[k], shift)) for k in drawn)
        count += judge(Rehearsal("", "", "", "old", "new", done, 0.0)).accepted
    return count / DRAWS


def _worse(trial: Trial, shift: float) -> Trial:
    """A job that cost more by `shift`, in looks, which no count minds."""
    return replace(trial, looks=trial.looks + shift / LOOKS_PRICE)


def main(task: str, count: int, kept: Path | None) -> None:
    """Say what each variant does, and how often it is accepted against the one in service."""
    if kept is not None and kept.exists():
        done = {name: [Trial(**t) for t in trials] for name, trials in json.loads(kept.read_text()).items()}
    else:
        keep_slides()
        done = jobs(task, count)
    if kept is not None:
        kept.write_text(json.dumps({name: [asdict(t) for t in trials] for name, trials in done.items()}))
    tell(done)
    served, pairs = done[IN_SERVICE[task]], COURSES[task].pairs
    say(f"\naccepted of {DRAWS} rehearsals of {pairs} pairs, {IN_SERVICE[task]} in service")
    for name, trials in done.items():
        say(f"{accepted(served, trials, pairs):7.2%}  {name}")
    for name in OTHERS[task]:
        say(f"{accepted(done[name], served, pairs):7.2%}  {IN_SERVICE[task]}, where {name} is in service")
    for name in [name for name in done if name.startswith("noise")][:1] + list(OTHERS[task])[:1]:
        off = float(np.mean([new.loss - old.loss for old, new in zip(served, done[name], strict=True)]))
        for wanted in (0.0, MARGIN / 2, MARGIN, 2 * MARGIN):
            share = accepted(served, done[name], pairs, wanted - off)
            say(f"{share:7.2%}  {name}, moved so that its mean loss is worse by {wanted:.3f} DoF")


if __name__ == "__main__":
    asked = sys.argv[1]
    main(
        asked,
        int(sys.argv[2]) if len(sys.argv) > 2 else PLACES[asked],
        Path(sys.argv[3]) if len(sys.argv) > 3 else None,
    )
