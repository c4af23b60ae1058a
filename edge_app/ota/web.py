"""Web: a repository behind a web server, any that serves files."""

from __future__ import annotations

import http.client
import io
import re
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from edge_app.ota.source import CHUNK_BYTES, Barred, Cut, NotThere, plain

CONNECT_S = 10.0
GAP_S = 15.0
"""How long a server may say nothing."""
REDIRECTS = 5
_MOVED = frozenset({301, 302, 303, 307, 308})
_ABSENT = frozenset({403, 404, 410})
"""Storage services answer 403 for what is not there."""
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_BEYOND = 416
_RANGE = re.compile(r"bytes (\d+)-")


@dataclass(frozen=True)
class _Patience:
    """How long one request may wait: `gap_s` for each piece, and until `end_s` of the monotonic clock for all."""

    gap_s: float
    end_s: float

    def wait_s(self) -> float:
        """How long the next piece may take.

        Raises:
            TimeoutError: All the time is spent.
        """
        left_s = self.end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("its time is spent")
        return min(self.gap_s, left_s)


class _Reads(io.RawIOBase):
    """What a socket receives, each read with the patience that is left.

    A timeout of the socket's own would begin anew with each byte: a server could send a header of one byte in 14 s.
    """

    def __init__(self, sock: socket.socket, patience: _Patience) -> None:
        self._sock, self._patience = sock, patience
        self._raw: socket.SocketIO = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Receive what is there, at least a byte; 0 at the end."""
        self._sock.settimeout(self._patience.wait_s())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        """Let the socket go."""
        self._raw.close()
        super().close()


class _Patient:
    """A socket whose answers are read with patience; in all else the socket."""

    def __init__(self, sock: socket.socket, patience: _Patience) -> None:
        self._sock, self._patience = sock, patience

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        """What http.client reads answers from."""
        return io.BufferedReader(_Reads(self._sock, self._patience))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class Web:
    """A repository at a URL.

    TLS is checked by the machine's certificates where the URL begins with https, but is not what updates are trusted
    for: every file is checked by its own signatures.
    """

    def __init__(self, url: str, connect_s: float = CONNECT_S, gap_s: float = GAP_S) -> None:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        place = host if parts.port is None else f"{host}:{parts.port}"
        self._url = f"{parts.scheme}://{place}{parts.path.rstrip('/')}/"
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "parfocal"}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers |= urllib3.make_headers(basic_auth=login)
        self._connect_s, self._gap_s = connect_s, gap_s

    @property
    def label(self) -> str:
        """The URL, without a password."""
        return self._url.rstrip("/")

    def open(self, path: str, offset: int, left_s: float) -> Generator[bytes, None, None]:
        """The bytes of a file on the server; see `Source.open`. A server without ranges is asked for all of it."""
        patience = _Patience(self._gap_s, time.monotonic() + left_s)
        try:
            with self._answer(plain(path), offset, patience) as response:
                skip = _left_out(response, path, offset)
                while response.status != _BEYOND and (piece := response.read1(CHUNK_BYTES, decode_content=False)):
                    yield piece[skip:]
                    skip = max(0, skip - len(piece))
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            _explain(error)

    @contextmanager
    def _answer(self, path: str, offset: int, patience: _Patience) -> Iterator[urllib3.BaseHTTPResponse]:
        """What the server answers, at the place to which it sends on; closed at the end."""
        headers = self._headers | ({"Range": f"bytes={offset}-"} if offset else {})
        url = urljoin(self._url, path)
        for _ in range(REDIRECTS + 1):
            with _manager(url, patience) as manager:
                response = manager.request(
                    "GET",
                    url,
                    headers=headers,
                    timeout=urllib3.Timeout(connect=min(self._connect_s, patience.wait_s()), read=self._gap_s),
                    retries=False,
                    redirect=False,
                    preload_content=False,
                )
                try:
                    if response.status not in _MOVED:
                        yield response
                        return
                    url = _sent_on(url, response.headers.get("Location", ""))
                finally:
                    response.close()
        raise Barred(f"it sends from place to place more than {REDIRECTS} times; give the URL at which the files are")


def _manager(url: str, patience: _Patience) -> urllib3.PoolManager:
    """Connections with patience, through the proxy that the environment names for a URL."""

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            self.sock = _Patient(self.sock, patience)

    class Tls(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            self.sock = _Patient(self.sock, patience)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls

    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme, proxies.get("all"))
    direct = proxy is None or proxy_bypass(parts.hostname or "")
    manager = urllib3.PoolManager() if direct or proxy is None else urllib3.ProxyManager(proxy)
    manager.pool_classes_by_scheme = {"http": PlainPool, "https": TlsPool}
    return manager


def _sent_on(url: str, location: str) -> str:
    """Where a server sends on to, if it is itself, and no less safe.

    Raises:
        Barred: It is elsewhere: whoever gave the URL trusted that host, and a board's password goes with the request.
    """
    onward = urljoin(url, location)
    here, there = urlsplit(url), urlsplit(onward)
    safe = there.scheme == "https" or (there.scheme == "http" and here.scheme == "http")
    if not location or not safe or there.hostname != here.hostname:
        raise Barred(
            f"it sends on to {there.scheme}://{there.hostname or '?'}, which is not the host that was given, or "
            "without TLS; give the URL at which the files are"
        )
    return onward


def _left_out(response: urllib3.BaseHTTPResponse, path: str, offset: int) -> int:
    """How many bytes of an answer come before the offset.

    Raises:
        NotThere: There is no such file.
        Cut: The server cannot just now.
        Barred: The answer is no file, or no part that was asked for.
    """
    status, packed = response.status, response.headers.get("Content-Encoding", "identity")
    if status in _ABSENT:
        raise NotThere(path)
    if status in _PASSING:
        raise Cut(f"it answered {status}")
    if status == _BEYOND and offset:
        return 0
    if status not in {200, 206}:
        raise Barred(f"it answered {status} where it should serve {path}; check the URL, and its name and password")
    if packed != "identity":
        raise Barred(f"it packs what it serves (Content-Encoding: {packed}); turn that off for the repository")
    if status == 200:
        return offset
    begins = _RANGE.match(response.headers.get("Content-Range", ""))
    if begins is None or int(begins[1]) != offset:
        raise Barred(f"it serves another part of {path} than was asked for; mend the server, or turn its ranges off")
    return 0


def _explain(error: Exception) -> NoReturn:
    """A fault of the network in words."""
    if isinstance(error, urllib3.exceptions.SSLError):
        raise Barred(
            f"TLS fails ({error}); check the URL, set this board's clock, or serve the repository without TLS, since "
            "every file is checked by its own signatures"
        ) from error
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        raise Cut("its name is not known here") from error
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        raise Cut(f"nobody answers there ({error.__cause__ or error})") from error
    if isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
        raise Cut("it said nothing for too long") from error
    if isinstance(error, urllib3.exceptions.ProtocolError | http.client.HTTPException):
        raise Cut("the connection was cut, or it does not speak HTTP") from error
    raise Cut(f"it cannot be reached ({error})") from error
