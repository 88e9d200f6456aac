"""Decoders: room, then KV over the link, then one token a step for the whole batch."""

import math

from pd_autoscaler.sim.fleet.requests.fifo import NONE, pop, push, push_front, take
from pd_autoscaler.sim.fleet.requests.heap import drop, first_row, first_step, place_of
from pd_autoscaler.sim.fleet.requests.heap import push as push_step
from pd_autoscaler.sim.fleet.requests.jit import inlined, jitted
from pd_autoscaler.sim.fleet.requests.prompt import free_kv, prefill_s
from pd_autoscaler.sim.fleet.requests.state import (
    ACTIVE,
    FLEET_LISTS,
    INPUT_LEN,
    NEVER,
    NODE_LISTS,
    OUTPUT_LEN,
    PULLED,
    PULLING,
    QUEUE_TIME,
    TPOT,
    WAITING,
    State,
)
from pd_autoscaler.sim.fleet.requests.steps import boundary, ends_s, taken
from pd_autoscaler.sim.fleet.requests.tally import observe
from pd_autoscaler.sim.fleet.requests.tree import put

FOREVER = 1 << 62
"""Steps until something changes a batch that nothing changes."""


@jitted
def weigh_decoder(state: State, slot: int) -> None:
    """Tell the router what KV was asked for at a decoder."""
    node = state.nodes[slot]
    put(state.decoders, slot, float(node.load) if node.is_published else NEVER, node.picked)


@inlined
def come(state: State, slot: int, row: int, now_s: float) -> None:
    """Let a computed request queue at a decoder."""
    node, request = state.nodes[slot], state.requests[row]
    request.decoder = slot
    request.since_s = now_s
    node.requests_received += 1
    node.load += request.input_tokens
    weigh_decoder(state, slot)
    push(state.lists, state.requests, FLEET_LISTS + NODE_LISTS * slot + WAITING, row)
    if state.lists[FLEET_LISTS + NODE_LISTS * slot + WAITING].length == 1:
        # Behind others there is nothing new: the first of them still has no room.
        admit(state, slot, now_s)
        settle(state, slot, now_s)


@inlined
def admit(state: State, slot: int, now_s: float) -> None:
    """Let in from the head of the queue whoever has room; call `settle` afterwards.

    A request that was preempted joins without a pull, as its KV is computed here.
    """
    base = FLEET_LISTS + NODE_LISTS * slot
    node, lists = state.nodes[slot], state.lists
    if lists[base + WAITING].length == 0:
        return
    batch = lists[base + ACTIVE].length
    context = node.context
    if batch > 0:
        context += batch * taken(node, now_s)
    while lists[base + WAITING].length > 0:
        row = int(lists[base + WAITING].head)
        request = state.requests[row]
        needed = request.input_tokens + request.generated
        inside = batch + lists[base + PULLING].length + lists[base + PULLED].length
        is_full = inside >= node.batch_max or context + node.coming + needed > node.kv_tokens
        if inside > 0 and is_full:
            break
        pop(lists, state.requests, base + WAITING)
        if request.generated > 0:
            node.coming += needed
            push(lists, state.requests, base + PULLED, row)
            if node.joins_after == 0 and batch > 0:
                node.joins_after = taken(node, now_s) + 1
        elif state.cuts[slot, request.prompt] != 0:
            node.transfer_failures += 1
            state.fleet[0].transfer_failures += 1
            state.fleet[0].failed += 1
            node.load -= request.input_tokens
            weigh_decoder(state, slot)
            free_kv(state, row, now_s)
        else:
            node.coming += needed
            observe(state, slot, QUEUE_TIME, now_s - request.since_s)
            _pull(state, slot, row, now_s)


@inlined
def _pull(state: State, slot: int, row: int, now_s: float) -> None:
    """Book both network cards for a request's KV."""
    node, request = state.nodes[slot], state.requests[row]
    source = state.nodes[request.prompt]
    begins_s = max(now_s, node.nic_free_s, source.nic_free_s)
    ends = begins_s + request.input_tokens * node.kv_bytes_per_token / node.pull_bytes_per_s
    node.nic_free_s = ends
    source.nic_free_s = ends
    request.since_s = ends
    push(state.lists, state.requests, FLEET_LISTS + NODE_LISTS * slot + PULLING, row)


@inlined
def settle(state: State, slot: int, now_s: float) -> None:
    """Put down when a decoder is next to be looked at; begin a batch where there is none."""
    base = FLEET_LISTS + NODE_LISTS * slot
    if state.lists[base + ACTIVE].length == 0 and state.lists[base + PULLED].length > 0:
        join(state, slot, now_s)
    node = state.nodes[slot]
    batch = state.lists[base + ACTIVE].length
    node.due_after = FOREVER
    node.due_s = NEVER
    if batch > 0:
        due = first_step(state.lasts, slot) - node.steps
        if batch > 1:
            room = node.kv_tokens - node.context - node.coming
            due = min(due, max(room // batch, 0) + 1)
        if node.joins_after > 0:
            due = min(due, node.joins_after)
        node.due_after = due
        node.due_s = ends_s(node, due)
    next_s = node.due_s
    if state.lists[base + PULLING].length > 0:
        next_s = min(next_s, state.requests[state.lists[base + PULLING].head].since_s)
    put(state.events, slot, next_s, slot)


@inlined
def decoder_event(state: State, slot: int, now_s: float) -> None:
    """Do what is due at a decoder: KV that has come, else the end of a step."""
    base = FLEET_LISTS + NODE_LISTS * slot
    node = state.nodes[slot]
    head = int(state.lists[base + PULLING].head)
    if head != NONE and state.requests[head].since_s <= node.due_s:
        pop(state.lists, state.requests, base + PULLING)
        push(state.lists, state.requests, base + PULLED, head)
        free_kv(state, head, now_s)
        if state.lists[base + ACTIVE].length > 0 and node.joins_after == 0:
            node.joins_after = boundary(node, now_s)
    else:
        _step(state, slot, node.due_after, now_s)
        _finish(state, slot, now_s)
        _preempt(state, slot)
        admit(state, slot, now_s)
        join(state, slot, now_s)
    settle(state, slot, now_s)


@inlined
def _step(state: State, slot: int, steps: int, now_s: float) -> None:
    """Move the point that a decoder's steps are counted from on by so many of them."""
    node = state.nodes[slot]
    tokens = steps * state.lists[FLEET_LISTS + NODE_LISTS * slot + ACTIVE].length
    node.steps += steps
    node.context += tokens
    node.generation_tokens += tokens
    node.begun_s = now_s


@inlined
def _finish(state: State, slot: int, now_s: float) -> None:
    """Let go of every request whose last token this step made."""
    active = FLEET_LISTS + NODE_LISTS * slot + ACTIVE
    node, lists = state.nodes[slot], state.lists
    while lists[active].length > 0 and first_step(state.lasts, slot) == node.steps:
        row = first_row(state.lasts, slot)
        drop(state.lasts, slot, lists[active].length, 0)
        take(lists, state.requests, active, row)
        request = state.requests[row]
        request.done_s = now_s
        after = request.output_tokens - 1
        token_s = (now_s - request.first_token_s) / after if after > 0 else 0.0
        observe(state, slot, TPOT, token_s)
        observe(state, slot, INPUT_LEN, float(request.input_tokens))
        observe(state, slot, OUTPUT_LEN, float(request.output_tokens))
        node.context -= request.input_tokens + request.output_tokens
        node.requests_finished += 1
        node.load -= request.input_tokens
        state.fleet[0].finished += 1
    weigh_decoder(state, slot)


@inlined
def _preempt(state: State, slot: int) -> None:
    """Put those who joined last back to the head of the queue until the KV fits; one may stay."""
    base = FLEET_LISTS + NODE_LISTS * slot
    node, lists = state.nodes[slot], state.lists
    while lists[base + ACTIVE].length > 1 and node.context + node.coming > node.kv_tokens:
        row = int(lists[base + ACTIVE].tail)
        request = state.requests[row]
        size = lists[base + ACTIVE].length
        drop(state.lasts, slot, size, place_of(state.lasts, slot, size, row))
        take(lists, state.requests, base + ACTIVE, row)
        push_front(lists, state.requests, base + WAITING, row)
        request.generated = request.output_tokens - (request.last_step - node.steps)
        node.context -= request.input_tokens + request.generated
        node.preemptions += 1
        state.fleet[0].preemptions += 1


@inlined
def join(state: State, slot: int, now_s: float) -> None:
    """Let what was pulled into the batch at the end of a step, and begin the next one."""
    base = FLEET_LISTS + NODE_LISTS * slot
    node, lists = state.nodes[slot], state.lists
    first, stall_s = NONE, 0.0
    while lists[base + PULLED].length > 0:
        row = pop(lists, state.requests, base + PULLED)
        request = state.requests[row]
        context = request.input_tokens + request.generated
        if request.generated > 0:
            stall_s += prefill_s(state, slot, context, float(context) * float(context))
        node.coming -= context
        node.context += context
        request.last_step = node.steps + request.output_tokens - request.generated
        push_step(state.lasts, slot, lists[base + ACTIVE].length, request.last_step, row)
        push(lists, state.requests, base + ACTIVE, row)
        if first == NONE:
            first = row
    node.joins_after = 0
    node.begun_s = now_s + stall_s
    batch = lists[base + ACTIVE].length
    node.step_s = (
        node.decode_base_s
        + node.decode_per_request_s * batch
        + node.decode_per_token_s * node.context
    )
    node.growth_s = node.decode_per_token_s * batch
    first_s = node.begun_s + node.step_s
    while first != NONE:
        request = state.requests[first]
        if math.isnan(request.first_token_s):
            request.first_token_s = first_s
        first = int(request.following)
