"""The controller's client: against a real agent, and against servers that are none."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import anyio.abc
import pytest
from aiohttp import web

from pd_autoscaler.adapters.agent_client import AgentDeadlines
from pd_autoscaler.adapters.node_agents import NodeAgents
from pd_autoscaler.agent.http import serve
from pd_autoscaler.agent.wire import EngineWire
from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.model.facts import AgentPhase, EngineLoad, EntryState
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import Endpoint, Node, NodeState, Role
from pd_autoscaler.model.plan import Peer
from pd_autoscaler.ports import ClusterResult, Fence, NodeAgent
from tests.support.agent import INCARNATION, OK, FakeDataDist, agent
from tests.support.clock import Clock

FENCE = Fence(1, "c1")
STATE = {
    "version": "0",
    "node_id": "n1",
    "role": "decoder",
    "phase": "ready",
    "incarnation": INCARNATION,
}
DONE = {"outcome": "done", "code": OK, "verdict": "success"}
JSON = "application/json"
LINES = "application/x-ndjson"
LINKED = [ClusterResult(1, OK, Verdict.SUCCESS), ClusterResult(2, OK, Verdict.SUCCESS)]
NOTHING_KNOWN = [
    ClusterResult(1, "NO_ANSWER", Verdict.FORCE, is_unknown=True),
    ClusterResult(2, "NO_ANSWER", Verdict.FORCE, is_unknown=True),
]


class Hooks:
    can_switch_role = False

    def load(self) -> EngineWire:
        return EngineWire(waiting=3, running=4)

    def register_memory(self) -> None:
        return None

    def switch_role(self, role: Role) -> None:
        return None


def node(url: str, incarnation: str = INCARNATION) -> Node:
    return Node(
        id="n1",
        role=Role.DECODER,
        state=NodeState.SERVING,
        since_s=0,
        agent_urls=(url,),
        incarnation=incarnation,
    )


def peers(*cluster_ids: int) -> list[Peer]:
    return [
        Peer(f"p{cluster_id}", f"boot-{cluster_id}", (Endpoint(0, cluster_id, "127.0.0.1", 26000),))
        for cluster_id in cluster_ids
    ]


@asynccontextmanager
async def client(**settings: Any) -> AsyncIterator[NodeAgent]:
    async with aiohttp.ClientSession() as session:
        yield NodeAgents(session, **settings)


async def links(
    hand: NodeAgent, to: Node, *cluster_ids: int, fence: Fence = FENCE, key: str = "k"
) -> list[ClusterResult]:
    found = [result async for result in hand.links(to, peers(*cluster_ids), fence=fence, key=key)]
    return sorted(found, key=lambda result: result.cluster_id)


async def unlinks(
    hand: NodeAgent, to: Node, *cluster_ids: int, force: bool = False
) -> list[ClusterResult]:
    stream = hand.unlinks(to, peers(*cluster_ids), force=force, fence=FENCE, key="u")
    return sorted([result async for result in stream], key=lambda result: result.cluster_id)


@asynccontextmanager
async def answering(status: int, content_type: str, body: bytes) -> AsyncIterator[str]:
    """A server with one answer for everything."""

    async def answer(_: web.Request) -> web.Response:
        headers = {"Content-Type": content_type, "Location": "/elsewhere"}
        return web.Response(status=status, body=body, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with serve(app) as port:
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def breaking_off(answer: bytes) -> AsyncIterator[str]:
    """A server that reads a request, sends these bytes and closes."""

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            if answer:
                await stream.send(answer)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        yield f"http://127.0.0.1:{port}"
        group.cancel_scope.cancel()


def head(content_type: str, length: int) -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def line(cluster_id: int, **fields: Any) -> bytes:
    return json.dumps({"id": cluster_id} | DONE | fields).encode() + b"\n"


async def test_the_state_arrives_as_the_model_has_it() -> None:
    datadist = FakeDataDist(cluster_id=2**64 - 1)
    datadist.codes["link", 2] = "LLM_LINK_FAILED"
    async with agent(datadist, hooks=Hooks(), ready_as=None) as running, client() as hand:
        to = node(running.url)
        assert (await hand.state(to)).phase is AgentPhase.NEW
        await hand.init(to, Role.PROMPT, fence=Fence(3, "c1"), key="i")
        await links(hand, to, 1, 2, fence=Fence(3, "c1"))

        before_s = anyio.current_time()
        state = await hand.state(to)

    assert before_s <= state.at_s
    assert (state.node_id, state.incarnation, state.role) == ("n1", INCARNATION, Role.PROMPT)
    assert (state.phase, state.epoch, state.holder) == (AgentPhase.READY, 3, "c1")
    assert state.engine == EngineLoad(waiting=3, running=4)
    [endpoint] = state.endpoints
    assert (endpoint.cluster_id, endpoint.ip) == (2**64 - 1, "127.0.0.1")
    assert endpoint.port
    rows = [(row.cluster_id, row.state, row.peer_incarnation, row.code) for row in state.links]
    assert rows == [
        (1, EntryState.LINKED, "boot-1", OK),
        (2, EntryState.FAILED, "boot-2", "LLM_LINK_FAILED"),
    ]


async def test_each_cluster_has_a_result_of_its_own() -> None:
    datadist = FakeDataDist()
    datadist.codes["link", 2] = "LLM_TIMEOUT"
    async with agent(datadist) as running, client() as hand:
        to = node(running.url + "/")
        assert await links(hand, to, 1, 2) == [
            ClusterResult(1, OK, Verdict.SUCCESS),
            ClusterResult(2, "LLM_TIMEOUT", Verdict.FORCE),
        ]
        assert await unlinks(hand, to, 1) == [ClusterResult(1, OK, Verdict.SUCCESS)]
        await hand.finalize(to, fence=FENCE, key="f")
        assert (await hand.state(to)).phase is AgentPhase.FINALISED


async def test_a_forced_unlink_goes_out_as_one() -> None:
    datadist = FakeDataDist()
    async with agent(datadist) as running, client() as hand:
        await unlinks(hand, node(running.url), 7, force=True)
    assert datadist.count("force", 7) == 1


async def test_no_peers_are_no_call() -> None:
    async with client() as hand:
        assert await links(hand, node("http://127.0.0.1:9")) == []


async def test_a_hung_call_is_unknown_with_the_agents_code(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    deadlines = AgentDeadlines(link_s=30, grace_s=60)
    async with agent(datadist) as running, client(deadlines=deadlines) as hand:
        held = datadist.hold("link", 1)
        results: list[ClusterResult] = []

        async def link() -> None:
            results.extend(await links(hand, node(running.url), 1, 2))

        async with anyio.create_task_group() as group:
            group.start_soon(link)
            await held.entered()
            clock.advance(30)
    assert results == [
        ClusterResult(1, "DEADLINE", Verdict.FORCE, is_unknown=True),
        ClusterResult(2, OK, Verdict.SUCCESS),
    ]


async def test_a_call_whose_reader_gives_up_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    deadlines = AgentDeadlines(link_s=30, init_s=30)
    async with agent(datadist, ready_as=None) as running, client(deadlines=deadlines) as hand:
        held = datadist.hold("init")

        async def init() -> None:
            with pytest.raises(OutcomeUnknownError, match="init"):
                await hand.init(node(running.url), Role.DECODER, fence=FENCE, key="k")

        async with anyio.create_task_group() as group:
            group.start_soon(init)
            await held.entered()
            clock.advance(30)


@pytest.mark.parametrize(
    ("fence", "incarnation", "said"),
    [
        (Fence(0, "c1"), INCARNATION, "fenced: epoch 0 of c1 is over"),
        (Fence(1, "c2"), INCARNATION, "fenced: epoch 1 is held by c1"),
        (Fence(2, "c1"), "boot-0", "incarnation_mismatch: this is incarnation boot-1"),
    ],
)
async def test_a_refusal_is_permanent_in_the_agents_words(
    fence: Fence, incarnation: str, said: str
) -> None:
    async with agent(FakeDataDist()) as running, client() as hand:
        to = node(running.url, incarnation)
        with pytest.raises(PermanentError, match=said):
            await hand.init(to, Role.DECODER, fence=fence, key="i")
        with pytest.raises(PermanentError, match=said):
            await hand.finalize(to, fence=fence, key="f")
        with pytest.raises(PermanentError, match=said):
            await links(hand, to, 1, fence=fence)


async def test_an_agent_that_is_not_ready_is_worth_a_retry() -> None:
    async with agent(FakeDataDist(), ready_as=None) as running, client() as hand:
        with pytest.raises(TransientError, match="not_ready: the library is new"):
            await links(hand, node(running.url), 1)


async def test_the_token_is_sent() -> None:
    async with agent(FakeDataDist(), token="s3cret") as running:
        async with client(token="s3cret") as hand:
            assert (await hand.state(node(running.url))).phase is AgentPhase.READY
        async with client() as hand:
            with pytest.raises(PermanentError, match="token"):
                await hand.state(node(running.url))


async def test_nobody_there_means_that_nothing_happened() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        to = node(f"http://127.0.0.1:{closed.getsockname()[1]}")
        async with client() as hand:
            with pytest.raises(TransientError):
                await hand.state(to)
            with pytest.raises(TransientError):
                await hand.init(to, Role.DECODER, fence=FENCE, key="i")
            with pytest.raises(TransientError):
                await hand.finalize(to, fence=FENCE, key="f")
            with pytest.raises(TransientError):
                await links(hand, to, 1)


async def test_a_url_that_is_none_is_permanent() -> None:
    async with client() as hand:
        with pytest.raises(PermanentError, match="is not a URL"):
            await hand.state(node("nowhere"))


@pytest.mark.parametrize(
    ("status", "reason", "read", "mutation"),
    [
        (302, None, PermanentError, PermanentError),
        (400, "bad_request", PermanentError, PermanentError),
        (401, "unauthorised", PermanentError, PermanentError),
        (404, None, PermanentError, PermanentError),
        (409, "hung_calls", PermanentError, PermanentError),
        (422, "library_failed", PermanentError, PermanentError),
        (429, None, TransientError, TransientError),
        (500, "library_failed", TransientError, TransientError),
        (502, None, TransientError, OutcomeUnknownError),
        (503, "no_free_slot", TransientError, TransientError),
        (504, "deadline", TransientError, OutcomeUnknownError),
    ],
)
async def test_every_status_says_what_to_do_next(
    status: int, reason: str | None, read: type[Exception], mutation: type[Exception]
) -> None:
    body = json.dumps({"reason": reason, "error": "the sentence"}) if reason else "<html>"
    said = "the sentence" if reason else f"HTTP {status}"
    async with answering(status, JSON, body.encode()) as url, client() as hand:
        with pytest.raises(read, match=said):
            await hand.state(node(url))
        with pytest.raises(mutation, match=said):
            await hand.init(node(url), Role.DECODER, fence=FENCE, key="i")
        with pytest.raises(mutation, match=said):
            await hand.finalize(node(url), fence=FENCE, key="f")
        if mutation is OutcomeUnknownError:
            assert await links(hand, node(url), 1, 2) == NOTHING_KNOWN
        else:
            with pytest.raises(mutation, match=said):
                await links(hand, node(url), 1)


@pytest.mark.parametrize(
    ("content_type", "body", "said"),
    [
        ("text/html", b"<html>", "the answer is text/html, not application/json"),
        (JSON, b"", "the answer is no StateReply: body: Invalid JSON"),
        (JSON, b"[]", "the answer is no StateReply: body: Input should be an object"),
        (JSON, b"{}", "the answer is no StateReply: version: Field required"),
        (JSON, json.dumps(STATE | {"phase": "asleep"}).encode(), "phase: Input should be"),
        (JSON, b" " * (8 * 1024 * 1024 + 1), "the answer is above 8388608 bytes"),
    ],
    ids=["page", "empty", "list", "lacking", "unknown phase", "endless"],
)
async def test_a_nonsense_state_is_permanent_and_names_its_place(
    content_type: str, body: bytes, said: str
) -> None:
    async with answering(200, content_type, body) as url, client() as hand:
        with pytest.raises(PermanentError, match=said) as error:
            await hand.state(node(url))
    assert f"{url}/v1/state" in str(error.value)


async def test_a_state_of_a_newer_agent_is_understood() -> None:
    body = json.dumps(STATE | {"mood": "good"}).encode()
    async with answering(200, JSON, body) as url, client() as hand:
        assert (await hand.state(node(url))).phase is AgentPhase.READY


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", head(JSON, 100) + b"{"])
async def test_an_answer_that_breaks_off_leaves_only_changes_in_doubt(answer: bytes) -> None:
    async with breaking_off(answer) as url, client() as hand:
        with pytest.raises(TransientError):
            await hand.state(node(url))
        with pytest.raises(OutcomeUnknownError):
            await hand.init(node(url), Role.DECODER, fence=FENCE, key="i")
        with pytest.raises(OutcomeUnknownError):
            await hand.finalize(node(url), fence=FENCE, key="f")


@pytest.mark.parametrize(
    ("answer", "results"),
    [
        (b"", NOTHING_KNOWN),
        (head(LINES, 1000), NOTHING_KNOWN),
        (head(LINES, 1000) + line(1), [LINKED[0], NOTHING_KNOWN[1]]),
        (head(LINES, 1000) + line(1) + line(2)[:-9], [LINKED[0], NOTHING_KNOWN[1]]),
        (head(LINES, 1000) + line(2) + line(1), LINKED),
    ],
)
async def test_clusters_without_a_line_are_unknown(
    answer: bytes, results: list[ClusterResult]
) -> None:
    async with breaking_off(answer) as url, client() as hand:
        assert await links(hand, node(url), 1, 2) == results


@pytest.mark.parametrize(
    ("body", "results"),
    [
        (line(1) + line(2), LINKED),
        (line(1) + line(1) + line(9) + line(2), LINKED),
        (b"", NOTHING_KNOWN),
        (line(1), [LINKED[0], NOTHING_KNOWN[1]]),
        (line(1) + line(2)[:-1], [LINKED[0], NOTHING_KNOWN[1]]),
        (line(1) + b"oops\n" + line(2), [LINKED[0], NOTHING_KNOWN[1]]),
        (line(1) + line(2, verdict="retry"), [LINKED[0], NOTHING_KNOWN[1]]),
        (line(1) + line(2, outcome="failed"), [LINKED[0], NOTHING_KNOWN[1]]),
        (line(1) + b"x" * 2**20 + b"\n" + line(2), [LINKED[0], NOTHING_KNOWN[1]]),
    ],
    ids=[
        "whole",
        "repeated and foreign lines",
        "empty",
        "one missing",
        "last one cut",
        "not JSON",
        "done, but worth a retry",
        "failed, but a success",
        "endless line",
    ],
)
async def test_a_stream_with_nonsense_in_it_is_trusted_up_to_there(
    body: bytes, results: list[ClusterResult]
) -> None:
    async with answering(200, LINES, body) as url, client() as hand:
        assert await links(hand, node(url), 1, 2) == results


async def test_a_page_instead_of_a_stream_is_permanent() -> None:
    async with answering(200, "text/html", b"<html>") as url, client() as hand:
        with pytest.raises(PermanentError, match="no agent is there"):
            await links(hand, node(url), 1)


@pytest.mark.parametrize("sends", [b"", head(JSON, 100) + b"{"])
async def test_silence_ends_at_the_deadline(sends: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    asked = anyio.Event()

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            if sends:
                await stream.send(sends)
            asked.set()
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    to = node(f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}")
    async with listener, anyio.create_task_group() as group, client() as hand:
        group.start_soon(listener.serve, handle)

        async def when_asked() -> None:
            nonlocal asked
            await asked.wait()
            asked = anyio.Event()
            clock.advance(100)

        group.start_soon(when_asked)
        with pytest.raises(TransientError, match="deadline"):
            await hand.state(to)
        group.start_soon(when_asked)
        with pytest.raises(OutcomeUnknownError, match="deadline"):
            await hand.init(to, Role.DECODER, fence=FENCE, key="i")
        group.start_soon(when_asked)
        if not sends:
            assert await links(hand, to, 1, 2) == NOTHING_KNOWN
        group.cancel_scope.cancel()
