"""A comparison as one JSON document, for programs."""

from typing import Any

from pd_autoscaler.sim.records import Slo
from pd_autoscaler.sim.report.comparison import Comparison, Setting

SCHEMA = 1
"""Raised when a key goes or changes its meaning; new keys may come at any time."""


def document(compared: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON can hold it.

    Keys: `schema`; `scenario`; `target`, the attainment that is owed; `slos`, a list with one entry
    a pair of latency targets, the one that counts first. An entry has `name`, `ttft_s`, `tpot_s`
    and `policies`, a list in order of appearance with `policy`, `params` (those given), `figures`
    and `runs`. `figures` maps the name of a figure (the fields of `sim.score.Score`) to `mean`,
    `half_width` (of the 95 % interval over runs, null for one run) and `count`. `runs` are the
    scores themselves, an object a seed. A number that is unknown or endless is null.
    """
    return {
        "schema": SCHEMA,
        "scenario": compared.scenario,
        "target": compared.target,
        "slos": [
            {
                "name": slo.name,
                "ttft_s": slo.ttft_s,
                "tpot_s": slo.tpot_s,
                "policies": [_policy(setting, slo) for setting in compared.settings],
            }
            for slo in compared.slos
        ],
    }


def _policy(setting: Setting, slo: Slo) -> dict[str, Any]:
    return {
        "policy": setting.policy,
        "params": dict(setting.params),
        "figures": {name: found.to_dict() for name, found in setting.figures(slo).items()},
        "runs": [score.to_dict() for score in setting.scores[slo.name]],
    }
