"""Telling the network by mDNS that there is a board, and under which certificate it answers.

What is told proves nothing: anybody may tell the same. A client's kit decides, in the handshake.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_app.access.trust import Keys
from edge_app.journal import log_of

SERVICE = "_parfocal._tcp.local."
LOOK_S = 30.0
"""How soon another address or certificate of this machine is told."""
_NAME_BYTES = 200
"""An entry of a text record has 255 bytes at most, its key included."""
_log = log_of(__name__)


@dataclass(frozen=True)
class Notice:
    """What the network is told of one board: where it answers, and the SHA-256 of its certificates."""

    board: str
    version: str
    addresses: tuple[str, ...]
    port: int
    certificate: str
    authority: str

    def properties(self) -> dict[str, str]:
        """As the service's text record."""
        return {
            "board": self.board.encode()[:_NAME_BYTES].decode(errors="ignore"),
            "version": self.version,
            "certificate": self.certificate,
            "authority": self.authority,
        }


def notice(board: str, version: str, listens: str, keys: Keys) -> Notice:
    """What to tell of a board that listens on an address with keys; "" for a board that is not known yet."""
    host, _, port = listens.rpartition(":")
    addresses = (host.strip("[]"),) if _is_one(host.strip("[]")) else own_addresses()
    from edge_app.access.certificates import fingerprint

    return Notice(board, version, addresses, int(port), keys.board.sha256, fingerprint(keys.authority))


def _is_one(host: str) -> bool:
    """Whether this is one address: neither every, nor a name, which nobody looks up while the service answers."""
    try:
        return not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def own_addresses() -> tuple[str, ...]:
    """This machine's IPv4 addresses that others can reach."""
    import ifaddr

    every = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips]
    return tuple(sorted({ip for ip in every if isinstance(ip, str) and not ip.startswith("127.")}))


class Announcer:
    """Tells the network, from the event loop, for as long as `keep` runs."""

    def __init__(self, now: Callable[[], Notice], interfaces: Sequence[str] | None = None) -> None:
        """Take what is to be told, asked anew every LOOK_S, and on which interfaces' addresses; None for all."""
        self._now = now
        self._interfaces = interfaces
        self.told = asyncio.Event()

    async def keep(self) -> None:
        """Tell, and tell anew what has changed; cancelled, it says goodbye."""
        before = ""
        while True:
            trouble = await self._tried()
            if trouble and trouble != before:
                _log.warning("not announced", why=trouble, next_try_s=LOOK_S)
            before = trouble
            await asyncio.sleep(LOOK_S if trouble else 0.0)

    async def _tried(self) -> str:
        """Tell until it is no longer so; gives what is in the way."""
        try:
            await self._tell(self._now())
        except Exception as error:  # noqa: BLE001 - zeroconf raises many; a board serves without being announced too
            return str(error) or type(error).__name__
        return ""

    async def _tell(self, what: Notice) -> None:
        """Tell one thing until it is no longer so."""
        from zeroconf import InterfaceChoice, IPVersion
        from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

        interfaces = list(self._interfaces) if self._interfaces is not None else InterfaceChoice.All
        host = socket.gethostname().partition(".")[0]
        info = AsyncServiceInfo(
            SERVICE,
            f"parfocal on {host}.{SERVICE}",
            port=what.port,
            properties=what.properties(),
            server=f"{host}.local.",
            parsed_addresses=list(what.addresses),
        )
        async with AsyncZeroconf(interfaces=interfaces, ip_version=IPVersion.V4Only) as tells:
            await (await tells.async_register_service(info, allow_name_change=True))
            _log.info("announced", name=info.name, port=what.port, certificate=what.certificate)
            self.told.set()
            while self._now() == what:
                await asyncio.sleep(LOOK_S)
