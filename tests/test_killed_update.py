"""A few kills of an update, with a service and an updater that are real processes; 200 are `make test-ota-kills`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from kill_trial import run

KILLS = 10


@pytest.mark.timeout(300)
def test_after_a_kill_at_any_instant_exactly_the_old_or_the_new_model_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(tmp_path, KILLS, seed=7)
    with capsys.disabled():
        sys.stdout.write(f"\n{found.table()}\n{found.kills} kills in {found.took_s:.0f} s\n")
    assert found.wrong == []
    assert found.kills == KILLS
