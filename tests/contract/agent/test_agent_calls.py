"""Link and unlink calls of an agent over real HTTP, beside a library that hangs on demand."""

import anyio
import anyio.lowlevel
import pytest

from pd_autoscaler.agent.wire import ClusterLine
from tests.support.agent import OK, Agent, FakeDataDist, Held, agent, clusters
from tests.support.clock import Clock

DEADLINE_S = 30.0


def said(line: ClusterLine) -> tuple[str, str]:
    return line.outcome, line.code


async def hang(running: Agent, held: Held, clock: Clock, *cluster_ids: int) -> dict[int, str]:
    """Link clusters of which one is held past its deadline; return the outcomes."""
    outcomes: dict[int, str] = {}

    async def link() -> None:
        lines = await running.links(*cluster_ids, deadline_s=DEADLINE_S)
        outcomes.update({cluster_id: line.outcome for cluster_id, line in lines.items()})

    async with anyio.create_task_group() as group:
        group.start_soon(link)
        await held.entered()
        clock.advance(DEADLINE_S)
    return outcomes


async def until_none_hangs(running: Agent) -> None:
    """Ask until calls that were let go have ended."""
    while (await running.state()).calls_hung:
        await anyio.lowlevel.checkpoint()


async def test_each_cluster_is_one_native_call_and_one_line() -> None:
    datadist = FakeDataDist()
    datadist.codes["link", 2] = "LLM_LINK_FAILED"
    async with agent(datadist) as running:
        lines = await running.links(1, 2, 3)

        assert {cluster_id: said(line) for cluster_id, line in lines.items()} == {
            1: ("done", OK),
            2: ("failed", "LLM_LINK_FAILED"),
            3: ("done", OK),
        }
        assert sorted(datadist.calls[1:]) == [("link", 1), ("link", 2), ("link", 3)]
        assert await running.table() == {
            1: ("linked", OK),
            2: ("failed", "LLM_LINK_FAILED"),
            3: ("linked", OK),
        }


async def test_what_the_library_raises_becomes_a_code() -> None:
    datadist = FakeDataDist()
    datadist.errors["link"] = [ValueError("ip"), OSError("device"), SystemExit(1)]  # type: ignore[list-item]  # it raises what it likes
    async with agent(datadist) as running:
        codes = [(await running.links(1))[1].code for _ in range(3)]
    assert codes == ["LLM_PARAM_INVALID", "LLM_FAILED", "LLM_FAILED"]


async def test_a_hanging_cluster_does_not_keep_the_others_waiting() -> None:
    datadist = FakeDataDist()
    async with agent(datadist) as running:
        held = datadist.hold("link", 1)
        async with running.streaming("/v1/links", clusters=clusters(1, 2, 3)) as stream:
            assert {(await stream.line()).id, (await stream.line()).id} == {2, 3}
            # The loop answers while the library blocks.
            assert (await running.state()).calls_in_flight == 1
            held.release()
            assert said(await stream.line()) == ("done", OK)


async def test_a_call_past_its_deadline_is_unknown_and_hung(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    async with agent(datadist) as running:
        held = datadist.hold("link", 1)
        assert await hang(running, held, clock, 1, 2) == {1: "unknown", 2: "done"}

        state = await running.state()
        assert (state.calls_in_flight, state.calls_hung) == (0, 1)
        [hung] = state.hung
        assert (hung.verb, hung.cluster_ids) == ("link", [1])
        assert hung.age_s >= DEADLINE_S
        assert (await running.table())[1] == ("unknown", "DEADLINE")

        held.release()
        await until_none_hangs(running)
        assert (await running.table())[1] == ("linked", OK)


async def test_a_late_failure_shows_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    async with agent(datadist) as running:
        held = datadist.hold("link", 1)
        await hang(running, held, clock, 1)
        held.release("LLM_FAILED")
        await until_none_hangs(running)
        assert (await running.table())[1] == ("failed", "LLM_FAILED")


async def test_a_hung_call_keeps_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    async with agent(datadist, link_slots=2) as running:
        stuck, second = datadist.hold("link", 1), datadist.hold("link", 2)
        await hang(running, stuck, clock, 1)
        async with running.streaming("/v1/links", clusters=clusters(2, 3)) as stream:
            await second.entered()
            # One slot hangs and one is taken: cluster 3 waits for it.
            assert datadist.count("link", 3) == 0
            second.release()
            assert {(await stream.line()).id, (await stream.line()).id} == {2, 3}
        assert datadist.count("link", 3) == 1


async def test_a_call_that_finds_no_slot_in_time_was_never_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    async with agent(datadist, link_slots=1) as running:
        held = datadist.hold("link", 1)
        async with running.streaming(
            "/v1/links", clusters=clusters(1), deadline_s=10 * DEADLINE_S
        ) as first:
            await held.entered()
            async with running.streaming(
                "/v1/links", clusters=clusters(2), deadline_s=DEADLINE_S
            ) as second:
                clock.advance(DEADLINE_S)
                line = await second.line()
                assert (said(line), line.verdict) == (("failed", "NOT_BEGUN"), "retry")
            held.release()
            assert said(await first.line()) == ("done", OK)
        assert datadist.count("link", 2) == 0
        assert set(await running.table()) == {1}


async def test_a_forced_unlink_cures_a_hanging_link(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    async with agent(datadist, link_slots=1) as running:
        held = datadist.hold("link", 1)
        await hang(running, held, clock, 1)

        # Every link slot hangs; the forced unlink has its own, and needs no address.
        answer = await running.post("/v1/unlinks", clusters=[{"id": 1}], force=True)
        assert [said(line) for line in answer.json] == [("done", OK)]
        assert await running.table() == {}

        held.release("LLM_FAILED")
        await until_none_hangs(running)
        assert await running.table() == {}
        assert said((await running.links(1))[1]) == ("done", OK)


async def test_a_late_success_after_a_forced_unlink_is_visible_and_curable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    async with agent(datadist) as running:
        held = datadist.hold("link", 1)
        await hang(running, held, clock, 1)
        await running.unlinks(1, force=True)

        held.release()
        await until_none_hangs(running)
        assert await running.table() == {1: ("unknown", "LATE_SUCCESS")}

        assert said((await running.unlinks(1, force=True))[1]) == ("done", OK)
        assert await running.table() == {}


async def test_a_hung_forced_unlink_does_not_keep_others_from_being_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    async with agent(datadist) as running:
        held = datadist.hold("force", 1)
        async with running.streaming(
            "/v1/unlinks", clusters=clusters(1), force=True, deadline_s=DEADLINE_S
        ) as stream:
            await held.entered()
            clock.advance(DEADLINE_S)
            assert said(await stream.line()) == ("unknown", "DEADLINE")
        assert said((await running.unlinks(2, force=True))[2]) == ("done", OK)


async def test_no_second_call_for_a_cluster_while_one_is_inside() -> None:
    datadist = FakeDataDist()
    async with agent(datadist) as running:
        held = datadist.hold("link", 1)
        async with running.streaming("/v1/links", clusters=clusters(1)) as stream:
            await held.entered()
            for lines in (await running.links(1), await running.unlinks(1)):
                assert said(lines[1]) == ("failed", "CALL_IN_PROGRESS")
                assert lines[1].verdict == "retry"
            held.release()
            await stream.line()
        assert datadist.calls[1:] == [("link", 1)]


async def test_when_every_slot_hangs_calls_are_refused_and_health_degrades(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    async with agent(datadist, link_slots=2) as running:
        assert (await running.get("/healthz")).status == 200
        for cluster_id in (1, 2):
            await hang(running, held := datadist.hold("link", cluster_id), clock, cluster_id)

        health = await running.get("/healthz")
        assert (health.status, health.json["status"]) == (503, "degraded")
        for path in ("/v1/links", "/v1/unlinks"):
            answer = await running.post(path, clusters=clusters(3))
            assert (answer.status, answer.reason) == (503, "no_free_slot")

        held.release()
        while (await running.get("/healthz")).status != 200:
            await anyio.lowlevel.checkpoint()
        assert said((await running.links(3))[3]) == ("done", OK)


async def test_unlinking_what_is_not_linked_is_a_success() -> None:
    datadist = FakeDataDist()
    async with agent(datadist) as running:
        for force in (False, True):
            lines = await running.unlinks(5, force=force)
            assert (lines[5].outcome, lines[5].verdict) == ("done", "success")


async def test_linking_again_what_is_linked_is_a_success() -> None:
    datadist = FakeDataDist()
    async with agent(datadist) as running:
        await running.links(1)
        datadist.codes["link", 1] = "LLM_ALREADY_LINK"
        line = (await running.links(1))[1]
        assert (line.outcome, line.code, line.verdict) == ("done", "LLM_ALREADY_LINK", "success")


async def test_a_cluster_without_an_address_fails_alone() -> None:
    datadist = FakeDataDist()
    async with agent(datadist) as running:
        answer = await running.post("/v1/links", clusters=[{"id": 1}, *clusters(2)])
        outcomes = {line.id: (said(line), line.verdict) for line in answer.json}
        assert outcomes == {
            1: (("failed", "NO_ADDRESS"), "config"),
            2: (("done", OK), "success"),
        }
        assert set(await running.table()) == {2}


async def test_a_repeated_key_calls_nothing_again() -> None:
    datadist = FakeDataDist()
    datadist.codes["link", 2] = "LLM_LINK_FAILED"
    async with agent(datadist) as running:
        first = await running.links(1, 2, key="once")
        datadist.codes.clear()
        assert await running.links(1, 2, key="once") == first
        assert (datadist.count("link", 1), datadist.count("link", 2)) == (1, 1)


async def test_a_repeat_joins_the_call_that_is_inside() -> None:
    datadist = FakeDataDist()
    async with agent(datadist) as running:
        held = datadist.hold("link", 1)
        fields = {"clusters": clusters(1), "key": "once"}
        async with (
            running.streaming("/v1/links", **fields) as first,
            running.streaming("/v1/links", **fields) as second,
        ):
            held.release()
            assert await first.line() == await second.line()
        assert datadist.count("link", 1) == 1


async def test_a_repeat_gives_up_at_its_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    async with agent(datadist) as running:
        held = datadist.hold("link", 1)
        fields = {"clusters": clusters(1), "key": "once"}
        async with (
            running.streaming("/v1/links", deadline_s=10 * DEADLINE_S, **fields) as first,
            running.streaming("/v1/links", deadline_s=DEADLINE_S, **fields) as second,
        ):
            await held.entered()
            clock.advance(DEADLINE_S)
            assert said(await second.line()) == ("unknown", "DEADLINE")
            held.release()
            assert said(await first.line()) == ("done", OK)


async def test_a_repeat_tells_how_a_hung_call_ended_after_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    async with agent(datadist) as running:
        held = datadist.hold("link", 1)
        async with running.streaming(
            "/v1/links", clusters=clusters(1), key="once", deadline_s=DEADLINE_S
        ) as stream:
            await held.entered()
            clock.advance(DEADLINE_S)
            assert said(await stream.line()) == ("unknown", "DEADLINE")
        assert said((await running.links(1, key="once"))[1]) == ("unknown", "DEADLINE")

        held.release()
        await until_none_hangs(running)
        assert said((await running.links(1, key="once"))[1]) == ("done", OK)
        assert datadist.count("link", 1) == 1


async def test_a_key_is_forgotten_after_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    async with agent(datadist) as running:
        await running.links(1, key="once")
        clock.advance(3601)
        await running.links(1, key="once")
        assert datadist.count("link", 1) == 2


async def test_calls_go_on_when_their_reader_goes_away() -> None:
    datadist = FakeDataDist()
    async with agent(datadist) as running:
        held = datadist.hold("link", 1)
        async with running.streaming("/v1/links", clusters=clusters(1, 2), key="once") as stream:
            await held.entered()
            stream.response.close()
        assert (await running.state()).calls_in_flight == 1

        held.release()
        lines = await running.links(1, 2, key="once")
        assert {line.outcome for line in lines.values()} == {"done"}
        assert datadist.count("link", 1) == 1


async def test_stopping_the_agent_answers_whoever_waits() -> None:
    datadist = FakeDataDist()
    async with agent(datadist) as running:
        held = datadist.hold("link", 1)
        async with running.streaming("/v1/links", clusters=clusters(1)) as stream:
            await held.entered()
            running.service.stop()
            assert said(await stream.line()) == ("unknown", "DEADLINE")
        answer = await running.post("/v1/links", clusters=clusters(2))
        assert (answer.status, answer.reason) == (503, "not_ready")


async def test_the_metrics_count_calls_by_verb_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    datadist.codes["link", 2] = "LLM_CODE_0x7"
    async with agent(datadist) as running:
        await hang(running, datadist.hold("link", 1), clock, 1, 2, 3)
        await running.unlinks(3)
        page = await running.metrics()

    for line in (
        'pd_autoscaler_agent_link_attempts_total{code="DEADLINE",verb="link"} 1.0',
        'pd_autoscaler_agent_link_attempts_total{code="other",verb="link"} 1.0',
        'pd_autoscaler_agent_link_attempts_total{code="LLM_SUCCESS",verb="link"} 1.0',
        'pd_autoscaler_agent_link_attempts_total{code="LLM_SUCCESS",verb="unlink"} 1.0',
        'pd_autoscaler_agent_call_seconds_count{verb="link"} 2.0',
        "pd_autoscaler_agent_calls_hung 1.0",
        "pd_autoscaler_agent_calls_in_flight 0.0",
        'pd_autoscaler_agent_links{state="unknown"} 1.0',
        'pd_autoscaler_agent_links{state="failed"} 1.0',
        'pd_autoscaler_agent_links{state="linked"} 0.0',
    ):
        assert line in page.splitlines()
