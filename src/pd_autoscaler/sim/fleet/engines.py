"""Engines: the nodes' share of the request model, by the names that the world knows them by."""

import math
from collections.abc import Iterable

from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.model.facts import EngineLoad
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Reading
from pd_autoscaler.sim.fleet.requests.fleet import RequestFleet
from pd_autoscaler.sim.fleet.traffic import Traffic

NOTHING = EngineLoad(waiting=0, running=0, kv_unpulled=0)


class Engines:
    """The engines of a world's nodes and the requests on their way through them.

    Whoever changes anything first lets requests flow up to the present (`flow`). A node has an
    engine from `boot` to `end`; what is inside it at its end is lost.
    """

    def __init__(
        self,
        profile: EngineProfile,
        traffic: Traffic,
        *,
        patience_s: float = math.inf,
        is_chunked: bool = False,
    ) -> None:
        self.requests = RequestFleet(profile, patience_s=patience_s, is_chunked=is_chunked)
        self._traffic = traffic
        self._flowed_s = -math.inf
        self._slots: dict[str, int] = {}
        self._roles: dict[str, Role] = {}
        self._published: set[str] = set()

    def flow(self, now_s: float) -> None:
        """Let requests arrive and be worked on up to the present."""
        if now_s > self._flowed_s:
            self._flowed_s = now_s
            came = self._traffic.until(now_s)
            if len(came):
                self.requests.offer(came)
        self.requests.advance(now_s)

    def boot(self, node_id: str, role: Role) -> None:
        """Give a node a new, empty engine; nothing is sent to it yet."""
        self.end(node_id)
        self._slots[node_id] = self.requests.add(role)
        self._roles[node_id] = role

    def end(self, node_id: str) -> None:
        """End a node's engine, and with it the requests inside."""
        slot = self._slots.pop(node_id, None)
        self._published.discard(node_id)
        if slot is not None:
            self.requests.remove(slot)

    def take_role(self, node_id: str, role: Role) -> None:
        """Let a node's engine have a role from now on; requests left inside are lost."""
        if node_id not in self._slots or self._roles[node_id] is role:
            return
        was_published = node_id in self._published
        self.boot(node_id, role)
        if was_published:
            self.publish(node_id)

    def publish(self, node_id: str) -> None:
        """Have requests sent to a node, if it has an engine."""
        if node_id in self._slots and node_id not in self._published:
            self.requests.publish(self._slots[node_id])
            self._published.add(node_id)

    def withdraw(self, node_id: str) -> None:
        """Send a node nothing new; what it has goes on."""
        if node_id in self._published:
            self.requests.withdraw(self._slots[node_id])
            self._published.discard(node_id)

    def link(self, one: str, other: str, *, is_linked: bool) -> None:
        """Say whether a pair of nodes is linked: KV passes between them only if it is."""
        if one not in self._slots or other not in self._slots:
            return
        decoder, prompt = (one, other) if self._roles[one] is Role.DECODER else (other, one)
        if self._roles[decoder] is self._roles[prompt]:
            return
        self.requests.set_linked(self._slots[decoder], self._slots[prompt], is_linked)

    def in_flight(self, node_id: str) -> int:
        """Return the requests on a node, 0 if it has no engine."""
        slot = self._slots.get(node_id)
        return 0 if slot is None else self.requests.load(slot).in_flight

    def load(self, node_id: str, *, tells_kv: bool) -> EngineLoad:
        """Return what a node's engine hooks say; what is unpulled only with `tells_kv`."""
        slot = self._slots.get(node_id)
        if slot is None:
            return NOTHING
        load = self.requests.load(slot)
        return EngineLoad(
            waiting=load.waiting + load.waiting_deferred,
            running=load.running,
            kv_unpulled=load.kv_unpulled if tells_kv else None,
        )

    def reading(self, node_id: str, *, now_s: float) -> Reading:
        """Return a node's page in canonical names."""
        return self.requests.reading(self._slots[node_id], node_id, now_s)

    def reset_counters(self, node_id: str) -> None:
        """Begin every count of a node at zero again, as a restarted exporter does."""
        if node_id in self._slots:
            self.requests.reset_counters(self._slots[node_id])

    def totals(self, node_ids: Iterable[str]) -> tuple[int, int]:
        """Return the requests that wait at these nodes, and those being worked on."""
        loads = [self.requests.load(self._slots[i]) for i in node_ids if i in self._slots]
        waiting = sum(load.waiting + load.waiting_deferred for load in loads)
        return waiting, sum(load.running for load in loads)
