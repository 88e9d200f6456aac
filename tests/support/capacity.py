"""A fleet of nodes with pages of its own, and the capacity that is learnt from them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from pd_autoscaler.core.capacity import CapacityMemory, Priors, capacities, learnt
from pd_autoscaler.core.signals import Key
from pd_autoscaler.core.windows import History
from pd_autoscaler.engine_model.profile import DEMO
from pd_autoscaler.model.capacity import NodeCapacity
from pd_autoscaler.model.node import Node, Role
from pd_autoscaler.model.signals import NodeSignals, Reading
from pd_autoscaler.model.snapshot import Bottleneck
from tests.support.pages import node

PERIOD_S, WINDOW_S = 10.0, 30.0
KV_TOKENS = 49152.0
Pages = Callable[[float], Reading]


@dataclass
class Fleet:
    """Nodes with their pages, and the memory that learns from them cycle by cycle."""

    nodes: list[Node] = field(default_factory=list)
    pages: dict[str, Pages] = field(default_factory=dict)
    histories: dict[Key, History] = field(default_factory=dict)
    memory: CapacityMemory = field(default_factory=CapacityMemory)
    priors: Priors = field(default_factory=Priors)
    now_s: float = 0.0
    stale: frozenset[str] = frozenset()

    def add(self, member: Node, page: Pages) -> None:
        self.nodes.append(member)
        self.pages[member.id] = page

    def run(self, cycles: int, bottleneck: Bottleneck = Bottleneck.NONE) -> None:
        for _ in range(cycles):
            fresh: dict[str, NodeSignals] = {}
            for member in self.nodes:
                page = self.pages[member.id](self.now_s)
                key = (member.id, member.incarnation, member.role)
                history = self.histories.get(key, History())
                self.histories[key] = history.added(page, keep_s=300)
                fresh[member.id] = NodeSignals(
                    node_id=member.id, engine="vllm", is_fresh=member.id not in self.stale
                )
            self.memory = learnt(
                self.memory,
                self.histories,
                self.nodes,
                fresh,
                now_s=self.now_s,
                window_s=WINDOW_S,
                bottleneck=bottleneck,
                priors=self.priors,
            )
            self.now_s += PERIOD_S

    def told(self, role: Role) -> NodeCapacity:
        (found,) = (known for known in capacities(self.memory) if known.role is role)
        return found


def prompt_page(
    node_id: str = "p0", *, tokens_per_s: float = 5000.0, waiting: float = 3.0
) -> Pages:
    """Make the pages of a prompt node with a steady rate and queue."""
    return lambda now_s: Reading(
        node_id=node_id,
        at_s=now_s,
        gauges={"waiting": waiting, "cache_tokens": KV_TOKENS},
        counters={"prompt_tokens": tokens_per_s * now_s},
    )


def visited(page: Pages, gifts: dict[float, dict[str, float]]) -> Pages:
    """Make the pages on which counters suddenly have more, as of a rank that came with its life."""

    def seen(now_s: float) -> Reading:
        shown = page(now_s)
        counters = dict(shown.counters)
        for at_s, gift in gifts.items():
            for name, amount in gift.items():
                counters[name] += amount if now_s >= at_s else 0.0
        return replace(shown, counters=counters)

    return seen


@dataclass
class Decoder:
    """A decoder that steps as the engine model says: requests come, take tokens, and go."""

    node_id: str
    seed: int
    load: Callable[[float], float]
    slowness: float = 1.0
    counters: dict[str, float] = field(
        default_factory=lambda: {"tpot_s_sum": 0.0, "tpot_s_count": 0.0}
    )

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.batch: list[list[int]] = []
        self.now_s = 0.0

    def __call__(self, until_s: float) -> Reading:
        while self.now_s < until_s:
            wanted = min(DEMO.batch_max, self.load(self.now_s))
            while len(self.batch) < wanted - self.random.random() * 3:
                self.batch.append(
                    [int(self.random.uniform(300, 1800)), self.random.randint(9, 400)]
                )
            held = sum(request[0] for request in self.batch)
            step_s = DEMO.decode_step_s(len(self.batch), held) * self.slowness
            self.now_s += step_s
            self.counters["tpot_s_sum"] += step_s * len(self.batch)
            self.counters["tpot_s_count"] += len(self.batch)
            for request in self.batch:
                request[0] += 1
                request[1] -= 1
            self.batch = [request for request in self.batch if request[1] > 0]
        blocks = sum(DEMO.blocks(request[0]) for request in self.batch)
        return Reading(
            node_id=self.node_id,
            at_s=until_s,
            gauges={
                "running": float(len(self.batch)),
                "kv_used": blocks / DEMO.kv_blocks,
                "cache_tokens": KV_TOKENS,
            },
            counters=dict(self.counters),
        )


def swinging(low: float, high: float, period_s: float) -> Callable[[float], float]:
    """Make a load that swings between two batches."""
    return lambda now_s: low + (high - low) * (1 - math.cos(2 * math.pi * now_s / period_s)) / 2


def decoders(count: int, load: Callable[[float], float] | None = None) -> Fleet:
    """Make a fleet of decoders alike, each with requests of its own."""
    fleet = Fleet()
    for index in range(count):
        member = node(f"d{index}", Role.DECODER)
        fleet.add(member, Decoder(member.id, index, load or swinging(4, 36, 1200)))
    return fleet
