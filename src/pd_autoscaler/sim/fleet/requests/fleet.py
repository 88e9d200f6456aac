"""The request-level model of a PD cluster's engines, from event to event."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Reading
from pd_autoscaler.sim.fleet.requests import pages
from pd_autoscaler.sim.fleet.requests.advance import ADVANCE, REMOVE, WEIGH, act
from pd_autoscaler.sim.fleet.requests.bounds import BOUNDS, NAMES, table_of
from pd_autoscaler.sim.fleet.requests.jit import plain
from pd_autoscaler.sim.fleet.requests.pages import NodeLoad
from pd_autoscaler.sim.fleet.requests.state import (
    DECODER,
    NEVER,
    NODE,
    NOWHERE,
    PROMPT,
    REQUEST,
    State,
    empty,
    records,
    with_batches,
    with_slots,
    with_table,
)
from pd_autoscaler.workload.arrivals import Arrivals

Floats = NDArray[np.float64]

_ROLES = {Role.PROMPT: PROMPT, Role.DECODER: DECODER}

_REQUESTS_MAX = 1 << 31
"""Requests are numbered in 32 bits."""

_FROM_PROFILE = (
    "prefill_tokens_max",
    "decode_base_s",
    "decode_per_request_s",
    "decode_per_token_s",
    "batch_max",
    "kv_tokens",
    "kv_bytes_per_token",
    "pull_bytes_per_s",
)


_COUNTERS = (
    "requests_received",
    "requests_finished",
    "prompt_tokens",
    "prompt_tokens_cached",
    "generation_tokens",
    "preemptions",
    "transfer_failures",
)


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts over a whole fleet since it began.

    `dropped` lost patience, `failed` were lost with a node or over a pair that was not linked.
    """

    arrived: int
    finished: int
    failed: int
    dropped: int
    preemptions: int
    transfer_failures: int


class RequestFleet:
    """Engines of both roles, the requests on their way through them, and a router before them.

    The router sends a request to the published prompt node with the least uncached tokens waiting
    and in its batch, and once computed to the published decoder of which the least KV was asked
    (input tokens of what is there: all that a router knows); of equals to the one picked longest
    ago. Nodes are slots, numbers that are used again. `patience_s` is how long a request waits for
    its first prompt batch; with `is_chunked` prompts are computed in chunks of
    `prefill_tokens_max`. `bounds` are those of the histograms, by canonical name. With
    `is_compiled` false the same code runs as plain Python. The clock begins at 0 and is moved by
    `advance` alone.
    """

    def __init__(
        self,
        profile: EngineProfile,
        *,
        nodes_max_hint: int = 64,
        patience_s: float = math.inf,
        is_chunked: bool = False,
        is_compiled: bool = True,
        bounds: Mapping[str, tuple[float, ...]] = BOUNDS,
    ) -> None:
        self._profile = profile
        table = table_of(bounds)
        self._bounds = {name: (*bounds[name], float("inf")) for name in NAMES}
        self._state = empty(
            max(nodes_max_hint, 2),
            bounds=table,
            patience_s=patience_s,
            is_chunked=is_chunked,
        )
        self._act: Callable[[State, int, int, float], None] = act if is_compiled else plain(act)
        self._tables: dict[object, int] = {}
        self._now_s = 0.0
        # Nothing is due and no load has changed since then, unless something was done to the fleet.
        self._settled_s = -math.inf
        self._looks: dict[int, pages.Look] = {}
        self._last_arrival_s = 0.0
        self._offered = 0

    @property
    def now_s(self) -> float:
        """The time up to which everything has happened."""
        return self._now_s

    def add(self, role: Role, profile: EngineProfile | None = None) -> int:
        """Add an empty node that is not published, linked to all others; return its slot."""
        profile = profile or self._profile
        free = np.flatnonzero(self._state.nodes.role == NOWHERE)
        if not len(free):
            slot = len(self._state.nodes)
            self._state = with_slots(self._state, 2 * slot)
        else:
            slot = int(free[0])
        self._state = with_batches(self._state, profile.batch_max)
        node = records(NODE, 1)[0]
        for name in _FROM_PROFILE:
            setattr(node, name, getattr(profile, name))
        if node.decode_base_s + node.decode_per_request_s + node.decode_per_token_s <= 0:
            raise ConfigError(f"engine profile {profile.name}: a decode step must take time")
        node.prefill_attention_s = profile.prefill_attention_s
        node.table, node.table_points = self._table_of(profile), len(profile.prefill_points)
        node.role = _ROLES[role]
        node.batch_ends_s = node.due_s = NEVER
        self._state.nodes[slot] = node
        self._state.cuts[slot, :] = self._state.cuts[:, slot] = 0
        self.reset_counters(slot)
        return slot

    def _table_of(self, profile: EngineProfile) -> int:
        if profile.prefill_points not in self._tables:
            self._tables[profile.prefill_points] = len(self._tables)
            points = np.array(profile.prefill_points, np.float64)
            self._state = with_table(self._state, points)
        return self._tables[profile.prefill_points]

    def publish(self, slot: int) -> None:
        """Have the router send to a node from now on, first of all what waits for one."""
        self._there(slot).is_published = 1
        self._do(WEIGH, slot)

    def withdraw(self, slot: int) -> None:
        """Send a node nothing new; what it has goes on."""
        self._there(slot).is_published = 0
        self._do(WEIGH, slot)

    def remove(self, slot: int) -> None:
        """End a node's process: every request that is on it, or whose KV is only there, fails.

        What a decoder was pulling from it counts as a transfer failure there. What was booked on
        the other network card stays booked.
        """
        self._there(slot)
        self._do(REMOVE, slot)

    def take_role(self, slot: int, role: Role) -> None:
        """Let an empty node have a role from now on, unpublished; its counters go on.

        Raises ConfigError if anything is on it.
        """
        node = self._there(slot)
        if self.load(slot).in_flight:
            raise ConfigError(f"slot {slot} takes no role: requests are on it")
        self.withdraw(slot)
        node.role = _ROLES[role]
        node.load = 0
        self._stir()

    def set_linked(self, decoder_slot: int, prompt_slot: int, is_linked: bool) -> None:
        """Say whether a decoder can pull from a prompt node; a pull that cannot begin fails."""
        self._there(decoder_slot)
        self._there(prompt_slot)
        self._state.cuts[decoder_slot, prompt_slot] = not is_linked
        self._stir()

    def offer(self, arrivals: Arrivals) -> None:
        """Append arrivals; their times are the fleet's, and none is before an earlier one.

        Raises ConfigError for arrivals that are too late, or too many.
        """
        count = len(arrivals)
        if not count:
            return
        if arrivals.at_s[0] < max(self._last_arrival_s, self._now_s):
            raise ConfigError("arrivals must not come before what was offered, or has happened")
        known = self._offered + count
        if known > _REQUESTS_MAX:
            raise ConfigError(f"a fleet takes {_REQUESTS_MAX} requests at most")
        if known > len(self._state.requests):
            longer = records(REQUEST, max(known, len(self._state.requests) * 3 // 2))
            longer[: self._offered] = self._state.requests[: self._offered]
            self._state = self._state._replace(requests=longer)
        rows: Any = self._state.requests[self._offered : known]
        rows.at_s = arrivals.at_s
        rows.input_tokens, rows.output_tokens = arrivals.input_tokens, arrivals.output_tokens
        rows.cached_tokens = arrivals.cached_tokens
        rows.first_token_s = rows.done_s = math.nan
        rows.prompt = rows.decoder = -1
        self._offered = known
        self._stir()
        self._state.fleet[0].offered = known
        self._last_arrival_s = float(arrivals.at_s[-1])

    def advance(self, until_s: float) -> None:
        """Let everything happen that is due by then; a time that is past changes nothing."""
        self._now_s = max(self._now_s, until_s)
        if self._settled_s < self._now_s:
            self._do(ADVANCE)
            self._settled_s = self._now_s

    def _do(self, what: int, slot: int = 0) -> None:
        self._stir()
        self._act(self._state, what, slot, self._now_s)

    def _stir(self) -> None:
        """Forget what was true as long as nothing was done to the fleet."""
        self._settled_s = -math.inf
        self._looks.clear()

    def load(self, slot: int) -> NodeLoad:
        """Return what is on a node."""
        return self._look(slot).load

    def _look(self, slot: int) -> pages.Look:
        found = self._looks.get(slot)
        if found is None:
            found = self._looks[slot] = pages.look(self._state, slot, self._now_s)
        return found

    def reading(self, slot: int, node_id: str, now_s: float) -> Reading:
        """Return a node's page in canonical names, as of the fleet's clock; `at_s` is `now_s`."""
        page = pages.page(
            self._state,
            slot,
            seen=self._look(slot),
            bounds=self._bounds,
            now_s=self._now_s,
        )
        return Reading(
            node_id=node_id,
            at_s=now_s,
            engine="simulated",
            gauges=page.gauges,
            counters=page.counters,
            histograms=page.histograms,
        )

    def reset_counters(self, slot: int) -> None:
        """Begin every count of a node at zero again, as a restarted exporter does."""
        self._stir()
        node = self._there(slot)
        for name in _COUNTERS:
            setattr(node, name, 0)
        # What is generated since the batch last changed is added when it is read.
        node.generation_tokens = -pages.generated_since(self._state, slot, self._now_s)
        self._state.counts[slot] = 0
        self._state.sums[slot] = 0.0

    def _there(self, slot: int) -> Any:
        """Return a slot's node, or raise ConfigError if there is none."""
        if not 0 <= slot < len(self._state.nodes) or self._state.nodes[slot].role == NOWHERE:
            raise ConfigError(f"slot {slot} has no node")
        return self._state.nodes[slot]

    @property
    def first_token_s(self) -> Floats:
        """When each request offered so far had its first token from a decoder; NaN: not yet."""
        column = self._column("first_token_s")
        # The end of the step under way is known, and has not come.
        column[column > self._now_s] = math.nan
        return column

    @property
    def done_s(self) -> Floats:
        """When each request offered so far had its last token; NaN: not yet, or never."""
        return self._column("done_s")

    @property
    def prompt_slots(self) -> NDArray[np.int32]:
        """The slot of the prompt node that each request was sent to; -1: none yet."""
        return self._column("prompt")

    @property
    def decoder_slots(self) -> NDArray[np.int32]:
        """The slot of the decoder that each request was sent to; -1: none yet."""
        return self._column("decoder")

    def _column(self, name: str) -> NDArray[Any]:
        return self._state.requests.view(np.ndarray)[name][: self._offered].copy()

    @property
    def totals(self) -> Totals:
        """What happened to the requests so far, all nodes together, those that left included."""
        fleet = self._state.fleet[0]
        return Totals(**{field.name: int(fleet[field.name]) for field in fields(Totals)})

    @property
    def at_router(self) -> int:
        """Requests that wait for a prompt node to be published."""
        return int(self._state.lists[0].length)
