"""Advancing: from event to event, and what is done to a fleet from outside.

At one moment decoders come first, then prompt nodes, each by slot, then the arrivals. At a decoder
KV that has come joins the step that begins at this very moment.
"""

from pd_autoscaler.sim.fleet.requests.decoder import decoder_event
from pd_autoscaler.sim.fleet.requests.jit import entry
from pd_autoscaler.sim.fleet.requests.leaving import leave
from pd_autoscaler.sim.fleet.requests.router import prompt_event, send_prompt, weigh
from pd_autoscaler.sim.fleet.requests.state import NEVER, PROMPT, State

ADVANCE, WEIGH, REMOVE = 0, 1, 2
"""What `act` does: let time pass; publish or withdraw a node; end one."""


@entry
def act(state: State, what: int, slot: int, now_s: float) -> None:
    """Do one thing to a fleet at a time not before any earlier one's: one door, compiled once."""
    fleet, events, requests = state.fleet[0], state.events, state.requests
    if what == WEIGH:
        weigh(state, slot, now_s)
    elif what == REMOVE:
        leave(state, slot, now_s)
    else:
        while True:
            event_s = events[1].key
            arrival_s = requests[fleet.arrived].at_s if fleet.arrived < fleet.offered else NEVER
            if min(event_s, arrival_s) > now_s or min(event_s, arrival_s) == NEVER:
                break
            if event_s <= arrival_s:
                due = int(events[1].slot)
                if state.nodes[due].role == PROMPT:
                    prompt_event(state, due, event_s)
                else:
                    decoder_event(state, due, event_s)
            else:
                row = int(fleet.arrived)
                fleet.arrived += 1
                send_prompt(state, row, arrival_s)
