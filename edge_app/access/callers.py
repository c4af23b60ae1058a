"""Who calls: a client by its certificate or its token, or a program on this machine."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from urllib.parse import unquote

from edge_app.access.addresses import is_here
from edge_app.access.clients import Book
from edge_app.access.roles import Role
from edge_app.errors import NotIdentified, TrustUnusable

_BEARER = "bearer "
_KIT = "ask whoever keeps the board's keys for a new kit (parfocal trust add)"


@dataclass(frozen=True)
class Caller:
    """Somebody who calls.

    `name` says who, to people; `account` is what motion is counted by; `proof` is the SHA-256 of its certificate or
    token, empty for a program on this machine.
    """

    name: str
    role: Role
    account: str
    proof: str = ""

    @property
    def is_here(self) -> bool:
        """Whether it is a program on this machine."""
        return not self.proof


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


class Callers:
    """Says who calls. `local_role` is that of programs on this machine, and may be changed at any time."""

    def __init__(
        self, book: Book | None = None, local_role: Role = Role.ADMIN, now: Callable[[], datetime] = _utc_now
    ) -> None:
        self.local_role = local_role
        self._book, self._now = book, now

    def identify(
        self, auth: Mapping[str, Sequence[bytes]], peer: str, metadata: Iterable[tuple[str, str | bytes]]
    ) -> Caller:
        """Who makes a call.

        Args:
            auth: gRPC's context of the connection: how it is secured, and the client's certificate if it showed one.
            peer: Where it comes from, as gRPC names it.
            metadata: What came with the call.

        Raises:
            NotIdentified: It has no certificate or token that is known here and good.
            TrustUnusable: The list of clients cannot be read.
        """
        if auth.get("transport_security_type") == [b"insecure"]:
            return self._local(peer)
        shown = auth.get("x509_pem_cert")
        if shown:
            return self._known(_hash_of(shown[0]), "certificate")
        return self._known(hashlib.sha256(_token(metadata)).hexdigest(), "token")

    def still_knows(self, caller: Caller) -> bool:
        """Whether somebody who called may go on: not revoked and not expired since."""
        if not caller.proof:
            return True
        try:
            client = self._book.find(caller.proof) if self._book is not None else None
        except TrustUnusable:
            return False
        return client is not None and not client.trouble(self._now()) and client.may >= caller.role

    def _local(self, peer: str) -> Caller:
        where = unquote(peer).partition(":")[2] if not peer.startswith("unix") else peer
        # Addresses that others can reach are never served without TLS: should one be, nobody is let in by it.
        if not is_here(where):
            raise NotIdentified(f"{peer} is another machine and its connection is not secured; ask the port with TLS")
        return Caller(peer, self.local_role, "the programs on this machine")

    def _known(self, proof: str, kind: str) -> Caller:
        client = self._book.find(proof) if self._book is not None else None
        if client is None or client.kind != kind:
            raise NotIdentified(f"this board does not know this {kind}; {_KIT}")
        trouble = client.trouble(self._now())
        if trouble:
            raise NotIdentified(f"{trouble}; {_KIT}")
        return Caller(client.name, client.may, client.name, proof)


def _hash_of(certificate: bytes) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.decode("ascii"))).hexdigest()


def _token(metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    given = [value for key, value in metadata if key == "authorization"]
    if len(given) != 1 or not isinstance(given[0], str) or given[0][: len(_BEARER)].lower() != _BEARER:
        raise NotIdentified(f"this address wants a token, as `authorization: Bearer TOKEN`; {_KIT}")
    return given[0][len(_BEARER) :].strip().encode()
