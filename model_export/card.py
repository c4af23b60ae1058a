"""The model card: a bundle's manifest as a page for people."""

from __future__ import annotations

from typing import Any

from edge_app.bundle import Manifest

_COLUMNS = ("mae_um", "median_um", "p95_um", "near_focus_mae_um", "sign", "coverage_68", "coverage_95")
_PAGE = """\
# {m.label}

{m.description}. Family `{m.family}`, task `{m.task}`, {m.parameters:,} learned parameters ({kib:.0f} KiB in fp32),
{mflop:.0f} MFLOP per patch of {m.input.patch_px} pixels.

For: NA {na[0]:.4g} to {na[1]:.4g}, {px[0]:.4g} to {px[1]:.4g} um per pixel in the specimen,
immersion index {p.immersion_index:g}, {light} bright field,
+-{p.range_um:g} um. Other optics are refused. Trained and tested on simulated frames only.

## Accuracy on specimens and optics it never saw

`specimens`: unseen specimens, nominal optics. `optics`: unseen specimens, each behind its own unseen optics and
camera. Errors in um; `near` is the mean error within 2 um of focus; `sign` counts where |z| exceeds half a depth
of field; coverage is the share of errors within one sigma (68 %) and 1.96 sigma (95 %).

| set | unit | n | mean | median | p95 | near | sign | 68 % | 95 % | abstained |
|---|---|---|---|---|---|---|---|---|---|---|
{rows}

Sigma of a patch is multiplied by {m.patch_sigma_scale:g}; the floor of a frame's sigma is
{m.frame_sigma_floor_um:g} um. Both come from a calibration set of its own.

## Where it comes from

Recipe `{t.recipe}` (sha256 {t.recipe_sha256:.16}), seed {t.seed}, commit {t.commit},
{t.steps} steps in {minutes:.0f} minutes on {t.device}; {versions}.
"""


def model_card(manifest: Manifest) -> str:
    """Markdown: what the model is for, how well it did on what it never saw, and where it comes from."""
    return _PAGE.format(
        m=manifest,
        p=manifest.passport,
        t=manifest.training,
        na=manifest.passport.numerical_aperture,
        px=manifest.passport.pixel_um,
        kib=manifest.parameters * 4 / 1024,
        mflop=manifest.flop_per_patch / 1e6,
        light="colour" if manifest.passport.colour else "monochrome",
        rows="\n".join(_row(name, unit, figures) for name, figures in _sets(manifest) for unit in ("patch", "frame")),
        minutes=manifest.training.duration_s / 60,
        versions=", ".join(f"{name} {version}" for name, version in sorted(manifest.training.versions.items())),
    )


def _sets(manifest: Manifest) -> list[tuple[str, dict[str, Any]]]:
    return [(name, figures) for name, figures in manifest.metrics.items() if isinstance(figures, dict)]


def _row(name: str, unit: str, figures: dict[str, Any]) -> str:
    count = figures["patches" if unit == "patch" else "frames"]
    cells = [f"{figures[unit][column]:.3f}" for column in _COLUMNS]
    return f"| {name} | {unit} | {count} | {' | '.join(cells)} | {figures['abstained']:.3f} |"
