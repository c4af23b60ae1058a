"""The soak's own judgement: it must find a leak, and must not call noise one. The soak itself is `make soak`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from soak_server import Sample
from soak_verdict import Findings, findings, growth, judge

QUIET = Sample(at_s=0.0, rss_mb=300.0, peak_mb=310.0, threads=18, fds=13, sockets=5, children=0, tasks=10)
FINE = Findings(Counter({"measure ok": 9, "move Busy": 3, "intrude ConnectionResetError: x": 1}), [0.1, -0.05], [0.2])


def under_load(mb_an_hour: float) -> list[Sample]:
    """Twenty minutes in which memory swings by 30 MB, and grows."""
    at_s = range(0, 1200, 5)
    return [replace(QUIET, at_s=s, rss_mb=300 + 30 * (s % 25) / 25 + mb_an_hour * s / 3600) for s in at_s]


def missed(after: Sample = QUIET, found: Findings = FINE, exit_code: int | None = 0, log: str = "") -> list[str]:
    bounds = judge(under_load(0.0), QUIET, after, found, (exit_code, 1.0), log)
    return [bound.name for bound in bounds if not bound.ok]


def test_swinging_memory_is_no_leak() -> None:
    assert growth(under_load(0.0)) == pytest.approx((0.0, 0.0), abs=5.0)
    assert missed() == []


def test_a_slow_leak_is_found() -> None:
    bounds = judge(under_load(30.0), QUIET, QUIET, FINE, (0, 1.0), "")
    assert growth(under_load(30.0))[1] == pytest.approx(30.0, abs=5.0)
    assert [bound.name for bound in bounds if not bound.ok] == ["memory, last fifth against first"]


@pytest.mark.parametrize("kept", ["threads", "fds", "sockets", "children", "tasks"])
def test_whatever_is_kept_of_gone_clients_is_found(kept: str) -> None:
    assert missed(replace(QUIET, **{kept: getattr(QUIET, kept) + (7 if kept == "threads" else 1)})) == [
        f"{kept}, nobody connected"
    ]


def test_wrong_answers_unforeseen_ends_and_a_hard_end_are_found() -> None:
    assert missed(found=replace(FINE, errors_um=[0.5, -0.5, 0.1])) == ["estimates"]
    assert missed(found=replace(FINE, residuals_um=[])) == ["focused"]
    assert missed(found=replace(FINE, ends=Counter({"move RemoteError: INTERNAL": 1}))) == [
        "calls that ended as none should"
    ]
    assert missed(exit_code=None, log="Traceback (most recent") == ["tracebacks in the log", "end after SIGTERM"]


def test_a_line_that_a_kill_tore_is_left_out(tmp_path: Path) -> None:
    line = '{"ends": {"move ok": 2}, "errors_um": [], "residuals_um": [0.1]}'
    (tmp_path / "said-1").write_text(f"{line}\n{line}\n{line[:20]}")
    found = findings(tmp_path)
    assert (found.ends, found.residuals_um) == (Counter({"move ok": 4}), [0.1, 0.1])
