"""State: everything that moves, as arrays that compiled code and plain Python both read."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pd_autoscaler.sim.fleet.requests import fifo, tree
from pd_autoscaler.sim.fleet.requests.jit import SOURCES

Records = np.recarray[Any, Any]

NOWHERE, PROMPT, DECODER = 0, 1, 2
"""A slot's role; `NOWHERE` is a slot without a node."""

WAITING, ACTIVE, PULLING, PULLED = 0, 1, 2, 3
"""The lists of a node: its queue; its batch; whose KV is on its way; who joins at the next step."""

ROUTER, UNSENT = 0, 1
"""The fleet's lists: without a prompt node to go to; computed, without a decoder to go to."""

NODE_LISTS, FLEET_LISTS = 4, 2

TTFT, QUEUE_TIME, TPOT, INPUT_LEN, OUTPUT_LEN = 0, 1, 2, 3, 4
"""The histograms of a node."""

HISTOGRAMS = 5

REQUEST = np.dtype(
    [
        ("at_s", "f8"),
        ("first_token_s", "f8"),
        ("done_s", "f8"),
        ("since_s", "f8"),  # Came to the decoder; then: its pull ends.
        ("input_tokens", "i4"),
        ("output_tokens", "i4"),
        ("cached_tokens", "i4"),
        ("computed", "i4"),  # Uncached input tokens that are done, in whole chunks.
        ("generated", "i4"),  # Output tokens there were at the last preemption.
        ("last_step", "i4"),  # The decoder's step that makes the last token.
        ("following", "i4"),
        ("preceding", "i4"),
        ("prompt", "i4"),
        ("decoder", "i4"),
    ],
    align=True,
)
"""One request, by its number in order of arrival: 80 bytes."""

NODE = np.dtype(
    [
        ("role", "i8"),
        ("is_published", "i8"),
        ("table", "i8"),
        ("table_points", "i8"),
        ("prefill_tokens_max", "i8"),
        ("prefill_attention_s", "f8"),
        ("decode_base_s", "f8"),
        ("decode_per_request_s", "f8"),
        ("decode_per_token_s", "f8"),
        ("batch_max", "i8"),
        ("kv_tokens", "i8"),
        ("kv_bytes_per_token", "f8"),
        ("pull_bytes_per_s", "f8"),
        ("load", "i8"),  # What the router weighs: uncached tokens, or KV tokens asked for.
        ("picked", "i8"),  # The router's count when it last picked this node.
        ("nic_free_s", "f8"),
        # A prompt node.
        ("batch_ends_s", "f8"),  # Infinite while idle.
        ("batch_tokens", "i8"),
        ("kv_held", "i8"),
        ("unpulled", "i8"),
        # A decoder: its batch has been the same since `begun_s`, `steps` steps after it came.
        ("begun_s", "f8"),
        ("step_s", "f8"),  # The first step of this batch,
        ("growth_s", "f8"),  # and by how much each one is longer than the one before.
        ("steps", "i8"),
        ("context", "i8"),  # KV tokens of the batch at `begun_s`,
        ("coming", "i8"),  # and of what is pulling or pulled.
        ("joins_after", "i8"),  # Steps from `begun_s` to when what is pulled joins; 0: nothing is.
        ("due_after", "i8"),  # Steps from `begun_s` to the next change of the batch.
        ("due_s", "f8"),
        # Counters.
        ("requests_received", "i8"),
        ("requests_finished", "i8"),
        ("prompt_tokens", "i8"),
        ("prompt_tokens_cached", "i8"),
        ("generation_tokens", "i8"),
        ("preemptions", "i8"),
        ("transfer_failures", "i8"),
    ]
)

FLEET = np.dtype(
    [
        ("arrived", "i8"),
        ("offered", "i8"),
        ("picks", "i8"),
        ("finished", "i8"),
        ("failed", "i8"),
        ("dropped", "i8"),
        ("preemptions", "i8"),
        ("transfer_failures", "i8"),
        ("patience_s", "f8"),
        ("is_chunked", "i8"),
        (f"sources_{SOURCES}", "i8"),  # See `jit.SOURCES`.
    ]
)

NEVER = math.inf


class State(NamedTuple):
    """The arrays of one fleet; a slot is a row of `nodes`, a request a row of `requests`."""

    fleet: Records
    nodes: Records
    requests: Records
    lists: Records
    events: Records
    prompts: Records
    decoders: Records
    lasts: NDArray[np.int64]
    tables: NDArray[np.float64]
    cuts: NDArray[np.uint8]
    bounds: NDArray[np.float64]
    counts: NDArray[np.int64]
    sums: NDArray[np.float64]


def row(rows: Records, at: int) -> tuple[Any, ...]:
    """Return one record as plain numbers, past numpy's own way there, which takes far longer."""
    found: tuple[Any, ...] = np.ndarray.__getitem__(rows, at).item()
    return found


def records(dtype: np.dtype[Any], length: int) -> Records:
    """Return so many records of zeros."""
    return np.zeros(length, dtype).view(np.recarray)


def empty(slots: int, *, bounds: NDArray[np.float64], patience_s: float, is_chunked: bool) -> State:
    """Return a fleet without nodes and requests."""
    fleet = records(FLEET, 1)
    fleet[0].patience_s = patience_s
    fleet[0].is_chunked = int(is_chunked)
    return State(
        fleet=fleet,
        nodes=records(NODE, slots),
        requests=records(REQUEST, 0),
        lists=fifo.lists(FLEET_LISTS + NODE_LISTS * slots),
        events=tree.tree(slots),
        prompts=tree.tree(slots),
        decoders=tree.tree(slots),
        lasts=np.zeros((slots, 1), np.int64),
        tables=np.zeros((0, 0, 2), np.float64),
        cuts=np.zeros((slots, slots), np.uint8),
        bounds=bounds,
        counts=np.zeros((slots, HISTOGRAMS, bounds.shape[1] + 1), np.int64),
        sums=np.zeros((slots, HISTOGRAMS), np.float64),
    )


def with_slots(state: State, slots: int) -> State:
    """Return the state with room for more nodes."""
    before = len(state.nodes)
    nodes, lists = records(NODE, slots), fifo.lists(FLEET_LISTS + NODE_LISTS * slots)
    nodes[:before], lists[: len(state.lists)] = state.nodes, state.lists
    more = slots - before
    return state._replace(
        nodes=nodes,
        lists=lists,
        events=tree.grown(state.events, slots),
        prompts=tree.grown(state.prompts, slots),
        decoders=tree.grown(state.decoders, slots),
        lasts=np.pad(state.lasts, ((0, more), (0, 0))),
        cuts=np.pad(state.cuts, ((0, more), (0, more))),
        counts=np.pad(state.counts, ((0, more), (0, 0), (0, 0))),
        sums=np.pad(state.sums, ((0, more), (0, 0))),
    )


def with_batches(state: State, batch_max: int) -> State:
    """Return the state with room for batches of this size."""
    more = batch_max - state.lasts.shape[1]
    return state if more <= 0 else state._replace(lasts=np.pad(state.lasts, ((0, 0), (0, more))))


def with_table(state: State, points: NDArray[np.float64]) -> State:
    """Return the state with one more prefill table; a shorter one than the longest is padded."""
    known, longest, _ = state.tables.shape
    length = max(longest, len(points))
    tables = np.zeros((known + 1, length, 2), np.float64)
    tables[:known, :longest] = state.tables
    tables[known, : len(points)] = points
    return state._replace(tables=tables)
