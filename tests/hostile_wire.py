"""Strangers on the wire: bytes that are no HTTP/2, HTTP/2 that is no gRPC, and connections that say nothing."""

from __future__ import annotations

import random
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
_WAIT_S = 0.05


@dataclass(frozen=True)
class Target:
    """Where to connect: a port of this machine, and with what kind of TLS, if any."""

    port: int
    tls: ssl.SSLContext | None = None


@contextmanager
def connected(target: Target) -> Iterator[socket.socket]:
    """A connection; an OSError where it cannot be made or secured."""
    with socket.create_connection(("127.0.0.1", target.port), 2.0) as plain:
        plain.settimeout(_WAIT_S)
        if target.tls is None:
            yield plain
        else:
            with target.tls.wrap_socket(plain, server_hostname="board.parfocal") as secured:
                yield secured


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """An HTTP/2 frame; its length may be a lie."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(fields: list[tuple[bytes, bytes]]) -> bytes:
    """Header fields as HPACK literals without indexing or Huffman codes."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)


def call_headers(path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """What begins a gRPC call."""
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x")]
    return headers([*fields, (b"te", b"trailers"), (b"content-type", b"application/grpc"), *more])


def message(data: bytes, size: int | None = None, packed: int = 0) -> bytes:
    """A gRPC message; its size may be a lie."""
    return struct.pack(">BI", packed, len(data) if size is None else size) + data


def _text(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes([size]) + text
    rest, coded = size - 127, b"\x7f"
    while rest >= 128:
        coded += bytes([rest % 128 + 128])
        rest //= 128
    return coded + bytes([rest]) + text


# What strangers send; each takes a source of chance and a method, and gives bytes.

Makes = Callable[[random.Random, bytes], bytes]


def noise(chance: random.Random, _path: bytes) -> bytes:
    """Bytes."""
    return chance.randbytes(chance.randint(1, 3000))


def http1(chance: random.Random, path: bytes) -> bytes:
    """A browser."""
    return b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n" + chance.randbytes(10)


def random_frames(chance: random.Random, _path: bytes) -> bytes:
    """Frames of any kind, flags, stream and length."""
    made = [
        frame(
            chance.randint(0, 12),
            chance.randint(0, 255),
            chance.choice([0, 1, 2, 3, 2**31 - 1]),
            chance.randbytes(chance.randint(0, 60)),
            chance.choice([None, None, 0, 2**14, 2**24 - 1]),
        )
        for _ in range(chance.randint(1, 20))
    ]
    return PREFACE + frame(SETTINGS, 0, 0, b"") + b"".join(made)


def random_headers(chance: random.Random, _path: bytes) -> bytes:
    """Header blocks that are none, cut into continuations."""
    parts = [frame(HEADERS, 0, 1, chance.randbytes(chance.randint(0, 200)))]
    parts += [
        frame(CONTINUATION, 0, 1, chance.randbytes(chance.randint(0, 200))) for _ in range(chance.randint(0, 30))
    ]
    return PREFACE + frame(SETTINGS, 0, 0, b"") + b"".join(parts) + frame(CONTINUATION, END_HEADERS, 1, b"")


def lying_messages(chance: random.Random, path: bytes) -> bytes:
    """Calls whose messages are not as long as they say, are said to be packed, or never end."""
    body = chance.randbytes(chance.randint(0, 200))
    lie = message(body, chance.choice([None, 0, len(body) + 1, 2**31 - 1, 2**32 - 1]), chance.choice([0, 1, 7]))
    return (
        PREFACE
        + frame(SETTINGS, 0, 0, b"")
        + frame(HEADERS, END_HEADERS, 1, call_headers(path))
        + frame(DATA, chance.choice([0, END_STREAM]), 1, lie)
    )


def strange_calls(chance: random.Random, path: bytes) -> bytes:
    """Calls of another method, content or path than there is, with odd fields."""
    strange = [
        (b":method", chance.choice([b"GET", b"PUT", b"", b"\0"])),
        (b":path", chance.choice([path + b"x", b"/", b"", b"../" * 50, path[:-1], b"\xff\xfe"])),
        (b":scheme", chance.choice([b"http", b"", b"gopher"])),
        (b"content-type", chance.choice([b"application/grpc", b"text/html", b""])),
        (b"grpc-timeout", chance.choice([b"1n", b"99999999H", b"x", b"-1S"])),
        (b"grpc-encoding", chance.choice([b"gzip", b"identity", b"snappy", b"\xff"])),
        (b"authorization", b"Bearer " + chance.randbytes(20).hex().encode()),
        (chance.randbytes(5).hex().encode() + b"-bin", chance.randbytes(30)),
    ]
    chance.shuffle(strange)
    block = headers(strange[: chance.randint(1, len(strange))])
    rest = frame(DATA, END_STREAM, 1, message(chance.randbytes(10)))
    return PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 1, block) + rest


def reset_at_once(_chance: random.Random, path: bytes) -> bytes:
    """Calls that are begun and given up, 50 on one connection."""
    begun = [
        frame(HEADERS, END_HEADERS, number, call_headers(path)) + frame(RST_STREAM, 0, number, struct.pack(">I", 8))
        for number in range(1, 101, 2)
    ]
    return PREFACE + frame(SETTINGS, 0, 0, b"") + b"".join(begun)


def pings(chance: random.Random, _path: bytes) -> bytes:
    """Pings, settings and window updates without end, well 100 of each."""
    every = frame(PING, 0, 0, b"12345678") + frame(SETTINGS, 0, 0, struct.pack(">HI", chance.randint(0, 9), 2**31 - 1))
    window = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", chance.choice([0, 1, 2**31 - 1])))
    return PREFACE + frame(SETTINGS, 0, 0, b"") + (every + window) * 100


def swollen_fields(chance: random.Random, path: bytes) -> bytes:
    """Header fields of 100 KB in all."""
    more = [(b"x-%d" % number, b"a" * 1000) for number in range(100)]
    block = call_headers(path, *more)
    parts = [block[at : at + 16000] for at in range(0, len(block), 16000)]
    first, rest = parts[0], parts[1:]
    flags = [0] * (len(rest) - 1) + [END_HEADERS]
    continued = b"".join(frame(CONTINUATION, flag, 1, part) for flag, part in zip(flags, rest, strict=True))
    return PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, chance.choice([0, 1]), 1, first) + continued


def too_large(_chance: random.Random, path: bytes) -> bytes:
    """One message of a megabyte, in frames as large as are allowed."""
    body = message(bytes(2**20))
    parts = b"".join(frame(DATA, 0, 1, body[at : at + 16384]) for at in range(0, 60000, 16384))
    return PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 1, call_headers(path)) + parts


WAYS: tuple[Makes, ...] = (
    noise,
    http1,
    random_frames,
    random_headers,
    lying_messages,
    strange_calls,
    reset_at_once,
    pings,
    swollen_fields,
    too_large,
)


def send(target: Target, made: bytes) -> bool:
    """Connect, send, read what comes, and go, properly or not; gives whether somebody was there."""
    try:
        with connected(target) as wire, suppress(OSError):
            wire.sendall(made)
            if len(made) % 2:
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                wire.shutdown(socket.SHUT_WR)
                wire.recv(65536)
    except (ssl.SSLError, ConnectionResetError, TimeoutError):
        return True  # turned away in the handshake
    except OSError:
        return False
    return True


class HalfOpen:
    """Connections that begin, and say nothing more; so many at a time, the oldest let go of first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: list[socket.socket] = []

    def begin(self, target: Target, chance: random.Random) -> bool:
        """Open one more; gives whether somebody was there."""
        began = False
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" if target.tls is not None else PREFACE
        with suppress(OSError):
            wire = socket.create_connection(("127.0.0.1", target.port), 2.0)
            self._open.append(wire)
            began = True
            wire.sendall(hello[: chance.randint(0, len(hello))])
        while len(self._open) > self._most:
            self._open.pop(0).close()
        return began

    def close(self) -> None:
        """Let go of all."""
        for wire in self._open:
            wire.close()
        self._open.clear()
