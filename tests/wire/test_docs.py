"""What the documentation shows works as it stands there."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pd_autoscaler.model.decision import Hold, Target
from pd_autoscaler.model.signals import RoleSignals, Signal
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.conformance import violations
from pd_autoscaler.policies.registry import installed, load_policy
from pd_autoscaler.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"


def test_the_policy_in_the_documentation_decides_and_conforms() -> None:
    [code] = re.findall(r"```python\n(.*?)```", (DOCS / "policies.md").read_text(), re.DOTALL)
    shown: dict[str, Any] = {}
    exec(compile(code, "docs/policies.md", "exec"), shown)  # The page's own code.
    spec = shown["SPEC"]
    slow = RoleSignals(serving=1, fresh=1, ttft_p95_s=Signal(3.0, 0.0))
    seen = Snapshot(now_s=0, now_unix_s=0, target=Target(1, 1), prompt=slow)

    policy = spec.build(spec.params())
    assert policy.decide(seen) == Target(2, 1)
    assert isinstance(policy.decide(Snapshot(now_s=0, now_unix_s=0, target=Target(1, 1))), Hold)
    assert [v for v in violations(lambda: spec.build(spec.params())) if "settle" not in v] == []


@pytest.mark.parametrize("page", ["operating.md", "signals.md", "runbook.md", "policies.md"])
def test_every_setting_in_the_documentation_exists(page: str) -> None:
    text = (DOCS / page).read_text()
    sections = Settings.model_fields
    named = re.findall(rf"`({'|'.join(sections)})\.([a-z0-9_]+)", text)
    assert named
    for section, name in named:
        fields = sections[section].annotation.model_fields  # type: ignore[union-attr]
        assert name in fields, f"{section}.{name}"


def test_every_shipped_policy_is_told_of_with_its_parameters_and_their_defaults() -> None:
    text = (DOCS / "policies.md").read_text()
    shipped = {p.name for p in installed() if p.points_at.startswith("pd_autoscaler.")}
    ideas = dict(re.findall(r"^\| `([a-z-]+)`( \(default\))? \|", text, re.MULTILINE))
    assert shipped <= ideas.keys()
    assert [name for name, mark in ideas.items() if mark] == [Settings().loop.policy]

    tables = set(re.findall(r"^### `([a-z-]+)`", text, re.MULTILINE))
    assert tables == shipped - {"http"}
    parameters = runpy.run_path(str(DOCS / "parameters.py"))
    assert text == parameters["rewritten"](text), "run `python docs/parameters.py`"


def test_the_settings_that_the_page_on_policies_shows_are_taken() -> None:
    for block in re.findall(r"```yaml\n(.*?)```", (DOCS / "policies.md").read_text(), re.DOTALL):
        Settings.model_validate(yaml.safe_load(block))
    shadows = (DOCS / "operating.md").read_text().partition("## A policy beside")[2]
    [block, *_] = re.findall(r"```yaml\n(.*?)```", shadows, re.DOTALL)
    loop = Settings.model_validate(yaml.safe_load(block)).loop
    assert [shadow.label for shadow in loop.shadow_policies] == ["slo", "slo-strict"]
    for shadow in loop.shadow_policies:
        load_policy(shadow.policy, shadow.params)
