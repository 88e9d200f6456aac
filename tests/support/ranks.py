"""Nodes with an agent for each rank, on loopback, beside libraries of the test's choice."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType

from pd_autoscaler.agent.hooks import EngineHooks
from pd_autoscaler.agent.http import build_app, serve
from pd_autoscaler.agent.service import AgentService
from pd_autoscaler.core.ranks import RankMapping, rank_pairs
from pd_autoscaler.datadist.api import DataDist, DataDistRole
from pd_autoscaler.datadist.simulated import SimulatedDataDist, SimulatedProcess
from pd_autoscaler.model.node import RANK_SEPARATOR, Node, NodeState, Role
from pd_autoscaler.model.plan import Peer

IP = "127.0.0.1"


def libraries(role: Role, *cluster_ids: int) -> list[SimulatedDataDist]:
    """Make a simulated library for each rank, each in a simulated process of its own."""
    name = DataDistRole.PROMPT if role is Role.PROMPT else DataDistRole.DECODER
    return [SimulatedDataDist(name, i, process=SimulatedProcess()) for i in cluster_ids]


@asynccontextmanager
async def node_of(
    role: Role,
    ranks: Sequence[DataDist],
    *,
    hooks: EngineHooks | None = None,
    options: Mapping[str, object] = MappingProxyType({"device_id": 0, "local_comm_res": ""}),
) -> AsyncIterator[Node]:
    """Run the agents of one node, one for each library, and yield the node that they make."""
    async with AsyncExitStack() as stack:
        urls, names = [], []
        for rank, library in enumerate(ranks):
            name = f"{role}-boot-{rank}"
            service = AgentService(
                library,
                node_id=str(role),
                role=None,
                listen=f"{IP}:0",
                options=options,
                incarnation=name,
                local_ip=IP,
                hooks=hooks,
            )
            port = await stack.enter_async_context(serve(build_app(service)))
            urls.append(f"http://{IP}:{port}")
            names.append(name)
        yield Node(
            id=str(role),
            role=role,
            state=NodeState.SERVING,
            since_s=0,
            agent_urls=tuple(urls),
            incarnation=RANK_SEPARATOR.join(names),
        )


def peer(mapping: RankMapping, prompt: Node, *, decoder_ranks: int) -> Peer:
    """Describe a prompt node as a decoder with so many ranks calls it."""
    pairs = rank_pairs(mapping, decoder_ranks, len(prompt.endpoints))
    return Peer(
        prompt.id,
        prompt.incarnation,
        tuple(prompt.endpoints[p] for _, p in pairs),
        tuple(d for d, _ in pairs),
    )
