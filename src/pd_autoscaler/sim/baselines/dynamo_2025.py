"""dynamo-2025: the two planners of NVIDIA Dynamo as of mid-2025, with which most papers compare.

Source: the planner inside DOPD's fork of ai-dynamo/dynamo. The SLA planner corrects its profile by
what it sees: p = TTFT / profiled TTFT, d = ITL / profiled ITL;
prompt nodes = requests/s * input * min(1, p) / profiled tokens/s, so that a TTFT breach never adds
one; decoders = requests/s * output / the profiled best tokens/s at target / d. The load planner
steps by one every 30 s: decoders at mean KV use above 0.9 or below 0.5, prompt nodes at a queue a
node above 0.5 or below 0.2; a new decoder is given three intervals, and no prompt node is added if
the queue's trend empties it within three. Neither knows what is already starting.

Deviations: mean TTFT and ITL are read by Little's law from queues, batches and rates, as role
signals have quantiles only; the forecast is the last interval's value.
"""

from pydantic import Field

from pd_autoscaler.engine_model.profile import DEMO, EngineProfile
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec
from pd_autoscaler.sim.baselines.rates import decoder_tokens_per_s, prefill_s
from pd_autoscaler.sim.baselines.seen import Load, Paced, count, fitted, load, value

GRACE_INTERVALS = 3
"""Intervals that a new decoder is given, and that a falling prompt queue is followed ahead."""


class SlaParams(Params):
    """Targets, the profiled engine, and how often is decided."""

    engine: EngineProfile = DEMO
    """What one node does."""
    ttft_s: float = Field(default=0.5, gt=0)
    """Target of the first token."""
    tpot_s: float = Field(default=0.050, gt=0)
    """Target of each later token."""
    period_s: float = Field(default=180.0, gt=0)
    """Seconds from one decision to the next."""


class Sla:
    """Sizes both roles to the last interval's load, corrected by observed latencies."""

    def __init__(self, params: SlaParams) -> None:
        self._params = params
        self._paced = Paced(params.period_s, self._sized)

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the counts of the last decision, or of a new one if it is time."""
        return self._paced.decide(snapshot)

    def _sized(self, snapshot: Snapshot) -> Decision:
        seen = load(snapshot)
        if isinstance(seen, Hold):
            return seen
        params, engine = self._params, self._params.engine
        alone_s = max(prefill_s(engine, seen.computed, seen.computed), 1e-6)
        late = _ttft_s(snapshot, seen, alone_s) / alone_s
        tokens_per_s = seen.computed / alone_s
        asked = seen.requests_per_s * seen.computed * min(1.0, late)
        slow = _slowness(snapshot, engine)
        best = decoder_tokens_per_s(engine, seen.context, params.tpot_s / slow)
        made = seen.requests_per_s * seen.output_len
        why = f"TTFT {late:.2f} and ITL {slow:.2f} times the profile's"
        return fitted(
            snapshot,
            count(snapshot, Role.PROMPT, asked / tokens_per_s),
            count(snapshot, Role.DECODER, made / best),
            why,
        )


def _ttft_s(snapshot: Snapshot, seen: Load, alone_s: float) -> float:
    """Return the mean seconds that a prompt waits and is computed, the profile's if unknown."""
    queue, running = value(snapshot.prompt.queue), value(snapshot.prompt.running)
    if queue is None or running is None or seen.requests_per_s <= 0:
        return alone_s
    return (queue + running) / seen.requests_per_s


def _slowness(snapshot: Snapshot, engine: EngineProfile) -> float:
    """Return how many times the profile's step the mean one takes, 1 if that is unknown."""
    decoder = snapshot.decoder
    running, rate = value(decoder.running), value(decoder.token_rate)
    kv_used = value(decoder.kv_used_mean)
    if not running or not rate or kv_used is None or not decoder.serving:
        return 1.0
    each, tokens = running / decoder.serving, min(kv_used, 1.0) * engine.kv_tokens
    expected_s = max(engine.decode_step_s(round(each), round(tokens)), 1e-6)
    return min(max(running / rate / expected_s, 0.01), 100.0)


class LoadParams(Params):
    """The thresholds of the load planner, with its defaults."""

    period_s: float = Field(default=30.0, gt=0)
    """Seconds from one decision to the next."""
    kv_full: float = Field(default=1.0, gt=0, le=1)
    """KV use of a decoder that is as full as its TPOT target allows; thresholds are parts of it."""
    kv_up: float = Field(default=0.9, gt=0, le=1)
    """Mean KV use of decoders above which one is added."""
    kv_down: float = Field(default=0.5, ge=0, le=1)
    """Mean KV use below which one goes."""
    queue_up: float = Field(default=0.5, ge=0)
    """Queued prompts a node above which one is added."""
    queue_down: float = Field(default=0.2, ge=0)
    """Queued prompts a node below which one goes."""


class Thresholds:
    """Steps each role by one node at its thresholds."""

    def __init__(self, params: LoadParams) -> None:
        self._params = params
        self._paced = Paced(params.period_s, self._decided)
        self._queue_before: float | None = None
        self._grace = 0

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the counts of the last decision, or of a new one if it is time."""
        return self._paced.decide(snapshot)

    def _decided(self, snapshot: Snapshot) -> Decision:
        queue, kv_used = value(snapshot.prompt.queue), value(snapshot.decoder.kv_used_mean)
        if queue is None or kv_used is None:
            return Hold(HoldReason.NO_METRICS, "the prompt queue or decoders' KV use is unknown")
        return self._stepped(snapshot, queue, kv_used / self._params.kv_full)

    def _stepped(self, snapshot: Snapshot, queue: float, kv_used: float) -> Target:
        params, standing = self._params, snapshot.target
        each = queue / max(standing.prompt, 1)
        trend = 0.0 if self._queue_before is None else each - self._queue_before
        self._queue_before = each
        prompt, decoder = standing.prompt, standing.decoder
        if each > params.queue_up:
            # A queue that empties by itself needs no node.
            prompt += each + GRACE_INTERVALS * trend > params.queue_up
        elif each < params.queue_down:
            prompt -= 1
        self._grace = max(self._grace - 1, 0)
        if kv_used > params.kv_up:
            decoder += 1
            self._grace = GRACE_INTERVALS + 1
        elif kv_used < params.kv_down and not self._grace:
            decoder -= 1
        why = f"{each:.2f} queued a prompt node, decoders {kv_used:.0%} full"
        return fitted(
            snapshot,
            count(snapshot, Role.PROMPT, prompt),
            count(snapshot, Role.DECODER, decoder),
            why,
        )


SLA = PolicySpec(params=SlaParams, build=Sla)
LOAD = PolicySpec(params=LoadParams, build=Thresholds)
