"""What the commands share: their options, and how a board or a server is reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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

IDENTITY: ContextVar[Path | None] = ContextVar("identity", default=None)
"""What --identity says, which stands before the verb."""


@contextmanager
def connected(at: str, config: Path | None, strategy: str = "", **flags: str | int | None) -> Iterator[Client]:
    """A client of the server at an address; without one, of a board opened in this process."""
    from edge_app import verbs
    from edge_app.client import Client

    if at:
        given = [name for name, value in flags.items() if value not in (None, "none")]
        if given:
            raise typer.BadParameter(f"--at asks a server that has its own --{given[0]}; leave one of the two out.")
        with Client(at, identity=identity_for(at, config)) as client:
            yield client
    else:
        with verbs.local(config, strategy, **flags) as client:
            yield client


@contextmanager
def server_at(at: str, config: Path | None) -> Iterator[Client]:
    """A client of the server at an address, by default the one that the settings name."""
    from edge_app.access.addresses import nearest
    from edge_app.client import Client
    from edge_app.config import read_settings

    address = at or nearest(read_settings(config).listen)
    with Client(address, identity=identity_for(address, config)) as client:
        yield client


def identity_for(address: str, config: Path | None) -> Path | None:
    """The kit to ask an address with: --identity, else what the settings say; none on this machine."""
    from edge_app.access.addresses import is_here

    return None if is_here(address) else kit_folder(config)


def kit_folder(config: Path | None) -> Path | None:
    """The client's kit: --identity, else what the settings say."""
    from edge_app.config import read_settings

    return IDENTITY.get() or read_settings(config).identity


def text_of(path: Path | None) -> str | None:
    """A path as settings take it."""
    return None if path is None else str(path)
