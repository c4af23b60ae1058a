"""The table of `parfocal-model precision`: the errors of a bundle in each precision, side by side."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from model_export.card import cell


def print_precisions(result: dict[str, Any], out: Console) -> None:
    """Show what `comparison.document` gave, and which of them is to serve."""
    frame = {"frame": ("frame", "mae_um"), "median": ("frame", "median_um"), "p95": ("frame", "p95_um")}
    columns = {"patch": ("patch", "mae_um"), **frame, "side": ("patch", "sign")}
    table = Table("set", "precision", *columns, "KiB", title="mean |error| of patches and frames, um")
    told = []
    for name, of in result["sets"].items():
        for kind, figures in of.items():
            cells = [cell(figures[unit][key] if unit in figures else None) for unit, key in columns.values()]
            table.add_row(name, kind, *cells, f"{result['onnx_bytes'][kind] / 1024:.0f}")
            if "growth" in figures:
                grew = "{mean_um:+.4f} um ({low_um:+.4f} to {high_um:+.4f}, 95 %)".format(**figures["growth"])
                told.append(f"{kind} on {name}: the frame error changes by {grew}")
            told += [f"{kind} on {name}: {miss}" for miss in figures.get("misses", [])]
    out.print(table)
    out.print("\n".join(told), highlight=False)
    out.print(f"to serve: {result['choice']} ({result['rule']})", highlight=False)
