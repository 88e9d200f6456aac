"""Peers that die, restart or hang, and what the ends still hold afterwards."""

import socket

import pytest

from tests.support.datadist_fleet import SUCCESS, Endpoint, Fleet, answer
from tests.support.datadist_peers import dropping, idle_connections, silent
from tests.support.datadist_process import CALL_TIMEOUT_S, ChildError


def outwait_timeout(fleet: Fleet) -> None:
    """Return once a call with the suite's time-out, begun now, has timed out."""
    ruler = fleet.decoder()
    with dropping(fleet.ip) as dropped:
        assert ruler.link(ruler.towards(dropped)) == answer("LLM_TIMEOUT")


def linked_pair(fleet: Fleet) -> tuple[Endpoint, Endpoint]:
    prompt, decoder = fleet.prompt(), fleet.decoder()
    assert decoder.link(decoder.towards(prompt)) == SUCCESS
    return prompt, decoder


def test_a_silent_peer_blocks_a_link_past_its_timeout_until_it_closes(fleet: Fleet) -> None:
    decoder = fleet.decoder()

    with silent(fleet.ip) as peer:
        linking = decoder.start_link(decoder.towards(peer.address))
        peer.accept()
        outwait_timeout(fleet)
        assert not linking.done()

    assert linking.result(CALL_TIMEOUT_S) == answer("LLM_FAILED")


def test_finalize_waits_for_a_blocked_link_and_later_calls_behind_it(fleet: Fleet) -> None:
    decoder = fleet.decoder()

    with silent(fleet.ip) as peer:
        linking = decoder.start_link(decoder.towards(peer.address))
        peer.accept()
        finalizing = decoder.child.start("finalize")
        outwait_timeout(fleet)
        later = decoder.child.start("unlink", clusters=[[999]], timeout=1000, force=True)
        outwait_timeout(fleet)
        assert not finalizing.done()
        assert not later.done()
        assert not linking.done()

    assert linking.result(CALL_TIMEOUT_S) == answer("LLM_FAILED")
    assert finalizing.result(CALL_TIMEOUT_S) is None
    with pytest.raises(ChildError):
        later.result(CALL_TIMEOUT_S)


def test_other_threads_run_while_a_link_call_blocks(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()

    with silent(fleet.ip) as peer:
        linking = decoder.start_link(decoder.towards(peer.address))
        peer.accept()
        assert decoder.child.call("ping") == "pong"
        assert decoder.link(decoder.towards(prompt)) == SUCCESS
        assert decoder.force_unlink(999) == SUCCESS
        assert not linking.done()

    linking.result(CALL_TIMEOUT_S)


def test_one_silent_peer_keeps_the_answer_of_its_whole_call(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()

    with silent(fleet.ip) as peer:
        linking = decoder.start_link(decoder.towards(peer.address), decoder.towards(prompt))
        peer.accept()
        outwait_timeout(fleet)
        assert not linking.done()

    assert linking.result(CALL_TIMEOUT_S) == ["LLM_FAILED", ["LLM_FAILED", "LLM_SUCCESS"]]


def test_sixteen_idle_connections_block_a_prompt_until_they_close(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()

    with idle_connections(prompt.address, 16):
        linking = decoder.start_link(decoder.towards(prompt))
        outwait_timeout(fleet)
        assert not linking.done()

    assert linking.result(CALL_TIMEOUT_S) == SUCCESS


def test_fifteen_idle_connections_leave_a_prompt_one_slot(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()

    with idle_connections(prompt.address, 15):
        assert decoder.link(decoder.towards(prompt)) == SUCCESS


def test_connecting_and_closing_at_once_is_harmless(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()

    for _ in range(200):
        socket.create_connection(prompt.address).close()

    assert decoder.link(decoder.towards(prompt)) == SUCCESS


def test_a_killed_decoder_that_restarts_with_its_id_just_links(fleet: Fleet) -> None:
    prompt, decoder = linked_pair(fleet)
    decoder.child.kill()
    assert prompt.has_links()

    again = fleet.decoder(cluster_id=decoder.cluster_id)

    assert again.link(again.towards(prompt)) == SUCCESS
    assert again.unlink(again.towards(prompt)) == SUCCESS
    assert not prompt.has_links()


def test_a_decoder_that_restarts_with_a_new_id_leaves_its_old_one_on_the_prompt(
    fleet: Fleet,
) -> None:
    prompt, decoder = linked_pair(fleet)
    decoder.child.kill()
    again = fleet.decoder(cluster_id=decoder.cluster_id + 100)

    assert again.link(again.towards(prompt)) == SUCCESS
    assert again.unlink(again.towards(prompt)) == SUCCESS
    assert prompt.has_links()
    assert prompt.force_unlink(decoder.cluster_id) == SUCCESS
    assert not prompt.has_links()


def test_a_normal_unlink_of_a_dead_prompt_fails_and_keeps_the_local_link(fleet: Fleet) -> None:
    prompt, decoder = linked_pair(fleet)
    prompt.child.kill()

    assert decoder.unlink(decoder.towards(prompt)) == answer("LLM_UNLINK_FAILED")
    assert decoder.has_links()
    assert decoder.force_unlink(prompt.cluster_id) == SUCCESS
    assert not decoder.has_links()


def test_a_link_to_a_dead_prompt_stays_until_it_is_unlinked(fleet: Fleet) -> None:
    prompt, decoder = linked_pair(fleet)
    prompt.child.kill()
    outwait_timeout(fleet)

    assert decoder.has_links()


def test_a_restarted_prompt_needs_a_forced_unlink_before_it_is_linked(fleet: Fleet) -> None:
    prompt, decoder = linked_pair(fleet)
    prompt.child.kill()
    again = fleet.prompt(cluster_id=prompt.cluster_id, port=prompt.port)

    assert decoder.link(decoder.towards(again)) == answer("LLM_TIMEOUT")
    assert decoder.has_links()
    assert not again.has_links()
    assert decoder.force_unlink(prompt.cluster_id) == SUCCESS
    assert decoder.link(decoder.towards(again)) == SUCCESS
    assert again.has_links()


def test_a_frozen_prompt_blocks_a_normal_unlink_and_not_a_forced_one(fleet: Fleet) -> None:
    prompt, decoder = linked_pair(fleet)
    prompt.child.freeze()

    unlinking = decoder.start_unlink(decoder.towards(prompt))
    assert decoder.force_unlink(prompt.cluster_id) == SUCCESS
    assert not decoder.has_links()
    outwait_timeout(fleet)
    assert not unlinking.done()
    prompt.child.thaw()

    assert unlinking.result(CALL_TIMEOUT_S) == SUCCESS
    assert not prompt.has_links()


def test_a_decoder_that_finalises_leaves_its_link_on_the_prompt(fleet: Fleet) -> None:
    prompt, decoder = linked_pair(fleet)
    decoder.child.call("finalize")

    assert prompt.has_links()
    assert prompt.force_unlink(decoder.cluster_id) == SUCCESS
    assert not prompt.has_links()


def test_a_forced_unlink_is_local_and_both_ends_need_one(fleet: Fleet) -> None:
    prompt, decoder = linked_pair(fleet)

    assert decoder.force_unlink(prompt.cluster_id) == SUCCESS
    assert not decoder.has_links()
    assert prompt.has_links()
    assert prompt.force_unlink(decoder.cluster_id) == SUCCESS
    assert not prompt.has_links()


def test_a_link_that_only_the_prompt_still_holds_is_replaced(fleet: Fleet) -> None:
    prompt, decoder = linked_pair(fleet)
    decoder.force_unlink(prompt.cluster_id)

    assert decoder.link(decoder.towards(prompt)) == SUCCESS
    assert decoder.unlink(decoder.towards(prompt)) == SUCCESS
    assert not prompt.has_links()


def test_a_link_that_only_the_decoder_still_holds_times_out(fleet: Fleet) -> None:
    prompt, decoder = linked_pair(fleet)
    prompt.force_unlink(decoder.cluster_id)

    assert decoder.link(decoder.towards(prompt)) == answer("LLM_TIMEOUT")
    assert decoder.has_links()
    assert not prompt.has_links()
