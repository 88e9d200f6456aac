"""A fleet reduced to a few equations: enough to close the loop around a policy in no time.

Requests are a fluid. Prompt nodes take a fixed number a second each and queue the rest; decoders
hold each request for as long as its tokens take, at a step time that grows with the batch, and
queue what does not fit. The constants are round numbers in the range of one accelerator each, not
those of any model.
"""

from collections import deque
from dataclasses import dataclass, field, replace

from pd_autoscaler.core.attribution import attributed
from pd_autoscaler.model.decision import Decision, Hold, Target
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, RoleSignals, Signal
from pd_autoscaler.model.snapshot import Limits, Snapshot

INPUT_TOKENS = 1000.0
OUTPUT_TOKENS = 200.0
PROMPT_REQUESTS_PER_S = 4.0
BATCH_MAX = 100.0
STEP_BASE_S = 0.020
STEP_PER_REQUEST_S = 0.0002
RATE_PAGES = 6
"""Cycles that rates and quantiles look back over."""


@dataclass(slots=True, kw_only=True)
class FluidFleet:
    """A fleet in closed loop: show `snapshot()` to a policy, then `advance(decision)`.

    `requests_per_s` may be set at any time. A node that is asked for serves `lead_cycles` later,
    one that is not wanted any more is gone at once. Targets are cut to the limits, as by a guard.
    """

    requests_per_s: float
    target: Target
    limits: Limits = field(default_factory=Limits)
    period_s: float = 10.0
    lead_cycles: int = 3
    now_s: float = 1000.0
    _served_at_s: dict[Role, list[float]] = field(default_factory=dict)
    _due: dict[Role, list[int]] = field(default_factory=dict)
    _queues: dict[Role, float] = field(default_factory=dict)
    _batch: float = 0.0
    _token_rates: dict[Role, deque[float]] = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        for role in Role:
            self._served_at_s[role] = [0.0] * self.target.of(role)
            self._due[role] = []
            self._queues[role] = 0.0
            self._token_rates[role] = deque(maxlen=RATE_PAGES)
        self._flow()

    def advance(self, decision: Decision) -> None:
        """Take a decision on and let one cycle pass."""
        if not isinstance(decision, Hold):
            self.target = self._within_limits(decision)
        self.now_s += self.period_s
        for role in Role:
            self._resize(role)
        self._flow()

    def snapshot(self) -> Snapshot:
        """Return what an observer would see now."""
        nodes: list[Node] = []
        for role in Role:
            serving = self._served_at_s[role]
            nodes += [
                replace(_node(role, i, NodeState.SERVING), served_at_s=at_s)
                for i, at_s in enumerate(serving)
            ]
            nodes += [
                _node(role, len(serving) + i, NodeState.STARTING)
                for i in range(len(self._due[role]))
            ]
        prompt, decoder = self._prompt(), self._decoder()
        links = {LinkState.LINKED: prompt.serving * decoder.serving}
        return Snapshot(
            now_s=self.now_s,
            now_unix_s=self.now_s,
            target=self.target,
            nodes=tuple(nodes),
            prompt=prompt,
            decoder=decoder,
            node_signals={
                node.id: _share(prompt if node.role is Role.PROMPT else decoder, node.id)
                for node in nodes
                if node.state is NodeState.SERVING
            },
            attribution=attributed(prompt, decoder, links),
            limits=self.limits,
            links=links,
        )

    def _within_limits(self, wanted: Target) -> Target:
        counts = {
            role: min(max(wanted.of(role), 1, self.limits.min_of(role)), self.limits.max_of(role))
            for role in Role
        }
        cut = Target(counts[Role.PROMPT], counts[Role.DECODER], wanted.why)
        return cut if cut.total <= self.limits.nodes_max else self.target

    def _resize(self, role: Role) -> None:
        serving, due = self._served_at_s[role], self._due[role]
        due[:] = [cycles - 1 for cycles in due]
        serving += [self.now_s] * sum(cycles <= 0 for cycles in due)
        due[:] = [cycles for cycles in due if cycles > 0]
        wanted = self.target.of(role)
        due += [self.lead_cycles] * (wanted - len(serving) - len(due))
        while len(serving) + len(due) > wanted:
            (due or serving).pop()

    def _flow(self) -> None:
        """Let one period of requests through both sides."""
        prompts, decoders = (max(1, len(self._served_at_s[role])) for role in Role)
        asked = self._queues[Role.PROMPT] + self.requests_per_s * self.period_s
        prefilled = min(asked, prompts * PROMPT_REQUESTS_PER_S * self.period_s)
        self._queues[Role.PROMPT] = asked - prefilled
        waiting = self._queues[Role.DECODER] + prefilled
        full = BATCH_MAX / (OUTPUT_TOKENS * _step_s(BATCH_MAX))
        decoded = min(waiting, decoders * full * self.period_s)
        self._queues[Role.DECODER] = waiting - decoded
        # A batch b at step time s = base + slope * b does b / (tokens * s) requests a second.
        each = decoded / self.period_s / decoders
        self._batch = min(
            BATCH_MAX,
            each * OUTPUT_TOKENS * STEP_BASE_S / (1 - each * OUTPUT_TOKENS * STEP_PER_REQUEST_S),
        )
        self._token_rates[Role.PROMPT].append(prefilled * INPUT_TOKENS / self.period_s)
        self._token_rates[Role.DECODER].append(decoded * OUTPUT_TOKENS / self.period_s)

    def _prompt(self) -> RoleSignals:
        count = len(self._served_at_s[Role.PROMPT])
        queue = self._queues[Role.PROMPT]
        held = self._queues[Role.DECODER] / max(1, count)
        return RoleSignals(
            serving=count,
            fresh=count,
            queue=_signal(queue),
            ttft_p95_s=_signal((1 + queue / max(1, count)) / PROMPT_REQUESTS_PER_S),
            running=_signal(min(self.requests_per_s / PROMPT_REQUESTS_PER_S, count)),
            # What decoders have no room for stays in the prompt nodes' caches.
            kv_used_mean=_signal(min(1.0, 0.1 + 0.05 * held)),
            token_rate=_signal(_mean(self._token_rates[Role.PROMPT])),
            arrival_rate=_signal(self.requests_per_s),
            input_len=_signal(INPUT_TOKENS),
        )

    def _decoder(self) -> RoleSignals:
        count = len(self._served_at_s[Role.DECODER])
        return RoleSignals(
            serving=count,
            fresh=count,
            queue=_signal(self._queues[Role.DECODER]),
            tpot_p95_s=_signal(_step_s(self._batch)),
            running=_signal(self._batch * count),
            kv_used_mean=_signal(self._batch / BATCH_MAX),
            token_rate=_signal(_mean(self._token_rates[Role.DECODER])),
            output_len=_signal(OUTPUT_TOKENS),
        )


def _step_s(batch: float) -> float:
    return STEP_BASE_S + STEP_PER_REQUEST_S * batch


def _node(role: Role, index: int, state: NodeState) -> Node:
    return Node(id=f"{role}-{index}", role=role, state=state, since_s=0.0)


def _share(role: RoleSignals, node_id: str) -> NodeSignals:
    """Return one node's part: a fluid spreads evenly."""

    def part(signal: Signal | None) -> Signal | None:
        return None if signal is None else _signal(signal.value / max(1, role.serving))

    return NodeSignals(
        node_id=node_id,
        age_s=0.0,
        is_fresh=True,
        queue=part(role.queue),
        running=part(role.running),
        kv_used=role.kv_used_mean,
    )


def _signal(value: float) -> Signal:
    return Signal(value, 0.0)


def _mean(values: deque[float]) -> float:
    return sum(values) / len(values)
