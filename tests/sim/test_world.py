"""The simulated world: supply, the router, and requests in flight."""

import pytest

from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.faults import CallFault
from pd_autoscaler.sim.fleet.node import Life
from pd_autoscaler.sim.fleet.traffic import Steady
from pd_autoscaler.sim.fleet.world import World
from tests.support.sim import of_role, process_of, surely, world_of


def test_a_repeated_request_makes_no_second_node() -> None:
    world = world_of(prompts=0, decoders=0)

    world.grow(Role.PROMPT, "start-1")
    world.grow(Role.PROMPT, "start-1")
    world.grow(Role.PROMPT, "start-2")

    assert [node.request_id for node in world.nodes.values()] == ["start-1", "start-2"]


def test_a_node_runs_some_time_after_it_was_asked_for() -> None:
    world = world_of(prompts=0, decoders=0)
    world.grow(Role.DECODER, "start-1")
    node = next(iter(world.nodes.values()))
    assert node.life is Life.STARTING

    world.advance(31.0)

    assert node.is_up


def test_a_removed_node_is_gone_and_listed_no_more() -> None:
    world = world_of(prompts=1, decoders=0)
    node = of_role(world, Role.PROMPT)[0]

    world.remove(node.id)
    world.advance(11.0)

    assert node.life is Life.GONE
    assert world.listed() == []


def test_a_late_list_shows_a_node_that_is_gone() -> None:
    world = world_of(prompts=1, decoders=0)
    surely(world, CallFault.LIST_LATE)
    node = of_role(world, Role.PROMPT)[0]

    world.remove(node.id)
    world.advance(11.0)
    assert (node.life, world.listed()) == (Life.GONE, [node])
    world.advance(80.0)

    assert world.listed() == []


def linked_and_published(world: World) -> None:
    for node in world.nodes.values():
        process_of(node)
    world.link_all()


def waiting(world: World, role: Role) -> int:
    world.flow()
    return sum(world.engine(node).waiting or 0 for node in of_role(world, role))


def test_a_withdrawn_node_drains_to_nothing() -> None:
    world = world_of(prompts=1, decoders=1, traffic=Steady(rate=20.0))
    linked_and_published(world)
    world.advance(20.0)
    world.flow()
    prompt = of_role(world, Role.PROMPT)[0]
    before = world.in_flight(prompt)

    world.withdraw(prompt.id)
    at_once = world.in_flight(prompt)
    world.advance(world.now_s + 600.0)
    world.flow()

    assert before > 0
    assert at_once == before
    assert world.in_flight(prompt) == 0


def test_a_queue_grows_past_what_the_published_nodes_can_do_and_then_shrinks() -> None:
    traffic = Steady(rate=4.0)
    world = world_of(prompts=1, decoders=3, traffic=traffic)
    linked_and_published(world)

    world.advance(30.0)
    grown = waiting(world, Role.PROMPT)
    traffic.rate = 0.1
    world.advance(300.0)

    # Four a second came and two a second went.
    assert grown == pytest.approx(60.0, abs=2)
    assert waiting(world, Role.PROMPT) == 0


def test_requests_that_are_pulled_over_a_link_that_broke_fail() -> None:
    world = world_of(prompts=1, decoders=1, traffic=Steady(rate=1.0))
    linked_and_published(world)
    prompt, decoder = of_role(world, Role.PROMPT)[0], of_role(world, Role.DECODER)[0]
    process_of(decoder).entities.clear()
    world.linked(decoder, prompt)

    world.advance(20.0)
    world.flow()

    counters = world.engines.reading(decoder.id, now_s=20.0).counters
    assert counters["transfer_failures"] > 10
    assert counters["generation_tokens"] == 0


def test_what_is_inside_a_process_that_ends_is_lost_and_nothing_is_sent_to_it() -> None:
    world = world_of(prompts=2, decoders=1, traffic=Steady(rate=4.0))
    linked_and_published(world)
    world.advance(10.0)
    prompt, other = of_role(world, Role.PROMPT)

    world.end(prompt, Life.DEAD)
    world.advance(20.0)
    world.flow()

    assert world.in_flight(prompt) == 0
    assert world.in_flight(other) > 0


def test_a_drain_may_be_held_up_by_one_request_whatever_the_engine_does() -> None:
    world = world_of(prompts=1, decoders=1)
    linked_and_published(world)
    prompt = of_role(world, Role.PROMPT)[0]
    surely(world, CallFault.DRAIN_SLOW)

    world.withdraw(prompt.id)

    assert world.in_flight(prompt) >= 1
    assert world.engine(prompt).is_idle is False


def test_a_withdrawal_undoes_a_publication_that_is_still_on_its_way() -> None:
    world = world_of(prompts=1, decoders=0)
    node = of_role(world, Role.PROMPT)[0]

    world.publish(node.id, delay_s=10.0)
    world.withdraw(node.id)
    world.advance(20.0)

    assert world.published == {}


def test_what_happens_is_in_the_digest() -> None:
    one, other = world_of(prompts=1, decoders=0), world_of(prompts=1, decoders=0)
    assert one.digest() == other.digest()

    one.note("something else")

    assert one.digest() != other.digest()
