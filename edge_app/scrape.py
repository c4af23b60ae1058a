"""Scrape: the address at which Prometheus asks for /metrics; plain on this machine, mutual TLS for others.

It answers one GET per connection, in the service's own event loop, and has no thread.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from http import HTTPStatus
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from edge_app.access.addresses import is_here
from edge_app.access.callers import Callers
from edge_app.access.clients import Book
from edge_app.access.pace import Pace
from edge_app.access.trust import Trust, default_folder
from edge_app.config import Settings
from edge_app.errors import AddressInUse, AppError, BadSettings, NotIdentified, TrustUnusable
from edge_app.journal import log_of

PATH = "/metrics"
PATIENCE_S = 5.0
"""How long one connection may take from its first byte to its end."""
MAX_CONNECTIONS = 16
"""Counted from when they are accepted, so that strangers cannot take all files of the process by handshakes."""
_MAX_REQUEST_BYTES = 8192
_BACKLOG = 100
_REST_S = 1.0
"""How long nobody is accepted after the system had no room."""
_FAULTS_AT_ONCE, _FAULTS_PER_S = 20, 0.2
"""What the log takes of them: strangers must not be able to fill the disk."""
_BOARD = "board.pem"
_log = log_of(__name__)


class Secured:
    """Mutual TLS with a board's keys as they are now; all clients that it knows may ask, whatever their role."""

    def __init__(self, folder: Path) -> None:
        """Read the keys.

        Raises:
            TrustUnusable: A key is missing or damaged, or others may read it.
        """
        self._trust = Trust(folder)
        self._callers = Callers(Book(self._trust.list))
        self._stamp = self._refused = self._trust.stamp()
        self._context = _context(self._trust)

    def context(self) -> ssl.SSLContext:
        """For the next connection; with the keys from before where those of now cannot be used."""
        stamp = self._trust.stamp()
        if stamp == self._stamp:
            return self._context
        try:
            self._context, self._stamp = _context(self._trust), stamp
        except TrustUnusable as error:
            if stamp != self._refused:
                self._refused = stamp
                _log.error("keys unusable", why=str(error), in_use="those from before")
        return self._context

    def admits(self, certificate: bytes) -> bool:
        """Whether the client with this certificate (DER) may read metrics."""
        shown = {"x509_pem_cert": [ssl.DER_cert_to_PEM_cert(certificate).encode()]}
        try:
            self._callers.identify(shown, "", ())
        except (NotIdentified, TrustUnusable):
            return False
        return True


def _context(trust: Trust) -> ssl.SSLContext:
    keys = trust.keys()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(trust.folder / _BOARD)
        context.load_verify_locations(cadata=keys.authority.decode("ascii"))
    except (OSError, ValueError) as error:
        raise TrustUnusable(f"cannot use the keys in {trust.folder}: {error}; try `parfocal trust renew`") from error
    return context


class Scrape:
    """Serves a registry at one address at a time, in the event loop that runs when it is told to listen."""

    def __init__(self, registry: CollectorRegistry, patience_s: float = PATIENCE_S) -> None:
        self._registry, self._patience_s = registry, patience_s
        self._listening: list[socket.socket] = []
        self._secured: Secured | None = None
        self._open: dict[asyncio.Task[None], socket.socket] = {}
        self._faults = Pace(_FAULTS_AT_ONCE, _FAULTS_PER_S)
        self._served: tuple[str, Path | None] = ("", None)
        self.address = ""

    async def follow(self, settings: Settings | None) -> None:
        """Answer where settings say, None for where it did. What prevents it is logged: a board focuses without it."""
        if settings is None or (settings.metrics, settings.trust) == self._served:
            return
        self._served = (settings.metrics, settings.trust)
        try:
            address = await self.listen(settings.metrics, settings.trust)
        except AppError as error:
            self._served = ("", None)  # the next reload tries it again
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
        self._secured = None if is_here(listen) else Secured(trust or default_folder())
        try:
            self._listening = await _bound(host.strip("[]"), int(port))
            for each in self._listening:
                each.listen(_BACKLOG)
                asyncio.get_running_loop().add_reader(each, self._accept, each)
        except OSError as error:
            self.close()
            raise AddressInUse(
                f"cannot serve metrics on {listen}: {error.strerror or error}; choose another address with metrics = "
                '"HOST:PORT" in parfocal.toml, or stop what has it'
            ) from error
        self.address = f"{host}:{self._listening[0].getsockname()[1]}"
        return self.address

    def close(self) -> None:
        """Answer no longer, also whom it has begun to answer: the end of a service waits for nobody's dashboard."""
        listening, self._listening, self.address = self._listening, [], ""
        for each in listening:
            asyncio.get_running_loop().remove_reader(each)
            each.close()
        for task in self._open:
            task.cancel()

    def _accept(self, listening: socket.socket) -> None:
        try:
            plain, _ = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it went away again
        except OSError as error:
            self._rest(listening, error)
            return
        if len(self._open) >= MAX_CONNECTIONS:
            plain.close()
            return
        plain.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._serve(plain, self._secured))
        self._open[task] = plain
        task.add_done_callback(self._ended)

    def _rest(self, listening: socket.socket, error: OSError) -> None:
        """Accept nobody for a moment: what waits would be tried again at once, and all the time."""
        if self._faults.allows(""):
            _log.warning("metrics cannot accept", why=error.strerror or str(error), next_try_s=_REST_S)
        asyncio.get_running_loop().remove_reader(listening)
        asyncio.get_running_loop().call_later(_REST_S, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._listening:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._open.pop(task).close()  # of effect only where the task was cancelled before it began

    async def _serve(self, plain: socket.socket, secured: Secured | None) -> None:
        try:
            await asyncio.wait_for(self._converse(plain, secured), self._patience_s)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # it went away, is too slow, or speaks something else
        except Exception as error:  # noqa: BLE001 - a stranger's request must not write a traceback
            if self._faults.allows(""):
                _log.error("metrics not answered", why=f"{type(error).__name__}: {error}")

    async def _converse(self, plain: socket.socket, secured: Secured | None) -> None:
        reader = asyncio.StreamReader(_MAX_REQUEST_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        tls = secured.context() if secured else None
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, plain, ssl=tls)
        writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
        try:
            await self._exchange(reader, writer, secured)
            writer.close()
            await writer.wait_closed()
        finally:
            transport.abort()  # what has closed stays so

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secured: Secured | None
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        known = secured is None or _known(writer, secured)
        status, body, kind = self._reply(head[0], head[1:]) if known else _refusal(HTTPStatus.FORBIDDEN)
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        await writer.drain()

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
        return HTTPStatus.OK, *self._encoded(accepted)

    def _encoded(self, accepted: str) -> tuple[bytes, str]:
        """The metrics, and what they are written as: plain text where what is accepted is nonsense."""
        try:
            encoder, kind = choose_encoder(accepted)
            return encoder(self._registry), kind
        except Exception:  # noqa: BLE001 - prometheus_client parses versions without care
            encoder, kind = choose_encoder("")
            return encoder(self._registry), kind


async def _bound(host: str, port: int) -> list[socket.socket]:
    """Sockets for an address, bound as asyncio binds them; it counts no connection before its handshake has ended."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
    try:
        return [each.dup() for each in server.sockets]
    finally:
        server.close()


def _known(writer: asyncio.StreamWriter, secured: Secured) -> bool:
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return bool(shown) and secured.admits(shown)


def _refusal(status: HTTPStatus) -> tuple[HTTPStatus, bytes, str]:
    return status, f"{status.phrase}; metrics are at {PATH}\n".encode(), "text/plain; charset=utf-8"
