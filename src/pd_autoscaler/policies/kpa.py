"""kpa: the rule of Knative's pod autoscaler, once for each role.

A role gets ceil(concurrency / (target x utilisation)) nodes by its mean over a stable window. Where
the mean over a short panic window calls for twice the nodes that serve, the larger of the two
counts and nothing goes until a stable window has passed without (knative.dev/docs/serving/
autoscaling/kpa-specific, `kpa_rule` for the code).

The concurrency of prompt nodes is what they run and queue. That of decoders, where no target is
given, is by Little's law what they would run at the step time of a full batch, with their queue:
the smaller a batch the quicker its steps, so what is running grows faster than the load, and a rule
on it flaps for ever (a target of one's own, `decoder_concurrency`, brings it back).

Not as in Knative: pages are read once a cycle, not once a second, so that at a period of 10 s the
panic window holds one sample; token rates are means over the window that pages are compared over;
the last node of a role stays; and two roles share one budget.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from pd_autoscaler.core.target_limits import within
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import NodeSignals
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec
from pd_autoscaler.policies.kpa_rule import Answer, Autoscaler, Rule
from pd_autoscaler.policies.node_rates import FullBatch, full_batch, lengths
from pd_autoscaler.policies.premises import blindness, fresh_signals, known


class KpaParams(Params):
    """Concurrency targets per node, windows and rates: Knative's but for the targets and the delay.

    The delay is a stable window here: with none a ripple of 3 % moves nodes up and down.
    """

    prompt_concurrency: float = Field(default=1.0, gt=0)
    """Requests that a prompt node can work on at once."""
    decoder_concurrency: float | None = Field(default=None, gt=0)
    """Requests that a decoder can run at once; null is its learnt full batch at `tpot_s`."""
    tpot_s: float = Field(default=0.050, gt=0, le=10)
    """Seconds per output token at which a decoder is full."""
    utilisation: float = Field(default=0.7, gt=0, le=1)
    """Part of what a node can do at once that is aimed at."""
    stable_window_s: float = Field(default=60.0, ge=6, le=3600)
    """Seconds of samples that usually count."""
    panic_window_percent: float = Field(default=10.0, ge=1, le=100)
    """Part of the stable window, in percent, that is looked at for bursts."""
    panic_threshold_percent: float = Field(default=200.0, ge=110, le=1000)
    """Nodes called for by a burst, in percent of those that serve, from which panic begins."""
    up_rate_max: float = Field(default=1000.0, gt=1)
    """Largest factor by which a role grows at once."""
    down_rate_max: float = Field(default=2.0, gt=1)
    """Largest factor by which a role shrinks at once."""
    down_delay_s: float = Field(default=60.0, ge=0, le=3600)
    """Seconds of which the most that was wanted counts before a role shrinks: 0 in Knative."""

    @model_validator(mode="after")
    def _delay_is_seen(self) -> Self:
        if 0 < self.down_delay_s < self.stable_window_s * self.panic_window_percent / 100:
            raise ValueError(
                f"down_delay_s ({self.down_delay_s:g}) is below the panic window of "
                f"{self.stable_window_s * self.panic_window_percent / 100:g} s and would do "
                f"nothing; give 0 or more than that"
            )
        return self


@dataclass(frozen=True, slots=True)
class _Load:
    """The concurrency of a role in one cycle, None if unknown, and a node's target for it."""

    concurrency: float | None
    target: float
    shown: str


class Kpa:
    """Two autoscalers, one a role, which share what they see and nothing else."""

    def __init__(self, params: KpaParams) -> None:
        self._params = params
        rule = Rule(
            stable_s=params.stable_window_s,
            panic_s=params.stable_window_s * params.panic_window_percent / 100,
            panic_threshold=params.panic_threshold_percent / 100,
            up_rate_max=params.up_rate_max,
            down_rate_max=params.down_rate_max,
            down_delay_s=params.down_delay_s,
        )
        self._scalers: Mapping[Role, Autoscaler] = {role: Autoscaler(rule) for role in Role}
        self._batch: FullBatch | None = None

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the counts that the rule wants, or a refusal if neither role has any data."""
        batch = full_batch(snapshot, lengths(snapshot.demand), tpot_s=self._params.tpot_s)
        # With no requests their lengths are unknown after a while; those before still tell.
        self._batch = batch or self._batch
        counts: dict[Role, int] = {}
        told: list[str] = []
        is_known = False
        for role, scaler in self._scalers.items():
            ready, standing = snapshot.serving(role), snapshot.target.of(role)
            scaler.began(ready=ready, now_s=snapshot.now_s)
            load = self._load(snapshot, role)
            answer = scaler.scaled(
                load.concurrency, ready=ready, target=load.target, now_s=snapshot.now_s
            )
            is_known |= answer is not None
            counts[role] = standing if answer is None else max(1, answer.count)
            told.append(f"{role}: {self._told(answer, load, standing)}")
        why = "; ".join(told)
        if not is_known:
            blind = next(filter(None, (blindness(snapshot, role) for role in Role)), None)
            return Hold(blind.reason if blind else HoldReason.NO_METRICS, why)
        asked = Target(counts[Role.PROMPT], counts[Role.DECODER], why)
        return within(asked, snapshot.limits, standing=snapshot.target)

    def _told(self, answer: Answer | None, load: _Load, standing: int) -> str:
        if answer is None:
            return f"stays at {standing}, {load.shown}"
        mode = "in panic" if answer.is_panicking else "stable"
        return (
            f"concurrency {answer.stable:.3g} over {self._params.stable_window_s:g} s, "
            f"{answer.panic:.3g} of late, {load.target:.3g} a node aimed at ({load.shown}): "
            f"{answer.count} wanted, {mode}"
        )

    def _load(self, snapshot: Snapshot, role: Role) -> _Load:
        params = self._params
        own = params.prompt_concurrency if role is Role.PROMPT else params.decoder_concurrency
        fresh = fresh_signals(snapshot, role)
        if own is not None:
            values = list(_running(fresh))
            full, shown = own, f"{params.utilisation:.0%} of {own:g} at once"
        elif self._batch is None:
            return _Load(None, 1.0, "as what a decoder can do is not learnt")
        else:
            values = list(_at_full_speed(fresh, self._batch))
            full = self._batch.requests
            shown = (
                f"{params.utilisation:.0%} of {full:.3g} at once, bounded by {self._batch.bound}"
            )
        if not values:
            return _Load(None, full * params.utilisation, f"no {role} node tells its load")
        # As in Knative: who tells speaks for those that do not.
        each = sum(value / len(values) for value in values)
        return _Load(each * snapshot.serving(role), full * params.utilisation, shown)


def _running(fresh: list[NodeSignals]) -> Iterator[float]:
    """Yield what each node that tells both runs and queues."""
    for node in fresh:
        counts = known((node.running, node.queue))
        if len(counts) == 2 and math.isfinite(sum(counts)):
            yield sum(counts)


def _at_full_speed(fresh: list[NodeSignals], batch: FullBatch) -> Iterator[float]:
    """Yield what each node would run at the step time of a full batch, and what it queues."""
    for node in fresh:
        counts = known((node.token_rate, node.queue))
        if len(counts) == 2 and math.isfinite(sum(counts)):
            yield counts[0] * batch.step_s + counts[1]


SPEC = PolicySpec(params=KpaParams, build=Kpa)
