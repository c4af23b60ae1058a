"""An update while eight clients measure without a pause: none is refused; how long each waits: `make bench-update`."""

from __future__ import annotations

from pathlib import Path

from update_load import PHASES, run


def test_no_request_fails_while_the_model_that_answers_is_updated(tmp_path: Path) -> None:
    load = run(tmp_path, calm_s=1.0, as_is=False)
    assert load.failures == []
    assert load.labels == ["spectral_20x@1.0.0", "spectral_20x@1.1.0"], load.reason
    assert {step.partition(" ")[0] for step in load.steps} >= {"asking", "fetching", "opening", "switching"}
    assert all(len(load.latencies_ms(phase)) for phase in PHASES), load.table()
