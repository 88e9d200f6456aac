"""The simulated world: supply, the router, and requests in flight."""

import pytest

from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.faults import CallFault
from pd_autoscaler.sim.fleet.node import Life
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


def test_a_withdrawn_node_drains_to_nothing() -> None:
    world = world_of(prompts=1, decoders=1)
    world.load.rate = 20.0
    for node in world.nodes.values():
        process_of(node)
        world.publish(node.id)
    world.advance(60.0)
    world.flow()
    prompt = of_role(world, Role.PROMPT)[0]
    before = prompt.in_flight(world.load, now_s=world.now_s)

    world.withdraw(prompt.id)
    at_once = prompt.in_flight(world.load, now_s=world.now_s)
    world.advance(world.now_s + 41.0)

    assert before > 0
    assert at_once == before
    assert prompt.in_flight(world.load, now_s=world.now_s) == 0


def test_a_queue_grows_past_what_the_published_nodes_can_do_and_then_shrinks() -> None:
    world = world_of(prompts=1, decoders=3)
    world.load.rate = 3.0
    for node in world.nodes.values():
        process_of(node)
        world.publish(node.id)

    world.advance(30.0)
    world.flow()
    grown = world.load.queue[Role.PROMPT]
    world.load.rate = 0.1
    world.advance(300.0)
    world.flow()

    assert grown == pytest.approx(60.0)
    assert world.load.queue[Role.PROMPT] == pytest.approx(0.0)


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
