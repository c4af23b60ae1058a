"""parfocal-model publish: a repository of bundles that boards update from; docs/publishing.md is its runbook."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from edge_app import console
from model_export.errors import PublishError

if TYPE_CHECKING:
    from rich.console import Console

    from model_export.publishing import Done, Publisher

app = typer.Typer(help="Offer bundles to boards, signed, in a folder.", no_args_is_help=True)

VARIABLE = "PARFOCAL_KEY_PASSPHRASE"
Repo = Annotated[Path, typer.Argument(metavar="REPO", help="The repository's folder.")]
Keys = Annotated[list[Path], typer.Option("--keys", help="A folder of keys; repeat it for several.")]
Name = Annotated[str, typer.Argument(help="A bundle's name.")]
Version = Annotated[str, typer.Argument(help="Its version.")]
Channel = Annotated[str, typer.Option("--channel", help="stable or candidate.")]
Held = Annotated[str, typer.Argument(metavar="CHANNEL", help="stable or candidate.")]
Part = Annotated[float, typer.Option("--share", help="Which part of the boards may take it by themselves, 0 to 1.")]
Days = Annotated[int | None, typer.Option("--days", help="How long it is good for, this time and from now on.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]


class Passphrase:
    """What opens the keys that are not online: a variable of the environment, or who sits at the terminal."""

    def __init__(self, environment: Mapping[str, str], at_terminal: bool) -> None:
        self._known = environment.get(VARIABLE)
        self._at_terminal = at_terminal

    def __call__(self, what: str, new: bool) -> str | None:
        """The passphrase; asked for once, and twice if it is new."""
        if self._known is None and self._at_terminal:
            text = f"passphrase {what} (empty for none)" if new else f"passphrase {what}"
            self._known = typer.prompt(
                text, default="", show_default=False, hide_input=True, confirmation_prompt=new, err=True
            )
        return self._known


@app.command()
def init(
    repo: Repo,
    keys: Annotated[Path, typer.Option(help="A new folder for the keys.")],
    root_keys: Annotated[int, typer.Option(help="How many keys the root has.")] = 2,
    root_threshold: Annotated[int, typer.Option(help="How many of them must sign a root.")] = 1,
    days: Annotated[list[str] | None, typer.Option(metavar="ROLE=DAYS", help="How long a role is good for.")] = None,
    as_json: Json = False,
) -> None:
    """Make the keys and an empty repository; PARFOCAL_KEY_PASSPHRASE, or a prompt, locks the keys not used online."""
    _show(_publisher(repo, [keys]).init(root_keys, root_threshold, _lives(days or [])), as_json)


@app.command()
def add(
    repo: Repo,
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Bundle files (.parfocal).")],
    keys: Keys,
    channel: Channel = "candidate",
    share: Part = 1.0,
    as_json: Json = False,
) -> None:
    """Offer bundles in a channel; needs the keys of the channel, snapshot and timestamp."""
    _show(_publisher(repo, keys).add(bundles, channel, share), as_json)


@app.command()
def renumber(
    bundle: Annotated[str, typer.Argument(help="A bundle file, or a factory bundle by name.")],
    version: Version,
    out: Annotated[Path, typer.Option(help="Where to write it.")],
    as_json: Json = False,
) -> None:
    """Write the same model under another version; to try the way of an update, or to offer an older one anew."""
    from model_export.publishing.renumbering import renumbered

    _show(renumbered(bundle, version, out), as_json)


@app.command()
def share(
    repo: Repo,
    name: Name,
    part: Annotated[float, typer.Argument(metavar="SHARE", help="Which part of the boards, 0 to 1.")],
    keys: Keys,
    channel: Channel = "candidate",
    version: Annotated[str | None, typer.Option(help="Which version; the newest by default.")] = None,
    as_json: Json = False,
) -> None:
    """Widen or narrow who takes a bundle by itself; needs the keys of the channel, snapshot and timestamp."""
    _show(_publisher(repo, keys).share(name, part, channel, version), as_json)


@app.command()
def hold(repo: Repo, channel: Held, keys: Keys, as_json: Json = False) -> None:
    """Have no board take anything of a channel; needs the keys of the channel, snapshot and timestamp."""
    _show(_publisher(repo, keys).hold(channel), as_json)


@app.command()
def release(repo: Repo, channel: Held, keys: Keys, as_json: Json = False) -> None:
    """End a hold; needs the keys of the channel, snapshot and timestamp."""
    _show(_publisher(repo, keys).release(channel), as_json)


@app.command()
def promote(repo: Repo, name: Name, version: Version, keys: Keys, share: Part = 1.0, as_json: Json = False) -> None:
    """Offer a candidate as stable, the same bytes; needs the keys of stable, snapshot and timestamp."""
    _show(_publisher(repo, keys).promote(name, version, share), as_json)


@app.command()
def withdraw(
    repo: Repo, name: Name, version: Version, keys: Keys, channel: Channel = "candidate", as_json: Json = False
) -> None:
    """Offer a bundle no longer; needs the keys of the channel, snapshot and timestamp."""
    _show(_publisher(repo, keys).withdraw(name, version, channel), as_json)


@app.command()
def refresh(repo: Repo, keys: Keys, days: Days = None, as_json: Json = False) -> None:
    """Sign snapshot and timestamp for another while; needs only their keys, so a timer can do it."""
    _show(_publisher(repo, keys).refresh(days), as_json)


@app.command()
def renew(
    repo: Repo,
    roles: Annotated[list[str], typer.Argument(metavar="ROLE...", help="root, targets, stable or candidate.")],
    keys: Keys,
    days: Days = None,
    as_json: Json = False,
) -> None:
    """Sign roles for another life; needs their keys, and those of snapshot and timestamp unless that is the root's."""
    _show(_publisher(repo, keys).renew(roles, days), as_json)


@app.command()
def rotate(
    repo: Repo,
    role: Annotated[str, typer.Argument(help="Any role.")],
    keys: Keys,
    as_json: Json = False,
) -> None:
    """Replace the keys of a role; needs the root's keys, for a channel those of targets, and the online keys."""
    _show(_publisher(repo, keys).rotate(role), as_json)


@app.command()
def revoke(
    repo: Repo,
    keyid: Annotated[str, typer.Argument(metavar="KEYID", help="Its id in `status`, or how that begins.")],
    keys: Keys,
    as_json: Json = False,
) -> None:
    """Take a lost or stolen key out of every role, a new one in its place; needs what `rotate` needs, not that key."""
    _show(_publisher(repo, keys).revoke(keyid), as_json)


@app.command()
def root(
    repo: Repo,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("root.json"),
    as_json: Json = False,
) -> None:
    """Write the newest root, which boards are given to trust; needs no key."""
    out.write_bytes(_publisher(repo, []).root())
    after = "bring it to each board as /etc/parfocal/root.json, by a way that you trust"
    console.show({"wrote": str(out), "next": after}, as_json, lambda to: to.print(f"wrote {out}; next: {after}"))


@app.command()
def copy(
    repo: Repo,
    into: Annotated[Path, typer.Argument(help="A stick's folder, or a server's.")],
    keys: Annotated[
        list[Path] | None, typer.Option("--keys", help="Where the publisher's own root.json lies.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Copy what boards may ask for, each file whole and on the disk, so that the stick may be pulled; needs no key."""
    _show(_publisher(repo, keys or []).copy(into), as_json)


@app.command()
def prune(repo: Repo, as_json: Json = False) -> None:
    """Remove the files that no board may ask for any more; needs no key."""
    _show(_publisher(repo, []).prune(), as_json)


@app.command()
def status(
    repo: Repo,
    keys: Annotated[
        list[Path] | None, typer.Option("--keys", help="A folder of keys, to see which are there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Roles, days left, keys and where they lie, bundles by channel; needs no key."""
    found = _publisher(repo, keys or []).status()
    console.show(found, as_json, lambda out: _tables(found, out))


def _publisher(repo: Path, keys: list[Path]) -> Publisher:
    from model_export.publishing import Publisher

    return Publisher(repo, keys, passphrase=Passphrase(os.environ, sys.stdin.isatty()))


def _lives(days: list[str]) -> dict[str, int]:
    try:
        return {role: int(count) for role, _, count in (text.partition("=") for text in days)}
    except ValueError as error:
        raise PublishError(f"--days takes ROLE=DAYS, such as timestamp=7, not {' '.join(days)}") from error


def _show(done: Done, as_json: bool) -> None:
    from model_export.publishing.keys import locked

    def lines(out: Console) -> None:
        out.print(done.did)
        if done.signed:
            out.print("signed: " + ", ".join(f"{role} {version}" for role, version in done.signed.items()))
        for path in done.new_keys:
            out.print(f"new key: {path}")
        if any(not locked(path) for path in done.new_keys):
            out.print(f"these keys are not encrypted; {VARIABLE} would, or a terminal to ask at")
        if done.next:
            out.print(f"next: {done.next}")

    result = {
        "did": done.did,
        "signed": dict(done.signed),
        "new_keys": [str(path) for path in done.new_keys],
        "next": done.next,
    }
    console.show(result, as_json, lines)


def _tables(found: dict[str, Any], out: Console) -> None:
    roles = Table("role", "version", "days left", "must sign", "key")
    roles.add_column("file", overflow="fold")
    for role in found["roles"]:
        facts = [role["role"], str(role["version"]), str(role["days_left"]), str(role["threshold"])]
        for key in role["keys"]:
            roles.add_row(*facts, key["id"][:12], key["file"] or "not here")
            facts = [""] * len(facts)
    out.print(roles)
    offers = Table("channel", "bundle", "task", "share", "MB")
    for name, channel in found["channels"].items():
        title = f"{name} (held)" if channel["hold"] else name
        for entry in channel["bundles"] or [None]:
            cells = _offer(entry) if entry else ["nothing"]
            offers.add_row(title, *cells)
    out.print(offers)
    for advice in found["next"]:
        out.print(advice)


def _offer(entry: dict[str, Any]) -> list[str]:
    label = f"{entry['name']}@{entry['version']}"
    return [label, entry["task"], f"{entry['share']:.0%}", f"{entry['size_bytes'] / 1e6:.1f}"]
