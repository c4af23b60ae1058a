"""The address of /metrics: what it answers, what it refuses, and that nobody can hold it up."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.parser import text_string_to_metric_families

from edge_app import scrape
from edge_app.access.addresses import BOARD_NAME
from edge_app.access.roles import Role
from edge_app.access.trust import Trust
from edge_app.config import Settings
from edge_app.errors import AddressInUse, BadSettings, TrustUnusable
from edge_app.scrape import Scrape

WAIT_S = 20.0
NOW = datetime.now(timezone.utc)
LOCAL = "127.0.0.1:0"
GET = b"GET /metrics HTTP/1.1\r\nHost: board\r\n\r\n"


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("answer", "To everything.", registry=registry).set(42)
    return registry


@pytest.fixture
async def scraping(registry: CollectorRegistry) -> AsyncIterator[Scrape]:
    opened = Scrape(registry)
    await opened.listen(LOCAL)
    yield opened
    opened.close()


async def asked(address: str, request: bytes = GET) -> tuple[str, dict[str, str], bytes]:
    """Status line, headers and body; all empty where it hung up."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = b""
    with suppress(ConnectionResetError):
        answer = await asyncio.wait_for(reader.read(), WAIT_S)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return status, dict(line.lower().split(": ", 1) for line in lines), body


async def test_metrics_are_text_that_prometheus_reads(scraping: Scrape) -> None:
    status, headers, body = await asked(scraping.address)
    assert status == "HTTP/1.1 200 OK"
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert int(headers["content-length"]) == len(body)
    (family,) = text_string_to_metric_families(body.decode())
    assert [sample.value for sample in family.samples] == [42]


async def test_openmetrics_is_given_to_who_asks_for_it(scraping: Scrape) -> None:
    _, headers, body = await asked(
        scraping.address, GET.replace(b"Host: board", b"Accept: application/openmetrics-text;version=1.0.0")
    )
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


@pytest.fixture
async def unforeseen() -> AsyncIterator[list[dict[str, Any]]]:
    """What reaches asyncio's last resort, which writes a traceback of it; nothing may."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    yield told
    assert told == []


@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain"])
@pytest.mark.parametrize("version", ["x", "1.x.0", "\xff", "-"])
async def test_a_version_that_is_none_gets_plain_text(
    scraping: Scrape, unforeseen: list[dict[str, Any]], kind: str, version: str
) -> None:
    accept = f"Accept: {kind}; version={version}".encode("latin-1")
    status, headers, body = await asked(scraping.address, GET.replace(b"Host: board", accept))
    assert status == "HTTP/1.1 200 OK"
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"answer 42.0" in body


class Broken:
    """A metric that cannot be had."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._broken = False
        registry.register(self)
        self._broken = True

    def collect(self) -> Iterator[Metric]:
        """Nothing, when it is registered; after that its fault."""
        if self._broken:
            raise RuntimeError("out of order")
        return iter(())


async def test_metrics_that_cannot_be_had_are_one_line_of_the_log(
    scraping: Scrape,
    registry: CollectorRegistry,
    unforeseen: list[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    Broken(registry)
    answers = [await asked(scraping.address) for _ in range(scrape._FAULTS_AT_ONCE + 5)]
    assert {status for status, _, _ in answers} == {""}
    assert caplog.messages == ["metrics not answered"] * scrape._FAULTS_AT_ONCE
    assert "RuntimeError: out of order" in str(vars(caplog.records[0]))
    assert caplog.records[0].exc_info is None


async def test_a_process_without_room_for_files_waits_and_serves_on(
    scraping: Scrape,
    unforeseen: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    accept, full = socket.socket.accept, iter([True, True, True])

    def tried(listening: socket.socket) -> Any:
        if next(full, False):
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", tried)
    monkeypatch.setattr(scrape, "_REST_S", 0.01)
    assert (await asked(scraping.address))[0] == "HTTP/1.1 200 OK"
    assert caplog.messages == ["metrics cannot accept"] * 3


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("POST /metrics HTTP/1.1", "405 Method Not Allowed"),
        ("GET / HTTP/1.1", "404 Not Found"),
        ("GET /../etc/passwd HTTP/1.0", "404 Not Found"),
        ("GET /metrics", "400 Bad Request"),
        ("\x16\x03\x01", "400 Bad Request"),
    ],
)
async def test_anything_else_is_refused(scraping: Scrape, request_line: str, status: str) -> None:
    said, _, body = await asked(scraping.address, f"{request_line}\r\n\r\n".encode())
    assert said == f"HTTP/1.1 {status}"
    assert b"42" not in body


async def test_a_request_without_end_is_cut_off(scraping: Scrape) -> None:
    assert await asked(scraping.address, b"GET /metrics HTTP/1.1\r\n" + b"x: y\r\n" * 5000) == ("", {}, b"")
    assert (await asked(scraping.address))[0] == "HTTP/1.1 200 OK"


async def test_who_says_nothing_is_let_go_and_holds_up_nobody(registry: CollectorRegistry) -> None:
    opened = Scrape(registry, patience_s=0.2)
    host, _, port = (await opened.listen(LOCAL)).rpartition(":")
    silent = [await asyncio.open_connection(host, int(port)) for _ in range(scrape.MAX_CONNECTIONS - 1)]
    assert (await asked(opened.address))[0] == "HTTP/1.1 200 OK"
    assert all([await let_go(reader) for reader, _ in silent])
    for _, writer in silent:
        writer.close()
    opened.close()


async def let_go(reader: asyncio.StreamReader) -> bool:
    """Whether the other end hung up without a word."""
    try:
        return await asyncio.wait_for(reader.read(), WAIT_S) == b""
    except ConnectionResetError:
        return True


async def test_more_connections_than_there_is_room_for_are_closed_at_once(scraping: Scrape) -> None:
    host, _, port = scraping.address.rpartition(":")
    silent = [await asyncio.open_connection(host, int(port)) for _ in range(scrape.MAX_CONNECTIONS)]
    assert (await asked(scraping.address))[0] == ""
    for _, writer in silent:
        writer.close()


async def test_closing_breaks_off_who_is_waiting(registry: CollectorRegistry) -> None:
    opened = Scrape(registry)
    host, _, port = (await opened.listen(LOCAL)).rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET")
    await writer.drain()
    await asyncio.sleep(0)
    opened.close()
    writer.close()
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection(host, int(port))


async def test_closing_forgets_nobody_who_was_only_just_accepted(scraping: Scrape) -> None:
    port = int(scraping.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
        client.setblocking(False)
        scraping._accept(scraping._listening[0])
        scraping.close()
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), WAIT_S) == b""
    assert scraping._open == {}


async def test_another_address_takes_the_place_of_the_one_before(scraping: Scrape) -> None:
    before = scraping.address
    after = await scraping.listen(LOCAL)
    assert (await asked(after))[0] == "HTTP/1.1 200 OK"
    if after != before:
        with pytest.raises(OSError, match="Connect call failed"):
            await asked(before)


async def test_a_reload_of_the_same_address_leaves_it_as_it_is(scraping: Scrape) -> None:
    await scraping.follow(Settings(metrics=LOCAL))
    address = scraping.address
    await scraping.follow(Settings(metrics=LOCAL))
    await scraping.follow(None)
    assert scraping.address == address
    await scraping.follow(Settings())
    assert scraping.address == ""


# Who may ask.


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    """A board with keys."""
    made = Trust(tmp_path / "trust")
    made.init("board", ["127.0.0.1"], NOW)
    return made


def kit(trust: Trust, name: str = "prometheus") -> ssl.SSLContext:
    """What Prometheus is told: the board's authority, the board's name, its own pair."""
    made = trust.add(name, Role.VIEWER, 10.0, False, NOW)
    assert made.pair is not None
    context = ssl.create_default_context(cadata=made.authority.decode())
    pair = trust.folder / f"{name}.pem"
    pair.write_bytes(made.pair.key + made.pair.certificate)
    context.load_cert_chain(pair)
    return context


async def asked_by_tls(address: str, context: ssl.SSLContext) -> str:
    """The answer of a board that is reached as another machine would; "" where it hung up."""
    port = int(address.rpartition(":")[2])
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=BOARD_NAME)
        writer.write(GET)
        answer = await asyncio.wait_for(reader.read(), WAIT_S)
    except OSError:
        return ""
    writer.close()
    return answer.decode()


@pytest.fixture
async def secured(registry: CollectorRegistry, trust: Trust) -> AsyncIterator[Scrape]:
    opened = Scrape(registry)
    await opened.listen("0.0.0.0:0", trust.folder)
    yield opened
    opened.close()


async def test_a_client_of_the_board_may_ask_from_elsewhere(secured: Scrape, trust: Trust) -> None:
    assert "answer 42.0" in await asked_by_tls(secured.address, kit(trust))


async def test_a_client_that_was_revoked_is_refused_from_then_on(secured: Scrape, trust: Trust) -> None:
    context = kit(trust)
    assert "answer 42.0" in await asked_by_tls(secured.address, context)
    trust.revoke("prometheus", NOW)
    assert (await asked_by_tls(secured.address, context)).startswith("HTTP/1.1 403 Forbidden")


async def test_strangers_who_begin_a_handshake_take_no_more_room_than_others(
    registry: CollectorRegistry, trust: Trust, unforeseen: list[dict[str, Any]]
) -> None:
    opened = Scrape(registry, patience_s=3 * WAIT_S)
    port = int((await opened.listen("0.0.0.0:0", trust.folder)).rpartition(":")[2])
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(scrape.MAX_CONNECTIONS)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await let_go(reader)
    for _, stranger in [*silent, (reader, writer)]:
        stranger.close()
    assert "answer 42.0" in await asyncio.wait_for(_answer_in_the_end(opened.address, kit(trust)), WAIT_S)
    opened.close()


async def _answer_in_the_end(address: str, context: ssl.SSLContext) -> str:
    answer = ""
    while not answer:
        answer = await asked_by_tls(address, context)
    return answer


async def test_who_never_ends_a_handshake_is_let_go(registry: CollectorRegistry, trust: Trust) -> None:
    opened = Scrape(registry, patience_s=0.2)
    port = int((await opened.listen("0.0.0.0:0", trust.folder)).rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await let_go(reader)
    writer.close()
    opened.close()


async def test_a_service_that_ends_waits_for_no_handshake(secured: Scrape) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(secured.address.rpartition(":")[2]))
    while not secured._open:
        await asyncio.sleep(0)
    secured.close()
    assert await asyncio.wait_for(let_go(reader), scrape.PATIENCE_S / 2)
    writer.close()


async def shown(address: str, context: ssl.SSLContext) -> bytes:
    """The certificate (DER) that the board shows with the next connection."""
    port = int(address.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=BOARD_NAME)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    assert isinstance(certificate, bytes)
    return certificate


def _board(trust: Trust) -> bytes:
    return ssl.PEM_cert_to_DER_cert(trust.keys().board.certificate.decode())


async def test_a_renewed_certificate_is_shown_with_the_next_connection(secured: Scrape, trust: Trust) -> None:
    context = kit(trust)
    assert await shown(secured.address, context) == _board(trust)
    trust.renew(["127.0.0.1"], NOW)
    assert await shown(secured.address, context) == _board(trust)
    assert "answer 42.0" in await asked_by_tls(secured.address, context)


async def test_keys_that_cannot_be_used_leave_those_from_before_and_are_told_once(
    secured: Scrape, trust: Trust, caplog: pytest.LogCaptureFixture
) -> None:
    context, before = kit(trust), _board(trust)
    trust.renew(["127.0.0.1"], NOW)
    (trust.folder / "board.pem").chmod(0o644)
    assert [await shown(secured.address, context) for _ in range(3)] == [before] * 3
    assert caplog.messages == ["keys unusable"]
    (trust.folder / "board.pem").chmod(0o600)
    assert await shown(secured.address, context) == _board(trust) != before


async def test_keys_that_were_seen_half_made_are_taken_when_they_are_whole(secured: Scrape, trust: Trust) -> None:
    context, before = kit(trust), _board(trust)
    after = ssl.PEM_cert_to_DER_cert(trust.renew(["127.0.0.1"], NOW).board.certificate.decode())
    away = trust.list.rename(trust.folder / "away")
    assert await shown(secured.address, context) == before
    away.rename(trust.list)
    assert await shown(secured.address, context) == after


async def test_a_reload_leaves_a_secured_address_as_it_is(registry: CollectorRegistry, trust: Trust) -> None:
    opened = Scrape(registry)
    settings = Settings(metrics="0.0.0.0:0", trust=trust.folder)
    await opened.follow(settings)
    address = opened.address
    await opened.follow(settings)
    assert opened.address == address
    opened.close()


async def test_nobody_without_a_certificate_of_this_board_gets_an_answer(
    secured: Scrape, trust: Trust, tmp_path: Path
) -> None:
    bare = ssl.create_default_context(cadata=trust.keys().authority.decode())
    assert await asked_by_tls(secured.address, bare) == ""
    other = Trust(tmp_path / "other")
    other.init("other", ["127.0.0.1"], NOW)
    foreign = kit(other)
    foreign.load_verify_locations(cadata=trust.keys().authority.decode())
    assert await asked_by_tls(secured.address, foreign) == ""


async def test_plain_http_gets_no_answer_where_others_can_ask(secured: Scrape) -> None:
    assert await asked(f"127.0.0.1:{secured.address.rpartition(':')[2]}") == ("", {}, b"")


async def test_an_address_that_others_reach_is_refused_without_keys(
    registry: CollectorRegistry, tmp_path: Path
) -> None:
    with pytest.raises(TrustUnusable, match="parfocal trust init"):
        await Scrape(registry).listen("0.0.0.0:0", tmp_path)


async def test_a_service_goes_on_without_metrics_where_it_has_no_keys(
    registry: CollectorRegistry, tmp_path: Path
) -> None:
    opened = Scrape(registry)
    await opened.follow(Settings(metrics="0.0.0.0:0", trust=tmp_path))
    assert opened.address == ""


async def test_a_socket_of_a_file_is_refused(registry: CollectorRegistry) -> None:
    with pytest.raises(BadSettings, match="is no HOST:PORT"):
        await Scrape(registry).listen("unix:/run/parfocal/metrics")


async def test_an_address_that_is_taken_is_said(scraping: Scrape, registry: CollectorRegistry) -> None:
    with pytest.raises(AddressInUse, match=r"cannot serve metrics on 127\.0\.0\.1"):
        await Scrape(registry).listen(scraping.address)
