"""Nodes that take the other role in place: what moves with them and what they refuse."""

import json

import anyio
import pytest

from pd_autoscaler.embedded.router import EmbeddedRouter
from pd_autoscaler.embedded.router_table import RoutedNode
from pd_autoscaler.model.node import Role
from tests.support.node_process import Hand, NodeProcess, hand, node

pytestmark = pytest.mark.e2e

BODY = {"prompt_tokens": 300, "max_tokens": 5}
IDLE = {"waiting": 0, "running": 0, "kv_unpulled": 0, "kv_used": 0}
PREFILL = {"do_remote_decode": True}


def publish(router: EmbeddedRouter, prompt: NodeProcess, decoder: NodeProcess) -> None:
    for each, role in ((prompt, Role.PROMPT), (decoder, Role.DECODER)):
        router.table.publish(RoutedNode(each.id, role, each.engine_url))


async def swap(by_hand: Hand, prompt: NodeProcess, decoder: NodeProcess) -> None:
    """Let a linked pair take each other's role, and link it in the new direction."""
    assert (await by_hand.called("unlinks", decoder, prompt))["outcome"] == "done"
    for each, role in ((prompt, Role.DECODER), (decoder, Role.PROMPT)):
        status, text = await by_hand.switched(each, 0, role)
        assert status == 200, text
        assert json.loads(text)["role"] == role.value
    assert (await by_hand.called("links", prompt, decoder))["outcome"] == "done"


async def test_a_pair_swaps_roles_and_back_and_its_counters_go_on() -> None:
    router = EmbeddedRouter()
    async with (
        hand() as by_hand,
        node("p1", Role.PROMPT, 1) as first,
        node("d1", Role.DECODER, 101) as second,
        router.listening() as url,
    ):
        for each in (first, second):
            await by_hand.initialised(each)
            assert "role" in (await by_hand.state(each))["capabilities"]
        await by_hand.called("links", second, first)

        prompt, decoder = first, second
        labels = '{engine="0",model_name="demo"}'
        for served in (1, 2, 3):
            publish(router, prompt, decoder)
            before = {each.id: await by_hand.page(each) for each in (prompt, decoder)}
            status, text = await by_hand.posted(f"{url}/v1/completions", **BODY)
            assert status == 200, text
            for each, tokens in ((prompt, 1), (decoder, 5)):
                page = await by_hand.page(each)
                name = f"vllm:generation_tokens_total{labels}"
                assert page[name] == before[each.id][name] + tokens
                name = f"vllm:e2e_request_latency_seconds_count{labels}"
                assert page[name] == served
                assert (await by_hand.state(each))["engine"] == IDLE
            # What is listed is what it began as; the node itself says what it is now.
            await swap(by_hand, prompt, decoder)
            prompt, decoder = decoder, prompt
            assert (await by_hand.got(f"{prompt.engine_url}/sim/entities"))["role"] == "prompt"


async def test_a_node_with_work_inside_refuses_to_flip_and_flips_once_it_is_idle() -> None:
    async with hand() as by_hand, node("p1", Role.PROMPT, 1) as prompt:
        await by_hand.initialised(prompt)
        status, text = await by_hand.posted(
            f"{prompt.engine_url}/v1/completions",
            prompt_tokens=300,
            max_tokens=1,
            kv_transfer_params=PREFILL,
        )
        assert status == 200
        status, said = await by_hand.switched(prompt, 0, Role.DECODER)
        assert status >= 400
        assert "cannot become a decoder" in said
        state = await by_hand.state(prompt)
        assert (state["role"], state["engine"]["kv_unpulled"]) == ("prompt", 1)
        assert state["endpoints"][0]["port"] is not None

        held = json.loads(text)["kv_transfer_params"]["request_id"]
        release = f"{prompt.engine_url}/v1/kv/release"
        assert (await by_hand.posted(release, request_id=held))[0] == 200
        status, said = await by_hand.switched(prompt, 0, Role.DECODER)
        assert status == 200, said
        # It is a decoder now: it asks where the KV is, and has none to give back.
        status, said = await by_hand.posted(f"{prompt.engine_url}/v1/completions", **BODY)
        assert (status, "do_remote_prefill" in said) == (400, True)
        assert (await by_hand.posted(release, request_id=held))[0] == 404


async def test_a_node_flips_when_the_last_of_its_ranks_has_switched() -> None:
    async with hand() as by_hand, node("d1", Role.DECODER, 1, "--ranks", "2") as decoder:
        await by_hand.initialised(decoder)
        role = f"{decoder.engine_url}/sim/entities"

        assert (await by_hand.switched(decoder, 1, Role.PROMPT))[0] == 200
        assert (await by_hand.got(role))["role"] == "decoder"
        assert (await by_hand.switched(decoder, 0, Role.PROMPT))[0] == 200
        assert (await by_hand.got(role))["role"] == "prompt"
        states = [await by_hand.state(decoder, rank) for rank in (0, 1)]
        assert [state["role"] for state in states] == ["prompt", "prompt"]
        assert None not in [state["endpoints"][0]["port"] for state in states]


async def test_a_request_that_comes_while_a_node_flips_is_refused_by_name() -> None:
    async with hand() as by_hand, node("p1", Role.PROMPT, 1, flip_s=600.0) as prompt:
        await by_hand.initialised(prompt)
        async with anyio.create_task_group() as group:
            group.start_soon(by_hand.switched, prompt, 0, Role.DECODER)
            with anyio.fail_after(10):
                status = 400
                while status == 400:  # A prompt node calls it bad, and nothing stays inside.
                    status, text = await by_hand.posted(
                        f"{prompt.engine_url}/v1/completions", **BODY
                    )
            assert (status, json.loads(text)["code"]) == (503, "switching_role")
            group.cancel_scope.cancel()


async def test_a_fixed_node_says_that_it_cannot_switch() -> None:
    async with hand() as by_hand, node("p1", Role.PROMPT, 1, "--fixed-role") as prompt:
        await by_hand.initialised(prompt)
        assert "role" not in (await by_hand.state(prompt))["capabilities"]
        status, said = await by_hand.switched(prompt, 0, Role.DECODER)
        assert status >= 400
        assert json.loads(said)["reason"] == "cannot_switch"
