"""Safety: what must be true of every run, whatever faults strike.

The checks read the world itself, never what the controller believes. What a fault gave the
controller good reason to do to a node is excused (`SimNode.is_broken`).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from pd_autoscaler.core.rules import Rules
from pd_autoscaler.model.decision import Hold, Mode, Target
from pd_autoscaler.model.facts import EntryState
from pd_autoscaler.model.node import NODE_MOVES, NodeState, Role
from pd_autoscaler.model.report import Report
from pd_autoscaler.sim.fleet.node import Life, SimNode
from pd_autoscaler.sim.fleet.process import Process
from pd_autoscaler.sim.fleet.world import World

EXCUSE_S = 90.0
"""How long after a fault on a node the controller may still act as if it had not happened."""
BROKEN_PAIR_S = 400.0
"""How long two published nodes may stay unlinked, whatever unlinked them."""
_MARGIN = 0.5
"""Share of `lost_after_s` after which a silent node counts as one the controller may give up."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that must never happen, and when it did."""

    what: str
    at_s: float
    cycle: int


class Checks:
    """Watches the world, the controller's calls and its reports; keeps what was violated."""

    def __init__(self, world: World, rules: Rules, *, signal_age_max_s: float) -> None:
        self._world = world
        self._rules = rules
        self._signal_age_max_s = signal_age_max_s
        self._doubts: dict[str, float] = {}
        self._targets: deque[tuple[float, Target]] = deque()
        self._states: dict[str, NodeState] = {}
        self._unlinked_since: dict[tuple[str, str], float] = {}
        self._unlinked_at: dict[frozenset[str], float] = {}
        self.cycle = 0
        self.violations: list[Violation] = []
        world.watch = self

    def violated(self, what: str) -> None:
        """Keep a violation."""
        self._world.note(f"VIOLATION {what}")
        self.violations.append(Violation(what, self._world.now_s, self.cycle))

    def restarted(self) -> None:
        """Take note that a new controller begins: it knows no node's state yet."""
        self._states.clear()

    # What is done to the world

    def publishing(self, node: SimNode) -> None:
        """A published node runs and is linked to every published node of the other role."""
        if self._is_excused(node):
            return
        if not node.is_up or node.process is None or not node.process.is_ready:
            self.violated(f"{node.id} was published and is not ready")
            return
        for other in self._world.serving(node.role.other):
            if not self._world.are_linked(node, other) and not self._is_excused(other):
                self.violated(f"{node.id} was published and is not linked to {other.id}")

    def withdrawing(self, node: SimNode) -> None:
        """Capacity falls below neither what it was nor the target, failures aside."""
        if node.is_broken or not node.is_up or self._blocks_a_newcomer(node):
            return
        rest = [n for n in self._world.serving(node.role) if n is not node and not n.is_broken]
        failed = sum(self._is_excused(n) for n in self._world.nodes.values() if n.role is node.role)
        wanted = min((t.of(node.role) for _, t in self._targets), default=1)
        floor = max(min(len(rest) + 1, wanted) - failed, 0 if failed else 1)
        if len(rest) < floor:
            self.violated(
                f"{node.id} was withdrawn: {len(rest)} {node.role} node(s) are left, "
                f"{wanted} are wanted"
            )

    def unlinking(self, process: Process, cluster_id: int) -> None:
        """A link that is up is not cut while requests use it, before its drain deadline."""
        peer = self._world.by_cluster(cluster_id)
        one = self._world.nodes[process.node_id]
        if peer is None:
            return
        other = self._world.nodes[peer.node_id]
        if one.is_broken or other.is_broken or not self._world.are_linked(one, other):
            return
        seen_s = self._unlinked_at.get(frozenset({one.id, other.id}), -EXCUSE_S)
        if self._world.now_s - seen_s <= EXCUSE_S:
            # Unlinked moments ago: nothing uses it, and cutting it cures a call's late success.
            return
        if one.id in self._world.published and other.id in self._world.published:
            self.violated(f"{one.id} cut its link to {other.id} while both are published")
            return
        inside = [self._world.in_flight(n) for n in (one, other)]
        if min(inside) and not self._is_past_drain(one) and not self._is_past_drain(other):
            self.violated(f"{one.id} cut its link to {other.id} with {min(inside)} in flight")

    def switching(self, node: SimNode, role: Role) -> None:
        """A node takes the other role only unpublished, unlinked, idle, and within the limits."""
        if node.is_broken or not node.is_up:
            return
        if node.id in self._world.published:
            self.violated(f"{node.id} was to become {role} while published")
            return
        for other in self._world.nodes.values():
            seen_s = self._unlinked_at.get(frozenset({node.id, other.id}), -EXCUSE_S)
            is_news = self._world.now_s - seen_s <= EXCUSE_S or self._is_excused(other)
            if self._world.are_linked(node, other) and not is_news:
                self.violated(f"{node.id} was to become {role} while linked to {other.id}")
        inside = self._world.in_flight(node)
        if inside and not self._is_past_drain(node):
            self.violated(f"{node.id} was to become {role} with {inside} in flight")
        most = self._rules.guard.limits.max_of(role) + self._world.twins
        serving = len(self._world.serving(role))
        if serving >= most:
            self.violated(f"{node.id} was to become {role}: {serving} serve, {most} are allowed")

    def stopping(self, node: SimNode) -> None:
        """A node is not stopped while it is published, nor with requests before its deadline."""
        if node.is_broken or not node.is_up:
            return
        if node.id in self._world.published:
            self.violated(f"{node.id} was stopped while published")
            return
        inside = self._world.in_flight(node)
        if inside and not self._is_past_drain(node):
            self.violated(f"{node.id} was stopped with {inside} in flight")

    def growing(self) -> None:
        """No node is made past the limit, apart from those the provider made by itself."""
        there = sum(node.is_there for node in self._world.nodes.values())
        most = self._rules.guard.limits.nodes_max + self._world.twins
        if there > most:
            self.violated(f"{there} nodes are there, {most} are allowed")

    # What the controller asked for and was told

    def acting(self, thing: str) -> None:
        """Nothing is acted on whose last outcome is unknown and was not observed since."""
        if thing in self._doubts:
            self.violated(f"{thing} was acted on, its state not read since an unknown outcome")

    def doubted(self, thing: str) -> None:
        """Take note that the controller does not know how its action on a thing ended."""
        self._doubts[thing] = self._world.now_s

    def read(self, place: str) -> None:
        """Take note that the state of a node, or the provider's list, was read."""
        kinds = (
            ("request ", "node ") if place == "provider" else (f"link {place} ", f"node {place}")
        )
        for thing in [thing for thing in self._doubts if thing.startswith(kinds)]:
            del self._doubts[thing]

    def asked(self, ids: Sequence[int]) -> None:
        """No call names a remote cluster twice."""
        if len(set(ids)) < len(ids):
            self.violated(f"a call names a cluster twice: {list(ids)}")

    # What the controller reports

    def append(self, report: Report) -> None:
        """Check one cycle's report against the world."""
        self.cycle = report.cycle
        self._world.note(_line(report))
        self._check_target(report)
        self._check_moves(report)
        self._note_recovery(report)
        self._note_silence()
        self._check_pairs(is_stopped=report.mode is Mode.STOPPED)
        horizon_s = self._world.now_s - self._rules.node.drain_deadline_s - EXCUSE_S
        self._targets.append((self._world.now_s, report.target))
        while self._targets[0][0] < horizon_s:
            self._targets.popleft()

    def _check_target(self, report: Report) -> None:
        standing, target = report.snapshot.target, report.target
        if isinstance(report.guarded, Hold) and target != standing:
            self.violated(f"a hold moved the target from {standing} to {target}")
        if target == standing:
            return
        limits = self._rules.guard.limits
        for role in Role:
            if not limits.min_of(role) <= target.of(role) <= limits.max_of(role):
                self.violated(f"the target {target} is outside the limits")
        if target.total > limits.nodes_max:
            self.violated(f"the target {target} is above {limits.nodes_max} nodes")
        for role in Role:
            serving = [n for n in self._world.serving(role) if not self._is_excused(n)]
            ages = [report.snapshot.now_s - node.metrics_seen_s for node in serving]
            fresh = sum(age <= self._signal_age_max_s for age in ages)
            if fresh < self._rules.guard.limits.fresh_quorum * len(serving):
                self.violated(f"the target moved to {target} on stale {role} metrics: {ages}")

    def _check_moves(self, report: Report) -> None:
        for move in report.moves:
            if move.after not in NODE_MOVES[move.before]:
                self.violated(f"{move.node_id} moved {move.before} -> {move.after}")
            known = self._states.get(move.node_id, move.before)
            if known is not move.before:
                self.violated(f"{move.node_id} was {known} and moved from {move.before}")
            self._states[move.node_id] = move.after

    def _note_recovery(self, report: Report) -> None:
        """Excuse nothing more on a node that answers again and that the controller counts on."""
        for known in report.snapshot.nodes:
            node = self._world.nodes.get(known.id)
            if node is None or node.process is None or known.state is not NodeState.SERVING:
                continue
            is_met = node.process.incarnation == known.incarnation
            # Its page is an answer, too: a node is lost only when both are silent.
            seen_s = max(node.agent_seen_s, node.metrics_seen_s)
            if is_met and node.is_up and seen_s > node.broken_at_s:
                node.is_broken = False

    def _note_silence(self) -> None:
        """Take note of nodes silent for so long that the controller may count them as lost."""
        now_s = self._world.now_s
        for node in self._world.nodes.values():
            silent_s = now_s - max(node.agent_seen_s, node.metrics_seen_s)
            if node.is_up and silent_s > _MARGIN * self._rules.node.lost_after_s:
                node.broke(now_s)

    def _check_pairs(self, *, is_stopped: bool) -> None:
        now_s, world = self._world.now_s, self._world
        unlinked = {
            (decoder.id, prompt.id)
            for decoder in world.serving(Role.DECODER)
            for prompt in world.serving(Role.PROMPT)
            if not world.are_linked(decoder, prompt)
        }
        since = {pair: self._unlinked_since.get(pair, now_s) for pair in sorted(unlinked)}
        # Whoever told the controller to take no action at all takes what comes of it.
        self._unlinked_since = {} if is_stopped else since
        self._unlinked_at |= {frozenset(pair): now_s for pair in since}
        for (decoder_id, prompt_id), since_s in self._unlinked_since.items():
            if now_s - since_s > BROKEN_PAIR_S:
                self.violated(f"{decoder_id} and {prompt_id} stay published and unlinked")

    def _is_excused(self, node: SimNode) -> bool:
        return self._world.now_s - node.broken_at_s <= EXCUSE_S

    def _is_past_drain(self, node: SimNode) -> bool:
        is_withdrawn = node.id not in self._world.published
        waited_s = self._world.now_s - node.withdrawn_at_s
        return is_withdrawn and waited_s >= self._rules.node.drain_deadline_s

    def _blocks_a_newcomer(self, node: SimNode) -> bool:
        """Whether a node of the other role has waited long for its link to this one."""
        deadline_s = self._rules.link.join_deadline_s
        return any(
            other.role is not node.role
            and other.life is Life.UP
            and self._world.now_s - other.booted_at_s > deadline_s
            and (not self._world.are_linked(node, other) or _is_doubted(node, other))
            for other in self._world.nodes.values()
        )


def _is_doubted(one: SimNode, other: SimNode) -> bool:
    """Whether an agent cannot tell if two nodes are linked: a late success after a forced unlink.

    Both libraries hold the link, but all that a controller can learn is that it must be cured.
    """
    ends = [(one.process, other.process), (other.process, one.process)]
    rows = [near.rows.get(far.cluster_id) for near, far in ends if near and far]
    return any(row is not None and row.state is EntryState.UNKNOWN for row in rows)


def _line(report: Report) -> str:
    """Render a report for the journal that the digest covers."""
    nodes = " ".join(f"{n.id}={n.state}" for n in report.snapshot.nodes)
    actions = ", ".join(str(action) for action in report.plan.actions)
    ended = ", ".join(f"{type(o).__name__} {o.action}" for o in report.outcomes)
    moves = ", ".join(f"{m.node_id} {m.before}->{m.after} ({m.why})" for m in report.moves)
    return (
        f"cycle {report.cycle} {report.mode} {report.target} {report.guarded} "
        f"[{nodes}] do [{actions}] ended [{ended}] moves [{moves}] "
        f"gates {report.gates} alarms {report.alarms} notes {report.plan.notes}"
    )
