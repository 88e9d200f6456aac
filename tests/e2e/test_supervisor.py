"""The supervisor and its real processes."""

import os
import signal
from pathlib import Path

import aiohttp
import anyio
import pytest

from pd_autoscaler.embedded.child import ChildState, End
from pd_autoscaler.embedded.supervisor import SupervisorLimits, supervising
from pd_autoscaler.embedded.supervisor_http import served, supervisor_app
from pd_autoscaler.errors import TransientError
from pd_autoscaler.model.node import Role
from tests.support.supervision import grown, is_alive, standin, until

pytestmark = pytest.mark.e2e

JSON = {"Content-Type": "application/json"}
QUICK = SupervisorLimits(start_s=20, grace_s=0.2)


async def test_a_node_is_listed_while_it_starts_and_listens_and_not_when_it_has_ended(
    tmp_path: Path,
) -> None:
    async with supervising(standin(), work_dir=tmp_path) as supervisor:
        node_id = supervisor.grow(Role.PROMPT, "a")
        (child,) = supervisor.nodes
        assert (child.id, child.state, child.urls) == ("prompt-1", ChildState.STARTING, None)

        await until(supervisor, lambda: child.state is ChildState.RUNNING)
        assert child.urls is not None
        assert len(child.urls.agent_urls) == 1
        assert is_alive(child.pid)

        supervisor.remove(node_id)
        assert child.state is ChildState.STOPPING
        await until(supervisor, lambda: not supervisor.nodes)

        (end,) = supervisor.ended
        assert (end.id, end.how, end.code, end.error) == ("prompt-1", End.REMOVED, 0, "")
        assert not is_alive(end.pid)
        assert supervisor.node_seconds == end.ended_s - end.began_s > 0
        supervisor.remove(node_id)  # Gone is what was asked for.


async def test_a_repeated_request_begins_nothing_more_even_after_its_node_ended(
    tmp_path: Path,
) -> None:
    async with supervising(standin(), work_dir=tmp_path) as supervisor:
        child = await grown(supervisor, Role.DECODER, "a")
        assert supervisor.grow(Role.DECODER, "a") == child.id
        assert len(supervisor.nodes) == 1

        supervisor.remove(child.id)
        await until(supervisor, lambda: not supervisor.nodes)

        assert supervisor.grow(Role.DECODER, "a") == child.id
        assert not supervisor.nodes
        assert supervisor.started_count == 1


async def test_names_and_cluster_ids_are_never_used_again(tmp_path: Path) -> None:
    async with supervising(standin(), work_dir=tmp_path) as supervisor:
        first = await grown(supervisor, Role.PROMPT, "a")
        supervisor.remove(first.id)
        await until(supervisor, lambda: not supervisor.nodes)
        second = await grown(supervisor, Role.DECODER, "b")

    assert (first.id, second.id) == ("prompt-1", "decoder-2")
    assert (first.cluster_id, second.cluster_id) == ((0x7F000001 << 32) | 1, (0x7F000001 << 32) | 2)


async def test_a_node_has_an_id_for_each_of_its_ranks_and_shares_none(tmp_path: Path) -> None:
    ranks = {Role.PROMPT: 2, Role.DECODER: 3}
    async with supervising(standin(), work_dir=tmp_path, ranks=ranks) as supervisor:
        children = [
            await grown(supervisor, role, request_id)
            for role, request_id in ((Role.DECODER, "a"), (Role.PROMPT, "b"), (Role.DECODER, "c"))
        ]

    ids = [cluster_id for child in children for cluster_id in child.cluster_ids]
    assert [len(child.cluster_ids) for child in children] == [3, 2, 3]
    assert len(set(ids)) == len(ids) == 8


async def test_a_killed_node_is_recorded_with_its_signal_and_leaves_the_list(
    tmp_path: Path,
) -> None:
    async with supervising(standin(), work_dir=tmp_path) as supervisor:
        child = await grown(supervisor, Role.PROMPT, "a")
        other = await grown(supervisor, Role.DECODER, "b")

        os.kill(child.pid, signal.SIGKILL)
        await until(supervisor, lambda: bool(supervisor.ended))

        (end,) = supervisor.ended
        assert (end.how, end.code, end.is_unasked) == (End.KILLED, -signal.SIGKILL, True)
        assert set(supervisor.killed_at_s()) == {child.id}
        assert [node.id for node in supervisor.nodes] == [other.id]


async def test_a_node_that_ends_by_itself_is_recorded_as_exited(tmp_path: Path) -> None:
    async with supervising(standin(), work_dir=tmp_path) as supervisor:
        child = await grown(supervisor, Role.PROMPT, "a")

        os.kill(child.pid, signal.SIGTERM)  # Not from its supervisor; the node ends with code 0.
        await until(supervisor, lambda: bool(supervisor.ended))

        (end,) = supervisor.ended
        assert (end.how, end.code, end.is_unasked) == (End.EXITED, 0, True)


@pytest.mark.parametrize(
    ("behave", "start_s", "says"),
    [
        ("exit", 20, "before it listened (code 1); no accelerator here\nexiting"),
        ("nonsense", 20, "said b'ready!' instead of a JSON object"),
        ("mute", 0.1, "said nothing within 0.1 s of its start"),
    ],
)
async def test_a_start_that_fails_is_recorded_with_its_reason(
    tmp_path: Path, behave: str, start_s: float, says: str
) -> None:
    limits = SupervisorLimits(start_s=start_s, grace_s=5)
    async with supervising(standin(behave), work_dir=tmp_path, limits=limits) as supervisor:
        supervisor.grow(Role.PROMPT, "a")
        await until(supervisor, lambda: bool(supervisor.ended))

        (end,) = supervisor.ended
        assert end.how is End.START_FAILED
        assert says in end.error
        assert not is_alive(end.pid)
        assert supervisor.killed_at_s() == {}


async def test_a_command_that_does_not_exist_is_a_start_that_failed(tmp_path: Path) -> None:
    async with supervising(lambda *_: ["/no/such/node"], work_dir=tmp_path) as supervisor:
        supervisor.grow(Role.PROMPT, "a")
        await until(supervisor, lambda: bool(supervisor.ended))

        (end,) = supervisor.ended
        assert (end.how, end.pid, end.code) == (End.START_FAILED, 0, None)
        assert "cannot be started" in end.error
        assert supervisor.started_count == 0


async def test_a_node_deaf_to_every_request_is_killed_after_the_grace(tmp_path: Path) -> None:
    async with supervising(standin("deaf"), work_dir=tmp_path, limits=QUICK) as supervisor:
        child = await grown(supervisor, Role.PROMPT, "a")
        supervisor.remove(child.id)
        await until(supervisor, lambda: not supervisor.nodes)

        (end,) = supervisor.ended
        assert (end.how, end.code) == (End.REMOVED, -signal.SIGKILL)


async def test_a_stopped_node_is_ended_as_well(tmp_path: Path) -> None:
    async with supervising(standin(), work_dir=tmp_path, limits=QUICK) as supervisor:
        child = await grown(supervisor, Role.PROMPT, "a")
        os.kill(child.pid, signal.SIGSTOP)

    assert not is_alive(child.pid)


async def test_leaving_ends_every_node_started_or_starting(tmp_path: Path) -> None:
    async with supervising(standin(), work_dir=tmp_path) as supervisor:
        running = await grown(supervisor, Role.PROMPT, "a")
        supervisor.grow(Role.DECODER, "b")
        starting = supervisor.nodes[1]
        await until(supervisor, lambda: starting.pid > 0)
        supervisor.grow(Role.DECODER, "c")  # Not even begun.

    assert supervisor.nodes == ()
    assert not is_alive(running.pid)
    assert not is_alive(starting.pid)
    assert {end.how for end in supervisor.ended} == {End.REMOVED}
    assert os.listdir(tmp_path) == []  # noqa: PTH208  # Logs of those removed are deleted.
    with pytest.raises(TransientError, match="is ending"):
        supervisor.grow(Role.PROMPT, "d")


async def test_an_error_in_the_body_ends_every_node(tmp_path: Path) -> None:
    pids: list[int] = []

    async def broken() -> None:
        async with supervising(standin(), work_dir=tmp_path) as supervisor:
            pids.append((await grown(supervisor, Role.PROMPT, "a")).pid)
            raise RuntimeError("broken")

    with pytest.raises(ExceptionGroup):
        await broken()
    assert not is_alive(pids[0])


async def test_cancelling_ends_every_node(tmp_path: Path) -> None:
    pids: list[int] = []
    with anyio.CancelScope() as scope:
        async with supervising(standin(), work_dir=tmp_path) as supervisor:
            pids.append((await grown(supervisor, Role.PROMPT, "a")).pid)
            scope.cancel()
            await anyio.sleep_forever()

    assert not is_alive(pids[0])


async def test_the_limit_of_nodes_refuses_and_frees(tmp_path: Path) -> None:
    limits = SupervisorLimits(nodes_max=1)
    async with supervising(standin(), work_dir=tmp_path, limits=limits) as supervisor:
        child = await grown(supervisor, Role.PROMPT, "a")
        with pytest.raises(TransientError, match="limit of 1 nodes"):
            supervisor.grow(Role.PROMPT, "b")
        supervisor.remove(child.id)
        await until(supervisor, lambda: not supervisor.nodes)
        await grown(supervisor, Role.PROMPT, "b")


async def answer(client: aiohttp.ClientSession, method: str, path: str, **json: str) -> object:
    async with client.request(method, path, json=json or None) as response:
        body = await response.json() if response.content_type == "application/json" else None
        return response.status, body


async def test_the_api_lists_grows_removes_and_tells_what_ended(tmp_path: Path) -> None:
    async with (
        supervising(standin(), work_dir=tmp_path) as supervisor,
        served(supervisor_app(supervisor)) as url,
        aiohttp.ClientSession(url) as client,
    ):
        assert await answer(client, "GET", "/nodes") == (200, [])
        asked = {"role": "prompt", "request_id": "a"}
        assert await answer(client, "POST", "/nodes", **asked) == (202, {"id": "prompt-1"})
        assert await answer(client, "POST", "/nodes", **asked) == (202, {"id": "prompt-1"})
        (child,) = supervisor.nodes
        await until(supervisor, lambda: child.state is ChildState.RUNNING)
        assert child.urls is not None
        listed = {
            "id": "prompt-1",
            "role": "prompt",
            "request_id": "a",
            "agent_urls": list(child.urls.agent_urls),
            "engine_url": child.urls.engine_url,
            "metrics_url": child.urls.metrics_url,
            "pid": child.pid,
            "state": "running",
        }
        assert await answer(client, "GET", "/nodes") == (200, [listed])

        assert await answer(client, "DELETE", "/nodes/prompt-1") == (204, None)
        await until(supervisor, lambda: not supervisor.nodes)
        assert await answer(client, "DELETE", "/nodes/prompt-1") == (204, None)
        async with client.get("/ended") as response:
            (end,) = await response.json()
        assert (end["id"], end["how"], end["is_unasked"]) == ("prompt-1", "removed", False)


async def test_what_a_web_page_could_post_unasked_begins_nothing(tmp_path: Path) -> None:
    body = b'{"role": "prompt", "request_id": "a"}'
    async with (
        supervising(standin(), work_dir=tmp_path) as supervisor,
        served(supervisor_app(supervisor)) as url,
        aiohttp.ClientSession() as client,
        client.post(f"{url}/nodes", data=body, headers={"Content-Type": "text/plain"}) as response,
    ):
        assert response.status == 415
        assert "application/json" in (await response.json())["error"]
        assert supervisor.nodes == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"role": "prompt"}',
        b'{"role": "mixed", "request_id": "a"}',
        b'{"role": "prompt", "request_id": ""}',
        b'{"role": "prompt", "request_id": 3}',
        b'{"role": ["prompt"], "request_id": "a"}',
    ],
)
async def test_a_wrong_request_begins_nothing(tmp_path: Path, body: bytes) -> None:
    async with (
        supervising(standin(), work_dir=tmp_path) as supervisor,
        served(supervisor_app(supervisor)) as url,
        aiohttp.ClientSession() as client,
        client.post(f"{url}/nodes", data=body, headers=JSON) as response,
    ):
        assert response.status == 400
        assert "give" in (await response.json())["error"]
        assert supervisor.nodes == ()
