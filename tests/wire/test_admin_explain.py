"""What /v1/explain answers: pairs and nodes in words, worst first, and refusals that name nodes."""

from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from pd_autoscaler.core.explanation import SUSPICION
from pd_autoscaler.errors import TransientError
from pd_autoscaler.model.link import Wait
from tests.support.admin import (
    NOW_S,
    AdminParts,
    StandInControl,
    StandInJournal,
    a_rich_past,
    a_rich_report,
    served,
)
from tests.support.reports import START_UNIX_S, a_node, a_report, a_snapshot

PAIR = "decoder=decoder-2&prompt=prompt-3"


def rich_parts(**limits: Any) -> AdminParts:
    report = a_rich_report()
    journal = StandInJournal(attempts=a_rich_past())
    return AdminParts(control=StandInControl(report), journal=journal, limits=limits)


async def asked(parts: AdminParts, query: str = "") -> tuple[int, Any]:
    async with (
        served(parts) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/v1/explain?{query}") as answer,
    ):
        return answer.status, await answer.json()


async def test_one_pair_is_explained_whole() -> None:
    code = "LLM_LINK_FAILED (the peer cannot be connected to)"
    lines = [
        (
            "failed for 15 s, down for 40 s, 3 failed tries since it was last up: "
            f"{code}, the peer did not answer"
        ),
        "wanted: decoder-2 is serving and prompt-3 is linking",
        f"tried 15 s ago: link failed after 5.0 s: {code}",
        "tried 40 s ago: link ended unknown after 12 s: no answer within 12 s",
        "next: a call to link it was begun 3.0 s ago",
    ]
    status, said = await asked(rich_parts(), PAIR)

    pair = said["pairs"][0]
    attempts = pair.pop("attempts")
    assert (status, said) == (
        200,
        {
            "cycle": 1234,
            "age_s": 3.0,
            "is_meshed": True,
            "node": None,
            "pairs": [pair],
            "more": 0,
        },
    )
    assert pair == {
        "decoder": "decoder-2",
        "prompt": "prompt-3",
        "state": "failed",
        "age_s": 15.0,
        "is_wanted": True,
        "next_s": 0.0,
        "lines": lines,
    }
    assert attempts[0] == {
        "at_unix_s": START_UNIX_S - 12.0,
        "node": "decoder-2",
        "peer": "prompt-3",
        "verb": "link",
        "outcome": "failed",
        "code": "LLM_LINK_FAILED",
        "why": "LLM_LINK_FAILED",
        "took_s": 5.0,
        "meaning": "the peer cannot be connected to",
    }
    assert [attempt["outcome"] for attempt in attempts] == ["failed", "unknown"]


async def test_without_a_question_every_pair_that_is_wanted_and_not_up_is_told() -> None:
    status, said = await asked(rich_parts())

    assert (status, said["node"], said["more"]) == (200, None, 0)
    names = [(pair["decoder"], pair["prompt"], pair["state"]) for pair in said["pairs"]]
    assert names == [("decoder-1", "prompt-3", "suspect"), ("decoder-2", "prompt-3", "failed")]
    assert said["pairs"][0]["lines"][1] == SUSPICION


async def test_what_is_too_much_for_one_answer_is_counted() -> None:
    _, said = await asked(rich_parts(explained_max=1))

    assert [pair["decoder"] for pair in said["pairs"]] == ["decoder-1"]
    assert said["more"] == 1


async def test_a_node_is_told_with_those_of_its_pairs_that_are_not_up() -> None:
    _, joining = await asked(rich_parts(), "node=prompt-3")
    _, serving = await asked(rich_parts(), "node=decoder-2")

    node = joining["node"]
    assert (node["id"], node["role"], node["state"]) == ("prompt-3", "prompt", "linking")
    assert node["age_s"] == 101.0
    assert node["lines"][0] == "prompt node, linking for 101 s: 2 of 4 links are up"
    assert [pair["decoder"] for pair in joining["pairs"]] == ["decoder-1", "decoder-2"]
    assert [pair["prompt"] for pair in serving["pairs"]] == ["prompt-3"]


async def test_a_node_that_only_links_still_name_is_explained_as_gone() -> None:
    report = a_rich_report()
    nodes = tuple(n for n in report.snapshot.nodes if n.id != "decoder-1")
    parts = rich_parts()
    parts.control.latest = replace(report, snapshot=replace(report.snapshot, nodes=nodes))

    status, said = await asked(parts, "node=decoder-1")

    assert (status, said["node"]["state"], said["pairs"]) == (200, None, [])
    assert said["node"]["lines"] == ["it is not there any more: only links still name it"]


async def test_a_wait_of_the_planner_is_what_comes_next() -> None:
    parts = rich_parts()
    wait = Wait("decoder-1", "prompt-3", "its forced unlink is under way", NOW_S + 4.0)
    parts.control.latest = replace(a_rich_report(), waits=(wait,))

    _, said = await asked(parts, "decoder=decoder-1&prompt=prompt-3")

    assert said["pairs"][0]["next_s"] == 4.0
    coming = "next: no call now, its forced unlink is under way; the next is due in 4.0 s"
    assert coming in said["pairs"][0]["lines"]


@pytest.mark.parametrize("query", ["", PAIR])
async def test_a_journal_that_does_not_answer_leaves_the_rest_to_be_told(query: str) -> None:
    parts = rich_parts()
    parts.journal.failure = TransientError("the journal is locked")

    status, said = await asked(parts, query)

    assert (status, said["pairs"][0]["attempts"]) == (200, None)
    assert "tried: the journal does not answer, so it is not known" in said["pairs"][0]["lines"]


NAMES = ", ".join(f"{role}-{n}" for role in ("decoder", "prompt") for n in range(4))


@pytest.mark.parametrize(
    ("query", "status", "error"),
    [
        ("node=decoder-9", 404, f"there is no node 'decoder-9'; there are {NAMES}"),
        ("decoder=decoder-1&prompt=", 404, f"there is no node ''; there are {NAMES}"),
        (
            "decoder=prompt-1&prompt=decoder-1",
            400,
            "'prompt-1' is a prompt node; give the decoder first, then the prompt",
        ),
        (
            "decoder=decoder-1",
            400,
            "/v1/explain was asked with decoder; it takes decoder and prompt, or node, or nothing",
        ),
        (
            "node=decoder-1&prompt=prompt-1",
            400,
            (
                "/v1/explain was asked with node, prompt; "
                "it takes decoder and prompt, or node, or nothing"
            ),
        ),
    ],
)
async def test_what_cannot_be_explained_is_refused_with_the_fix(
    query: str, status: int, error: str
) -> None:
    assert await asked(rich_parts(), query) == (status, {"error": error})


async def test_a_refusal_in_a_large_cluster_names_some_nodes_and_counts_the_rest() -> None:
    nodes = tuple(a_node(f"n{n:02}", a_report().snapshot.nodes[0].role) for n in range(60))
    parts = AdminParts(control=StandInControl(a_report(snapshot=a_snapshot(nodes=nodes))))

    _, said = await asked(parts, "node=x")

    assert said["error"].endswith("n48, n49 and 10 more")
