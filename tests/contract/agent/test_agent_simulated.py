"""Agents beside simulated libraries: what their tables say is what the libraries hold."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import anyio
import anyio.lowlevel
import pytest

from pd_autoscaler.adapters.agent_client import AgentClient, AgentDeadlines
from pd_autoscaler.datadist.api import DataDistRole
from pd_autoscaler.datadist.simulated import SimulatedDataDist, SimulatedProcess
from pd_autoscaler.model.facts import AgentState, EntryState
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.plan import Peer
from pd_autoscaler.ports import ClusterResult, Fence, NodeAgent
from tests.support.agent import INCARNATION, OK, Agent, agent
from tests.support.clock import Clock

OPTIONS = {"device_id": 0, "local_comm_res": ""}
FENCE = Fence(1, "c1")
DEADLINES = AgentDeadlines(link_s=30, grace_s=60)


def library(role: Role, cluster_id: int) -> SimulatedDataDist:
    name = DataDistRole.PROMPT if role is Role.PROMPT else DataDistRole.DECODER
    return SimulatedDataDist(name, cluster_id, process=SimulatedProcess())


def node(running: Agent, role: Role) -> Node:
    return Node(
        id=running.url,
        role=role,
        state=NodeState.SERVING,
        since_s=0,
        agent_url=running.url,
        incarnation=INCARNATION,
    )


class Pair:
    """A prompt and a decoder whose agents are ready, and the controller's hand."""

    def __init__(self, hand: NodeAgent, prompt: Node, decoder: Node) -> None:
        self.hand, self.prompt, self.decoder = hand, prompt, decoder

    async def link(self, key: str) -> list[ClusterResult]:
        peer = await self.peer(self.prompt)
        stream = self.hand.links(self.decoder, [peer], fence=FENCE, key=key)
        return [result async for result in stream]

    async def unlink(
        self, key: str, *, force: bool = False, on: Node | None = None, to: Node | None = None
    ) -> list[ClusterResult]:
        peer = await self.peer(to or self.prompt)
        stream = self.hand.unlinks(on or self.decoder, [peer], force=force, fence=FENCE, key=key)
        return [result async for result in stream]

    async def peer(self, of: Node) -> Peer:
        state = await self.hand.state(of)
        return Peer(of.id, state.incarnation, state.endpoints)

    async def table(self) -> list[tuple[EntryState, str]]:
        return [(row.state, row.code) for row in (await self.state()).links]

    async def state(self) -> AgentState:
        return await self.hand.state(self.decoder)


@asynccontextmanager
async def pair(prompt: SimulatedDataDist, decoder: SimulatedDataDist) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        far = await stack.enter_async_context(agent(prompt, ready_as="prompt", options=OPTIONS))
        near = await stack.enter_async_context(agent(decoder, ready_as="decoder", options=OPTIONS))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        hand = AgentClient(session, deadlines=DEADLINES)
        yield Pair(hand, node(far, Role.PROMPT), node(near, Role.DECODER))
        decoder.faults.release()
        await hand.finalize(node(near, Role.DECODER), fence=FENCE, key="end")
        await hand.finalize(node(far, Role.PROMPT), fence=FENCE, key="end")


async def test_a_pair_is_linked_linked_again_unlinked_and_unlinked_again() -> None:
    async with pair(library(Role.PROMPT, 1), library(Role.DECODER, 2)) as both:
        assert await both.link("a") == [ClusterResult(1, OK, Verdict.SUCCESS)]
        assert await both.table() == [(EntryState.LINKED, OK)]
        assert await both.link("b") == [ClusterResult(1, "LLM_ALREADY_LINK", Verdict.SUCCESS)]

        assert await both.unlink("c") == [ClusterResult(1, OK, Verdict.SUCCESS)]
        assert await both.table() == []
        [again] = await both.unlink("d")
        assert (again.verdict, again.is_unknown) == (Verdict.SUCCESS, False)


async def test_a_hanging_link_is_cured_by_force_on_both_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, decoder = Clock(monkeypatch), library(Role.DECODER, 2)
    async with pair(library(Role.PROMPT, 1), decoder) as both:
        decoder.faults.hang("link", 1)
        results: list[ClusterResult] = []

        async def link() -> None:
            results.extend(await both.link("a"))

        async with anyio.create_task_group() as group:
            group.start_soon(link)
            while not decoder.faults.held("link", 1):
                await anyio.lowlevel.checkpoint()
            clock.advance(30)
        assert results == [ClusterResult(1, "DEADLINE", Verdict.FORCE, is_unknown=True)]
        assert await both.table() == [(EntryState.UNKNOWN, "DEADLINE")]

        cured = [ClusterResult(1, OK, Verdict.SUCCESS)]
        assert await both.unlink("b", force=True) == cured
        assert await both.unlink("c", force=True, on=both.prompt, to=both.decoder) == [
            ClusterResult(2, OK, Verdict.SUCCESS)
        ]
        assert await both.table() == []

        # The call goes on after all and succeeds: nobody wants that link, and everybody sees it.
        decoder.faults.release()
        while (await both.state()).calls_hung:
            await anyio.lowlevel.checkpoint()
        assert await both.table() == [(EntryState.UNKNOWN, "LATE_SUCCESS")]
        assert await both.unlink("d", force=True) == cured
        assert await both.link("e") == cured
