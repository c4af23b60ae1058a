"""parfocal trust: the board's keys, and who may talk to it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_app import console
from edge_app.cli_options import Config, Json

if TYPE_CHECKING:
    from datetime import datetime

    from edge_app.access.clients import Client
    from edge_app.access.trust import Trust

app = typer.Typer(help="Make the board's keys, and say who may talk to it.", no_args_is_help=True)

Folder = Annotated[
    Path | None, typer.Option("--trust", help="The folder of the board's keys; see `trust list` for the usual one.")
]
Name = Annotated[str, typer.Argument(help="The client's name.")]
Also = Annotated[
    list[str] | None, typer.Option("--also", metavar="NAME", help="A further host name or address of this board.")
]


@app.command()
def init(
    name: Annotated[str, typer.Option(help="The board's name, for people; the host's by default.")] = "",
    also: Also = None,
    trust: Folder = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Make the board's own authority and its certificate; other machines can then be let in."""
    folder = _trust(trust, config)
    keys = folder.init(name or socket.gethostname(), _names(also), _now())
    result = {"folder": str(folder.folder), "certificate": keys.board.sha256, "ends": _ends(keys.board.certificate)}
    line = (
        f"made keys in {folder.folder}; the board's certificate ends {result['ends']}, its SHA-256 is\n"
        f"{result['certificate']}\nnext: let somebody in with `parfocal trust add NAME --role viewer|operator|admin`"
    )
    console.show(result, as_json, lambda out: out.print(line))


@app.command()
def renew(also: Also = None, trust: Folder = None, config: Config = None, as_json: Json = False) -> None:
    """Make a new certificate for the board; its clients go on as they are, and nothing is restarted."""
    folder = _trust(trust, config)
    keys = folder.renew(_names(also), _now())
    result = {"folder": str(folder.folder), "certificate": keys.board.sha256, "ends": _ends(keys.board.certificate)}
    line = (
        f"made a new certificate for the board in {folder.folder}; it ends {result['ends']}, its SHA-256 is\n"
        f"{result['certificate']}"
    )
    console.show(result, as_json, lambda out: out.print(line))


@app.command()
def add(
    name: Name,
    role: Annotated[str, typer.Option(help="viewer: measure, watch, stop. operator: move, focus. admin: all.")],
    days: Annotated[float, typer.Option(help="How long it holds.")] = 730.0,
    out: Annotated[Path | None, typer.Option(help="Folder for the kit; parfocal-NAME by default.")] = None,
    token: Annotated[bool, typer.Option("--token", help="A token instead of a certificate; shown once.")] = False,
    trust: Folder = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Let a client in: makes its kit, a folder to be copied to the machine that asks."""
    from edge_app.access import kit as kits
    from edge_app.access.roles import Role

    if role.upper() not in Role.__members__:
        raise typer.BadParameter(f"there is no role {role!r}; choose viewer, operator or admin.")
    place, folder = out or Path(f"parfocal-{name}"), _trust(trust, config)
    folder.check_free(name, _now())
    if place.exists():
        raise typer.BadParameter(f"{place} is there already; name another folder with --out.")
    owner = _asker()
    made = folder.add(
        name, Role[role.upper()], days, token, _now(), hand_over=lambda kit: kits.written(kit, place, owner)
    )
    result: dict[str, Any] = {**_fields(made.client), "folder": str(folder.folder), "kit": str(place.resolve())}
    if token:
        result["token"] = made.token
    console.show(result, as_json, lambda screen: screen.print(_added(result)))


@app.command()
def revoke(name: Name, trust: Folder = None, config: Config = None, as_json: Json = False) -> None:
    """Turn a client away from now on, whatever it has; a server that runs hears of it at once."""
    folder = _trust(trust, config)
    gone = folder.revoke(name, _now())
    kinds = " and ".join(client.kind for client in gone)
    result = {"folder": str(folder.folder), "revoked": [_fields(client) for client in gone]}
    console.show(result, as_json, lambda out: out.print(f"revoked the {kinds} of {name} in {folder.folder}"))


@app.command("list")
def list_clients(trust: Folder = None, config: Config = None, as_json: Json = False) -> None:
    """List who may talk to this board, and who no longer may."""
    folder = _trust(trust, config)
    known = folder.clients()
    result = {
        "folder": str(folder.folder),
        "certificate_ends": _ends(folder.keys().board.certificate),
        "clients": [_fields(client) for client in known],
    }
    lines = [f"keys in {folder.folder}; the board's certificate ends {result['certificate_ends']}"]
    lines += [f"{client.name:20} {client.role:9} {client.kind:12} {_standing(client)}" for client in known]
    console.show(result, as_json, lambda out: out.print("\n".join(lines)))


def _trust(given: Path | None, config: Path | None) -> Trust:
    """The folder of --trust, else of the settings; the service's settings where no others are named."""
    from edge_app.access.trust import Trust, default_folder, machine_settings, service_owner
    from edge_app.config import PREFIX, read_settings

    if given is None:
        named = config or os.environ.get(f"{PREFIX}CONFIG")
        given = read_settings(config if named else machine_settings()).trust or default_folder()
    return Trust(given.absolute(), service_owner())


def _names(also: list[str] | None) -> list[str]:
    """What tools other than ours may call this board by: a kit's owner is served at any address."""
    from edge_app.access.announcing import own_addresses
    from edge_app.access.certificates import can_name

    host = socket.gethostname()
    own = (host, f"{host.partition('.')[0]}.local", "localhost", *own_addresses())
    return list(dict.fromkeys([*filter(can_name, own), *(also or ())]))


def _asker() -> tuple[int, int] | None:
    """Who ran sudo: the kit is theirs to copy."""
    user, group = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    return (int(user), int(group)) if os.geteuid() == 0 and user.isdigit() and group.isdigit() else None


def _now() -> datetime:
    from datetime import datetime, timezone

    return datetime.now(timezone.utc)


def _ends(certificate: bytes) -> str:
    from edge_app.access import certificates

    return f"{certificates.ends(certificate):%Y-%m-%d}"


def _fields(client: Client) -> dict[str, Any]:
    return {
        "name": client.name,
        "role": client.role,
        "kind": client.kind,
        "ends": f"{client.ends:%Y-%m-%d}",
        "revoked": f"{client.revoked:%Y-%m-%d}" if client.revoked else None,
    }


def _standing(client: Client) -> str:
    return client.trouble(_now()) or f"until {client.ends:%Y-%m-%d}"


def _added(result: dict[str, Any]) -> str:
    kit, name = result["kit"], result["name"]
    lines = [f"{name} is let in as {result['role']} until {result['ends']}, in {result['folder']}; the kit is {kit}"]
    if "token" in result:
        lines.append(f"the token, shown this once: {result['token']}")
    lines.append("next: copy that folder to the machine that asks, and there:")
    lines.append(f"parfocal --identity {Path(kit).name} status --at BOARD:PORT")
    return "\n".join(lines)
