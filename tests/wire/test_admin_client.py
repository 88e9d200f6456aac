"""The client of the admin API: what each kind of silence and refusal is told as."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import pytest
from aiohttp import web

from pd_autoscaler.adapters import admin_client
from pd_autoscaler.adapters.admin_client import AdminClient
from pd_autoscaler.admin.serve import serve
from pd_autoscaler.errors import (
    ConfigError,
    OutcomeUnknownError,
    PermanentError,
    TransientError,
)
from tests.support.admin import TOKEN, AdminParts, StandInControl, a_rich_report, served

Question = Callable[[AdminClient], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def answering(status: int, text: str) -> AsyncIterator[AdminClient]:
    """Yield a client of a server that gives one answer to everything."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with serve(app, port=0) as url, AdminClient(url) as client:
        yield client


@contextmanager
def a_silent_port() -> Iterator[str]:
    """Yield the URL of a socket that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_every_question_is_answered_by_the_daemon() -> None:
    parts = AdminParts(control=StandInControl(a_rich_report()), token=TOKEN)
    async with served(parts) as url, AdminClient(url + "/", TOKEN) as client:
        assert (await client.state())["cycle"] == 1234
        assert (await client.links())["cycle"] == 1234
        assert await client.history(limit=3) == {"entries": []}
        assert len((await client.explain())["pairs"]) == 2
        assert (await client.explain(node="decoder-1"))["node"]["id"] == "decoder-1"
        told = await client.explain(decoder="decoder-3", prompt="prompt-3")
        assert [pair["state"] for pair in told["pairs"]] == ["linking"]
        with pytest.raises(ConfigError, match="there is no node 'a&b=c'; there are decoder-0, "):
            await client.explain(node="a&b=c")
        assert await client.pause(everything=True) == {"mode": "stopped"}
        assert await client.resume() == {"mode": "active"}
        assert (await client.scale(prompt=2, decoder=3))["decoder"] == 3
        assert await client.drain("decoder-1") == {"node": "decoder-1"}

    assert parts.control.told == [
        "pause everything=True",
        "resume",
        "scale 2P:3D",
        "drain decoder-1",
    ]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ConfigError),
        (401, ConfigError),
        (403, ConfigError),
        (404, ConfigError),
        (413, ConfigError),
        (415, ConfigError),
        (409, PermanentError),
        (500, PermanentError),
        (503, TransientError),
        (504, OutcomeUnknownError),
    ],
)
async def test_a_refusal_is_told_in_the_daemons_own_sentence(
    status: int, kind: type[Exception]
) -> None:
    async with answering(status, '{"error": "ask for fewer"}') as client:
        with pytest.raises(kind) as raised:
            await client.state()

    assert (type(raised.value), str(raised.value)) == (kind, "ask for fewer")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (200, "<html>"),
        (200, "[]"),
        (200, "[" * 100_000),
        (404, "404: Not Found"),
        (502, '{"error": 1}'),
        (301, "{}"),
    ],
)
async def test_a_server_that_is_no_admin_api_is_said_to_be_none(status: int, text: str) -> None:
    async with answering(status, text) as client:
        with pytest.raises(PermanentError, match="not as the admin API does; is it the daemon's"):
            await client.state()


async def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_client, "ANSWER_BYTES_MAX", 1000)
    async with answering(200, "x" * 1001) as client:
        with pytest.raises(PermanentError, match="answered with more than 1000 bytes"):
            await client.state()


async def test_where_nobody_listens_it_says_how_to_start_or_find_the_daemon() -> None:
    with a_silent_port() as url:
        pass  # What listened there has closed.
    async with AdminClient(url) as client:
        with pytest.raises(TransientError) as raised:
            await client.pause(everything=False)

    assert str(raised.value) == (
        f"no daemon answers at {url} (Connection refused); start it with 'pd-autoscaler run', "
        "or give its address by --url or PD_AUTOSCALER_URL"
    )


async def test_a_silent_daemon_is_unreachable_to_a_read_and_uncertain_to_a_write() -> None:
    with a_silent_port() as url:
        async with AdminClient(url, timeout_s=0.05) as client:
            with pytest.raises(TransientError, match=r"\(no answer within 0.05s\)"):
                await client.state()
            with pytest.raises(OutcomeUnknownError, match="may have happened"):
                await client.resume()


async def test_a_daemon_that_dies_while_it_is_told_leaves_the_outcome_unknown() -> None:
    async def hang_up(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, hang_up)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with AdminClient(f"http://127.0.0.1:{port}") as client:
            with pytest.raises(OutcomeUnknownError, match="/v1/resume was sent to"):
                await client.resume()
            with pytest.raises(TransientError, match="no daemon answers"):
                await client.state()
        group.cancel_scope.cancel()


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8080", "ftp://host", "http://", "http://host:x", "http://[::1", "http://h:0"],
)
def test_what_is_no_address_is_refused_before_anything_is_asked(url: str) -> None:
    with pytest.raises(ConfigError, match="is not the address of a daemon; give one as http://"):
        AdminClient(url)


async def test_a_client_is_of_use_only_while_it_is_open() -> None:
    with pytest.raises(PermanentError, match="outside its async with block"):
        await AdminClient("http://127.0.0.1:1").state()
