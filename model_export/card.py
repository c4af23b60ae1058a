"""The model card: a bundle's manifest as a page for people."""

from __future__ import annotations

from typing import Any

from edge_app.bundle import CalibrationTable, Manifest

_COLUMNS = ("mae_um", "median_um", "p95_um", "sign", "coverage_68", "coverage_95")
_PAGE = """\
# {m.label}

{m.description}.
Family `{m.family}`, task `{m.task}`, {m.parameters:,} learned parameters ({kib:.0f} KiB in fp32),
{mflop:.0f} MFLOP per patch of {m.input.patch_px} pixels.

For: NA {na[0]:.4g} to {na[1]:.4g}, {px[0]:.4g} to {px[1]:.4g} um per pixel in the specimen,
immersion index {p.immersion_index:g}, {light} {p.contrast}, camera response {response},
+-{p.range_um:g} um. Other optics and cameras are refused. Trained and tested on simulated frames only.

## Accuracy on specimens it never saw

Whole frames of 2592x1944, `n` of them (144 are 12 specimens at 12 depths each);
`parfocal-model evaluate {m.name} --set SET --seed SEED` gives the same figures for 144. Errors in um; patches covered
to more than 20 %; `sign` counts where |z| exceeds half a depth of field; coverage is the share of errors within one
sigma (68 %) and 1.96 sigma (95 %); a frame is abstained on with a verdict other than OK and OUT_OF_RANGE, and counts
with its best guess; `-` stands where nothing was to be scored.

| set (seed) | unit | n | mean | median | p95 | sign | 68 % | 95 % | abstained |
|---|---|---|---|---|---|---|---|---|---|
{rows}

Blank patches (under 2 % covered): {blank}.

Sigma of a patch is multiplied by {known.patch_scale:g} behind an objective whose aberrations the board declares, by
{unknown.patch_scale:g} behind another. A frame's sigma is made of a floor and of shares of the patches' sigma, of the
median's standard error and of the apparent thickness: {known_parts} behind the one, {unknown_parts} behind the other.
All come from calibration frames of their own.

## Where it comes from

Recipe `{t.recipe}` (sha256 {t.recipe_sha256:.16}), seed {t.seed}, commit {t.commit},
{data}, {t.steps} steps in {minutes:.1f} minutes on {t.device}; {versions}.
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
        response=" or ".join(manifest.passport.response),
        blank="; ".join(_blank(name, f["blank"]) for name, f in _sets(manifest) if "blank" in f) or "not scored",
        known=manifest.calibration.known,
        unknown=manifest.calibration.unknown,
        known_parts=_parts(manifest.calibration.known),
        unknown_parts=_parts(manifest.calibration.unknown),
        data=_data(manifest.training.data_duration_s / 60),
        minutes=manifest.training.duration_s / 60,
        versions=", ".join(f"{name} {version}" for name, version in sorted(manifest.training.versions.items())),
    )


def cell(figure: float | None) -> str:
    """A figure in a table; a dash where nothing was to be scored."""
    return "-" if figure is None else f"{figure:.3f}"


def _sets(manifest: Manifest) -> list[tuple[str, dict[str, Any]]]:
    return [(name, figures) for name, figures in manifest.metrics.items() if isinstance(figures, dict)]


def _row(name: str, unit: str, figures: dict[str, Any]) -> str:
    count = figures["patches" if unit == "patch" else "frames"]
    cells = [cell(figures[unit][column]) for column in _COLUMNS]
    end = cell(figures["abstained"]) if unit == "frame" else ""
    seed = f" ({figures['seed']})" if "seed" in figures else ""
    return f"| {name}{seed} | {unit} | {count} | {' | '.join(cells)} | {end} |"


def _blank(name: str, blank: dict[str, Any]) -> str:
    return f"{name}: precision {cell(blank['precision'])}, recall {cell(blank['recall'])} of {blank['patches']}"


def _data(minutes: float) -> str:
    return f"data in {minutes:.0f} minutes" if minutes else "data in a time that was not recorded"


def _parts(table: CalibrationTable) -> str:
    shares = (table.patch_share, table.spread_share, table.thick_share)
    return f"{table.floor_um:.3g} um, {', '.join(f'{share:.2g}' for share in shares)}"
