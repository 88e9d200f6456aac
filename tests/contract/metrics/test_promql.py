"""Asking a Prometheus that is slow, refuses, lies or has forgotten; how often and with what."""

import gzip
import json
import logging
import math
import re
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiohttp import ClientSession, web

from pd_autoscaler.adapters.metrics.connection import metrics_session
from pd_autoscaler.adapters.metrics.profiles import Profile, shipped_profiles
from pd_autoscaler.adapters.metrics.promql import ROWS_AT_ONCE, PromqlSource
from pd_autoscaler.adapters.metrics.promql_answer import Row, Sorter
from pd_autoscaler.adapters.metrics.promql_query import NODES_PER_QUESTION
from pd_autoscaler.model.facts import Scraped
from pd_autoscaler.model.node import Node, Role
from tests.support.clock import Clock
from tests.support.metrics_servers import (
    BOUND_S,
    Answer,
    StandInPrometheus,
    book,
    broken_off,
    endless,
    hung,
    hung_half_way,
    kept,
    packed,
    read,
    redirected,
    stand_in_prometheus,
    with_json,
    with_page,
    with_status,
)
from tests.support.pages import node

RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
DECODED = "vllm:generation_tokens_total"


@pytest.fixture
async def server() -> AsyncIterator[StandInPrometheus]:
    async with stand_in_prometheus() as server:
        yield server


@asynccontextmanager
async def asking(
    url: str,
    *,
    deadline_s: float = BOUND_S,
    token: str | None = None,
    matchers: Mapping[str, str] | None = None,
    node_label: str = "instance",
    size_max_bytes: int = 1_000_000,
) -> AsyncIterator[PromqlSource]:
    async with metrics_session() as session:
        yield PromqlSource(
            session,
            book(),
            url=url,
            profiles=shipped_profiles(),
            node_label=node_label,
            matchers=matchers,
            token=token,
            deadline_s=deadline_s,
            size_max_bytes=size_max_bytes,
            concurrency_max=2,
        )


def engine(name: str, role: Role = Role.PROMPT) -> Node:
    return node(name, role, metrics_url=f"http://{name}:8000/metrics")


def has(server: StandInPrometheus, *names: str, age_s: float = 4.0) -> None:
    """Have it keep a vLLM's series of these engines, sampled so long ago."""
    for name in names:
        sampled_s = server.now_s - age_s
        server.series.append(kept(f"{name}:8000", RUNNING, 2.0, sampled_s, engine="0"))
        server.series.append(kept(f"{name}:8000", WAITING, 3.0, sampled_s, engine="0"))


async def test_a_sample_is_as_old_as_the_server_says_whatever_its_clock_shows(
    server: StandInPrometheus,
) -> None:
    has(server, "p", age_s=40.0)
    for now_s in (1e6, 4e9):
        for series in server.series:
            object.__setattr__(series, "sampled_s", now_s - 40.0)
        server.now_s = now_s
        async with asking(server.url) as source:
            before_s = anyio.current_time()
            at_s = (await read(source, engine("p")))["p"].at_s

            assert before_s - 40.0 <= at_s <= anyio.current_time() - 40.0


async def test_the_age_is_that_of_the_oldest_series(server: StandInPrometheus) -> None:
    server.series += [
        kept("p:8000", RUNNING, 1.0, server.now_s - 5.0, engine="0"),
        kept("p:8000", RUNNING, 1.0, server.now_s - 50.0, engine="1"),
    ]
    async with asking(server.url) as source:
        reading = (await read(source, engine("p")))["p"]

        assert reading.at_s <= anyio.current_time() - 50.0
        assert reading.gauges["running"] == 2.0


async def test_a_sample_from_the_future_is_of_now(server: StandInPrometheus) -> None:
    has(server, "p", age_s=-9.0)
    async with asking(server.url) as source:
        assert (await read(source, engine("p")))["p"].at_s <= anyio.current_time()


async def test_a_sample_that_comes_again_is_no_newer_and_the_next_one_is(
    server: StandInPrometheus,
) -> None:
    has(server, "p")
    async with asking(server.url) as source:
        first = (await read(source, engine("p")))["p"]
        # The server evaluates a little later, and the way there was a little shorter.
        server.now_s += 1.9
        assert (await read(source, engine("p")))["p"] == first
        for series in server.series:
            object.__setattr__(series, "sampled_s", server.now_s)
        assert (await read(source, engine("p")))["p"].at_s > first.at_s


async def test_a_node_that_comes_back_is_dated_anew(server: StandInPrometheus) -> None:
    has(server, "p")
    async with asking(server.url) as source:
        first = (await read(source, engine("p")))["p"]
        await read(source)
        server.now_s += 1000
        for series in server.series:
            object.__setattr__(series, "sampled_s", server.now_s - 1004.0)

        assert (await read(source, engine("p")))["p"].at_s < first.at_s


async def test_a_cycle_asks_once_for_each_25_nodes_of_a_role_and_not_for_each_node(
    server: StandInPrometheus,
) -> None:
    prompts = [engine(f"p{i}") for i in range(2 * NODES_PER_QUESTION + 1)]
    decoders = [engine(f"d{i}", Role.DECODER) for i in range(NODES_PER_QUESTION)]
    has(server, *(n.id for n in (*prompts, *decoders)))
    async with asking(server.url) as source:
        assert list(await read(source, *prompts, *decoders)) == [
            n.id for n in (*prompts, *decoders)
        ]
        server.asked.clear()
        await read(source, *prompts, *decoders)

        assert source.scraped.pages == 2 * (len(prompts) + len(decoders))
    assert len(server.asked) == 4
    assert server.in_flight_max <= 2
    # A prompt node is not asked for what only a decoder means.
    of = {
        role: [q for q in server.asked if f"|{name}|" in q]
        for role, name in ((Role.PROMPT, "p1"), (Role.DECODER, "d1"))
    }
    assert DECODED in of[Role.DECODER][0]
    assert DECODED not in of[Role.PROMPT][0]


async def test_a_question_is_about_fewer_nodes_the_more_series_they_have(
    server: StandInPrometheus,
) -> None:
    nodes = [engine(f"p{i}") for i in range(4)]
    for each in nodes:
        server.series += [
            kept(f"{each.id}:8000", RUNNING, 1.0, server.now_s, engine=str(i)) for i in range(1000)
        ]
    # It answers with all it has, whatever it is asked: what counts is what it is asked.
    async with asking(server.url, size_max_bytes=10_000_000) as source:
        assert len(await read(source, *nodes)) == 4
        first = len(server.asked)
        server.asked.clear()
        assert len(await read(source, *nodes)) == 4

    assert first == 2
    assert ["p2:8000" in query for query in server.asked] == [False, True]


async def test_an_answer_is_read_by_steps_between_which_others_have_their_turn(
    server: StandInPrometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, steps = 0, list[int]()

    async def others() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    sort, read_node = Sorter.sort, PromqlSource._read_node

    def sorting(of: Sorter, rows: Sequence[Row], *rest: Any) -> None:
        steps.append(turns)
        assert len(rows) <= ROWS_AT_ONCE
        sort(of, rows, *rest)

    def reading(of: PromqlSource, *rest: Any) -> None:
        steps.append(turns)
        read_node(of, *rest)

    monkeypatch.setattr(Sorter, "sort", sorting)
    monkeypatch.setattr(PromqlSource, "_read_node", reading)
    nodes = [engine(f"{role}{i}", role) for role in Role for i in range(4)]
    for each in nodes:
        server.series += [
            kept(f"{each.id}:8000", RUNNING, 1.0, server.now_s, engine=str(i)) for i in range(300)
        ]
    async with asking(server.url) as source, anyio.create_task_group() as group:
        group.start_soon(others)
        assert len(await read(source, *nodes)) == len(nodes)
        group.cancel_scope.cancel()

    assert len(steps) > len(nodes) + 2400 // ROWS_AT_ONCE
    assert len(set(steps)) == len(steps)


async def test_engines_of_several_kinds_are_all_dated(server: StandInPrometheus) -> None:
    has(server, "p")
    old_s = server.now_s - 9.0
    server.series.append(kept("q:8000", "sglang:num_running_reqs", 5.0, old_s))
    server.series.append(kept("q:8000", "sglang:num_queue_reqs", 1.0, old_s))
    async with asking(server.url) as source:
        readings = await read(source, engine("p"), engine("q"))

        assert {i: r.engine for i, r in readings.items()} == {"p": "vllm", "q": "sglang"}
        # A third kind, later: what to date it by is found then.
        has(server, "r")
        server.series[-2:] = [kept("r:8000", "npu_cache_usage_perc", 0.5, old_s)]
        server.asked.clear()
        assert (await read(source, engine("r")))["r"].engine == "mindie"
        assert len(server.asked) == 2


async def test_a_token_goes_with_every_question(server: StandInPrometheus) -> None:
    has(server, "p")
    async with asking(server.url, token="a secret") as source:
        await read(source, engine("p"))
    async with asking(server.url) as source:
        await read(source, engine("p"))

    assert [h.get("Authorization") for h in server.headers] == [
        "Bearer a secret",
        "Bearer a secret",
        None,
        None,
    ]


ROW = {"metric": {"__name__": RUNNING, "instance": "p:8000"}, "value": [1.0, "2"]}


def success(*rows: object, kind: str = "vector", **more: object) -> dict[str, object]:
    return {"status": "success", "data": {"resultType": kind, "result": list(rows)}, **more}


BAD: list[tuple[Answer, str]] = [
    (with_status(500), "HTTP 500"),
    (with_status(404), "HTTP 404"),
    (with_status(401), "HTTP 401: scrape.promql.token is missing or not the right one"),
    (redirected("http://elsewhere/"), "HTTP 307 to http://elsewhere/; redirects are not followed"),
    (with_json({"status": "error", "error": "query timed out"}, 503), "refused: query timed out"),
    (with_json({"status": "error", "error": "too many samples"}, 422), "refused: too many samples"),
    (with_json({"status": "error"}, 400), "HTTP 400: refused: error"),
    (with_status(503), "HTTP 503: not an answer of a Prometheus"),
    (with_page(), "not an answer of a Prometheus (JSONDecodeError"),
    (with_page(b""), "not an answer of a Prometheus"),
    (with_page(b"\xff\xfe\x00"), "not an answer of a Prometheus"),
    (with_page(b"[" * 100_000), "not an answer of a Prometheus (RecursionError"),
    (with_json([]), "not an answer of a Prometheus (TypeError"),
    (with_json({}), "not an answer of a Prometheus (KeyError"),
    (with_json(success(None)), "not an answer of a Prometheus"),
    (with_json(success({"metric": 1, "value": [1, "2"]})), "not an answer of a Prometheus"),
    (with_json(success({**ROW, "value": [1.0]})), "not an answer of a Prometheus (IndexError"),
    (with_json(success({**ROW, "value": [1.0, "two"]})), "could not convert"),
    (with_json(success({**ROW, "metric": {"__name__": 5}})), "has a label that is no text"),
    (with_json(success({**ROW, "value": [10**400, "2"]})), "not an answer of a Prometheus (Over"),
    (
        with_json({"status": "success", "data": {"resultType": "vector", "result": {}}}),
        "not an answer of a Prometheus (TypeError",
    ),
    (with_json(success(kind="matrix")), "answered with a matrix, not a vector"),
    (
        with_json(success(ROW, warnings=["store s1 is down"])),
        "not a whole answer: store s1 is down",
    ),
    (with_json(success(ROW)), "series whose time is not known"),
    (with_json(success({**ROW, "histogram": []}, {"metric": {}, "histogram": [1, {}]})), "time"),
    (with_json(success()), "no series whose instance is p or p:8000"),
    (broken_off, "payload"),
    (endless, "answer is larger than 1000000 bytes"),
    (packed(gzip.compress(b" " * 9_000_000)), "answer is larger than 1000000 bytes"),
]


@pytest.mark.parametrize(("answer", "error"), BAD, ids=[error for _, error in BAD])
async def test_a_bad_answer_makes_its_nodes_absent_and_says_why(
    server: StandInPrometheus, answer: Answer, error: str
) -> None:
    server.answer = answer
    async with asking(server.url) as source:
        assert await read(source, engine("p"), engine("d", Role.DECODER)) == {}

        assert source.errors.keys() == {"p", "d"}
        assert source.errors["p"].startswith(f"{server.url}: ")
        assert error in source.errors["p"]
        assert (source.scraped.pages, source.scraped.failures) == (0, 2)

        server.answer = None
        has(server, "p")
        assert list(await read(source, engine("p"))) == ["p"]
        assert source.errors == {}


@pytest.mark.parametrize("age_s", [math.nan, math.inf, -math.inf])
async def test_a_time_that_is_none_makes_its_node_absent(
    server: StandInPrometheus, age_s: float
) -> None:
    has(server, "p", age_s=age_s)
    async with asking(server.url) as source:
        assert await read(source, engine("p")) == {}

        assert "series that are said to be" in source.errors["p"]


@pytest.mark.parametrize("answer", [hung, hung_half_way])
async def test_an_answer_that_takes_too_long_is_none(
    server: StandInPrometheus, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    async def later(request: web.Request) -> web.StreamResponse:
        clock.advance(100)
        return await answer(request)

    server.answer = later
    async with asking(server.url, deadline_s=50) as source:
        assert await source.read([engine("p")]) == {}

        assert source.errors == {"p": f"{server.url}: no whole answer within 50 s"}


async def test_what_was_answered_in_time_counts_though_the_rest_was_not(
    server: StandInPrometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    has(server, "p")
    async with asking(server.url, deadline_s=50) as source:
        await source.read([engine("p")])
        answered = anyio.Event()

        async def of_one(request: web.Request) -> web.StreamResponse:
            if "d:8000" not in server.asked[-1]:
                answered.set()
                told = list(server._rows(server.asked[-1]))
                return web.Response(text=json.dumps(success(*told)))
            await answered.wait()
            await anyio.wait_all_tasks_blocked()
            clock.advance(100)
            return await hung(request)

        server.answer = of_one
        assert list(await source.read([engine("p"), engine("d", Role.DECODER)])) == ["p"]

        assert source.errors == {"d": f"{server.url}: no whole answer within 50 s"}


async def test_a_closed_port_and_a_wrong_address_make_all_nodes_absent() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{closed.getsockname()[1]}"
        for url, error in (
            (f"http://{place}", f"connection refused by {place}"),
            ("no address", "not an address such as http://host:port"),
        ):
            async with asking(url) as source:
                assert await read(source, engine("p"), engine("d", Role.DECODER)) == {}
                assert source.errors == dict.fromkeys(("p", "d"), f"{url}: {error}")


async def test_a_server_that_is_down_is_one_sentence_for_every_node(
    server: StandInPrometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    failed = anyio.Event()

    async def of_one(request: web.Request) -> web.StreamResponse:
        if "d:8000" not in server.asked[-1]:
            failed.set()
            return web.Response(status=500)
        await failed.wait()
        await anyio.wait_all_tasks_blocked()
        clock.advance(100)
        return await hung(request)

    server.answer = of_one
    async with asking(server.url, deadline_s=50) as source:
        assert await source.read([engine("d", Role.DECODER), engine("p")]) == {}

        assert source.errors == dict.fromkeys(("p", "d"), f"{server.url}: HTTP 500")


async def test_series_of_other_labels_are_none_and_the_matchers_are_named(
    server: StandInPrometheus,
) -> None:
    async with asking(server.url, matchers={"job": "b", "az": 'x"'}) as source:
        assert await read(source, engine("p")) == {}

        assert source.errors["p"].endswith(
            r'no series whose instance is p or p:8000 and that match {az="x\"",job="b"} '
            "(scrape.promql.matchers)"
        )


async def test_a_failing_prometheus_is_logged_once_and_not_once_for_each_node(
    server: StandInPrometheus, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pd_autoscaler")
    nodes = [engine("p"), engine("q"), engine("d", Role.DECODER)]
    has(server, *(node.id for node in nodes))
    url = server.url.replace("//", "//me:hush@")
    async with asking(url) as source:
        server.answer = with_status(500)
        for _ in range(3):
            await read(source, *nodes)
        server.answer = None
        for _ in range(3):
            await read(source, *nodes)

    assert [
        (r.levelname, re.sub(r"after \d+s", "after …", r.getMessage())) for r in caplog.records
    ] == [
        ("WARNING", f"Prometheus {server.url} failing: HTTP 500"),
        ("INFO", f"Prometheus {server.url} back after …"),
    ]
    assert source.scraped == Scraped(pages=9, failures=9, page_bytes=source.scraped.page_bytes)


@pytest.mark.parametrize("ages_s", [(5.0, 50.0), (50.0, 5.0)])
async def test_a_node_named_twice_is_as_old_as_the_older_of_both(
    server: StandInPrometheus, ages_s: tuple[float, float]
) -> None:
    has(server, "p", age_s=ages_s[0])
    server.series.append(kept("p", RUNNING, 4.0, server.now_s - ages_s[1], engine="1"))
    async with asking(server.url) as source:
        reading = (await read(source, engine("p")))["p"]

        assert reading.gauges["running"] == 6.0
        assert reading.at_s <= anyio.current_time() - 50.0


async def test_a_node_that_two_jobs_scrape_is_absent(server: StandInPrometheus) -> None:
    has(server, "p", "q")
    server.series.append(kept("p:8000", RUNNING, 2.0, server.now_s, engine="0", job="again"))
    async with asking(server.url) as source:
        assert list(await read(source, engine("p"), engine("q"))) == ["q"]

        assert source.errors["p"].endswith(
            "series of the jobs again and engines; choose one by scrape.promql.matchers"
        )


async def test_an_engine_is_asked_for_what_it_is_told_by(server: StandInPrometheus) -> None:
    async with metrics_session() as session:
        told_by = Profile(
            name="own",
            recognised_by=["own_build_info"],
            meanings=shipped_profiles()[0].meanings,
        )
        source = PromqlSource(session, book(), url=server.url, profiles=[told_by])
        await read(source, engine("p"))

    assert "|own_build_info|" in server.asked[0]


async def test_an_address_of_two_nodes_is_that_of_neither(server: StandInPrometheus) -> None:
    has(server, "p")
    server.series.append(kept("q", RUNNING, 4.0, server.now_s, engine="0"))
    same = [node(name, metrics_url=f"http://p:8000/{name}") for name in ("p", "q")]
    async with asking(server.url) as source:
        assert list(await read(source, *same)) == ["q"]

        assert source.errors["p"].endswith("no series whose instance is p")


async def test_a_session_that_unpacks_by_itself_is_refused() -> None:
    async with ClientSession() as session:
        with pytest.raises(ValueError, match="metrics_session"):
            PromqlSource(session, book(), url="http://x", profiles=())
