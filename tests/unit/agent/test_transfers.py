"""What failed transfers of the engine say of a link, and what they leave alone."""

import pytest

from pd_autoscaler.agent.table import LinkTable, Ticket, Verb
from pd_autoscaler.datadist.status import STATUS_CODES, after_transfer, verdict
from pd_autoscaler.model.facts import EntryState

OK = "LLM_SUCCESS"
PEER = 7
BAD = ["LLM_SUSPECT_REMOTE_ERROR", "LLM_TIMEOUT", "LLM_WAIT_PROCESS_TIMEOUT"]


def begin(table: LinkTable, verb: Verb) -> Ticket:
    ticket = table.begin(verb, PEER, peer_incarnation="p1", now_s=0)
    assert isinstance(ticket, Ticket)
    return ticket


def linked() -> LinkTable:
    table = LinkTable(verdict)
    table.ended(begin(table, Verb.LINK), OK, now_s=0)
    return table


def row(table: LinkTable) -> tuple[str, str, float]:
    [entry] = table.entries(now_s=100)
    return entry.state, entry.code, entry.age_s


def test_four_codes_say_something_of_the_link_and_no_other() -> None:
    told = {name: state for name in STATUS_CODES if (state := after_transfer(name)) is not None}
    assert told == dict.fromkeys(BAD, EntryState.UNKNOWN) | {"LLM_NOT_YET_LINK": EntryState.FAILED}
    assert after_transfer("LLM_FROM_A_LATER_RELEASE") is None


@pytest.mark.parametrize("code", BAD)
def test_a_link_on_which_a_transfer_hangs_is_in_doubt(code: str) -> None:
    table = linked()
    table.transfer_failed(PEER, code, began_s=90, now_s=90)
    assert row(table) == ("unknown", code, 10)


def test_a_link_that_the_library_does_not_hold_has_failed_and_can_be_made_again() -> None:
    table = linked()
    table.transfer_failed(PEER, "LLM_NOT_YET_LINK", began_s=90, now_s=90)
    assert row(table) == ("failed", "LLM_NOT_YET_LINK", 10)
    table.ended(begin(table, Verb.LINK), OK, now_s=95)
    assert row(table) == ("linked", OK, 5)


@pytest.mark.parametrize("code", sorted({"LLM_KV_CACHE_NOT_EXIST", "LLM_LINK_BUSY", "LLM_FAILED"}))
def test_what_is_wrong_with_a_request_is_not_wrong_with_its_link(code: str) -> None:
    table = linked()
    table.transfer_failed(PEER, code, began_s=90, now_s=90)
    assert row(table) == ("linked", OK, 100)


def test_a_cluster_without_a_row_gets_none() -> None:
    table = LinkTable(verdict)
    for code in [*BAD, "LLM_NOT_YET_LINK"]:
        table.transfer_failed(PEER, code, began_s=0, now_s=0)
    assert table.entries(now_s=0) == []


@pytest.mark.parametrize("verb", list(Verb))
def test_a_row_with_a_call_under_way_is_left_to_that_call(verb: Verb) -> None:
    table = linked()
    ticket = begin(table, verb)
    [before] = table.entries(now_s=0)
    for code in [*BAD, "LLM_NOT_YET_LINK"]:
        table.transfer_failed(PEER, code, began_s=0, now_s=0)
    assert table.entries(now_s=0) == [before]

    table.expired(ticket, now_s=0)
    table.transfer_failed(PEER, "LLM_NOT_YET_LINK", began_s=90, now_s=90)
    assert row(table) == ("unknown", "DEADLINE", 100)


def test_a_pull_that_began_on_an_earlier_link_says_nothing_of_this_one() -> None:
    table = linked()
    table.ended(begin(table, Verb.FORCE_UNLINK), OK, now_s=40)
    table.ended(begin(table, Verb.LINK), OK, now_s=60)
    for code in [*BAD, "LLM_NOT_YET_LINK"]:
        table.transfer_failed(PEER, code, began_s=30, now_s=90)
    assert row(table) == ("linked", OK, 40)

    table.transfer_failed(PEER, "LLM_TIMEOUT", began_s=60, now_s=90)
    assert row(table) == ("unknown", "LLM_TIMEOUT", 10)


def test_a_pull_that_began_before_the_link_was_seen_to_be_lost_adds_nothing() -> None:
    table = linked()
    table.transfer_failed(PEER, "LLM_NOT_YET_LINK", began_s=50, now_s=50)
    table.transfer_failed(PEER, "LLM_TIMEOUT", began_s=40, now_s=90)
    assert row(table) == ("failed", "LLM_NOT_YET_LINK", 50)


def test_the_first_of_many_failures_counts() -> None:
    table = linked()
    table.transfer_failed(PEER, "LLM_TIMEOUT", began_s=50, now_s=50)
    table.transfer_failed(PEER, "LLM_SUSPECT_REMOTE_ERROR", began_s=90, now_s=90)
    table.transfer_failed(PEER, "LLM_NOT_YET_LINK", began_s=90, now_s=90)
    assert row(table) == ("unknown", "LLM_TIMEOUT", 50)


def test_a_failed_row_on_which_a_transfer_hangs_is_in_doubt() -> None:
    table = linked()
    table.transfer_failed(PEER, "LLM_NOT_YET_LINK", began_s=50, now_s=50)
    table.transfer_failed(PEER, "LLM_TIMEOUT", began_s=90, now_s=90)
    assert row(table) == ("unknown", "LLM_TIMEOUT", 10)


def test_a_forced_unlink_ends_the_doubt() -> None:
    table = linked()
    table.transfer_failed(PEER, "LLM_TIMEOUT", began_s=0, now_s=0)
    table.ended(begin(table, Verb.FORCE_UNLINK), OK, now_s=0)
    assert table.entries(now_s=0) == []
