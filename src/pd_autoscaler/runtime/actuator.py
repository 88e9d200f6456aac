"""The actuator: begins a plan's actions, each under a deadline, and collects how they end.

An action may outlast the cycle that began it. What it acts on stays busy until its outcome has
been taken in, so no second action touches it, and nothing else waits for it.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import assert_never

import anyio
from anyio.abc import TaskGroup

from pd_autoscaler.core.call_waves import call_waves
from pd_autoscaler.core.fleet import Fleet, things
from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import Node
from pd_autoscaler.model.plan import (
    Action,
    DrainNode,
    FinalizeNode,
    InitNode,
    LinkNodes,
    Peer,
    Plan,
    PublishNode,
    StartNode,
    StopNode,
    SwitchRole,
    UnlinkNodes,
    WithdrawNode,
)
from pd_autoscaler.model.report import Done, Failed, Outcome, Unknown
from pd_autoscaler.ports import ClusterResult, Fence, Journal, NodeAgent, NodeProvider, Router

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds each kind of action may take before its outcome counts as unknown.

    `link_s` is that of one wave of link calls.
    """

    provider_s: float = 30.0
    router_s: float = 5.0
    init_s: float = 120.0
    link_s: float = 12.0
    finalize_s: float = 30.0


class Actuator:
    """Does what plans say, through the ports, in tasks of the group it was given.

    `poke` is called at each end, so that the loop need not wait for its next period.
    """

    def __init__(
        self,
        group: TaskGroup,
        *,
        provider: NodeProvider,
        router: Router,
        agents: NodeAgent,
        journal: Journal,
        deadlines: Deadlines,
        fence: Callable[[], Fence],
        poke: Callable[[], None],
    ) -> None:
        self._group = group
        self._provider = provider
        self._router = router
        self._agents = agents
        self._journal = journal
        self._deadlines = deadlines
        self._fence = fence
        self._poke = poke
        self._ended: list[Outcome] = []
        self._busy: set[str] = set()
        self._unwritten: list[tuple[int, Outcome]] = []

    @property
    def busy(self) -> frozenset[str]:
        """Things with an action under way or an outcome not yet taken."""
        return frozenset(self._busy)

    def ended(self) -> tuple[Outcome, ...]:
        """Take the outcomes of what ended since the last call."""
        outcomes, self._ended = tuple(self._ended), []
        for outcome in outcomes:
            self._busy.difference_update(things(outcome.action))
        return outcomes

    async def begin(
        self, plan: Plan, fleet: Fleet, *, may_begin: Callable[[], bool] = lambda: True
    ) -> tuple[Action, ...]:
        """Write a plan's intents ahead, begin its actions in wave order, and return them.

        `may_begin` is asked last: while the intents were written, an operator may have stopped
        everything. Raises TransientError, with nothing begun, if they cannot be written.
        """
        actions = plan.actions
        if not actions:
            return ()
        await self._write_rest()
        clusters = {
            a.decoder_id: fleet.nodes[a.decoder_id].cluster_ids
            for a in actions
            if isinstance(a, LinkNodes)
        }
        intents = await self._journal.intend(actions, decoder_clusters=clusters)
        if not may_begin():
            for action, intent in zip(actions, intents, strict=True):
                await self._write_end(intent, Failed(action, "stopped before it was begun"))
            return ()
        for action, intent in zip(actions, intents, strict=True):
            self._busy.update(things(action))
            self._group.start_soon(self._do, action, intent, fleet.nodes)
        return actions

    async def _do(self, action: Action, intent: int, nodes: Mapping[str, Node]) -> None:
        """Do one action to its end, whatever that is, and tell journal and loop."""
        began_s = anyio.current_time()
        reported: set[str] = set()
        outcome = await self._outcome(action, intent, nodes, reported)
        outcome = replace(outcome, took_s=anyio.current_time() - began_s)
        self._end(outcome, reported)
        await self._write_end(intent, outcome)

    async def _write_end(self, intent: int, outcome: Outcome) -> None:
        action = outcome.action
        try:
            await self._journal.ended(intent, outcome)
        except (TransientError, OutcomeUnknownError) as error:
            log.error("the end of %s could not be written: %s", type(action).__name__, error)
            self._unwritten.append((intent, outcome))
        except Exception:
            # The loop outlives it: a restart finds the intent open and its outcome unknown.
            log.exception("the end of %s could not be written", type(action).__name__)

    async def _write_rest(self) -> None:
        """Write the ends that the journal did not take; a restart would take them for open."""
        while self._unwritten:
            intent, outcome = self._unwritten.pop(0)
            try:
                await self._journal.ended(intent, outcome)
            except (TransientError, OutcomeUnknownError):
                self._unwritten.insert(0, (intent, outcome))
                raise

    def _end(self, outcome: Outcome, reported: set[str]) -> None:
        """Hand an outcome to the loop, without the pairs that ended earlier on their own."""
        action = outcome.action
        if isinstance(action, LinkNodes):
            action = replace(
                action, prompts=tuple(p for p in action.prompts if p.node_id not in reported)
            )
        elif isinstance(action, UnlinkNodes):
            action = replace(
                action, peers=tuple(p for p in action.peers if p.node_id not in reported)
            )
        if things(action):
            self._ended.append(replace(outcome, action=action))
        self._poke()

    async def _outcome(
        self, action: Action, intent: int, nodes: Mapping[str, Node], reported: set[str]
    ) -> Outcome:
        try:
            with anyio.fail_after(self._deadline_s(action)):
                return await self._perform(action, intent, nodes, reported)
        except TimeoutError:
            return Unknown(action, f"no answer within {self._deadline_s(action):g} s")
        except TransientError as error:
            return Failed(action, str(error))
        except PermanentError as error:
            return Failed(action, str(error), retryable=False)
        except OutcomeUnknownError as error:
            return Unknown(action, str(error))
        except Exception as error:
            # A fault of our own must neither end the daemon nor pass for success.
            log.exception("%s failed unexpectedly", action)
            return Unknown(action, f"{type(error).__name__}: {error}")

    def _deadline_s(self, action: Action) -> float:
        match action:
            case InitNode() | SwitchRole():
                return self._deadlines.init_s
            case LinkNodes(prompts=peers) | UnlinkNodes(peers=peers):
                return self._deadlines.link_s * call_waves(peers)
            case FinalizeNode():
                return self._deadlines.finalize_s
            case StartNode() | StopNode():
                return self._deadlines.provider_s
            case PublishNode() | WithdrawNode() | DrainNode():
                return self._deadlines.router_s
            case _:
                assert_never(action)

    async def _perform(
        self, action: Action, intent: int, nodes: Mapping[str, Node], reported: set[str]
    ) -> Outcome:
        fence = self._fence()
        key = f"{fence.holder}:{fence.epoch}:{intent}"
        match action:
            case LinkNodes(decoder_id=node_id, prompts=peers):
                results = self._agents.links(nodes[node_id], peers, fence=fence, key=key)
                return await self._collect(action, peers, results, reported)
            case UnlinkNodes(node_id=node_id, peers=peers, force=force):
                results = self._agents.unlinks(
                    nodes[node_id], peers, force=force, fence=fence, key=key
                )
                return await self._collect(action, peers, results, reported)
            case _:
                await self._call(action, nodes, fence, key)
                return Done(action)

    def _call(
        self, action: Action, nodes: Mapping[str, Node], fence: Fence, key: str
    ) -> Awaitable[None]:
        match action:
            case StartNode(role=role, request_id=request_id):
                return self._provider.grow(role, request_id)
            case StopNode(node_id=node_id):
                return self._provider.remove(node_id)
            case InitNode(node_id=node_id, role=role):
                return self._agents.init(nodes[node_id], role, fence=fence, key=key)
            case SwitchRole(node_id=node_id, role=role):
                return self._agents.switch_role(nodes[node_id], role, fence=fence, key=key)
            case FinalizeNode(node_id=node_id):
                return self._agents.finalize(nodes[node_id], fence=fence, key=key)
            case PublishNode(node_id=node_id):
                return self._router.publish(nodes[node_id])
            case WithdrawNode(node_id=node_id) | DrainNode(node_id=node_id):
                return self._router.withdraw(node_id)
            case LinkNodes() | UnlinkNodes():
                raise AssertionError("calls with many outcomes are made by _perform")
            case _:
                assert_never(action)

    async def _collect(
        self,
        action: LinkNodes | UnlinkNodes,
        peers: tuple[Peer, ...],
        results: AsyncIterator[ClusterResult],
        reported: set[str],
    ) -> Outcome:
        """Report each pair as it ends; return the worst of them for the journal."""
        began_s = anyio.current_time()
        owners = {(rank, e.cluster_id): peer for peer in peers for rank, e in peer.calls}
        waiting = {p.node_id: {(rank, e.cluster_id) for rank, e in p.calls} for p in peers}
        worst: dict[str, ClusterResult] = {}
        last: Outcome = Done(action)
        async for result in results:
            call = (result.rank, result.cluster_id)
            peer = owners.get(call)
            if peer is None or peer.node_id in reported:
                continue
            before = worst.get(peer.node_id)
            is_bad = result.is_unknown or result.verdict is not Verdict.SUCCESS
            if is_bad and not (before and before.is_unknown):
                # Of several ranks' ends an unknown one counts the most: it may take effect yet.
                worst[peer.node_id] = result
            waiting[peer.node_id].discard(call)
            if waiting[peer.node_id]:
                continue
            part = _of_peer(action, peer)
            ending = _ending(part, worst.get(peer.node_id), result)
            ending = replace(ending, took_s=anyio.current_time() - began_s)
            if not isinstance(ending, Done):
                last = replace(ending, action=action)
            self._end(ending, set())
            reported.add(peer.node_id)
        if len(reported) < len(peers):
            raise OutcomeUnknownError("the answer ended before every pair was told")
        return last


def _of_peer(action: LinkNodes | UnlinkNodes, peer: Peer) -> LinkNodes | UnlinkNodes:
    if isinstance(action, LinkNodes):
        return replace(action, prompts=(peer,))
    return replace(action, peers=(peer,))


def _ending(part: Action, bad: ClusterResult | None, result: ClusterResult) -> Outcome:
    if bad is None:
        return Done(part, code=result.code)
    if bad.is_unknown:
        return Unknown(part, bad.code or "no answer")
    return Failed(part, bad.code, verdict=bad.verdict, code=bad.code)
