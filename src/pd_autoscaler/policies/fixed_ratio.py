"""fixed-ratio: keeps prompt and decoder nodes at one ratio, and lets the fuller role size both.

A role's load is a share of what it can take: of prompt nodes the queue per node over `queue_full`,
of decoders the mean KV use over `kv_full`. At a fixed ratio the fuller role decides, so the larger
load is the utilisation.
"""

import math
from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Signal
from pd_autoscaler.model.snapshot import Bottleneck, Limits, Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec
from pd_autoscaler.policies.premises import Settling, blindness, fresh_signals, known, untold
from pd_autoscaler.policies.shortfall import Shortfall


class FixedRatioParams(Params):
    """The ratio, what counts as full, and the utilisations between which nothing moves."""

    ratio: float = Field(default=0.5, gt=0, le=100)
    """Prompt nodes per decoder node."""
    utilisation_up: float = Field(default=0.85, gt=0, le=2)
    """Utilisation above which nodes are added."""
    utilisation_down: float = Field(default=0.70, gt=0, le=2)
    """Utilisation that a fleet with a node less must not exceed."""
    kv_full: float = Field(default=0.80, gt=0, le=1)
    """KV use, 0 to 1, that is all a decoder should take."""
    queue_full: float = Field(default=5.0, gt=0)
    """Waiting requests that are all a prompt node should have."""
    step_max: int = Field(default=6, ge=1)
    """Most nodes added at once, both roles together: 6 are two steps of the default ratio."""
    headroom: float = Field(default=0.85, gt=0, le=1)
    """Part of the tokens per node that once were too many, to which fewer nodes may be loaded."""
    drain_s: float = Field(default=60.0, ge=0)
    """A prompt queue that will be gone within this many seconds calls for no more nodes."""
    settle_s: float = Field(default=30.0, ge=0)
    """Seconds after a change of a role before its signals are read for the next."""

    @model_validator(mode="after")
    def _down_is_lower(self) -> Self:
        if self.utilisation_down >= self.utilisation_up:
            raise ValueError(
                f"utilisation_down ({self.utilisation_down:g}) must be below utilisation_up "
                f"({self.utilisation_up:g}); else nodes that went would be added again"
            )
        return self


class FixedRatio:
    """Moves the standing target's total by utilisation and splits it by the ratio."""

    def __init__(self, params: FixedRatioParams) -> None:
        self._params = params
        self._settling = Settling(params.settle_s)
        self._shortfall = Shortfall(params.headroom)

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the counts that the ratio and the utilisation call for, or a refusal."""
        self._settling.saw(snapshot)
        loads: dict[Role, float] = {}
        for role in Role:
            load = blindness(snapshot, role) or self._load(snapshot, role)
            if isinstance(load, Hold):
                return load
            loads[role] = load
        high = self._params.utilisation_up
        for role, load in loads.items():
            self._shortfall.saw(snapshot, role, is_short=load > high)
        utilisation = max(loads.values())
        shown = ", ".join(f"{role} load {load:.0%}" for role, load in loads.items())
        if utilisation > high:
            return self._grown(snapshot, loads, shown)
        return self._shrunk(snapshot, loads, shown)

    def _load(self, snapshot: Snapshot, role: Role) -> float | Hold:
        full = self._params.queue_full if role is Role.PROMPT else self._params.kv_full
        values = known(_told(snapshot, role))
        if not values:
            return Hold(HoldReason.NO_METRICS, f"no {role} node says its {_LOAD[role]}")
        return sum(values) / len(values) / full

    def _grown(self, snapshot: Snapshot, loads: Mapping[Role, float], shown: str) -> Decision:
        params, target, limits = self._params, snapshot.target, snapshot.limits
        cause = snapshot.attribution
        short = {role: load for role, load in loads.items() if load > params.utilisation_up}
        if snapshot.is_fault_elsewhere(Role.PROMPT):
            # Prompts queue behind decoders, so their queue says nothing about prompt nodes.
            short.pop(Role.PROMPT, None)
        if cause.bottleneck is Bottleneck.LINK or not short:
            return Hold(
                HoldReason.BOTTLENECK_ELSEWHERE,
                f"{shown}, but the {cause.bottleneck} side is the bottleneck: {cause.evidence}",
            )
        for role in Role:
            if obstacle := self._settling.obstacle_up(snapshot, role):
                return Hold(HoldReason.POLICY_HELD, f"{shown}; waiting: {obstacle}")
        drains = self._shortfall.drains(snapshot, within_s=params.drain_s)
        if drains and Role.DECODER not in short:
            return Hold(HoldReason.POLICY_HELD, f"{shown}; waiting: {drains}")
        grown = self._sized(target, short, limits)
        if grown == target:
            return Hold(HoldReason.BUDGET, f"{shown}; no room for more than {target}")
        why = f"{shown}, above {params.utilisation_up:.0%}: {grown} at {params.ratio:g}"
        return Target(grown.prompt, grown.decoder, why)

    def _sized(self, target: Target, short: Mapping[Role, float], limits: Limits) -> Target:
        """Return the fewest nodes at the ratio that the short roles need, or come nearest to it.

        One more than the fewest would be a node of the other role, which nobody needs: it would be
        trimmed at once, and asked for again with the next growth.
        """
        params = self._params
        total_max = min(target.total + params.step_max, limits.nodes_max)
        wanted = {
            role: math.ceil(min(total_max, target.of(role) * load / params.utilisation_up))
            for role, load in short.items()
        }

        def lacking(counts: Target) -> int:
            return sum(max(0, count - counts.of(role)) for role, count in wanted.items())

        reached = [target]
        for total in range(2, total_max + 1):
            ratioed = split(total, params.ratio, limits)
            # A role that the ratio would shrink keeps its nodes while the fleet is short.
            grown = Target(max(target.prompt, ratioed.prompt), max(target.decoder, ratioed.decoder))
            if grown.total <= total_max:
                reached.append(grown)
        nearest = min(reached, key=lacking)
        if lacking(nearest) == lacking(target) and total_max < limits.nodes_max:
            # The ratio asks for more of the other role first: a step on the way.
            return reached[-1]
        return nearest

    def _shrunk(self, snapshot: Snapshot, loads: Mapping[Role, float], shown: str) -> Decision:
        params, target, limits = self._params, snapshot.target, snapshot.limits
        why_not = ""
        # One node less at the ratio, or else as many at the ratio.
        for total in (target.total - 1, target.total):
            wanted = _step(target, split(total, params.ratio, limits))
            if wanted.total > target.total or wanted == target:
                continue
            obstacle = self._obstacle(snapshot, loads, wanted)
            if not obstacle:
                return Target(wanted.prompt, wanted.decoder, f"{shown}: {wanted} is enough")
            why_not = why_not or obstacle
        return Target(target.prompt, target.decoder, f"{shown}: steady {why_not}".rstrip())

    def _obstacle(self, snapshot: Snapshot, loads: Mapping[Role, float], wanted: Target) -> str:
        """Say why the fleet must not take on these smaller counts now; empty if it may."""
        if snapshot.attribution.bottleneck is Bottleneck.LINK:
            return f"(links are the bottleneck: {snapshot.attribution.evidence})"
        for role in Role:
            before, after = snapshot.target.of(role), wanted.of(role)
            if obstacle := self._settling.obstacle_down(snapshot, role):
                return f"({obstacle})"
            if after >= before:
                continue
            if obstacle := untold(_told(snapshot, role), role, _LOAD[role]):
                return f"({obstacle})"
            load = loads[role] * before / after
            if load > self._params.utilisation_down:
                return f"({after} {role} would be at {load:.0%})"
            if obstacle := self._shortfall.obstacle(snapshot, role, nodes=after):
                return f"({obstacle})"
        return ""


_LOAD: Mapping[Role, str] = {Role.PROMPT: "queue", Role.DECODER: "KV use"}
"""What a role's load is read from."""


def _told(snapshot: Snapshot, role: Role) -> list[Signal | None]:
    """Return that of every fresh node, None where it is not told."""
    fresh = fresh_signals(snapshot, role)
    return [node.queue if role is Role.PROMPT else node.kv_used for node in fresh]


def _step(before: Target, wanted: Target) -> Target:
    """Go towards counts by at most one node a role: what a queue allows is known one by one."""
    prompt, decoder = (
        min(max(wanted.of(role), before.of(role) - 1), before.of(role) + 1) for role in Role
    )
    return Target(prompt, decoder)


def split(total: int, ratio: float, limits: Limits) -> Target:
    """Split a total into the counts nearest to the ratio, within the limits of each role.

    The total is kept if the limits allow it: what one role may not have goes to the other.
    """
    least_prompt, least_decoder = max(1, limits.prompt_min), max(1, limits.decoder_min)
    prompt = round(total * ratio / (1 + ratio))
    prompt = max(prompt, least_prompt, total - limits.decoder_max)
    prompt = min(prompt, limits.prompt_max, max(least_prompt, total - least_decoder))
    decoder = min(max(total - prompt, least_decoder), limits.decoder_max)
    return Target(prompt, decoder)


SPEC = PolicySpec(params=FixedRatioParams, build=FixedRatio)
