"""The load generator against real HTTP servers."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from aiohttp import web

from pd_autoscaler.embedded.load import Load, LoadLimits, LoadState
from pd_autoscaler.embedded.supervisor_http import served
from pd_autoscaler.embedded.tally import FailureKind
from pd_autoscaler.workload.request import Request

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def router(answer: Answer) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    async with served(app) as url:
        yield url


def event(body: object) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def tokens(count: int) -> bytes:
    return event({"choices": [{"text": " tok" * count}]})


def streaming(*chunks: bytes, headers: dict[str, str] | None = None) -> Answer:
    async def answer(http: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(http)
        for chunk in chunks:
            await response.write(chunk)
        await response.write_eof()
        return response

    return answer


def refusing(status: int, body: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body, content_type="application/json")

    return answer


async def cut(http: web.Request) -> web.StreamResponse:
    assert http.transport is not None
    http.transport.close()
    return web.Response()


DONE = b"data: [DONE]\n\n"
ONE = (Request(0, 7, 3),)


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param((tokens(1), tokens(2), DONE), id="several tokens an event"),
        pytest.param((event({"tokens": 1}), event({"tokens": 2}), DONE), id="events that count"),
        pytest.param((tokens(1) + tokens(2) + DONE,), id="all at once"),
        pytest.param((b": hello\n\n", tokens(3)[:9], tokens(3)[9:], DONE), id="cut anywhere"),
    ],
)
async def test_a_stream_that_ends_with_its_mark_is_a_whole_answer(chunks: tuple[bytes]) -> None:
    async with router(streaming(*chunks)) as url:
        load = Load(url)
        await load.run(ONE)

    assert (load.tally.offered, load.tally.ok, load.tally.failed) == (1, 1, 0)
    assert load.tally.ttft.at(0.5) is not None
    assert load.state is LoadState.FINISHED


async def test_the_request_asks_for_its_tokens_as_a_stream() -> None:
    asked: list[object] = []

    async def answer(http: web.Request) -> web.StreamResponse:
        asked.append(await http.json())
        return await streaming(tokens(3), DONE)(http)

    async with router(answer) as url:
        await Load(url).run(ONE)

    assert asked == [{"prompt_tokens": 7, "max_tokens": 3, "stream": True}]


FAILURE = {"stage": "pull", "code": "LLM_X", "node_id": "decoder-2", "prompt_id": "prompt-1"}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(
            refusing(502, json.dumps({**FAILURE, "error": "no"})),
            ("pull", "LLM_X", "decoder-2"),
            id="the router's error",
        ),
        pytest.param(
            streaming(tokens(1), event({"error": {**FAILURE, "error": "no"}})),
            ("pull", "LLM_X", "decoder-2"),
            id="an error within the stream",
        ),
        pytest.param(refusing(500, "oops"), ("client", "http_500", ""), id="no JSON"),
        pytest.param(
            refusing(400, '{"error": "bad", "code": "bad_request"}'),
            ("client", "bad_request", ""),
            id="a bad request",
        ),
        pytest.param(
            streaming(tokens(1), headers={"X-Decoder-Node": "decoder-9"}),
            ("decode", "broken_stream", "decoder-9"),
            id="no mark at the end",
        ),
        pytest.param(cut, ("client", "broken_stream", ""), id="cut"),
        pytest.param(streaming(b"data: {\n\n"), ("client", "unreadable_stream", ""), id="no event"),
        pytest.param(streaming(b"data: 3\n\n"), ("client", "unreadable_stream", ""), id="a number"),
        pytest.param(
            streaming(b"x" * 2_000_000),
            ("client", "unreadable_stream", ""),
            id="endless line",
        ),
        pytest.param(streaming(DONE), ("client", "no_token", ""), id="nothing but the mark"),
    ],
)
async def test_an_answer_that_is_not_whole_fails_with_the_routers_words(
    answer: Answer, kind: tuple[str, str, str]
) -> None:
    async with router(answer) as url:
        load = Load(url)
        await load.run(ONE)

    assert (load.tally.ok, load.tally.failed, load.unfinished) == (0, 1, 0)
    assert load.tally.kinds() == (FailureKind(*kind, 1),)


async def test_a_router_that_is_not_there_is_a_failure_of_each_request() -> None:
    async with router(cut) as url:
        pass
    load = Load(url)
    await load.run((Request(0, 1, 1), Request(0, 1, 1)))

    assert load.tally.kinds() == (FailureKind("client", "router_unreachable", "", 2),)


async def never(http: web.Request) -> web.StreamResponse:
    await http.read()
    await anyio.sleep_forever()
    raise AssertionError


async def test_an_answer_that_never_comes_fails_at_its_limit() -> None:
    async with router(never) as url:
        load = Load(url, limits=LoadLimits(answer_s=0.1))
        await load.run(ONE)

    assert load.tally.kinds() == (FailureKind("client", "no_whole_answer_in_time", "", 1),)


async def test_what_has_no_answer_at_the_end_of_the_drain_is_unfinished() -> None:
    async with router(never) as url:
        load = Load(url, limits=LoadLimits(drain_s=0.1))
        await load.run((Request(0, 1, 1), Request(0, 1, 1)))

    assert (load.tally.ok, load.tally.failed, load.unfinished) == (0, 0, 2)
    assert load.state is LoadState.FINISHED


async def test_a_slow_cluster_does_not_slow_arrivals() -> None:
    arrived = 0
    all_there = anyio.Event()

    async def together(http: web.Request) -> web.StreamResponse:
        nonlocal arrived
        arrived += 1
        if arrived == 50:
            all_there.set()
        await all_there.wait()  # Nobody is answered before the last has come.
        return await streaming(tokens(1), DONE)(http)

    async with router(together) as url:
        load = Load(url)
        await load.run(Request(number / 1000, 1, 1) for number in range(50))

    assert (load.tally.ok, load.tally.failed) == (50, 0)


async def test_past_the_limit_of_open_requests_the_rest_is_refused_and_counted() -> None:
    async with router(never) as url:
        load = Load(url, limits=LoadLimits(open_max=3, drain_s=0.1))
        await load.run(Request(0, 1, 1) for _ in range(5))

    assert (load.tally.offered, load.refused, load.tally.failed, load.unfinished) == (5, 2, 2, 3)
    assert load.tally.kinds() == (FailureKind("client", "open_requests_max", "", 2),)


async def test_stopping_sends_nothing_more_and_waits_for_those_in_flight() -> None:
    begun, go_on = anyio.Event(), anyio.Event()

    async def held(http: web.Request) -> web.StreamResponse:
        begun.set()
        await go_on.wait()
        return await streaming(tokens(1), DONE)(http)

    async with router(held) as url, anyio.create_task_group() as group:
        load = Load(url)
        group.start_soon(load.run, [Request(0, 1, 1), Request(3600, 1, 1)])
        await begun.wait()
        assert (load.numbers().state, load.numbers().in_flight) == (LoadState.RUNNING, 1)
        load.stop()
        go_on.set()

    assert (load.tally.offered, load.tally.ok, load.unfinished) == (1, 1, 0)
    assert load.numbers().recent_ttft_p50_s is not None


async def test_a_load_that_is_cancelled_tells_what_was_in_flight() -> None:
    begun = anyio.Event()

    async def held(_: web.Request) -> web.StreamResponse:
        begun.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with router(held) as url:
        load = Load(url)
        async with anyio.create_task_group() as group:
            group.start_soon(load.run, ONE)
            await begun.wait()
            group.cancel_scope.cancel()

    assert (load.state, load.unfinished) == (LoadState.FINISHED, 1)


async def test_a_request_on_a_killed_node_counts_as_lost_and_as_failed() -> None:
    killed: dict[str, float] = {}

    async def answer(http: web.Request) -> web.StreamResponse:
        body = json.dumps({"stage": "decode", "code": "broken", "node_id": "decoder-1"})
        return await refusing(502, body)(http)

    async with router(answer) as url:
        load = Load(url, killed_at_s=lambda: killed)
        await load.run(ONE)
        assert (load.tally.failed, load.lost_on_killed_nodes) == (1, 0)
        killed["decoder-1"] = anyio.current_time()
        assert (load.tally.failed, load.lost_on_killed_nodes) == (1, 1)
