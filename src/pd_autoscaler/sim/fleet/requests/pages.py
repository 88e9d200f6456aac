"""Pages: what a node's engine would say of itself at this moment; looking changes nothing."""

from array import array
from collections import namedtuple
from collections.abc import Mapping
from itertools import accumulate, islice
from typing import Any, NamedTuple

import numpy as np

from pd_autoscaler.model.signals import Histogram
from pd_autoscaler.sim.fleet.requests.bounds import NAMES
from pd_autoscaler.sim.fleet.requests.jit import plain
from pd_autoscaler.sim.fleet.requests.state import (
    ACTIVE,
    FLEET_LISTS,
    INPUT_LEN,
    NODE,
    NODE_LISTS,
    OUTPUT_LEN,
    PROMPT,
    PULLED,
    PULLING,
    QUEUE_TIME,
    TPOT,
    TTFT,
    WAITING,
    State,
    row,
)
from pd_autoscaler.sim.fleet.requests.steps import taken

_COUNTERS = {
    True: ("requests_received", "requests_finished", "prompt_tokens", "prompt_tokens_cached"),
    False: ("requests_received", "requests_finished", "preemptions", "transfer_failures"),
}
_HISTOGRAMS = {
    True: (TTFT, QUEUE_TIME, INPUT_LEN),
    False: (QUEUE_TIME, TPOT, INPUT_LEN, OUTPUT_LEN),
}

# A record as plain numbers, at once: field by field costs ten times as much.
_Node: Any = namedtuple("_Node", NODE.names or ())  # type: ignore[misc]

_taken = plain(taken)


class NodeLoad(NamedTuple):
    """Requests on a node, by place, and its share of KV in use.

    `waiting` is the queue, `waiting_deferred` those whose KV is on its way or who join at the next
    step, `kv_unpulled` those computed here whose KV no decoder has yet.
    """

    waiting: int
    waiting_deferred: int
    running: int
    kv_unpulled: int
    kv_used: float

    @property
    def in_flight(self) -> int:
        """Everything on the node."""
        return self.waiting + self.waiting_deferred + self.running + self.kv_unpulled


class Look(NamedTuple):
    """A node's record as plain numbers, and what is on it."""

    node: Any
    load: NodeLoad


def look(state: State, slot: int, now_s: float) -> Look:
    """Look at a node, with the whole steps that it has taken by now."""
    node = _node(state, slot)
    return Look(node, _load(state, slot, node, now_s))


def _node(state: State, slot: int) -> Any:
    return _Node._make(row(state.nodes, slot))


def _load(state: State, slot: int, node: Any, now_s: float) -> NodeLoad:
    base = FLEET_LISTS + NODE_LISTS * slot
    lengths = np.ndarray.__getitem__(state.lists, "length")[base : base + NODE_LISTS].tolist()
    held = node.kv_held
    if node.role != PROMPT:
        held = node.context + node.coming + _tokens_since(node, lengths[ACTIVE], now_s)
    return NodeLoad(
        waiting=lengths[WAITING],
        waiting_deferred=lengths[PULLING] + lengths[PULLED],
        running=lengths[ACTIVE],
        kv_unpulled=node.unpulled,
        kv_used=min(held / node.kv_tokens, 1.0) if node.kv_tokens else 0.0,
    )


def _tokens_since(node: Any, running: int, now_s: float) -> int:
    """Return the tokens generated since the batch last changed."""
    return int(running * _taken(node, now_s)) if running else 0


def generated_since(state: State, slot: int, now_s: float) -> int:
    """Return the tokens that a node generated since its batch last changed."""
    node = _node(state, slot)
    if node.role == PROMPT:
        return 0
    running = int(state.lists[FLEET_LISTS + NODE_LISTS * slot + ACTIVE].length)
    return _tokens_since(node, running, now_s)


class Page(NamedTuple):
    """The parts of a `Reading`."""

    gauges: dict[str, float]
    counters: dict[str, float]
    histograms: dict[str, Histogram]


def page(
    state: State,
    slot: int,
    *,
    seen: Look,
    bounds: Mapping[str, tuple[float, ...]],
    now_s: float,
) -> Page:
    """Return a node's page in canonical names, as true at `now_s`, when it was `seen`.

    `bounds` are those of each histogram, with +Inf.
    """
    node, found = seen
    is_prompt = node.role == PROMPT
    gauges = {
        "waiting": float(found.waiting),
        "running": float(found.running),
        "kv_used": found.kv_used,
        "cache_tokens": float(node.kv_tokens),
    }
    counters = {name: float(getattr(node, name)) for name in _COUNTERS[is_prompt]}
    if is_prompt:
        gauges["kv_export_backlog"] = float(found.kv_unpulled)
    else:
        gauges["waiting_deferred"] = float(found.waiting_deferred)
        made = node.generation_tokens + _tokens_since(node, found.running, now_s)
        counters["generation_tokens"] = float(made)
    counts, sums = state.counts[slot].tolist(), state.sums[slot].tolist()
    histograms: dict[str, Histogram] = {}
    for which in _HISTOGRAMS[is_prompt]:
        name = NAMES[which]
        upto = array("d", islice(accumulate(counts[which]), len(bounds[name])))
        histograms[name] = Histogram(bounds[name], upto)
        counters[f"{name}_sum"], counters[f"{name}_count"] = sums[which], upto[-1]
    return Page(gauges, counters, histograms)
