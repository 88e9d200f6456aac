"""The guard: what a policy asked for, within limits, windows, steps and cooldowns."""

from dataclasses import dataclass, replace

from pd_autoscaler.core import gates, target_limits
from pd_autoscaler.core.gates import GuardMemory
from pd_autoscaler.core.rules import GuardRules
from pd_autoscaler.model.decision import Decision, Gate, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import RoleSignals
from pd_autoscaler.model.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Guarded:
    """The guard's answer, the gates that fired, and its memory for the next cycle."""

    decision: Decision
    gates: tuple[Gate, ...]
    memory: GuardMemory


def guarded(
    decision: Decision, snapshot: Snapshot, rules: GuardRules, memory: GuardMemory
) -> Guarded:
    """Return the decision as far as it is allowed; a hold keeps the standing target.

    A target equal to the standing one is returned as it is: nothing moves.
    """
    standing, now_s = snapshot.target, snapshot.now_s
    if isinstance(decision, Hold):
        return _held(Gate(decision.reason, detail=decision.detail), snapshot, rules, memory)
    refusal = _refusal(snapshot, rules)
    if refusal is not None:
        return _held(refusal, snapshot, rules, memory)
    fired: list[Gate] = []
    asked = _limited(decision, rules, standing, fired)
    memory = memory._replace(asked=_kept(memory.asked, asked, now_s, rules))
    counts: dict[Role, int] = {}
    for role in Role:
        counts[role], gate = _allowed(role, asked.of(role), snapshot, rules, memory)
        fired += [gate] if gate else []
    target = asked
    if (asked.prompt, asked.decoder) != (counts[Role.PROMPT], counts[Role.DECODER]):
        target = replace(asked, prompt=counts[Role.PROMPT], decoder=counts[Role.DECODER])
    target = _limited(target, rules, standing, fired)
    shift = gates.payback(target, snapshot, rules, memory)
    if shift is not None:
        fired.append(shift)
        target = replace(target, prompt=standing.prompt, decoder=standing.decoder)
    if target == standing:
        return Guarded(_answer(decision, target, fired), tuple(fired), memory)
    return Guarded(target, tuple(fired), memory._replace(changed_at_s=snapshot.now_s))


def _held(gate: Gate, snapshot: Snapshot, rules: GuardRules, memory: GuardMemory) -> Guarded:
    """Keep the standing target for this gate's reason, and remember that it was kept unasked."""
    rows = _kept(memory.held, snapshot.target, snapshot.now_s, rules)
    return Guarded(Hold(gate.reason, gate.detail), (gate,), memory._replace(held=rows))


def _refusal(snapshot: Snapshot, rules: GuardRules) -> Gate | None:
    """Say why nothing at all may be concluded, None if something may."""
    if not snapshot.is_synced:
        told = "not every node found at the start has answered yet"
        return Gate(HoldReason.NOT_SYNCED, detail=told)
    return gates.blind(snapshot, rules)


def _limited(target: Target, rules: GuardRules, standing: Target, fired: list[Gate]) -> Target:
    limits = rules.limits
    cut = target_limits.within(target, limits, standing=standing)
    if cut != target:
        told = f"{target} becomes {cut}: {target_limits.shown(limits)}"
        fired.append(Gate(HoldReason.BUDGET, detail=told))
    return cut


def _allowed(
    role: Role, asked: int, snapshot: Snapshot, rules: GuardRules, memory: GuardMemory
) -> tuple[int, Gate | None]:
    """Return one role's count after its gates, and the gate that fired."""
    standing = snapshot.target.of(role)
    if asked == standing:
        return standing, None
    if asked > standing:
        return gates.growth(role, snapshot, rules, memory)
    return gates.shrinking(role, asked, snapshot, rules, memory)


def _answer(decision: Target, target: Target, fired: list[Gate]) -> Decision:
    """Say which gate kept the standing target, if the policy wanted another."""
    if decision == target or not fired:
        return target if target.why == decision.why else replace(target, why=decision.why)
    gate = fired[-1]
    why = f": {decision.why}" if decision.why else ""
    return Hold(gate.reason, f"{gate.detail}; the policy wants {decision}{why}")


def _kept(
    rows: tuple[gates.Row, ...], newest: Target, now_s: float, rules: GuardRules
) -> tuple[gates.Row, ...]:
    """Return the rows that a gate may still look at, with a new one."""
    horizon_s = max(2 * rules.up_window_s, rules.down_window_s, rules.pay_back_max_s)
    kept = tuple(row for row in rows if row[0] >= now_s - horizon_s)
    if len(kept) < len(rows):
        # The newest that is too old stays: it shows that the window was watched from its beginning.
        kept = (rows[len(rows) - len(kept) - 1], *kept)
    return (*kept, (now_s, newest.prompt, newest.decoder))


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
    # What some nodes do not tell may be what the node is needed for.
    if queue.is_lower_bound or 0 < kv_used.nodes < signals.fresh:
        return False
    is_queue_fine = queue.value / rest < queue_max
    # A prompt node's cache holds what decoders have not pulled: it says nothing of its own load.
    is_kv_fine = role is Role.PROMPT or kv_used.value * signals.serving / rest < kv_max
    return is_queue_fine and is_kv_fine
