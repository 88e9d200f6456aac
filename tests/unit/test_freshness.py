"""Which nodes are believed, by their pages and by their agents' word, and why others are not."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from pd_autoscaler.core.signals import Signals, node_signals, observed, role_signals
from pd_autoscaler.model.facts import AgentPhase, AgentState, EngineLoad, Facts
from pd_autoscaler.model.node import Node, Role
from pd_autoscaler.model.signals import NodeSignals, Reading, RoleSignals, Signal
from tests.support.pages import node, reading

P0 = node("p0")
IDLE = EngineLoad(waiting=0, running=0, kv_unpulled=0)


def word(load: EngineLoad, at_s: float) -> AgentState:
    return AgentState(
        node_id="p0",
        at_s=at_s,
        incarnation="a",
        role=Role.PROMPT,
        phase=AgentPhase.READY,
        engine=load,
    )


def page(at_s: float, waiting: float = 3.0, *, finished: float = 5.0, **gauges: float) -> Reading:
    counters = {"requests_finished": finished, "ttft_s_count": 5.0}
    return reading(
        "p0", at_s, gauges={"waiting": waiting, "running": 1.0} | gauges, counters=counters
    )


WORDS = Signals(pages_needed=False)


def seen(
    *readings: Reading,
    words: Mapping[float, EngineLoad] | None = None,
    found: Node = P0,
    memory: Signals | None = None,
) -> Signals:
    """Show pages and an agent's words to a memory, in the order of their times."""
    memory, words = memory or Signals(), words or {}
    for at_s in sorted({*(r.at_s for r in readings), *words}):
        facts = Facts(
            now_s=at_s,
            now_unix_s=0.0,
            readings={r.node_id: r for r in readings if r.at_s == at_s},
            agents={"p0": word(words[at_s], at_s)} if at_s in words else {},
        )
        memory = observed(memory, facts, [found])
    return memory


def of(memory: Signals, now_s: float, found: Node = P0) -> NodeSignals:
    sources = memory.sources([found], now_s=now_s, age_max_s=30, window_s=30)
    return node_signals(memory, sources)[found.id]


def role_of(memory: Signals, now_s: float, nodes: Sequence[Node] = (P0,)) -> RoleSignals:
    sources = memory.sources(nodes, now_s=now_s, age_max_s=30, window_s=30)
    return role_signals(memory, sources, Role.PROMPT)


def test_a_node_that_never_answered_says_so() -> None:
    got = of(seen(), 10)

    assert (got.is_fresh, got.age_s, got.doubt) == (False, None, "never answered")


def test_an_old_page_is_doubted_by_its_age() -> None:
    memory = seen(page(0))

    assert of(memory, 30).is_fresh
    got = of(memory, 45)
    assert (got.is_fresh, got.age_s, got.doubt) == (False, 45, "page 45 s old")
    assert (got.queue, got.running, got.token_rate) == (None, None, None)
    assert role_of(memory, 45) == RoleSignals(serving=1, fresh=0)


def test_a_clock_that_went_back_leaves_a_page_ahead_of_it() -> None:
    memory = seen(page(100, waiting=4))

    assert of(memory, 90).queue == Signal(4, 0)
    assert (of(memory, 60).is_fresh, of(memory, 60).doubt) == (
        False,
        "page 40 s ahead of the clock",
    )


def test_a_page_older_than_the_last_is_not_taken_in() -> None:
    memory = seen(page(50, waiting=4))
    late = Facts(now_s=60, now_unix_s=0.0, readings={"p0": page(40, waiting=9)})

    assert of(observed(memory, late, [P0]), 60).queue == Signal(4, 10)


@pytest.mark.parametrize("waiting", [{}, {"waiting": math.nan}, {"waiting": -1.0}])
def test_a_page_that_does_not_say_how_many_wait_is_not_believed(
    waiting: dict[str, float],
) -> None:
    got = of(seen(reading("p0", 10, gauges={"running": 1.0, **waiting})), 10)

    assert (got.is_fresh, got.age_s) == (False, 0)
    assert got.doubt == "does not say how many requests wait"


def test_a_page_that_repeats_while_it_has_work_is_frozen() -> None:
    pages = [page(10.0 * i) for i in range(5)]

    found = [of(seen(*pages[: i + 1]), 10.0 * i) for i in range(5)]

    assert [n.is_fresh for n in found] == [True, True, True, True, False]
    assert found[-1].doubt == "frozen: work inside, but no number moved for 40 s"
    assert role_of(seen(*pages), 40).fresh == 0


def test_a_page_that_moves_again_is_believed_again() -> None:
    pages = [*(page(10.0 * i) for i in range(5)), page(50, finished=6)]

    assert of(seen(*pages), 50).is_fresh


def test_an_idle_page_that_repeats_is_not_frozen() -> None:
    pages = [
        reading("p0", 10.0 * i, gauges={"waiting": 0, "running": 0}, counters={"n": 5})
        for i in range(9)
    ]

    assert of(seen(*pages), 80).is_fresh


def test_a_page_without_counters_has_nothing_that_must_move() -> None:
    pages = [reading("p0", 10.0 * i, gauges={"waiting": 3}) for i in range(9)]

    assert of(seen(*pages), 80).is_fresh


def test_an_agent_that_knows_its_engine_idle_overrules_a_queue_that_sticks() -> None:
    pages = [page(10.0 * i, waiting_deferred=2.0, kv_used=0.1) for i in range(5)]
    memory = seen(*pages, words={40: IDLE})

    got = of(memory, 40)

    assert (got.is_fresh, got.doubt) == (True, "")
    assert (got.queue, got.running, got.transfer_wait) == (Signal(0, 0),) * 3
    assert got.kv_used == Signal(0.1, 0)
    assert (role_of(memory, 40).queue, role_of(memory, 40).fresh) == (Signal(0, 0), 1)
    # Nobody is held up by a queue that is none.
    assert role_of(memory, 40).ttft_p95_s is None


@pytest.mark.parametrize(
    "load",
    [
        EngineLoad(waiting=3, running=0, kv_unpulled=0),
        EngineLoad(waiting=0, running=0, kv_unpulled=1),
        EngineLoad(waiting=0, running=0),
        EngineLoad(),
    ],
)
def test_an_agent_that_does_not_know_its_engine_idle_leaves_it_frozen(load: EngineLoad) -> None:
    memory = seen(*(page(10.0 * i) for i in range(5)), words={40: load})

    assert of(memory, 40).doubt.startswith("frozen")


@pytest.mark.parametrize(("unpulled", "is_idle"), [(None, True), (0, True), (1, False)])
def test_a_decoders_agent_need_not_know_of_kv_to_export(
    unpulled: int | None, is_idle: bool
) -> None:
    decoder = node("p0", Role.DECODER)
    word_of_none = EngineLoad(waiting=0, running=0, kv_unpulled=unpulled)
    memory = seen(*(page(10.0 * i) for i in range(5)), words={40: word_of_none}, found=decoder)

    assert of(memory, 40, decoder).is_fresh is is_idle


def of_engines(at_s: float, engines: int) -> Reading:
    whole = page(at_s, 5.0 * engines, finished=engines * (1e6 + at_s), running=1.0 * engines)
    return replace(whole, parts={"requests_finished": engines})


def test_a_page_that_lacks_an_engine_is_not_read_and_nothing_is_too_low_or_too_high() -> None:
    pages = [of_engines(10.0 * i, 7 if i == 3 else 8) for i in range(6)]

    queues = [of(seen(*pages[: i + 1]), 10.0 * i).queue for i in range(6)]
    rates = [role_of(seen(*pages[: i + 1]), 10.0 * i).arrival_rate for i in range(1, 6)]

    assert queues == [Signal(40, 0)] * 3 + [Signal(40, 10)] + [Signal(40, 0)] * 2
    assert [rate.value for rate in rates if rate] == [8] * 5


def test_a_node_that_goes_on_to_lack_an_engine_is_doubted_and_then_taken_as_it_is() -> None:
    pages = [of_engines(10.0 * i, 8 if i == 0 else 7) for i in range(9)]

    found = [of(seen(*pages[: i + 1]), 10.0 * i) for i in range(9)]

    assert [n.is_fresh for n in found] == [True] * 4 + [False] * 3 + [True] * 2
    assert found[4].doubt == "page 40 s old: the newest has 7 of 8 series of requests_finished"
    assert (found[7].queue, found[7].age_s) == (Signal(35, 0), 0)
    assert role_of(seen(*pages[:8]), 70).arrival_rate is None
    assert role_of(seen(*pages), 80).arrival_rate == Signal(7, 0)


def test_an_old_word_of_idleness_does_not_count() -> None:
    memory = seen(*(page(10.0 * i) for i in range(5)), words={0: IDLE})

    assert of(memory, 40).doubt.startswith("frozen")


def test_a_queue_that_moves_is_believed_before_the_agent() -> None:
    memory = seen(page(0), page(10, waiting=7), words={10: IDLE})

    assert of(memory, 10).queue == Signal(7, 0)


def test_the_agent_fills_what_the_page_lacks_with_the_age_of_its_word() -> None:
    load = EngineLoad(waiting=99, running=99, kv_unpulled=8, kv_used=0.3)
    memory = seen(page(10), words={12: load})

    got = of(memory, 15)

    assert (got.engine, got.age_s) == ("", 5)
    assert (got.queue, got.running) == (Signal(3, 5), Signal(1, 5))
    assert (got.kv_export_backlog, got.kv_used) == (Signal(8, 3), Signal(0.3, 3))
    assert role_of(memory, 15).kv_export_backlog == Signal(8, 3)


def test_the_backlog_of_exports_is_a_prompt_nodes_alone() -> None:
    decoder = node("p0", Role.DECODER)
    memory = seen(page(10), words={10: EngineLoad(kv_unpulled=0)}, found=decoder)

    assert of(memory, 10, decoder).kv_export_backlog is None


def test_a_node_without_pages_is_read_by_its_agents_word() -> None:
    load = EngineLoad(waiting=4, running=2, kv_unpulled=1, kv_used=0.5)
    memory = seen(words={20: load}, memory=WORDS)

    got, role = of(memory, 25), role_of(memory, 25)

    assert (got.is_fresh, got.engine, got.age_s) == (True, "agent", 5)
    assert (got.queue, got.running, got.token_rate) == (Signal(4, 5), Signal(2, 5), None)
    assert (role.fresh, role.queue, role.kv_used_max) == (1, Signal(4, 5), Signal(0.5, 5))
    assert (role.arrival_rate, role.ttft_p95_s) == (None, None)
    assert (of(memory, 60).is_fresh, of(memory, 60).doubt) == (False, "agent's word 40 s old")


def test_an_agents_word_takes_over_when_the_pages_stop_and_hands_back() -> None:
    words = {10.0 * i: EngineLoad(waiting=i, running=0) for i in range(8)}
    memory = seen(page(0), page(10), words=words, memory=WORDS)

    assert (of(memory, 40).queue, of(memory, 40).engine) == (Signal(3, 30), "")
    assert (of(memory, 70).queue, of(memory, 70).engine) == (Signal(7, 0), "agent")

    back = seen(page(80, waiting=1, finished=9), memory=memory)
    assert (of(back, 80).queue, of(back, 80).engine) == (Signal(1, 0), "")


def test_an_agent_that_knows_nothing_is_no_source() -> None:
    memory = seen(words={20: EngineLoad()}, memory=WORDS)

    assert (of(memory, 20).is_fresh, of(memory, 20).doubt) == (False, "never answered")


def test_an_agent_that_does_not_know_the_queue_is_not_enough() -> None:
    got = of(seen(words={20: EngineLoad(kv_unpulled=2)}, memory=WORDS), 20)

    assert (got.is_fresh, got.doubt) == (False, "does not say how many requests wait")


def test_where_pages_are_read_an_agents_word_alone_is_not_enough() -> None:
    words = {10.0 * i: EngineLoad(waiting=i, running=0, kv_used=0.1) for i in range(8)}
    memory = seen(page(0), words=words)

    assert of(memory, 20).is_fresh
    assert (of(memory, 70).is_fresh, of(memory, 70).doubt) == (False, "page 70 s old")
    never = seen(words=words)
    assert (of(never, 70).is_fresh, of(never, 70).doubt) == (False, "never answered")
    assert role_of(never, 70).fresh == 0


def test_a_doubt_says_why_the_page_could_not_be_read() -> None:
    memory = seen(page(0))
    facts = Facts(now_s=50, now_unix_s=0.0, unread={"p0": "HTTP 500"})

    failing = observed(memory, facts, [P0])
    assert of(failing, 20).doubt == ""
    assert of(failing, 50).doubt == "page 50 s old: HTTP 500"
    assert of(observed(Signals(), facts, [P0]), 50).doubt == "never answered: HTTP 500"


def test_agents_that_are_asked_often_leave_the_pages_and_their_rates_alone() -> None:
    pages = [page(10.0 * i, waiting=2, finished=20.0 * i) for i in range(4)]
    busy = {i / 10: EngineLoad(waiting=50, running=50) for i in range(301)}

    with_words, without = seen(*pages, words=busy), seen(*pages)

    assert with_words.histories == without.histories
    assert role_of(with_words, 30) == role_of(without, 30)
    (words,) = with_words.words.values()
    assert len(words.pages) < 10
    assert words.pages[-1].at_s == 30


def test_a_process_that_restarted_is_fresh_but_has_no_rates_yet() -> None:
    memory = seen(page(0), page(10, finished=25))
    reborn = node("p0", incarnation="b")
    memory = seen(page(20, waiting=6, finished=1), found=reborn, memory=memory)

    got, role = of(memory, 20, reborn), role_of(memory, 20, [reborn])

    assert (got.is_fresh, got.queue) == (True, Signal(6, 0))
    assert (role.fresh, role.queue, role.arrival_rate) == (1, Signal(6, 0), None)


def test_a_word_from_before_a_restart_is_forgotten_with_its_process() -> None:
    memory = seen(words={0: EngineLoad(waiting=4)})
    reborn = node("p0", incarnation="b")

    assert of(seen(page(10), found=reborn, memory=memory), 10, reborn).kv_used is None
    assert of(seen(found=reborn, memory=memory), 10, reborn).doubt == "never answered"
