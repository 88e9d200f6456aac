"""Shadow policies: they decide on the same snapshots, and nothing is ever done about it.

What is here knows a policy's runner and the guard; it is handed no port and no actuator.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import anyio

from pd_autoscaler.core import gates, guard
from pd_autoscaler.core.rules import GuardRules
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.report import Shadow
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.runtime.policy_runner import PolicyRunner

log = logging.getLogger(__name__)


class Follower:
    """One policy beside the one that acts, with a guard's memory and a target of its own.

    Its target begins as the real standing one (or as `target`) and then moves by its own guarded
    decisions; with `is_anchored` each cycle begins as the real one anew.
    """

    def __init__(
        self,
        name: str,
        policy: PolicyRunner,
        rules: GuardRules,
        *,
        target: Target | None = None,
        is_anchored: bool = False,
    ) -> None:
        self.name = name
        self._policy = policy
        self._rules = rules
        self._target = None if is_anchored else target
        self._is_anchored = is_anchored
        self._memory: gates.GuardMemory | None = None

    async def follow(self, snapshot: Snapshot, *, held: Hold | None = None) -> Shadow:
        """Return what it decides where it stands; `held` is why nobody may decide anything."""
        own = self._own(snapshot)
        decision = held or await self._policy.decide(own)
        return self._concluded(decision, own)

    def missed(self, snapshot: Snapshot, why: str) -> Shadow:
        """Return what a cycle is to a policy of which there is no answer."""
        return self._concluded(Hold(HoldReason.POLICY_FAILED, why), self._own(snapshot))

    def _own(self, snapshot: Snapshot) -> Snapshot:
        """Put in the target it has, and mappings that it cannot spoil for anybody else."""
        return replace(
            snapshot,
            target=self._target or snapshot.target,
            node_signals=dict(snapshot.node_signals),
            lead_times=dict(snapshot.lead_times),
            links=dict(snapshot.links),
        )

    def _concluded(self, decision: Decision, own: Snapshot) -> Shadow:
        memory = self._memory or gates.GuardMemory(began_s=own.now_s)
        answer = guard.guarded(decision, own, self._rules, memory)
        self._memory = answer.memory
        target = own.target if isinstance(answer.decision, Hold) else answer.decision
        self._target = None if self._is_anchored else target
        return Shadow(self.name, decision, answer.decision, target, answer.gates)


class Shadows:
    """All shadow policies of a loop; whatever one of them does, the cycle goes on."""

    def __init__(self, followers: Sequence[Follower] = ()) -> None:
        self._followers = tuple(followers)

    async def follow(
        self, snapshot: Snapshot, *, held: Hold | None, enough: Callable[[], Awaitable[None]]
    ) -> tuple[Shadow, ...]:
        """Ask each at the same time; who has not answered when `enough` returns has missed it."""
        found: dict[str, Shadow] = {}

        async def ask(follower: Follower) -> None:
            try:
                found[follower.name] = await follower.follow(snapshot, held=held)
            except Exception as error:
                log.exception("shadow policy %s could not be followed", follower.name)
                found[follower.name] = _lost(follower.name, snapshot, error)

        async def end(scope: anyio.CancelScope) -> None:
            await enough()
            scope.cancel()

        if self._followers:
            async with anyio.create_task_group() as group:
                group.start_soon(end, group.cancel_scope)
                async with anyio.create_task_group() as asking:
                    for follower in self._followers:
                        asking.start_soon(ask, follower)
                group.cancel_scope.cancel()
        late = "it had not answered when the cycle ended"
        return tuple(found.get(f.name) or f.missed(snapshot, late) for f in self._followers)


def _lost(name: str, snapshot: Snapshot, error: Exception) -> Shadow:
    hold = Hold(HoldReason.POLICY_FAILED, f"{type(error).__name__}: {error}")
    return Shadow(name, hold, hold, snapshot.target)
