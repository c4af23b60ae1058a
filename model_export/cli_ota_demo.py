"""parfocal-model demo-ota: the story of two boards that are updated, told by a table and a picture."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_app import console

_TERMINATED = 128 + signal.SIGTERM


def demo_ota(
    out: Annotated[Path, typer.Option(help="folder of the picture and the boards' logs")] = Path("demo-ota-out"),
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Publish models and update two simulated boards: a good one, one that is refused, one that is rolled back.

    Exit 0 only if all of it went as told.
    """
    from model_export import ota_demo
    from model_export.ota_demo_telling import print_table

    # A demo that is told to end takes its boards with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    with console.progress() as progress:
        result = ota_demo.demo(out, progress)
    console.show(result, as_json, lambda screen: print_table(result, screen))
