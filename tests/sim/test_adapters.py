"""The simulated ports: what a controller is told, and what really happened."""

import anyio
import pytest

from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.facts import EntryState
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.plan import Action, DrainNode, LinkNodes, StartNode
from pd_autoscaler.model.report import Done
from pd_autoscaler.ports import ClusterResult, Fence
from pd_autoscaler.sim.adapters import (
    SimMetrics,
    SimProvider,
    SimRouter,
    SimWorkers,
    Step,
)
from pd_autoscaler.sim.agents import SimAgents
from pd_autoscaler.sim.faults import CallFault
from pd_autoscaler.sim.fleet.node import SimNode
from pd_autoscaler.sim.fleet.world import World
from pd_autoscaler.sim.journal import Memory, SimJournal
from pd_autoscaler.sim.loop import run
from tests.support.sim import (
    FENCE,
    Heard,
    known,
    of_role,
    peer,
    process_of,
    step_of,
    surely,
    world_of,
)


def pair(world: World) -> tuple[SimNode, SimNode]:
    return of_role(world, Role.PROMPT)[0], of_role(world, Role.DECODER)[0]


async def linked(
    agents: SimAgents, decoder: SimNode, prompt: SimNode, *, key: str = "1", fence: Fence = FENCE
) -> list[ClusterResult]:
    calls = agents.links(known(decoder), [peer(prompt)], fence=fence, key=key)
    return [result async for result in calls]


async def forced(agents: SimAgents, node: SimNode, other: SimNode, *, key: str) -> None:
    calls = agents.unlinks(known(node), [peer(other)], force=True, fence=FENCE, key=key)
    assert [result.verdict async for result in calls] == [Verdict.SUCCESS]


def test_a_link_shows_in_the_decoders_table_alone() -> None:
    world = world_of(prompts=1, decoders=1)
    prompt, decoder = pair(world)

    async def main() -> None:
        agents = SimAgents(step_of(world))
        assert [r.code for r in await linked(agents, decoder, prompt)] == ["LLM_SUCCESS"]
        rows = (await agents.state(known(decoder))).links
        assert [(r.cluster_id, r.state) for r in rows] == [
            (process_of(prompt).cluster_id, EntryState.LINKED)
        ]
        assert (await agents.state(known(prompt))).links == ()
        assert world.are_linked(prompt, decoder)

    run(main)


def test_a_hung_link_is_unknown_and_cured_by_force_on_both_ends() -> None:
    world, heard = world_of(prompts=1, decoders=1), Heard()
    prompt, decoder = pair(world)

    async def main() -> None:
        agents = SimAgents(step_of(world, heard))
        surely(world, CallFault.LINK_HANGS)
        (result,) = await linked(agents, decoder, prompt)
        assert result.is_unknown
        assert heard.doubts == [f"link {decoder.id} {prompt.id}"]
        state = await agents.state(known(decoder))
        assert [row.state for row in state.links] == [EntryState.UNKNOWN]
        assert state.calls_hung == 1

        surely(world)
        assert [r.code for r in await linked(agents, decoder, prompt, key="2")] == [
            "CALL_IN_PROGRESS"
        ]
        await forced(agents, decoder, prompt, key="3")
        await forced(agents, prompt, decoder, key="4")
        assert [r.code for r in await linked(agents, decoder, prompt, key="5")] == ["LLM_SUCCESS"]
        # The hung call's slot counts until the library gives it back.
        assert (await agents.state(known(decoder))).calls_hung == 1
        await anyio.sleep(200)
        assert (await agents.state(known(decoder))).calls_hung == 0

    run(main)


def test_a_late_success_is_in_the_table_once_it_happens() -> None:
    world = world_of(prompts=1, decoders=1)
    prompt, decoder = pair(world)

    async def main() -> None:
        agents = SimAgents(step_of(world))
        surely(world, CallFault.LINK_LATE)
        (result,) = await linked(agents, decoder, prompt)
        assert result.is_unknown
        assert not world.are_linked(prompt, decoder)
        await anyio.sleep(100)
        rows = (await agents.state(known(decoder))).links
        assert [row.state for row in rows] == [EntryState.LINKED]
        assert world.are_linked(prompt, decoder)

    run(main)


def test_a_late_success_after_a_forced_unlink_is_told_as_unknown() -> None:
    world = world_of(prompts=1, decoders=1)
    prompt, decoder = pair(world)

    async def main() -> None:
        agents = SimAgents(step_of(world))
        surely(world, CallFault.LINK_LATE)
        await linked(agents, decoder, prompt)
        await forced(agents, decoder, prompt, key="2")
        await anyio.sleep(100)
        rows = (await agents.state(known(decoder))).links
        assert [(row.state, row.code) for row in rows] == [(EntryState.UNKNOWN, "LATE_SUCCESS")]

    run(main)


def test_a_repeated_key_makes_no_second_call() -> None:
    world = world_of(prompts=1, decoders=1)
    prompt, decoder = pair(world)

    async def main() -> None:
        agents = SimAgents(step_of(world))
        first = await linked(agents, decoder, prompt, key="same")
        assert await linked(agents, decoder, prompt, key="same") == first
        assert [r.code for r in await linked(agents, decoder, prompt, key="other")] == [
            "LLM_ALREADY_LINK"
        ]

    run(main)


def test_a_controller_with_a_lower_epoch_is_refused() -> None:
    world = world_of(prompts=1, decoders=1)
    prompt, decoder = pair(world)

    async def main() -> None:
        agents = SimAgents(step_of(world))
        await linked(agents, decoder, prompt, fence=Fence(2, "new"))
        with pytest.raises(PermanentError, match="fenced"):
            await linked(agents, decoder, prompt, key="2", fence=Fence(1, "old"))

    run(main)


def test_a_call_that_means_a_former_process_is_refused() -> None:
    world = world_of(prompts=1, decoders=1)
    prompt, decoder = pair(world)

    async def main() -> None:
        agents = SimAgents(step_of(world))
        before = known(decoder)
        process_of(decoder).incarnation = "another"
        with pytest.raises(PermanentError, match="another"):
            await anext(aiter(agents.links(before, [peer(prompt)], fence=FENCE, key="1")))

    run(main)


def test_an_initialised_node_is_ready_and_initialising_it_again_succeeds() -> None:
    world = world_of(prompts=1, decoders=0)
    (prompt,) = of_role(world, Role.PROMPT)

    async def main() -> None:
        agents = SimAgents(step_of(world))
        node = known(prompt)
        assert prompt.process is not None
        await agents.init(node, Role.PROMPT, fence=FENCE, key="1")
        await agents.init(node, Role.PROMPT, fence=FENCE, key="2")
        assert (await agents.state(node)).role is Role.PROMPT
        with pytest.raises(PermanentError):
            await agents.init(node, Role.DECODER, fence=FENCE, key="3")

    run(main)


def switchable(world: World) -> SimNode:
    node = of_role(world, Role.DECODER)[0]
    process_of(node)
    node.can_switch_role = True
    return node


def test_a_node_that_took_the_other_role_is_linked_to_in_it() -> None:
    world = world_of(prompts=0, decoders=2)
    node, other = of_role(world, Role.DECODER)
    switchable(world)

    async def main() -> None:
        agents = SimAgents(step_of(world))
        (refused,) = await linked(agents, other, node)
        assert refused.code == "LLM_LINK_FAILED"
        before = known(node)
        await agents.switch_role(before, Role.PROMPT, fence=FENCE, key="1")
        await agents.switch_role(before, Role.PROMPT, fence=FENCE, key="2")
        state = await agents.state(known(node))
        assert (state.role, state.can_switch_role) == (Role.PROMPT, True)
        assert [endpoint.port for endpoint in state.endpoints] == [26000]
        (made,) = await linked(agents, other, node, key="3")
        assert made.code == "LLM_SUCCESS"

    run(main)
    assert of_role(world, Role.PROMPT) == [node]
    world.publish(node.id)
    assert world.serving(Role.PROMPT) == [node]


def test_a_linked_node_and_one_whose_engine_cannot_take_no_other_role() -> None:
    world = world_of(prompts=1, decoders=1)
    prompt, decoder = pair(world)
    switchable(world)
    prompt.can_switch_role = False

    async def main() -> None:
        agents = SimAgents(step_of(world))
        await linked(agents, decoder, prompt)
        with pytest.raises(TransientError, match="LLM_EXIST_LINK"):
            await agents.switch_role(known(decoder), Role.PROMPT, fence=FENCE, key="2")
        with pytest.raises(PermanentError):
            await agents.switch_role(known(prompt), Role.DECODER, fence=FENCE, key="3")

    run(main)
    assert (prompt.role, decoder.role) == (Role.PROMPT, Role.DECODER)


def test_a_switch_whose_answer_is_lost_is_in_doubt_and_done() -> None:
    world, heard = world_of(prompts=0, decoders=1), Heard()
    node = switchable(world)
    surely(world, CallFault.SWITCH_ANSWER_LOST)

    async def main() -> None:
        agents = SimAgents(step_of(world, heard))
        with pytest.raises(OutcomeUnknownError):
            await agents.switch_role(known(node), Role.PROMPT, fence=FENCE, key="1")

    run(main)
    assert heard.doubts == [f"node {node.id}"]
    assert node.role is Role.PROMPT


def test_a_node_that_dies_while_it_switches_keeps_its_role() -> None:
    world = world_of(prompts=0, decoders=1)
    node = switchable(world)
    surely(world, CallFault.SWITCH_KILLS)

    async def main() -> None:
        agents = SimAgents(step_of(world))
        with pytest.raises(OutcomeUnknownError):
            await agents.switch_role(known(node), Role.PROMPT, fence=FENCE, key="1")

    run(main)
    assert (node.role, node.is_up) == (Role.DECODER, False)


def test_a_start_done_and_told_as_unknown_is_in_the_list() -> None:
    world, heard = world_of(prompts=0, decoders=0), Heard()
    surely(world, CallFault.PROVIDER_DONE_REPORTED_UNKNOWN)

    async def main() -> None:
        provider = SimProvider(step_of(world, heard))
        with pytest.raises(OutcomeUnknownError):
            await provider.grow(Role.PROMPT, "start-1")
        assert [node.request_id for node in await provider.nodes()] == ["start-1"]

    run(main)
    assert (heard.doubts, heard.places) == (["request start-1"], ["provider"])


def test_a_deadline_of_the_caller_leaves_doubt() -> None:
    world, heard = world_of(prompts=1, decoders=1), Heard()
    prompt, decoder = pair(world)
    surely(world, CallFault.LINK_HANGS)

    async def main() -> None:
        with anyio.move_on_after(1.0):
            await linked(SimAgents(step_of(world, heard)), decoder, prompt)

    run(main)
    assert heard.doubts == [f"link {decoder.id} {prompt.id}"]


def test_a_killed_controller_reaches_the_world_no_more() -> None:
    world = world_of(prompts=1, decoders=0)
    (prompt,) = of_role(world, Role.PROMPT)

    async def main() -> None:
        with anyio.CancelScope() as scope:
            step = Step(world, Heard(), scope.cancel, kill_in=2)
            router = SimRouter(step)
            await router.published()
            await router.publish(known(prompt))
        assert scope.cancelled_caught
        with pytest.raises(TransientError, match="dead"):
            await SimRouter(step).publish(known(prompt))

    run(main)
    assert world.published == {}


def test_a_silent_agent_keeps_its_caller_waiting_and_does_nothing() -> None:
    world = world_of(prompts=1, decoders=0)
    (prompt,) = of_role(world, Role.PROMPT)
    prompt.agent_back_s = 60.0

    async def main() -> None:
        agents = SimAgents(step_of(world))
        node = known(prompt)
        with pytest.raises(TransientError, match="cannot connect"):
            await agents.state(node)
        assert anyio.current_time() > 1.0
        await anyio.sleep(60)
        assert (await agents.state(node)).node_id == prompt.id

    run(main)


def test_pages_of_silent_nodes_are_absent() -> None:
    world = world_of(prompts=2, decoders=0)
    silent, speaking = of_role(world, Role.PROMPT)
    silent.metrics_back_s = 60.0

    async def main() -> None:
        readings = await SimMetrics(step_of(world)).read([known(silent), known(speaking)])
        assert list(readings) == [speaking.id]

    run(main)


def test_a_slow_policy_call_takes_its_whole_deadline_of_virtual_time() -> None:
    world = world_of(prompts=0, decoders=0)
    surely(world, CallFault.POLICY_SLOW)

    async def main() -> float:
        with pytest.raises(OutcomeUnknownError):
            await SimWorkers(step_of(world)).run(lambda: Target(1, 1), deadline_s=2.0)
        return anyio.current_time()

    assert run(main) == pytest.approx(2.0)


def test_the_next_controller_remembers_what_the_killed_one_wrote() -> None:
    world = world_of(prompts=1, decoders=1)
    prompt, decoder = pair(world)
    memory = Memory()
    target = peer(prompt)

    async def main() -> None:
        journal = SimJournal(step_of(world), memory)
        await journal.set_target(3, 4, "because")
        actions: list[Action] = [
            LinkNodes(decoder.id, (target,)),
            DrainNode(decoder.id, "too many"),
            StartNode(Role.PROMPT, "start-7"),
        ]
        clusters = {decoder.id: (20,)}
        linking, _, starting = await journal.intend(actions, decoder_clusters=clusters)
        await journal.ended(starting, Done(actions[2]))

        found = await SimJournal(step_of(world), memory).remembered()
        assert (found.target, found.request_count) == ((3, 4), 7)
        assert found.linked == {target.incarnation: frozenset({20})}
        assert found.draining == {decoder.id}
        assert [told.split()[0] for told in found.open_intents] == [str(linking), str(linking + 1)]

    run(main)


def test_a_failed_write_changes_nothing() -> None:
    world, memory = world_of(prompts=0, decoders=0), Memory()
    surely(world, CallFault.JOURNAL_FAILS)

    async def main() -> None:
        journal = SimJournal(step_of(world), memory)
        with pytest.raises(TransientError):
            await journal.set_target(3, 4, "because")
        with pytest.raises(TransientError):
            await journal.intend([StartNode(Role.PROMPT, "start-1")])

    run(main)
    assert memory == Memory()
