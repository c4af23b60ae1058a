"""mDNS: a board that tells of itself is found on this machine's loopback, and a kit knows its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from zeroconf.asyncio import AsyncServiceInfo

from edge_app.access import announcing, finding
from edge_app.access.announcing import Announcer, Notice
from edge_app.access.finding import Found, fields, lines, look

HERE = ["127.0.0.1"]
LOOK_S = 4.0
"""What was told a moment ago may not be told again for a second."""
NOTICE = Notice("bench", "0.1.0", ("127.0.0.1",), 50052, "c" * 64, "a" * 64)


@asynccontextmanager
async def told(notice: Notice) -> AsyncIterator[Announcer]:
    """A board that tells of itself on loopback."""
    announcer = Announcer(lambda: notice, HERE)
    keeping = asyncio.create_task(announcer.keep())
    await asyncio.wait_for(announcer.told.wait(), 20.0)
    try:
        yield announcer
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping


def _info(notice: Notice) -> AsyncServiceInfo:
    """What a browser hears of a board."""
    name = f"parfocal on bench.{announcing.SERVICE}"
    addresses = list(notice.addresses)
    return AsyncServiceInfo(
        announcing.SERVICE, name, notice.port, properties=notice.properties(), parsed_addresses=addresses
    )


async def test_a_board_that_tells_of_itself_is_found() -> None:
    async with told(NOTICE):
        (board,) = [each for each in await look(LOOK_S, "a" * 64, HERE) if each.authority == NOTICE.authority]
    assert (board.board, board.version, board.certificate) == ("bench", "0.1.0", "c" * 64)
    assert board.addresses == ("127.0.0.1:50052",)
    assert board.fits


@pytest.mark.parametrize(("authority", "fits"), [(None, None), ("a" * 64, True), ("b" * 64, False)])
def test_a_kit_knows_its_own_board(authority: str | None, fits: bool | None) -> None:
    assert finding._found(_info(NOTICE), authority).fits is fits


async def test_a_board_that_has_gone_is_not_found() -> None:
    async with told(NOTICE):
        pass
    assert [each for each in await look(0.5, None, HERE) if each.authority == NOTICE.authority] == []


def test_what_a_stranger_tells_cannot_drive_a_terminal() -> None:
    assert finding._found(_info(replace(NOTICE, board="\x1b[31mbench\a")), None).board == "?[31mbench?"


async def test_a_network_that_cannot_be_told_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    def fail() -> Notice:
        nonlocal tries
        tries += 1
        raise OSError("no network")

    monkeypatch.setattr(announcing, "LOOK_S", 0.0)
    keeping = asyncio.create_task(Announcer(fail, HERE).keep())
    while tries < 3:
        await asyncio.sleep(0)
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping


def test_what_was_found_is_told_to_people_and_programs() -> None:
    found = [Found("parfocal on a", "bench", "1", ("192.0.2.1:50052",), "c" * 64, "a" * 64, fits=False)]
    assert "not your kit's board" in lines(found)
    assert fields(found) == {"boards": [{**found[0].__dict__}]}
    assert "announce = true" in lines([])


def test_a_board_that_listens_everywhere_tells_every_address_but_loopback() -> None:
    assert not [address for address in announcing.own_addresses() if address.startswith("127.")]
