"""Link tables on both sides: what was measured on the real library holds here, too."""

from pd_autoscaler.model.facts import AgentPhase
from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.fleet.process import (
    ALREADY_LINK,
    LINK_FAILED,
    SUCCESS,
    TIMEOUT,
    UNLINK_FAILED,
    Process,
    are_linked,
    link,
    unlink,
)

P, D = 10, 20


def process(role: Role, incarnation: str) -> Process:
    is_prompt = role is Role.PROMPT
    return Process(
        node_id=f"{role}-1",
        incarnation=incarnation,
        cluster_id=P if is_prompt else D,
        ip="10.0.0.1",
        port=26000 if is_prompt else None,
        phase=AgentPhase.READY,
        role=role,
    )


def pair() -> tuple[Process, Process]:
    prompt, decoder = process(Role.PROMPT, "p1"), process(Role.DECODER, "d1")
    assert link(decoder, P, prompt) == SUCCESS
    return prompt, decoder


def test_a_link_is_made_by_one_side_and_held_by_both() -> None:
    prompt, decoder = pair()

    assert are_linked(prompt, decoder)
    assert (prompt.entities, decoder.entities) == ({D: "d1"}, {P: "p1"})


def test_a_second_link_is_refused_while_both_sides_hold_the_first() -> None:
    prompt, decoder = pair()

    assert link(decoder, P, prompt) == ALREADY_LINK


def test_a_prompt_that_is_not_initialised_cannot_be_linked() -> None:
    prompt, decoder = process(Role.PROMPT, "p1"), process(Role.DECODER, "d1")
    prompt.phase = AgentPhase.INITIALISING

    assert link(decoder, P, prompt) == LINK_FAILED
    assert decoder.entities == {}


def test_a_normal_unlink_clears_both_sides() -> None:
    prompt, decoder = pair()

    assert unlink(decoder, P, prompt, force=False) == SUCCESS
    assert (prompt.entities, decoder.entities) == ({}, {})


def test_a_forced_unlink_clears_the_callers_side_alone() -> None:
    prompt, decoder = pair()

    assert unlink(decoder, P, prompt, force=True) == SUCCESS
    assert (prompt.entities, decoder.entities) == ({D: "d1"}, {})


def test_unlinking_what_is_not_linked_succeeds() -> None:
    decoder = process(Role.DECODER, "d1")

    assert unlink(decoder, P, None, force=False) == SUCCESS


def test_a_link_to_a_dead_prompt_stays_until_it_is_forced() -> None:
    prompt, decoder = pair()
    prompt.is_alive = False

    assert unlink(decoder, P, prompt, force=False) == UNLINK_FAILED
    assert decoder.entities == {P: "p1"}
    assert unlink(decoder, P, prompt, force=True) == SUCCESS
    assert decoder.entities == {}


def test_a_restarted_prompt_times_out_until_the_decoder_forces_its_old_link() -> None:
    _, decoder = pair()
    prompt = process(Role.PROMPT, "p2")

    assert link(decoder, P, prompt) == TIMEOUT
    assert unlink(decoder, P, prompt, force=True) == SUCCESS
    assert link(decoder, P, prompt) == SUCCESS
    assert are_linked(prompt, decoder)


def test_a_restarted_decoder_just_links_and_replaces_what_the_prompt_held() -> None:
    prompt, _ = pair()
    decoder = process(Role.DECODER, "d2")

    assert not are_linked(prompt, decoder)
    assert link(decoder, P, prompt) == SUCCESS
    assert prompt.entities == {D: "d2"}


def test_a_stale_entry_after_a_forced_unlink_does_not_stop_the_next_link() -> None:
    prompt, decoder = pair()
    unlink(decoder, P, prompt, force=True)

    assert link(decoder, P, prompt) == SUCCESS
    assert are_linked(prompt, decoder)


def test_a_link_whose_prompt_side_was_dropped_times_out() -> None:
    prompt, decoder = pair()
    unlink(prompt, D, decoder, force=True)

    assert not are_linked(prompt, decoder)
    assert link(decoder, P, prompt) == TIMEOUT
