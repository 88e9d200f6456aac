"""What is shipped for Prometheus asks only for metrics that exist."""

import re
from pathlib import Path

import yaml
from prometheus_client import CollectorRegistry, generate_latest

from pd_autoscaler.telemetry import Telemetry

ALERTS = Path(__file__).parents[2] / "dashboards" / "alerts.yaml"


def test_every_metric_in_the_alert_rules_exists() -> None:
    registry = CollectorRegistry()
    Telemetry(registry, version="0")
    exported = set(re.findall(r"^# TYPE (\S+)", generate_latest(registry).decode(), re.MULTILINE))
    rules = [r for g in yaml.safe_load(ALERTS.read_text())["groups"] for r in g["rules"]]

    for rule in rules:
        asked = set(re.findall(r"pd_autoscaler_\w+", rule["expr"]))
        assert asked
        assert asked <= exported, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}
