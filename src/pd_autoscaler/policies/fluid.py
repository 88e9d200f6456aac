"""A fleet reduced to a few equations: enough to close the loop around a policy in no time.

Requests are a fluid. Prompt nodes take a fixed number a second each and queue the rest; decoders
hold each request for as long as its tokens take, at a step time that grows with the batch, and
queue what does not fit. The constants are round numbers in the range of one accelerator each, not
those of any model.
"""

from collections import deque
from dataclasses import dataclass, field, replace

from pd_autoscaler.core.attribution import attributed
from pd_autoscaler.model.capacity import Demand, NodeCapacity
from pd_autoscaler.model.decision import Decision, Hold, Target
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, RoleSignals, Signal
from pd_autoscaler.model.snapshot import LeadTime, Limits, Snapshot

INPUT_TOKENS = 1000.0
OUTPUT_TOKENS = 200.0
PROMPT_REQUESTS_PER_S = 4.0
BATCH_MAX = 100.0
STEP_BASE_S = 0.020
STEP_PER_REQUEST_S = 0.0002
RATE_PAGES = 6
"""Cycles that rates and quantiles look back over."""
CLASS = "fluid"
CAPACITY = (
    NodeCapacity(
        role=Role.PROMPT,
        node_class=CLASS,
        prefill_tokens_per_s=PROMPT_REQUESTS_PER_S * INPUT_TOKENS,
        samples=100,
        error=0.0,
    ),
    NodeCapacity(
        role=Role.DECODER,
        node_class=CLASS,
        step_base_s=STEP_BASE_S,
        step_per_request_s=STEP_PER_REQUEST_S,
        step_per_token_s=0.0,
        samples=100,
        error=0.0,
    ),
)
"""What its nodes can do, known exactly: nobody has to learn it here."""


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
                replace(
                    _node(role, len(serving) + i, NodeState.STARTING),
                    ready_at_s=self.now_s + cycles * self.period_s,
                )
                for i, cycles in enumerate(self._due[role])
            ]
        prompt, decoder = self._prompt(), self._decoder()
        links = {LinkState.LINKED: prompt.serving * decoder.serving}
        serves = {node.id: node.role for node in nodes if node.state is NodeState.SERVING}
        lead_s = self.lead_cycles * self.period_s
        return Snapshot(
            now_s=self.now_s,
            now_unix_s=self.now_s,
            target=self.target,
            nodes=tuple(nodes),
            prompt=prompt,
            decoder=decoder,
            node_signals={
                node_id: _share(prompt if role is Role.PROMPT else decoder, node_id)
                for node_id, role in serves.items()
            },
            attribution=attributed(prompt, decoder, links),
            limits=self.limits,
            demand=self._demand(),
            capacity=CAPACITY,
            lead_times={"start": LeadTime(p50_s=lead_s, p95_s=lead_s, count=10)},
            published=frozenset(serves),
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

    def _demand(self) -> Demand:
        batches = self._batch * len(self._served_at_s[Role.DECODER])
        return Demand(
            requests_per_s=_signal(self.requests_per_s),
            input_len=_signal(INPUT_TOKENS),
            input_len_sq=_signal(INPUT_TOKENS**2),
            output_len=_signal(OUTPUT_TOKENS),
            output_len_sq=_signal(OUTPUT_TOKENS**2),
            uncached_share=_signal(1.0),
            decode_running=_signal(batches),
            # Half of the output is there on average.
            decode_tokens=_signal(batches * (INPUT_TOKENS + OUTPUT_TOKENS / 2)),
        )

    def _prompt(self) -> RoleSignals:
        count = len(self._served_at_s[Role.PROMPT])
        queue = self._queues[Role.PROMPT]
        held = self._queues[Role.DECODER]
        kv_used = min(1.0, 0.1 + 0.05 * held / max(1, count))
        wait_s = queue / max(1, count) / PROMPT_REQUESTS_PER_S
        # Of requests there are none of there is nothing to observe.
        has_seen = bool(self.requests_per_s or queue)
        return RoleSignals(
            serving=count,
            fresh=count,
            queue=_signal(queue),
            queue_time_p95_s=_signal(wait_s) if has_seen else None,
            ttft_p95_s=_signal(wait_s + 1 / PROMPT_REQUESTS_PER_S) if has_seen else None,
            running=_signal(min(self.requests_per_s / PROMPT_REQUESTS_PER_S, count)),
            # What decoders have no room for stays in the prompt nodes' caches.
            kv_export_backlog=_signal(held),
            kv_used_mean=_signal(kv_used),
            kv_used_max=_signal(kv_used),
            token_rate=_signal(_mean(self._token_rates[Role.PROMPT])),
            arrival_rate=_signal(self.requests_per_s),
            transfer_failure_rate=_signal(0.0),
            kv_expired_rate=_signal(0.0),
            uncached_share=_signal(1.0),
            input_len=_signal(INPUT_TOKENS) if has_seen else None,
            input_len_sq=_signal(INPUT_TOKENS**2) if has_seen else None,
        )

    def _decoder(self) -> RoleSignals:
        count = len(self._served_at_s[Role.DECODER])
        has_seen = self._batch > 0
        return RoleSignals(
            serving=count,
            fresh=count,
            queue=_signal(self._queues[Role.DECODER]),
            tpot_p95_s=_signal(_step_s(self._batch)) if has_seen else None,
            running=_signal(self._batch * count),
            transfer_wait=_signal(0.0),
            kv_used_mean=_signal(self._batch / BATCH_MAX),
            kv_used_max=_signal(self._batch / BATCH_MAX),
            token_rate=_signal(_mean(self._token_rates[Role.DECODER])),
            preempt_rate=_signal(0.0),
            transfer_failure_rate=_signal(0.0),
            output_len=_signal(OUTPUT_TOKENS) if has_seen else None,
            output_len_sq=_signal(OUTPUT_TOKENS**2) if has_seen else None,
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
        engine=CLASS,
        age_s=0.0,
        is_fresh=True,
        queue=part(role.queue),
        transfer_wait=part(role.transfer_wait),
        running=part(role.running),
        kv_used=role.kv_used_mean,
        kv_export_backlog=part(role.kv_export_backlog),
        token_rate=part(role.token_rate),
    )


def _signal(value: float) -> Signal:
    return Signal(value, 0.0)


def _mean(values: deque[float]) -> float:
    return sum(values) / len(values)
