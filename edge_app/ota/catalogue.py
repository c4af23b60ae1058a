"""Catalogue: what one channel of a repository offers; a signed target itself, so that it cannot be put together anew.

A repository has the channels of `CHANNELS`, each a delegated role of TUF that may sign the targets below its own name:
`stable/catalogue.json`, and one `stable/NAME-VERSION.parfocal` for each bundle.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, StringConstraints, ValidationError

from edge_app.errors import RepositoryUntrusted
from edge_app.passport import Strict
from firmware.table import explain

CHANNELS = ("stable", "candidate")
"""In the order in which a bundle passes them the other way round: first a candidate, then stable."""
MAX_CATALOGUE_BYTES = 1_000_000
MAX_BUNDLE_BYTES = 64_000_000
_SAID = 200
_VERSION = re.compile(r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})")

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]{0,63}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
VersionText = Annotated[str, StringConstraints(pattern=rf"^{_VERSION.pattern}$")]


class Entry(Strict):
    """One bundle on offer; `share` is the part of all boards that may take it by themselves, 0 to 1."""

    name: Name
    version: VersionText
    task: Name
    sha256: Sha256
    size_bytes: PositiveInt = Field(le=MAX_BUNDLE_BYTES)
    share: float = Field(default=1.0, ge=0.0, le=1.0)

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name}@{self.version}"


class Catalogue(Strict):
    """What a channel offers; under `hold` nobody takes anything by itself."""

    format: Literal[1] = 1
    channel: str
    hold: bool = False
    bundles: tuple[Entry, ...] = ()


def catalogue_target(channel: str) -> str:
    """The target that holds a channel's catalogue."""
    return f"{channel}/catalogue.json"


def bundle_target(channel: str, entry: Entry) -> str:
    """The target that holds a bundle; made here, never read from a repository, so that it cannot lead elsewhere."""
    return f"{channel}/{entry.name}-{entry.version}.parfocal"


def order_of(version: str) -> tuple[int, ...]:
    """What versions are compared by.

    Raises:
        ValueError: It is not three numbers with dots between them.
    """
    if not _VERSION.fullmatch(version):
        raise ValueError(f"{version!r} is no version such as 1.2.0")
    return tuple(map(int, version.split(".")))


def write(catalogue: Catalogue) -> bytes:
    """A catalogue as the bytes of its target; the same catalogue gives the same bytes."""
    return (catalogue.model_dump_json(indent=1) + "\n").encode()


def read(data: bytes, channel: str) -> Catalogue:
    """A catalogue from the verified bytes of its target.

    Raises:
        RepositoryUntrusted: It is none, or that of another channel.
    """
    try:
        found = Catalogue.model_validate_json(data)
    except ValidationError as error:
        raise RepositoryUntrusted(
            f"the catalogue of the channel {channel} is signed, and yet none that this version understands: "
            f"{explain(error)[:_SAID]}; update parfocal, or tell whoever publishes"
        ) from error
    if found.channel != channel:
        raise RepositoryUntrusted(
            f"the catalogue of the channel {channel} says that it is that of {found.channel}; tell whoever publishes"
        )
    return found
