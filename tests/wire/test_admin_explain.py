"""What /v1/explain answers: pairs and nodes in words, worst first, and refusals that name nodes."""

from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from pd_autoscaler.core.explanation import SUSPICION
from pd_autoscaler.errors import PermanentError, TransientError
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.link import Wait
from tests.support.admin import (
    NOW_S,
    AdminParts,
    StandInControl,
    StandInJournal,
    a_rich_history,
    a_rich_past,
    a_rich_report,
    served,
)
from tests.support.reports import START_UNIX_S, a_node, a_report, a_snapshot

PAIR = "decoder=decoder-2&prompt=prompt-3"


def rich_parts(**limits: Any) -> AdminParts:
    report = a_rich_report()
    journal = StandInJournal(a_rich_history(), a_rich_past())
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
            "at_unix_s": START_UNIX_S,
            "age_s": 3.0,
            "scaling": None,
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


TAKES = "it takes decoder and prompt, or node, or nothing, and at_unix_s with each"
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
            f"/v1/explain was asked with decoder; {TAKES}",
        ),
        (
            "node=decoder-1&prompt=prompt-1",
            400,
            f"/v1/explain was asked with node, prompt; {TAKES}",
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


async def test_scaling_is_told_in_sentences_and_as_data() -> None:
    _, said = await asked(rich_parts())

    scaling = said["scaling"]
    assert scaling["lines"][:2] == [
        "target: 4P:4D, set 20 s ago: an operator asked for it",
        "target: 3 of 4 prompt nodes serve, 1 on the way; 3 of 4 decoder nodes serve",
    ]
    told = [f"{part['about']}: {line}" for part in scaling["parts"] for line in part["lines"]]
    assert told == scaling["lines"]
    assert (scaling["mode"], scaling["set_unix_s"]) == ("paused", START_UNIX_S - 17.0)
    assert scaling["target"] == scaling["before"]
    assert scaling["decision"]["kind"] == "target"
    assert scaling["guarded"]["reason"] == "cooldown"
    assert [gate["role"] for gate in scaling["gates"]] == ["prompt", "decoder"]
    assert scaling["attribution"]["bottleneck"] == "prompt"
    ttft = {"value": 10.0, "age_s": 3.4, "is_lower_bound": True}
    assert scaling["signals"]["prompt"]["ttft_p95_s"] == ttft
    assert scaling["demand"]["requests_per_s"]["value"] == 12.4
    assert [one["samples"] for one in scaling["capacity"]] == [50, 240]


@pytest.mark.parametrize("entry", [1, 3])
async def test_only_the_last_change_says_since_when_the_target_stands(entry: int) -> None:
    parts = rich_parts()
    # One that is no change of the target, and one of another target than the one that stands.
    parts.journal.entries = [a_rich_history()[0], *a_rich_history()[3:]][entry - 1 :]

    _, said = await asked(parts)

    assert said["scaling"]["set_unix_s"] is None
    assert said["scaling"]["lines"][0] == (
        "target: 4P:4D, as before this cycle: an operator asked for it"
    )


async def test_without_the_journal_scaling_is_told_but_since_when() -> None:
    parts = rich_parts()
    parts.journal.failure = TransientError("the journal is locked")

    status, said = await asked(parts)

    assert (status, said["scaling"]["set_unix_s"]) == (200, None)
    assert said["scaling"]["lines"][0].startswith("target: 4P:4D, as before this cycle")


def past_parts() -> AdminParts:
    """Return an API that keeps two cycles of the past, the later with a pair that is down."""
    parts = rich_parts()
    busy = a_rich_report(cycle=900)
    at_s, at_unix_s = -50.0, START_UNIX_S - 30.0
    then = replace(busy.snapshot, now_s=at_s, now_unix_s=at_unix_s)
    calm = a_report(cycle=800, snapshot=replace(a_snapshot(), now_unix_s=START_UNIX_S - 1000.0))
    parts.journal.reports = [
        replace(calm, target=Target(9, 9, "long ago")),
        replace(busy, snapshot=then, target=Target(3, 3)),
    ]
    return parts


async def test_a_past_cycle_is_told_as_it_was_then() -> None:
    parts = past_parts()

    _, late = await asked(parts, f"at_unix_s={START_UNIX_S - 20.5}")
    _, early = await asked(parts, f"at_unix_s={START_UNIX_S - 31}")

    assert (late["cycle"], late["at_unix_s"], late["age_s"]) == (900, START_UNIX_S - 30.0, 0.0)
    # The entries of the history that are younger than the cycle do not count.
    assert late["scaling"]["lines"][0].startswith("target: 3P:3D, changed in this cycle from 4P:4D")
    assert late["scaling"]["set_unix_s"] == START_UNIX_S - 49.0
    assert "prompt: queue 18.6 requests (0.4 s old)" in late["scaling"]["lines"]
    assert early["cycle"] == 800
    assert early["scaling"]["target"] == {"prompt": 9, "decoder": 9, "why": "long ago"}


async def test_pairs_and_nodes_of_a_past_cycle_are_told_without_what_came_later() -> None:
    parts, at = past_parts(), f"at_unix_s={START_UNIX_S - 20}"

    _, pair = await asked(parts, f"{PAIR}&{at}")
    _, node = await asked(parts, f"node=prompt-3&{at}")

    # Of its two tries, 37 s and 12 s ago, only the first had ended.
    assert [attempt["outcome"] for attempt in pair["pairs"][0]["attempts"]] == ["unknown"]
    assert (node["node"]["id"], node["scaling"], node["cycle"]) == ("prompt-3", None, 900)


async def test_a_past_cycle_is_told_before_the_first_cycle_of_a_restarted_daemon() -> None:
    parts = past_parts()
    parts.control.latest = None

    status, said = await asked(parts, f"at_unix_s={START_UNIX_S}")

    assert (status, said["cycle"]) == (200, 900)


async def test_a_time_that_nothing_is_kept_from_is_refused_with_since_when_there_is() -> None:
    parts = past_parts()
    before = await asked(parts, f"at_unix_s={START_UNIX_S - 1001}")
    endless = await asked(parts, "at_unix_s=-1e300")
    parts.journal.reports = []
    empty = await asked(parts, f"at_unix_s={START_UNIX_S}")

    there_is = "there is something from 2023-11-14 21:56:40 UTC on"
    assert before == (
        404,
        {"error": f"no cycle is kept from 2023-11-14 21:56:39 UTC or before; {there_is}"},
    )
    assert endless == (
        404,
        {"error": f"no cycle is kept from -1e+300 s since 1970 or before; {there_is}"},
    )
    assert empty == (
        404,
        {
            "error": (
                "no cycle is kept from 2023-11-14 22:13:20 UTC or before; there is nothing at all"
            )
        },
    )


@pytest.mark.parametrize("given", ["yesterday", "", "nan", "inf"])
async def test_what_is_no_time_is_refused(given: str) -> None:
    error = f"at_unix_s={given!r} is not a time; give seconds since 1970"

    assert await asked(past_parts(), f"at_unix_s={given}") == (400, {"error": error})


async def test_a_past_report_that_cannot_be_read_is_no_fault_of_now() -> None:
    parts = past_parts()
    parts.journal.failure = PermanentError("not a stored Report: no field")

    status, said = await asked(parts, f"at_unix_s={START_UNIX_S}")

    assert status == 409
    assert said["error"] == (
        "the report of then cannot be read by this version: not a stored Report: no field"
    )
