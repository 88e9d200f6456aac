"""What every node provider does, run on each; then what only one of them does."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import anyio
import anyio.lowlevel
import pytest
from aiohttp import web

from pd_autoscaler.adapters.providers.process import ProcessProvider
from pd_autoscaler.adapters.providers.static import StaticProvider
from pd_autoscaler.embedded.supervisor import supervising
from pd_autoscaler.embedded.supervisor_http import served, supervisor_app
from pd_autoscaler.errors import ConfigError, OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.model.facts import ProvidedNode
from pd_autoscaler.model.node import Role
from pd_autoscaler.ports import NodeProvider
from tests.support.supervision import BOUND_S, grown, standin, until


def spare(node_id: str, role: Role) -> ProvidedNode:
    url = f"http://{node_id}:8000"
    return ProvidedNode(
        id=node_id, role=role, agent_urls=(url,), metrics_url=f"{url}/metrics", is_standby=True
    )


@asynccontextmanager
async def process_provider(folder: Path) -> AsyncIterator[NodeProvider]:
    async with (
        supervising(standin(), work_dir=folder) as supervisor,
        served(supervisor_app(supervisor)) as url,
        aiohttp.ClientSession() as session,
    ):
        yield ProcessProvider(url, session=session, timeout_s=BOUND_S)


@asynccontextmanager
async def static_provider(_: Path) -> AsyncIterator[NodeProvider]:
    yield StaticProvider([spare("p1", Role.PROMPT), spare("p2", Role.PROMPT)])


Opened = Callable[[Path], AbstractAsyncContextManager[NodeProvider]]

# Opened inside the test: a supervisor's tasks belong to the task that leaves it.
every_provider = pytest.mark.parametrize(
    "opened",
    [pytest.param(process_provider, id="process"), pytest.param(static_provider, id="static")],
)


async def wanted(provider: NodeProvider) -> list[ProvidedNode]:
    return [node for node in await provider.nodes() if not node.is_standby]


@every_provider
async def test_a_node_asked_for_is_listed_with_its_role_and_request(
    opened: Opened, tmp_path: Path
) -> None:
    async with opened(tmp_path) as provider:
        assert await wanted(provider) == []

        await provider.grow(Role.PROMPT, "r1")

        (node,) = await wanted(provider)
        assert (node.role, node.request_id) == (Role.PROMPT, "r1")
        assert node.id


@every_provider
async def test_a_repeated_request_asks_for_nothing_more(opened: Opened, tmp_path: Path) -> None:
    async with opened(tmp_path) as provider:
        await provider.grow(Role.PROMPT, "r1")
        await provider.grow(Role.PROMPT, "r1")
        assert len(await wanted(provider)) == 1

        await provider.grow(Role.PROMPT, "r2")
        nodes = await wanted(provider)
        assert [node.request_id for node in nodes] == ["r1", "r2"]
        assert len({node.id for node in nodes}) == 2


@every_provider
async def test_a_removed_node_leaves_and_removing_it_again_is_a_success(
    opened: Opened, tmp_path: Path
) -> None:
    async with opened(tmp_path) as provider:
        await provider.grow(Role.PROMPT, "r1")
        (node,) = await wanted(provider)

        await provider.remove(node.id)
        await provider.remove(node.id)
        await provider.remove("never-was")

        with anyio.fail_after(BOUND_S):
            while await wanted(provider):
                await anyio.lowlevel.checkpoint()


async def test_a_process_node_gets_its_urls_once_it_listens(tmp_path: Path) -> None:
    async with (
        supervising(standin(), work_dir=tmp_path) as supervisor,
        served(supervisor_app(supervisor)) as url,
        aiohttp.ClientSession() as session,
    ):
        provider = ProcessProvider(url, session=session, timeout_s=BOUND_S)
        await provider.grow(Role.DECODER, "r1")
        (starting,) = await provider.nodes()
        assert (starting.agent_urls, starting.metrics_url, starting.engine_url) == ((), "", "")

        child = await grown(supervisor, Role.DECODER, "r1")
        (listening,) = await provider.nodes()
        urls = child.urls
        assert urls is not None
        assert listening == ProvidedNode(
            id="decoder-1",
            role=Role.DECODER,
            request_id="r1",
            agent_urls=urls.agent_urls,
            metrics_url=urls.metrics_url,
            engine_url=urls.engine_url,
        )

        await provider.remove("decoder-1")
        await until(supervisor, lambda: not supervisor.nodes)
        assert await provider.nodes() == ()


async def every_call(provider: NodeProvider) -> list[type[Exception] | None]:
    raised: list[type[Exception] | None] = []
    for call in (provider.nodes(), provider.grow(Role.PROMPT, "r"), provider.remove("p1")):
        try:
            await call
        except (TransientError, PermanentError, OutcomeUnknownError) as error:
            raised.append(type(error))
        else:
            raised.append(None)
    return raised


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, [PermanentError] * 3),
        (404, [PermanentError, PermanentError, None]),
        (409, [TransientError] * 3),
        (429, [TransientError] * 3),
        (503, [TransientError] * 3),
    ],
)
async def test_a_status_is_told_by_what_to_do_next(
    status: int, expected: list[type[Exception] | None]
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    async with served(app) as url, aiohttp.ClientSession() as session:
        assert await every_call(ProcessProvider(url, session=session)) == expected


async def test_a_lost_answer_to_a_change_is_unknown_and_to_a_read_is_transient() -> None:
    async def cut(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", cut)
    async with served(app) as url, aiohttp.ClientSession() as session:
        raised = await every_call(ProcessProvider(url, session=session))

    assert raised == [TransientError, OutcomeUnknownError, OutcomeUnknownError]


async def test_a_silent_supervisor_is_given_up_in_time() -> None:
    async def never(_: web.Request) -> web.Response:
        await anyio.sleep_forever()
        raise AssertionError

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", never)
    async with served(app) as url, aiohttp.ClientSession() as session:
        raised = await every_call(ProcessProvider(url, session=session, timeout_s=0.05))

    assert raised == [TransientError, OutcomeUnknownError, OutcomeUnknownError]


async def test_a_supervisor_that_is_not_there_has_done_nothing() -> None:
    async with served(web.Application()) as url:
        pass
    async with aiohttp.ClientSession() as session:
        assert await every_call(ProcessProvider(url, session=session)) == [TransientError] * 3


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        "no json",
        "[1]",
        "[{}]",
        '[{"id": "a", "role": "mixed"}]',
        '[{"id": "a", "role": ["prompt"]}]',
        '[{"id": 3, "role": "prompt"}]',
        '[{"id": "a", "role": "prompt", "agent_urls": null}]',
    ],
)
async def test_an_answer_that_is_no_list_of_nodes_is_refused(body: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/nodes", answer)
    async with served(app) as url, aiohttp.ClientSession() as session:
        with pytest.raises(TransientError):
            await ProcessProvider(url, session=session).nodes()


async def test_the_pool_lists_spares_takes_them_by_role_and_refuses_when_it_is_empty() -> None:
    provider = StaticProvider(
        [spare("p1", Role.PROMPT), spare("d1", Role.DECODER), spare("d2", Role.DECODER)]
    )
    assert all(node.is_standby for node in await provider.nodes())

    await provider.grow(Role.DECODER, "r1")
    await provider.grow(Role.DECODER, "r2")
    with pytest.raises(TransientError, match="no decoder node is left"):
        await provider.grow(Role.DECODER, "r3")

    await provider.remove("d1")
    await provider.grow(Role.DECODER, "r3")
    taken = {node.id: node.request_id for node in await provider.nodes() if not node.is_standby}
    assert taken == {"d1": "r3", "d2": "r2"}


async def test_a_spare_that_was_given_back_is_taken_after_those_that_were_not() -> None:
    serving = replace(spare("p1", Role.PROMPT), is_standby=False)
    provider = StaticProvider([serving, spare("p2", Role.PROMPT), spare("d1", Role.DECODER)])
    await provider.remove("p1")
    await provider.remove("p1")
    taken: list[list[str]] = []
    for number in range(3):
        await provider.grow(Role.PROMPT, f"start-{number}")
        taken.append([n.id for n in await provider.nodes() if not n.is_standby])
        await provider.remove(taken[-1][0])
    assert taken == [["p2"], ["p1"], ["p2"]]
    assert [n.id for n in await provider.nodes()] == ["p1", "p2", "d1"]


def test_two_static_nodes_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="'p1' is given twice"):
        StaticProvider([spare("p1", Role.PROMPT), spare("p1", Role.DECODER)])
