"""Facts: what the world outside said in one observation, before anything is concluded from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from pd_autoscaler.model.advice import Advice
from pd_autoscaler.model.node import Endpoint, Node, Role
from pd_autoscaler.model.signals import Reading


class AgentPhase(StrEnum):
    """How far an agent's library object is."""

    NEW = "new"
    INITIALISING = "initialising"
    READY = "ready"
    FINALISED = "finalised"


class EntryState(StrEnum):
    """What an agent's own calls did to one remote cluster, as that process knows it.

    `unknown` means a call is past its deadline: it may still succeed.
    """

    LINKING = "linking"
    LINKED = "linked"
    UNLINKING = "unlinking"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEntry:
    """One row of an agent's link table; an absent row means not linked by this process.

    `rank` is that of the agent's own endpoint, `peer_incarnation` what the caller said the peer was
    when it linked.
    """

    cluster_id: int
    state: EntryState
    rank: int = 0
    peer_incarnation: str = ""
    code: str = ""
    age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """Requests inside an engine, and its share of KV in use (0 to 1); None is unknown."""

    waiting: int | None = None
    running: int | None = None
    kv_unpulled: int | None = None
    kv_used: float | None = None

    @property
    def is_idle(self) -> bool | None:
        """True when nothing is inside, None when that cannot be told."""
        counts = (self.waiting, self.running, self.kv_unpulled)
        if any(counts):
            return False
        return None if None in counts else True


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentState:
    """One answer of a node's agents, one for each rank; `at_s` is when it arrived (monotonic).

    `can_switch_role` says that the engine can take the other role without a restart,
    `has_mixed_roles` that some of its ranks have done so and others have not.
    """

    node_id: str
    at_s: float
    incarnation: str
    role: Role | None
    phase: AgentPhase
    endpoints: tuple[Endpoint, ...] = ()
    links: tuple[LinkEntry, ...] = ()
    engine: EngineLoad = field(default_factory=EngineLoad)
    calls_in_flight: int = 0
    calls_hung: int = 0
    epoch: int = 0
    holder: str = ""
    version: str = ""
    can_switch_role: bool = False
    has_mixed_roles: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvidedNode:
    """One node as its provider lists it; `agent_urls` has one for each accelerator rank.

    `profile` names the engine profile its pages are read with; empty is the settings' default.
    """

    id: str
    role: Role
    agent_urls: tuple[str, ...]
    metrics_url: str
    engine_url: str = ""
    request_id: str = ""
    is_standby: bool = False
    profile: str = ""

    def addressed(self, node: Node) -> Node:
        """Return a node at the addresses listed here; the same one where it has them already."""
        listed = (self.agent_urls, self.metrics_url, self.engine_url, self.profile)
        if listed == (node.agent_urls, node.metrics_url, node.engine_url, node.profile):
            return node
        return replace(
            node,
            agent_urls=self.agent_urls,
            metrics_url=self.metrics_url,
            engine_url=self.engine_url,
            profile=self.profile,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scraped:
    """What a metrics source has read since it began: pages, their bytes, and what failed."""

    pages: int = 0
    failures: int = 0
    page_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One observation; None is 'could not be read', which is never 'empty'.

    `agents` and `readings` hold what answered this time; whoever is missing was silent.
    `unread` says by node id why its page could not be read the last time, `scraped` what has been
    read since the start. `unreachable` says of prompt nodes that were probed why their link port
    takes no connection. `advice` is the advisor's newest answer.
    """

    now_s: float
    now_unix_s: float
    provided: tuple[ProvidedNode, ...] | None = None
    published: frozenset[str] | None = None
    in_flight: Mapping[str, int] = field(default_factory=dict)
    agents: Mapping[str, AgentState] = field(default_factory=dict)
    readings: Mapping[str, Reading] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    scraped: Scraped = field(default_factory=Scraped)
    unreachable: Mapping[str, str] = field(default_factory=dict)
    advice: Advice | None = None
