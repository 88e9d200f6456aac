"""Metrics of the mesh: links by state, how tries end, and which pairs are up."""

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pd_autoscaler.datadist.status import STATUS_CODES
from pd_autoscaler.model.link import Link, LinkState
from pd_autoscaler.model.plan import LinkNodes, UnlinkNodes
from pd_autoscaler.model.report import Done, Outcome, Report, Unknown
from pd_autoscaler.telemetry.series import OTHER, begin

VERBS = ("link", "unlink", "force_unlink")
CODES = (*STATUS_CODES, "none", "unknown", OTHER)
"""Native codes; `none` where no call was made, `unknown` where a deadline passed."""

_BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 60.0)


class Links:
    """The mesh: how many links in which state, how tries end, and which pairs are up."""

    def __init__(self, registry: CollectorRegistry, pairs_max: int) -> None:
        name = "pd_autoscaler_"
        self._pairs_max = pairs_max
        self._known: dict[tuple[str, str], bool] = {}
        self._states = Gauge(f"{name}links", "Links by state.", ["state"], registry=registry)
        self._attempts = Counter(
            f"{name}link_attempts_total",
            "Link and unlink calls that ended, by pair, verb and native status code.",
            ["code", "verb"],
            registry=registry,
        )
        self._durations = Histogram(
            f"{name}link_duration_seconds",
            "How long successful links took.",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._up = Gauge(
            f"{name}link_up",
            "1 for a pair that is linked, 0 for one that is not; absent if capped.",
            ["decoder", "prompt"],
            registry=registry,
        )
        self._capped = Gauge(
            f"{name}link_up_capped",
            "1 while there are too many pairs for a series each.",
            registry=registry,
        )
        begin(self._states, LinkState)
        for code in CODES:
            for verb in VERBS:
                self._attempts.labels(code, verb)

    def take(self, report: Report) -> None:
        """Take in one report."""
        counts = Tally(link.state for link in report.links)
        for state in LinkState:
            self._states.labels(state.value).set(counts[state])
        for outcome in report.outcomes:
            self._take_attempt(outcome)
        is_capped = len(report.links) > self._pairs_max
        self._capped.set(is_capped)
        self._take_pairs(() if is_capped else report.links)

    def _take_attempt(self, outcome: Outcome) -> None:
        match outcome.action:
            case LinkNodes(prompts=peers):
                verb = "link"
            case UnlinkNodes(peers=peers, force=force):
                verb = "force_unlink" if force else "unlink"
            case _:
                return
        self._attempts.labels(_code(outcome), verb).inc(len(peers))
        if verb == "link" and isinstance(outcome, Done):
            self._durations.observe(outcome.took_s)

    def _take_pairs(self, links: Iterable[Link]) -> None:
        seen = {link.pair: link.state is LinkState.LINKED for link in links}
        for pair in self._known.keys() - seen.keys():
            self._up.remove(*pair)
        for pair, is_up in seen.items():
            if self._known.get(pair) is not is_up:
                self._up.labels(*pair).set(is_up)
        self._known = seen


def _code(outcome: Outcome) -> str:
    if isinstance(outcome, Unknown):
        return "unknown"
    if not outcome.code:
        return "none"
    return outcome.code if outcome.code in STATUS_CODES else OTHER
