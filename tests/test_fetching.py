"""Getting files within bounds of bytes and time, from a folder, a web server, and worse."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_repository import HttpRepository, served
from repository_simulator import Simulator, cut_every, dripping, ending_after, endless
from tuf.api.exceptions import DownloadHTTPError

from edge_app.errors import BadSettings, JobStopped, RepositoryUnreachable, RepositoryUntrusted
from edge_app.ota.fetching import GRACE_S, SLOWEST_BYTES_S, TRIES, BoundedFetcher, source_of
from edge_app.ota.source import Barred, Cut, Folder, NotThere, Source
from edge_app.ota.web import Web
from firmware.clock import ManualClock

DATA = os.urandom(100_000)
URL = "targets/stable/a.parfocal"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def simulator() -> Simulator:
    made = Simulator()
    made.files[URL] = DATA
    made.asked.clear()
    return made


@pytest.fixture
def server() -> Iterator[HttpRepository]:
    with served({URL: DATA}) as serving:
        yield serving


def fetched(fetcher: BoundedFetcher, length: int = len(DATA)) -> bytes:
    with fetcher.download_file(URL, length) as file:
        return file.read()


def read(source: Source, path: str = URL, offset: int = 0) -> bytes:
    return b"".join(source.open(path, offset, 20.0))


def parts(folder: Path) -> list[Path]:
    return list(folder.glob("*"))


def test_a_target_is_fetched_and_leaves_no_part(tmp_path: Path, simulator: Simulator) -> None:
    assert fetched(BoundedFetcher(simulator, tmp_path)) == DATA
    assert not parts(tmp_path)


def test_progress_is_told_from_the_first_byte_to_the_last(tmp_path: Path, simulator: Simulator) -> None:
    told: list[tuple[int, int]] = []
    fetcher = BoundedFetcher(simulator, tmp_path)
    fetcher.progress = lambda received, whole: told.append((received, whole))
    fetched(fetcher)
    assert (told[0], told[-1]) == ((0, len(DATA)), (len(DATA), len(DATA)))
    assert told == sorted(told)


def test_a_cut_connection_is_resumed_where_it_was_cut(
    tmp_path: Path, simulator: Simulator, clock: ManualClock
) -> None:
    simulator.behaviours[URL] = cut_every(40_000, times=2)
    assert fetched(BoundedFetcher(simulator, tmp_path, clock)) == DATA
    assert simulator.asked == [(URL, 0), (URL, 40_000), (URL, 80_000)]


def test_metadata_that_is_cut_is_resumed_too(tmp_path: Path, simulator: Simulator, clock: ManualClock) -> None:
    simulator.behaviours[URL] = cut_every(40_000, times=2)
    assert BoundedFetcher(simulator, tmp_path, clock).download_bytes(URL, 200_000) == DATA


def test_a_source_that_gives_nothing_is_left_after_a_few_tries_with_pauses(
    tmp_path: Path, simulator: Simulator, clock: ManualClock
) -> None:
    simulator.behaviours[URL] = cut_every(0)
    with pytest.raises(RepositoryUnreachable, match="the connection was cut; see that it answers, and try again"):
        fetched(BoundedFetcher(simulator, tmp_path, clock))
    assert len(simulator.asked) == TRIES
    assert clock.now_s() == 1 + 2 + 4


def test_what_was_fetched_survives_the_process_and_the_next_goes_on(
    tmp_path: Path, simulator: Simulator, clock: ManualClock
) -> None:
    simulator.behaviours[URL] = cut_every(70_000, times=1)

    def pull_the_plug(received: int, whole: int) -> None:
        if received == 70_000:
            raise JobStopped("enough")

    fetcher = BoundedFetcher(simulator, tmp_path, clock)
    fetcher.progress = pull_the_plug
    with pytest.raises(JobStopped):
        fetched(fetcher)
    simulator.asked.clear()
    assert fetched(BoundedFetcher(simulator, tmp_path, clock)) == DATA
    assert simulator.asked == [(URL, 70_000)]


def test_a_part_that_is_whole_already_asks_for_nothing(tmp_path: Path, simulator: Simulator) -> None:
    fetcher = BoundedFetcher(simulator, tmp_path)
    fetcher.part_of(URL).write_bytes(DATA)
    assert fetched(fetcher) == DATA
    assert not simulator.asked


def test_a_part_that_is_too_long_begins_anew(tmp_path: Path, simulator: Simulator) -> None:
    fetcher = BoundedFetcher(simulator, tmp_path)
    fetcher.part_of(URL).write_bytes(DATA + b"more")
    assert fetched(fetcher) == DATA
    assert simulator.asked == [(URL, 0)]


def test_parts_of_other_targets_are_removed(tmp_path: Path, simulator: Simulator) -> None:
    fetcher = BoundedFetcher(simulator, tmp_path)
    fetcher.part_of("targets/stable/old").write_bytes(b"old")
    fetcher.part_of(URL).write_bytes(b"new")
    fetcher.keep_only(URL)
    assert parts(tmp_path) == [fetcher.part_of(URL)]


def test_endless_data_is_refused_at_the_bound_and_nothing_is_kept(tmp_path: Path, simulator: Simulator) -> None:
    simulator.behaviours[URL] = endless
    fetcher = BoundedFetcher(simulator, tmp_path)
    with pytest.raises(RepositoryUntrusted, match="sends more than the 100500 bytes"):
        fetched(fetcher, len(DATA) + 500)
    assert not parts(tmp_path)
    with pytest.raises(RepositoryUntrusted, match="sends more than the 16000 bytes"):
        fetcher.download_bytes(URL, 16_000)


def test_a_byte_a_second_is_given_up_after_the_grace(tmp_path: Path, simulator: Simulator, clock: ManualClock) -> None:
    simulator.behaviours[URL] = dripping(clock)
    with pytest.raises(RepositoryUnreachable, match=r"too slow: 3\d bytes of .* in 3\d s"):
        fetched(BoundedFetcher(simulator, tmp_path, clock))
    assert clock.now_s() == pytest.approx(GRACE_S + 1, abs=1)


def test_a_source_that_cuts_after_every_byte_is_too_slow(
    tmp_path: Path, simulator: Simulator, clock: ManualClock
) -> None:
    simulator.behaviours[URL] = cut_every(1)
    with pytest.raises(RepositoryUnreachable, match="too slow"):
        fetched(BoundedFetcher(simulator, tmp_path, clock))
    assert clock.now_s() <= GRACE_S + 1


def test_a_source_at_just_the_slowest_pace_is_borne(tmp_path: Path, simulator: Simulator, clock: ManualClock) -> None:
    simulator.behaviours[URL] = dripping(clock, each_s=1 / SLOWEST_BYTES_S)
    assert fetched(BoundedFetcher(simulator, tmp_path, clock)) == DATA


def test_a_truncated_target_says_how_much_there_is(tmp_path: Path, simulator: Simulator, clock: ManualClock) -> None:
    simulator.behaviours[URL] = ending_after(60_000)
    with pytest.raises(RepositoryUnreachable, match="it ended after 60000 of 100000 bytes"):
        fetched(BoundedFetcher(simulator, tmp_path, clock))


def test_what_is_not_there_is_a_404_for_python_tuf(tmp_path: Path, simulator: Simulator) -> None:
    with pytest.raises(DownloadHTTPError) as caught:
        BoundedFetcher(simulator, tmp_path).download_bytes("metadata/2.root.json", 1000)
    assert caught.value.status_code == 404


def test_a_full_disk_leaves_no_part_behind(tmp_path: Path, simulator: Simulator) -> None:
    full = BoundedFetcher(simulator, tmp_path)
    full.part_of(URL).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        fetched(full)
    assert not parts(tmp_path)
    assert fetched(full) == DATA


def test_a_folder_gives_its_files_from_any_byte_on(tmp_path: Path) -> None:
    (tmp_path / "targets" / "stable").mkdir(parents=True)
    (tmp_path / URL).write_bytes(DATA)
    assert read(Folder(tmp_path)) == DATA
    assert read(Folder(tmp_path), offset=99_990) == DATA[-10:]
    with pytest.raises(NotThere):
        read(Folder(tmp_path), "metadata/timestamp.json")


@pytest.mark.parametrize(
    "path",
    ["../root.json", "metadata/../../x", "/etc/passwd", "a//b", "a\\..\\b", "", ".", "a/.", "%2e%2e/x", "a\0b", "a\n"],
)
def test_no_source_takes_a_path_that_could_climb_out(tmp_path: Path, path: str, server: HttpRepository) -> None:
    for source in (Folder(tmp_path), Web(server.url)):
        with pytest.raises(Barred, match="could lead out"):
            read(source, path)
    assert not server.asked


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(tmp_path: Path) -> None:
    stick, outside = tmp_path / "stick", tmp_path / "secret"
    stick.mkdir()
    outside.write_bytes(b"secret")
    (stick / "out").symlink_to(outside)
    (stick / "file").write_bytes(b"file")
    (stick / "in").symlink_to(stick / "file")
    with pytest.raises(Barred, match="leads out of the folder"):
        read(Folder(stick), "out")
    assert read(Folder(stick), "in") == b"file"


def test_a_loop_of_links_a_pipe_and_a_folder_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in ("loop", "pipe", "folder"):
        with pytest.raises(Barred, match=rf"{path} (is no file|cannot be opened)"):
            read(Folder(tmp_path), path)


def test_a_stick_that_is_not_plugged_in_is_said(tmp_path: Path) -> None:
    with pytest.raises(RepositoryUnreachable, match="no such folder; plug in the stick"):
        fetched(BoundedFetcher(Folder(tmp_path / "stick"), tmp_path))


def test_a_stick_that_this_user_may_not_enter_is_not_taken_for_one_that_is_missing() -> None:
    class Mine(type(Path())):  # type: ignore[misc]
        def resolve(self, strict: bool = False) -> Path:
            raise PermissionError(13, "Permission denied")

    user = pwd.getpwuid(os.geteuid()).pw_name
    with pytest.raises(Barred, match=f"the user {user} may not read /media/pi/stick; mount the stick where all may"):
        read(Folder(Mine("/media/pi/stick")))


def test_a_web_server_is_asked_for_the_rest_after_a_cut(
    tmp_path: Path, server: HttpRepository, clock: ManualClock
) -> None:
    server.cut_after_bytes, server.cuts = 40_000, 2
    assert fetched(BoundedFetcher(Web(server.url), tmp_path, clock)) == DATA
    assert server.asked == [(URL, ""), (URL, "bytes=40000-"), (URL, "bytes=80000-")]


def test_a_web_server_that_ignores_ranges_is_borne(tmp_path: Path, server: HttpRepository, clock: ManualClock) -> None:
    server.ranges, server.cut_after_bytes, server.cuts = False, 40_000, 1
    assert fetched(BoundedFetcher(Web(server.url), tmp_path, clock)) == DATA


def test_a_web_server_without_lengths_is_resumed_by_the_length_that_was_signed(
    tmp_path: Path, server: HttpRepository, clock: ManualClock
) -> None:
    server.lengthless, server.cut_after_bytes, server.cuts = True, 40_000, 1
    assert fetched(BoundedFetcher(Web(server.url), tmp_path, clock)) == DATA


def test_a_part_longer_than_what_is_served_is_no_fault_of_the_protocol(
    tmp_path: Path, server: HttpRepository, clock: ManualClock
) -> None:
    server.files[URL] = DATA[:50_000]
    with pytest.raises(RepositoryUnreachable, match="ended after 50000 of 100000 bytes"):
        fetched(BoundedFetcher(Web(server.url), tmp_path, clock))
    assert server.asked[1] == (URL, "bytes=50000-")


def test_an_endless_answer_of_a_web_server_ends_at_the_bound(tmp_path: Path, server: HttpRepository) -> None:
    server.endless = True
    with pytest.raises(RepositoryUntrusted, match="sends more than"):
        fetched(BoundedFetcher(Web(server.url), tmp_path), len(DATA) + 1)


def test_a_header_without_end_uses_up_the_time_that_is_left(server: HttpRepository) -> None:
    server.header_drip_s = 0.02
    with pytest.raises(Cut, match="said nothing for too long"):
        list(Web(server.url).open(URL, 0, left_s=0.3))


def test_a_body_that_drips_uses_up_the_time_that_is_left(server: HttpRepository) -> None:
    server.drip_s = 0.02
    with pytest.raises(Cut, match="said nothing for too long"):
        list(Web(server.url).open(URL, 0, left_s=0.3))


def test_a_server_that_says_nothing_is_not_waited_for(server: HttpRepository) -> None:
    server.drip_s = 5.0
    with pytest.raises(Cut, match="said nothing for too long"):
        read(Web(server.url, gap_s=0.1))


def test_nobody_at_an_address_is_said(tmp_path: Path, clock: ManualClock) -> None:
    with pytest.raises(RepositoryUnreachable, match=r"nobody answers there \(.*refused\)"):
        fetched(BoundedFetcher(Web("http://127.0.0.1:9"), tmp_path, clock))


@pytest.mark.parametrize(
    ("status", "fault"), [(404, NotThere), (403, NotThere), (410, NotThere), (503, Cut), (401, Barred), (204, Barred)]
)
def test_what_a_server_answers_is_told_apart(server: HttpRepository, status: int, fault: type[Exception]) -> None:
    server.statuses[URL] = status
    with pytest.raises(fault):
        read(Web(server.url))


def test_a_server_may_send_on_to_itself(server: HttpRepository) -> None:
    server.redirects["models/" + URL] = f"/{URL}"
    assert read(Web(f"{server.url}/models/")) == DATA


def test_a_server_may_not_send_on_elsewhere_for_ever_or_to_a_file(server: HttpRepository) -> None:
    for elsewhere in ("http://localhost:1/x", "https://example.org/x", "file:///etc/passwd", "ftp://127.0.0.1/", ""):
        server.redirects[URL] = elsewhere
        with pytest.raises(Barred, match="not the host that was given"):
            read(Web(server.url))
    server.redirects[URL] = f"/{URL}"
    server.asked.clear()
    with pytest.raises(Barred, match="from place to place more than 5 times"):
        read(Web(server.url))
    assert len(server.asked) == 6


def test_what_a_server_packed_is_not_unpacked(server: HttpRepository) -> None:
    server.headers["Content-Encoding"] = "gzip"
    with pytest.raises(Barred, match=r"Content-Encoding: gzip\); turn that off"):
        read(Web(server.url))
    assert server.requests[0]["accept-encoding"] == "identity"


def test_another_part_than_was_asked_for_is_refused(server: HttpRepository) -> None:
    server.shift_bytes = -1
    with pytest.raises(Barred, match="another part"):
        read(Web(server.url), offset=99_999)


def test_a_server_without_tls_where_the_url_promises_it_is_said(server: HttpRepository) -> None:
    with pytest.raises(Barred, match="TLS fails"):
        read(Web(server.url.replace("http://", "https://")))


def test_a_password_goes_to_the_server_and_not_into_messages(server: HttpRepository) -> None:
    source = Web(server.url.replace("http://", "http://board:p%40ss@"))
    assert read(source) == DATA
    assert server.requests[0]["authorization"] == "Basic Ym9hcmQ6cEBzcw=="
    assert source.label == server.url


def test_a_proxy_of_the_environment_is_used_but_for_hosts_without(
    server: HttpRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    server.files[f"http://repository.invalid/{URL}"] = b"through the proxy"
    assert read(Web("http://repository.invalid")) == b"through the proxy"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert read(Web(server.url)) == DATA


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("https://example.org/models", Web),
        ("http://[::1]:8080/", Web),
        ("/media/usb/models", Folder),
        ("file:///media/usb", Folder),
        ("models", Folder),
    ],
)
def test_a_setting_names_a_server_or_a_folder(text: str, kind: type) -> None:
    assert isinstance(source_of(text), kind)


@pytest.mark.parametrize(
    "text", ["", "ftp://example.org", "http://", "http://host:port/", "file://elsewhere/x", "https:x", "http://h/?q=1"]
)
def test_a_setting_that_names_neither_is_refused(text: str) -> None:
    with pytest.raises(BadSettings, match="update_from"):
        source_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://board:hush@example.org/models",
        "htps://board:hush@example.org/models",
        "https://board:hush@example.org/models?token=hush",
        "https://example.org/models?token=hush",
        "https://board:hush/hush@example.org/models",
        "https://board:hush#hush@example.org/models",
        "https://board:hush://hush@example.org",
        "https://board:hush@example.org:port/",
        "http://board:hush\u2100@example.org/",
        "http://board:hush@[::1/models",
        "https:board:hush@example.org/models",
        "https//board:hush@example.org/models",
        "//board:hush@example.org/models",
        "board:hush@example.org:models",
    ],
)
def test_a_password_in_a_setting_that_is_refused_is_not_shown(text: str) -> None:
    with pytest.raises(BadSettings, match=r"update_from = '.*\*\*\*'") as caught:
        source_of(text)
    assert "hush" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
