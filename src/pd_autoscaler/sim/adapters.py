"""Every port of the loop, played by the simulated world.

An adapter belongs to one controller; once that one was killed, nothing it still does reaches the
world. `Witness` is told of each call, so that the checks know what the controller could know.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import anyio

from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.model.facts import ProvidedNode, Scraped
from pd_autoscaler.model.node import Node, Role
from pd_autoscaler.model.signals import Reading
from pd_autoscaler.sim.faults import CallFault
from pd_autoscaler.sim.fleet.node import SimNode
from pd_autoscaler.sim.fleet.world import World

T = TypeVar("T")


class Witness(Protocol):
    """Whoever is told what the controller asked for and what it was told."""

    def acting(self, thing: str) -> None:
        """Take note that an action on a thing begins."""
        ...

    def doubted(self, thing: str) -> None:
        """Take note that the controller does not know how its action on a thing ended."""
        ...

    def read(self, place: str) -> None:
        """Take note that the state of a node, or the provider's list, was read."""
        ...

    def asked(self, ids: Sequence[int]) -> None:
        """Take note of the cluster ids of one link or unlink call."""
        ...


@dataclass(slots=True)
class Step:
    """Where every await of a controller passes; `kill_in` counts down to its end.

    At zero `kill` is called and the controller can reach the world no more. With `is_instant`
    messages take no time: nothing that an experiment measures depends on them.
    """

    world: World
    witness: Witness
    kill: Callable[[], None]
    kill_in: int | None = None
    is_dead: bool = False
    is_instant: bool = False

    async def take(self, delay_s: float) -> None:
        """Let time pass, and die here if this was the last step; raise TransientError when dead."""
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in <= 0 and not self.is_dead:
                self.is_dead = True
                self.world.note("killed")
                self.kill()
        if delay_s > 0:
            await anyio.sleep(delay_s)
        self.world.advance(anyio.current_time())
        if self.is_dead:
            raise TransientError("this controller is dead")

    @property
    def latency_s(self) -> float:
        """Draw the time a message takes."""
        if self.is_instant:
            return 0.0
        return self.world.faults.draw_s("latency", 0.001, 0.05)

    def short(self, delay_s: float) -> float:
        """Return a delay that is a message's or a moment's of work."""
        return 0.0 if self.is_instant else delay_s

    @contextmanager
    def acting(self, thing: str) -> Iterator[None]:
        """Tell the witness of an action on a thing, and whether its end is in doubt.

        Whatever ends the await other than an answer leaves doubt: a deadline, a kill.
        """
        self.witness.acting(thing)
        try:
            yield
        except (TransientError, PermanentError):
            if self.is_dead:
                self.witness.doubted(thing)
            raise
        except BaseException:
            self.witness.doubted(thing)
            raise


class SimMetrics:
    """Pages of the nodes' engines, sometimes late, partial, old or nonsense."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._world = step.world
        self._old: dict[str, Reading] = {}
        self.errors: Mapping[str, str] = {}
        self.scraped = Scraped()

    async def read(self, nodes: Sequence[Node]) -> Mapping[str, Reading]:
        """Return one reading per node that answered."""
        faults = self._world.faults
        is_slow = faults.strikes(CallFault.SCRAPE_SLOW)
        await self._step.take(
            faults.draw_s("scrape", 0.5, 8.0) if is_slow else self._step.short(0.05)
        )
        if faults.strikes(CallFault.SCRAPE_FAILS):
            raise TransientError("the metrics source does not answer")
        self._world.flow()
        readings: dict[str, Reading] = {}
        for known in nodes:
            node = self._world.nodes.get(known.id)
            if node is not None and node.is_up and node.metrics_back_s <= self._world.now_s:
                reading = self._page(node)
                if reading is not None:
                    readings[node.id] = reading
                    node.metrics_seen_s = max(node.metrics_seen_s, reading.at_s)
        self.errors = {n.id: "no page" for n in nodes if n.id not in readings}
        self.scraped = Scraped(
            pages=self.scraped.pages + len(readings),
            failures=self.scraped.failures + len(self.errors),
        )
        return readings

    def _page(self, node: SimNode) -> Reading | None:
        faults = self._world.faults
        if faults.strikes(CallFault.SCRAPE_PARTIAL):
            return None
        if faults.strikes(CallFault.SCRAPE_STALE):
            return self._old.get(node.id)
        reading = self._world.engines.reading(node.id, now_s=self._world.now_s)
        if faults.strikes(CallFault.SCRAPE_NAN):
            return replace(reading, gauges=dict.fromkeys(reading.gauges, math.nan))
        if faults.strikes(CallFault.PAGE_PARTIAL):
            return replace(reading, gauges={"running": reading.gauges["running"]}, histograms={})
        self._old[node.id] = reading
        return reading


class SimProvider:
    """Supply of nodes, whose answers may be lost or late."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._world = step.world

    async def nodes(self) -> tuple[ProvidedNode, ...]:
        """List the nodes that exist."""
        await self._step.take(self._step.latency_s)
        if self._world.faults.strikes(CallFault.LIST_FAILS):
            raise TransientError("the provider does not answer")
        listed = [_provided(node) for node in self._world.listed()]
        if listed and self._world.faults.strikes(CallFault.LIST_DUPLICATES):
            listed.append(listed[0])
        self._step.witness.read("provider")
        return tuple(listed)

    async def grow(self, role: Role, request_id: str) -> None:
        """Make one more node, unless this request was served already."""
        with self._step.acting(f"request {request_id}"):
            await self._step.take(self._step.latency_s)
            self._may_refuse(request_id)
            self._world.grow(role, request_id)
            await self._answer(request_id)

    async def remove(self, node_id: str) -> None:
        """Begin to remove a node."""
        with self._step.acting(f"node {node_id}"):
            await self._step.take(self._step.latency_s)
            self._may_refuse(node_id)
            self._world.remove(node_id)
            await self._answer(node_id)

    def _may_refuse(self, name: str) -> None:
        if self._world.faults.strikes(CallFault.PROVIDER_REFUSES):
            raise PermanentError(f"{name}: HTTP 403")
        if self._world.faults.strikes(CallFault.PROVIDER_THROTTLES):
            raise TransientError(f"{name}: HTTP 429")

    async def _answer(self, name: str) -> None:
        await self._step.take(self._step.latency_s)
        if self._world.faults.strikes(CallFault.PROVIDER_DONE_REPORTED_FAILED):
            raise TransientError(f"{name}: HTTP 502")
        if self._world.faults.strikes(CallFault.PROVIDER_DONE_REPORTED_UNKNOWN):
            raise OutcomeUnknownError(f"{name}: no answer")


class SimRouter:
    """A router that may pair any two published nodes."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._world = step.world

    @property
    def is_pair_aware(self) -> bool:
        """It is not."""
        return False

    async def published(self) -> frozenset[str]:
        """Return the ids of the nodes that may get new requests."""
        await self._step.take(self._step.latency_s)
        if self._world.faults.strikes(CallFault.ROUTER_READ_FAILS):
            raise TransientError("the router does not answer")
        return frozenset(self._world.published)

    async def publish(self, node: Node) -> None:
        """Let a node get new requests, at once or (a fault) later or not at all."""
        delay_s = await self._asked(node.id)
        if delay_s is not None:
            self._world.publish(node.id, delay_s=delay_s)
        await self._answer(node.id)

    async def withdraw(self, node_id: str) -> None:
        """Send a node nothing new, from now on or (a fault) later or not at all."""
        delay_s = await self._asked(node_id)
        if delay_s is not None:
            self._world.withdraw(node_id, delay_s=delay_s)
        await self._answer(node_id)

    async def in_flight(self) -> Mapping[str, int]:
        """Return requests in flight by node id."""
        await self._step.take(self._step.latency_s)
        self._world.flow()
        if self._world.faults.strikes(CallFault.IN_FLIGHT_UNKNOWN):
            return {}
        return {
            node.id: self._world.in_flight(node)
            for node in self._world.nodes.values()
            if node.is_up
        }

    async def _asked(self, node_id: str) -> float | None:
        """Return how much later the router does it, None for never."""
        faults = self._world.faults
        await self._step.take(self._step.latency_s)
        if faults.strikes(CallFault.ROUTER_FAILS):
            raise TransientError(f"{node_id}: the router answers HTTP 503")
        if faults.strikes(CallFault.ROUTER_FORGETS):
            return None
        return faults.draw_s("router", 1.0, 30.0) if faults.strikes(CallFault.ROUTER_LATE) else 0.0

    async def _answer(self, node_id: str) -> None:
        await self._step.take(self._step.latency_s)
        if self._world.faults.strikes(CallFault.ROUTER_ANSWER_LOST):
            raise OutcomeUnknownError(f"{node_id}: the router does not answer")


@dataclass(slots=True)
class SimLease:
    """Leadership, which a fault may take away for a while."""

    holder: str
    is_leader: bool = True


class SimWorkers:
    """Blocking code, run inline after a virtual delay: a thread would break virtual time."""

    def __init__(self, step: Step) -> None:
        self._step = step

    async def run(self, work: Callable[[], T], *, deadline_s: float) -> T:
        """Run `work` and return its result, or raise what it raised."""
        if self._step.world.faults.strikes(CallFault.POLICY_SLOW):
            await self._step.take(deadline_s)
            raise OutcomeUnknownError(f"no answer within {deadline_s:g} s")
        await self._step.take(self._step.short(0.001))
        return work()


def _provided(node: SimNode) -> ProvidedNode:
    return ProvidedNode(
        id=node.id,
        role=node.made_as,
        agent_urls=(f"http://{node.id}:9100",),
        metrics_url=f"http://{node.id}:8000/metrics",
        engine_url=f"http://{node.id}:8000",
        request_id=node.request_id,
    )
