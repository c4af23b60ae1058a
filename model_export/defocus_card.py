"""What a model card says of a model of the task `defocus`: its optics, its errors and how its sigma is made."""

from __future__ import annotations

from typing import Any

from edge_app.bundle import CalibrationTable, Manifest
from edge_app.errors import BundleCorrupt
from model_export.card import cell

_COLUMNS = ("mae_um", "median_um", "p95_um", "sign", "coverage_68", "coverage_95")
_SECTIONS = """\
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
"""


def sections(manifest: Manifest) -> str:
    """Markdown sections, up to where the model comes from.

    Raises:
        BundleCorrupt: The manifest has no calibration, or no range.
    """
    passport, calibrations = manifest.passport, manifest.calibration
    if calibrations is None or passport.numerical_aperture is None or passport.pixel_um is None:
        raise BundleCorrupt(f"{manifest.label} states no calibration, aperture or pixel; use another bundle")
    return _SECTIONS.format(
        m=manifest,
        p=passport,
        na=passport.numerical_aperture,
        px=passport.pixel_um,
        light="colour" if passport.colour else "monochrome",
        rows="\n".join(_row(name, unit, figures) for name, figures in _sets(manifest) for unit in ("patch", "frame")),
        response=" or ".join(passport.response),
        blank="; ".join(_blank(name, f["blank"]) for name, f in _sets(manifest) if "blank" in f) or "not scored",
        known=calibrations.known,
        unknown=calibrations.unknown,
        known_parts=_parts(calibrations.known),
        unknown_parts=_parts(calibrations.unknown),
    )


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


def _parts(table: CalibrationTable) -> str:
    shares = (table.patch_share, table.spread_share, table.thick_share)
    return f"{table.floor_um:.3g} um, {', '.join(f'{share:.2g}' for share in shares)}"
