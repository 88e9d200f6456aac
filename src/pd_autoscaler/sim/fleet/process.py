"""One engine process: its library's tables, and what its agent knows of its own calls.

The rules are those measured on the real library (hicann/hixl, `src/llm_datadist/link_mgr/`): links
are made by one side, both sides hold an entry, and only a normal unlink clears both.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from pd_autoscaler.model.facts import AgentPhase, AgentState, EngineLoad, EntryState, LinkEntry
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import Endpoint, Role

SUCCESS = "LLM_SUCCESS"
ALREADY_LINK = "LLM_ALREADY_LINK"
LINK_FAILED = "LLM_LINK_FAILED"
UNLINK_FAILED = "LLM_UNLINK_FAILED"
TIMEOUT = "LLM_TIMEOUT"
FAILED = "LLM_FAILED"


class Verb(StrEnum):
    """What a call asks of the library."""

    LINK = "link"
    UNLINK = "unlink"
    FORCE_UNLINK = "force_unlink"


@dataclass(slots=True, eq=False)
class Call:
    """One native call on one remote cluster, under way or ended; `code` is how it ended."""

    verb: Verb
    cluster_id: int
    peer_incarnation: str
    ends_s: float
    before: "Row | None" = None
    code: str = ""
    verdict: Verdict = Verdict.RETRY
    is_ended: bool = False
    is_unknown: bool = False


@dataclass(slots=True)
class Row:
    """One row of the agent's own table; `call` is the newest made for it."""

    state: EntryState
    peer_incarnation: str
    since_s: float
    code: str = ""
    call: Call | None = None


@dataclass(slots=True)
class Process:
    """One process behind a node; a restart makes a new one with empty tables.

    `entities` is the library's own table, remote cluster id to the incarnation it was made with:
    product code never sees it, the checks read it as the truth.
    """

    node_id: str
    incarnation: str
    cluster_id: int
    ip: str
    port: int | None
    links_max: int | None = None
    phase: AgentPhase = AgentPhase.NEW
    role: Role | None = None
    switching_to: Role | None = None
    is_alive: bool = True
    entities: dict[int, str] = field(default_factory=dict)
    rows: dict[int, Row] = field(default_factory=dict)
    calls: dict[str, list[Call]] = field(default_factory=dict)
    epoch: int = 0
    holder: str = ""

    @property
    def is_ready(self) -> bool:
        """Whether it runs and its library object is initialised."""
        return self.is_alive and self.phase is AgentPhase.READY

    def under_way(self) -> list[Call]:
        """List the native calls that have not returned."""
        return [call for made in self.calls.values() for call in made if not call.is_ended]

    def state(
        self, engine: EngineLoad, *, now_s: float, can_switch_role: bool = False
    ) -> AgentState:
        """Return what the agent says of this process."""
        under_way = self.under_way()
        is_ready = self.phase is AgentPhase.READY
        endpoint = _endpoint(self.cluster_id, self.ip, self.port, self.links_max)
        return AgentState(
            node_id=self.node_id,
            at_s=now_s,
            incarnation=self.incarnation,
            role=self.role,
            phase=self.phase,
            endpoints=(endpoint,) if is_ready else (),
            links=tuple(
                [
                    _entry(cluster_id, row.state, row.peer_incarnation, row.code)
                    for cluster_id, row in self.rows.items()
                ]
            ),
            engine=engine,
            calls_in_flight=len(under_way),
            calls_hung=sum(call.is_unknown for call in under_way),
            epoch=self.epoch,
            holder=self.holder,
            version="simulated",
            can_switch_role=can_switch_role,
        )


@lru_cache(maxsize=10_000)
def _endpoint(cluster_id: int, ip: str, port: int | None, links_max: int | None) -> Endpoint:
    """Return an endpoint, the same one each time that it is told."""
    return Endpoint(0, cluster_id, ip, port, links_max)


@lru_cache(maxsize=100_000)
def _entry(cluster_id: int, state: EntryState, peer_incarnation: str, code: str) -> LinkEntry:
    """Return a row as the agent tells it, the same one while it is the same.

    A thousand pairs are told of in every cycle, and how old a row is nobody asks.
    """
    return LinkEntry(
        cluster_id=cluster_id, state=state, peer_incarnation=peer_incarnation, code=code
    )


def link(client: Process, cluster_id: int, server: Process | None) -> str:
    """Link the caller to the process that listens under `cluster_id`; return the code's name."""
    if server is None or not server.is_ready or server.role is not Role.PROMPT:
        return LINK_FAILED
    knows, is_known = cluster_id in client.entities, client.cluster_id in server.entities
    if knows:
        # A server that restarted has no entry for a caller that still has one for it.
        return ALREADY_LINK if is_known else TIMEOUT
    client.entities[cluster_id] = server.incarnation
    server.entities[client.cluster_id] = client.incarnation
    return SUCCESS


def unlink(client: Process, cluster_id: int, server: Process | None, *, force: bool) -> str:
    """Drop the caller's entry, and without `force` the far end's too; return the code's name."""
    if cluster_id not in client.entities:
        return SUCCESS
    if not force:
        if server is None or not server.is_ready:
            return UNLINK_FAILED
        server.entities.pop(client.cluster_id, None)
    del client.entities[cluster_id]
    return SUCCESS


def are_linked(one: Process | None, other: Process | None) -> bool:
    """Whether both processes run and each holds an entry made with the other as it is now."""
    if one is None or other is None or not one.is_ready or not other.is_ready:
        return False
    return (
        one.entities.get(other.cluster_id) == other.incarnation
        and other.entities.get(one.cluster_id) == one.incarnation
    )
