"""What the handcrafted features add: the recipe's network trained without them, and both scored on the same frames.

`python -m model_export.ablation hh_net_20x --data SHARDS` needs the shards that the bundle was trained on; seed, steps
and everything else are the same.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from edge_app.bundle import find
from edge_app.model import open_model
from edge_app.tasks.quality import spacing_um
from model_export import graded
from model_export.data import open_split
from model_export.evaluate import load_set
from model_export.export import export_network, golden_patches
from model_export.frames import Subject, subject_of
from model_export.recipe import Recipe, load_recipe
from model_export.teaching import Figures
from model_export.teaching.quality import show
from model_export.train import train


def without(recipe: Recipe, data: Path, run: Path) -> Subject:
    """The recipe's network, trained on the same shards without looking at the handcrafted features."""
    deaf = recipe.model_copy(update={"network": {**recipe.network, "handcrafted": False}})
    trained = train(deaf, open_split(data, "train", recipe), run, lambda *_: None)
    golden = golden_patches(recipe)
    exported = export_network(deaf, trained, golden.counts, golden.also)
    return Subject(exported.predictor(), recipe.patches_at_most, recipe.min_contrast, recipe.patch_px)


def compare(
    bundle: str, subjects: dict[str, Subject], name: str, seed: int, amount: tuple[int, int]
) -> dict[str, Figures]:
    """The figures of several models on the same frames of a set."""
    manifest = open_model(find(bundle)).bundle.manifest
    wanted = load_set(name)
    apart_um = spacing_um(manifest, wanted.frame_optics())
    voted: dict[str, list[graded.Voted]] = {key: [] for key in subjects}
    for truth, even in graded.frames_of_set(wanted, apart_um, seed, amount, manifest.input.patch_px):
        for key, subject in subjects.items():
            voted[key].append(graded.ask(truth, even, subject, apart_um))
    return {key: graded.score(of, apart_um) for key, of in voted.items()}


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--run", type=Path, default=Path("runs/ablation"), help="folder of the checkpoint")
    parser.add_argument("--bundle", default="", help="what it is compared with; the recipe's own if empty")
    parser.add_argument("--sets", nargs="+", default=["nominal", "optics"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--specimens", type=int, default=12)
    parser.add_argument("--depths", type=int, default=16)
    asked = parser.parse_args()
    recipe = load_recipe(asked.recipe)
    bundle = asked.bundle or recipe.name
    subjects = {
        "with the features": subject_of(open_model(find(bundle))),
        "without them": without(recipe, asked.data, asked.run),
    }
    for name in asked.sets:
        figures = compare(bundle, subjects, name, asked.seed, (asked.specimens, asked.depths))
        print(json.dumps({"set": name, **figures}))  # noqa: T201
        show(figures, Console())


if __name__ == "__main__":
    main()
