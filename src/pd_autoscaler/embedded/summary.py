"""The summary: what became of a load, of the nodes that served it, and of their links."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import aiohttp
import anyio

from pd_autoscaler.embedded.child import Child, ChildState, End
from pd_autoscaler.embedded.load import Load
from pd_autoscaler.embedded.supervisor import Supervisor
from pd_autoscaler.embedded.tally import FailureKind

_LOOKS = 5
_LOOK_GAP_S = 0.4
_READ_S = 2.0

Tables = Mapping[int, frozenset[int] | None]
"""Peers by cluster id of every rank that exists; None where the table could not be read."""

Leak = tuple[int, int]
"""(cluster id whose table holds the entry, the entry's peer id)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One load and the life of the cluster under it; seconds, None where nothing was measured.

    `requests_failed` includes those lost on killed nodes and those refused at the limit of open
    requests; `node_seconds` sums the lifetimes of all node processes; `nodes_killed` ended without
    being asked after they listened. `links_leaked` is None when a node did not tell its table.
    """

    requests_offered: int
    requests_ok: int
    requests_failed: int
    requests_refused: int
    requests_lost_on_killed_nodes: int
    requests_unfinished: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    tpot_p50_s: float | None
    tpot_p95_s: float | None
    node_seconds: float
    nodes_started: int
    nodes_stopped: int
    nodes_killed: int
    nodes_start_failed: int
    links_leaked: int | None
    failures: tuple[FailureKind, ...]

    def wire(self) -> dict[str, object]:
        """Return the summary as a JSON object."""
        return asdict(self)


def summarised(load: Load, supervisor: Supervisor, *, links_leaked: int | None) -> Summary:
    """Sum up a load and its nodes as they are now."""
    tally, ends = load.tally, supervisor.ends
    return Summary(
        requests_offered=tally.offered,
        requests_ok=tally.ok,
        requests_failed=tally.failed,
        requests_refused=load.refused,
        requests_lost_on_killed_nodes=load.lost_on_killed_nodes,
        requests_unfinished=load.unfinished,
        ttft_p50_s=tally.ttft.at(0.5),
        ttft_p95_s=tally.ttft.at(0.95),
        tpot_p50_s=tally.tpot.at(0.5),
        tpot_p95_s=tally.tpot.at(0.95),
        node_seconds=supervisor.node_seconds,
        nodes_started=supervisor.started_count,
        nodes_stopped=ends[End.REMOVED],
        nodes_killed=ends[End.KILLED] + ends[End.EXITED],
        nodes_start_failed=ends[End.START_FAILED],
        links_leaked=links_leaked,
        failures=tally.kinds(),
    )


def leaked(tables: Tables) -> frozenset[Leak]:
    """Return the entries whose peer is no node that exists, or whose peer lacks the other end.

    What a node with an unreadable table holds cannot be told, so it is not counted.
    """
    return frozenset(
        (own, peer)
        for own, peers in tables.items()
        for peer in peers or ()
        if peer not in tables or own not in _entries(tables[peer], default=own)
    )


def _entries(peers: frozenset[int] | None, *, default: int) -> frozenset[int]:
    return frozenset({default}) if peers is None else peers


async def count_leaked(supervisor: Supervisor) -> int | None:
    """Ask every listening node for its library's own table, and count the leaked entries.

    A link being made or dropped has one end for a moment: what counts was there at every look.
    None when a node did not tell its table.
    """
    timeout = aiohttp.ClientTimeout(total=_READ_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        found: frozenset[Leak] | None = None
        for look in range(_LOOKS):
            if look:
                await anyio.sleep(_LOOK_GAP_S)
            asked = supervisor.nodes
            tables = await _tables(session, asked)
            now = leaked(tables)
            found = now if found is None else found & now
            is_complete = all(
                tables[cluster_id] is not None
                for child in asked
                if child.state is ChildState.RUNNING and child in supervisor.nodes
                for cluster_id in child.cluster_ids
            )
            if is_complete and not found:
                return 0
    return len(found or ()) if is_complete else None


async def _tables(session: aiohttp.ClientSession, nodes: Sequence[Child]) -> Tables:
    tables: dict[int, frozenset[int] | None] = {
        cluster_id: None for child in nodes for cluster_id in child.cluster_ids
    }

    async def read(child: Child) -> None:
        if child.urls is not None:
            tables.update(await _told(session, child.urls.engine_url, child.cluster_ids))

    async with anyio.create_task_group() as group:
        for child in nodes:
            if child.state is ChildState.RUNNING:
                group.start_soon(read, child)
    return tables


async def _told(
    session: aiohttp.ClientSession, engine_url: str, cluster_ids: Iterable[int]
) -> Mapping[int, frozenset[int]]:
    """Read a node's tables, whatever its role is by now: `{"entities": {id: [peer ids]}}`."""
    try:
        async with session.get(f"{engine_url}/sim/entities") as answer:
            answer.raise_for_status()
            rows = (await answer.json())["entities"]
            return {own: frozenset(int(peer) for peer in rows[str(own)]) for own in cluster_ids}
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
        return {}
