"""The link table: whatever order calls begin, expire and end in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.agent.table import LinkTable, Ticket, Verb
from pd_autoscaler.agent.wire import ClusterLine
from pd_autoscaler.datadist.status import verdict
from pd_autoscaler.model.facts import EntryState

OK = "LLM_SUCCESS"
PEER = 7


def rows(table: LinkTable) -> dict[int, tuple[str, str]]:
    return {row.cluster_id: (row.state, row.code) for row in table.entries(now_s=0)}


def begin(table: LinkTable, verb: Verb, incarnation: str = "p1") -> Ticket:
    ticket = table.begin(verb, PEER, peer_incarnation=incarnation, now_s=0)
    assert isinstance(ticket, Ticket)
    return ticket


def said(line: ClusterLine) -> tuple[str, str, str]:
    return line.outcome, line.code, line.verdict


def linked(incarnation: str = "p1") -> LinkTable:
    table = LinkTable(verdict)
    table.ended(begin(table, Verb.LINK, incarnation), OK, now_s=0)
    return table


def test_a_link_goes_from_absent_over_linking_to_linked() -> None:
    table = LinkTable(verdict)
    assert rows(table) == {}

    ticket = begin(table, Verb.LINK)
    assert rows(table) == {PEER: ("linking", "")}

    assert said(table.ended(ticket, OK, now_s=3)) == ("done", OK, "success")
    [row] = table.entries(now_s=5)
    assert (row.state, row.peer_incarnation, row.age_s) == ("linked", "p1", 2)


def test_an_unlink_leaves_no_row() -> None:
    table = linked()
    ticket = begin(table, Verb.UNLINK)
    assert rows(table) == {PEER: ("unlinking", "")}

    assert said(table.ended(ticket, OK, now_s=0)) == ("done", OK, "success")
    assert rows(table) == {}


def test_unlinking_what_is_not_linked_succeeds_without_a_call() -> None:
    table = LinkTable(verdict)
    line = table.begin(Verb.UNLINK, PEER, now_s=0)
    assert isinstance(line, ClusterLine)
    assert said(line) == ("done", "LLM_NOT_YET_LINK", "success")


def test_a_forced_unlink_is_made_even_where_there_is_no_row() -> None:
    table = LinkTable(verdict)
    ticket = begin(table, Verb.FORCE_UNLINK)
    assert said(table.ended(ticket, OK, now_s=0))[0] == "done"
    assert rows(table) == {}


def test_a_failed_link_keeps_its_code() -> None:
    table = LinkTable(verdict)
    ticket = begin(table, Verb.LINK)
    line = table.ended(ticket, "LLM_LINK_FAILED", now_s=0)
    assert said(line) == ("failed", "LLM_LINK_FAILED", "retry")
    assert rows(table) == {PEER: ("failed", "LLM_LINK_FAILED")}


@pytest.mark.parametrize(
    ("verb", "code", "state"),
    [
        (Verb.UNLINK, "LLM_LINK_BUSY", "linked"),
        (Verb.UNLINK, "LLM_UNLINK_FAILED", "unknown"),
        (Verb.FORCE_UNLINK, "LLM_FAILED", "linked"),
    ],
)
def test_a_failed_unlink_does_not_pretend_that_the_link_is_gone(
    verb: Verb, code: str, state: str
) -> None:
    table = linked()
    assert table.ended(begin(table, verb), code, now_s=0).outcome == "failed"
    assert rows(table) == {PEER: (state, code)}


@pytest.mark.parametrize("verb", [Verb.LINK, Verb.UNLINK])
def test_no_second_call_for_a_cluster_while_one_is_inside(verb: Verb) -> None:
    table = LinkTable(verdict)
    ticket = begin(table, Verb.LINK)
    for _ in ("in flight", "hung"):
        line = table.begin(verb, PEER, now_s=0)
        assert isinstance(line, ClusterLine)
        assert said(line) == ("failed", "CALL_IN_PROGRESS", "retry")
        table.expired(ticket, now_s=0)


def hang_and_cure(table: LinkTable, verb: Verb) -> Ticket:
    """Let a call hang and drop the pair by force: it can be linked again."""
    ticket = begin(table, verb)
    table.expired(ticket, now_s=0)
    assert said(table.ended(begin(table, Verb.FORCE_UNLINK), OK, now_s=0))[0] == "done"
    return ticket


@pytest.mark.parametrize("verb", [Verb.LINK, Verb.UNLINK])
def test_a_cured_pair_is_linked_beside_one_hung_call_and_not_beside_two(verb: Verb) -> None:
    table = LinkTable(verdict) if verb is Verb.LINK else linked()
    first = hang_and_cure(table, verb)
    second = hang_and_cure(table, Verb.LINK)

    refused = table.begin(Verb.LINK, PEER, now_s=0)
    assert isinstance(refused, ClusterLine)
    assert said(refused) == ("failed", "CALL_IN_PROGRESS", "retry")
    assert rows(table) == {}
    # What cures is never refused, and other peers have no part in it.
    table.ended(begin(table, Verb.FORCE_UNLINK), OK, now_s=0)
    assert isinstance(table.begin(Verb.LINK, PEER + 1, now_s=0), Ticket)

    table.ended(first, "LLM_FAILED", now_s=0)
    third = begin(table, Verb.LINK)
    table.ended(second, "LLM_FAILED", now_s=0)
    assert said(table.ended(third, OK, now_s=0)) == ("done", OK, "success")
    assert rows(table)[PEER] == ("linked", OK)


@pytest.mark.parametrize(
    ("verb", "code", "left"),
    [
        (Verb.LINK, OK, {PEER: ("linked", OK)}),
        (Verb.LINK, "LLM_FAILED", {PEER: ("failed", "LLM_FAILED")}),
        (Verb.UNLINK, OK, {}),
    ],
)
def test_a_call_past_its_deadline_is_unknown_until_it_ends(
    verb: Verb, code: str, left: dict[int, tuple[str, str]]
) -> None:
    table = LinkTable(verdict) if verb is Verb.LINK else linked()
    ticket = begin(table, verb)
    assert said(table.expired(ticket, now_s=0)) == ("unknown", "DEADLINE", "force")
    assert rows(table) == {PEER: ("unknown", "DEADLINE")}

    table.ended(ticket, code, now_s=0)
    assert rows(table) == left
    assert table.under_way == 0


def test_a_call_that_never_began_leaves_the_row_as_it_was() -> None:
    table = linked()
    line = table.never_began(begin(table, Verb.UNLINK), now_s=0)
    assert said(line) == ("failed", "NOT_BEGUN", "retry")
    assert rows(table) == {PEER: ("linked", OK)}

    empty = LinkTable(verdict)
    empty.never_began(begin(empty, Verb.LINK), now_s=0)
    assert rows(empty) == {}


def test_already_linked_is_a_success_of_the_same_peer_process() -> None:
    table = linked("p1")
    line = table.ended(begin(table, Verb.LINK, "p1"), "LLM_ALREADY_LINK", now_s=0)
    assert said(line) == ("done", "LLM_ALREADY_LINK", "success")


def test_already_linked_to_a_restarted_peer_asks_for_a_forced_unlink() -> None:
    table = linked("p1")
    line = table.ended(begin(table, Verb.LINK, "p2"), "LLM_ALREADY_LINK", now_s=0)
    assert said(line) == ("failed", "LLM_ALREADY_LINK", "force")
    [row] = table.entries(now_s=0)
    assert (row.state, row.peer_incarnation) == ("linked", "p1")


def cured() -> tuple[LinkTable, Ticket]:
    """A link call that hangs, and whose row a forced unlink has removed."""
    table = LinkTable(verdict)
    hung = begin(table, Verb.LINK)
    table.expired(hung, now_s=0)
    assert table.ended(begin(table, Verb.FORCE_UNLINK), OK, now_s=0).outcome == "done"
    assert rows(table) == {}
    return table, hung


def test_a_late_success_after_a_forced_unlink_shows_in_the_table() -> None:
    table, hung = cured()
    assert said(table.ended(hung, OK, now_s=0)) == ("unknown", "LATE_SUCCESS", "force")
    assert rows(table) == {PEER: ("unknown", "LATE_SUCCESS")}

    assert table.ended(begin(table, Verb.FORCE_UNLINK), OK, now_s=0).outcome == "done"
    assert rows(table) == {}


def test_a_late_failure_after_a_forced_unlink_changes_nothing() -> None:
    table, hung = cured()
    assert table.ended(hung, "LLM_FAILED", now_s=0).outcome == "failed"
    assert rows(table) == {}


def test_a_late_success_while_the_forced_unlink_runs_makes_its_end_unknown() -> None:
    table = LinkTable(verdict)
    hung = begin(table, Verb.LINK)
    forced = begin(table, Verb.FORCE_UNLINK)
    assert table.ended(hung, OK, now_s=0).outcome == "unknown"
    assert rows(table) == {PEER: ("unlinking", "")}
    assert said(table.ended(forced, OK, now_s=0)) == ("unknown", "LATE_SUCCESS", "force")


@pytest.mark.parametrize("relinked_before", [True, False])
def test_a_late_unlink_casts_doubt_on_a_link_made_after_it(relinked_before: bool) -> None:
    table = linked()
    hung = begin(table, Verb.UNLINK)
    table.ended(begin(table, Verb.FORCE_UNLINK), OK, now_s=0)
    again = begin(table, Verb.LINK)
    if relinked_before:
        table.ended(again, OK, now_s=0)
        table.ended(hung, OK, now_s=0)
    else:
        table.ended(hung, OK, now_s=0)
        table.ended(again, OK, now_s=0)
    assert rows(table) == {PEER: ("unknown", "LATE_SUCCESS")}


def test_two_forced_unlinks_do_not_contradict_each_other() -> None:
    table = linked()
    first, second = begin(table, Verb.FORCE_UNLINK), begin(table, Verb.FORCE_UNLINK)
    assert table.ended(first, OK, now_s=0).outcome == "done"
    assert table.ended(second, OK, now_s=0).outcome == "done"
    assert rows(table) == {}


def test_a_failed_forced_unlink_leaves_the_hung_call_in_its_row() -> None:
    table = LinkTable(verdict)
    hung = begin(table, Verb.LINK)
    table.expired(hung, now_s=0)
    table.ended(begin(table, Verb.FORCE_UNLINK), "LLM_FAILED", now_s=0)
    assert isinstance(table.begin(Verb.LINK, PEER, now_s=0), ClusterLine)

    table.ended(hung, OK, now_s=0)
    assert rows(table) == {PEER: ("linked", OK)}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "expire", "end", "fail", "never"]),
        st.sampled_from(list(Verb)),
        st.integers(0, 3),
    ),
    max_size=30,
)


@given(STEPS)
def test_no_order_of_events_leaves_a_row_under_way_without_a_call(
    steps: list[tuple[str, Verb, int]],
) -> None:
    table, inside, expired = LinkTable(verdict), list[Ticket](), set[int]()
    for what, verb, which in steps:
        if what == "begin":
            ticket = table.begin(verb, PEER, peer_incarnation="p1", now_s=0)
            if isinstance(ticket, Ticket):
                inside.append(ticket)
        elif which < len(inside) and what == "expire":
            table.expired(inside[which], now_s=0)
            expired.add(inside[which].number)
        elif which < len(inside) and (what != "never" or inside[which].number not in expired):
            ticket = inside.pop(which)
            if what == "never":
                table.never_began(ticket, now_s=0)
            else:
                table.ended(ticket, OK if what == "end" else "LLM_LINK_FAILED", now_s=0)
    for ticket in inside:
        table.ended(ticket, "LLM_FAILED", now_s=0)

    assert table.under_way == 0
    assert table.count(EntryState.LINKING) == table.count(EntryState.UNLINKING) == 0
    for verb in Verb:
        if isinstance(line := table.begin(verb, PEER, now_s=0), ClusterLine):
            assert line.outcome == "done"
        else:
            table.ended(line, OK, now_s=0)
