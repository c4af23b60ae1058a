"""The benchmark of the pulse thread: every pulse is sent, whatever the load."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from edge_app import bench_pulses


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return bench_pulses.bench(lambda *_: None, rounds=1)


def test_no_step_is_lost_or_doubled_under_load(result: dict[str, Any]) -> None:
    assert [row["sent"] for row in result["table"]] == [row["pulses"] for row in result["table"]]


def test_every_rate_is_measured_alone_and_under_load(result: dict[str, Any]) -> None:
    cases = {(row["rate_hz"], row["load"]) for row in result["table"]}
    assert cases == {(rate, load) for rate in (1000, 4000, 10000) for load in ("none", "2 processes")}


def test_a_train_never_takes_less_than_planned(result: dict[str, Any]) -> None:
    assert min(row["longer"]["least"] for row in result["table"]) >= 1.0


def test_the_table_says_how_late_pulses_came(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    bench_pulses.print_table(result, Console(width=200))
    shown = capsys.readouterr().out
    assert "10000" in shown
    assert "new ramp" in shown
