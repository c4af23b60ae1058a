"""The process in which a service stages: what it says, and how it ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from http_repository import served
from repository_simulator import Simulator
from updating import repacked, silent

from edge_app.config import Settings
from edge_app.errors import TrustUnusable, UpdateError
from edge_app.ota import staging
from edge_app.ota.staging import staged


def settings(folder: Path, update_from: str) -> Settings:
    root = folder / "root.json"
    return Settings(board="simulated_tiny", state=folder / "s", update_from=update_from, update_root=root)


def test_what_goes_wrong_there_is_told_as_if_it_were_here(tmp_path: Path) -> None:
    steps: list[str] = []
    with pytest.raises(TrustUnusable, match="the root of trust"):
        asyncio.run(staged(settings(tmp_path, str(tmp_path)), "", lambda _d, _t, step: steps.append(step)))
    assert steps == ["asking the repository"]


def test_why_nothing_was_taken_is_told(tmp_path: Path) -> None:
    simulator = Simulator(datetime.now(timezone.utc))
    simulator.offer(repacked("1.1.0"), "spectral_20x", "1.1.0", share=0.0)
    simulator.publish()
    (tmp_path / "root.json").write_bytes(simulator.bootstrap())
    with served(simulator.files) as repository:
        status = asyncio.run(staged(settings(tmp_path, repository.url), "", silent))
    assert (status.state, status.serving) == ("idle", "spectral_20x@1.0.0")
    assert "goes to 0% of the boards first, and this is none of them" in status.reason


def test_a_process_that_ends_without_a_word_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "WORKER", (sys.executable, "-c", ""))
    with pytest.raises(UpdateError, match="ended before it was done; look at the log"):
        asyncio.run(staged(settings(tmp_path, ""), "", silent))


def test_a_process_that_is_no_longer_wanted_is_asked_to_end_and_killed_where_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_ENDS_S", 0.5)
    told = 'print(\'{"done": 0, "total": 0, "step": "begun"}\', flush=True)'
    ends, deaf = tmp_path / "ends", "signal.SIG_IGN"
    polite = f"lambda *_: (open({str(ends)!r}, 'w').close(), os._exit(0))"

    async def cut_off(handler: str) -> None:
        program = f"import os, signal, time; signal.signal(signal.SIGTERM, {handler}); {told}; time.sleep(60)"
        monkeypatch.setattr(staging, "WORKER", (sys.executable, "-c", program))
        begun = asyncio.Event()
        run = asyncio.create_task(staged(settings(tmp_path, ""), "", lambda *_: begun.set()))
        await asyncio.wait_for(begun.wait(), 20.0)
        run.cancel()
        await asyncio.wait([run], timeout=20.0)
        assert run.cancelled()

    asyncio.run(cut_off(polite))
    assert ends.exists()
    asyncio.run(cut_off(deaf))


def _worker(does: str) -> subprocess.CompletedProcess[str]:
    """A worker that does this in place of opening a board's updates."""
    program = (
        f"import os, signal; from edge_app.ota import worker; worker.updates_of = lambda _: {does};"
        "raise SystemExit(worker.main())"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        input='{"name": "", "settings": {}}',
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )


def test_a_worker_that_is_told_to_end_ends_as_by_ctrl_c() -> None:
    ran = _worker("os.kill(os.getpid(), signal.SIGTERM)")
    assert (ran.returncode, ran.stdout) == (130, "")


def test_what_a_runtime_prints_there_is_not_taken_for_what_is_told() -> None:
    ran = _worker("os.system('echo printed') and None")
    assert ran.stdout == ""
    assert "printed" in ran.stderr
