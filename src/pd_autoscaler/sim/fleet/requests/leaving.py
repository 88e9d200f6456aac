"""Leaving: the process of a node ends, and what was on it is lost."""

from pd_autoscaler.sim.fleet.requests.decoder import admit, settle, weigh_decoder
from pd_autoscaler.sim.fleet.requests.fifo import NONE, pop, take
from pd_autoscaler.sim.fleet.requests.jit import jitted
from pd_autoscaler.sim.fleet.requests.prompt import free_kv, weigh_prompt
from pd_autoscaler.sim.fleet.requests.state import (
    DECODER,
    FLEET_LISTS,
    NEVER,
    NODE_LISTS,
    NOWHERE,
    PULLING,
    UNSENT,
    WAITING,
    State,
)
from pd_autoscaler.sim.fleet.requests.tree import put


@jitted
def leave(state: State, slot: int, now_s: float) -> None:
    """End a node: every request that is on it, or whose KV is only there, fails."""
    node = state.nodes[slot]
    was_decoder = node.role == DECODER
    node.role = NOWHERE
    node.is_published = 0
    put(state.events, slot, NEVER, slot)
    weigh_prompt(state, slot)
    weigh_decoder(state, slot)
    base = FLEET_LISTS + NODE_LISTS * slot
    for kind in range(NODE_LISTS):
        while state.lists[base + kind].length > 0:
            row = pop(state.lists, state.requests, base + kind)
            holds = kind == PULLING or (kind == WAITING and state.requests[row].generated == 0)
            _lose(state, row, now_s)
            if was_decoder and holds:
                free_kv(state, row, now_s)
    if not was_decoder and node.unpulled > 0:
        _lose_from(state, UNSENT, slot, now_s)
        for other in range(len(state.nodes)):
            if state.nodes[other].role == DECODER:
                _lose_kv(state, other, slot, now_s)


@jitted
def _lose(state: State, row: int, now_s: float) -> None:
    """Count a request as failed; a first token that was still to come does not."""
    state.fleet[0].failed += 1
    if state.requests[row].first_token_s > now_s:
        state.requests[row].first_token_s = float("nan")


@jitted
def _lose_kv(state: State, decoder: int, prompt: int, now_s: float) -> None:
    """Fail what a decoder was still to pull, or was pulling, from a prompt node that is gone."""
    base = FLEET_LISTS + NODE_LISTS * decoder
    node = state.nodes[decoder]
    _, waiting_tokens = _lose_from(state, base + WAITING, prompt, now_s)
    lost, tokens = _lose_from(state, base + PULLING, prompt, now_s)
    if waiting_tokens + tokens == 0:
        return
    node.transfer_failures += lost
    state.fleet[0].transfer_failures += lost
    node.coming -= tokens
    node.load -= waiting_tokens + tokens
    weigh_decoder(state, decoder)
    admit(state, decoder, now_s)
    settle(state, decoder, now_s)


@jitted
def _lose_from(state: State, of: int, prompt: int, now_s: float) -> tuple[int, int]:
    """Fail the requests of a list whose KV is at a prompt node; return how many, and tokens."""
    lost, tokens = 0, 0
    row = int(state.lists[of].head)
    while row != NONE:
        request = state.requests[row]
        following = int(request.following)
        if request.prompt == prompt and request.generated == 0:
            take(state.lists, state.requests, of, row)
            _lose(state, row, now_s)
            lost += 1
            tokens += request.input_tokens
        row = following
    return lost, tokens
