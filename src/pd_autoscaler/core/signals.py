"""Signals: what the readings so far say about nodes and roles, and how old that is."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pd_autoscaler.core.aggregates import Over
from pd_autoscaler.core.freshness import Source, source_of, word_of
from pd_autoscaler.core.rates import arrival_rate, token_rate
from pd_autoscaler.core.windows import NO_PAGES, History
from pd_autoscaler.model.facts import Facts
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, Reading, RoleSignals, Signal

Key = tuple[str, str, Role]
"""Node id, incarnation and role: a new process or a new role begins a new history."""

_VALUE_MAX = 1e18
"""No engine counts so far."""

_WORD_SPACING_S = 5.0
"""Agents are read on every poke: closer words would only crowd out the older ones of a mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """The memory behind the signals: `keep_s` seconds of pages, and of agents' words, per node.

    They are kept apart: agents are read more often than pages and have no counters, so that mixed
    into one history they would outweigh the pages in every mean. Where `pages_needed` a word alone
    does not make a node fresh: it knows nothing of latencies.
    """

    keep_s: float = 300.0
    pages_needed: bool = True
    histories: Mapping[Key, History] = field(default_factory=dict)
    words: Mapping[Key, History] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)

    def sources(
        self, nodes: Iterable[Node], *, now_s: float, age_max_s: float, window_s: float
    ) -> list[Source]:
        """Return what each node's signals are read from at this moment, over this window.

        Raises ValueError if the memory is shorter than the window.
        """
        if window_s > self.keep_s:
            raise ValueError(f"window of {window_s:g} s over a memory of {self.keep_s:g} s")
        return [
            source_of(
                node,
                self.histories.get(key_of(node), NO_PAGES).over(now_s=now_s, window_s=window_s),
                self.words.get(key_of(node), NO_PAGES).over(now_s=now_s, window_s=window_s),
                now_s=now_s,
                age_max_s=age_max_s,
                pages_needed=self.pages_needed,
                unread=self.unread.get(node.id, ""),
            )
            for node in nodes
        ]


def key_of(node: Node) -> Key:
    """Return under which key a node's history is kept."""
    return (node.id, node.incarnation, node.role)


def observed(memory: Signals, facts: Facts, nodes: Sequence[Node]) -> Signals:
    """Return the memory with this observation's readings, and without nodes that are no more."""
    histories: dict[Key, History] = {}
    words: dict[Key, History] = {}
    unread = dict(facts.unread)
    for node in nodes:
        key = key_of(node)
        page = _sane(facts.readings.get(node.id), facts.now_s)
        histories[key] = memory.histories.get(key, NO_PAGES)
        if page is not None:
            if lost := histories[key].lost(page):
                unread[node.id] = lost
            else:
                histories[key] = histories[key].added(page, keep_s=memory.keep_s)
        word = _sane(word_of(facts.agents.get(node.id)), facts.now_s)
        words[key] = memory.words.get(key, NO_PAGES)
        if word is not None:
            words[key] = words[key].added(word, keep_s=memory.keep_s, spacing_s=_WORD_SPACING_S)
    return replace(memory, histories=histories, words=words, unread=unread)


def node_signals(memory: Signals, sources: Iterable[Source]) -> dict[str, NodeSignals]:
    """Return every node's newest values and its token rate; of a node in doubt, the doubt alone."""
    return {source.node.id: _of_node(source, keep_s=memory.keep_s) for source in sources}


def role_signals(memory: Signals, sources: Iterable[Source], role: Role) -> RoleSignals:
    """Return a role's signals over its serving nodes that are fresh; `sources` are of all nodes.

    Gauges are means over the window (`kv_used_max` is the highest value any node had in it), rates
    and quantiles are of what happened in the window.
    """
    serving = _serving(sources, role)
    over = Over([source for source in serving if not source.doubt])
    ttft = over.ttft_p95_s()
    return RoleSignals(
        serving=len(serving),
        fresh=len(over.sources),
        untold=over.untold(role) if memory.pages_needed else frozenset(),
        queue=over.total("waiting"),
        queue_time_p95_s=over.queue_time_p95_s(ttft),
        ttft_p95_s=ttft,
        tpot_p95_s=over.p95("tpot_s"),
        running=over.total("running"),
        transfer_wait=over.total("waiting_deferred"),
        kv_export_backlog=over.total("kv_export_backlog") if role is Role.PROMPT else None,
        kv_used_mean=over.mean("kv_used"),
        kv_used_max=over.highest("kv_used"),
        token_rate=over.rates(lambda view: token_rate(view, role, keep_s=memory.keep_s)),
        arrival_rate=over.rates(arrival_rate),
        preempt_rate=over.rate("preemptions"),
        transfer_failure_rate=over.rate("transfer_failures"),
        kv_expired_rate=over.rate("kv_expired"),
        uncached_share=over.share("prompt_tokens", "prompt_tokens_cached"),
        input_len=over.mean_observed("input_len"),
        input_len_sq=over.mean_square("input_len"),
        output_len=over.mean_observed("output_len"),
        output_len_sq=over.mean_square("output_len"),
    )


def held_tokens(sources: Iterable[Source]) -> Signal | None:
    """Return the tokens of KV that all fresh serving decoders hold, None if none of them says.

    Where only some say how much they have room for it is a lower bound.
    """
    fresh = [source for source in _serving(sources, Role.DECODER) if not source.doubt]
    known = []
    for source in fresh:
        used = source.mean("kv_used")
        room = source.newest("cache_tokens")
        if used is not None and room is not None:
            held, age_s = used
            known.append((held * room.value, age_s))
    if not known:
        return None
    tokens, ages_s = zip(*known, strict=True)
    return Signal(
        math.fsum(tokens), max(ages_s), is_lower_bound=len(known) < len(fresh), nodes=len(known)
    )


def _serving(sources: Iterable[Source], role: Role) -> list[Source]:
    return [s for s in sources if s.node.role is role and s.node.state is NodeState.SERVING]


def _of_node(source: Source, *, keep_s: float) -> NodeSignals:
    node = source.node
    if source.doubt:
        return NodeSignals(
            node_id=node.id, engine=source.engine, age_s=source.age_s, doubt=source.doubt
        )

    gauge = source.newest
    rate = token_rate(source.pages, node.role, keep_s=keep_s)
    return NodeSignals(
        node_id=node.id,
        engine=source.engine,
        age_s=source.age_s,
        is_fresh=True,
        queue=gauge("waiting"),
        transfer_wait=gauge("waiting_deferred"),
        running=gauge("running"),
        kv_used=gauge("kv_used"),
        kv_export_backlog=gauge("kv_export_backlog") if node.role is Role.PROMPT else None,
        token_rate=None if rate is None else Signal(rate, source.age_s or 0.0),
    )


def _are_sane(values: Mapping[str, float]) -> bool:
    for value in values.values():  # noqa: SIM110  # A generator takes three times as long.
        if not 0 <= value < _VALUE_MAX:
            return False
    return True


def _sane(reading: Reading | None, now_s: float) -> Reading | None:
    """Leave out what no engine can mean, and no page is from later than it was read.

    Numbers that cannot be added up would end a cycle, and with it the daemon. One NaN would stay in
    a counter's total for ever, and one page from the future would keep all later ones out.
    """
    if reading is None:
        return None
    if reading.at_s <= now_s and _are_sane(reading.gauges) and _are_sane(reading.counters):
        return reading
    gauges, counters = (
        {name: value for name, value in values.items() if 0 <= value < _VALUE_MAX}
        for values in (reading.gauges, reading.counters)
    )
    return replace(reading, at_s=min(reading.at_s, now_s), gauges=gauges, counters=counters)
