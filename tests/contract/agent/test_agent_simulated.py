"""Agents beside simulated libraries: what their tables say is what the libraries hold."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import anyio
import anyio.lowlevel
import pytest

from pd_autoscaler.adapters.agent_client import AgentDeadlines
from pd_autoscaler.adapters.node_agents import NodeAgents
from pd_autoscaler.agent.hooks import NoHooks
from pd_autoscaler.datadist.api import Cluster, DataDistRole
from pd_autoscaler.datadist.simulated import SimulatedDataDist, SimulatedProcess
from pd_autoscaler.errors import PermanentError, TransientError
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


class Switching(NoHooks):
    """An engine that takes either role, or raises what a test says."""

    can_switch_role = True

    def __init__(self) -> None:
        self.error: Exception | None = None

    def switch_role(self, role: Role) -> None:
        if self.error is not None:
            raise self.error


def library(role: Role, cluster_id: int) -> SimulatedDataDist:
    name = DataDistRole.PROMPT if role is Role.PROMPT else DataDistRole.DECODER
    return SimulatedDataDist(name, cluster_id, process=SimulatedProcess())


def node(running: Agent, role: Role) -> Node:
    return Node(
        id=running.url,
        role=role,
        state=NodeState.SERVING,
        since_s=0,
        agent_urls=(running.url,),
        incarnation=INCARNATION,
    )


class Pair:
    """A prompt and a decoder whose agents are ready, and the controller's hand."""

    def __init__(self, hand: NodeAgent, far: Agent, near: Agent) -> None:
        self.hand, self.far, self.near = hand, far, near
        self.prompt, self.decoder = node(far, Role.PROMPT), node(near, Role.DECODER)

    async def link(
        self, key: str, *, on: Node | None = None, to: Node | None = None
    ) -> list[ClusterResult]:
        peer = await self.peer(to or self.prompt)
        stream = self.hand.links(on or self.decoder, [peer], fence=FENCE, key=key)
        return [result async for result in stream]

    async def unlink(
        self, key: str, *, force: bool = False, on: Node | None = None, to: Node | None = None
    ) -> list[ClusterResult]:
        peer = await self.peer(to or self.prompt)
        stream = self.hand.unlinks(on or self.decoder, [peer], force=force, fence=FENCE, key=key)
        return [result async for result in stream]

    async def switch(self, key: str, of: Node, role: Role) -> None:
        await self.hand.switch_role(of, role, fence=FENCE, key=key)

    async def peer(self, of: Node) -> Peer:
        state = await self.hand.state(of)
        return Peer(of.id, state.incarnation, state.endpoints)

    async def table(self) -> list[tuple[EntryState, str]]:
        return [(row.state, row.code) for row in (await self.state()).links]

    async def state(self) -> AgentState:
        return await self.hand.state(self.decoder)


@asynccontextmanager
async def pair(
    prompt: SimulatedDataDist,
    decoder: SimulatedDataDist,
    *,
    engine: NoHooks | None = None,
    listen: str = "127.0.0.1:0",
) -> AsyncIterator[Pair]:
    """Run both agents; `listen` is the decoder's, for when it becomes a prompt."""
    hooks = engine or Switching()
    async with AsyncExitStack() as stack:
        far = await stack.enter_async_context(
            agent(prompt, ready_as="prompt", options=OPTIONS, hooks=hooks)
        )
        near = await stack.enter_async_context(
            agent(decoder, ready_as="decoder", options=OPTIONS, hooks=hooks, listen=listen)
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        hand = NodeAgents(session, deadlines=DEADLINES)
        yield Pair(hand, far, near)
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


async def test_a_pair_takes_each_others_role_and_links_the_other_way() -> None:
    prompt, decoder = library(Role.PROMPT, 1), library(Role.DECODER, 2)
    async with pair(prompt, decoder) as both:
        assert (await both.state()).can_switch_role
        await both.link("a")
        assert decoder.entities() == (1,)
        for key, of, role in [
            ("b", both.prompt, Role.DECODER),
            ("c", both.decoder, Role.PROMPT),
        ]:
            # Neither end's table decides: the library knows what is left, on the prompt alike.
            with pytest.raises(TransientError, match="links_left"):
                await both.switch(key, of, role)

        await both.unlink("d")
        await both.switch("e", both.prompt, Role.DECODER)
        await both.switch("f", both.decoder, Role.PROMPT)
        was_prompt, was_decoder = await both.hand.state(both.prompt), await both.state()
        assert (was_prompt.role, was_prompt.endpoints[0].port) == (Role.DECODER, None)
        assert was_decoder.role is Role.PROMPT

        [linked] = await both.link("g", on=both.prompt, to=both.decoder)
        assert linked == ClusterResult(2, OK, Verdict.SUCCESS)
        assert (prompt.entities(), decoder.entities()) == ((2,), (1,))
        assert [line.outcome for line in (await both.far.unlinks(2, force=True)).values()] == [
            "done"
        ]


async def test_links_of_a_decoder_that_is_gone_keep_a_prompt_until_it_drops_them() -> None:
    prompt, decoder = library(Role.PROMPT, 1), library(Role.DECODER, 2)
    async with pair(prompt, decoder) as both:
        await both.link("a")
        await both.hand.finalize(both.decoder, fence=FENCE, key="b")
        with pytest.raises(TransientError, match="links_left"):
            await both.switch("c", both.prompt, Role.DECODER)

        assert (await both.far.unlinks(2, force=True))[2].outcome == "done"
        await both.switch("d", both.prompt, Role.DECODER)
        assert prompt.role is DataDistRole.DECODER


async def test_a_decoder_whose_port_is_taken_stays_a_decoder() -> None:
    decoder = library(Role.DECODER, 2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with pair(library(Role.PROMPT, 1), decoder, listen=f"127.0.0.1:{port}") as both:
            with pytest.raises(TransientError, match="library_failed"):
                await both.switch("a", both.decoder, Role.PROMPT)
            assert (await both.state()).role is Role.DECODER
            assert decoder.role is DataDistRole.DECODER
            assert (await both.link("b"))[0].verdict is Verdict.SUCCESS
            await both.unlink("c")

            taken.close()
            await both.switch("d", both.decoder, Role.PROMPT)
            assert (await both.state()).endpoints[0].port == port


async def test_a_prompt_whose_engine_cannot_follow_can_be_linked_as_before() -> None:
    prompt, engine = library(Role.PROMPT, 1), Switching()
    async with pair(prompt, library(Role.DECODER, 2), engine=engine) as both:
        before = await both.hand.state(both.prompt)
        engine.error = RuntimeError("no scheduler for it")
        with pytest.raises(TransientError, match="no scheduler"):
            await both.switch("a", both.prompt, Role.DECODER)
        after = await both.hand.state(both.prompt)
        assert (after.role, after.endpoints) == (Role.PROMPT, before.endpoints)
        assert prompt.role is DataDistRole.PROMPT
        assert (await both.link("b"))[0].verdict is Verdict.SUCCESS


async def test_an_engine_that_cannot_switch_is_not_asked_again() -> None:
    async with pair(library(Role.PROMPT, 1), library(Role.DECODER, 2), engine=NoHooks()) as both:
        assert not (await both.state()).can_switch_role
        with pytest.raises(PermanentError, match="cannot_switch"):
            await both.switch("a", both.decoder, Role.PROMPT)


async def test_a_link_on_which_transfers_fail_is_cured_like_any_other_in_doubt() -> None:
    prompt, decoder = library(Role.PROMPT, 1), library(Role.DECODER, 2)
    async with pair(prompt, decoder) as both:
        await both.link("a")
        for code in ("LLM_KV_CACHE_NOT_EXIST", "LLM_TIMEOUT", "LLM_TIMEOUT", "E_ROUTER"):
            both.near.service.transfer_failed(1, code, began_s=anyio.current_time())
        assert await both.table() == [(EntryState.UNKNOWN, "LLM_TIMEOUT")]
        page = await both.near.metrics()
        name = "pd_autoscaler_agent_transfer_failures_total"
        assert f'{name}{{code="LLM_TIMEOUT"}} 2.0' in page
        assert f'{name}{{code="other"}} 1.0' in page

        await both.unlink("b", force=True)
        await both.unlink("c", force=True, on=both.prompt, to=both.decoder)
        assert (await both.link("d"))[0].verdict is Verdict.SUCCESS


async def test_a_link_that_this_end_lost_is_made_again_by_a_plain_link() -> None:
    prompt, decoder = library(Role.PROMPT, 1), library(Role.DECODER, 2)
    async with pair(prompt, decoder) as both:
        await both.link("a")
        # The engine dropped its own end; the prompt still holds the other.
        decoder.unlink_clusters([Cluster(1)], 1000, True)
        now_s = anyio.current_time()
        both.near.service.transfer_failed(1, "LLM_NOT_YET_LINK", began_s=now_s)
        assert await both.table() == [(EntryState.FAILED, "LLM_NOT_YET_LINK")]
        assert prompt.entities() == (2,)

        assert (await both.link("b"))[0].verdict is Verdict.SUCCESS
        assert (decoder.entities(), prompt.entities()) == ((1,), (2,))


async def test_the_end_that_was_linked_to_has_no_row_and_counts_the_failure() -> None:
    async with pair(library(Role.PROMPT, 1), library(Role.DECODER, 2)) as both:
        await both.link("a")
        both.far.service.transfer_failed(2, "LLM_TIMEOUT", began_s=anyio.current_time())
        assert await both.far.table() == {}
        name = "pd_autoscaler_agent_transfer_failures_total"
        assert f'{name}{{code="LLM_TIMEOUT"}} 1.0' in await both.far.metrics()


async def test_a_peer_that_stays_silent_leaves_slots_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, prompt, decoder = Clock(monkeypatch), library(Role.PROMPT, 1), library(Role.DECODER, 2)
    async with pair(prompt, decoder) as both:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            # It takes connections and never answers: the library has no bound for that.
            port = silent.getsockname()[1]
            codes = []
            for _ in range(16):
                codes.append(await tried(both.near, clock, port))
                await both.near.unlinks(9, force=True)
            assert codes == ["DEADLINE"] * 2 + ["CALL_IN_PROGRESS"] * 14
            state = await both.near.state()
            assert [call.cluster_ids for call in state.hung] == [[9], [9]]

            assert (await both.link("a"))[0].verdict is Verdict.SUCCESS
            assert (await both.near.get("/healthz")).status == 200
        # It is gone, and its calls with it.
        while (await both.near.state()).calls_hung:
            await anyio.lowlevel.checkpoint()
        await both.unlink("b")


async def tried(running: Agent, clock: Clock, port: int) -> str:
    """Link the peer on a port; once the call is inside the library its deadline passes."""
    peer = {"id": 9, "ip": "127.0.0.1", "port": port}
    async with running.streaming("/v1/links", clusters=[peer], deadline_s=30) as stream:
        if (await running.table()).get(9):
            while (await running.state()).calls_in_flight != 1:
                await anyio.lowlevel.checkpoint()
            clock.advance(30)
        return (await stream.line()).code
