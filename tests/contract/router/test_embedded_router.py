"""The embedded router over HTTP, in front of simulated engines and of nodes that misbehave."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import anyio
import pytest
from aiohttp import web

from pd_autoscaler.embedded.engine_listen import bound_socket, listening
from pd_autoscaler.embedded.router import EmbeddedRouter
from pd_autoscaler.embedded.router_legs import RouterLimits
from pd_autoscaler.embedded.router_table import FORMER_NODES_MAX, NodeTable, RoutedNode
from pd_autoscaler.engine_model.profile import profile_of
from pd_autoscaler.model.facts import EngineLoad
from pd_autoscaler.model.node import Role
from tests.support.datadist_peers import refusing
from tests.support.engine import TINY, Bench, Served, bench, until

IDLE = EngineLoad(waiting=0, running=0, kv_unpulled=0)
ROOMY = profile_of({"kv_tokens": 4096}, TINY)
SLOW = profile_of({"decode_base_s": 60.0}, TINY)
BODY: dict[str, object] = {"prompt_tokens": 48, "max_tokens": 5}


@dataclass
class Routed:
    """A router and a client of it."""

    router: EmbeddedRouter
    url: str
    session: aiohttp.ClientSession

    def publish(self, served: Served) -> None:
        role = Role.PROMPT if served.node_id.startswith("p") else Role.DECODER
        self.router.table.publish(RoutedNode(served.node_id, role, served.url))

    def publish_at(self, node_id: str, role: Role, url: str) -> None:
        self.router.table.publish(RoutedNode(node_id, role, url))

    async def ask(self, **more: object) -> tuple[int, dict[str, object]]:
        body = {**BODY, **more}
        async with self.session.post(f"{self.url}/v1/completions", json=body) as answer:
            return answer.status, await answer.json()

    async def nodes(self) -> dict[str, object]:
        async with self.session.get(f"{self.url}/nodes") as answer:
            body: dict[str, object] = await answer.json()
            return body


@asynccontextmanager
async def routed(b: Bench, limits: RouterLimits | None = None) -> AsyncIterator[Routed]:
    router = EmbeddedRouter(limits or RouterLimits(queue_s=10.0))
    async with router.listening() as url:
        yield Routed(router, url, b.session)


@asynccontextmanager
async def fake_node(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    """A node that answers completions in its own way."""
    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    async with listening(app, bound_socket()) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(name="nobody_url")
def _nobody_url() -> Iterator[str]:
    """An address where nobody listens, and nobody else can begin to."""
    with refusing("127.0.0.1") as (host, port):
        yield f"http://{host}:{port}"


async def _read_all(answer: aiohttp.ClientResponse, received: bytearray) -> None:
    while chunk := await answer.content.readany():
        received += chunk


async def test_a_request_goes_through_both_legs() -> None:
    async with bench() as b, routed(b) as r:
        r.publish(await b.prompt())
        r.publish(await b.decoder())
        status, body = await r.ask()
        assert status == 200
        assert body["usage"] == {"prompt_tokens": 48, "completion_tokens": 5, "total_tokens": 53}
        assert await r.nodes() == {
            "prompt": ["p1"],
            "decoder": ["d1"],
            "in_flight": {"p1": 0, "d1": 0},
            "waiting": 0,
        }
        assert r.router.log.completed == 1


async def test_a_stream_goes_through_and_names_its_nodes() -> None:
    async with bench() as b, routed(b) as r:
        r.publish(await b.prompt())
        r.publish(await b.decoder())
        body = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
        async with b.session.post(f"{r.url}/v1/completions", json=body) as answer:
            assert answer.headers["X-Prompt-Node"] == "p1"
            assert answer.headers["X-Decoder-Node"] == "d1"
            text = await answer.text()
        assert text.count(" tok") == 5
        assert text.endswith("data: [DONE]\n\n")


async def test_a_request_leaves_its_prompt_node_once_the_kv_is_pulled() -> None:
    async with bench() as b, routed(b) as r:
        r.publish(await b.prompt())
        decoder = await b.decoder(SLOW)
        r.publish(decoder)
        async with anyio.create_task_group() as group:
            group.start_soon(r.ask)
            await until(lambda: r.router.table.in_flight == {"p1": 0, "d1": 1})
            assert decoder.decoder.running == 1
            group.cancel_scope.cancel()
        await until(lambda: r.router.table.in_flight == {"p1": 0, "d1": 0})
        await until(lambda: decoder.decoder.load() == IDLE)
        await until(lambda: r.router.log.client_gone == 1)
        assert r.router.log.failed == 0


async def test_a_request_stays_on_its_prompt_node_while_a_decoder_has_no_room() -> None:
    async with bench() as b, routed(b) as r:
        r.publish(await b.prompt())
        r.publish(await b.decoder(profile_of({"batch_max": 1}, SLOW)))
        async with anyio.create_task_group() as group:
            group.start_soon(r.ask)
            await until(lambda: r.router.table.in_flight == {"p1": 0, "d1": 1})
            group.start_soon(r.ask)
            await until(lambda: r.router.table.in_flight == {"p1": 1, "d1": 2})
            group.cancel_scope.cancel()


def test_the_node_with_the_fewest_requests_is_picked_and_ties_go_in_turn() -> None:
    table = NodeTable()
    for name in ("a", "b", "c"):
        table.publish(RoutedNode(name, Role.DECODER, "http://x"))
    picks = []
    for _ in range(4):
        node = table.pick(Role.DECODER)
        assert node is not None
        picks.append(node.id)
    assert picks == ["a", "b", "c", "a"]

    table.enter(RoutedNode("a", Role.DECODER, "http://x"))
    leave = table.enter(RoutedNode("b", Role.DECODER, "http://x"))
    assert [n.id for n in [table.pick(Role.DECODER)] if n] == ["c"]
    leave()
    leave()
    assert table.in_flight == {"a": 1, "b": 0, "c": 0}
    assert table.pick(Role.PROMPT) is None


def test_counts_of_withdrawn_nodes_are_kept_but_not_for_ever() -> None:
    table = NodeTable()
    first = RoutedNode("first", Role.PROMPT, "http://x")
    table.publish(first)
    leave = table.enter(first)
    table.withdraw("first")
    for number in range(FORMER_NODES_MAX + 5):
        table.publish(RoutedNode(f"n{number}", Role.PROMPT, "http://x"))
        table.withdraw(f"n{number}")
    assert table.in_flight["first"] == 1
    assert "n0" not in table.in_flight
    assert len(table.in_flight) == FORMER_NODES_MAX + 1
    leave()
    assert table.in_flight["first"] == 0


@pytest.mark.parametrize("role", list(Role))
async def test_a_refused_connection_is_tried_at_another_node(role: Role, nobody_url: str) -> None:
    async with bench() as b, routed(b) as r:
        r.publish_at("dead", role, nobody_url)
        r.publish(await b.prompt(ROOMY))
        r.publish(await b.decoder())
        for _ in range(2):
            assert (await r.ask())[0] == 200
        assert r.router.log.retried >= 1
        assert r.router.log.failed == 0
        assert r.router.table.in_flight["dead"] == 0


async def test_when_every_node_refuses_the_request_fails_visibly(nobody_url: str) -> None:
    async with bench() as b, routed(b) as r:
        r.publish_at("dead", Role.PROMPT, nobody_url)
        r.publish(await b.decoder())
        status, body = await r.ask()
        assert status == 502
        assert (body["stage"], body["code"], body["node_id"]) == ("prompt", "refused", "dead")


async def test_a_failed_pull_names_both_nodes_and_the_code() -> None:
    async with bench() as b, routed(b) as r:
        prompt, decoder = await b.prompt(), await b.decoder()
        decoder.link.is_linked = False
        r.publish(prompt)
        r.publish(decoder)
        status, body = await r.ask()
        assert status == 502
        named = [body[key] for key in ("node_id", "prompt_node_id", "decoder_node_id")]
        assert named == ["d1", "p1", "d1"]
        assert (body["stage"], body["code"]) == ("pull", "LLM_NOT_YET_LINK")
        assert [failure.code for failure in r.router.failures] == ["LLM_NOT_YET_LINK"]
        assert r.router.table.in_flight == {"p1": 0, "d1": 0}


async def test_a_node_that_dies_after_the_request_was_sent_is_not_tried_elsewhere() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with bench() as b, routed(b) as r, fake_node(cut) as url:
        r.publish_at("p0", Role.PROMPT, url)
        r.publish(await b.prompt())
        r.publish(await b.decoder())
        status, body = await r.ask()
        assert status == 502
        assert (body["stage"], body["code"], body["node_id"]) == ("prompt", "broken", "p0")
        assert r.router.log.retried == 0


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (web.Response(status=500, text="oh"), "http_500"),
        (web.json_response({}), "bad_answer"),
        (web.Response(text="no json", content_type="application/json"), "broken"),
    ],
    ids=["500", "no transfer", "no json"],
)
async def test_a_prompt_node_that_answers_nonsense_fails_the_request(
    answer: web.Response, code: str
) -> None:
    async def say(_: web.Request) -> web.StreamResponse:
        return answer

    async with bench() as b, routed(b) as r, fake_node(say) as url:
        r.publish_at("p0", Role.PROMPT, url)
        r.publish(await b.decoder())
        status, body = await r.ask()
        assert status == 502
        assert (body["stage"], body["code"]) == ("prompt", code)


async def test_a_node_that_falls_silent_fails_the_request_at_the_idle_limit() -> None:
    async def silent(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    limits = RouterLimits(queue_s=10.0, idle_s=0.02)
    async with bench() as b, routed(b, limits) as r, fake_node(silent) as url:
        r.publish_at("p0", Role.PROMPT, url)
        r.publish(await b.decoder())
        status, body = await r.ask()
        assert status == 502
        assert (body["stage"], body["code"], body["node_id"]) == ("prompt", "idle", "p0")


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
async def test_an_answer_that_breaks_midway_never_looks_whole(kind: str) -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        await response.write(b"data: {}\n\n")
        assert request.transport is not None
        request.transport.close()
        return response

    async with bench() as b, routed(b) as r, fake_node(half) as url:
        r.publish(await b.prompt())
        r.publish_at("d0", Role.DECODER, url)
        received = bytearray()
        body = {**BODY, "stream": True}
        async with b.session.post(f"{r.url}/v1/completions", json=body) as answer:
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await _read_all(answer, received)
        events = [part for part in received.decode().split("\n\n") if part]
        assert events[0] == "data: {}"
        if kind == "text/event-stream":
            error = json.loads(events[1].removeprefix("data: "))["error"]
            assert (error["stage"], error["node_id"]) == ("decode", "d0")
        else:
            assert len(events) == 1
        assert r.router.log.failed == 1
        await until(lambda: r.router.table.in_flight["d0"] == 0)


async def test_without_a_node_a_request_waits_for_one() -> None:
    async with bench() as b, routed(b) as r:
        answers: list[int] = []

        async def ask() -> None:
            answers.append((await r.ask())[0])

        prompt, decoder = await b.prompt(), await b.decoder()
        async with anyio.create_task_group() as group:
            r.publish(prompt)
            group.start_soon(ask)
            await until(lambda: r.router.log.waiting == 1)
            # Nothing is computed for a request that no decoder could take over.
            assert prompt.prompt.load() == IDLE
            r.publish(decoder)
        assert answers == [200]
        assert r.router.log.waiting == 0


async def test_a_request_that_no_node_can_take_in_time_gets_503() -> None:
    async with bench() as b, routed(b, RouterLimits(queue_s=0.02)) as r:
        r.publish(await b.prompt())
        status, body = await r.ask()
        assert status == 503
        assert (body["stage"], body["code"], body["node_id"]) == ("route", "no_node", "")
        assert "decoder" in str(body["error"])
        assert r.router.log.failed == 1


async def test_a_withdrawn_node_ends_what_it_has_and_gets_nothing_new() -> None:
    async with bench() as b, routed(b) as r:
        r.publish(await b.prompt(ROOMY))
        decoders = [await b.decoder(node_id=name) for name in ("d1", "d2")]
        r.publish(decoders[0])
        decoders[0].decoder.slowness = 20.0
        statuses: list[int] = []

        async def ask() -> None:
            statuses.append((await r.ask())[0])

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await until(lambda: decoders[0].decoder.running == 1)
            r.publish(decoders[1])
            async with b.session.delete(f"{r.url}/nodes/d1") as answer:
                assert answer.status == 200
            assert (await r.nodes())["decoder"] == ["d2"]
            for _ in range(3):
                assert (await r.ask())[0] == 200
            assert len(decoders[0].link.pulled) == 1
        assert statuses == [200]
        assert len(decoders[1].link.pulled) == 3
        assert r.router.table.in_flight == {"p1": 0, "d1": 0, "d2": 0}


@pytest.mark.parametrize("body", [{"prompt_tokens": 0}, {"max_tokens": "x"}, {"prompt": []}])
async def test_a_bad_request_is_the_clients_own_fault(body: dict[str, object]) -> None:
    async with bench() as b, routed(b) as r:
        async with b.session.post(f"{r.url}/v1/completions", json=body) as answer:
            assert answer.status == 400
        assert (r.router.log.refused, r.router.log.failed) == (1, 0)


async def test_a_nodes_refusal_of_the_request_itself_is_passed_on() -> None:
    async with bench() as b, routed(b) as r:
        r.publish(await b.prompt(ROOMY))
        r.publish(await b.decoder())
        status, body = await r.ask(max_tokens=400)
        assert status == 400
        assert "exceed" in str(body["error"])
        assert (r.router.log.refused, r.router.log.failed) == (1, 0)


async def test_the_log_accounts_for_every_request() -> None:
    async with bench() as b, routed(b, RouterLimits(queue_s=0.02)) as r:
        await r.ask()
        r.publish(await b.prompt(ROOMY))
        r.publish(await b.decoder())
        await r.ask()
        await r.ask(max_tokens=0)
        async with b.session.get(f"{r.url}/log") as answer:
            told = await answer.json()
        failures = told.pop("failures")
        assert told == {
            "requests": 3,
            "completed": 1,
            "refused": 1,
            "client_gone": 0,
            "failed": 1,
            "retried": 0,
            "waiting": 0,
        }
        assert [failure["code"] for failure in failures] == ["no_node"]
