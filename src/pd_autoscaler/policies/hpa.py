"""hpa: the rule of Kubernetes' horizontal pod autoscaler, once for each role.

Each metric proposes ceil(nodes x value / target) nodes outside its tolerance, the largest proposal
counts, and one that nobody tells keeps a role from shrinking; windows and paces follow
(kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale, `hpa_rule` for the code).

KV use alone would flap, as fewer decoders decode slower and hold more than their share. The use of
the learnt token rate, proportional to the load, is the second metric that makes a constant load
come to rest; without it (`…_token_use` of null) the rule is the one most operators write.

Not as in Kubernetes: a value is what a page says, where a rate is a mean over the window that
pages are compared over; a look falls on a cycle, so 15 s become 20 s at a period of 10 s; and two
roles share one budget.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from pd_autoscaler.core.target_limits import within
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import COMING, Role
from pd_autoscaler.model.signals import NodeSignals, Signal
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec
from pd_autoscaler.policies.hpa_rule import Pace, Readings, Scale, proposed
from pd_autoscaler.policies.node_rates import full_batch, lengths, prompt_tokens_per_s
from pd_autoscaler.policies.premises import blindness, known, serving_nodes


class HpaParams(Params):
    """Targets per node, where null drops the metric, and how fast a role may change.

    All but the targets are Kubernetes' defaults.
    """

    prompt_queue: float | None = Field(default=3.0, gt=0)
    """Waiting requests that a prompt node should have."""
    prompt_token_use: float | None = Field(default=0.7, gt=0, le=1)
    """Part of the prompt tokens a second it can compute, 0 to 1, that a prompt node should do."""
    decoder_kv: float | None = Field(default=0.7, gt=0, le=1)
    """KV use, 0 to 1, that a decoder should have."""
    decoder_token_use: float | None = Field(default=0.7, gt=0, le=1)
    """Part of the tokens a second of a full decoder, 0 to 1, that a decoder should generate."""
    tpot_s: float = Field(default=0.050, gt=0, le=10)
    """Seconds per output token at which a decoder is full."""
    tolerance: float = Field(default=0.1, ge=0, lt=1)
    """Part by which a metric may differ from its target before anything is done."""
    sync_s: float = Field(default=15.0, gt=0, le=600)
    """Seconds between two looks; in between the last answer stands."""
    up_window_s: float = Field(default=0.0, ge=0, le=3600)
    """Seconds throughout which more must have been wanted before a role grows."""
    up_percent: float = Field(default=100.0, ge=0)
    """Most that a role may grow by in `up_period_s`, in percent."""
    up_nodes: int = Field(default=4, ge=0)
    """As `up_percent`, in nodes; the larger of the two counts."""
    up_period_s: float = Field(default=15.0, gt=0, le=1800)
    """Seconds over which growth is limited."""
    down_window_s: float = Field(default=300.0, ge=0, le=3600)
    """Seconds of which the most that was wanted counts before a role shrinks."""
    down_percent: float = Field(default=100.0, ge=0, le=100)
    """Most that a role may shrink by in `down_period_s`, in percent."""
    down_nodes: int = Field(default=0, ge=0)
    """As `down_percent`, in nodes; the larger of the two counts."""
    down_period_s: float = Field(default=15.0, gt=0, le=1800)
    """Seconds over which shrinking is limited."""

    @model_validator(mode="after")
    def _each_role_has_a_metric(self) -> Self:
        for first, second in (
            ("prompt_queue", "prompt_token_use"),
            ("decoder_kv", "decoder_token_use"),
        ):
            if getattr(self, first) is None and getattr(self, second) is None:
                raise ValueError(
                    f"one of {first} and {second} must be given; a role without a metric cannot "
                    f"be scaled"
                )
        if not self.up_percent and not self.up_nodes:
            raise ValueError("one of up_percent and up_nodes must be above 0; else nothing grows")
        return self


@dataclass(frozen=True, slots=True)
class _Metric:
    """One metric of a role: its name, its target, and the value of every serving node."""

    name: str
    target: float
    values: Sequence[Signal | None]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What one role's metrics want, with the reason; `is_known` is False if they say too little."""

    count: int
    why: str
    is_known: bool = True


class Hpa:
    """Two horizontal autoscalers, one a role, which share what they see and nothing else."""

    def __init__(self, params: HpaParams) -> None:
        self._params = params
        up = Pace(
            window_s=params.up_window_s,
            percent=params.up_percent,
            nodes=params.up_nodes,
            period_s=params.up_period_s,
        )
        down = Pace(
            window_s=params.down_window_s,
            percent=params.down_percent,
            nodes=params.down_nodes,
            period_s=params.down_period_s,
        )
        self._scales: Mapping[Role, Scale] = {role: Scale(up, down) for role in Role}
        self._before: tuple[float, Target] | None = None
        self._looked: tuple[float, Decision] | None = None

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the counts that the rule allows now, or a refusal if neither role can be seen."""
        self._saw(snapshot)
        now_s = snapshot.now_s
        if self._looked is not None and 0 <= now_s - self._looked[0] < self._params.sync_s:
            return self._looked[1]
        decision = self._decided(snapshot)
        self._looked = (now_s, decision)
        return decision

    def _saw(self, snapshot: Snapshot) -> None:
        """Learn how the standing target moved: it did so after the snapshot before this one."""
        if self._before is not None:
            at_s, before = self._before
            for role, scale in self._scales.items():
                if by := snapshot.target.of(role) - before.of(role):
                    scale.changed(by, at_s=at_s)
        self._before = (snapshot.now_s, snapshot.target)

    def _decided(self, snapshot: Snapshot) -> Decision:
        wanted = {role: self._wanted(snapshot, role) for role in Role}
        why = "; ".join(f"{role}: {side.why}" for role, side in wanted.items())
        if not any(side.is_known for side in wanted.values()):
            blind = next(filter(None, (blindness(snapshot, role) for role in Role)), None)
            return Hold(blind.reason if blind else HoldReason.NO_METRICS, why)
        asked = Target(wanted[Role.PROMPT].count, wanted[Role.DECODER].count, why)
        return within(asked, snapshot.limits, standing=snapshot.target)

    def _wanted(self, snapshot: Snapshot, role: Role) -> _Wanted:
        current, limits = snapshot.target.of(role), snapshot.limits
        if current == 0:
            return _Wanted(0, "no node is wanted, which turns the rule off", is_known=False)
        best, told, silent = 0, list[str](), list[str]()
        for metric in self._metrics(snapshot, role):
            values = known(metric.values)
            seen = Readings(values, len(metric.values) - len(values), _unready(snapshot, role))
            proposal = proposed(
                seen, target=metric.target, current=current, tolerance=self._params.tolerance
            )
            if proposal is None:
                silent.append(metric.name)
                continue
            best = max(best, proposal.count)
            told.append(f"{metric.name} at {_percent(proposal.ratio)} of {metric.target:g}")
        shown = ", ".join((*told, *(f"{name} unknown" for name in silent)))
        if not told or (silent and best < current):
            kept = f"{shown}: stays at {current}, as what is unknown may be needed"
            return _Wanted(current, kept, is_known=bool(told))
        asked = min(max(best, limits.min_of(role), 1), limits.max_of(role))
        count = self._scales[role].paced(asked, current=current, now_s=snapshot.now_s)
        slowed = "" if count == asked else f", {count} in its windows and paces"
        return _Wanted(count, f"{shown}: {asked} of {current} wanted{slowed}")

    def _metrics(self, snapshot: Snapshot, role: Role) -> list[_Metric]:
        params = self._params
        seen = [_fresh(snapshot, node.id) for node in serving_nodes(snapshot, role)]
        if role is Role.PROMPT:
            load, target = [None if s is None else s.queue for s in seen], params.prompt_queue
            rate, use = prompt_tokens_per_s(snapshot), params.prompt_token_use
        else:
            load, target = [None if s is None else s.kv_used for s in seen], params.decoder_kv
            batch = full_batch(snapshot, lengths(snapshot.demand), tpot_s=params.tpot_s)
            rate = None if batch is None else batch.tokens_per_s
            use = params.decoder_token_use
        metrics: list[_Metric] = []
        if target is not None:
            metrics.append(_Metric(_LOAD[role], target, load))
        if use is not None:
            metrics.append(_Metric("token use", use, [_part(s, rate) for s in seen]))
        return metrics


_LOAD: Mapping[Role, str] = {Role.PROMPT: "queue a node", Role.DECODER: "KV use"}


def _fresh(snapshot: Snapshot, node_id: str) -> NodeSignals | None:
    signals = snapshot.node_signals.get(node_id)
    return signals if signals is not None and signals.is_fresh else None


def _part(signals: NodeSignals | None, rate: float | None) -> Signal | None:
    """Return a node's token rate as a part of what it can do, None where either is unknown."""
    if signals is None or signals.token_rate is None or rate is None:
        return None
    return Signal(signals.token_rate.value / rate, signals.token_rate.age_s)


def _unready(snapshot: Snapshot, role: Role) -> int:
    return sum(n.future_role is role and n.state in COMING for n in snapshot.nodes)


def _percent(ratio: float) -> str:
    return f"{ratio:.0%}" if ratio < 100 else "over 100 times"


SPEC = PolicySpec(params=HpaParams, build=Hpa)
