"""A repository behind a real web server on loopback, which can be as bad as servers are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECE_BYTES = 4096


class HttpRepository:
    """Serves files from a mapping; its attributes say how badly.

    Attributes:
        files: By path, without the slash at the beginning.
        asked: Every (path, range header) that was asked for, in order.
        ranges: Whether it serves parts.
        shift_bytes: How far those are from what was asked for, as it says.
        cut_after_bytes: Close the connection after so many bytes of a body, as long as `cuts` is not 0.
        endless: Send zeros after the file, for ever, and no length.
        drip_s: Wait so long before each byte of the body.
        header_drip_s: Wait so long before each byte of an endless header.
        lengthless: Send no length, and close the connection at the end.
        redirects: Where to send on, by path.
        statuses: What to answer instead, by path.
        headers: Sent with each file.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[tuple[str, str]] = []
        self.requests: list[dict[str, str]] = []
        self.ranges, self.shift_bytes = True, 0
        self.cut_after_bytes, self.cuts = 0, 0
        self.endless = self.lengthless = False
        self.drip_s = self.header_drip_s = 0.0
        self.redirects: dict[str, str] = {}
        self.statuses: dict[str, int] = {}
        self.headers: dict[str, str] = {}
        self.url = ""
        self.closing = threading.Event()


@contextmanager
def served(files: dict[str, bytes]) -> Iterator[HttpRepository]:
    """Serve files on a free port; `url` says where."""
    repository = HttpRepository(files)

    class Handler(_Handler):
        told = repository

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    repository.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="web server")
    thread.start()
    try:
        yield repository
    finally:
        repository.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    told: HttpRepository
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing: tests read `asked`."""

    def do_GET(self) -> None:
        """Answer, until the client has had enough of it."""
        told, path = self.told, self.path.lstrip("/")
        told.asked.append((path, self.headers.get("Range", "")))
        told.requests.append({name.lower(): value for name, value in self.headers.items()})
        self.close_connection = True
        with suppress(BrokenPipeError, ConnectionResetError):
            if told.header_drip_s:
                self._drip(b"HTTP/1.1 200 OK\r\nX: ", 0.0)
                while not told.closing.is_set():
                    self._drip(b"x", told.header_drip_s)
            elif path in told.redirects:
                self._begin(302, {"Location": told.redirects[path], "Content-Length": "0"})
            elif path in told.statuses or path not in told.files:
                self._begin(told.statuses.get(path, 404), {"Content-Length": "0"})
            else:
                self._serve(told.files[path])

    def _serve(self, data: bytes) -> None:
        told, asked = self.told, self.headers.get("Range", "")
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and told.ranges else 0
        headers = dict(told.headers)
        if begin and begin >= len(data):
            self._begin(416, headers | {"Content-Length": "0"})
            return
        if begin:
            headers |= {"Content-Range": f"bytes {begin + told.shift_bytes}-{len(data) - 1}/{len(data)}"}
        if not (told.endless or told.lengthless):
            headers |= {"Content-Length": str(len(data) - begin)}
        self._begin(206 if begin else 200, headers)
        body = data[begin:]
        if told.cuts and told.cut_after_bytes < len(body):
            told.cuts -= 1
            body = body[: told.cut_after_bytes]
        self._drip(body, told.drip_s)
        while told.endless and not told.closing.is_set():
            self.wfile.write(b"\0" * PIECE_BYTES)

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _drip(self, data: bytes, each_s: float) -> None:
        if not each_s:
            self.wfile.write(data)
            return
        for byte in data:
            if self.told.closing.wait(each_s):
                return
            self.wfile.write(bytes([byte]))
