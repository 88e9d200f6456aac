"""Liveness: once the faults stop and the load holds, the fleet reaches its target and rests."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.fleet.world import World

TURNS_PER_HOUR_MAX = 4
"""Most changes of direction of one role's target in an hour of constant load."""


def unsettled(world: World, target: Target | None, notes: Sequence[str] = ()) -> Iterator[str]:
    """Yield what keeps the world from being what the standing target asks for.

    `notes` are those of the newest plan: at a full budget a role that its load does not let go of
    keeps its nodes, whatever the target, and the plan says so.
    """
    if target is None:
        yield "there is no standing target"
        return
    for role in Role:
        serving = len(world.serving(role))
        there = sum(node.is_there for node in world.nodes.values() if node.role is role)
        is_kept = any("is given up: the rest could not carry" in note for note in notes)
        if not (serving == there and (is_kept or there == target.of(role))):
            yield f"{serving} of {there} {role} nodes serve, the target is {target}"
    for node_id in world.published:
        if not world.nodes[node_id].is_up:
            yield f"{node_id} is {world.nodes[node_id].life} and still published"
    for decoder in world.serving(Role.DECODER):
        for prompt in world.serving(Role.PROMPT):
            if not world.are_linked(decoder, prompt):
                yield f"{decoder.id} and {prompt.id} are not linked"
    yield from _stale(world)


def _stale(world: World) -> Iterator[str]:
    for node in world.nodes.values():
        if node.process is None or not node.is_up:
            continue
        for cluster_id, incarnation in node.process.entities.items():
            peer = world.by_cluster(cluster_id)
            if peer is None or peer.incarnation != incarnation:
                yield f"{node.id} holds a stale entry for cluster {cluster_id} ({incarnation})"


def turns(targets: Sequence[Target], role: Role) -> int:
    """Count the changes of direction of one role's target."""
    counts = [target.of(role) for target in targets]
    steps = [b - a for a, b in pairwise(counts) if b != a]
    return sum((a > 0) is not (b > 0) for a, b in pairwise(steps))
