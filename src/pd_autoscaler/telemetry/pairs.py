"""Metrics of each pair: which links are wanted, which of them are up, what the rest need."""

from collections import Counter as Tally
from collections.abc import Mapping
from math import ceil

from prometheus_client import CollectorRegistry, Gauge

from pd_autoscaler.model.link import LinkState, Pair
from pd_autoscaler.model.node import NodeState
from pd_autoscaler.model.report import Report

WAVE_CALLS = 16
"""Link calls that one endpoint serves at a time (hicann/hixl, `llm_link_manager.cc`)."""

STATE_NUMBERS = {
    LinkState.ABSENT: 0,
    LinkState.LINKING: 1,
    LinkState.LINKED: 2,
    LinkState.UNLINKING: 3,
    LinkState.FAILED: 4,
    LinkState.SUSPECT: 5,
}
"""What `link_state` shows: a promise to whoever maps numbers to colours."""

_WANTED = frozenset({NodeState.LINKING, NodeState.SERVING})
_NUMBERED = ", ".join(f"{number} {state.value}" for state, number in STATE_NUMBERS.items())


class Pairs:
    """The pairs: how many are wanted and up, how far off the rest is, and, below a cap, each one.

    A pair is wanted while both of its nodes are linking or serving; draining keeps links alone.
    """

    def __init__(self, registry: CollectorRegistry, pairs_max: int) -> None:
        name = "pd_autoscaler_"
        self._pairs_max = pairs_max
        self._wanted = Gauge(
            f"{name}links_wanted",
            "Pairs whose nodes are both linking or serving: the mesh is complete if all are up.",
            registry=registry,
        )
        self._wanted_up = Gauge(
            f"{name}links_wanted_up", "Wanted pairs that are linked.", registry=registry
        )
        self._waves = Gauge(
            f"{name}link_waves",
            "Rounds of 16 calls that the wanted pairs not yet up need at the busiest node.",
            registry=registry,
        )
        self._up = _Each(
            Gauge(
                f"{name}link_up",
                "1 for a wanted pair that is linked, 0 for one that is not; absent if capped.",
                ["decoder", "prompt"],
                registry=registry,
            )
        )
        self._state = _Each(
            Gauge(
                f"{name}link_state",
                f"State of a pair, wanted or not: {_NUMBERED}; absent if capped.",
                ["decoder", "prompt"],
                registry=registry,
            )
        )
        self._capped = Gauge(
            f"{name}link_up_capped",
            "1 while there are too many pairs for series of their own.",
            registry=registry,
        )

    def take(self, report: Report) -> None:
        """Take in one report."""
        nodes = {node.id for node in report.snapshot.nodes if node.state in _WANTED}
        wanted = [link for link in report.links if link.decoder in nodes and link.prompt in nodes]
        down = [link for link in wanted if link.state is not LinkState.LINKED]
        self._wanted.set(len(wanted))
        self._wanted_up.set(len(wanted) - len(down))
        to_do = Tally(node_id for link in down for node_id in link.pair)
        self._waves.set(ceil(max(to_do.values(), default=0) / WAVE_CALLS))
        is_capped = len(report.links) > self._pairs_max
        self._capped.set(is_capped)
        shown, known = ((), ()) if is_capped else (wanted, report.links)
        self._up.become({link.pair: int(link.state is LinkState.LINKED) for link in shown})
        self._state.become({link.pair: STATE_NUMBERS[link.state] for link in known})


class _Each:
    """A gauge with a series for each pair that exists; touches only what changed."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._known: Mapping[Pair, int] = {}

    def become(self, values: Mapping[Pair, int]) -> None:
        """Have exactly these series, with these values."""
        for pair in self._known.keys() - values.keys():
            self._gauge.remove(*pair)
        for pair, value in values.items():
            if self._known.get(pair) != value:
                self._gauge.labels(*pair).set(value)
        self._known = values
