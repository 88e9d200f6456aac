"""The controller's adapter to the embedded router, against the real router app over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from pd_autoscaler.adapters.routers.builtin import BuiltinRouter
from pd_autoscaler.embedded.engine_listen import bound_socket, listening
from pd_autoscaler.embedded.router import EmbeddedRouter
from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.ports import Router


def node(node_id: str, role: Role, url: str = "http://127.0.0.1:9") -> Node:
    return Node(id=node_id, role=role, state=NodeState.LINKING, since_s=0.0, engine_url=url)


@asynccontextmanager
async def adapter(url: str, timeout_s: float = 5.0) -> AsyncIterator[BuiltinRouter]:
    async with aiohttp.ClientSession() as session:
        yield BuiltinRouter(url, session=session, timeout_s=timeout_s)


@asynccontextmanager
async def both() -> AsyncIterator[tuple[EmbeddedRouter, Router]]:
    router = EmbeddedRouter()
    async with router.listening() as url, adapter(url) as port:
        yield router, port


@asynccontextmanager
async def odd_router(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with listening(app, bound_socket()) as port:
        yield f"http://127.0.0.1:{port}"


async def test_what_is_published_is_told() -> None:
    async with both() as (router, port):
        assert await port.published() == frozenset()
        await port.publish(node("p1", Role.PROMPT))
        await port.publish(node("d1", Role.DECODER))
        await port.publish(node("d1", Role.DECODER))
        assert await port.published() == {"p1", "d1"}
        assert router.table.ids(Role.PROMPT) == ["p1"]
        assert router.table.ids(Role.DECODER) == ["d1"]


async def test_a_node_published_again_takes_its_new_address() -> None:
    async with both() as (router, port):
        await port.publish(node("p1", Role.PROMPT, "http://127.0.0.1:1"))
        await port.publish(node("p1", Role.PROMPT, "http://127.0.0.1:2"))
        picked = router.table.pick(Role.PROMPT)
        assert picked is not None
        assert picked.url == "http://127.0.0.1:2"


async def test_a_withdrawn_node_is_gone_and_withdrawing_it_again_is_a_success() -> None:
    async with both() as (_, port):
        await port.publish(node("p1", Role.PROMPT))
        await port.withdraw("p1")
        await port.withdraw("p1")
        await port.withdraw("never/seen?")
        assert await port.published() == frozenset()


async def test_a_name_with_odd_characters_survives_the_path() -> None:
    async with both() as (_, port):
        await port.publish(node("pool/p 1?", Role.PROMPT))
        await port.withdraw("pool/p 1?")
        assert await port.published() == frozenset()


async def test_requests_in_flight_are_told_for_withdrawn_nodes_too() -> None:
    async with both() as (router, port):
        await port.publish(node("p1", Role.PROMPT))
        picked = router.table.pick(Role.PROMPT)
        assert picked is not None
        leave = router.table.enter(picked)
        await port.withdraw("p1")
        assert await port.in_flight() == {"p1": 1}
        leave()
        assert await port.in_flight() == {"p1": 0}


async def test_it_does_not_pair_by_links() -> None:
    async with both() as (_, port):
        assert not port.is_pair_aware


async def test_a_node_without_an_engine_url_cannot_be_published() -> None:
    async with both() as (_, port):
        with pytest.raises(PermanentError, match="p1"):
            await port.publish(node("p1", Role.PROMPT, ""))


async def test_a_router_that_does_not_listen_is_transient() -> None:
    sock = bound_socket()
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    sock.close()
    async with adapter(url) as port:
        for call in (
            port.published(),
            port.in_flight(),
            port.publish(node("p1", Role.PROMPT)),
            port.withdraw("p1"),
        ):
            with pytest.raises(TransientError):
                await call


@pytest.mark.parametrize(
    ("status", "error"),
    [(500, TransientError), (503, TransientError), (429, TransientError), (403, PermanentError)],
)
async def test_refusals_say_whether_to_try_again(status: int, error: type[Exception]) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    async with odd_router(refuse) as url, adapter(url) as port:
        for call in (port.published(), port.publish(node("p1", Role.PROMPT)), port.withdraw("p1")):
            with pytest.raises(error, match=str(status)):
                await call


async def test_a_router_that_knows_no_such_node_has_withdrawn_it() -> None:
    async def unknown(_: web.Request) -> web.StreamResponse:
        return web.Response(status=404)

    async with odd_router(unknown) as url, adapter(url) as port:
        await port.withdraw("p1")
        with pytest.raises(PermanentError):
            await port.publish(node("p1", Role.PROMPT))


async def test_a_change_whose_answer_is_lost_is_unknown_and_a_lost_reading_is_not() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with odd_router(cut) as url, adapter(url) as port:
        with pytest.raises(OutcomeUnknownError):
            await port.publish(node("p1", Role.PROMPT))
        with pytest.raises(OutcomeUnknownError):
            await port.withdraw("p1")
        with pytest.raises(TransientError):
            await port.published()


async def test_a_change_without_an_answer_in_time_is_unknown() -> None:
    async def silent(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    async with odd_router(silent) as url, adapter(url, timeout_s=0.05) as port:
        with pytest.raises(OutcomeUnknownError):
            await port.withdraw("p1")


@pytest.mark.parametrize(
    "body",
    [[], {}, {"prompt": [], "decoder": 5}, {"prompt": [], "decoder": [], "in_flight": {"a": "x"}}],
)
async def test_an_answer_of_the_wrong_shape_is_never_read_as_empty(body: object) -> None:
    async def say(_: web.Request) -> web.StreamResponse:
        return web.json_response(body)

    async with odd_router(say) as url, adapter(url) as port:
        with pytest.raises(TransientError):
            await port.in_flight()
