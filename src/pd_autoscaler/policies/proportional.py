"""proportional: as many decoders as the tokens of all need, and prompt nodes in proportion.

HeteroScale's shape (arXiv 2508.19559): throughput is linear in the load where utilisation and
latency are not, so decoders = tokens a second / target per node, acted on only outside 1 +- theta;
prompt nodes follow at a set P:D ratio; latency alone adds fixed steps; cooldowns follow a change.
The paper's thresholds are not public: steps are its 10 and 20 %, cooldowns those of a
re-implementation (Onlytonight/splitwise-DRL).

Where target and ratio are not given they follow from learnt capacities. Of its soft scale-in, which
takes nodes out of service and puts them back if latency suffers, the memory is kept: a count that
was seen to be too small for the tokens of its role is not gone back to.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from pd_autoscaler.core.target_limits import within
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Signal
from pd_autoscaler.model.snapshot import Bottleneck, Limits, Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec
from pd_autoscaler.policies.fixed_ratio import split
from pd_autoscaler.policies.node_rates import full_batch, lengths, request_rates
from pd_autoscaler.policies.premises import Settling, blindness
from pd_autoscaler.policies.shortfall import Shortfall

NODES_MAX = 1e6
"""Counts beyond are cut to it; limits of a fleet come far below."""


class ProportionalParams(Params):
    """The target and the ratio, when to act, and what latency adds."""

    tokens_per_s: float | None = Field(default=None, gt=0)
    """Tokens a second that a decoder should generate; null is `utilisation` of what is learnt."""
    ratio: float | None = Field(default=None, gt=0, le=100)
    """Prompt nodes per decoder; null is that of the learnt capacities at today's lengths."""
    utilisation: float = Field(default=0.7, gt=0, le=1)
    """Part of a decoder's learnt tokens a second at `tpot_s` that is aimed at."""
    theta_out: float = Field(default=0.1, ge=0, le=1)
    """Part by which more decoders must be called for before any is added."""
    theta_in: float = Field(default=0.1, ge=0, lt=1)
    """Part by which fewer decoders must be called for before any goes."""
    ttft_s: float = Field(default=1.0, gt=0)
    """Time to first token, 95th percentile, above which a step is added."""
    tpot_s: float = Field(default=0.050, gt=0, le=10)
    """Time per output token, 95th percentile, above which a step is added."""
    severe: float = Field(default=1.2, gt=1)
    """Multiple of a latency bound from which the larger step is added."""
    step: float = Field(default=0.1, gt=0, le=1)
    """Part of the nodes that a latency above its bound adds."""
    step_severe: float = Field(default=0.2, gt=0, le=1)
    """Part of the nodes that a severe latency adds."""
    headroom: float = Field(default=0.85, gt=0, le=1)
    """Part of the tokens per node that once were too many, to which fewer nodes may be loaded."""
    cooldown_out_s: float = Field(default=180.0, ge=0)
    """Seconds after a change of the target before nodes are added."""
    cooldown_in_s: float = Field(default=600.0, ge=0)
    """Seconds after a change of the target before nodes go."""
    settle_s: float = Field(default=30.0, ge=0)
    """Seconds after a node came before its role's latency is read."""

    @model_validator(mode="after")
    def _severe_is_more(self) -> Self:
        if self.step_severe < self.step:
            raise ValueError(
                f"step_severe ({self.step_severe:g}) must not be below step ({self.step:g})"
            )
        if self.cooldown_in_s < self.cooldown_out_s:
            raise ValueError(
                f"cooldown_in_s ({self.cooldown_in_s:g}) must not be below cooldown_out_s "
                f"({self.cooldown_out_s:g}); else nodes go sooner than they come back"
            )
        return self


@dataclass(frozen=True, slots=True)
class _Breach:
    """A latency above its bound: whose, in words, and the step it calls for."""

    role: Role
    told: str
    step: float


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is aimed at: tokens a second of a decoder, and prompt nodes per decoder."""

    tokens_per_s: float
    ratio: float


class Proportional:
    """Moves both roles together by the tokens a second that decoders generate."""

    def __init__(self, params: ProportionalParams) -> None:
        self._params = params
        self._settling = Settling(params.settle_s)
        self._shortfall = Shortfall(params.headroom)
        self._plan: _Plan | None = None
        self._stood: Target | None = None
        self._moved_at_s = -math.inf

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the counts that the tokens and the ratio call for, or a refusal."""
        self._settling.saw(snapshot)
        if self._stood not in (None, snapshot.target):
            self._moved_at_s = snapshot.now_s
        self._stood = snapshot.target
        for role in Role:
            if blind := blindness(snapshot, role):
                return blind
        plan = self._planned(snapshot)
        rate = _whole(snapshot.decoder.token_rate, snapshot)
        if isinstance(plan, Hold):
            return plan
        if rate is None:
            return Hold(HoldReason.NO_METRICS, "no decoder says how many tokens it generates")
        breaches = list(self._breaches(snapshot))
        for role in Role:
            is_short = any(breach.role is role for breach in breaches)
            self._shortfall.saw(snapshot, role, is_short=is_short)
        seen = snapshot.attribution
        if breaches and seen.bottleneck is Bottleneck.LINK:
            told = f"{breaches[0].told}, but links are the bottleneck: {seen.evidence}"
            return Hold(HoldReason.BOTTLENECK_ELSEWHERE, told)
        return self._decided(snapshot, plan, rate, breaches)

    def _decided(
        self, snapshot: Snapshot, plan: _Plan, rate: float, breaches: list[_Breach]
    ) -> Decision:
        params, standing = self._params, max(1, snapshot.target.decoder)
        needed = rate / plan.tokens_per_s
        told = (
            f"{rate:.0f} tokens/s at {plan.tokens_per_s:.0f} a decoder are {needed:.3g} of "
            f"{standing} decoders"
        )
        decoders = standing
        if needed > standing * (1 + params.theta_out) or needed < standing * (1 - params.theta_in):
            decoders = max(1, _whole_nodes(needed))
        if breaches:
            worst = max(breaches, key=lambda breach: breach.step)
            decoders = max(decoders, _whole_nodes(standing * (1 + worst.step)))
            told += f", {worst.told}: {worst.step:+.0%}"
        wanted = _at_ratio(decoders, plan.ratio, snapshot.limits)
        shown = f"{told}; {wanted} at {plan.ratio:.3g} prompt nodes a decoder"
        return self._allowed(snapshot, wanted, breaches, shown)

    def _allowed(
        self, snapshot: Snapshot, wanted: Target, breaches: list[_Breach], shown: str
    ) -> Decision:
        """Return the wanted counts as far as cooldowns, latency and what was learnt allow them."""
        standing = snapshot.target
        counts: dict[Role, int] = {}
        told = [shown]
        for role in Role:
            before, after = standing.of(role), wanted.of(role)
            obstacle = ""
            if after > before:
                obstacle = self._stays_small(snapshot, role, is_step=bool(breaches))
            elif after < before:
                obstacle = self._stays_large(snapshot, role, after, breaches)
            counts[role] = before if obstacle else after
            if obstacle:
                told.append(f"{role} stays at {before}: {obstacle}")
        asked = Target(counts[Role.PROMPT], counts[Role.DECODER], "; ".join(told))
        return within(asked, snapshot.limits, standing=standing)

    def _stays_small(self, snapshot: Snapshot, role: Role, *, is_step: bool) -> str:
        """Say why a role must not grow now, empty if it may.

        Tokens tell how many are needed in all, so that nodes which are coming are not asked for
        twice; a step is added to whatever there is, so it waits for them.
        """
        if cooling := self._cooling(snapshot, self._params.cooldown_out_s):
            return cooling
        return self._settling.obstacle_up(snapshot, role) if is_step else ""

    def _stays_large(
        self, snapshot: Snapshot, role: Role, after: int, breaches: list[_Breach]
    ) -> str:
        """Say why a role must not shrink now, empty if it may."""
        if cooling := self._cooling(snapshot, self._params.cooldown_in_s):
            return cooling
        if breaches:
            return breaches[0].told
        obstacle = self._settling.obstacle_down(snapshot, role)
        return obstacle or self._shortfall.obstacle(snapshot, role, nodes=max(1, after))

    def _cooling(self, snapshot: Snapshot, cooldown_s: float) -> str:
        since_s = snapshot.now_s - self._moved_at_s
        if since_s >= cooldown_s:
            return ""
        return f"the target moved {since_s:.0f} s ago, of {cooldown_s:g} s to wait"

    def _breaches(self, snapshot: Snapshot) -> Iterator[_Breach]:
        params = self._params
        for role, name, latency, bound_s in (
            (Role.PROMPT, "TTFT p95", snapshot.prompt.ttft_p95_s, params.ttft_s),
            (Role.DECODER, "TPOT p95", snapshot.decoder.tpot_p95_s, params.tpot_s),
        ):
            if latency is None or not latency.value > bound_s:
                continue
            is_severe = latency.value > params.severe * bound_s
            step = params.step_severe if is_severe else params.step
            yield _Breach(role, f"{name} {latency.value:.3g} s above {bound_s:.3g} s", step)

    def _planned(self, snapshot: Snapshot) -> _Plan | Hold:
        """Return what is aimed at: what was, until what is learnt differs by more than theta."""
        found = self._learnt(snapshot)
        if found is not None and (
            self._plan is None
            or _differs(found.tokens_per_s, self._plan.tokens_per_s, self._params.theta_out)
            or _differs(found.ratio, self._plan.ratio, self._params.theta_out)
        ):
            self._plan = found
        if self._plan is None:
            return Hold(
                HoldReason.NO_METRICS,
                "what a node can do is not learnt, nor how long requests are; give tokens_per_s "
                "and ratio, or the capacity settings",
            )
        return self._plan

    def _learnt(self, snapshot: Snapshot) -> _Plan | None:
        params = self._params
        if params.tokens_per_s is not None and params.ratio is not None:
            return _Plan(params.tokens_per_s, params.ratio)
        told = lengths(snapshot.demand)
        batch = full_batch(snapshot, told, tpot_s=params.tpot_s)
        tokens_per_s, ratio = params.tokens_per_s, params.ratio
        if tokens_per_s is None and batch is not None:
            tokens_per_s = params.utilisation * batch.tokens_per_s
        if ratio is None:
            rates = request_rates(snapshot, told, tpot_s=params.tpot_s)
            ratio = None if rates is None else rates.decoder / rates.prompt
        return None if tokens_per_s is None or ratio is None else _Plan(tokens_per_s, ratio)


def _differs(value: float, other: float, part: float) -> bool:
    return abs(value - other) > part * other


def _whole(rate: Signal | None, snapshot: Snapshot) -> float | None:
    """Return the tokens a second of all serving decoders: who tells speaks for the others."""
    told = snapshot.decoder.fresh if rate is None else rate.nodes or snapshot.decoder.fresh
    if rate is None or not told or not math.isfinite(rate.value):
        return None
    return max(0.0, rate.value) / told * snapshot.decoder.serving


def _whole_nodes(nodes: float) -> int:
    # The noise of a division is no part of a node.
    return math.ceil(min(nodes, NODES_MAX) - 1e-9)


def _at_ratio(decoders: int, ratio: float, limits: Limits) -> Target:
    """Return the decoders with their prompt nodes, or the budget at the ratio if that is less."""
    prompts = max(1, _whole_nodes(decoders * ratio))
    if prompts + decoders > limits.nodes_max:
        return split(limits.nodes_max, ratio, limits)
    return Target(prompts, decoders)


SPEC = PolicySpec(params=ProportionalParams, build=Proportional)
