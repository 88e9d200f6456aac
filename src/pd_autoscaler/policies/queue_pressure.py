"""queue-pressure: one node more where nodes are full, one less where the rest can carry the load.

The saturation rule of llm-d's workload-variant autoscaler (llm-d/llm-d-workload-variant-autoscaler
docs/saturation-scaling-config.md), once per role: a node is full at `kv_saturated` or
`queue_saturated`; over those that are not, the spare is threshold minus value, averaged. Too little
spare adds a node; a node goes only if the load spread over the others leaves spares.
On a prompt node KV use is no load (it is held until a decoder pulled it): its queue alone counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from pd_autoscaler.model.capacity import NodeCapacity
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Signal
from pd_autoscaler.model.snapshot import Bottleneck, Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec
from pd_autoscaler.policies.premises import Settling, blindness, fresh_signals, known, untold
from pd_autoscaler.policies.shortfall import Shortfall


class QueuePressureParams(Params):
    """Thresholds per node; those for going down are stricter, so that a constant load settles."""

    kv_saturated: float = Field(default=0.80, gt=0, le=1)
    """KV use, 0 to 1, at which a decoder is full."""
    queue_saturated: float = Field(default=5.0, gt=0)
    """Waiting requests at which a node is full."""
    kv_spare: float = Field(default=0.10, ge=0, lt=1)
    """Spare KV use below which a decoder is added."""
    queue_spare: float = Field(default=3.0, ge=0)
    """Spare queue below which a node is added."""
    kv_spare_down: float = Field(default=0.15, ge=0, lt=1)
    """Spare KV use that must be left after a decoder goes."""
    queue_spare_down: float = Field(default=4.0, ge=0)
    """Spare queue that must be left after a node goes."""
    ttft_max_s: float = Field(default=1.0, gt=0)
    """Time to first token, 95th percentile, above which a prompt side with a queue is short."""
    tpot_max_s: float = Field(default=0.050, gt=0)
    """Time per output token, 95th percentile, above which the decoder side is short."""
    latency_share_down: float = Field(default=0.8, gt=0, le=1)
    """Part of the TTFT bound above which no prompt node goes."""
    headroom: float = Field(default=0.85, gt=0, le=1)
    """Part of the tokens per node that are too many, to which fewer nodes may be loaded."""
    drain_s: float = Field(default=60.0, ge=0)
    """A prompt queue that will be gone within this many seconds calls for no more nodes."""
    settle_s: float = Field(default=30.0, ge=0)
    """Seconds after a change of a role before its signals are read for the next."""

    @model_validator(mode="after")
    def _down_is_stricter(self) -> Self:
        for name, up, down, full in (
            ("kv", self.kv_spare, self.kv_spare_down, self.kv_saturated),
            ("queue", self.queue_spare, self.queue_spare_down, self.queue_saturated),
        ):
            if not up < down < full:
                raise ValueError(
                    f"{name}_spare ({up:g}) < {name}_spare_down ({down:g}) < {name}_saturated "
                    f"({full:g}) must hold; else a node that went would be added again"
                )
        return self


@dataclass(frozen=True, slots=True)
class _Side:
    """One role in one cycle: why it is short, or why a node of it must stay; empty is neither."""

    role: Role
    short: str
    needed: str
    shown: str


@dataclass(frozen=True, slots=True)
class _Loads:
    """One load of every fresh node of a role, against the value at which a node is full."""

    name: str
    values: tuple[float, ...]
    untold: str
    full: float
    spare_up: float
    spare_down: float

    @property
    def short(self) -> str:
        """Say why this load calls for a node, empty if it does not."""
        spares = [self.full - value for value in self.values if value < self.full]
        if not spares:
            return f"every node's {self.name} is at or above {self.full:g}"
        spare = sum(spares) / len(spares)
        return f"spare {self.name} {spare:.2g} below {self.spare_up:g}" * (spare < self.spare_up)

    def needed(self, nodes: int) -> str:
        """Say why this load may not fit on that many nodes, empty if it does."""
        if self.untold:
            return self.untold
        left = self.full - sum(self.values) / nodes
        return (
            f"{nodes} would leave spare {self.name} {left:.2g} of the {self.spare_down:g} wanted"
            if left < self.spare_down
            else ""
        )

    def __str__(self) -> str:
        return f"{self.name} {sum(self.values) / len(self.values):.2g} a node"


class QueuePressure:
    """Moves the standing target by one node where the saturation rule says so."""

    def __init__(self, params: QueuePressureParams) -> None:
        self._params = params
        self._settling = Settling(params.settle_s)
        self._shortfall = Shortfall(params.headroom)

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the standing target, moved or not, or a refusal with its reason."""
        self._settling.saw(snapshot)
        sides: dict[Role, _Side] = {}
        for role in Role:
            blind = blindness(snapshot, role)
            side = blind or self._side(snapshot, role)
            if isinstance(side, Hold):
                return side
            sides[role] = side
        for side in sides.values():
            self._shortfall.saw(snapshot, side.role, is_short=bool(side.short))
        short = [side for side in sides.values() if side.short]
        if short:
            return self._grown(snapshot, short, sides)
        return self._shrunk(snapshot, sides)

    def _side(self, snapshot: Snapshot, role: Role) -> _Side | Hold:
        params = self._params
        fresh = fresh_signals(snapshot, role)
        queues, kv_used = [node.queue for node in fresh], [node.kv_used for node in fresh]
        queue = _Loads(
            "queue",
            known(queues),
            untold(queues, role, "queue"),
            params.queue_saturated,
            params.queue_spare,
            params.queue_spare_down,
        )
        kv = _Loads(
            "KV use",
            known(kv_used),
            untold(kv_used, role, "KV use"),
            params.kv_saturated,
            params.kv_spare,
            params.kv_spare_down,
        )
        loads = [queue] if role is Role.PROMPT else [kv, queue]
        missing = [load.name for load in loads if not load.values]
        if missing:
            return Hold(HoldReason.NO_METRICS, f"no {role} node says its {' and '.join(missing)}")
        name, latency, latency_max_s = self._latency(snapshot, role)
        has_queue = role is Role.DECODER or any(queue.values)
        slow = _slow(name, latency, latency_max_s) if has_queue else ""
        return _Side(
            role,
            short=next(filter(None, (load.short for load in loads)), "") or slow,
            needed=self._needed(snapshot, role, loads, nodes=len(fresh)),
            shown=", ".join(map(str, loads)) + _also(name, latency),
        )

    def _needed(
        self, snapshot: Snapshot, role: Role, loads: Sequence[_Loads], *, nodes: int
    ) -> str:
        """Say why one of so many nodes must stay, empty if the rest can carry the load."""
        rest = nodes - 1
        if rest < 1:
            return f"the only {role} node"
        return (
            next(filter(None, (load.needed(rest) for load in loads)), "")
            or self._slower(snapshot, role, nodes=nodes)
            or self._shortfall.obstacle(snapshot, role, nodes=rest)
        )

    def _slower(self, snapshot: Snapshot, role: Role, *, nodes: int) -> str:
        """Say why one node less would be too slow, empty if it is not known to be.

        Of decoders the TPOT p95 is not asked: read from buckets that end at 25 and 50 ms, all
        between them is 49 ms, for idle decoders as well. The learnt step time tells what comes.
        """
        params = self._params
        if role is Role.PROMPT:
            name, ttft, ttft_max_s = self._latency(snapshot, role)
            return _slow(name, ttft, ttft_max_s * params.latency_share_down)
        share = nodes / (nodes - 1) / params.headroom
        tpot_s = _expected_tpot_s(snapshot, nodes=nodes, share=share)
        if tpot_s is None or tpot_s <= params.tpot_max_s:
            return ""
        takes = f"take {tpot_s:.3g} s a token" if math.isfinite(tpot_s) else "not keep up"
        return f"{nodes - 1} decoder at {share:.2f} times the load would {takes}"

    def _latency(self, snapshot: Snapshot, role: Role) -> tuple[str, Signal | None, float]:
        if role is Role.PROMPT:
            return "TTFT p95", snapshot.prompt.ttft_p95_s, self._params.ttft_max_s
        return "TPOT p95", snapshot.decoder.tpot_p95_s, self._params.tpot_max_s

    def _grown(self, snapshot: Snapshot, short: list[_Side], sides: dict[Role, _Side]) -> Decision:
        blocked = {side.role: self._block(snapshot, side) for side in short}
        free = [side for side in short if blocked[side.role] is None]
        if not free:
            return next(hold for hold in blocked.values() if hold is not None)
        target, limits = snapshot.target, snapshot.limits
        room = limits.nodes_max - target.total
        # Room for one of two: decoders first, since prompts may only be queueing behind them.
        chosen = free if room >= len(free) else free[-1:]
        if room < 1:
            return self._rebalanced(snapshot, chosen[0], sides[chosen[0].role.other])
        why = "; ".join(f"+1 {side.role}: {side.short} ({side.shown})" for side in chosen)
        ups = {side.role for side in chosen}
        return Target(
            target.prompt + (Role.PROMPT in ups), target.decoder + (Role.DECODER in ups), why
        )

    def _rebalanced(self, snapshot: Snapshot, short: _Side, other: _Side) -> Decision:
        """Move one node from the other role, if those of it that stay can carry its load."""
        held = f"{short.role} is short ({short.short}) and all {snapshot.limits.nodes_max} nodes "
        if other.short:
            return Hold(HoldReason.BUDGET, f"{held}are used; so is {other.role} ({other.short})")
        if stays := self._stays(snapshot, other):
            return Hold(HoldReason.BUDGET, f"{held}are used; no {other.role} can go: {stays}")
        why = (
            f"+1 {short.role}, -1 {other.role}: {short.short} ({short.shown}); "
            f"{other.role} has room ({other.shown})"
        )
        return _moved(snapshot.target, short.role, by=1, other_by=-1, why=why)

    def _shrunk(self, snapshot: Snapshot, sides: dict[Role, _Side]) -> Decision:
        target = snapshot.target
        stays = {role: self._stays(snapshot, side) for role, side in sides.items()}
        free = [role for role in Role if not stays[role]]
        if not free:
            why = "; ".join(f"{role} steady: {stays[role]} ({sides[role].shown})" for role in Role)
            return Target(target.prompt, target.decoder, why)
        # One at a time, the larger role first: the other's check was made on the load as it is.
        role = max(free, key=target.of)
        why = f"-1 {role}: {target.of(role) - 1} can carry the load ({sides[role].shown})"
        return _moved(target, role, by=-1, other_by=0, why=why)

    def _block(self, snapshot: Snapshot, side: _Side) -> Hold | None:
        """Say why a role that is short must not grow now."""
        role, cause = side.role, snapshot.attribution
        if snapshot.is_fault_elsewhere(role):
            return Hold(
                HoldReason.BOTTLENECK_ELSEWHERE,
                f"{role} looks short ({side.short}), but the {cause.bottleneck} side is the "
                f"bottleneck: {cause.evidence}",
            )
        if snapshot.target.of(role) >= snapshot.limits.max_of(role):
            return Hold(
                HoldReason.BUDGET,
                f"{role} is short ({side.short}) at its limit of {snapshot.limits.max_of(role)}",
            )
        obstacle = self._settling.obstacle_up(snapshot, role)
        if role is Role.PROMPT and not obstacle:
            obstacle = self._shortfall.drains(snapshot, within_s=self._params.drain_s)
        if obstacle:
            return Hold(
                HoldReason.POLICY_HELD, f"{role} is short ({side.short}), waiting: {obstacle}"
            )
        return None

    def _stays(self, snapshot: Snapshot, side: _Side) -> str:
        """Say why no node of a role may go now; empty if one may."""
        role = side.role
        least = snapshot.limits.min_of(role)
        if snapshot.target.of(role) <= max(1, least):
            return f"{role} is at its least of {max(1, least)}"
        if snapshot.attribution.bottleneck is Bottleneck.LINK:
            return f"links are the bottleneck: {snapshot.attribution.evidence}"
        return self._settling.obstacle_down(snapshot, role) or side.needed


def _slow(name: str, latency: Signal | None, limit_s: float) -> str:
    if latency is None or latency.value <= limit_s:
        return ""
    return f"{name} {_bound(latency)}{latency.value:.3g} s above {limit_s:.3g} s"


def _also(name: str, latency: Signal | None) -> str:
    return f", {name} {_bound(latency)}{latency.value:.3g} s" if latency is not None else ""


def _bound(latency: Signal) -> str:
    return "at least " if latency.is_lower_bound else ""


def _expected_tpot_s(snapshot: Snapshot, *, nodes: int, share: float) -> float | None:
    """Return the step time of the slowest kind of decoder at a share of today's load, if known."""
    batch = _each(snapshot.demand.decode_running, nodes)
    tokens = _each(snapshot.demand.decode_tokens, nodes)
    engines = {s.engine or "unknown" for s in fresh_signals(snapshot, Role.DECODER)}
    steps_s = [
        _step_s(capacity, batch, tokens, share)
        for capacity in snapshot.capacity
        if capacity.role is Role.DECODER and capacity.node_class.partition("/")[0] in engines
    ]
    known_s = [step_s for step_s in steps_s if step_s is not None]
    return max(known_s) if known_s and len(known_s) == len(steps_s) else None


def _each(total: Signal | None, nodes: int) -> float | None:
    return None if total is None or total.is_lower_bound else total.value / nodes


def _step_s(
    capacity: NodeCapacity, batch: float | None, tokens: float | None, share: float
) -> float | None:
    """Return the step time at a share of the tokens a second of this batch, None if unknown.

    Slower steps keep requests for longer, so that the batch grows by more than the share: with
    `base` seconds for an empty batch, today's step s = base + load takes base / (1 - load x share
    / s) then.
    """
    if tokens is None and capacity.step_per_token_s == 0.0:
        tokens = 0.0
    if batch is None or tokens is None:
        return None
    base_s, now_s = capacity.step_s(0.0, 0.0), capacity.step_s(batch, tokens)
    # Written so that a NaN is not known either.
    if base_s is None or now_s is None or not 0 < base_s <= now_s < math.inf:
        return None
    spare = 1 - share * (now_s - base_s) / now_s
    return base_s / spare if spare > 0 else math.inf


def _moved(target: Target, role: Role, *, by: int, other_by: int, why: str) -> Target:
    if role is Role.PROMPT:
        return Target(target.prompt + by, target.decoder + other_by, why)
    return Target(target.prompt + other_by, target.decoder + by, why)


SPEC = PolicySpec(params=QueuePressureParams, build=QueuePressure)
