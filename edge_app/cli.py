"""parfocal: the command line. With --at a verb asks a server, without it opens the board itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_app import cli_calibrate, cli_trust, cli_update, console
from edge_app.cli_options import (
    IDENTITY,
    At,
    Board,
    Bundle,
    Config,
    Json,
    Runtime,
    Seed,
    State,
    Strategy,
    connected,
    kit_folder,
    server_at,
    text_of,
)

app = typer.Typer(
    name="parfocal",
    help="Focus a microscope: one look, one move, one check.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(cli_calibrate.app, name="calibrate")
app.add_typer(cli_trust.app, name="trust")
app.add_typer(cli_update.app, name="update")


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(console.run(app, sys.argv[1:]))


@app.callback()
def parfocal(
    identity: Annotated[
        Path | None, typer.Option(help="Your kit, the folder that `trust add` made: what other machines want to see.")
    ] = None,
) -> None:
    """Focus a microscope: one look, one move, one check."""
    IDENTITY.set(identity)


@app.command()
def serve(
    board: Board = None,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where to listen.")] = None,
    bundle: Bundle = None,
    runtime: Runtime = None,
    seed: Seed = None,
    state: State = None,
    config: Config = None,
    stay_up: Annotated[bool, typer.Option("--stay-up", help="Serve without a board too, and try again.")] = False,
    as_json: Json = False,
) -> None:
    """Serve focus over gRPC until SIGTERM or Ctrl-C; events go to stderr, one line each.

    With --stay-up a configuration or a board that cannot be used leaves a service that says so (health, Describe) and
    tries again after 5 s, then ever later up to 60 s, and at once on SIGHUP; SIGHUP also has a board that is served
    opened anew by the configuration as it is then, unless that cannot be read. Without, SIGHUP ends the service.
    """
    from edge_app import heap, journal, server
    from edge_app.config import listen_anyway, read_settings

    flags = {"board": board, "listen": listen, "bundle": bundle, "runtime": runtime, "seed": seed, "state": state}

    def ready(address: str) -> None:
        said = {"address": address} if stay_up else {**named, "address": address}
        text = f"listens on {address}" if stay_up else f"{named['board']} listens on {address}"
        console.show(said, as_json, lambda out: out.print(text))
        sys.stdout.flush()

    heap.keep_small()
    journal.configure()
    if stay_up:
        server.stay_up(
            lambda: read_settings(config, **flags), lambda before: listen_anyway(config, listen, before), ready
        )
    else:
        settings = read_settings(config, **flags)
        named = {"board": settings.board, "bundle": settings.bundle}
        server.serve(settings, ready)


@app.command()
def focus(
    at: At = "",
    board: Board = None,
    strategy: Strategy = "",
    bundle: Bundle = None,
    runtime: Runtime = None,
    seed: Seed = None,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Focus, and say what each look showed; exit 0 only if it ends in focus."""
    from edge_app import verbs

    with connected(
        at, config, strategy, board=board, bundle=bundle, runtime=runtime, seed=seed, state=text_of(state)
    ) as client:
        looks, outcome = verbs.focus(client, strategy, lambda line: typer.echo(line, err=as_json))
    result = {"looks": looks, "outcome": verbs.fields(outcome)}
    console.show(result, as_json, lambda out: out.print(verbs.outcome_line(outcome)))
    raise typer.Exit(0 if verbs.in_focus(outcome) else 1)


@app.command()
def measure(
    at: At = "",
    board: Board = None,
    picture: Annotated[Path | None, typer.Option("--map", help="Draw each patch's defocus here.")] = None,
    quality: Annotated[bool, typer.Option("--quality", help="Grade the focus by seven classes instead.")] = False,
    bundle: Bundle = None,
    runtime: Runtime = None,
    seed: Seed = None,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Take one look and say how far out of focus it is. Moves nothing; exit 0 whatever the verdict."""
    from edge_app import verbs

    if quality and picture is not None:
        raise typer.BadParameter("--map draws defocus: leave out either it or --quality.")
    with connected(at, config, board=board, bundle=bundle, runtime=runtime, seed=seed, state=text_of(state)) as client:
        task = "quality" if quality else ""
        reply = client.measure(with_map=picture is not None, with_image=picture is not None, task=task)
        if picture is not None:
            verbs.draw_map(reply, client.describe().camera.width_px, picture)
    line = verbs.quality_line(reply.quality) if quality else verbs.estimate_line(reply.estimate)
    console.show(verbs.fields(reply), as_json, lambda out: out.print(line))


@app.command()
def move(
    to_um: Annotated[float | None, typer.Option("--to", help="Position, um.")] = None,
    by_um: Annotated[float | None, typer.Option("--by", help="Distance, um; positive: away.")] = None,
    at: At = "",
    board: Board = None,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Move the objective, within the soft limits."""
    from edge_app import verbs

    if (to_um is None) == (by_um is None):
        raise typer.BadParameter("give either --to or --by.")
    with connected(at, config, board=board, bundle="none", state=text_of(state)) as client:
        reply = client.move_to(to_um) if to_um is not None else client.move_by(by_um or 0.0)
    line = f"moved from {reply.from_z_um:.2f} to {reply.z_um:.2f} um"
    console.show(verbs.fields(reply), as_json, lambda out: out.print(line))


@app.command()
def home(at: At = "", board: Board = None, state: State = None, config: Config = None, as_json: Json = False) -> None:
    """Find the axis's home switch."""
    from edge_app import verbs

    with connected(at, config, board=board, bundle="none", state=text_of(state)) as client:
        reply = client.home()
    lasts = "" if at else "; forgotten as this command ends, unless the board holds without power: serve it, use --at"
    console.show(verbs.fields(reply), as_json, lambda out: out.print(f"homed, at {reply.z_um:.2f} um{lasts}"))


@app.command("set-zero")
def set_zero(at: At = "", config: Config = None, as_json: Json = False) -> None:
    """Declare a server's present position to be zero, the middle of the declared window."""
    from edge_app import verbs

    with server_at(at, config) as client:
        reply = client.set_zero()
    console.show(verbs.fields(reply), as_json, lambda out: out.print(f"zero is here, at {reply.z_um:.2f} um"))


@app.command()
def capture(
    file: Annotated[Path, typer.Argument(help="Where to write the PNG.")],
    at: At = "",
    board: Board = None,
    max_px: Annotated[int, typer.Option(min=0, help="Longer side at most; 0 for full size.")] = 0,
    seed: Seed = None,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Take one frame."""
    from edge_app import verbs

    with connected(at, config, board=board, bundle="none", seed=seed, state=text_of(state)) as client:
        reply = client.capture(max_px)
    file.write_bytes(reply.image_png)
    result = {"file": str(file), **verbs.fields(reply)}
    line = f"{file}: {reply.width_px}x{reply.height_px} at {reply.z_um:.2f} um"
    console.show(result, as_json, lambda out: out.print(line))


@app.command()
def models(
    at: At = "",
    board: Board = None,
    bundle: Bundle = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List the models, and whether they fit the board."""
    from edge_app import verbs

    with connected(at, config, board=board, bundle=bundle or "none") as client:
        reply = client.models()
    console.show(verbs.fields(reply), as_json, lambda out: verbs.print_models(reply, out))


@app.command()
def position(at: At = "", config: Config = None, as_json: Json = False) -> None:
    """Say where a server's objective is."""
    from edge_app import verbs

    with server_at(at, config) as client:
        reply = client.position()
    console.show(verbs.fields(reply), as_json, lambda out: out.print(verbs.position_line(reply)))


@app.command()
def status(at: At = "", config: Config = None, as_json: Json = False) -> None:
    """Say what a server serves, with which model and runtime, and what troubles it; exit 0 if nothing does."""
    from edge_app import verbs

    with server_at(at, config) as client:
        reply = client.describe()
    console.show(verbs.fields(reply), as_json, lambda out: out.print(verbs.status_lines(reply)))
    raise typer.Exit(1 if reply.HasField("trouble") else 0)


@app.command()
def stop(at: At = "", config: Config = None, as_json: Json = False) -> None:
    """Stop whatever a server moves."""
    from edge_app import verbs

    with server_at(at, config) as client:
        reply = client.stop()
    was = "stopped" if reply.was_running else "nothing was running"
    line = f"{was}; at rest at {reply.z_um:.2f} um"
    console.show(verbs.fields(reply), as_json, lambda out: out.print(line))


@app.command("find")
def find_boards(
    seconds: Annotated[float, typer.Option(min=0.1, max=600.0, help="How long to listen.")] = 4.0,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List the boards that tell the network of themselves, and which of them your kit is for.

    Anybody can tell anything there: only a connection with a kit proves a board.
    """
    from edge_app.access import finding
    from edge_app.access.kit import authority_of

    kit = kit_folder(config)
    found = finding.find(seconds, authority_of(kit) if kit is not None else None)
    console.show(finding.fields(found), as_json, lambda out: out.print(finding.lines(found)))


@app.command()
def replay(
    stack: Annotated[Path, typer.Argument(help="A recorded z-stack, TIFF or OME-TIFF.")],
    strategy: Annotated[str, typer.Option(help="A focus strategy.")] = "sweep",
    z_step_um: Annotated[float | None, typer.Option(help="Distance between slices, um.")] = None,
    z_um: Annotated[str | None, typer.Option(metavar="A,B,...", help="Position of each slice, um.")] = None,
    bundle: Annotated[str, typer.Option(help="factory (what fits), its name, or a .parfocal file.")] = "factory",
    curve_on: Annotated[Path | None, typer.Option("--calibrate-on", help="Its focus curve from this stack.")] = None,
    curve_here: Annotated[
        bool, typer.Option("--calibrate-here", help="Its focus curve from the stack itself.")
    ] = False,
    hold_out: Annotated[
        bool, typer.Option("--hold-out", help="That, on every second slice; focus the others.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Focus a recorded z-stack, once from every slice; few_shot needs to be told where its focus curve comes from."""
    from edge_app import replay as replays
    from edge_app.controller import task_of
    from edge_app.replay_curve import CurveWish

    if curve_on is not None and (curve_here or hold_out):
        raise typer.BadParameter("--calibrate-on takes the curve from another stack; leave the other option out.")
    wish = CurveWish(curve_on, hold_out) if curve_on or curve_here or hold_out else None
    if (wish is not None) is not (task_of(strategy) == "sharpness"):
        raise typer.BadParameter(
            "few_shot alone goes by a focus curve: give --calibrate-on OTHER.tif, --calibrate-here or "
            "--hold-out with it, and none of them with others."
        )
    with console.progress() as progress:
        result = replays.replay(stack, strategy, _numbers(z_um), z_step_um, bundle, wish, progress)
    console.show(result, as_json, lambda out: replays.print_table(result, out))


@app.command()
def demo(
    runs: Annotated[int, typer.Option(min=1, help="Focus jobs.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Seed of slide and starts.")] = 7,
    board: Annotated[str, typer.Option(help="A simulated board.")] = "simulated",
    out: Annotated[Path, typer.Option(help="Folder for pictures.")] = Path("demo-out"),
    as_json: Json = False,
) -> None:
    """Focus the simulated microscope many times, and hold the results against its truth."""
    from edge_app import demo as demos

    with console.progress() as progress:
        result = demos.demo(runs, seed, board, out, progress)
    console.show(result, as_json, lambda screen: demos.print_table(result, screen))


@app.command()
def bench(
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0 for one per core.")] = 0,
    pulses: Annotated[bool, typer.Option("--pulses", help="Step pulses instead: how late they come.")] = False,
    as_json: Json = False,
) -> None:
    """Measure this machine's speed."""
    from edge_app import bench as benches
    from edge_app import bench_pulses

    with console.progress() as progress:
        result = bench_pulses.bench(progress) if pulses else benches.bench(threads, progress)
    show = bench_pulses.print_table if pulses else benches.print_table
    console.show(result, as_json, lambda out: show(result, out))


@app.command()
def doctor(
    board: Board = None,
    bundle: Bundle = None,
    no_move: Annotated[bool, typer.Option("--no-move", help="Leave the axis at rest.")] = False,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Say what this machine has and what to install; with --board, examine that board. Exit 0 if it works."""
    from edge_app import doctor as doctors

    if board is not None:
        from edge_app import board_doctor
        from edge_app.config import read_settings

        found = board_doctor.examine(read_settings(board=board, bundle=bundle, state=state), move=not no_move)
        console.show(found, as_json, lambda out: board_doctor.print_table(found, out))
        raise typer.Exit(0 if found["works"] else 1)
    if bundle or no_move or state:
        raise typer.BadParameter("--bundle, --no-move and --state go with --board.")
    result = doctors.examine()
    console.show(result, as_json, lambda out: doctors.print_table(result, out))
    raise typer.Exit(0 if result["simulated_board_works"] else 1)


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 0,1.5,3.") from error


if __name__ == "__main__":
    main()
