"""Agents in virtual time: calls that hang, fail and come late, over the simulated processes."""

from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.model.facts import AgentPhase, AgentState
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import Node, Role
from pd_autoscaler.model.plan import Peer
from pd_autoscaler.ports import ClusterResult, Fence
from pd_autoscaler.sim.adapters import Step
from pd_autoscaler.sim.faults import CallFault
from pd_autoscaler.sim.fleet import agent
from pd_autoscaler.sim.fleet.events import SLACK_S
from pd_autoscaler.sim.fleet.node import SimNode
from pd_autoscaler.sim.fleet.process import Process, Verb

T = TypeVar("T")

CONNECT_S = 2.0
"""How long a silent agent keeps a caller waiting before the connection is given up."""
POLL_S = 0.25


class SimAgents:
    """The agents inside the nodes' engine processes."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._world = step.world

    async def state(self, node: Node) -> AgentState:
        """Read a node's state."""
        return self._told(*await self._reached(node.id))

    def at_hand(self, node: Node) -> AgentState | None:
        """Return a node's state where messages take no time, None where it has to be asked."""
        found = self._world.nodes.get(node.id)
        is_near = self._step.is_instant and not self._step.is_dead and self._step.kill_in is None
        if not is_near or found is None or not found.is_up or found.process is None:
            return None
        if found.agent_back_s > self._world.now_s:
            return None
        return self._told(found, found.process)

    def _told(self, found: SimNode, process: Process) -> AgentState:
        self._world.flow()
        engine = self._world.engine(found)
        found.agent_seen_s = self._world.now_s
        self._step.witness.read(found.id)
        return process.state(engine, now_s=self._world.now_s, can_switch_role=found.can_switch_role)

    async def claim(self, node: Node, *, fence: Fence) -> None:
        """Have a node obey this fence from now on."""
        await self._admitted(node, fence)
        await self._answer(node)

    async def init(self, node: Node, role: Role, *, fence: Fence, key: str) -> None:
        """Initialise and wait for the end of it."""
        del key  # One that is initialising or ready in this role is joined.
        with self._step.acting(f"node {node.id}"):
            process = await self._admitted(node, fence)
            agent.init(self._world, process, role)
            while process.phase is AgentPhase.INITIALISING and process.is_alive:
                await self._step.take(POLL_S)
            if not process.is_alive:
                raise OutcomeUnknownError(f"{node.id}: connection reset")
            if process.phase is not AgentPhase.READY:
                raise TransientError(f"{node.id}: library_failed")
            await self._answer(node)

    async def links(
        self, node: Node, peers: Sequence[Peer], *, fence: Fence, key: str
    ) -> AsyncIterator[ClusterResult]:
        """Link every endpoint of these peers, yielding each as it ends."""
        things = [f"link {node.id} {peer.node_id}" for peer in peers]
        async for result in self._calls(
            node, Verb.LINK, peers, things=things, fence=fence, key=key
        ):
            yield result

    async def unlinks(
        self, node: Node, peers: Sequence[Peer], *, force: bool, fence: Fence, key: str
    ) -> AsyncIterator[ClusterResult]:
        """Unlink every endpoint of these peers, yielding each as it ends."""
        verb = Verb.FORCE_UNLINK if force else Verb.UNLINK
        # A forced unlink is the cure of doubt, so it is no action on the pair.
        things = [] if force else [f"link {node.id} {peer.node_id}" for peer in peers]
        async for result in self._calls(node, verb, peers, things=things, fence=fence, key=key):
            yield result

    async def switch_role(self, node: Node, role: Role, *, fence: Fence, key: str) -> None:
        """Have an unlinked node take a role; one that has it is a success."""
        del key
        with self._step.acting(f"node {node.id}"):
            process = await self._admitted(node, fence)
            agent.switch_role(self._world, process, role)
            while process.switching_to is not None and process.is_alive:
                await self._step.take(POLL_S)
            is_lost = self._world.faults.strikes(CallFault.SWITCH_ANSWER_LOST)
            if not process.is_alive or is_lost:
                raise OutcomeUnknownError(f"{node.id}: connection reset")
            await self._answer(node)

    async def finalize(self, node: Node, *, fence: Fence, key: str) -> None:
        """Finalise the node's library object; one that is finalised is a success."""
        del key
        with self._step.acting(f"node {node.id}"):
            process = await self._admitted(node, fence)
            if process.phase is AgentPhase.READY:
                agent.finalize(self._world, process)
            await self._answer(node)

    async def _calls(
        self,
        node: Node,
        verb: Verb,
        peers: Sequence[Peer],
        *,
        things: Sequence[str],
        fence: Fence,
        key: str,
    ) -> AsyncIterator[ClusterResult]:
        witness = self._step.witness
        for thing in things:
            witness.acting(thing)
        doubted = {
            e.cluster_id: t for p, t in zip(peers, things, strict=False) for e in p.endpoints
        }
        try:
            process = await self._admitted(node, fence)
            if process.phase is not AgentPhase.READY:
                raise TransientError(f"{node.id}: not_ready")
            witness.asked([e.cluster_id for p in peers for e in p.endpoints])
            made = agent.calls(self._world, process, verb, peers, key=key)
            if self._world.faults.strikes(CallFault.AGENT_ANSWER_LOST):
                await self._step.take(agent.CALL_DEADLINE_S)
                raise OutcomeUnknownError(f"{node.id}: no answer")
            began_s = self._world.now_s
            for call in sorted(made, key=lambda c: c.ends_s):
                until_s = min(call.ends_s, began_s + agent.CALL_DEADLINE_S)
                await self._step.take(max(until_s - self._world.now_s, 0.0) + SLACK_S)
                if not process.is_alive:
                    raise OutcomeUnknownError(f"{node.id}: connection reset")
                if call.is_ended and not call.is_unknown:
                    doubted.pop(call.cluster_id, None)
                    yield ClusterResult(call.cluster_id, call.code, call.verdict)
                else:
                    yield ClusterResult(call.cluster_id, agent.DEADLINE, Verdict.FORCE, True)
        except (TransientError, PermanentError):
            if not self._step.is_dead:
                doubted.clear()
            raise
        finally:
            for thing in dict.fromkeys(doubted.values()):
                witness.doubted(thing)

    async def _reached(self, node_id: str) -> tuple[SimNode, Process]:
        """Connect to a node's agent, or raise TransientError: nothing was done."""
        await self._step.take(self._step.latency_s)
        node = self._world.nodes.get(node_id)
        if node is None or not node.is_up or node.process is None:
            raise TransientError(f"{node_id}: connection refused")
        if node.agent_back_s > self._world.now_s:
            await self._step.take(CONNECT_S)
            raise TransientError(f"{node_id}: cannot connect within {CONNECT_S:g} s")
        return node, node.process

    async def _admitted(self, node: Node, fence: Fence) -> Process:
        _, process = await self._reached(node.id)
        if self._world.faults.strikes(CallFault.AGENT_FAILS):
            raise TransientError(f"{node.id}: HTTP 503")
        agent.admit(process, fence, node.incarnation)
        return process

    async def _answer(self, node: Node) -> None:
        await self._step.take(self._step.latency_s)
        if self._world.faults.strikes(CallFault.AGENT_ANSWER_LOST):
            raise OutcomeUnknownError(f"{node.id}: no answer")
