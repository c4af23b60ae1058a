"""What the commands share: their options, and how a board or a server is reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edge_app.client import Client

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]
At = Annotated[str, typer.Option(metavar="HOST:PORT", help="Ask this server instead of opening a board.")]
Board = Annotated[str | None, typer.Option(help="A board by name, or a TOML file.")]
Config = Annotated[Path | None, typer.Option(help="A TOML file with settings.")]
Bundle = Annotated[str | None, typer.Option(help="factory (the one that fits), its name, a .parfocal file, or none.")]
Runtime = Annotated[str | None, typer.Option(help="An inference runtime; the fastest here by default.")]
Seed = Annotated[int | None, typer.Option(help="Seed of a simulated board.")]
State = Annotated[Path | None, typer.Option(help="Folder for what a board remembers.")]
Strategy = Annotated[str, typer.Option(help="A focus strategy; the board's own by default.")]


@contextmanager
def connected(at: str, config: Path | None, strategy: str = "", **flags: str | int | None) -> Iterator[Client]:
    """A client of the server at an address; without one, of a board opened in this process."""
    from edge_app import verbs
    from edge_app.client import Client

    if at:
        given = [name for name, value in flags.items() if value not in (None, "none")]
        if given:
            raise typer.BadParameter(f"--at asks a server that has its own --{given[0]}; leave one of the two out.")
        with Client(at) as client:
            yield client
    else:
        with verbs.local(config, strategy, **flags) as client:
            yield client


@contextmanager
def server_at(at: str, config: Path | None) -> Iterator[Client]:
    """A client of the server at an address, by default the one that the settings name."""
    from edge_app.client import Client
    from edge_app.config import read_settings

    with Client(at or read_settings(config).listen) as client:
        yield client


def text_of(path: Path | None) -> str | None:
    """A path as settings take it."""
    return None if path is None else str(path)
