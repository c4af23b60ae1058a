"""A few hundred malformed requests; `make hostile` sends twenty thousand and more."""

from __future__ import annotations

import random

import hostile
import hostile_wire as wire
import pytest

REQUESTS = 300


@pytest.mark.timeout(300)
def test_malformed_requests_leave_the_service_serving_and_the_stage_where_it_was() -> None:
    report = hostile.run(REQUESTS, 5)
    assert report.alive, report.lines()
    assert report.serves, report.lines()
    assert len(set(report.z_um)) == 1, report.lines()
    assert all(job.endswith(" of operator") for job in report.jobs), report.lines()
    assert sum(report.sent.values()) >= REQUESTS
    assert not {"INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED"} & set(report.ended)


def test_what_strangers_send_differs_and_begins_as_http2_where_it_should() -> None:
    chance = random.Random(3)
    made = [[way(chance, b"/parfocal.v1.FocusService/Stop") for _ in range(5)] for way in wire.WAYS]
    assert len({each for several in made for each in several}) > 3 * len(wire.WAYS)
    assert sum(each[0].startswith(wire.PREFACE) for each in made) == len(wire.WAYS) - 2


def test_a_header_field_longer_than_127_bytes_is_told_by_its_length() -> None:
    assert wire.headers([(b"a", b"b" * 300)]).startswith(b"\0\x01a\x7f\xad\x01bbb")
