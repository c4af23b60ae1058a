"""Addresses to listen on and to ask: which stay on this machine, and which others can reach."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from pathlib import Path

from edge_app.config import is_host_port

BOARD_NAME = "board.parfocal"
"""The name in every board's certificate, which clients check: boards move between networks and addresses."""
_UNIX = "unix:"


TLS = "tls:"
"""Before HOST:PORT: it speaks TLS, though it may be this machine's; the end of a tunnel, say."""


def is_address(address: str) -> bool:
    """Whether this is HOST:PORT, tls:HOST:PORT or unix:PATH."""
    if address.startswith(_UNIX):
        return len(address) > len(_UNIX)
    return is_host_port(address.removeprefix(TLS))


def is_here(address: str) -> bool:
    """Whether only programs on this machine can reach HOST:PORT or unix:PATH; of names only localhost counts."""
    if address.startswith(_UNIX):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def nearest(listen: str) -> str:
    """The address of several, with commas between them, at which this machine's own programs ask."""
    every = listen.split(",")
    return next((address for address in every if is_here(address)), every[0])


def here_instead(listen: str) -> str:
    """Where to say, on this machine only, why other machines cannot be listened to."""
    every = listen.split(",")
    return ",".join(a for a in every if is_here(a)) or f"127.0.0.1:{every[0].rpartition(':')[2]}"


def socket_file(address: str) -> Path | None:
    """The file of a unix socket."""
    return Path(address[len(_UNIX) :].removeprefix("//")) if address.startswith(_UNIX) else None


def answers(file: Path) -> bool:
    """Whether somebody listens on a unix socket; the file alone may be what a killed service left."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as trial:
        trial.settimeout(1.0)
        trial.connect(str(file))
        return True
    return False
