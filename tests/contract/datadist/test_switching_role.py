"""Switching role: links first, then the label and the listener."""

import pytest

from tests.support.datadist_fleet import SUCCESS, Fleet, answer
from tests.support.datadist_process import ChildError


@pytest.mark.parametrize("end", ["prompt", "decoder"])
def test_a_linked_end_cannot_switch(fleet: Fleet, end: str) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()
    decoder.link(decoder.towards(prompt))
    linked = prompt if end == "prompt" else decoder

    with pytest.raises(ChildError) as caught:
        linked.switch_role("MIX")

    assert caught.value.code == "LLM_EXIST_LINK"
    assert decoder.link(decoder.towards(prompt)) == answer("LLM_ALREADY_LINK")


def test_switching_without_an_address_stops_listening(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()
    target, port = decoder.towards(prompt), prompt.port

    prompt.switch_role("DECODER")
    assert decoder.link(target) == answer("LLM_LINK_FAILED")
    prompt.switch_role("PROMPT", port)
    assert decoder.link(target) == SUCCESS


def test_switching_to_another_port_closes_the_old_one(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()
    before = decoder.towards(prompt)

    prompt.switch_role("PROMPT", fleet.port(prompt.ip))

    assert decoder.link(before) == answer("LLM_LINK_FAILED")
    assert decoder.link(decoder.towards(prompt)) == SUCCESS


def test_switching_to_the_same_role_and_port_changes_nothing(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()

    prompt.switch_role("PROMPT", prompt.port)

    assert decoder.link(decoder.towards(prompt)) == SUCCESS


def test_a_pair_can_swap_roles_and_link_the_other_way(fleet: Fleet) -> None:
    first, second = fleet.prompt(), fleet.decoder()
    assert second.link(second.towards(first)) == SUCCESS
    assert second.unlink(second.towards(first)) == SUCCESS

    first.switch_role("DECODER")
    second.switch_role("PROMPT", fleet.port(second.ip))

    assert first.link(first.towards(second)) == SUCCESS
    assert second.has_links()


def test_a_role_must_be_a_role(fleet: Fleet) -> None:
    decoder = fleet.decoder()

    with pytest.raises(ChildError) as caught:
        decoder.child.call("switch_role", role=2, options=None)

    assert caught.value.type == "TypeError"
