"""A small simulated world to act on, and the seeds of a run."""

import subprocess
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from pd_autoscaler.model.facts import AgentPhase
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.plan import Peer
from pd_autoscaler.ports import Fence
from pd_autoscaler.sim.adapters import Step
from pd_autoscaler.sim.faults import Faults
from pd_autoscaler.sim.fleet.engines import NOTHING, Engines
from pd_autoscaler.sim.fleet.node import SimNode
from pd_autoscaler.sim.fleet.process import Process
from pd_autoscaler.sim.fleet.traffic import PLAIN, Steady
from pd_autoscaler.sim.fleet.world import World

FENCE = Fence(epoch=1, holder="test")
FALLBACK_COMMIT = "0" * 40


class Heard:
    """Remembers what the adapters told of a controller's calls."""

    def __init__(self) -> None:
        self.acted: list[str] = []
        self.doubts: list[str] = []
        self.places: list[str] = []

    def acting(self, thing: str) -> None:
        self.acted.append(thing)

    def doubted(self, thing: str) -> None:
        self.doubts.append(thing)

    def read(self, place: str) -> None:
        self.places.append(place)

    def asked(self, ids: Sequence[int]) -> None:
        assert len(set(ids)) == len(ids)


def world_of(
    *,
    prompts: int,
    decoders: int,
    only: frozenset[str] = frozenset(),
    traffic: Steady | None = None,
) -> World:
    """Make a world of running nodes, not yet initialised, with exactly these faults on."""
    world = World(Faults(1, only=only), Engines(PLAIN, traffic or Steady(rate=1.0)))
    for role, count in ((Role.PROMPT, prompts), (Role.DECODER, decoders)):
        for _ in range(count):
            world.found(role)
    return world


def surely(world: World, *kinds: str) -> None:
    """Have these call faults strike every call from now on."""
    world.faults.chance.update(dict.fromkeys(world.faults.chance, 0.0))
    world.faults.chance.update(dict.fromkeys(kinds, 1.1))


def step_of(world: World, heard: Heard | None = None) -> Step:
    """Make a controller's way to the world that nothing kills."""
    return Step(world, heard or Heard(), lambda: None)


def process_of(node: SimNode) -> Process:
    """Return a node's process, initialised in its role."""
    process = node.process
    assert process is not None
    process.phase, process.role = AgentPhase.READY, node.role
    return process


def known(node: SimNode) -> Node:
    """Return a node as a controller that has met it knows it."""
    process = process_of(node)
    return Node(
        id=node.id,
        role=node.role,
        state=NodeState.LINKING,
        since_s=0.0,
        incarnation=process.incarnation,
        endpoints=process.state(NOTHING, now_s=0.0).endpoints,
    )


def peer(node: SimNode) -> Peer:
    """Return a node as the far end of a link call."""
    met = known(node)
    return Peer(met.id, met.incarnation, met.endpoints)


def of_role(world: World, role: Role) -> list[SimNode]:
    """List the world's nodes of a role."""
    return [node for node in world.nodes.values() if node.role is role]


def seeds_of_commit(count: int) -> list[int]:
    """Return seeds that the present git commit decides, so that each commit tries others."""
    root = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        )
        commit = told.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = FALLBACK_COMMIT
    return [
        int.from_bytes(sha256(f"{commit}/{number}".encode()).digest()[:4])
        for number in range(count)
    ]
