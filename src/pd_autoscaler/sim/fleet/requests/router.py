"""The router: which node a request goes to, and what waits where there is none."""

from pd_autoscaler.sim.fleet.requests.decoder import come, weigh_decoder
from pd_autoscaler.sim.fleet.requests.fifo import pop, push
from pd_autoscaler.sim.fleet.requests.jit import inlined, jitted
from pd_autoscaler.sim.fleet.requests.prompt import begin_batch, weigh_prompt
from pd_autoscaler.sim.fleet.requests.state import (
    ACTIVE,
    FLEET_LISTS,
    INPUT_LEN,
    NEVER,
    NODE_LISTS,
    PROMPT,
    ROUTER,
    TTFT,
    UNSENT,
    WAITING,
    State,
)
from pd_autoscaler.sim.fleet.requests.tally import observe
from pd_autoscaler.sim.fleet.requests.tree import put


@jitted
def send_prompt(state: State, row: int, now_s: float) -> None:
    """Send a request to the prompt node with the least tokens before it, or keep it here."""
    if state.prompts[1].key == NEVER:
        push(state.lists, state.requests, ROUTER, row)
        return
    slot = int(state.prompts[1].slot)
    node, request = state.nodes[slot], state.requests[row]
    state.fleet[0].picks += 1
    node.picked = state.fleet[0].picks
    request.prompt = slot
    node.requests_received += 1
    node.load += request.input_tokens - request.cached_tokens
    weigh_prompt(state, slot)
    push(state.lists, state.requests, FLEET_LISTS + NODE_LISTS * slot + WAITING, row)
    begin_batch(state, slot, now_s)


@inlined
def send_decoder(state: State, row: int, now_s: float) -> None:
    """Send a computed request to the decoder of which the least KV was asked, or let it wait."""
    if state.decoders[1].key == NEVER:
        push(state.lists, state.requests, UNSENT, row)
        return
    slot = int(state.decoders[1].slot)
    state.fleet[0].picks += 1
    state.nodes[slot].picked = state.fleet[0].picks
    come(state, slot, row, now_s)


@inlined
def prompt_event(state: State, slot: int, now_s: float) -> None:
    """End a prompt node's batch, send on what it completed, and begin the next."""
    active = FLEET_LISTS + NODE_LISTS * slot + ACTIVE
    node, lists = state.nodes[slot], state.lists
    node.load -= node.batch_tokens
    node.prompt_tokens += node.batch_tokens
    weigh_prompt(state, slot)
    while lists[active].length > 0:
        row = int(lists[active].head)
        request = state.requests[row]
        if request.cached_tokens + request.computed < request.input_tokens:
            break
        pop(lists, state.requests, active)
        node.unpulled += 1
        node.requests_finished += 1
        node.prompt_tokens_cached += request.cached_tokens
        observe(state, slot, TTFT, now_s - request.at_s)
        observe(state, slot, INPUT_LEN, float(request.input_tokens))
        send_decoder(state, row, now_s)
    node.batch_ends_s = NEVER
    begin_batch(state, slot, now_s)
    if node.batch_ends_s == NEVER:
        put(state.events, slot, NEVER, slot)


@jitted
def weigh(state: State, slot: int, now_s: float) -> None:
    """Take note that a node is published, or no longer; send on what waits for such a node."""
    if state.nodes[slot].role == PROMPT:
        weigh_prompt(state, slot)
    else:
        weigh_decoder(state, slot)
    lists = state.lists
    while lists[ROUTER].length > 0 and state.prompts[1].key != NEVER:
        send_prompt(state, pop(lists, state.requests, ROUTER), now_s)
    while lists[UNSENT].length > 0 and state.decoders[1].key != NEVER:
        send_decoder(state, pop(lists, state.requests, UNSENT), now_s)
