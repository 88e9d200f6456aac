"""Prompt nodes: one batch at a time, first come, first served."""

from pd_autoscaler.sim.fleet.requests.fifo import pop, push
from pd_autoscaler.sim.fleet.requests.jit import inlined, jitted
from pd_autoscaler.sim.fleet.requests.state import (
    ACTIVE,
    FLEET_LISTS,
    NEVER,
    NODE_LISTS,
    PROMPT,
    QUEUE_TIME,
    WAITING,
    State,
)
from pd_autoscaler.sim.fleet.requests.tally import observe
from pd_autoscaler.sim.fleet.requests.tree import put

PROMPTS_AFTER = 1 << 32
"""Added to the tie of a prompt node's event, which so comes after the decoders' at one moment."""


@jitted
def weigh_prompt(state: State, slot: int) -> None:
    """Tell the router what waits at a prompt node."""
    node = state.nodes[slot]
    put(state.prompts, slot, float(node.load) if node.is_published else NEVER, node.picked)


@jitted
def prefill_s(state: State, slot: int, tokens: int, squares: float) -> float:
    """Seconds of a batch: `EngineProfile.prefill_s` of the node's profile."""
    node = state.nodes[slot]
    table, at = node.table, 1
    while at < node.table_points - 1 and state.tables[table, at, 0] < tokens:
        at += 1
    left, left_s = state.tables[table, at - 1, 0], state.tables[table, at - 1, 1]
    right, right_s = state.tables[table, at, 0], state.tables[table, at, 1]
    slope = (right_s - left_s) / (right - left)
    whole_s = max(left_s + slope * (tokens - left), 0.0)
    return float(whole_s + node.prefill_attention_s * squares)


@inlined
def begin_batch(state: State, slot: int, now_s: float) -> None:
    """Begin the next batch of a prompt node if it is idle and there is one."""
    node = state.nodes[slot]
    if node.role != PROMPT or node.batch_ends_s != NEVER:
        return
    waiting = FLEET_LISTS + NODE_LISTS * slot + WAITING
    active = FLEET_LISTS + NODE_LISTS * slot + ACTIVE
    is_chunked = state.fleet[0].is_chunked != 0
    tokens, squares = 0, 0.0
    if state.lists[active].length > 0:
        # A chunk of this prompt is done; it has its KV.
        tokens, squares = _chunk(state, slot, int(state.lists[active].head), 0)
    while state.lists[waiting].length > 0:
        row = int(state.lists[waiting].head)
        request = state.requests[row]
        uncached = request.input_tokens - request.cached_tokens
        if now_s - request.at_s > state.fleet[0].patience_s:
            pop(state.lists, state.requests, waiting)
            state.fleet[0].dropped += 1
            node.load -= uncached
            weigh_prompt(state, slot)
            continue
        if tokens > 0 and not _has_budget(node.prefill_tokens_max - tokens, uncached, is_chunked):
            break
        if node.kv_held > 0 and node.kv_held + request.input_tokens > node.kv_tokens:
            break
        pop(state.lists, state.requests, waiting)
        push(state.lists, state.requests, active, row)
        node.kv_held += request.input_tokens
        observe(state, slot, QUEUE_TIME, now_s - request.at_s)
        more, more_squares = _chunk(state, slot, row, tokens)
        tokens += more
        squares += more_squares
    if tokens > 0:
        node.batch_tokens = tokens
        node.batch_ends_s = now_s + prefill_s(state, slot, tokens, squares)
        put(state.events, slot, node.batch_ends_s, PROMPTS_AFTER + slot)


@inlined
def free_kv(state: State, row: int, now_s: float) -> None:
    """Free a computed request's KV at its prompt node, which may let a batch begin."""
    request = state.requests[row]
    node = state.nodes[request.prompt]
    node.kv_held -= request.input_tokens
    node.unpulled -= 1
    begin_batch(state, int(request.prompt), now_s)


@jitted
def _has_budget(left: int, uncached: int, is_chunked: bool) -> bool:
    return left > 0 if is_chunked else left >= uncached


@jitted
def _chunk(state: State, slot: int, row: int, taken: int) -> tuple[int, float]:
    """Return the tokens of a request that go into a batch beside those taken, and its squares."""
    request = state.requests[row]
    left = request.input_tokens - request.cached_tokens - request.computed
    tokens = int(left)
    if state.fleet[0].is_chunked != 0:
        tokens = min(tokens, int(state.nodes[slot].prefill_tokens_max) - taken)
    before = float(request.cached_tokens + request.computed)
    request.computed += tokens
    after = before + tokens
    return tokens, after * after - before * before
