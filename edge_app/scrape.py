"""Scrape: the address at which Prometheus asks for /metrics; plain on this machine, mutual TLS for others.

It answers one GET per connection, in the service's own event loop, and has no thread.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from edge_app.access.addresses import is_here
from edge_app.access.callers import Callers
from edge_app.access.clients import Book
from edge_app.access.trust import Trust, default_folder
from edge_app.config import Settings
from edge_app.errors import AddressInUse, AppError, BadSettings, NotIdentified, TrustUnusable
from edge_app.journal import log_of

PATH = "/metrics"
PATIENCE_S = 5.0
"""How long one connection may take from its handshake to the last byte of its answer."""
MAX_CONNECTIONS = 16
_MAX_REQUEST_BYTES = 8192
_BOARD = "board.pem"
_log = log_of(__name__)
Admit = Callable[[bytes], bool]
"""Whether the client with this certificate (DER) may read metrics."""


def secured(folder: Path) -> tuple[ssl.SSLContext, Admit]:
    """Mutual TLS with a board's keys, and which of its clients may ask: all that it knows, whatever their role.

    Raises:
        TrustUnusable: A key is missing or damaged, or others may read it.
    """
    trust = Trust(folder)
    keys = trust.keys()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(folder / _BOARD)
    context.load_verify_locations(cadata=keys.authority.decode("ascii"))
    callers = Callers(Book(trust.list))

    def admit(certificate: bytes) -> bool:
        shown = {"x509_pem_cert": [ssl.DER_cert_to_PEM_cert(certificate).encode()]}
        try:
            callers.identify(shown, "", ())
        except (NotIdentified, TrustUnusable):
            return False
        return True

    return context, admit


class Scrape:
    """Serves a registry at one address at a time; make it inside a running event loop."""

    def __init__(self, registry: CollectorRegistry, patience_s: float = PATIENCE_S) -> None:
        self._registry, self._patience_s = registry, patience_s
        self._server: asyncio.Server | None = None
        self._admit: Admit | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._wanted = ""
        self.address = ""

    async def follow(self, settings: Settings | None) -> None:
        """Answer where settings say, None for where it did. What prevents it is logged: a board focuses without it."""
        if settings is None or (settings.metrics == self._wanted and self._admit is None):
            return
        self._wanted = settings.metrics
        try:
            address = await self.listen(settings.metrics, settings.trust)
        except AppError as error:
            self._wanted = ""  # the next reload tries it again
            _log.error("metrics not served", why=str(error))
        else:
            if address:
                _log.info("metrics served", address=address)

    async def listen(self, listen: str, trust: Path | None = None) -> str:
        """Answer at this address, and no longer at the one before; gives it with the port that was found.

        Args:
            listen: HOST:PORT; "" to answer nowhere.
            trust: The folder of the board's keys, for addresses that other machines can reach; the machine's own
                unless given.

        Raises:
            BadSettings: It is no address.
            TrustUnusable: Other machines can reach it, and the board has no keys to use.
            AddressInUse: It is taken, or no address of this machine.
        """
        self.close()
        if not listen:
            return ""
        host, _, port = listen.rpartition(":")
        if listen.startswith("unix:") or not port.isdigit():
            raise BadSettings(f"metrics = {listen!r} is no HOST:PORT, and Prometheus asks nothing else")
        tls, self._admit = (None, None) if is_here(listen) else secured(trust or default_folder())
        try:
            self._server = await asyncio.start_server(
                self._answer,
                host.strip("[]"),
                int(port),
                limit=_MAX_REQUEST_BYTES,
                ssl=tls,
                ssl_handshake_timeout=self._patience_s if tls else None,
            )
        except OSError as error:
            raise AddressInUse(
                f"cannot serve metrics on {listen}: {error.strerror or error}; choose another address with metrics = "
                '"HOST:PORT" in parfocal.toml, or stop what has it'
            ) from error
        self.address = f"{host}:{self._server.sockets[0].getsockname()[1]}"
        return self.address

    def close(self) -> None:
        """Answer no longer, also whom it has begun to answer: the end of a service waits for nobody's dashboard."""
        server, self._server, self.address = self._server, None, ""
        if server is not None:
            server.close()
        for writer in tuple(self._open):
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if len(self._open) <= MAX_CONNECTIONS:
                await asyncio.wait_for(self._exchange(reader, writer), self._patience_s)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()  # it went away, is too slow, or speaks something else
        finally:
            self._open.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status, body, kind = self._reply(head[0], head[1:]) if self._may(writer) else _refusal(HTTPStatus.FORBIDDEN)
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        await writer.drain()

    def _may(self, writer: asyncio.StreamWriter) -> bool:
        if self._admit is None:
            return True
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return bool(shown) and self._admit(shown)

    def _reply(self, request: str, headers: list[str]) -> tuple[HTTPStatus, bytes, str]:
        method, _, rest = request.partition(" ")
        target, _, version = rest.partition(" ")
        if not version.startswith("HTTP/1."):
            return _refusal(HTTPStatus.BAD_REQUEST)
        if method != "GET":
            return _refusal(HTTPStatus.METHOD_NOT_ALLOWED)
        if target.partition("?")[0] != PATH:
            return _refusal(HTTPStatus.NOT_FOUND)
        fields = (header.partition(":") for header in headers)
        accepted = next((value.strip() for name, _, value in fields if name.lower() == "accept"), "")
        encoder, kind = choose_encoder(accepted)
        return HTTPStatus.OK, encoder(self._registry), kind


def _refusal(status: HTTPStatus) -> tuple[HTTPStatus, bytes, str]:
    return status, f"{status.phrase}; metrics are at {PATH}\n".encode(), "text/plain; charset=utf-8"
