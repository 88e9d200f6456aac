"""World faults: what happens to nodes, load and the controller by itself, at drawn times."""

from collections.abc import Callable
from functools import partial

from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.faults import WorldFault
from pd_autoscaler.sim.fleet.node import Life, SimNode
from pd_autoscaler.sim.fleet.world import World

RATE_RANGE = (0.3, 3.5)
"""Requests per second that the usual budget can carry, in most mixes of its nodes."""
ANSWER_RANGE_S = (8.0, 40.0)
"""How long a decoder works on one answer: long ones want more decoders, short ones fewer."""


class Perils:
    """Strikes the world until the faults are calm; `controller` is told of what befalls it.

    No lasting load is above `rate_max` requests per second.
    """

    def __init__(
        self, world: World, controller: Callable[[WorldFault], None], *, rate_max: float
    ) -> None:
        self._world = world
        self._faults = world.faults
        self._controller = controller
        self._rate = world.load.rate
        self._rate_max = rate_max
        for fault in WorldFault:
            # An operator pauses a controller through a call, which is not an event.
            if fault is not WorldFault.PAUSED:
                self._arm(fault)

    def _arm(self, fault: WorldFault) -> None:
        wait_s = self._faults.wait_s(fault)
        if wait_s is not None:
            self._world.events.after(wait_s, lambda: self._happen(fault))

    def _happen(self, fault: WorldFault) -> None:
        if self._faults.is_calm:
            return
        self._strike(fault)
        self._arm(fault)

    def _strike(self, fault: WorldFault) -> None:
        self._world.note(f"fault {fault}")
        match fault:
            case WorldFault.ALL_SILENT:
                silent_s = self._faults.draw_s(fault, 10.0, 90.0)
                for node in self._world.nodes.values():
                    self._silence(node, silent_s, metrics_too=True)
            case WorldFault.LOAD_STEP | WorldFault.LOAD_SPIKE | WorldFault.LOAD_DROUGHT:
                self._load(fault)
            case WorldFault.LOAD_SHIFT:
                self._shift()
            case WorldFault.CONTROLLER_KILLED | WorldFault.LEASE_LOST:
                self._controller(fault)
            case _:
                nodes = [n for n in self._world.nodes.values() if n.is_there]
                if nodes:
                    self._node(fault, self._faults.stream(fault).choice(nodes))

    def _node(self, fault: WorldFault, node: SimNode) -> None:
        world, faults = self._world, self._faults
        match fault:
            case WorldFault.NODE_DIES:
                self._die(node)
                # A provider that listed dead nodes for ever would leave a mass failure for ever.
                most_s = 300.0 if faults.stream(fault).getrandbits(1) else 1500.0
                unlisted_at_s = world.now_s + faults.draw_s(fault, 20.0, most_s)
                node.unlisted_at_s = min(node.unlisted_at_s, unlisted_at_s)
            case WorldFault.NODE_VANISHES:
                self._die(node)
                node.unlisted_at_s = world.now_s
            case WorldFault.NODE_RESTARTS:
                if node.is_up and not node.is_stopping:
                    self._die(node)
                    node.life = Life.STARTING
                    keeps_id = faults.draw_s(fault, 0.0, 1.0) < 0.7
                    delay_s = faults.draw_s(fault, 2.0, 60.0)
                    world.events.after(delay_s, partial(world.boot, node, keeps_id=keeps_id))
            case WorldFault.AGENT_SILENT | WorldFault.NODE_SILENT:
                silent_s = faults.draw_s(fault, 5.0, 120.0)
                self._silence(node, silent_s, metrics_too=fault is WorldFault.NODE_SILENT)
            case WorldFault.COUNTER_RESET:
                node.reset_counters()
            case _:
                self._break_link(node)

    def _die(self, node: SimNode) -> None:
        node.broke(self._world.now_s)
        self._world.end(node, Life.DEAD)

    def _silence(self, node: SimNode, silent_s: float, *, metrics_too: bool) -> None:
        back_s = self._world.now_s + silent_s
        node.agent_back_s = max(node.agent_back_s, back_s)
        if metrics_too:
            node.metrics_back_s = max(node.metrics_back_s, back_s)

    def _break_link(self, node: SimNode) -> None:
        """Have an engine drop one link by itself, as some do after a failed pull."""
        process = node.process
        if node.role is not Role.DECODER or process is None or not process.rows:
            return
        cluster_id = self._faults.stream("break").choice(list(process.rows))
        row = process.rows[cluster_id]
        if row.call is not None and not row.call.is_ended:
            return
        del process.rows[cluster_id]
        process.entities.pop(cluster_id, None)
        node.broken_at_s = self._world.now_s
        self._world.note(f"link broke {node.id} {cluster_id}")

    def calm(self) -> None:
        """End every fault that lasts, and hold the load."""
        world = self._world
        world.flow()
        self._faults.is_calm = True
        world.load.rate = self._rate
        for node in world.nodes.values():
            node.agent_back_s = node.metrics_back_s = min(world.now_s, node.agent_back_s)
        world.note("calm")

    def _load(self, fault: WorldFault) -> None:
        world, load = self._world, self._world.load
        world.flow()
        if fault is WorldFault.LOAD_STEP:
            rate = self._rate * self._faults.draw_s(fault, 0.3, 2.2)
            load.rate = self._rate = min(max(rate, RATE_RANGE[0]), self._rate_max)
            return
        load.rate = self._rate * (3.0 if fault is WorldFault.LOAD_SPIKE else 0.05)

        def over() -> None:
            world.flow()
            load.rate = self._rate

        world.events.after(self._faults.draw_s(fault, 60.0, 900.0), over)

    def _shift(self) -> None:
        """Have answers become longer or shorter: as many nodes are needed, in another mix."""
        world, load = self._world, self._world.load
        world.flow()
        before = load.nodes_needed
        load.answer_s = self._faults.draw_s(WorldFault.LOAD_SHIFT, *ANSWER_RANGE_S)
        factor = before / load.nodes_needed
        load.rate *= factor
        self._rate *= factor
