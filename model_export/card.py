"""The model card: a bundle's manifest as a page for people."""

from __future__ import annotations

from edge_app.bundle import Manifest
from model_export.teaching import teaching_of

_PAGE = """\
# {m.label}

{m.description}.
Family `{m.family}`, task `{m.task}`, {m.parameters:,} learned parameters ({kib:.0f} KiB in fp32),
{mflop:.0f} MFLOP per patch of {m.input.patch_px} pixels.

{task}
## Where it comes from

Recipe `{t.recipe}` (sha256 {t.recipe_sha256:.16}), seed {t.seed}, commit {t.commit},
{data}, {t.steps} steps in {minutes:.1f} minutes on {t.device}; {versions}.
"""


def model_card(manifest: Manifest) -> str:
    """Markdown: what the model is for, how well it did on what it never saw, and where it comes from.

    Raises:
        BadRecipe: Its task is not one that is taught here.
    """
    return _PAGE.format(
        m=manifest,
        t=manifest.training,
        kib=manifest.parameters * 4 / 1024,
        mflop=manifest.flop_per_patch / 1e6,
        task=teaching_of(manifest.task).card(manifest),
        data=_data(manifest.training.data_duration_s / 60),
        minutes=manifest.training.duration_s / 60,
        versions=", ".join(f"{name} {version}" for name, version in sorted(manifest.training.versions.items())),
    )


def cell(figure: float | None) -> str:
    """A figure in a table; a dash where nothing was to be scored."""
    return "-" if figure is None else f"{figure:.3f}"


def _data(minutes: float) -> str:
    return f"data in {minutes:.0f} minutes" if minutes else "data in a time that was not recorded"
