"""What time it is, on a board that may not know."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from edge_app.errors import UpdateError
from edge_app.ota.clock import MADE, Reference, is_synchronised, machine_reference, reference

LATER = MADE + timedelta(days=100)
SEEN = (MADE + timedelta(days=50)).isoformat()
BOOT = datetime(1970, 1, 1, 0, 0, 40, tzinfo=timezone.utc)


def test_a_set_clock_is_believed_and_remembered() -> None:
    assert reference("floor", LATER, synchronised=True) == Reference(LATER, remember=LATER.isoformat())


def test_a_board_that_starts_in_1970_goes_by_when_its_version_was_made_and_says_what_it_cannot_notice() -> None:
    found = reference("floor", BOOT, synchronised=False)
    assert (found.time, found.remember) == (MADE, "")
    assert "clock is wrong (1970-01-01 00:00 UTC)" in found.note
    assert "would not be noticed; set the clock" in found.note


def test_the_floor_rises_with_the_last_check_under_a_set_clock() -> None:
    remembered = reference("floor", LATER, synchronised=True).remember
    assert reference("floor", BOOT, synchronised=False, seen=remembered).time == LATER


def test_a_clock_before_the_floor_is_wrong_even_if_a_time_server_set_it() -> None:
    found = reference("floor", MADE + timedelta(days=10), synchronised=True, seen=SEEN)
    assert found.time.isoformat() == SEEN
    assert found.note
    assert not found.remember


def test_a_clock_that_nobody_set_counts_from_the_floor_on_and_is_not_remembered() -> None:
    found = reference("floor", LATER, synchronised=False, seen=SEEN)
    assert (found.time, found.remember) == (LATER, "")
    assert "no time server has set" in found.note


@pytest.mark.parametrize(
    ("now", "synchronised"), [(BOOT, False), (BOOT, True), (LATER, False)], ids=["at boot", "set back", "not set"]
)
def test_where_a_clock_is_required_nothing_is_taken_without(now: datetime, synchronised: bool) -> None:
    with pytest.raises(UpdateError, match="let it reach a time server"):
        reference("required", now, synchronised)


def test_where_a_clock_is_required_a_set_one_will_do() -> None:
    assert reference("required", LATER, synchronised=True, seen=SEEN).time == LATER


@pytest.mark.parametrize("torn", ["", "yesterday", "2027-01-01T00:00:00", "\x00\x00"])
def test_a_torn_memory_of_the_time_counts_as_none(torn: str) -> None:
    assert reference("floor", BOOT, synchronised=False, seen=torn).time == MADE


def test_a_moment_from_another_zone_is_the_same_moment() -> None:
    tokyo = LATER.astimezone(timezone(timedelta(hours=9)))
    assert reference("floor", BOOT, synchronised=False, seen=tokyo.isoformat()).time == LATER


@pytest.mark.parametrize(
    ("marked", "kernel", "daemon", "expected"),
    [
        (True, False, False, True),
        (False, True, False, True),
        (False, False, True, False),
        (False, None, True, True),
        (False, None, False, False),
    ],
)
def test_the_first_that_knows_says_whether_the_clock_is_set(
    tmp_path: Path, marked: bool, kernel: bool | None, daemon: bool, expected: bool
) -> None:
    marker = tmp_path / "synchronized"
    if marked:
        marker.touch()
    assert is_synchronised(marker, lambda: kernel, lambda: daemon) is expected


def test_this_machine_answers() -> None:
    found = machine_reference("floor")
    assert found.time.tzinfo is not None
    assert bool(found.note) != bool(found.remember)
