"""Two real node processes, linked through their agents, behind the router."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import anyio
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from pd_autoscaler.embedded.node import main
from pd_autoscaler.embedded.router import EmbeddedRouter
from pd_autoscaler.embedded.router_table import RoutedNode
from pd_autoscaler.model.node import Role

pytestmark = pytest.mark.e2e

FAST = {
    "prefill_points": [[1, 0.002], [1000, 0.004]],
    "decode_base_s": 0.001,
    "decode_per_request_s": 0.0,
    "start_s": 0.0,
}
FENCE = {"epoch": 1, "holder": "test"}


@dataclass
class NodeProcess:
    """A node's process and what it said of itself."""

    process: Process
    said: dict[str, Any]

    async def ended(self) -> int:
        with anyio.fail_after(10):
            return await self.process.wait()


@asynccontextmanager
async def node(node_id: str, role: Role, cluster_id: int) -> AsyncIterator[NodeProcess]:
    command = [sys.executable, "-m", "pd_autoscaler.embedded.node", "--node-id", node_id]
    command += ["--role", role.value, "--cluster-id", str(cluster_id), "--link-s", "0"]
    command += ["--profile", json.dumps(FAST)]
    process = await anyio.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None
    )
    try:
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        with anyio.fail_after(30):
            line = await lines.receive_until(b"\n", 65_536)
        yield NodeProcess(process, json.loads(line))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await process.aclose()


async def _posted(session: aiohttp.ClientSession, url: str, **body: object) -> tuple[int, str]:
    async with session.post(url, json=body) as answer:
        return answer.status, await answer.text()


async def _initialised(session: aiohttp.ClientSession, node: NodeProcess) -> dict[str, Any]:
    """Initialise a node's library through its agent and return its state."""
    url = node.said["agent_url"]
    async with session.get(f"{url}/v1/state") as answer:
        incarnation = (await answer.json())["incarnation"]
    body = {**FENCE, "incarnation": incarnation, "key": "init", "role": node.said["role"]}
    status, text = await _posted(session, f"{url}/v1/init", **body)
    assert status == 200, text
    state: dict[str, Any] = json.loads(text)
    return state


async def _link_call(
    session: aiohttp.ClientSession, decoder: NodeProcess, verb: str, states: dict[str, Any]
) -> list[dict[str, Any]]:
    """Have the decoder's agent link or unlink the prompt node."""
    (endpoint,) = states["prompt"]["endpoints"]
    cluster = {"id": endpoint["cluster_id"], "ip": endpoint["ip"], "port": endpoint["port"]}
    cluster["incarnation"] = states["prompt"]["incarnation"]
    body = {**FENCE, "incarnation": states["decoder"]["incarnation"], "key": verb}
    url = f"{decoder.said['agent_url']}/v1/{verb}"
    status, text = await _posted(session, url, **body, clusters=[cluster])
    assert status == 200, text
    return [json.loads(line) for line in text.splitlines()]


async def _entities(session: aiohttp.ClientSession, node: NodeProcess) -> list[int]:
    async with session.get(f"{node.said['engine_url']}/sim/entities") as answer:
        entities: list[int] = (await answer.json())["entities"]
        return entities


async def test_a_request_needs_the_link_and_streams_once_it_is_there() -> None:
    router = EmbeddedRouter()
    async with (
        aiohttp.ClientSession() as session,
        node("p1", Role.PROMPT, 1) as prompt,
        node("d1", Role.DECODER, 101) as decoder,
        router.listening() as url,
    ):
        body = {"prompt_tokens": 300, "max_tokens": 20, "stream": True}
        for each in (prompt, decoder):
            role = Role(each.said["role"])
            router.table.publish(RoutedNode(each.said["node_id"], role, each.said["engine_url"]))

        # Neither library is initialised, then both are but not linked.
        status, text = await _posted(session, f"{url}/v1/completions", **body)
        assert (status, json.loads(text)["code"]) == (502, "NOT_INITIALISED")
        states = {
            "prompt": await _initialised(session, prompt),
            "decoder": await _initialised(session, decoder),
        }
        status, text = await _posted(session, f"{url}/v1/completions", **body)
        failure = json.loads(text)
        assert (status, failure["stage"], failure["code"]) == (502, "pull", "LLM_NOT_YET_LINK")
        assert failure["node_id"] == "d1"

        (line,) = await _link_call(session, decoder, "links", states)
        assert (line["outcome"], line["code"]) == ("done", "LLM_SUCCESS")
        assert await _entities(session, decoder) == [1]
        assert await _entities(session, prompt) == [101]

        status, text = await _posted(session, f"{url}/v1/completions", **body)
        assert status == 200
        assert text.count(" tok") == 20
        assert text.endswith("data: [DONE]\n\n")
        for each in (prompt, decoder):
            async with session.get(f"{each.said['agent_url']}/v1/state") as answer:
                engine = (await answer.json())["engine"]
            assert engine == {"waiting": 0, "running": 0, "kv_unpulled": 0}

        (line,) = await _link_call(session, decoder, "unlinks", states)
        assert line["outcome"] == "done"
        status, text = await _posted(session, f"{url}/v1/completions", **body)
        assert (status, json.loads(text)["code"]) == (502, "LLM_NOT_YET_LINK")
        assert [failure.node_id for failure in router.log.failures] == ["d1", "d1", "d1"]

        assert prompt.process.stdin is not None
        await prompt.process.stdin.aclose()
        assert await prompt.ended() == 0
        decoder.process.send_signal(signal.SIGTERM)
        assert await decoder.ended() == 0


async def test_a_node_says_where_it_listens_and_answers_there() -> None:
    async with aiohttp.ClientSession() as session, node("p7", Role.PROMPT, 7) as prompt:
        said = prompt.said
        assert (said["node_id"], said["role"], said["pid"]) == ("p7", "prompt", prompt.process.pid)
        async with session.get(said["metrics_url"]) as answer:
            page = await answer.text()
        assert 'vllm:num_requests_running{engine="0",model_name="demo"} 0.0' in page.splitlines()
        async with session.get(f"{said['agent_url']}/v1/state") as answer:
            state = await answer.json()
        assert (state["node_id"], state["role"], state["phase"]) == ("p7", "prompt", "new")


async def test_a_node_with_a_hung_native_call_ends_all_the_same() -> None:
    async with (
        aiohttp.ClientSession() as session,
        node("p1", Role.PROMPT, 1) as prompt,
        node("d1", Role.DECODER, 101) as decoder,
    ):
        states = {
            "prompt": await _initialised(session, prompt),
            "decoder": await _initialised(session, decoder),
        }
        faults = f"{decoder.said['engine_url']}/sim/faults"
        status, _ = await _posted(session, faults, kind="hang", verb="link", cluster_id=1)
        assert status == 200
        async with anyio.create_task_group() as group:

            async def link() -> None:
                # The agent says "unknown" while it ends, or is gone before it can.
                with contextlib.suppress(aiohttp.ClientError):
                    await _link_call(session, decoder, "links", states)

            group.start_soon(link)
            with anyio.fail_after(10):
                while True:
                    async with session.get(f"{decoder.said['agent_url']}/v1/state") as answer:
                        if (await answer.json())["calls_in_flight"] == 1:
                            break
            assert decoder.process.stdin is not None
            await decoder.process.stdin.aclose()
            assert await decoder.ended() == 0


async def test_faults_can_be_set_and_cleared_at_run_time() -> None:
    async with (
        aiohttp.ClientSession() as session,
        node("p1", Role.PROMPT, 1) as prompt,
        node("d1", Role.DECODER, 101) as decoder,
    ):
        states = {
            "prompt": await _initialised(session, prompt),
            "decoder": await _initialised(session, decoder),
        }
        faults = f"{decoder.said['engine_url']}/sim/faults"
        fault = {"kind": "fail", "verb": "link", "cluster_id": 1, "code": "LLM_LINK_FAILED"}
        assert (await _posted(session, faults, **fault))[0] == 200
        (line,) = await _link_call(session, decoder, "links", states)
        assert (line["outcome"], line["code"]) == ("failed", "LLM_LINK_FAILED")
        assert await _entities(session, decoder) == []

        assert (await _posted(session, faults, kind="clear"))[0] == 200
        status, text = await _posted(session, faults, slowness=2.5)
        assert (status, json.loads(text)) == (200, {"slowness": 2.5})
        for wrong in (
            {"slowness": 0},
            {"slowness": "x"},
            {"kind": "explode", "verb": "link", "cluster_id": 1},
            {"kind": "hang"},
            {"kind": "delay", "verb": "link", "cluster_id": 1},
            {"kind": "clear", "cluster_id": "x"},
        ):
            assert (await _posted(session, faults, **wrong))[0] == 400


@pytest.mark.parametrize(
    "profile", ["[]", "{", '{"batch_max": 0}', '{"nonsense": 1}'], ids=["list", "cut", "0", "name"]
)
def test_a_wrong_profile_is_refused_before_anything_starts(
    profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--node-id", "p", "--role", "prompt", "--cluster-id", "1", "--profile", profile])
    assert ended.value.code == 2
    assert "--profile" in capsys.readouterr().err


def test_a_node_without_a_pipe_to_its_parent_does_not_outlive_it() -> None:
    command = [sys.executable, "-m", "pd_autoscaler.embedded.node", "--node-id", "p"]
    command += ["--role", "prompt", "--cluster-id", "1", "--start-s", "600"]
    done = subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (0, b"")


def test_a_node_does_not_load_what_only_the_controller_needs() -> None:
    code = "import sys, pd_autoscaler.embedded.node; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30
    )
    assert not {"typer", "rich", "pydantic_settings", "yaml", "sqlite3"} & set(done.stdout.split())
