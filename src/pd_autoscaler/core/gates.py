"""The guard's gates: why a role may not grow, shrink or be traded now, each with its numbers.

Windows work as in Kubernetes' horizontal pod autoscaler: a role grows by what was asked for
throughout the up window, and shrinks only to the most that was asked for in the down window.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pd_autoscaler.core.rules import GuardRules
from pd_autoscaler.model.decision import Gate, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Bottleneck, Snapshot

Row = tuple[float, int, int]
"""When, and how many prompt and decoder nodes."""

_COLUMN: Mapping[Role, Literal[1, 2]] = {Role.PROMPT: 1, Role.DECODER: 2}


class GuardMemory(NamedTuple):
    """What the guard remembers: when it began, what was asked for when, and the last change.

    `held` are the targets that stood while nothing was asked for: for shrinking a cycle that held
    counts as one that needed them, for nobody saw what was needed.
    """

    began_s: float
    asked: tuple[Row, ...] = ()
    held: tuple[Row, ...] = ()
    changed_at_s: float = float("-inf")

    def window(self, role: Role, since_s: float) -> list[int]:
        """List what was asked for of a role since a moment."""
        return [row[_COLUMN[role]] for row in self.asked if row[0] >= since_s]

    def needed(self, role: Role, since_s: float) -> int:
        """Return the most of a role that was asked for, or stood unasked, since a moment."""
        rows = (*self.asked, *self.held)
        return max((row[_COLUMN[role]] for row in rows if row[0] >= since_s), default=0)

    def needed_at_s(self, role: Role, count: int) -> float | None:
        """Return when at least so many of a role were last needed, None if never."""
        rows = (*self.asked, *self.held)
        return max((row[0] for row in rows if row[_COLUMN[role]] >= count), default=None)

    def is_watched(self, since_s: float, *, gap_max_s: float) -> bool:
        """Whether what was asked for last up to a moment held until then.

        It did if little time had passed, or no cycle that held: with a period longer than the up
        window there is none in between.
        """
        last_s = max((row[0] for row in self.asked if row[0] <= since_s + 1e-9), default=None)
        if last_s is None:
            return False
        is_recent = since_s - last_s <= gap_max_s
        return is_recent or not any(last_s < row[0] <= since_s for row in self.held)


def blind(snapshot: Snapshot, rules: GuardRules) -> Gate | None:
    """Refuse everything while fewer nodes of a role are fresh than the quorum."""
    for role in Role:
        signals = snapshot.of(role)
        if signals.serving and signals.fresh < rules.limits.fresh_quorum * signals.serving:
            return Gate(
                HoldReason.STALE_METRICS,
                role,
                f"{signals.fresh} of {signals.serving} {role} nodes have fresh metrics",
            )
    return None


def growth(
    role: Role, snapshot: Snapshot, rules: GuardRules, memory: GuardMemory
) -> tuple[int, Gate | None]:
    """Return the count that a role may grow to, and the gate that fired on the way."""
    standing, now_s = snapshot.target.of(role), snapshot.now_s
    gate = _fault(role, snapshot) if rules.heeds_bottleneck else None
    if gate is not None:
        return standing, gate
    window = memory.window(role, now_s - rules.up_window_s)
    least = min(window)
    # A window that has not been watched from its beginning has not agreed yet, nor has one of which
    # the beginning lies before a long silence.
    start_s = now_s - rules.up_window_s
    has_full_window = memory.is_watched(start_s, gap_max_s=rules.up_window_s)
    if least <= standing or not has_full_window:
        since_s = min(row[0] for row in memory.asked if row[0] >= start_s)
        told = f"at least {least} asked for in the last {now_s - since_s:.3g} s"
        return standing, Gate(
            HoldReason.UP_WINDOW,
            role,
            f"{told}; more than {standing} must be asked for throughout {rules.up_window_s:g} s",
        )
    step = standing + rules.step_up_max
    if least > step:
        return step, Gate(
            HoldReason.STEP, role, f"{least} asked for, at most {rules.step_up_max} at once"
        )
    return least, None


def _fault(role: Role, snapshot: Snapshot) -> Gate | None:
    """Refuse growth that would not help: prompts queue behind decoders and links, too."""
    seen = snapshot.attribution
    if snapshot.is_fault_elsewhere(role):
        return Gate(
            HoldReason.BOTTLENECK_ELSEWHERE,
            role,
            f"the {seen.bottleneck} side is at fault: {seen.evidence}",
        )
    if role is Role.PROMPT and seen.bottleneck is Bottleneck.UNKNOWN:
        return Gate(HoldReason.BOTTLENECK_UNKNOWN, role, seen.evidence)
    return None


def shrinking(
    role: Role, asked: int, snapshot: Snapshot, rules: GuardRules, memory: GuardMemory
) -> tuple[int, Gate | None]:
    """Return the count that a role may shrink to, and the gate that fired on the way."""
    standing, now_s = snapshot.target.of(role), snapshot.now_s
    gate = _young(role, snapshot, rules, memory) or _doubt(role, snapshot, rules)
    if gate is not None:
        return standing, gate
    most = memory.needed(role, now_s - rules.down_window_s)
    if most >= standing:
        left_s = _window_left_s(role, snapshot, rules, memory)
        return standing, Gate(
            HoldReason.DOWN_WINDOW,
            role,
            f"{most} asked for, or held, in the last {rules.down_window_s:g} s; "
            f"may shrink in {left_s:.0f} s if no more is asked for until then",
        )
    step = standing - rules.step_down_max
    if most < step:
        return step, Gate(
            HoldReason.STEP, role, f"{asked} asked for, at most {rules.step_down_max} less at once"
        )
    return most, None


def _young(role: Role, snapshot: Snapshot, rules: GuardRules, memory: GuardMemory) -> Gate | None:
    """Refuse to shrink soon after the start, and soon after a change."""
    watched_s = snapshot.now_s - memory.began_s
    if watched_s < rules.down_window_s:
        return Gate(
            HoldReason.WARM_UP,
            role,
            f"watched for {watched_s:.0f} s, nothing goes before {rules.down_window_s:g} s",
        )
    since_s = snapshot.now_s - memory.changed_at_s
    if since_s < rules.cooldown_s:
        # The later of the two: an operator who waits for the one should not meet the other.
        left_s = max(rules.cooldown_s - since_s, _window_left_s(role, snapshot, rules, memory))
        return Gate(
            HoldReason.COOLDOWN,
            role,
            f"the target moved {since_s:.0f} s ago; may shrink in {left_s:.0f} s",
        )
    return None


def _window_left_s(role: Role, snapshot: Snapshot, rules: GuardRules, memory: GuardMemory) -> float:
    """Return for how long what was asked for still keeps a role from shrinking."""
    last_s = memory.needed_at_s(role, snapshot.target.of(role))
    if last_s is None:
        return 0.0
    return max(0.0, last_s + rules.down_window_s - snapshot.now_s)


def _doubt(role: Role, snapshot: Snapshot, rules: GuardRules) -> Gate | None:
    """Refuse to shrink on less than full evidence: what is not seen may be what needs the node."""
    seen, signals = snapshot.attribution, snapshot.of(role)
    if signals.fresh < signals.serving:
        told = f"{signals.fresh} of {signals.serving} {role} nodes are fresh"
        return Gate(HoldReason.PARTIAL_METRICS, role, f"{told}; nothing goes until all are")
    if seen.bottleneck is Bottleneck.UNKNOWN and rules.heeds_bottleneck:
        return Gate(HoldReason.BOTTLENECK_UNKNOWN, role, seen.evidence)
    if seen.bottleneck is Bottleneck.LINK and rules.heeds_bottleneck:
        return Gate(
            HoldReason.BOTTLENECK_ELSEWHERE, role, f"links are repaired first: {seen.evidence}"
        )
    failing = transfers_fail(snapshot, rules)
    return Gate(HoldReason.TRANSFERS_FAIL, role, failing) if failing else None


def transfers_fail(snapshot: Snapshot, rules: GuardRules) -> str:
    """Say which KV transfers fail beyond the few that users who leave make fail; else nothing."""
    for role in Role:
        signals = snapshot.of(role)
        failures, arrivals = signals.transfer_failure_rate, signals.arrival_rate
        few = 0.0 if arrivals is None else rules.transfer_failure_share * arrivals.value
        if failures is not None and failures.value > few:
            return f"{failures.value:.2g} KV transfers a second fail at {role} nodes"
    return ""


def payback(
    target: Target, snapshot: Snapshot, rules: GuardRules, memory: GuardMemory
) -> Gate | None:
    """Refuse a shift until it was asked for at least as long as it keeps a node from serving.

    Nobody knows how long a mix will stay right. Who waits until waiting has cost as much as the
    move never pays more than twice the least (ski rental: Karlin, Manasse, Rudolph and Sleator,
    Competitive snoopy caching, 1988). The cost is measured: seconds of drain, unlink, switch (or,
    until a node has switched, start and init) and link.
    """
    standing = snapshot.target
    if (target.prompt - standing.prompt) * (target.decoder - standing.decoder) >= 0:
        return None
    leads = snapshot.lead_times
    change = ("switch",) if "switch" in leads else ("start", "init")
    phases = ("drain", "unlink", *change, "link")
    cost_s = sum(leads[phase].p50_s for phase in phases if phase in leads)
    wait_s = min(cost_s, rules.pay_back_max_s)
    grows = Role.PROMPT if target.prompt > standing.prompt else Role.DECODER
    since_s = snapshot.now_s - wait_s
    was_watched = not cost_s or any(row[0] <= since_s for row in memory.asked)
    if was_watched and _was_asked(grows, standing, memory, since_s=since_s):
        return None
    return Gate(
        HoldReason.PAY_BACK,
        detail=f"moving a node costs {cost_s:.0f} s of its service; "
        f"{standing} -> {target} must be asked for throughout {wait_s:.0f} s",
    )


def _was_asked(grows: Role, standing: Target, memory: GuardMemory, *, since_s: float) -> bool:
    """Whether a shift was asked for by every row since a moment."""
    shrinks = grows.other
    least = min(memory.window(grows, since_s), default=0)
    most = memory.needed(shrinks, since_s)
    return least > standing.of(grows) and most < standing.of(shrinks)
