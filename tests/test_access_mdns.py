"""mDNS: a board that tells of itself is found on this machine's loopback, and a kit knows its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from keyed_board import NOW, free_port
from zeroconf.asyncio import AsyncServiceInfo

from edge_app.access import announcing, finding
from edge_app.access.announcing import Announcer, Notice, notice
from edge_app.access.certificates import fingerprint
from edge_app.access.doors import Doors
from edge_app.access.finding import Found, fields, lines, look
from edge_app.access.trust import Keys, Trust
from edge_app.front import Front

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
    assert "127.0.0.1:50052" in board.addresses  # the machine may tell other addresses of its name
    assert board.fits


@pytest.mark.parametrize(("authority", "fits"), [(None, None), ("a" * 64, True), ("b" * 64, False)])
def test_a_kit_knows_its_own_board(authority: str | None, fits: bool | None) -> None:
    assert finding._found(_info(NOTICE), authority).fits is fits


async def test_a_board_that_has_gone_is_not_found() -> None:
    async with told(NOTICE):
        pass
    assert [each for each in await look(LOOK_S, None, HERE) if each.authority == NOTICE.authority] == []


def test_what_a_stranger_tells_cannot_drive_a_terminal() -> None:
    assert finding._found(_info(replace(NOTICE, board="\x1b[31mbench\a")), None).board == "?[31mbench?"


def test_what_was_found_is_told_to_people_and_programs() -> None:
    found = [Found("parfocal on a", "bench", "1", ("192.0.2.1:50052",), "c" * 64, "a" * 64, fits=False)]
    assert "not your kit's board" in lines(found)
    assert fields(found) == {"boards": [{**found[0].__dict__}]}
    assert "announce = true" in lines([])


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """A board's keys."""
    trust = Trust(tmp_path / "trust")
    trust.init("bench", [], NOW)
    return trust.keys()


def _adapter(*ips: object) -> SimpleNamespace:
    return SimpleNamespace(ips=[SimpleNamespace(ip=ip) for ip in ips])


def test_a_board_that_listens_everywhere_or_by_a_name_tells_every_address_but_loopback(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = [_adapter("127.0.0.1", ("::1", 0, 0)), _adapter("192.0.2.7"), _adapter("10.0.0.2", ("fe80::1", 0, 2))]
    monkeypatch.setattr("ifaddr.get_adapters", lambda: adapters)
    for listens in ("0.0.0.0:50052", "[::]:50052", "scope.example:50052"):
        assert notice("bench", "1", listens, keys).addresses == ("10.0.0.2", "192.0.2.7")


def test_a_board_that_listens_at_one_address_tells_that(keys: Keys) -> None:
    made = notice("bench", "1", "192.0.2.7:50052", keys)
    assert (made.addresses, made.port) == (("192.0.2.7",), 50052)
    assert (made.certificate, made.authority) == (keys.board.sha256, fingerprint(keys.authority))


async def test_a_board_with_a_name_that_is_too_long_to_be_told_is_told_by_its_beginning() -> None:
    async with told(replace(NOTICE, board="\u00fc" * 300, authority="d" * 64)):
        (board,) = [each for each in await look(LOOK_S, None, HERE) if each.authority == "d" * 64]
    assert board.board == "\u00fc" * 100


@pytest.mark.parametrize("error", [OSError("no network"), ValueError("bytes must be in range(0, 256)")])
async def test_whatever_is_in_the_way_of_telling_is_said_once_and_telling_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    tries = 0

    def fail() -> Notice:
        nonlocal tries
        tries += 1
        raise error

    monkeypatch.setattr(announcing, "LOOK_S", 0.0)
    keeping = asyncio.create_task(Announcer(fail, HERE).keep())
    while tries < 3:
        await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.wait([keeping])
    assert caplog.messages.count("not announced") == 1


async def test_a_service_announces_its_first_address_that_others_reach_and_stops_though_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Notice] = []

    class Dies(Announcer):
        async def keep(self) -> None:
            asked.append(self._now())
            raise ValueError("unforeseen")

    monkeypatch.setattr("edge_app.front.Announcer", Dies)
    trust = Trust(tmp_path / "trust")
    trust.init("bench", [], NOW)
    port = free_port()
    front = Front(Doors(trust.folder, announce=True))
    front.bind(f"127.0.0.1:0,0.0.0.0:{port}")
    await front.turn_away("no board")
    await asyncio.sleep(0)
    await front.stop()
    assert [(each.board, each.port, each.certificate) for each in asked] == [("", port, trust.keys().board.sha256)]
    again = Front(Doors(trust.folder))
    assert again.bind(f"0.0.0.0:{port}")
    await again.stop()
