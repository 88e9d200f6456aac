"""What befalls one node of the simulated world by itself."""

from functools import partial

from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.faults import WorldFault
from pd_autoscaler.sim.fleet.node import Life, SimNode
from pd_autoscaler.sim.fleet.world import World


def befall_node(world: World, fault: WorldFault, node: SimNode) -> None:
    """Let a world fault that is a node's strike this one."""
    faults = world.faults
    match fault:
        case WorldFault.NODE_DIES:
            _die(world, node)
            # A provider that listed dead nodes for ever would leave a mass failure for ever.
            most_s = 300.0 if faults.stream(fault).getrandbits(1) else 1500.0
            unlisted_at_s = world.now_s + faults.draw_s(fault, 20.0, most_s)
            node.unlisted_at_s = min(node.unlisted_at_s, unlisted_at_s)
        case WorldFault.NODE_VANISHES:
            _die(world, node)
            node.unlisted_at_s = world.now_s
        case WorldFault.NODE_RESTARTS:
            if node.is_up and not node.is_stopping:
                _die(world, node)
                node.life = Life.STARTING
                keeps_id = faults.draw_s(fault, 0.0, 1.0) < 0.7
                delay_s = faults.draw_s(fault, 2.0, 60.0)
                world.events.after(delay_s, partial(world.boot, node, keeps_id=keeps_id))
        case WorldFault.AGENT_SILENT | WorldFault.NODE_SILENT:
            silent_s = faults.draw_s(fault, 5.0, 120.0)
            silence(world, node, silent_s, metrics_too=fault is WorldFault.NODE_SILENT)
        case WorldFault.COUNTER_RESET:
            world.engines.reset_counters(node.id)
        case WorldFault.LINK_BREAKS:
            _break_link(world, node)
        case _:
            raise ValueError(f"{fault} is nothing that befalls a node")


def silence(world: World, node: SimNode, silent_s: float, *, metrics_too: bool) -> None:
    """Have a node's agent, or its metrics as well, not answer for a while."""
    back_s = world.now_s + silent_s
    node.agent_back_s = max(node.agent_back_s, back_s)
    if metrics_too:
        node.metrics_back_s = max(node.metrics_back_s, back_s)


def _die(world: World, node: SimNode) -> None:
    node.broke(world.now_s)
    world.end(node, Life.DEAD)


def _break_link(world: World, node: SimNode) -> None:
    """Have an engine drop one link by itself, as some do after a failed pull."""
    process = node.process
    if node.role is not Role.DECODER or process is None or not process.rows:
        return
    cluster_id = world.faults.stream("break").choice(list(process.rows))
    row = process.rows[cluster_id]
    if row.call is not None and not row.call.is_ended:
        return
    del process.rows[cluster_id]
    process.entities.pop(cluster_id, None)
    peer = world.by_cluster(cluster_id)
    if peer is not None:
        world.flow()
        world.linked(node, world.nodes[peer.node_id])
    node.broken_at_s = world.now_s
    world.note(f"link broke {node.id} {cluster_id}")
