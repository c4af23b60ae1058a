"""parfocal update: newer models for a board, from a repository that is trusted, by way of a rehearsal."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from edge_app import console
from edge_app.cli_options import At, Board, Config, Json, Runtime, State, identity_for, text_of

if TYPE_CHECKING:
    from edge_app.client import Client
    from edge_app.config import Settings
    from edge_app.ota.state import Version
    from edge_app.updates import Status, Updates

app = typer.Typer(help="Bring newer models to a board; `parfocal models` lists those it has.", no_args_is_help=True)

From = Annotated[str | None, typer.Option("--from", metavar="URL|FOLDER", help="The repository; a USB stick, say.")]
Root = Annotated[Path | None, typer.Option(help="The repository's root of trust, as whoever publishes gave it.")]
Channel = Annotated[str | None, typer.Option(help="stable or candidate.")]
Name = Annotated[str, typer.Option("--bundle", help="This bundle by name, whatever hold and share say.")]
_NOTHING = "no repository is named (update_from), so that there is nothing to do; name one, or give --from"


@app.command()
def check(
    at: At = "",
    board: Board = None,
    source: From = None,
    root: Root = None,
    channel: Channel = None,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Ask the repository whether it has a newer model for this board. Changes nothing that serves."""
    from edge_app.client import Client
    from edge_app.model_service import status_from

    if at:
        _refuse_flags(source, root, channel, state, board)
        with Client(at, identity=identity_for(at, config)) as client:
            status = status_from(client.check().status)
    else:
        status = _updates(_settings(config, board, source, root, channel, state, None)).check()
    _show(status, as_json)


@app.command()
def apply(
    at: At = "",
    name: Name = "",
    stage_only: Annotated[bool, typer.Option("--stage-only", help="Stop before the switch.")] = False,
    expect: Annotated[str, typer.Option(metavar="NAME@VERSION", help="Fail unless this serves afterwards.")] = "",
    board: Board = None,
    source: From = None,
    root: Root = None,
    channel: Channel = None,
    state: State = None,
    runtime: Runtime = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Fetch a newer model, verify and rehearse it, and switch to it; exit 0 too where there is nothing to take.

    A service of this board that runs here switches between two looks; where none runs the next one starts with it.
    """
    from edge_app.client import Client
    from edge_app.errors import UpdateError

    if at:
        _refuse_flags(source, root, channel, state, board)
    settings = None if at else _settings(config, board, source, root, channel, state, runtime)
    with console.progress() as progress, _ended_by_signals():
        if settings is not None:
            status = _brought(settings, name, stage_only, progress)
        else:
            with Client(at, timeout_s=None, identity=identity_for(at, config)) as client:
                status = _applied(client, name, stage_only, progress)
    if expect and expect != status.serving and (settings is None or not _updates(settings).serves(expect)):
        raise UpdateError(f"{expect} does not serve, {status.serving or 'none'} does: {status.reason}")
    _show(status, as_json)


@app.command("status")
def show_status(
    at: At = "", board: Board = None, state: State = None, config: Config = None, as_json: Json = False
) -> None:
    """Say which model serves, which did before, and where an update stands."""
    from edge_app.client import Client
    from edge_app.errors import UpdateError
    from edge_app.model_service import status_from

    if at:
        _refuse_flags(None, None, None, state, board)
        with Client(at, identity=identity_for(at, config)) as client:
            reply = client.models()
        if not reply.HasField("update"):
            raise UpdateError(f"{at} keeps no updates: a simulated board wants a folder for them (--state)")
        status = status_from(reply.update)
    else:
        status = _updates(_settings(config, board, None, None, None, state, None)).status()
    _show(status, as_json)


@app.command()
def rollback(
    at: At = "",
    leaving: Annotated[str, typer.Option(metavar="NAME@VERSION", help="Only if this serves.")] = "",
    board: Board = None,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Go back to the model from before; the one that is left is not taken again, unless `forget` says so."""
    from edge_app.client import Client
    from edge_app.model_service import status_from
    from edge_app.updates import to_leave

    if at:
        _refuse_flags(None, None, None, state, board)
        with Client(at, timeout_s=None, identity=identity_for(at, config)) as client:
            status = status_from(client.roll_back(leaving).status)
    else:
        settings = _settings(config, board, None, None, None, state, None)
        updates = _updates(settings)
        remembered = updates.depot.state()
        serving = [slot.serving.label for slot in remembered.slots.values() if slot.serving is not None]
        if leaving and leaving not in serving:
            _show(_with_reason(updates.status(), f"{leaving} does not serve; there is nothing to leave"), as_json)
            return
        leaves = to_leave(remembered, leaving.partition("@")[0])
        _by_service(updates, settings, lambda client: client.roll_back(leaves.label))
        if updates.depot.state().serves(leaves):
            updates.roll_back(leaves.name, only=leaves)
        status = updates.status()
    _show(status, as_json)


@app.command()
def forget(
    version: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A version that was refused or left.")],
    board: Board = None,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Let a version be tried again that this board refused or left."""
    _show(_updates(_settings(config, board, None, None, None, state, None)).forgive(version), as_json)


def _settings(
    config: Path | None,
    board: str | None,
    source: str | None,
    root: Path | None,
    channel: str | None,
    state: Path | None,
    runtime: str | None,
) -> Settings:
    from edge_app.config import read_settings

    return read_settings(
        config,
        board=board,
        update_from=source,
        update_root=text_of(root),
        update_channel=channel,
        state=text_of(state),
        runtime=runtime,
    )


def _updates(settings: Settings) -> Updates:
    from edge_app.ota.means import updates_of

    updates = updates_of(settings)
    updates.depot.check_readable()
    return updates


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end it as Ctrl-C does, unless nohup wants it otherwise.

    A candidate whose process was cut off would be to blame for that.
    """
    caught = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in caught:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def _brought(settings: Settings, name: str, stage_only: bool, progress: console.Progress) -> Status:
    """Update this machine's board, if it has a repository. Raises as `Updates.stage`."""
    if not settings.update_from:
        return _without_repository(settings)
    updates = _updates(settings)
    status = updates.stage(name, progress)
    if status.state == "ready" and not stage_only:
        progress(0, 0, f"switching to {status.candidate}")
        status = _activated(updates, settings)
    return status


def _without_repository(settings: Settings) -> Status:
    """Where a board stands that takes no updates; a simulated one may keep nothing of them at all."""
    from edge_app.errors import UpdateError
    from edge_app.updates import Status

    try:
        status = _updates(settings).status()
    except UpdateError:
        status = Status("", "", "", "idle", "")
    return _with_reason(status, _NOTHING)


def _applied(client: Client, name: str, stage_only: bool, progress: console.Progress) -> Status:
    """Update a board that is served.

    Raises:
        RemoteError: The server ended the update without saying where.
    """
    from edge_app.errors import RemoteError
    from edge_app.model_service import status_from

    for event in client.apply(name, stage_only):
        if event.HasField("status"):
            return status_from(event.status)
        progress(event.progress.done, event.progress.total, event.progress.step)
    raise RemoteError(f"{client.address} ended the update without saying where it stands; look at its log")


def _activated(updates: Updates, settings: Settings) -> Status:
    """Switch: by the service that runs on this board, or, where none does, by the record that the next one reads."""
    version: Version = updates.ready()
    _by_service(updates, settings, lambda client: client.activate(version.label))
    after = updates.depot.state()
    if after.candidate == version and after.stage.value == "ready":
        return updates.activate()
    return updates.status()


def _by_service(updates: Updates, settings: Settings, ask: Callable[[Client], object]) -> None:
    """Ask the service of this very board, if one runs, and wait for it as long as its job takes.

    It may be another board's, not answer, have no board now, be busy, or not be willing: the record says what came of
    it, and a service that was not asked finds it changed, and follows it within seconds.

    Raises:
        AppError: It failed.
    """
    from edge_app.client import Client
    from edge_app.errors import Busy, JobStopped, NotAllowed, NotIdentified, NotReady, RemoteError, UpdateError

    address = settings.listen.partition(",")[0]
    with suppress(RemoteError, Busy, JobStopped, NotReady, NotAllowed, NotIdentified, UpdateError):
        with Client(address) as client:
            mark = client.models().depot
        if mark and mark == updates.depot.mark():
            with Client(address, timeout_s=None) as client:
                ask(client)


def _with_reason(status: Status, reason: str) -> Status:
    from dataclasses import replace

    return replace(status, reason=reason)


def _refuse_flags(*flags: object) -> None:
    if any(flag is not None for flag in flags):
        raise typer.BadParameter("--at asks a server that has its own configuration; leave the other options out.")


def _show(status: Status, as_json: bool) -> None:
    def lines(out: Console) -> None:
        out.print(f"serving   {status.serving or 'none'}")
        out.print(f"previous  {status.previous or 'none'}")
        out.print(f"candidate {status.candidate or 'none'}")
        out.print(f"state     {status.state.replace('_', ' ')}{f': {status.reason}' if status.reason else ''}")

    console.show(status.as_json(), as_json, lines)
