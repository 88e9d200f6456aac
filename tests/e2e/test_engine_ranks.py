"""Nodes with several ranks: one agent each, and a request needs every pair of ranks linked."""

import json

import pytest

from pd_autoscaler.core.ranks import RankMapping, rank_pairs
from pd_autoscaler.embedded.router import EmbeddedRouter
from pd_autoscaler.embedded.router_table import RoutedNode
from pd_autoscaler.model.node import Role
from tests.support.node_process import hand, node

pytestmark = pytest.mark.e2e

BODY = {"prompt_tokens": 300, "max_tokens": 4}


async def test_a_request_succeeds_only_when_every_pair_of_ranks_is_linked() -> None:
    router = EmbeddedRouter()
    async with (
        hand() as by_hand,
        node("p1", Role.PROMPT, 1, "--ranks", "2") as prompt,
        node("d1", Role.DECODER, 101, "--ranks", "4") as decoder,
        router.listening() as url,
    ):
        for each, role in ((prompt, Role.PROMPT), (decoder, Role.DECODER)):
            router.table.publish(RoutedNode(each.id, role, each.engine_url))
            await by_hand.initialised(each)
        states = [await by_hand.state(decoder, rank) for rank in range(4)]
        assert [state["endpoints"][0]["cluster_id"] for state in states] == [101, 102, 103, 104]
        assert len({state["incarnation"] for state in states}) == 4

        pairs = rank_pairs(RankMapping.MODULO, 4, 2)
        for pair in pairs:
            status, text = await by_hand.posted(f"{url}/v1/completions", **BODY)
            assert (status, json.loads(text)["code"]) == (502, "LLM_NOT_YET_LINK")
            assert (await by_hand.called("links", decoder, prompt, pair))["outcome"] == "done"
        status, _ = await by_hand.posted(f"{url}/v1/completions", **BODY)
        assert status == 200
        assert await by_hand.entities(prompt) == {"1": [101, 103], "2": [102, 104]}
        assert await by_hand.entities(decoder) == {"101": [1], "102": [2], "103": [1], "104": [2]}

        assert (await by_hand.called("unlinks", decoder, prompt, (3, 1)))["outcome"] == "done"
        status, text = await by_hand.posted(f"{url}/v1/completions", **BODY)
        assert (status, json.loads(text)["code"]) == (502, "LLM_NOT_YET_LINK")


async def test_a_cut_link_looks_linked_and_its_agent_is_told_of_the_pull_that_failed() -> None:
    router = EmbeddedRouter()
    async with (
        hand() as by_hand,
        node("p1", Role.PROMPT, 1) as prompt,
        node("d1", Role.DECODER, 101, "--ranks", "2") as decoder,
        router.listening() as url,
    ):
        for each, role in ((prompt, Role.PROMPT), (decoder, Role.DECODER)):
            router.table.publish(RoutedNode(each.id, role, each.engine_url))
            await by_hand.initialised(each)
        for pair in ((0, 0), (1, 0)):
            await by_hand.called("links", decoder, prompt, pair)
        before = await by_hand.entities(prompt), await by_hand.entities(decoder)
        fault = {"kind": "cut", "cluster_id": 1, "rank": 1}
        assert (await by_hand.posted(f"{decoder.engine_url}/sim/faults", **fault))[0] == 200

        status, text = await by_hand.posted(f"{url}/v1/completions", **BODY)
        assert (status, json.loads(text)["code"]) == (502, "LLM_TIMEOUT")
        assert (await by_hand.entities(prompt), await by_hand.entities(decoder)) == before
        (well,) = (await by_hand.state(decoder, 0))["links"]
        (cut,) = (await by_hand.state(decoder, 1))["links"]
        assert (well["state"], well["code"]) == ("linked", "LLM_SUCCESS")
        assert cut["code"] == "LLM_TIMEOUT"

        # What the controller does about it: both ends unlinked, then linked anew.
        await by_hand.called("unlinks", decoder, prompt, (1, 0))
        await by_hand.called("links", decoder, prompt, (1, 0))
        status, _ = await by_hand.posted(f"{url}/v1/completions", **BODY)
        assert status == 200


async def test_ranks_that_the_mapping_cannot_pair_fail_the_request_visibly() -> None:
    router = EmbeddedRouter()
    one_to_one = ("--rank-mapping", "one_to_one")
    async with (
        hand() as by_hand,
        node("p1", Role.PROMPT, 1, "--ranks", "2", *one_to_one) as prompt,
        node("d1", Role.DECODER, 101, *one_to_one) as decoder,
        router.listening() as url,
    ):
        for each, role in ((prompt, Role.PROMPT), (decoder, Role.DECODER)):
            router.table.publish(RoutedNode(each.id, role, each.engine_url))
            await by_hand.initialised(each)
        status, text = await by_hand.posted(f"{url}/v1/completions", **BODY)
        assert (status, json.loads(text)["code"]) == (502, "LLM_PARAM_INVALID")


async def test_self_connecting_nodes_serve_unlinked() -> None:
    router = EmbeddedRouter()
    async with (
        hand() as by_hand,
        node("p1", Role.PROMPT, 1, "--self-connecting") as prompt,
        node("d1", Role.DECODER, 101, "--self-connecting", "--ranks", "2") as decoder,
        router.listening() as url,
    ):
        for each, role in ((prompt, Role.PROMPT), (decoder, Role.DECODER)):
            router.table.publish(RoutedNode(each.id, role, each.engine_url))
        status, text = await by_hand.posted(f"{url}/v1/completions", **BODY)
        assert (status, json.loads(text)["code"]) == (502, "NOT_INITIALISED")
        for each in (prompt, decoder):
            await by_hand.initialised(each)
        status, _ = await by_hand.posted(f"{url}/v1/completions", **BODY)
        assert status == 200
        assert await by_hand.entities(decoder) == {"101": [], "102": []}
        fault = {"kind": "cut", "cluster_id": 1}
        assert (await by_hand.posted(f"{decoder.engine_url}/sim/faults", **fault))[0] == 400
