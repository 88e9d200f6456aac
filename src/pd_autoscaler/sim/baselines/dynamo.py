"""dynamo: the throughput loop, the load loop and both together, of NVIDIA Dynamo's planner 1.6.1.

Source: ai-dynamo/dynamo 1.6.1, `planner` (mode disagg, optimization_target sla). Throughput, every
180 s: nodes = predicted requests a second / what one engine does at mean lengths, at most 8 more or
fewer a role, without headroom. Load, every 5 s: a node more of a role only if all its engines are
predicted to miss their target; a node less only if with the load on the others all would stay
within 0.8 of it. Together, throughput sets the floor and load acts above it.

Deviations: the forecast is the planner's Kalman filter or its constant, its default (ARIMA) is
left out; the engine's model is its profile, not learnt from forward passes; queued tokens are
queued requests of mean length, as pages count requests.
"""

from typing import Literal

from pydantic import Field

from pd_autoscaler.engine_model.profile import DEMO, EngineProfile
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import NodeSignals
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec
from pd_autoscaler.policies.premises import fresh_signals
from pd_autoscaler.sim.baselines.forecast import Constant, Kalman
from pd_autoscaler.sim.baselines.rates import (
    decoder_tokens_per_s,
    prefill_s,
    prompt_requests_per_s,
)
from pd_autoscaler.sim.baselines.seen import Load, Paced, count, fitted, is_moving, load, value


class DynamoParams(Params):
    """Targets, the profiled engine, and the defaults of both loops."""

    engine: EngineProfile = DEMO
    """What one node does."""
    ttft_s: float = Field(default=0.5, gt=0)
    """Target of the first token."""
    tpot_s: float = Field(default=0.050, gt=0)
    """Target of each later token."""
    throughput_s: float = Field(default=180.0, gt=0)
    """Seconds from one throughput decision to the next."""
    step_max: int = Field(default=8, ge=1)
    """Most nodes of a role that one throughput decision moves."""
    predictor: Literal["constant", "kalman"] = "kalman"
    """How rate and lengths of the next interval are predicted."""
    load_s: float = Field(default=5.0, gt=0)
    """Seconds from one load decision to the next."""
    sensitivity: float = Field(default=0.8, ge=0, le=1)
    """Part of the target within which the others must stay for a node to go; 0 keeps all."""


class Throughput:
    """Sizes both roles to the predicted mean load, every 180 s."""

    def __init__(self, params: DynamoParams) -> None:
        self._params = params
        self._paced = Paced(params.throughput_s, self._decided)
        self._interval: list[Load] = []
        kind = Kalman if params.predictor == "kalman" else Constant
        self._rate, self._input, self._computed, self._output = (kind() for _ in range(4))

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the counts of the last decision, or of a new one if it is time."""
        seen = load(snapshot)
        if not isinstance(seen, Hold):
            self._interval.append(seen)
        return self._paced.decide(snapshot)

    def _decided(self, snapshot: Snapshot) -> Decision:
        if not self._interval:
            return Hold(HoldReason.NO_METRICS, "no traffic was seen in the interval")
        self._predict()
        self._interval = []
        return self._sized(snapshot)

    def _predict(self) -> None:
        """Take in the interval's mean rate, and its mean lengths by request."""
        rates = [seen.requests_per_s for seen in self._interval]
        self._rate.saw(sum(rates) / len(rates))
        total = sum(rates)
        if total <= 0:
            return  # Without requests the lengths stay those of before.
        for series, name in (
            (self._input, "input_len"),
            (self._computed, "computed"),
            (self._output, "output_len"),
        ):
            mean = sum(s.requests_per_s * getattr(s, name) for s in self._interval) / total
            series.saw(mean)

    def _sized(self, snapshot: Snapshot) -> Target:
        params, standing = self._params, snapshot.target
        asked = Load(self._rate.next, self._input.next, self._computed.next, self._output.next)
        prompt_each = prompt_requests_per_s(params.engine, asked.computed, params.ttft_s)
        tokens = decoder_tokens_per_s(params.engine, asked.context, params.tpot_s)
        decoder_each = tokens / max(asked.output_len, 1.0)
        needs = {
            Role.PROMPT: asked.requests_per_s / prompt_each,
            Role.DECODER: asked.requests_per_s / decoder_each,
        }
        prompt, decoder = (
            min(
                max(count(snapshot, role, need), standing.of(role) - params.step_max),
                standing.of(role) + params.step_max,
            )
            for role, need in needs.items()
        )
        why = (
            f"{asked.requests_per_s:.2f} requests/s predicted, {prompt_each:.2f} a prompt node, "
            f"{decoder_each:.2f} a decoder"
        )
        return fitted(snapshot, prompt, decoder, why)


class LoadRule:
    """Moves each role by a node at a time, by what its engines are predicted to do."""

    def __init__(self, params: DynamoParams) -> None:
        self._params = params
        self._paced = Paced(params.load_s, self._decided)

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the counts of the last decision, or of a new one if it is time."""
        return self._paced.decide(snapshot)

    def _decided(self, snapshot: Snapshot) -> Decision:
        if is_moving(snapshot):
            return Hold(HoldReason.POLICY_HELD, "a scaling is in progress")
        seen = load(snapshot)
        if isinstance(seen, Hold):
            return seen
        votes: dict[Role, tuple[int, str]] = {}
        for role in Role:
            engines = fresh_signals(snapshot, role)
            if not engines or len(engines) != snapshot.serving(role):
                told = f"{len(engines)} of {snapshot.serving(role)} {role} engines are seen"
                return Hold(HoldReason.PARTIAL_METRICS, told)
            vote = self._prompt(engines, seen) if role is Role.PROMPT else self._decoder(engines)
            if isinstance(vote, Hold):
                return vote
            votes[role] = vote
        prompt, decoder = (
            count(snapshot, role, snapshot.target.of(role) + vote)
            for role, (vote, _) in votes.items()
        )
        why = "; ".join(f"{role} {told}" for role, (_, told) in votes.items())
        return fitted(snapshot, prompt, decoder, why)

    def _prompt(self, engines: list[NodeSignals], seen: Load) -> tuple[int, str] | Hold:
        params = self._params
        queues = [value(engine.queue) for engine in engines]
        own_s = prefill_s(params.engine, seen.computed, seen.computed)

        def ttft_s(queue: float, times: float) -> float:
            queued = queue * seen.computed * times
            return prefill_s(params.engine, queued, seen.computed) + own_s

        known = [queue for queue in queues if queue is not None]
        if len(known) < len(queues):
            return Hold(HoldReason.PARTIAL_METRICS, "a prompt node does not say its queue")
        now_s = [ttft_s(queue, 1.0) for queue in known]
        shown = f"TTFT {min(now_s):.2f} to {max(now_s):.2f} s"
        if all(seconds > params.ttft_s for seconds in now_s):
            return +1, shown
        after = _spread(len(known))
        room_s = (params.ttft_s - own_s) * params.sensitivity
        if after and all(ttft_s(queue, after) - own_s < room_s for queue in known):
            return -1, shown
        return 0, shown

    def _decoder(self, engines: list[NodeSignals]) -> tuple[int, str] | Hold:
        params = self._params
        batches = [_batch(engine, params.engine) for engine in engines]
        known = [batch for batch in batches if batch is not None]
        if len(known) < len(batches):
            return Hold(HoldReason.PARTIAL_METRICS, "a decoder does not say its batch or KV use")

        def itl_s(batch: tuple[float, float], times: float) -> float:
            requests, tokens = batch
            return params.engine.decode_step_s(int(requests * times), int(tokens * times))

        now_s = [itl_s(batch, 1.0) for batch in known]
        shown = f"ITL {1000 * min(now_s):.0f} to {1000 * max(now_s):.0f} ms"
        if all(seconds > params.tpot_s for seconds in now_s):
            return +1, shown
        after = _spread(len(known))
        if after and all(
            itl_s(batch, after) < params.tpot_s * params.sensitivity
            and batch[1] * after < params.engine.kv_tokens
            for batch in known
        ):
            return -1, shown
        return 0, shown


class Hybrid:
    """Throughput sets the least of each role, and load acts above it."""

    def __init__(self, params: DynamoParams) -> None:
        self._throughput = Throughput(params)
        self._load = LoadRule(params)

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return what load wants, no less than what throughput wants."""
        floor, wanted = self._throughput.decide(snapshot), self._load.decide(snapshot)
        if isinstance(floor, Hold):
            return wanted
        above = snapshot.target if isinstance(wanted, Hold) else wanted
        prompt, decoder = max(floor.prompt, above.prompt), max(floor.decoder, above.decoder)
        if isinstance(wanted, Hold) and Target(prompt, decoder) == snapshot.target:
            return wanted
        why = f"at least {floor} ({floor.why}); load: {wanted}"
        return fitted(snapshot, prompt, decoder, why)


def _spread(engines: int) -> float:
    """Return by what the load of each of the others grows if one goes; 0 if none may."""
    return engines / (engines - 1) if engines > 1 else 0.0


def _batch(signals: NodeSignals, engine: EngineProfile) -> tuple[float, float] | None:
    """Return the requests of a decoder, queued ones too, and the tokens of KV that they take."""
    running, kv_used = value(signals.running), value(signals.kv_used)
    if running is None or kv_used is None:
        return None
    queued = value(signals.queue) or 0.0
    tokens = min(kv_used, 1.0) * engine.kv_tokens
    return running + queued, tokens * (1 + queued / max(running, 1.0))


THROUGHPUT = PolicySpec(params=DynamoParams, build=Throughput)
LOAD = PolicySpec(params=DynamoParams, build=LoadRule)
HYBRID = PolicySpec(params=DynamoParams, build=Hybrid)
