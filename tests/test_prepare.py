"""What a runtime has built while a bundle is staged: it is waited for, told of, and left where it takes too long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from edge_app import runtime
from edge_app.bundle import find, read
from edge_app.errors import RuntimeFailed


def _nothing() -> None:
    """What is called at the end of a build for which nobody waits yet."""


class Build:
    """Something that is being built; it ends when told to."""

    def __init__(self, error: str = "") -> None:
        self.progress, self.error = 0.25, error
        self.end: Callable[[], None] = _nothing

    def then(self, call: Callable[[], None]) -> None:
        self.end = call


def _runtimes(monkeypatch: pytest.MonkeyPatch, *builds: Build | None) -> list[str]:
    """Let there be runtimes with these builds, in this order; gives the names of those that were asked."""
    asked: list[str] = []

    def module(name: str) -> SimpleNamespace:
        asked.append(name)
        build = builds[int(name)]
        if build is None:
            return SimpleNamespace()  # it builds nothing
        return SimpleNamespace(preparation=lambda _: SimpleNamespace(what="the engine", start=lambda: build))

    monkeypatch.setattr(runtime, "_module", module)
    monkeypatch.setattr(runtime, "_by_preference", lambda: [str(number) for number in range(len(builds))])
    monkeypatch.setattr(runtime, "_ASK_S", 0.01)
    return asked


BUNDLE = read(find("spectral_20x"))


def test_a_build_is_waited_for_and_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    build, told = Build(), list[tuple[str, float]]()
    asked = _runtimes(monkeypatch, build, None)

    def say(what: str, share: float) -> None:
        told.append((what, share))
        if len(told) == 3:
            threading.Thread(target=build.end).start()

    runtime.prepare(BUNDLE, "", say)
    assert told[:3] == [("the engine", 0.25)] * 3
    assert asked == ["0"]


def test_where_a_build_fails_the_next_runtime_is_prepared(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build = Build("the compiler ran out of memory")
    asked = _runtimes(monkeypatch, build, None)
    runtime.prepare(BUNDLE, "", lambda *_: build.end())
    assert asked == ["0", "1"]
    assert "the engine could not be built: the compiler ran out of memory" in caplog.text


def test_a_build_that_does_not_end_is_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    asked = _runtimes(monkeypatch, Build(), None)
    monkeypatch.setattr(runtime, "PREPARE_S", 0.05)
    runtime.prepare(BUNDLE, "", lambda *_: None)
    assert asked == ["0", "1"]
    assert "is not built after" in caplog.text


def test_a_runtime_that_cannot_be_prepared_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_here(_: object) -> None:
        raise RuntimeFailed("no GPU")

    asked: list[str] = []

    def module(name: str) -> SimpleNamespace:
        asked.append(name)
        return SimpleNamespace(preparation=none_here) if name == "0" else SimpleNamespace()

    _runtimes(monkeypatch, None, None)
    monkeypatch.setattr(runtime, "_module", module)
    runtime.prepare(BUNDLE, "", lambda *_: None)
    assert asked == ["0", "1"]
