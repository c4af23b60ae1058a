"""What a model card and an evaluation show of a model of the task `quality`: shares that are right, and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from edge_app.bundle import Manifest
from edge_app.errors import BundleCorrupt
from edge_app.tasks.quality import INDICES, SPACING, VOTES
from model_export.graded import WITHIN, Voted, confusion

WHERE = {
    "centres": "the centres",
    "several": "the centres, two voters or more",
    "contiguous": "contiguous z",
    "off_by_one": "contiguous z, off by one",
}
_SECTIONS = """\
For: NA {na[0]:.4g} to {na[1]:.4g}, {px[0]:.4g} to {px[1]:.4g} um per pixel in the specimen,
immersion index {p.immersion_index:g}, {light} {p.contrast}, camera response {response}.
Other optics and cameras are refused. Trained and tested on simulated frames only.

Class centres lie {spacing:g} depths of field apart, edges half way between them: 3, 2 and 1 where the objective is too
far, 0 in focus, -1 and -2 where it is too close. Class 4, totally blurred, is beyond +{high:g} and below {low:g}
depths of field: on either side.

## Accuracy on specimens it never saw

`parfocal-model evaluate {m.name} --set SET --seed SEED --specimens S --depths D` gives the same figures for S slides
of D frames of 900x900 pixels. Shares that are right: of single patches, and of frames whose patches vote in three
ways; certainty-based voting serves. A frame is at a centre within {within:.0%} of a spacing; contiguous z are drawn
evenly over -3.5 to 4.5 spacings; off by one also counts a neighbouring class as right.

| set (seed) | frames at | frames | patches | patch | {votes} |
|---|---|---|---|---|{lines}
{rows}

{classes}
"""


def cell(share: float | None) -> str:
    """A share in a table, to four digits: 0.9987 is not 0.999; a dash where nothing was to be scored."""
    return "-" if share is None else f"{share:.4f}"


def sections(manifest: Manifest) -> str:
    """Markdown sections, up to where the model comes from.

    Raises:
        BundleCorrupt: The manifest does not state its classes' spacing, its aperture or its pixel.
    """
    passport = manifest.passport
    if passport.numerical_aperture is None or passport.pixel_um is None or SPACING not in manifest.facts:
        raise BundleCorrupt(f"{manifest.label} states no {SPACING}, aperture or pixel; use another bundle")
    spacing = manifest.facts[SPACING]
    sets = [(name, figures) for name, figures in manifest.metrics.items() if isinstance(figures, dict)]
    return _SECTIONS.format(
        m=manifest,
        p=passport,
        na=passport.numerical_aperture,
        px=passport.pixel_um,
        light="colour" if passport.colour else "monochrome",
        response=" or ".join(passport.response),
        spacing=spacing,
        high=3.5 * spacing,
        low=-2.5 * spacing,
        within=WITHIN,
        votes=" | ".join(VOTES),
        lines="---|" * len(VOTES),
        rows="\n".join(_row(name, where, figures) for name, figures in sets for where in WHERE),
        classes="\n".join(_classes(name, figures) for name, figures in sets),
    )


def by_class(figures: dict[str, Any]) -> str:
    """The shares by class in the order of the classes; JSON keeps them in another."""
    return ", ".join(f"{index}: {cell(figures['index'][str(index)])}" for index in INDICES)


def draw(voted: list[Voted], title: str, folder: Path) -> list[Path]:
    """Write pictures as PNG: true against voted class at the centres, and the patches' probabilities over z."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    counted, over_z = figure.subplots(1, 2)
    table = confusion(voted)
    counted.imshow(np.sqrt(table), cmap="Blues")
    for (row, column), number in np.ndenumerate(table):
        counted.text(column, row, str(number), ha="center", va="center", fontsize=8)
    names = [str(index) for index in INDICES]
    counted.set(xticks=range(7), yticks=range(7), xticklabels=names, yticklabels=names)
    counted.set(xlabel="voted class", ylabel="true class", title="frames at the centres")
    z = np.concatenate([v.patch_z for v in voted])
    told = np.concatenate([v.probabilities for v in voted])
    edges = np.arange(-3.5, 4.55, 0.1)
    place = np.digitize(z, edges)
    for k, index in enumerate(INDICES):
        mean = [told[place == b, k].mean() if (place == b).any() else np.nan for b in range(1, len(edges))]
        over_z.plot(edges[:-1] + 0.05, mean, label=str(index))
    over_z.set(xlabel="defocus, spacings", ylabel="mean probability of patches", title="classes over z")
    over_z.legend(fontsize=8)
    figure.suptitle(title)
    path = folder / "classes.png"
    figure.savefig(path, dpi=110)
    return [path]


def _row(name: str, where: str, figures: dict[str, Any]) -> str:
    of = figures[where]
    cells = [str(of["frames"]), str(of["patches"]), *(cell(of[unit]) for unit in ("patch", *VOTES))]
    seed = f" ({figures['seed']})" if "seed" in figures else ""
    return f"| {name}{seed} | {WHERE[where]} | {' | '.join(cells)} |"


def _classes(name: str, figures: dict[str, Any]) -> str:
    classes = by_class(figures)
    left = (
        f"no content in {cell(figures['without_content'])}, disagreement in {cell(figures['disagreement'])} of frames"
    )
    error = f"the real-valued centre is {figures['centre_mae_um']} um off on average"
    return f"- {name}: frames at the centres that are right, by class: {classes}; {left}; {error}."
