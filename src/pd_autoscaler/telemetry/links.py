"""Metrics of the mesh: links by state, the requests that make and cut them, how each try ends."""

from collections import Counter as Tally

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pd_autoscaler.datadist.status import STATUS_CODES
from pd_autoscaler.model.decision import Hold, HoldReason, Mode
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.plan import Action, LinkNodes, Peer, UnlinkNodes
from pd_autoscaler.model.report import Done, Outcome, Report, Unknown
from pd_autoscaler.telemetry.series import OTHER, begin

VERBS = ("link", "unlink", "force_unlink")
CODES = (*STATUS_CODES, "none", "unknown", OTHER)
"""Native codes; `none` where no call was made, `unknown` where a deadline passed."""

# Close together where links take their time: a quantile is interpolated between two bounds.
_FAST_S = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4)
_BUCKETS_S = (*_FAST_S, 0.5, 0.6, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 60.0)
_BUCKETS_PAIRS = (1, 2, 4, 8, 12, 16)
_ACTING = frozenset({Mode.ACTIVE, Mode.PAUSED})


class Links:
    """The mesh: how many links in which state, what was asked for, and how each try ended."""

    def __init__(self, registry: CollectorRegistry) -> None:
        name = "pd_autoscaler_"
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
        self._batches = Counter(
            f"{name}link_batches_total",
            "Requests to link or unlink one node's peers, in plans that were acted on.",
            ["verb"],
            registry=registry,
        )
        self._batch_pairs = Histogram(
            f"{name}link_batch_pairs",
            "Pairs in each link request, in plans that were acted on.",
            buckets=_BUCKETS_PAIRS,
            registry=registry,
        )
        begin(self._states, LinkState)
        begin(self._batches, VERBS)
        for code in CODES:
            for verb in VERBS:
                self._attempts.labels(code, verb)

    def take(self, report: Report) -> None:
        """Take in one report."""
        counts = Tally(link.state for link in report.links)
        for state in LinkState:
            self._states.labels(state.value).set(counts[state])
        if _is_acted_on(report):
            self._take_batches(report)
        for outcome in report.outcomes:
            self._take_attempt(outcome)

    def _take_batches(self, report: Report) -> None:
        for action in report.plan.actions:
            verb, peers = _asked(action)
            if verb:
                self._batches.labels(verb).inc()
            if verb == "link":
                self._batch_pairs.observe(len(peers))

    def _take_attempt(self, outcome: Outcome) -> None:
        verb, peers = _asked(outcome.action)
        if not verb:
            return
        self._attempts.labels(_code(outcome), verb).inc(len(peers))
        if verb == "link" and isinstance(outcome, Done):
            self._durations.observe(outcome.took_s)


def _asked(action: Action) -> tuple[str, tuple[Peer, ...]]:
    """Return what is asked of a node's links, and to which peers; no verb if nothing is."""
    match action:
        case LinkNodes(prompts=peers):
            return "link", peers
        case UnlinkNodes(peers=peers, force=force):
            return "force_unlink" if force else "unlink", peers
        case _:
            return "", ()


def _is_acted_on(report: Report) -> bool:
    """Whether the plan's actions were begun, as far as a report tells.

    Nothing is begun in advisory or stopped mode, without an epoch, or without a journal.
    """
    decision = report.decision
    is_unwritten = isinstance(decision, Hold) and decision.reason is HoldReason.JOURNAL_FAILED
    return report.mode in _ACTING and report.epoch > 0 and not is_unwritten


def _code(outcome: Outcome) -> str:
    if isinstance(outcome, Unknown):
        return "unknown"
    if not outcome.code:
        return "none"
    return outcome.code if outcome.code in STATUS_CODES else OTHER
