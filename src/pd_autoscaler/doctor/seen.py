"""What was seen of the outside, before anything is concluded from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pd_autoscaler.adapters.metrics.faults import Trouble
from pd_autoscaler.agent.wire import StateReply
from pd_autoscaler.doctor.pages import Look
from pd_autoscaler.model.node import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer, whatever its status; times are wall time, `took_s` monotonic."""

    status: int
    body: bytes = b""
    content_type: str = ""
    location: str = ""
    date: str = ""
    took_s: float = 0.0
    sent_unix_s: float = 0.0
    received_unix_s: float = 0.0


Reply = Answer | Trouble


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSeen:
    """A node's page: how it was answered, what it holds, and what a second one held.

    The bodies of the answers are not kept. `look` is None where there is no page, `apart_s` how
    long after the first the second was asked for.
    """

    url: str
    reply: Reply
    look: Look | None = None
    later_reply: Reply | None = None
    later: Look | None = None
    apart_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSeen:
    """What the agent of one rank answered; `why_not` is why its answer is no state."""

    url: str
    reply: Reply
    state: StateReply | None = None
    why_not: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSeen:
    """A link port that was connected to: None is a connection that came about."""

    place: str
    trouble: Trouble | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSeen:
    """Everything seen of one node; None is what was not looked at, `skipped` says why.

    `role` and `profile` are as configured; `is_role_certain` where the role was said just now, so
    that no switch since explains another. `own_profile` is empty where the settings'
    default is meant. `skipped` has reasons for `metrics` and `link port`.
    """

    id: str
    role: Role | None = None
    is_role_certain: bool = False
    profile: str = "auto"
    own_profile: str = ""
    page: PageSeen | None = None
    agents: tuple[AgentSeen, ...] = ()
    ports: tuple[PortSeen, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def states(self) -> tuple[StateReply, ...]:
        """The states of the agents that gave one, in rank order."""
        return tuple(agent.state for agent in self.agents if agent.state is not None)

    @property
    def agent_role(self) -> Role | None:
        """The role that all agents which answered have; None where they have none or several."""
        roles = {state.role for state in self.states}
        only = roles.pop() if len(roles) == 1 else None
        return None if only is None else Role(only)

    @property
    def can_switch(self) -> bool:
        """Whether every agent that answered says that its engine can take the other role."""
        return bool(self.states) and all("role" in state.capabilities for state in self.states)

    @property
    def acting_role(self) -> Role | None:
        """The role that a controller goes by: that of the agents, or else the configured one."""
        return self.agent_role or self.role
