"""The controller's hand on whole nodes: `ports.NodeAgent` as one call to the agent of each rank."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing

import aiohttp

from pd_autoscaler.adapters.agent_client import AgentClient, AgentDeadlines, Call
from pd_autoscaler.adapters.agent_states import state_of_node
from pd_autoscaler.adapters.rank_calls import Results, all_of, merged
from pd_autoscaler.core.call_waves import call_waves
from pd_autoscaler.errors import PermanentError
from pd_autoscaler.model.facts import AgentState
from pd_autoscaler.model.node import RANK_SEPARATOR, Node, Role
from pd_autoscaler.model.plan import Peer
from pd_autoscaler.ports import ClusterResult, Fence

Begin = Callable[[AgentClient, Sequence[Call], int, str], Results]
"""Begins one rank's calls: its agent, the calls, in how many waves, under which key."""


class NodeAgents:
    """Calls the agents at a node's `agent_urls`, meaning the processes of its `incarnation`.

    All ranks are called at once. The session is the caller's (with its TLS settings); `token` is
    sent as a bearer token.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        deadlines: AgentDeadlines | None = None,
        token: str | None = None,
    ) -> None:
        self._session = session
        self._deadlines = AgentDeadlines() if deadlines is None else deadlines
        self._token = token

    async def state(self, node: Node) -> AgentState:
        """Read a node's state; a node of which a rank is silent is silent as a whole.

        No answer is a TransientError, a nonsense one a PermanentError.
        """
        # Who asks need not know the processes yet.
        agents = [self._agent(node, rank, "") for rank in range(len(node.agent_urls))]
        return state_of_node(await all_of([agent.state for agent in agents]))

    async def init(self, node: Node, role: Role, *, fence: Fence, key: str) -> None:
        """Initialise every rank's library object; one that is ready in this role is a success."""
        await self._each(node, key, lambda agent, key: agent.init(role, fence=fence, key=key))

    async def switch_role(self, node: Node, role: Role, *, fence: Fence, key: str) -> None:
        """Have an unlinked node take a role without a restart; a rank that has it is a success."""
        await self._each(
            node, key, lambda agent, key: agent.switch_role(role, fence=fence, key=key)
        )

    async def claim(self, node: Node, *, fence: Fence) -> None:
        """Have every rank's agent obey this fence from now on."""
        key = f"claim:{fence.holder}:{fence.epoch}"
        await self._each(node, key, lambda agent, key: agent.claim(fence=fence, key=key))

    async def finalize(self, node: Node, *, fence: Fence, key: str) -> None:
        """Finalise every rank's library object; refused while a native call is inside one."""
        await self._each(node, key, lambda agent, key: agent.finalize(fence=fence, key=key))

    def links(
        self, node: Node, peers: Sequence[Peer], *, fence: Fence, key: str
    ) -> AsyncIterator[ClusterResult]:
        """Make every call of these peers, yielding each as it ends.

        Raises before the first result when nothing was begun at any rank. Once something was, a
        call that was not begun at another is yielded as failed (NOT_BEGUN, worth a retry), and one
        whose answer does not come as unknown.
        """
        return self._fanned(
            node,
            peers,
            key,
            lambda agent, calls, waves, key: agent.links(calls, waves=waves, fence=fence, key=key),
        )

    def unlinks(
        self, node: Node, peers: Sequence[Peer], *, force: bool, fence: Fence, key: str
    ) -> AsyncIterator[ClusterResult]:
        """Unlink as every call of these peers says, yielding each as it ends; errors as `links`."""
        return self._fanned(
            node,
            peers,
            key,
            lambda agent, calls, waves, key: agent.unlinks(
                calls, force=force, waves=waves, fence=fence, key=key
            ),
        )

    def _agent(self, node: Node, rank: int, incarnation: str) -> AgentClient:
        return AgentClient(
            self._session,
            node.agent_urls[rank],
            rank=rank,
            incarnation=incarnation,
            deadlines=self._deadlines,
            token=self._token,
        )

    def _processes(self, node: Node) -> list[AgentClient]:
        """Return an agent for each rank that means the process known there."""
        incarnations = node.incarnation.split(RANK_SEPARATOR)
        if len(incarnations) != len(node.agent_urls):
            raise PermanentError(
                f"{node.id} has {len(node.agent_urls)} agents and was last read when it had "
                f"{len(incarnations)}: nothing is asked of it until all of them have answered"
            )
        return [self._agent(node, rank, name) for rank, name in enumerate(incarnations)]

    async def _each(
        self, node: Node, key: str, call: Callable[[AgentClient, str], Awaitable[None]]
    ) -> None:
        def at(rank: int, agent: AgentClient) -> Callable[[], Awaitable[None]]:
            return lambda: call(agent, f"{key}:{rank}")

        await all_of([at(rank, agent) for rank, agent in enumerate(self._processes(node))])

    async def _fanned(self, node: Node, peers: Sequence[Peer], key: str, begin: Begin) -> Results:
        """Make each rank's calls in one request to its agent, and give the results as they come."""
        calls = _by_rank(peers)
        if not calls:
            return
        agents = self._processes(node)
        if max(calls) >= len(agents):
            raise PermanentError(f"{node.id} has no rank {max(calls)}: it has {len(agents)} agents")
        waves = call_waves(peers)
        streams = {
            rank: begin(agents[rank], calls[rank], waves, f"{key}:{rank}") for rank in sorted(calls)
        }
        if len(streams) == 1:
            [results] = streams.values()
        else:
            results = merged(streams, calls)
        async with aclosing(results):
            async for result in results:
                yield result


def _by_rank(peers: Sequence[Peer]) -> dict[int, list[Call]]:
    calls: dict[int, list[Call]] = {}
    for peer in peers:
        for rank, endpoint in peer.calls:
            calls.setdefault(rank, []).append(Call(endpoint, peer.incarnation))
    return calls
