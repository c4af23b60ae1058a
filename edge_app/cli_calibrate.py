"""parfocal calibrate: what a board measures of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_app import console
from edge_app.cli_options import At, Board, Bundle, Config, Json, Seed, State, connected, text_of

app = typer.Typer(help="Measure the board itself.", no_args_is_help=True)


@app.command("mechanics")
def calibrate_mechanics(
    at: At = "",
    board: Board = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say the result, neither go by it nor keep it.")] = False,
    bundle: Bundle = None,
    seed: Seed = None,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Measure which way the motor turns, its backlash and its step; exit 0 if the scan was conclusive."""
    from edge_app import verbs

    with (
        connected(at, config, board=board, bundle=bundle, seed=seed, state=text_of(state)) as client,
        console.progress() as progress,
    ):
        result = verbs.calibrate(client, dry_run, progress)
    console.show(verbs.mechanics_fields(result), as_json, lambda out: out.print(verbs.mechanics_lines(result)))
    raise typer.Exit(0 if result.HasField("mechanics") else 1)


@app.command("focus")
def calibrate_focus(
    at: At = "",
    board: Board = None,
    objective: Annotated[
        str,
        typer.Option(help="The objective in place, which a server keeps; by default the selected one."),
    ] = "",
    range_um: Annotated[float | None, typer.Option(help="Both ways; 12 depths of field by default.")] = None,
    step_um: Annotated[float | None, typer.Option(help="Between slices; half a depth of field by default.")] = None,
    picture: Annotated[Path | None, typer.Option("--picture", help="Draw the curve here.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say the result, neither go by it nor keep it.")] = False,
    bundle: Bundle = None,
    seed: Seed = None,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Record the curve that the strategy few_shot goes by, on a flat textured specimen; exit 0 if there is one."""
    from edge_app import verbs

    verbs.check_picture(picture)
    if any(value is not None and not value > 0 for value in (range_um, step_um)):
        raise typer.BadParameter("--range-um and --step-um are above 0.")
    with (
        connected(at, config, board=board, bundle=bundle, seed=seed, state=text_of(state)) as client,
        console.progress() as progress,
    ):
        result = verbs.calibrate_focus(client, objective, (range_um or 0.0, step_um or 0.0), dry_run, progress)
    console.show(verbs.fields(result), as_json, lambda out: out.print(verbs.curve_lines(result)))
    verbs.draw_curve(result, picture)
    raise typer.Exit(0 if result.HasField("curve") else 1)
