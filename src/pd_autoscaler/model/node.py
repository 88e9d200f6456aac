"""Nodes: one engine instance of one role, and the table of states it moves through."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from pd_autoscaler.errors import TransitionError


class Role(StrEnum):
    """What a node computes: the KV cache of a prompt, or the tokens that follow."""

    PROMPT = "prompt"
    DECODER = "decoder"

    @property
    def other(self) -> "Role":
        """The role at the far end of this role's links."""
        return Role.DECODER if self is Role.PROMPT else Role.PROMPT


class NodeState(StrEnum):
    """Where a node is in its life; the order is that of a life without accidents."""

    STANDBY = "standby"
    STARTING = "starting"
    INITIALISING = "initialising"
    LINKING = "linking"
    SERVING = "serving"
    DRAINING = "draining"
    UNLINKING = "unlinking"
    SWITCHING = "switching"
    STOPPING = "stopping"
    GONE = "gone"
    FAILED = "failed"


_S = NodeState

NODE_MOVES: Mapping[NodeState, frozenset[NodeState]] = MappingProxyType(
    {
        _S.STANDBY: frozenset({_S.STARTING, _S.INITIALISING, _S.LINKING, _S.STOPPING, _S.FAILED}),
        # One found between two roles goes on to switch.
        _S.STARTING: frozenset({_S.INITIALISING, _S.LINKING, _S.SWITCHING, _S.STOPPING, _S.FAILED}),
        _S.INITIALISING: frozenset({_S.LINKING, _S.SWITCHING, _S.STOPPING, _S.FAILED}),
        _S.LINKING: frozenset({_S.SERVING, _S.UNLINKING, _S.FAILED}),
        # A serving node that is withdrawn for want of a link goes back to linking.
        _S.SERVING: frozenset({_S.DRAINING, _S.LINKING, _S.FAILED}),
        _S.DRAINING: frozenset({_S.UNLINKING, _S.SERVING, _S.FAILED}),
        _S.UNLINKING: frozenset({_S.STOPPING, _S.STANDBY, _S.SWITCHING, _S.FAILED}),
        _S.SWITCHING: frozenset({_S.LINKING, _S.FAILED}),
        _S.STOPPING: frozenset({_S.GONE, _S.FAILED}),
        # A node that came back as a new process begins again; any other is stopped.
        _S.FAILED: frozenset({_S.STARTING, _S.STOPPING, _S.GONE}),
        _S.GONE: frozenset(),
    }
)

COMING = frozenset({_S.STARTING, _S.INITIALISING, _S.LINKING, _S.SWITCHING})
"""States of a node that is on its way to serve."""

LEAVING = frozenset({_S.DRAINING, _S.UNLINKING, _S.STOPPING})
"""States of a node that is on its way out."""

OUTWARD = LEAVING | {_S.SWITCHING, _S.FAILED}
"""States whose removal a restarted controller must go on with: links may be cut already."""

MESHED = frozenset({_S.LINKING, _S.SERVING, _S.DRAINING})
"""States in which a node's links are wanted or still in use."""


RANK_SEPARATOR = "+"
"""Joins the incarnations of a node's ranks, in rank order, to that of the node."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One accelerator rank of a node, as its agent reported it.

    `cluster_id` is LLM-DataDist's (uint64); `port` is None for an endpoint that does not listen.
    `links_max` is how many links its card may hold, None where there is no limit.
    """

    rank: int
    cluster_id: int
    ip: str
    port: int | None = None
    links_max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node as the controller knows it; times are monotonic seconds.

    `id` is the provider's name; until the provider names it, the id of the start request.
    `incarnation` names the process behind it: a new one means that the node restarted and forgot
    its links; with several ranks it is theirs joined by RANK_SEPARATOR. `agent_urls` has one for
    each rank. `next_role` is the role that a leaving node takes instead of being stopped.
    `profile` names the engine profile of its pages, empty is the settings' default.
    `ready_at_s` is when a coming node is expected to serve, from measured lead times.
    """

    id: str
    role: Role
    state: NodeState
    since_s: float
    why: str = ""
    request_id: str = ""
    incarnation: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    agent_urls: tuple[str, ...] = ()
    metrics_url: str = ""
    engine_url: str = ""
    profile: str = ""
    began_s: float = 0.0
    served_at_s: float | None = None
    ready_at_s: float | None = None
    attempts: int = 0
    retry_at_s: float = 0.0
    is_suspect: bool = False
    next_role: Role | None = None

    def moved_to(self, state: NodeState, *, now_s: float, why: str = "") -> "Node":
        """Return this node in its new state, or raise TransitionError if no such move exists."""
        if state not in NODE_MOVES[self.state]:
            raise TransitionError(f"node {self.id}: {self.state} -> {state} is not a move")
        served = now_s if state is NodeState.SERVING else self.served_at_s
        ends = {NodeState.STANDBY, NodeState.STOPPING, NodeState.FAILED, NodeState.GONE}
        return replace(
            self,
            state=state,
            since_s=now_s,
            why=why,
            served_at_s=served,
            attempts=0,
            retry_at_s=0.0,
            next_role=None if state in ends else self.next_role,
        )

    @property
    def future_role(self) -> Role:
        """The role that this node has once what is under way is done."""
        return self.next_role or self.role

    @property
    def cluster_ids(self) -> tuple[int, ...]:
        """LLM-DataDist ids of this node's endpoints, in rank order."""
        return tuple(endpoint.cluster_id for endpoint in self.endpoints)
