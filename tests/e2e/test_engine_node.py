"""Two real node processes, linked through their agents, behind the router."""

import contextlib
import json
import signal
import subprocess
import sys

import aiohttp
import anyio
import pytest

from pd_autoscaler.embedded.node import main
from pd_autoscaler.embedded.router import EmbeddedRouter
from pd_autoscaler.embedded.router_table import RoutedNode
from pd_autoscaler.model.node import Role
from tests.support.node_process import hand, node

pytestmark = pytest.mark.e2e


async def test_a_request_needs_the_link_and_streams_once_it_is_there() -> None:
    router = EmbeddedRouter()
    async with (
        hand() as by_hand,
        node("p1", Role.PROMPT, 1) as prompt,
        node("d1", Role.DECODER, 101) as decoder,
        router.listening() as url,
    ):
        body = {"prompt_tokens": 300, "max_tokens": 20, "stream": True}
        for each in (prompt, decoder):
            role = Role(each.said["role"])
            router.table.publish(RoutedNode(each.said["node_id"], role, each.said["engine_url"]))

        # Neither library is initialised, then both are but not linked.
        status, text = await by_hand.posted(f"{url}/v1/completions", **body)
        assert (status, json.loads(text)["code"]) == (502, "NOT_INITIALISED")
        await by_hand.initialised(prompt)
        await by_hand.initialised(decoder)
        status, text = await by_hand.posted(f"{url}/v1/completions", **body)
        failure = json.loads(text)
        assert (status, failure["stage"], failure["code"]) == (502, "pull", "LLM_NOT_YET_LINK")
        assert failure["node_id"] == "d1"

        line = await by_hand.called("links", decoder, prompt)
        assert (line["outcome"], line["code"]) == ("done", "LLM_SUCCESS")
        assert await by_hand.entities(decoder) == {"101": [1]}
        assert await by_hand.entities(prompt) == {"1": [101]}

        status, text = await by_hand.posted(f"{url}/v1/completions", **body)
        assert status == 200
        assert text.count(" tok") == 20
        assert text.endswith("data: [DONE]\n\n")
        for each in (prompt, decoder):
            engine = (await by_hand.state(each))["engine"]
            assert engine == {"waiting": 0, "running": 0, "kv_unpulled": 0, "kv_used": 0}

        line = await by_hand.called("unlinks", decoder, prompt)
        assert line["outcome"] == "done"
        status, text = await by_hand.posted(f"{url}/v1/completions", **body)
        assert (status, json.loads(text)["code"]) == (502, "LLM_NOT_YET_LINK")
        assert [failure.node_id for failure in router.log.failures] == ["d1", "d1", "d1"]

        assert prompt.process.stdin is not None
        await prompt.process.stdin.aclose()
        assert await prompt.ended() == 0
        decoder.process.send_signal(signal.SIGTERM)
        assert await decoder.ended() == 0


async def test_a_node_says_where_it_listens_and_answers_there() -> None:
    async with hand() as by_hand, node("p7", Role.PROMPT, 7) as prompt:
        said = prompt.said
        assert (said["node_id"], said["role"], said["pid"]) == ("p7", "prompt", prompt.process.pid)
        page = await by_hand.page(prompt)
        assert page['vllm:num_requests_running{engine="0",model_name="demo"}'] == 0
        state = await by_hand.state(prompt)
        assert (state["node_id"], state["role"], state["phase"]) == ("p7", "prompt", "new")


async def test_a_node_with_a_hung_native_call_ends_all_the_same() -> None:
    async with (
        hand() as by_hand,
        node("p1", Role.PROMPT, 1) as prompt,
        node("d1", Role.DECODER, 101) as decoder,
    ):
        await by_hand.initialised(prompt)
        await by_hand.initialised(decoder)
        faults = f"{decoder.said['engine_url']}/sim/faults"
        status, _ = await by_hand.posted(faults, kind="hang", verb="link", cluster_id=1)
        assert status == 200
        async with anyio.create_task_group() as group:

            async def link() -> None:
                # The agent says "unknown" while it ends, or is gone before it can.
                with contextlib.suppress(aiohttp.ClientError):
                    await by_hand.called("links", decoder, prompt)

            group.start_soon(link)
            with anyio.fail_after(10):
                while True:
                    if (await by_hand.state(decoder))["calls_in_flight"] == 1:
                        break
            assert decoder.process.stdin is not None
            await decoder.process.stdin.aclose()
            assert await decoder.ended() == 0


async def test_faults_can_be_set_and_cleared_at_run_time() -> None:
    async with (
        hand() as by_hand,
        node("p1", Role.PROMPT, 1) as prompt,
        node("d1", Role.DECODER, 101) as decoder,
    ):
        await by_hand.initialised(prompt)
        await by_hand.initialised(decoder)
        faults = f"{decoder.said['engine_url']}/sim/faults"
        fault = {"kind": "fail", "verb": "link", "cluster_id": 1, "code": "LLM_LINK_FAILED"}
        assert (await by_hand.posted(faults, **fault))[0] == 200
        line = await by_hand.called("links", decoder, prompt)
        assert (line["outcome"], line["code"]) == ("failed", "LLM_LINK_FAILED")
        assert await by_hand.entities(decoder) == {"101": []}

        assert (await by_hand.posted(faults, kind="clear"))[0] == 200
        status, text = await by_hand.posted(faults, slowness=2.5)
        assert (status, json.loads(text)) == (200, {"slowness": 2.5})
        for wrong in (
            {"slowness": 0},
            {"slowness": "x"},
            {"kind": "explode", "verb": "link", "cluster_id": 1},
            {"kind": "hang"},
            {"kind": "delay", "verb": "link", "cluster_id": 1},
            {"kind": "clear", "cluster_id": "x"},
            {"kind": "cut"},
            {"kind": "cut", "cluster_id": 7},
            {"kind": "clear", "rank": 1},
        ):
            assert (await by_hand.posted(faults, **wrong))[0] == 400


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
