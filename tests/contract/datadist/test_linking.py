"""Link and unlink calls between living endpoints."""

import pytest

from tests.support.datadist_fleet import SUCCESS, Fleet, answer
from tests.support.datadist_peers import dropping, refusing


def test_a_decoder_links_and_unlinks_a_prompt(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()

    assert decoder.link(decoder.towards(prompt)) == SUCCESS
    assert decoder.has_links()
    assert prompt.has_links()
    assert decoder.unlink(decoder.towards(prompt)) == SUCCESS
    assert not decoder.has_links()
    assert not prompt.has_links()


def test_a_pair_can_be_relinked_twenty_times(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()

    for _ in range(20):
        assert decoder.link(decoder.towards(prompt)) == SUCCESS
        assert decoder.unlink(decoder.towards(prompt)) == SUCCESS


def test_linking_again_says_already_linked(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()
    decoder.link(decoder.towards(prompt))

    assert decoder.link(decoder.towards(prompt)) == answer("LLM_ALREADY_LINK")
    assert decoder.unlink(decoder.towards(prompt)) == SUCCESS
    assert not decoder.has_links()


def test_unlinking_what_is_not_linked_is_a_success(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()

    assert decoder.unlink(decoder.towards(prompt)) == SUCCESS


def test_a_closed_port_fails_the_link(fleet: Fleet) -> None:
    decoder = fleet.decoder()

    with refusing(fleet.ip) as closed:
        assert decoder.link(decoder.towards(closed)) == answer("LLM_LINK_FAILED")


def test_a_dropped_syn_times_out_link_and_unlink(fleet: Fleet) -> None:
    decoder = fleet.decoder()

    with dropping(fleet.ip) as dropped:
        assert decoder.link(decoder.towards(dropped)) == answer("LLM_TIMEOUT")
        assert decoder.unlink(decoder.towards(dropped)) == answer("LLM_TIMEOUT")


def test_a_failed_cluster_leaves_the_others_of_its_call_linked(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()

    with refusing(fleet.ip) as closed:
        linked = decoder.link(decoder.towards(closed), decoder.towards(prompt))

    assert linked == ["LLM_LINK_FAILED", ["LLM_LINK_FAILED", "LLM_SUCCESS"]]
    assert prompt.has_links()


def test_the_overall_code_is_that_of_the_last_failure_in_order(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()

    with refusing(fleet.ip) as closed:
        nowhere = [998, None, None, decoder.ip]
        linked = decoder.link(nowhere, decoder.towards(closed), decoder.towards(prompt))

    assert linked == [
        "LLM_LINK_FAILED",
        ["LLM_PARAM_INVALID", "LLM_LINK_FAILED", "LLM_SUCCESS"],
    ]


def test_a_wrong_remote_id_links_and_can_then_not_be_unlinked(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()
    wrong = decoder.towards(prompt, cluster_id=777)

    assert decoder.link(wrong) == SUCCESS
    assert decoder.unlink(wrong) == SUCCESS
    assert decoder.has_links()
    assert not prompt.has_links()
    assert decoder.link(decoder.towards(prompt)) == answer("LLM_TIMEOUT")


def test_a_link_made_under_a_wrong_id_is_recorded_under_the_real_one(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()
    decoder.link(decoder.towards(prompt, cluster_id=777))

    assert decoder.link(decoder.towards(prompt)) == answer("LLM_ALREADY_LINK")
    assert decoder.force_unlink(777) == SUCCESS
    assert decoder.has_links()
    assert decoder.force_unlink(prompt.cluster_id) == SUCCESS
    assert not decoder.has_links()


def test_the_same_prompt_twice_in_one_call_succeeds_twice(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()
    twice = [decoder.towards(prompt), decoder.towards(prompt)]

    assert decoder.link(*twice) == ["LLM_SUCCESS", ["LLM_SUCCESS", "LLM_SUCCESS"]]


def test_a_second_prompt_with_an_id_in_use_times_out(fleet: Fleet) -> None:
    first, decoder = fleet.prompt(cluster_id=50), fleet.decoder()
    second = fleet.prompt(cluster_id=50)

    assert decoder.link(decoder.towards(first)) == SUCCESS
    assert decoder.link(decoder.towards(second)) == answer("LLM_TIMEOUT")
    assert not second.has_links()


def test_a_second_decoder_with_an_id_in_use_silently_replaces_the_first(fleet: Fleet) -> None:
    prompt = fleet.prompt()
    first, second = fleet.decoder(cluster_id=60), fleet.decoder(cluster_id=60)

    assert first.link(first.towards(prompt)) == SUCCESS
    assert second.link(second.towards(prompt)) == SUCCESS
    assert first.has_links()
    assert first.unlink(first.towards(prompt)) == SUCCESS
    assert not prompt.has_links()
    assert second.has_links()


def test_whoever_listens_is_the_server_whatever_its_role(fleet: Fleet) -> None:
    server = fleet.endpoint()
    server.create("DECODER")
    server.init(fleet.port(server.ip))
    client = fleet.endpoint()
    client.create("PROMPT")
    client.init()

    assert client.link(client.towards(server)) == SUCCESS


@pytest.mark.parametrize("is_accessible", [True, False])
def test_both_ends_must_agree_on_remote_access(fleet: Fleet, is_accessible: bool) -> None:
    prompt, decoder = fleet.prompt(), fleet.endpoint()
    decoder.create("DECODER")
    decoder.init(enable_remote_cache_accessible=is_accessible)

    expected = SUCCESS if is_accessible else answer("LLM_PARAM_INVALID")
    assert decoder.link(decoder.towards(prompt)) == expected
