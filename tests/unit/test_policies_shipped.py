"""Every policy that comes with the daemon keeps the contract with the parameters it has unasked."""

import pytest

from pd_autoscaler.policies.conformance import Factory, violations
from pd_autoscaler.policies.registry import installed, load_spec

SHIPPED = [point.name for point in installed() if point.points_at.startswith("pd_autoscaler.")]


def factory(name: str, params: dict[str, object]) -> Factory:
    spec = load_spec(name)
    checked = spec.params.model_validate(params)
    return lambda: spec.build(checked)


def test_those_that_operators_know_are_shipped() -> None:
    assert {
        "fixed-ratio",
        "hpa",
        "kpa",
        "proportional",
        "queue-pressure",
        "schedule",
        "throughput-match",
    } <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_policy_conforms(name: str) -> None:
    assert violations(factory(name, {})) == ()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_parameter_that_is_misspelt_is_refused(name: str) -> None:
    assert load_spec(name).params.model_config.get("extra") == "forbid"


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("hpa", {"down_window_s": 600, "tolerance": 0.05}),
        ("kpa", {"utilisation": 0.5, "down_delay_s": 120}),
        ("proportional", {"ratio": 3.125, "tokens_per_s": 1750}),
        ("throughput-match", {"period_s": 900, "watch_s": 0, "nodes": 10}),
        (
            "schedule",
            {
                "inner": {"policy": "kpa"},
                "windows": [
                    {"name": "rush", "begins": "00:30", "ends": "01:30", "prompt_min": 4},
                    {"name": "quiet", "begins": "01:30", "ends": "00:30", "decoder_max": 8},
                ],
            },
        ),
    ],
)
def test_a_shipped_policy_conforms_with_other_parameters(
    name: str, params: dict[str, object]
) -> None:
    assert violations(factory(name, params)) == ()
