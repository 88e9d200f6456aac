"""How well policies keep latency targets as nodes take longer to come, and links longer to make.

`python -m benchmarks.leads [--json] [--data DIR] [--seeds N] [--budget-minutes M]`

The chat hour S1 of `benchmarks.policies`, with its engines and first fleets, for `slo` and those
that came nearest to it there: mean seconds until a node may link of 5, 45, 155, 300 and 600 at
links of 1 s, and links of 0.05 and 10 s at 155 s. Which policy is best changes with the lead: who
only reacts is as good as who looks ahead where nodes come at once. Rows are differences to `slo`,
paired by seed, in points of attainment of both targets.

`slo` keeps its attainment up to leads of 300 s at little more nodes, where those that only react
lose it. At 600 s a sixth of the hour is over before the first node that was asked for serves; `kpa`
is ahead there with nearly twice the node-hours.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.policies import OURS, figures, percent, within
from benchmarks.support.rows import Row, printed

from pd_autoscaler.sim.comparing import jobs
from pd_autoscaler.sim.intervals import paired
from pd_autoscaler.sim.scenarios import Setting
from pd_autoscaler.sim.score import Score

POLICIES = (OURS, "kpa", "hpa", "queue-pressure")
SCENARIO = "S1"
LEADS_S = (5.0, 45.0, 155.0, 300.0, 600.0)
LINKS_S = (0.05, 10.0)

Key = tuple[float, float, str]
"""Mean seconds of a start and of a link, and the policy."""


def settings(setting: Setting) -> list[Setting]:
    """Return the setting with every lead time, then with every link time."""
    return [
        *(replace(setting, lead_s=lead_s) for lead_s in LEADS_S),
        *(replace(setting, link_s=link_s) for link_s in LINKS_S),
    ]


def table(found: Mapping[Key, Sequence[Score]]) -> dict[str, Any]:
    """Return what each policy attained at what cost, a row for each time and policy."""
    rows = [
        [
            f"{lead_s:g}",
            f"{link_s:g}",
            policy,
            percent(figures(scores, "both")),
            f"{figures(scores, 'node_hours')}",
            f"{figures(scores, 'actions').mean:.1f}",
            str(len(scores)),
        ]
        for (lead_s, link_s, policy), scores in found.items()
    ]
    columns = ["node s", "link s", "policy", "both in time %", "node-hours", "actions", "runs"]
    return {"title": "Lead times", "columns": columns, "rows": rows}


def rows_of(found: Mapping[Key, Sequence[Score]]) -> list[Row]:
    """Return by how many points `slo` is ahead of each other policy at each time."""
    rows = []
    for (lead_s, link_s, policy), scores in found.items():
        ours = found.get((lead_s, link_s, OURS))
        if policy == OURS or ours is None:
            continue
        ahead = paired(*({s.seed: 100 * s.both for s in of} for of in (ours, scores)))
        if ahead is not None:
            name = f"nodes after {lead_s:g} s, links of {link_s:g} s: slo over {policy}"
            rows.append(Row(name, round(ahead.mean, 2), "points"))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Run the chat hour at every lead time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leads")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/traces"))
    parser.add_argument("--budget-minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args(argv)
    asked = [
        job
        for seed in range(args.seeds)
        for setting in settings(Setting(data=args.data, nodes_mean=5.0))
        for job in jobs([SCENARIO], {policy: {} for policy in POLICIES}, [seed], setting)
    ]
    found: dict[Key, list[Score]] = defaultdict(list)
    count = 0
    for job, done in within(asked, 60 * args.budget_minutes):
        count += 1
        key = (job.setting.lead_s, job.setting.link_s, job.policy)
        found[key].append(done.scores[0])
        print(f"{key} seed {job.seed}: {done.scores[0].both:.4f}", flush=True)
    note = f"{count} of {len(asked)} runs in {args.budget_minutes:g} minutes"
    print(note)
    ordered = dict(sorted(found.items(), key=lambda row: (*row[0][:2], POLICIES.index(row[0][2]))))
    printed("leads", rows_of(ordered), tables=[{**table(ordered), "note": note}], is_json=args.json)


if __name__ == "__main__":
    main()
