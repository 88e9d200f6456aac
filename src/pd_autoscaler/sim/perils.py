"""World faults: what happens to nodes, load and the controller by itself, at drawn times."""

from collections.abc import Callable

from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.faults import WorldFault
from pd_autoscaler.sim.fleet.traffic import Steady
from pd_autoscaler.sim.fleet.world import World
from pd_autoscaler.sim.node_faults import befall_node, silence

RATE_RANGE = (0.6, 7.0)
"""Requests per second that the usual budget can carry, in most mixes of its nodes."""
EDGE = 0.04
"""Part of a role's need by which it must differ from whole nodes once the load holds."""
ANSWER_RANGE_S = (4.0, 20.0)
"""How long a decoder works on one answer: long ones want more decoders, short ones fewer."""


class Perils:
    """Strikes the world until the faults are calm; `controller` is told of what befalls it.

    No lasting load is above `rate_max` requests per second.
    """

    def __init__(
        self,
        world: World,
        traffic: Steady,
        controller: Callable[[WorldFault], None],
        *,
        rate_max: float,
    ) -> None:
        self._world = world
        self._traffic = traffic
        self._faults = world.faults
        self._controller = controller
        self._rate = traffic.rate
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
                    silence(self._world, node, silent_s, metrics_too=True)
            case WorldFault.LOAD_STEP | WorldFault.LOAD_SPIKE | WorldFault.LOAD_DROUGHT:
                self._load(fault)
            case WorldFault.LOAD_SHIFT:
                self._shift()
            case WorldFault.CONTROLLER_KILLED | WorldFault.LEASE_LOST:
                self._controller(fault)
            case _:
                nodes = [n for n in self._world.nodes.values() if n.is_there]
                if nodes:
                    befall_node(self._world, fault, self._faults.stream(fault).choice(nodes))

    def calm(self) -> None:
        """End every fault that lasts, and hold the load."""
        world = self._world
        world.flow()
        self._faults.is_calm = True
        self._traffic.rate = self._rate
        step_off_the_edge(self._traffic)
        for node in world.nodes.values():
            node.agent_back_s = node.metrics_back_s = min(world.now_s, node.agent_back_s)
        world.note("calm")

    def _load(self, fault: WorldFault) -> None:
        world, traffic = self._world, self._traffic
        world.flow()
        if fault is WorldFault.LOAD_STEP:
            rate = self._rate * self._faults.draw_s(fault, 0.3, 2.2)
            traffic.rate = self._rate = min(max(rate, RATE_RANGE[0]), self._rate_max)
            return
        traffic.rate = self._rate * (3.0 if fault is WorldFault.LOAD_SPIKE else 0.05)

        def over() -> None:
            world.flow()
            traffic.rate = self._rate

        world.events.after(self._faults.draw_s(fault, 60.0, 900.0), over)

    def _shift(self) -> None:
        """Have answers become longer or shorter: as many nodes are needed, in another mix."""
        world, traffic = self._world, self._traffic
        world.flow()
        before = traffic.nodes_needed
        traffic.answer_s = self._faults.draw_s(WorldFault.LOAD_SHIFT, *ANSWER_RANGE_S)
        factor = before / traffic.nodes_needed
        traffic.rate *= factor
        self._rate *= factor


def step_off_the_edge(traffic: Steady) -> None:
    """Lower a load a little if a role's nodes would be just full, or one just too few.

    There a queue grows by a request in minutes: whatever a policy does about it, it does late.
    """
    rate = traffic.rate
    for factor in (1.0, 0.94, 0.88, 0.82, 0.76):
        traffic.rate = rate * factor
        needs = [traffic.nodes_of(role) for role in Role]
        if not any(need > 0.5 and abs(need - round(need)) < EDGE * need for need in needs):
            return
