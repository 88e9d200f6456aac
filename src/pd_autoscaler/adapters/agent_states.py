"""One node's state, from those of the agents of its ranks."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from pd_autoscaler.errors import PermanentError
from pd_autoscaler.model.facts import AgentPhase, AgentState, EngineLoad
from pd_autoscaler.model.node import RANK_SEPARATOR, Endpoint

Count = TypeVar("Count", int, float)

_ADVANCE = (AgentPhase.NEW, AgentPhase.INITIALISING, AgentPhase.READY)


def state_of_node(states: Sequence[AgentState]) -> AgentState:
    """Return what the agents of a node's ranks, in rank order, say together.

    PermanentError for an answer that no agent of one rank gives.
    """
    for rank, state in enumerate(states):
        _check(rank, state)
    if len(states) == 1:
        return states[0]
    roles = {state.role for state in states}
    fence = max(states, key=lambda state: (state.epoch, state.holder))
    return AgentState(
        node_id=states[0].node_id,
        # What an unknown outcome waits for is an answer of every rank.
        at_s=min(state.at_s for state in states),
        incarnation=RANK_SEPARATOR.join(state.incarnation for state in states),
        role=states[0].role if len(roles) == 1 else None,
        phase=_phase(states),
        endpoints=_endpoints(states),
        links=tuple(row for state in states for row in state.links),
        engine=_load([state.engine for state in states]),
        calls_in_flight=sum(state.calls_in_flight for state in states),
        calls_hung=sum(state.calls_hung for state in states),
        epoch=fence.epoch,
        holder=fence.holder,
        version=", ".join(dict.fromkeys(state.version for state in states)),
        has_mixed_roles=len(roles) > 1,
        can_switch_role=all(state.can_switch_role for state in states),
    )


def _check(rank: int, state: AgentState) -> None:
    if RANK_SEPARATOR in state.incarnation:
        raise PermanentError(
            f"rank {rank}: its agent calls itself {state.incarnation!r}; an incarnation may not "
            f"contain {RANK_SEPARATOR!r}, which separates the ranks of a node"
        )
    if len(state.endpoints) > 1:
        raise PermanentError(
            f"rank {rank}: its agent reports {len(state.endpoints)} endpoints; there is one agent "
            "for each rank, list all of them in agent_urls"
        )


def _phase(states: Iterable[AgentState]) -> AgentPhase:
    """Return the least advanced phase; a node of which one rank is finalised can only be ended."""
    phases = {state.phase for state in states}
    if AgentPhase.FINALISED in phases:
        return AgentPhase.FINALISED
    return min(phases, key=_ADVANCE.index)


def _endpoints(states: Sequence[AgentState]) -> tuple[Endpoint, ...]:
    """Return an endpoint for each rank, or none yet: with some alone their places would shift."""
    endpoints = tuple(endpoint for state in states for endpoint in state.endpoints)
    return endpoints if len(endpoints) == len(states) else ()


def _load(loads: Sequence[EngineLoad]) -> EngineLoad:
    """Return the engine's load: every rank's agent is inside the same engine and counts it all.

    They look at slightly different moments, and some ranks' processes may see nothing of it, so the
    largest count is the nearest to the truth, and errs towards not idle.
    """

    def most(counts: Iterable[Count | None]) -> Count | None:
        return max((count for count in counts if count is not None), default=None)

    return EngineLoad(
        waiting=most(load.waiting for load in loads),
        running=most(load.running for load in loads),
        kv_unpulled=most(load.kv_unpulled for load in loads),
        kv_used=most(load.kv_used for load in loads),
    )
