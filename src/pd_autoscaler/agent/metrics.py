"""The agent's metrics, on a registry that was handed in."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pd_autoscaler.agent.native_calls import NativeCalls
from pd_autoscaler.agent.table import (
    CALL_IN_PROGRESS,
    DEADLINE,
    LATE_SUCCESS,
    NO_ADDRESS,
    NOT_BEGUN,
    LinkTable,
)
from pd_autoscaler.datadist.status import STATUS_CODES
from pd_autoscaler.model.facts import EntryState

_CODES = frozenset(STATUS_CODES) | {
    CALL_IN_PROGRESS,
    DEADLINE,
    LATE_SUCCESS,
    NO_ADDRESS,
    NOT_BEGUN,
}
# A link takes milliseconds on one machine and up to its time-out, 60 s in the longest known use.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class AgentMetrics:
    """Calls by verb and code, their durations, and what is inside the library now.

    Labels come from closed sets: a status code that is not in the table counts as `other`.
    """

    def __init__(self, registry: CollectorRegistry, calls: NativeCalls, table: LinkTable) -> None:
        self.registry = registry
        self._attempts = Counter(
            "pd_autoscaler_agent_link_attempts",
            "Link and unlink answers given, by verb and status code.",
            ["verb", "code"],
            registry=registry,
        )
        self._late = Counter(
            "pd_autoscaler_agent_late_calls",
            "Calls that returned after their deadline, by verb and status code.",
            ["verb", "code"],
            registry=registry,
        )
        self._transfers = Counter(
            "pd_autoscaler_agent_transfer_failures",
            "Pulls and pushes that the engine said had failed, by status code.",
            ["code"],
            registry=registry,
        )
        self._seconds = Histogram(
            "pd_autoscaler_agent_call_seconds",
            "How long link and unlink calls took; a hung one is not in it.",
            ["verb"],
            buckets=_BUCKETS,
            registry=registry,
        )
        in_flight = Gauge(
            "pd_autoscaler_agent_calls_in_flight",
            "Native calls before their deadline.",
            registry=registry,
        )
        in_flight.set_function(lambda: calls.in_flight)
        hung = Gauge(
            "pd_autoscaler_agent_calls_hung",
            "Native calls past their deadline and still inside the library.",
            registry=registry,
        )
        hung.set_function(lambda: len(calls.hung))
        links = Gauge(
            "pd_autoscaler_agent_links",
            "Rows of the link table, by state.",
            ["state"],
            registry=registry,
        )
        for state in EntryState:
            links.labels(state=state.value).set_function(partial(table.count, state))

    def answered(self, verb: str, code: str) -> None:
        """Count an answer that was given in time."""
        self._attempts.labels(verb=verb, code=_label(code)).inc()

    def took(self, verb: str, seconds: float) -> None:
        """Note how long a call took that returned in time."""
        self._seconds.labels(verb=verb).observe(seconds)

    def ended_late(self, verb: str, code: str) -> None:
        """Count a hung call that returned after all."""
        self._late.labels(verb=verb, code=_label(code)).inc()

    def transfer_failed(self, code: str) -> None:
        """Count a transfer of the engine that failed."""
        self._transfers.labels(code=_label(code)).inc()


def _label(code: str) -> str:
    return code if code in _CODES else "other"
