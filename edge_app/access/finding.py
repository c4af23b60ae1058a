"""Finding boards in the network, by what they tell of themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from edge_app.access.announcing import SERVICE

_ASK_MS = 2000


@dataclass(frozen=True)
class Found:
    """One board that told of itself; `fits` is whether the kit at hand is for it, None without a kit."""

    name: str
    board: str
    version: str
    addresses: tuple[str, ...]
    certificate: str
    authority: str
    fits: bool | None = None


def find(seconds: float, authority: str | None, interfaces: Sequence[str] | None = None) -> list[Found]:
    """Listen for boards.

    Args:
        seconds: How long.
        authority: SHA-256 of the authority in the kit at hand, if there is one.
        interfaces: Addresses of the interfaces to listen on; None for all.

    Raises:
        OSError: There is no network.
    """
    return asyncio.run(look(seconds, authority, interfaces))


async def look(seconds: float, authority: str | None, interfaces: Sequence[str] | None = None) -> list[Found]:
    """As `find`, in an event loop."""
    from zeroconf import InterfaceChoice, IPVersion, ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

    names: set[str] = set()

    def heard(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        del zeroconf, service_type
        if state_change is ServiceStateChange.Removed:
            names.discard(name)
        else:
            names.add(name)

    where = list(interfaces) if interfaces is not None else InterfaceChoice.All
    async with (
        AsyncZeroconf(interfaces=where, ip_version=IPVersion.V4Only) as listens,
        AsyncServiceBrowser(listens.zeroconf, SERVICE, handlers=[heard]),
    ):
        await asyncio.sleep(seconds)
        infos = [AsyncServiceInfo(SERVICE, name) for name in sorted(names)]
        known = await asyncio.gather(*(info.async_request(listens.zeroconf, _ASK_MS) for info in infos))
    return [_found(info, authority) for info, answered in zip(infos, known, strict=True) if answered]


def fields(found: Sequence[Found]) -> dict[str, object]:
    """What was found, for JSON."""
    return {"boards": [asdict(board) for board in found]}


def lines(found: Sequence[Found]) -> str:
    """What was found, for people."""
    if not found:
        return "no board tells of itself here; set announce = true there, or ask it by its address"
    whose = {None: "", True: "  your kit is for it", False: "  not your kit's board"}
    told = [f"{b.name}  {b.board or 'no board'}  {', '.join(b.addresses)}{whose[b.fits]}" for b in found]
    return "\n".join(f"{line}\n  certificate {b.certificate}" for line, b in zip(told, found, strict=True))


def _found(info: object, authority: str | None) -> Found:
    from zeroconf import ServiceInfo

    assert isinstance(info, ServiceInfo)
    told = {key: _shown(value or "") for key, value in info.decoded_properties.items()}
    return Found(
        _shown(info.name.removesuffix(f".{SERVICE}")),
        told.get("board", ""),
        told.get("version", ""),
        tuple(f"{address}:{info.port}" for address in info.parsed_addresses()),
        told.get("certificate", ""),
        told.get("authority", ""),
        None if authority is None else told.get("authority", "") == authority,
    )


def _shown(text: str) -> str:
    """What a stranger told, fit for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
