"""One node of the simulated world, and what its engine's page says."""

import math
from dataclasses import dataclass, field
from enum import StrEnum

from pd_autoscaler.model.facts import EngineLoad
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Histogram, Reading
from pd_autoscaler.sim.fleet.load import PROMPT_TOKENS, TOKEN_S, Load
from pd_autoscaler.sim.fleet.process import Process

BOUNDS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, math.inf)


class Life(StrEnum):
    """What became of a node in the world, whoever knows of it."""

    STARTING = "starting"
    UP = "up"
    DEAD = "dead"
    GONE = "gone"


@dataclass(slots=True, kw_only=True)
class SimNode:
    """A node as it is; times are virtual seconds.

    `role` is the one it has now, `made_as` the one its provider made it in and lists it with.
    `is_broken` says that a fault gave the controller reason to treat the node as lost (last at
    `broken_at_s`), so what it does to the node is excused until the node is published again.
    """

    id: str
    role: Role
    made_as: Role
    can_switch_role: bool = False
    request_id: str = ""
    life: Life = Life.STARTING
    process: Process | None = None
    listed_at_s: float = 0.0
    unlisted_at_s: float = math.inf
    is_stopping: bool = False
    is_broken: bool = False
    broken_at_s: float = -math.inf
    booted_at_s: float = 0.0
    agent_back_s: float = 0.0
    metrics_back_s: float = 0.0
    agent_seen_s: float = 0.0
    metrics_seen_s: float = 0.0
    withdrawn_at_s: float = -math.inf
    flight_at_withdrawal: float = 0.0
    idle_at_s: float = -math.inf
    share: float = 0.0
    counters: dict[str, float] = field(default_factory=dict)
    buckets: dict[str, list[float]] = field(default_factory=dict)

    @property
    def is_up(self) -> bool:
        """Whether its process runs."""
        return self.life is Life.UP and self.process is not None and self.process.is_alive

    @property
    def is_there(self) -> bool:
        """Whether it takes up an accelerator."""
        return self.life in {Life.STARTING, Life.UP}

    def broke(self, now_s: float) -> None:
        """Take note of a fault after which the node may be treated as lost."""
        self.is_broken, self.broken_at_s = True, now_s

    def in_flight(self, load: Load, *, now_s: float) -> int:
        """Requests on this node: its share while published, what is left of it afterwards."""
        if not self.is_up:
            return 0
        if self.share:
            return math.ceil(self.share * (load.queue[self.role] + load.running(self.role)))
        if now_s >= self.idle_at_s:
            return 0
        left = (self.idle_at_s - now_s) / (self.idle_at_s - self.withdrawn_at_s)
        return math.ceil(self.flight_at_withdrawal * left)

    def engine(self, load: Load, *, now_s: float, tells_kv: bool) -> EngineLoad:
        """Return what the engine's hooks say; what is unpulled only with `tells_kv`."""
        inside = self.in_flight(load, now_s=now_s)
        waiting = math.floor(self.share * load.queue[self.role])
        unpulled = inside if self.role is Role.PROMPT else 0
        return EngineLoad(
            waiting=waiting,
            running=max(inside - waiting, 0),
            kv_unpulled=unpulled if tells_kv else None,
        )

    def worked(self, load: Load, passed_s: float) -> None:
        """Count what flowed through this node."""
        finished = load.flow[self.role] * self.share * passed_s
        is_prompt = self.role is Role.PROMPT
        tokens = PROMPT_TOKENS if is_prompt else load.answer_s / TOKEN_S
        time_s = load.ttft_s() if is_prompt else TOKEN_S
        name = "ttft_s" if is_prompt else "tpot_s"
        length = "input_len" if is_prompt else "output_len"
        added = {
            "requests_finished": finished,
            "prompt_tokens" if is_prompt else "generation_tokens": finished * tokens,
            f"{name}_sum": finished * time_s,
            f"{name}_count": finished,
            f"{length}_sum": finished * tokens,
            f"{length}_count": finished,
        }
        for counter, value in added.items():
            self.counters[counter] = self.counters.get(counter, 0.0) + value
        counts = self.buckets.setdefault(name, [0.0] * len(BOUNDS))
        for index, bound in enumerate(BOUNDS):
            if time_s <= bound:
                counts[index] += finished

    def reset_counters(self) -> None:
        """Begin every count at zero again, as a restarted exporter does."""
        self.counters.clear()
        self.buckets.clear()

    def reading(self, load: Load, *, now_s: float) -> Reading:
        """Return the engine's page in canonical names."""
        inside = self.in_flight(load, now_s=now_s)
        waiting = self.share * load.queue[self.role]
        if self.share:
            kv_used = load.kv_used(self.role, round(1 / self.share))
        else:
            kv_used = min(inside / load.batch_max, 1.0)
        histograms: dict[str, Histogram] = {
            name: tuple(zip(BOUNDS, counts, strict=True)) for name, counts in self.buckets.items()
        }
        return Reading(
            node_id=self.id,
            at_s=now_s,
            gauges={
                "waiting": float(math.floor(waiting)),
                "running": float(max(inside - math.floor(waiting), 0)),
                "kv_used": kv_used,
            },
            counters=dict(self.counters),
            histograms=histograms,
        )
