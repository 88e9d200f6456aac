"""The guard: what a policy asked for, within limits, windows, steps and cooldowns.

Windows work as in Kubernetes' horizontal pod autoscaler: a role grows by what was asked for
throughout the up window, and shrinks only to the most that was asked for in the down window.
"""

from dataclasses import dataclass, field, replace
from math import ceil

from pd_autoscaler.core.rules import GuardRules
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import RoleSignals
from pd_autoscaler.model.snapshot import Bottleneck, Limits, Snapshot


@dataclass(frozen=True, slots=True)
class GuardMemory:
    """What the guard remembers: when it began, what was asked for when, and the last change."""

    began_s: float
    asked: tuple[tuple[float, int, int], ...] = ()
    changed_at_s: float = field(default=float("-inf"))

    def window(self, role: Role, since_s: float) -> list[int]:
        """List what was asked for of a role since a moment."""
        column = 1 if role is Role.PROMPT else 2
        return [int(row[column]) for row in self.asked if row[0] >= since_s]


@dataclass(frozen=True, slots=True)
class Guarded:
    """The guard's answer, the gates that fired, and its memory for the next cycle."""

    decision: Decision
    gates: tuple[str, ...]
    memory: GuardMemory


def guarded(
    decision: Decision, snapshot: Snapshot, rules: GuardRules, memory: GuardMemory
) -> Guarded:
    """Return the decision as far as it is allowed; a hold keeps the standing target.

    A target equal to the standing one is returned as it is: nothing moves.
    """
    if isinstance(decision, Hold):
        return Guarded(decision, (decision.reason.value,), memory)
    if not snapshot.is_synced:
        hold = Hold(HoldReason.NOT_SYNCED, "not every node found at the start has answered yet")
        return Guarded(hold, (hold.reason.value,), memory)
    blind = _blind(snapshot, rules)
    if blind is not None:
        return Guarded(blind, (blind.reason.value,), memory)
    gates: list[str] = []
    now_s, standing = snapshot.now_s, snapshot.target
    asked = _within(decision, rules.limits, standing, gates)
    memory = _remembering(memory, asked, now_s, rules)
    wanted = {
        role: _windowed(role, asked, snapshot, rules, memory=memory, gates=gates) for role in Role
    }
    target = replace(asked, prompt=wanted[Role.PROMPT], decoder=wanted[Role.DECODER])
    target = _within(target, rules.limits, standing, gates)
    if _is_shift(standing, target) and not _pays_back(target, snapshot, rules, memory):
        gates.append(HoldReason.PAY_BACK.value)
        target = replace(target, prompt=standing.prompt, decoder=standing.decoder)
    if target == standing:
        return Guarded(_answer(decision, target, gates), tuple(gates), memory)
    return Guarded(target, tuple(gates), replace(memory, changed_at_s=now_s))


def _is_shift(standing: Target, target: Target) -> bool:
    """Whether a target takes from one role what it gives to the other."""
    return (target.prompt - standing.prompt) * (target.decoder - standing.decoder) < 0


def _pays_back(target: Target, snapshot: Snapshot, rules: GuardRules, memory: GuardMemory) -> bool:
    """Whether a shift has been asked for at least as long as it keeps a node from serving.

    Nobody knows how long a mix will stay right. Who waits until waiting has cost as much as the
    move never pays more than twice the least (ski rental: Karlin, Manasse, Rudolph and Sleator,
    Competitive snoopy caching, 1988). The cost is measured: seconds of drain, unlink, switch (or,
    until a node has switched, start and init) and link.
    """
    leads = snapshot.lead_times
    change = ("switch",) if "switch" in leads else ("start", "init")
    phases = ("drain", "unlink", *change, "link")
    cost_s = sum(leads[phase].p50_s for phase in phases if phase in leads)
    since_s = snapshot.now_s - min(cost_s, rules.pay_back_max_s)
    if cost_s and not any(row[0] <= since_s for row in memory.asked):
        return False
    standing = snapshot.target
    grows, shrinks = (
        (Role.PROMPT, Role.DECODER)
        if target.prompt > standing.prompt
        else (Role.DECODER, Role.PROMPT)
    )
    return min(memory.window(grows, since_s), default=0) > standing.of(grows) and max(
        memory.window(shrinks, since_s), default=0
    ) < standing.of(shrinks)


def _answer(decision: Target, target: Target, gates: list[str]) -> Decision:
    """Say which gate kept the standing target, if the policy wanted another."""
    if decision == target or not gates:
        return replace(target, why=decision.why)
    detail = f"the policy wants {decision}: {decision.why}" if decision.why else str(decision)
    return Hold(HoldReason(gates[-1]), detail)


def _blind(snapshot: Snapshot, rules: GuardRules) -> Hold | None:
    for role in Role:
        signals = snapshot.of(role)
        if signals.serving and signals.fresh < rules.fresh_quorum * signals.serving:
            return Hold(
                HoldReason.STALE_METRICS,
                f"{signals.fresh} of {signals.serving} {role} nodes have fresh metrics",
            )
    return None


def _remembering(
    memory: GuardMemory, asked: Target, now_s: float, rules: GuardRules
) -> GuardMemory:
    horizon_s = max(rules.up_window_s, rules.down_window_s, rules.pay_back_max_s)
    kept = tuple(row for row in memory.asked if row[0] >= now_s - horizon_s)
    if len(kept) < len(memory.asked):
        # The newest that is too old stays: it shows that the window was watched from its beginning.
        kept = (memory.asked[len(memory.asked) - len(kept) - 1], *kept)
    return replace(memory, asked=(*kept, (now_s, asked.prompt, asked.decoder)))


def _windowed(
    role: Role,
    asked: Target,
    snapshot: Snapshot,
    rules: GuardRules,
    *,
    memory: GuardMemory,
    gates: list[str],
) -> int:
    """Return one role's count after its gates."""
    now_s, standing = snapshot.now_s, snapshot.target.of(role)
    if asked.of(role) > standing:
        return _grown(role, snapshot, rules, memory, gates)
    if asked.of(role) == standing:
        return standing
    reason = _shrink_gate(role, snapshot, rules, memory)
    if reason is not None:
        gates.append(reason.value)
        return standing
    most = max(memory.window(role, now_s - rules.down_window_s))
    if most >= standing:
        gates.append(HoldReason.DOWN_WINDOW.value)
        return standing
    return max(most, standing - rules.step_down_max)


def _grown(
    role: Role,
    snapshot: Snapshot,
    rules: GuardRules,
    memory: GuardMemory,
    gates: list[str],
) -> int:
    standing = snapshot.target.of(role)
    side = snapshot.attribution.bottleneck
    if role is Role.PROMPT and side in {Bottleneck.DECODER, Bottleneck.LINK}:
        gates.append(HoldReason.BOTTLENECK_ELSEWHERE.value)
        return standing
    least = min(memory.window(role, snapshot.now_s - rules.up_window_s))
    # A window that has not been watched from its beginning has not agreed yet.
    has_full_window = any(
        row[0] <= snapshot.now_s - rules.up_window_s + 1e-9 for row in memory.asked
    )
    if least <= standing or not has_full_window:
        gates.append(HoldReason.UP_WINDOW.value)
        return standing
    return min(least, standing + rules.step_up_max)


def _shrink_gate(
    role: Role, snapshot: Snapshot, rules: GuardRules, memory: GuardMemory
) -> HoldReason | None:
    """Return why a role may not shrink now, or None."""
    signals = snapshot.of(role)
    if snapshot.now_s - memory.began_s < rules.down_window_s:
        return HoldReason.WARM_UP
    if signals.fresh < signals.serving:
        return HoldReason.PARTIAL_METRICS
    if snapshot.now_s - memory.changed_at_s < rules.cooldown_s:
        return HoldReason.COOLDOWN
    return None


def _within(target: Target, limits: Limits, standing: Target, gates: list[str]) -> Target:
    """Return the target inside the limits, its ratio repaired upwards where the budget allows."""
    prompt = min(max(target.prompt, limits.prompt_min), limits.prompt_max)
    decoder = min(max(target.decoder, limits.decoder_min), limits.decoder_max)
    if limits.ratio_min is not None and prompt < limits.ratio_min * decoder:
        prompt = min(ceil(limits.ratio_min * decoder), limits.prompt_max)
    if limits.ratio_max is not None and prompt > limits.ratio_max * decoder:
        decoder = min(ceil(prompt / limits.ratio_max), limits.decoder_max)
    while prompt + decoder > limits.nodes_max:
        # Give back what was asked for beyond the standing target first, then the larger role.
        if prompt > max(standing.prompt, limits.prompt_min) and prompt - standing.prompt >= (
            decoder - standing.decoder
        ):
            prompt -= 1
        elif decoder > max(standing.decoder, limits.decoder_min):
            decoder -= 1
        elif prompt - limits.prompt_min >= decoder - limits.decoder_min:
            prompt -= 1
        else:
            decoder -= 1
    if (prompt, decoder) == (target.prompt, target.decoder):
        return target
    gates.append(HoldReason.BUDGET.value)
    return replace(target, prompt=prompt, decoder=decoder)


def within(target: Target, limits: Limits) -> Target:
    """Return the target nearest to this one that the limits allow."""
    return _within(target, limits, target, [])


def can_spare(
    snapshot: Snapshot, role: Role, *, kv_max: float = 0.8, queue_max: float = 5.0
) -> bool:
    """Whether the load of a role, spread over one node less, stays below saturation.

    The check is that of llm-d's workload-variant autoscaler (saturation analyser); thresholds are
    cache use (0 to 1) and requests waiting a node.
    """
    signals: RoleSignals = snapshot.of(role)
    if signals.serving < 2 or signals.fresh < signals.serving:
        return False
    rest = signals.serving - 1
    queue, kv_used = signals.queue, signals.kv_used_mean
    if queue is None or kv_used is None:
        return False
    is_queue_fine = queue.value / rest < queue_max
    # A prompt node's cache holds what decoders have not pulled: it says nothing of its own load.
    is_kv_fine = role is Role.PROMPT or kv_used.value * signals.serving / rest < kv_max
    return is_queue_fine and is_kv_fine
