"""Signals: what the readings so far say about nodes and roles, and how old that is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pd_autoscaler.core.windows import History, Page, Span, merged, quantile
from pd_autoscaler.model.facts import Facts
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, RoleSignals, Signal

Key = tuple[str, str, Role]
"""Node id, incarnation and role: a new process or a new role begins a new history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """The memory behind the signals: recent pages per node, `keep_s` seconds of them."""

    keep_s: float = 300.0
    histories: Mapping[Key, History] = field(default_factory=dict)


def observed(memory: Signals, facts: Facts, nodes: Sequence[Node]) -> Signals:
    """Return the memory with this observation's readings, and without nodes that are no more."""
    histories: dict[Key, History] = {}
    for node in nodes:
        history = memory.histories.get(_key(node), History())
        reading = facts.readings.get(node.id)
        if reading is not None:
            history = history.added(reading, keep_s=memory.keep_s)
        histories[_key(node)] = history
    return replace(memory, histories=histories)


def node_signals(
    memory: Signals, nodes: Sequence[Node], *, now_s: float, age_max_s: float
) -> dict[str, NodeSignals]:
    """Return every node's newest values; those of a node that is not fresh are unknown.

    Fresh is a page no older than `age_max_s` that is not frozen: an engine whose inner query fails
    goes on to export its last values, so a page with work on it that has not changed in any number
    for `age_max_s` is not believed.
    """
    return {node.id: _of_node(memory, node, now_s=now_s, age_max_s=age_max_s) for node in nodes}


def role_signals(
    memory: Signals,
    nodes: Sequence[Node],
    role: Role,
    *,
    now_s: float,
    window_s: float,
    age_max_s: float,
) -> RoleSignals:
    """Return a role's signals over its serving nodes that are fresh.

    Gauges are means over the window (`kv_used_max` is the highest value any node had in it), rates
    and quantiles are of what happened in the window. A signal is as old as the oldest of the newest
    pages behind it. Raises ValueError if the memory is shorter than the window.
    """
    if window_s > memory.keep_s:
        raise ValueError(f"window of {window_s:g} s over a memory of {memory.keep_s:g} s")
    serving = [node for node in nodes if node.role is role and node.state is NodeState.SERVING]
    fresh = [
        history
        for node in serving
        if (history := memory.histories.get(_key(node))) is not None
        and _is_fresh(history, now_s=now_s, age_max_s=age_max_s)
    ]
    over = _Over(fresh, now_s, window_s)
    tokens = "prompt_tokens" if role is Role.PROMPT else "generation_tokens"
    return RoleSignals(
        serving=len(serving),
        fresh=len(fresh),
        queue=over.each(lambda h: h.mean("waiting", now_s=now_s, window_s=window_s), sum),
        queue_time_p95_s=over.p95("queue_time_s"),
        ttft_p95_s=over.p95("ttft_s"),
        tpot_p95_s=over.p95("tpot_s"),
        running=over.each(lambda h: h.mean("running", now_s=now_s, window_s=window_s), sum),
        transfer_wait=over.each(
            lambda h: h.mean("waiting_deferred", now_s=now_s, window_s=window_s), sum
        ),
        kv_used_mean=over.each(lambda h: h.mean("kv_used", now_s=now_s, window_s=window_s), _mean),
        kv_used_max=over.each(lambda h: h.highest("kv_used", now_s=now_s, window_s=window_s), max),
        token_rate=over.rate(tokens),
        arrival_rate=over.each(lambda h: arrival_rate(h, now_s=now_s, window_s=window_s), sum),
        preempt_rate=over.rate("preemptions"),
        transfer_failure_rate=over.rate("transfer_failures"),
        input_len=over.mean_observation("input_len"),
        output_len=over.mean_observation("output_len"),
    )


def arrival_rate(history: History, *, now_s: float, window_s: float) -> float | None:
    """Return requests per second where they enter, None if that is unknown.

    Entered is finished plus the change of what is inside: under back-pressure completions alone
    say that the cluster is big enough.
    """
    ends = history.ends(
        lambda page: "requests_finished" in page.counters and _inside(page) is not None,
        now_s=now_s,
        window_s=window_s,
    )
    if ends is None:
        return None
    first, last = ends
    finished = last.counters["requests_finished"] - first.counters["requests_finished"]
    entered = finished + (_inside(last) or 0.0) - (_inside(first) or 0.0)
    return max(0.0, entered) / (last.at_s - first.at_s)


def _inside(page: Page) -> float | None:
    waiting, running = page.gauges.get("waiting"), page.gauges.get("running")
    if waiting is None or running is None:
        return None
    return waiting + running + page.gauges.get("waiting_deferred", 0.0)


def _key(node: Node) -> Key:
    return (node.id, node.incarnation, node.role)


def _is_fresh(history: History, *, now_s: float, age_max_s: float) -> bool:
    page = history.newest
    if page is None or now_s - page.at_s > age_max_s:
        return False
    # A page without counters has nothing that must move.
    is_frozen = (
        bool(page.counters) and bool(_inside(page)) and page.at_s - history.moved_at_s > age_max_s
    )
    return not is_frozen


def _of_node(memory: Signals, node: Node, *, now_s: float, age_max_s: float) -> NodeSignals:
    history = memory.histories.get(_key(node), History())
    page = history.newest
    if page is None:
        return NodeSignals(node_id=node.id)
    age_s = max(0.0, now_s - page.at_s)
    if not _is_fresh(history, now_s=now_s, age_max_s=age_max_s):
        return NodeSignals(node_id=node.id, age_s=age_s)

    def gauge(name: str) -> Signal | None:
        value = page.gauges.get(name)
        return None if value is None else Signal(value, age_s)

    return NodeSignals(
        node_id=node.id,
        age_s=age_s,
        is_fresh=True,
        queue=gauge("waiting"),
        transfer_wait=gauge("waiting_deferred"),
        running=gauge("running"),
        kv_used=gauge("kv_used"),
    )


@dataclass(frozen=True, slots=True)
class _Over:
    """Aggregates over the fresh histories of one role."""

    histories: Sequence[History]
    now_s: float
    window_s: float

    def each(
        self,
        value_of: Callable[[History], float | None],
        combined: Callable[[list[float]], float],
    ) -> Signal | None:
        known = [(h, value) for h in self.histories if (value := value_of(h)) is not None]
        if not known:
            return None
        return Signal(combined([value for _, value in known]), self._age_s(h for h, _ in known))

    def rate(self, name: str) -> Signal | None:
        return self.each(lambda h: h.rate(name, now_s=self.now_s, window_s=self.window_s), sum)

    def p95(self, name: str) -> Signal | None:
        known = [
            (h, buckets)
            for h in self.histories
            if (buckets := h.observations(name, now_s=self.now_s, window_s=self.window_s))
            is not None
        ]
        whole = merged(buckets for _, buckets in known)
        found = None if whole is None else quantile(whole, 0.95)
        if found is None:
            return None
        return Signal(found.value, self._age_s(h for h, _ in known), found.is_lower_bound)

    def mean_observation(self, name: str) -> Signal | None:
        """Sum over count of what was observed in the window, None if nothing was."""

        def grown(history: History, suffix: str) -> Span | None:
            return history.grown(f"{name}{suffix}", now_s=self.now_s, window_s=self.window_s)

        spans = [
            (h, total.delta, count.delta)
            for h in self.histories
            if (total := grown(h, "_sum")) is not None and (count := grown(h, "_count")) is not None
        ]
        observations = sum(count for _, _, count in spans)
        if observations <= 0:
            return None
        value = sum(total for _, total, _ in spans) / observations
        return Signal(value, self._age_s(h for h, _, _ in spans))

    def _age_s(self, histories: Iterable[History]) -> float:
        oldest = min((h.newest.at_s for h in histories if h.newest), default=self.now_s)
        return max(0.0, self.now_s - oldest)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
