"""The board's list of clients: whose certificate or token it knows, with which role, until when, revoked or not."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from edge_app.access.roles import Role
from edge_app.errors import TrustUnusable
from firmware.table import explain

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_OTHERS_MAY_WRITE = 0o022


class Client(BaseModel):
    """One client. `sha256` is that of its certificate's DER, or of its token; neither can be made from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME)
    role: Literal["viewer", "operator", "admin"]
    kind: Literal["certificate", "token"]
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    made: AwareDatetime
    ends: AwareDatetime
    revoked: AwareDatetime | None = None

    @property
    def may(self) -> Role:
        """Its role."""
        return Role[self.role.upper()]

    def trouble(self, now: datetime) -> str:
        """Why it is turned away, or ""."""
        if self.revoked is not None:
            return f"the {self.kind} of {self.name} was revoked on {self.revoked:%Y-%m-%d}"
        if now >= self.ends:
            return f"the {self.kind} of {self.name} expired on {self.ends:%Y-%m-%d}"
        return ""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    clients: tuple[Client, ...]


def text_of(clients: Iterable[Client]) -> str:
    """The list as its file holds it."""
    return _File(clients=tuple(clients)).model_dump_json(indent=1) + "\n"


def read(path: Path) -> tuple[Client, ...]:
    """The list, in the order of its file.

    Raises:
        TrustUnusable: It is missing, damaged, or others may write it.
    """
    try:
        if path.stat().st_mode & _OTHERS_MAY_WRITE:
            raise TrustUnusable(f"others than its owner may write {path}; make it right with chmod 644 {path}")
        return _File.model_validate_json(path.read_bytes()).clients
    except OSError as error:
        raise TrustUnusable(
            f"cannot read {path}: {error.strerror or error}; make the board's keys with `parfocal trust init`"
        ) from error
    except ValidationError as error:
        raise TrustUnusable(f"{path} is damaged: {explain(error)}; put a copy of it back") from error


class Book:
    """The list of a running board, read again whenever its file has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._by_hash: dict[str, Client] = {}

    def find(self, sha256: str) -> Client | None:
        """The client whose certificate or token has this SHA-256.

        Raises:
            TrustUnusable: The list cannot be read; nobody is known then.
        """
        try:
            stat = self._path.stat()
            seen = (stat.st_ino, stat.st_ctime_ns, stat.st_size)
        except OSError:
            seen = None
        if seen is None or seen != self._seen:
            self._seen, self._by_hash = None, {client.sha256: client for client in read(self._path)}
            self._seen = seen
        return self._by_hash.get(sha256)
