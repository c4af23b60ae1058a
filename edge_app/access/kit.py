"""A client's kit: a folder with which this machine asks one board.

authority.pem is the board's authority, whom to believe; client.key and client.pem are the client's own key and
certificate. A kit with a token has the file token instead of these two.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from edge_app.access import private
from edge_app.access.addresses import BOARD_NAME
from edge_app.errors import BadSettings, NotIdentified, TrustUnusable

if TYPE_CHECKING:
    import grpc

    from edge_app.access.trust import Kit

AUTHORITY, KEY, CERTIFICATE, TOKEN = "authority.pem", "client.key", "client.pem", "token"
_ASK = "ask whoever keeps the board's keys for a new kit (parfocal trust add)"
_LOOK_S = 3.0


@dataclass(frozen=True)
class Identity:
    """What a kit holds: the board's authority, and a key with its certificate or a token."""

    folder: Path
    authority: bytes
    key: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = None
    token: str = field(default="", repr=False)


def write(kit: Kit, folder: Path, owner: private.Owner | None = None) -> None:
    """Make a kit's folder; its key or token is readable by its owner alone.

    Raises:
        TrustUnusable: It is there already, or cannot be written.
    """
    with written(kit, folder, owner):
        pass


@contextmanager
def written(kit: Kit, folder: Path, owner: private.Owner | None = None) -> Iterator[None]:
    """A kit's folder, whole before the caller goes on; nothing is left of it where that fails. Raises as `write`."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise _unmade(folder, error) from error
    try:
        _fill(kit, folder, owner)
        yield
    except BaseException:
        _remove(folder)
        raise


def _fill(kit: Kit, folder: Path, owner: private.Owner | None) -> None:
    if owner is not None:
        try:
            os.chown(folder, *owner)
        except OSError as error:
            raise _unmade(folder, error) from error
    private.put(folder / AUTHORITY, kit.authority, private.PUBLIC, owner)
    if kit.pair is not None:
        private.put(folder / KEY, kit.pair.key, private.SECRET, owner)
        private.put(folder / CERTIFICATE, kit.pair.certificate, private.PUBLIC, owner)
    else:
        private.put(folder / TOKEN, f"{kit.token}\n".encode(), private.SECRET, owner)


def _unmade(folder: Path, error: OSError) -> TrustUnusable:
    return TrustUnusable(f"cannot make {folder}: {error.strerror or error}; name another with --out")


def _remove(folder: Path) -> None:
    with suppress(OSError):
        for name in (AUTHORITY, KEY, CERTIFICATE, TOKEN):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def read(folder: Path) -> Identity:
    """What a kit holds.

    Raises:
        BadSettings: The folder is no kit.
        TrustUnusable: Others may read its key or token.
        NotIdentified: Its certificate has expired.
    """
    from edge_app.access import certificates

    try:
        authority = (folder / AUTHORITY).read_bytes()
        if (folder / TOKEN).exists():
            return Identity(folder, authority, token=private.secret(folder / TOKEN).decode("ascii").strip())
        certificate = (folder / CERTIFICATE).read_bytes()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(
            f"{folder} is no client's kit: {error}; name the folder that `parfocal trust add` made with --identity"
        ) from error
    try:
        end = certificates.ends(certificate)
    except TrustUnusable as error:
        raise BadSettings(f"{folder / CERTIFICATE} is damaged: it is no certificate in PEM; {_ASK}") from error
    if end <= datetime.now(timezone.utc):
        raise NotIdentified(f"the certificate in {folder} expired on {end:%Y-%m-%d}; {_ASK}")
    return Identity(folder, authority, private.secret(folder / KEY), certificate)


def authority_of(folder: Path) -> str:
    """The SHA-256 of the authority that a kit believes. Raises as `read`."""
    from edge_app.access.certificates import fingerprint

    return fingerprint(read(folder).authority)


def credentials(identity: Identity) -> grpc.ChannelCredentials:
    """A kit as gRPC takes it."""
    import grpc

    secured = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
    if not identity.token:
        return secured
    return grpc.composite_channel_credentials(secured, grpc.access_token_call_credentials(identity.token))


def why_not(address: str, identity: Identity) -> str:
    """Why a connection that gRPC could not make fails in its handshake, or "" where it does not or nothing answers.

    gRPC says no more than that a socket was closed: this tries once more, and sees how far it comes.
    """
    host, _, port = address.rpartition(":")
    try:
        context = _context(identity)
        with socket.create_connection((host.strip("[]"), int(port)), _LOOK_S) as plain:
            return _shaken(address, identity, context, plain)
    except (OSError, ValueError):
        return ""


def _shaken(address: str, identity: Identity, context: ssl.SSLContext, plain: socket.socket) -> str:
    """What is wrong with a handshake.

    Raises:
        OSError: The connection was lost on the way.
    """
    try:
        with context.wrap_socket(plain, server_hostname=BOARD_NAME) as secured:
            # In TLS 1.3 a board's refusal comes after the client's half; one that accepts speaks first.
            return "" if secured.recv(1) else _turned_away(address, identity)
    except ssl.SSLCertVerificationError as error:
        if "expired" in error.verify_message:
            return f"by this machine's clock the certificate of {address} has expired; there: parfocal trust renew"
        return f"{address} is not the board that the kit {identity.folder} is for, or its keys were made anew; {_ASK}"
    except ssl.SSLError as error:
        if "alert" in str(error).lower():
            return _turned_away(address, identity)
        return f"{address} does not speak TLS as a board does; check the port"


def _turned_away(address: str, identity: Identity) -> str:
    if identity.token:
        return f"{address} wants a certificate, and the kit {identity.folder} has a token; ask the board's token port"
    return f"{address} turned the kit {identity.folder} away: expired by its clock, or another board's; {_ASK}"


def _context(identity: Identity) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=identity.authority.decode("ascii"))
    context.set_alpn_protocols(["h2"])
    if identity.certificate is not None:
        context.load_cert_chain(identity.folder / CERTIFICATE, identity.folder / KEY)
    return context
