"""The board's keys in a service that runs: others take hold by themselves, and their end is told in time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from keyed_board import NOW

from edge_app.access.doors import LOOK_S, Lock
from edge_app.access.trust import Trust
from edge_app.errors import TrustUnusable

DAY_S = 86_400.0


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    """A board's keys."""
    made = Trust(tmp_path / "trust")
    made.init("bench", [], NOW)
    return made


def test_a_renewed_certificate_is_told_within_a_minute_and_handed_to_grpc_once(trust: Trust) -> None:
    lock = Lock(trust)
    before = lock.keys
    assert lock._renewed() is None
    lock.look(0.0)
    trust.renew([], NOW)
    lock.look(LOOK_S / 2)
    assert lock.keys == before
    lock.look(LOOK_S)
    assert lock.keys == trust.keys() != before
    assert lock._renewed() is not None
    assert lock._renewed() is None


def test_keys_that_could_not_be_read_at_first_take_hold_when_they_can(
    trust: Trust, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lock = Lock(trust)
    trust.renew([], NOW)
    reads = Trust.keys

    def damaged(_: Trust) -> None:
        raise TrustUnusable("half of it is there")

    monkeypatch.setattr(Trust, "keys", damaged)
    assert [lock._renewed(), lock._renewed()] == [None, None]
    assert caplog.messages.count("keys unusable") == 1
    monkeypatch.setattr(Trust, "keys", reads)
    assert lock._renewed() is not None
    assert lock.keys == trust.keys()


def test_the_end_of_a_certificate_is_told_once_a_day_while_the_service_runs(
    trust: Trust, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lock = Lock(trust)
    lock.look(0.0)
    assert "certificate ends" not in caplog.messages
    monkeypatch.setattr("edge_app.access.doors._SOON", timedelta(days=100_000))
    for now_s in (LOOK_S, 2 * LOOK_S, DAY_S, DAY_S + LOOK_S):
        lock.look(now_s)
    assert caplog.messages.count("certificate ends") == 2
