"""What is shipped for Prometheus and Grafana asks for what exists, and is what its code builds."""

import json
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from dashboards.build import files
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.telemetry import Telemetry
from tests.support.prometheus import PROMTOOL, left_side, need

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "dashboards"
BOARDS = [json.loads(path.read_text()) for path in sorted(SHIPPED.glob("*.json"))]
PANELS = [panel for board in BOARDS for panel in board["panels"] if panel["type"] != "row"]
RULES = [
    rule
    for group in yaml.safe_load((SHIPPED / "rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
EXPRESSIONS = [
    *(rule["expr"] for rule in RULES),
    *(target["expr"] for panel in PANELS for target in panel["targets"]),
]


def exported() -> dict[str, str]:
    """Return every sample name of the metrics page with the type of its metric."""
    registry = CollectorRegistry()
    Telemetry(registry, version="0")
    page = generate_latest(registry).decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    return {
        name + suffix: kind
        for name, kind in types.items()
        for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }


def of_rules(key: str) -> list[Any]:
    """Return one entry of every unit test of the rules."""
    tests = yaml.safe_load((SHIPPED / "rules_test.yaml").read_text())["tests"]
    return [case for test in tests for case in test.get(key, ())]


def test_the_committed_dashboards_are_what_their_code_builds() -> None:
    built = files()

    assert sorted(built) == sorted(SHIPPED.glob("*.json"))
    for path, text in built.items():
        assert path.read_bytes() == text.encode(), f"run `python -m dashboards.build`: {path.name}"


def test_every_metric_asked_for_exists() -> None:
    known = exported()

    for expr in EXPRESSIONS:
        asked = set(re.findall(r"\bpd_autoscaler[:\w]+", expr))
        assert asked
        assert asked <= known.keys() | RECORDED, expr


def test_rates_are_taken_of_what_only_grows_and_of_nothing_else() -> None:
    known = exported()

    for expr in EXPRESSIONS:
        windowed = set(re.findall(r"(pd_autoscaler_\w+)(?:\{[^}]*\})?\[", expr))
        grows = {n for n in re.findall(r"pd_autoscaler_\w+", expr) if known.get(n) != "gauge"}
        assert windowed == grows, expr


def test_what_is_recorded_is_used() -> None:
    used = " ".join(rule["expr"] for rule in ALERTS)

    assert [name for name in RECORDED if name not in used] == []


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: str(board["uid"]))
def test_panels_have_ids_of_their_own_and_do_not_overlap(board: dict[str, Any]) -> None:
    panels = board["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids) > 0

    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
    assert all(place["x"] + place["w"] <= 24 for place in (panel["gridPos"] for panel in panels))


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_every_panel_says_what_it_shows_in_which_unit_of_the_chosen_controller(
    panel: dict[str, Any],
) -> None:
    assert len(panel["description"]) > 20
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
    for target in panel["targets"]:
        selected = re.findall(r"pd_autoscaler_\w+(\{[^}]*\})?", target["expr"])
        assert all('instance="$instance"' in labels for labels in selected), target["expr"]
        assert target["datasource"] == panel["datasource"]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: str(board["uid"]))
def test_data_source_and_controller_are_chosen_above_a_dashboard(board: dict[str, Any]) -> None:
    variables = {each["name"]: each for each in board["templating"]["list"]}

    assert variables.keys() == {"datasource", "instance"}
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["instance"]["datasource"]["uid"] == "${datasource}"


def test_the_matrix_has_a_word_and_a_colour_of_its_own_for_every_link_state() -> None:
    [panel] = [panel for panel in PANELS if panel["title"] == "Link matrix"]
    [mapping] = panel["fieldConfig"]["defaults"]["mappings"]

    shown = list(mapping["options"].values())

    assert {each["text"] for each in shown} == {state.value for state in LinkState}
    assert len({each["color"] for each in shown}) == len(LinkState)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_every_alert_has_its_paragraph_in_the_runbook(alert: dict[str, Any]) -> None:
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert alert["labels"]["severity"] in {"warning", "critical"}
    page, anchor = alert["annotations"]["runbook_url"].split("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor == alert["alert"].lower()
    assert alert["alert"] in headings


def test_the_runbook_has_no_alert_that_is_none() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()

    assert set(re.findall(r"\bPdAutoscaler\w+", text)) == {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_every_alert_is_shown_to_fire_and_not_to_fire(alert: dict[str, Any]) -> None:
    cases = [case for case in of_rules("alert_rule_test") if case["alertname"] == alert["alert"]]

    assert any(case["exp_alerts"] for case in cases)
    assert any(not case["exp_alerts"] for case in cases)


def test_the_left_side_of_an_alert_compares_nothing() -> None:
    assert left_side("a_b{c!~'1|2'} / (d > 0) >= 0.5") == "a_b{c!~'1|2'} / (d)"
    assert left_side("absent(up_s)") == "up_s"


@pytest.mark.prometheus
@pytest.mark.parametrize(
    "arguments", [("check", "rules", "rules.yaml"), ("test", "rules", "rules_test.yaml")]
)
def test_promtool_finds_nothing_wrong_with_the_rules(arguments: tuple[str, ...]) -> None:
    need(PROMTOOL)

    told = subprocess.run(
        [PROMTOOL, *arguments], cwd=SHIPPED, capture_output=True, text=True, check=False, timeout=60
    )

    assert told.returncode == 0, told.stdout + told.stderr
