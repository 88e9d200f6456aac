"""Nodes of several ranks: their agents are asked at once, and none of their answers is lost."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp
import anyio
import anyio.lowlevel
import pytest
from aiohttp import web

from pd_autoscaler.adapters.agent_client import AgentDeadlines, Call
from pd_autoscaler.adapters.node_agents import NodeAgents
from pd_autoscaler.adapters.rank_calls import merged
from pd_autoscaler.agent.http import serve
from pd_autoscaler.agent.wire import EngineWire
from pd_autoscaler.core.ranks import RankMapping
from pd_autoscaler.datadist.simulated import SimulatedDataDist
from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.model.facts import AgentPhase, EntryState
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import Endpoint, Node, NodeState, Role
from pd_autoscaler.model.plan import Peer
from pd_autoscaler.ports import ClusterResult, Fence, NodeAgent
from tests.support.agent import OK, FakeDataDist
from tests.support.clock import Clock
from tests.support.datadist_peers import refusing
from tests.support.ranks import libraries, node_of, peer

FENCE = Fence(1, "c1")
NEWER = Fence(2, "c2")
DEADLINES = AgentDeadlines(link_s=30, init_s=30, grace_s=60)


class SwitchingEngine:
    """An engine that can take the other role."""

    can_switch_role = True

    def load(self) -> EngineWire:
        return EngineWire()

    def register_memory(self) -> None:
        return None

    def switch_role(self, role: Role) -> None:
        return None


@dataclass
class Both:
    """A prompt and a decoder node whose ranks are all initialised, and the controller's hand."""

    hand: NodeAgent
    prompt: Node
    decoder: Node
    prompts: Sequence[SimulatedDataDist]
    decoders: Sequence[SimulatedDataDist]

    def far(self, mapping: RankMapping) -> Peer:
        """Describe the prompt node as the decoder calls it."""
        return peer(mapping, self.prompt, decoder_ranks=len(self.decoders))

    async def link(self, mapping: RankMapping, *, key: str = "link") -> list[ClusterResult]:
        return await told(self.hand.links(self.decoder, [self.far(mapping)], fence=FENCE, key=key))

    def held(self) -> list[list[int]]:
        """Which prompt ranks each decoder rank is linked to, as the libraries have it."""
        return [sorted(library.entities()) for library in self.decoders]


async def told(results: AsyncIterator[ClusterResult]) -> list[ClusterResult]:
    """Read results to their end; in the order of ranks, then of ids."""
    found = [result async for result in results]
    return sorted(found, key=lambda result: (result.rank, result.cluster_id))


@asynccontextmanager
async def client() -> AsyncIterator[NodeAgent]:
    async with aiohttp.ClientSession() as session:
        yield NodeAgents(session, deadlines=DEADLINES)


@asynccontextmanager
async def both(prompt_ranks: int, decoder_ranks: int) -> AsyncIterator[Both]:
    prompts = libraries(Role.PROMPT, *range(1, prompt_ranks + 1))
    decoders = libraries(Role.DECODER, *range(101, 101 + decoder_ranks))
    async with AsyncExitStack() as stack:
        hand = await stack.enter_async_context(client())
        made: list[Node] = []
        for role, ranks in ((Role.PROMPT, prompts), (Role.DECODER, decoders)):
            node = await stack.enter_async_context(node_of(role, ranks, hooks=SwitchingEngine()))
            await hand.init(node, role, fence=FENCE, key="init")
            state = await hand.state(node)
            made.append(replace(node, endpoints=state.endpoints))
        prompt, decoder = made
        yield Both(hand, prompt, decoder, prompts, decoders)
        for library in decoders:
            library.faults.release()
        for node in made:
            for rank in range(len(node.agent_urls)):
                await hand.finalize(one_rank(node, rank), fence=Fence(9, "end"), key="end")


def one_rank(node: Node, rank: int) -> Node:
    """The node that one rank would be, for whoever means that rank alone."""
    name = node.incarnation.split("+")[rank]
    return replace(node, agent_urls=(node.agent_urls[rank],), incarnation=name)


def done(rank: int, *cluster_ids: int) -> list[ClusterResult]:
    return [ClusterResult(i, OK, Verdict.SUCCESS, rank=rank) for i in cluster_ids]


async def test_two_ranks_are_one_node_with_two_endpoints() -> None:
    async with both(2, 2) as cluster:
        state = await cluster.hand.state(cluster.prompt)

    assert state.incarnation == cluster.prompt.incarnation == "prompt-boot-0+prompt-boot-1"
    assert (state.role, state.phase) == (Role.PROMPT, AgentPhase.READY)
    assert [(e.rank, e.cluster_id, bool(e.port)) for e in state.endpoints] == [
        (0, 1, True),
        (1, 2, True),
    ]
    assert (state.epoch, state.holder, state.can_switch_role) == (1, "c1", True)


@pytest.mark.parametrize(
    ("mapping", "prompt_ranks", "decoder_ranks", "held"),
    [
        (RankMapping.ONE_TO_ONE, 2, 2, [[1], [2]]),
        (RankMapping.MODULO, 4, 2, [[1, 3], [2, 4]]),
        (RankMapping.MODULO, 2, 4, [[1], [2], [1], [2]]),
        (RankMapping.ALL_TO_ALL, 4, 4, [[1, 2, 3, 4]] * 4),
    ],
)
async def test_every_rank_makes_its_own_calls_and_tells_of_them(
    mapping: RankMapping, prompt_ranks: int, decoder_ranks: int, held: list[list[int]]
) -> None:
    async with both(prompt_ranks, decoder_ranks) as cluster:
        results = await cluster.link(mapping)
        assert results == [r for rank, ids in enumerate(held) for r in done(rank, *ids)]
        assert cluster.held() == held

        rows = (await cluster.hand.state(cluster.decoder)).links
        assert sorted((row.rank, row.cluster_id) for row in rows) == [
            (rank, i) for rank, ids in enumerate(held) for i in ids
        ]
        assert {(row.state, row.peer_incarnation) for row in rows} == {
            (EntryState.LINKED, cluster.prompt.incarnation)
        }

        again = await told(
            cluster.hand.unlinks(
                cluster.decoder, [cluster.far(mapping)], force=False, fence=FENCE, key="unlink"
            )
        )
        assert again == results
        assert cluster.held() == [[]] * decoder_ranks


async def test_all_ranks_take_the_other_role() -> None:
    async with both(1, 2) as cluster:
        await cluster.hand.switch_role(cluster.decoder, Role.PROMPT, fence=FENCE, key="switch")
        state = await cluster.hand.state(cluster.decoder)

    assert (state.role, state.phase) == (Role.PROMPT, AgentPhase.READY)
    assert all(endpoint.port for endpoint in state.endpoints)


async def test_a_node_of_which_one_rank_is_silent_is_silent() -> None:
    async with both(1, 2) as cluster:
        with refusing("127.0.0.1") as (ip, port):
            urls = (cluster.decoder.agent_urls[0], f"http://{ip}:{port}")
            broken = replace(cluster.decoder, agent_urls=urls)
            with pytest.raises(TransientError, match=f"rank 1: http://{ip}:{port}/v1/state"):
                await cluster.hand.state(broken)


async def test_calls_that_a_dead_rank_would_have_made_are_told_as_not_begun() -> None:
    async with both(2, 2) as cluster:
        with refusing("127.0.0.1") as (ip, port):
            cluster.decoder = replace(
                cluster.decoder, agent_urls=(f"http://{ip}:{port}", cluster.decoder.agent_urls[1])
            )
            assert await cluster.link(RankMapping.ALL_TO_ALL) == [
                ClusterResult(1, "NOT_BEGUN", Verdict.RETRY),
                ClusterResult(2, "NOT_BEGUN", Verdict.RETRY),
                *done(1, 1, 2),
            ]
        assert cluster.held() == [[], [1, 2]]


async def test_where_no_rank_began_the_error_says_so_and_names_the_worst() -> None:
    async with both(2, 2) as cluster:
        with refusing("127.0.0.1") as (ip, port):
            decoder = cluster.decoder
            await cluster.hand.init(one_rank(decoder, 1), Role.DECODER, fence=NEWER, key="newer")
            urls = (f"http://{ip}:{port}", decoder.agent_urls[1])
            cluster.decoder = replace(decoder, agent_urls=urls)
            with pytest.raises(PermanentError, match=r"rank 1: .*fenced: .*\(and 1 more\)"):
                await cluster.link(RankMapping.ONE_TO_ONE)
        assert cluster.held() == [[], []]


async def test_a_rank_that_is_fenced_fails_the_node_and_stops_no_other_rank() -> None:
    ranks = libraries(Role.DECODER, 101, 102)
    async with client() as hand, node_of(Role.DECODER, ranks) as node:
        await hand.init(one_rank(node, 1), Role.DECODER, fence=NEWER, key="newer")
        with pytest.raises(PermanentError, match=r"rank 1: .*fenced: epoch 1 of c1 is over"):
            await hand.init(node, Role.DECODER, fence=FENCE, key="init")
        assert (await hand.state(one_rank(node, 0))).phase is AgentPhase.READY

        whole = await hand.state(node)
        assert (whole.epoch, whole.holder) == (2, "c2")
        await hand.finalize(node, fence=NEWER, key="end")
        assert (await hand.state(node)).phase is AgentPhase.FINALISED


async def test_a_node_is_as_far_as_its_slowest_rank() -> None:
    ranks = libraries(Role.DECODER, 101, 102)
    async with client() as hand, node_of(Role.DECODER, ranks) as node:
        await hand.init(one_rank(node, 0), Role.DECODER, fence=FENCE, key="first")
        half = await hand.state(node)
        assert (half.phase, half.role, half.endpoints) == (AgentPhase.NEW, None, ())

        await hand.init(node, Role.DECODER, fence=FENCE, key="all")
        whole = await hand.state(node)
        assert (whole.phase, whole.role) == (AgentPhase.READY, Role.DECODER)
        assert [endpoint.cluster_id for endpoint in whole.endpoints] == [101, 102]
        await hand.finalize(node, fence=FENCE, key="end")


async def test_a_rank_that_hangs_delays_no_other_and_its_call_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    async with both(2, 2) as cluster:
        cluster.decoders[1].faults.hang("link", 2)
        peers, results = [cluster.far(RankMapping.ALL_TO_ALL)], list[ClusterResult]()

        async def link() -> None:
            stream = cluster.hand.links(cluster.decoder, peers, fence=FENCE, key="link")
            async for result in stream:
                results.append(result)

        async with anyio.create_task_group() as group:
            group.start_soon(link)
            with anyio.fail_after(60):
                while len(results) < 3 or not cluster.decoders[1].faults.held("link", 2):
                    await anyio.lowlevel.checkpoint()
            clock.advance(30)
        assert results[3] == ClusterResult(2, "DEADLINE", Verdict.FORCE, is_unknown=True, rank=1)
        state = await cluster.hand.state(cluster.decoder)
        assert (state.calls_in_flight, state.calls_hung) == (0, 1)
        cluster.decoders[1].faults.release()
        with anyio.fail_after(60):
            while (await cluster.hand.state(cluster.decoder)).calls_hung:
                await anyio.lowlevel.checkpoint()


async def test_one_unknown_rank_leaves_the_whole_node_in_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    ranks = [FakeDataDist(1), FakeDataDist(2), FakeDataDist(3)]
    async with client() as hand, node_of(Role.DECODER, ranks) as node:
        await hand.init(one_rank(node, 2), Role.DECODER, fence=NEWER, key="newer")
        held = ranks[1].hold("init")

        async def init() -> None:
            said = r"rank 1: .*deadline.*\(and 1 more\)"
            with pytest.raises(OutcomeUnknownError, match=said):
                await hand.init(node, Role.DECODER, fence=FENCE, key="init")

        async with anyio.create_task_group() as group:
            group.start_soon(init)
            with anyio.fail_after(60):
                await held.entered()
                while (await hand.state(one_rank(node, 0))).phase is not AgentPhase.READY:
                    await anyio.lowlevel.checkpoint()
            clock.advance(30)
        ranks[1].release_all()


async def test_an_incarnation_of_another_number_of_ranks_is_refused_with_both_counts() -> None:
    async with both(1, 2) as cluster:
        grown = replace(cluster.decoder, agent_urls=(*cluster.decoder.agent_urls, "http://x:1"))
        said = "decoder has 3 agents and was last read when it had 2"
        with pytest.raises(PermanentError, match=said):
            await cluster.hand.init(grown, Role.DECODER, fence=FENCE, key="i")
        cluster.decoder = grown
        with pytest.raises(PermanentError, match=said):
            await cluster.link(RankMapping.MODULO)


async def test_a_call_of_a_rank_that_is_not_there_is_refused() -> None:
    async with both(2, 1) as cluster:
        far = peer(RankMapping.ONE_TO_ONE, cluster.prompt, decoder_ranks=2)
        with pytest.raises(PermanentError, match="decoder has no rank 1: it has 1 agents"):
            await told(cluster.hand.links(cluster.decoder, [far], fence=FENCE, key="k"))


async def test_a_reader_that_leaves_early_leaves_nothing_behind() -> None:
    async with both(2, 2) as cluster:
        far = cluster.far(RankMapping.ALL_TO_ALL)
        stream = cluster.hand.links(cluster.decoder, [far], fence=FENCE, key="k")
        assert isinstance(stream, AsyncGenerator)
        async with aclosing(stream) as results:
            async for result in results:
                assert result.verdict is Verdict.SUCCESS
                break
        assert not [task for task in asyncio.all_tasks() if "_relay" in task.get_name()]
        # The calls go on at the agents, whoever reads.
        assert len(await cluster.link(RankMapping.ALL_TO_ALL, key="k")) == 4


async def test_a_fault_of_our_own_leaves_what_was_not_told_in_doubt() -> None:
    async def breaks_off() -> AsyncGenerator[ClusterResult, None]:
        yield ClusterResult(1, OK, Verdict.SUCCESS)
        raise ZeroDivisionError

    async def works() -> AsyncGenerator[ClusterResult, None]:
        yield ClusterResult(3, OK, Verdict.SUCCESS, rank=1)

    calls = {0: [call_to(1), call_to(2)], 1: [call_to(3)]}
    assert await told(merged({0: breaks_off(), 1: works()}, calls)) == [
        ClusterResult(1, OK, Verdict.SUCCESS),
        ClusterResult(2, "NO_ANSWER", Verdict.FORCE, is_unknown=True),
        *done(1, 3),
    ]


def call_to(cluster_id: int) -> Call:
    return Call(Endpoint(0, cluster_id, "127.0.0.1", 26000), "boot")


@asynccontextmanager
async def recording(asked: list[dict[str, float]]) -> AsyncIterator[str]:
    """An agent that does what it is asked at once, and keeps what it was given for it."""

    async def links(request: web.Request) -> web.Response:
        body = await request.json()
        asked.append({"timeout_ms": body["timeout_ms"], "deadline_s": body["deadline_s"]})
        lines = [
            {"id": each["id"], "outcome": "done", "code": OK, "verdict": "success"}
            for each in body["clusters"]
        ]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        return web.Response(text=text, content_type="application/x-ndjson")

    app = web.Application()
    app.router.add_post("/v1/links", links)
    app.router.add_post("/v1/unlinks", links)
    async with serve(app) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(("calls", "waves"), [(1, 1), (16, 1), (17, 2), (48, 3)])
async def test_more_calls_than_run_at_once_have_as_much_longer(calls: int, waves: int) -> None:
    asked: list[dict[str, float]] = []
    ends = tuple(Endpoint(i, i, "127.0.0.1", 26000 + i) for i in range(calls))
    async with recording(asked) as url, client() as hand:
        node = Node(
            id="d1", role=Role.DECODER, state=NodeState.SERVING, since_s=0, agent_urls=(url,)
        )
        far = Peer("p1", "boot", ends)
        assert len(await told(hand.links(node, [far], fence=FENCE, key="k"))) == calls
        await told(hand.unlinks(node, [far], force=False, fence=FENCE, key="k"))
    assert asked == [{"timeout_ms": 3000 * waves, "deadline_s": 30 * waves}] * 2
