"""What a fleet is watched with: dashboard, alerts and page name metrics that boards have, and no others."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, open_bench
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from test_metrics import Standing

from edge_app.metrics import Metrics

ROOT = Path(__file__).resolve().parent.parent
GRAFANA = ROOT / "grafana"
ALERTS = GRAFANA / "alerts.yml"
TRIAL = ROOT / "tests/alerts_trial.yml"
PAGE = ROOT / "docs/fleet.md"
TARGET = {"job", "instance"}
"""What Prometheus itself adds to every sample of a board."""
PROMETHEUS = {"up": TARGET}
Labels = dict[str, set[str]]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    """Every sample that a board can give, with the names of its labels."""
    thermal = tmp_path_factory.mktemp("thermal")
    (thermal / "thermal_zone0").mkdir()
    (thermal / "thermal_zone0/type").write_text("cpu-thermal\n")
    (thermal / "thermal_zone0/temp").write_text("40000\n")
    metrics = Metrics(Standing, thermal)
    bench = open_bench()
    with bench.appliance:
        metrics.offer(bench.appliance)
        bench.appliance.focus("single_shot", lambda *_: None).result.result(PATIENCE_S)
        found = dict(samples(metrics))
    metrics.turn_away("CameraError")
    return found | dict(samples(metrics)) | PROMETHEUS


def samples(metrics: Metrics) -> Iterator[tuple[str, set[str]]]:
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            yield sample.name, set(sample.labels) | TARGET


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((GRAFANA / "parfocal.json").read_text())
    return read


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def asked_by_the_dashboard() -> list[str]:
    variables = [variable["definition"] for variable in dashboard()["templating"]["list"] if "definition" in variable]
    return variables + [target["expr"] for panel in panels() for target in panel["targets"]]


def asked_by_the_alerts() -> list[str]:
    """Each rule's expression: on its line, or indented below."""
    found = re.findall(r"^ +expr: (?:>-\n((?:          .+\n)+)|(.+)\n)", ALERTS.read_text(), re.MULTILINE)
    return [folded or single for folded, single in found]


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Metrics that an expression asks for, and the labels that it asks them by."""
    found = re.findall(r"\b((?:parfocal|process)_\w+|up\b)(?:\{([^}]*)\})?", expression)
    return [(name, set(re.findall(r"(\w+)\s*[=!]", inner))) for name, inner in found]


@pytest.mark.parametrize("asked", [asked_by_the_dashboard, asked_by_the_alerts], ids=["dashboard", "alerts"])
def test_whatever_is_asked_for_is_something_that_boards_tell(asked: Any, labels: Labels) -> None:
    expressions = asked()
    assert all(map(selectors, expressions))
    for expression in expressions:
        for name, by in selectors(expression):
            assert name in labels, expression
            assert by <= labels[name], expression


def test_sums_are_made_by_labels_that_one_of_their_metrics_has(labels: Labels) -> None:
    for expression in asked_by_the_dashboard() + asked_by_the_alerts():
        known = set().union(*(labels[name] for name, _ in selectors(expression)))
        for inner in re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)", expression):
            assert set(re.split(r",\s*", inner)) <= known, expression


def test_every_alert_has_an_expression_and_says_what_to_do() -> None:
    text = ALERTS.read_text()
    alerts = re.findall(r"- alert: (\w+)", text)
    assert len(alerts) == len(set(alerts)) == len(asked_by_the_alerts())
    assert text.count("summary: ") == text.count("action: ") == text.count("severity: ") == len(alerts)


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    board = dashboard()
    assert board["id"] is None
    assert board["schemaVersion"] >= 36
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "job", "instance"]
    assert board["templating"]["list"][0]["type"] == "datasource"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_every_panel_asks_the_chosen_prometheus_and_only_chosen_boards() -> None:
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["description"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert target["expr"].count('job=~"$job"') == len(selectors(target["expr"])), target["expr"]


def test_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_the_page_has_every_metric_and_no_other(labels: Labels) -> None:
    written = set(re.findall(r"^\| `(parfocal_\w+)", PAGE.read_text(), re.MULTILINE))
    ends = re.compile(r"_(bucket|sum|count)$")
    histograms = {ends.sub("", name) for name in labels if f"{ends.sub('', name)}_bucket" in labels}
    told = {ends.sub("", name) if ends.sub("", name) in histograms else name for name in labels}
    assert written == {name for name in told if name.startswith("parfocal_")}


@pytest.mark.parametrize("arguments", [("check", "rules", ALERTS), ("test", "rules", TRIAL)], ids=["check", "test"])
def test_prometheus_itself_accepts_the_rules_and_tells_good_boards_from_bad(arguments: tuple[str | Path, ...]) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (apt install prometheus)")
    checked = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
