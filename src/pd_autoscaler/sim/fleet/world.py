"""The simulated world: it goes on whether a controller runs or not.

Everything happens in `Events`, lazily: whoever looks at the world advances it to the present
first. It outlives every controller of a run.
"""

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from pd_autoscaler.model.facts import AgentPhase, EngineLoad, EntryState
from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.faults import CallFault, Faults
from pd_autoscaler.sim.fleet.delays import Delays
from pd_autoscaler.sim.fleet.engines import Engines
from pd_autoscaler.sim.fleet.events import Events
from pd_autoscaler.sim.fleet.node import Life, SimNode
from pd_autoscaler.sim.fleet.process import SUCCESS, Process, Row, are_linked, link

PROMPT_PORT = 26000
LINES_KEPT = 80


class Watch(Protocol):
    """Whoever is told of what is done to the world, just before it takes effect."""

    def publishing(self, node: SimNode) -> None:
        """Take note that the router is about to send requests to a node."""
        ...

    def withdrawing(self, node: SimNode) -> None:
        """Take note that the router is about to send a node nothing new."""
        ...

    def unlinking(self, process: Process, cluster_id: int) -> None:
        """Take note that a process is about to drop its entry for a remote cluster."""
        ...

    def switching(self, node: SimNode, role: Role) -> None:
        """Take note that a node is about to take the other role."""
        ...

    def stopping(self, node: SimNode) -> None:
        """Take note that the provider is about to remove a node."""
        ...

    def growing(self) -> None:
        """Take note that the provider has just made a node."""
        ...


class World:
    """Nodes, the router's published set, supply and load, with a digest over all that happened.

    `partitioned` holds pairs of nodes whose link calls never succeed, `links_max` is how many links
    one card may hold (None: as many as it likes).
    """

    def __init__(self, faults: Faults, engines: Engines, *, delays: Delays | None = None) -> None:
        self.faults = faults
        self.engines = engines
        self.delays = delays or Delays()
        self.links_max: int | None = None
        self.link_calls = 0
        self.error: Exception | None = None
        self.partitioned: set[frozenset[str]] = set()
        self.events = Events()
        self.nodes: dict[str, SimNode] = {}
        self.published: dict[str, float] = {}
        self.requests: dict[str, str] = {}
        self.twins = 0
        self.switches = 0
        self.watch: Watch | None = None
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.tells_kv = faults.stream("hooks").getrandbits(1) == 1
        self.can_switch_roles = faults.stream("roles").getrandbits(1) == 1
        self._pending: dict[str, int] = {}
        self._count = 0
        self._hash = hashlib.sha256()

    @property
    def now_s(self) -> float:
        """The world's present, virtual seconds."""
        return self.events.now_s

    def advance(self, now_s: float) -> None:
        """Let everything happen that is due by now."""
        try:
            self.events.advance(now_s)
        except Exception as error:
            self._kept(error)
            raise

    def _kept(self, error: Exception) -> None:
        """Keep a fault of the world itself: its controller takes all it meets for an outage."""
        self.error = self.error or error

    def note(self, line: str) -> None:
        """Write a line into the world's journal, which the digest covers."""
        line = f"{self.now_s:10.3f} {line}"
        self._hash.update(line.encode() + b"\n")
        self.lines.append(line)

    def digest(self) -> str:
        """Return the sha256 over every line so far."""
        return self._hash.hexdigest()

    def by_cluster(self, cluster_id: int) -> Process | None:
        """Return the running process of this cluster id."""
        for node in self.nodes.values():
            process = node.process
            if process is not None and process.cluster_id == cluster_id and process.is_alive:
                return process
        return None

    def are_linked(self, one: SimNode, other: SimNode) -> bool:
        """Whether two nodes are linked, read from the libraries' own tables."""
        return are_linked(one.process, other.process)

    def serving(self, role: Role) -> list[SimNode]:
        """List the published nodes of a role whose processes run."""
        return [
            node
            for node_id in self.published
            if (node := self.nodes[node_id]).role is role and node.is_up
        ]

    # Supply

    def grow(self, role: Role, request_id: str) -> None:
        """Make a node for a request that was not served yet, and let it start."""
        if request_id in self.requests:
            return
        node = self._make(role, request_id)
        self.requests[request_id] = node.id
        if self.faults.strikes(CallFault.PROVIDER_TWINS):
            self.twins += 1
            twin = self._make(role, request_id)
            self.note(f"twin {twin.id} of {node.id}")

    def _make(self, role: Role, request_id: str) -> SimNode:
        self._count += 1
        faults = self.faults
        is_late = faults.strikes(CallFault.LIST_LATE)
        node = SimNode(
            id=f"{role}-{self._count}",
            role=role,
            made_as=role,
            can_switch_role=self.can_switch_roles,
            request_id=request_id,
            listed_at_s=self.now_s + (faults.draw_s("list", 5, 60) if is_late else 0.0),
            made_at_s=self.now_s,
        )
        self.nodes[node.id] = node
        self.note(f"made {node.id} for {request_id}")
        if self.watch is not None:
            self.watch.growing()
        if not faults.strikes(CallFault.START_NEVER):
            is_slow = faults.strikes(CallFault.START_SLOW)
            most_s = faults.draw_s("start", 5.0, 300.0) if is_slow else 0.0
            delay_s = most_s or self.delays.start.draw(faults.stream("start"))
            self.events.after(delay_s, lambda: self.boot(node))
        return node

    def found(self, role: Role) -> SimNode:
        """Return a new node that runs already and is not initialised."""
        self._count += 1
        node = SimNode(
            id=f"{role}-{self._count}",
            role=role,
            made_as=role,
            can_switch_role=self.can_switch_roles,
            made_at_s=self.now_s,
        )
        self.nodes[node.id] = node
        self.boot(node)
        return node

    def boot(self, node: SimNode, *, keeps_id: bool = True) -> None:
        """Begin a process behind a node; it keeps the old one's cluster id if it may."""
        if node.is_stopping or node.life is not Life.STARTING:
            return
        self._count += 1
        old = node.process
        number = self._count
        node.process = Process(
            node_id=node.id,
            incarnation=f"i{number}",
            cluster_id=old.cluster_id if old is not None and keeps_id else 1000 + number,
            ip=f"10.0.{number // 250}.{number % 250 + 1}",
            port=PROMPT_PORT if node.role is Role.PROMPT else None,
            links_max=self.links_max,
        )
        node.life = Life.UP
        node.booted_at_s = node.agent_seen_s = node.metrics_seen_s = self.now_s
        self.flow()
        self.engines.boot(node.id, node.role)
        if node.id in self.published:
            self._enter(node)
        self.note(f"boot {node.id} {node.process.incarnation}")

    def take_role(self, node: SimNode, role: Role) -> None:
        """Let a node have a role from now on: requests come to it, and links are made, in it."""
        self.flow()
        node.role = role
        if node.process is not None:
            node.process.role = role
            node.process.port = PROMPT_PORT if role is Role.PROMPT else None
        self.engines.take_role(node.id, role)

    def remove(self, node_id: str) -> None:
        """Begin to remove a node; one that is unknown or going already is left alone."""
        node = self.nodes.get(node_id)
        if node is None or node.life is Life.GONE or node.is_stopping:
            return
        if self.watch is not None:
            self.watch.stopping(node)
        node.is_stopping = True
        self.note(f"stopping {node.id}")
        delay_s = self.delays.stop.draw(self.faults.stream("stop")) if node.is_there else 0.5
        self.events.after(delay_s, lambda: self._gone(node))

    def _gone(self, node: SimNode) -> None:
        self.end(node, Life.GONE)
        node.gone_at_s = self.now_s
        is_late = self.faults.strikes(CallFault.LIST_LATE)
        delay_s = self.faults.draw_s("list", 5.0, 60.0) if is_late else 0.0
        node.unlisted_at_s = min(node.unlisted_at_s, self.now_s + delay_s)

    def end(self, node: SimNode, life: Life) -> None:
        """End a node's process: its peers are not told."""
        self.flow()
        if node.process is not None:
            node.process.is_alive = False
        node.life = life
        self.engines.end(node.id)
        self.note(f"{life} {node.id}")

    def listed(self) -> list[SimNode]:
        """List the nodes as the provider does, late where a fault made it late."""
        now_s = self.now_s
        return [n for n in self.nodes.values() if n.listed_at_s <= now_s < n.unlisted_at_s]

    # Router and load

    def publish(self, node_id: str, *, delay_s: float = 0.0) -> None:
        """Let the router send requests to a node, perhaps a while later."""
        if self._is_put_off(node_id, delay_s, lambda: self.publish(node_id)):
            return
        node = self.nodes.get(node_id)
        if node is None or node_id in self.published:
            return
        self.flow()
        if self.watch is not None:
            self.watch.publishing(node)
        self.published[node_id] = self.now_s
        node.is_broken = node.is_broken and not node.is_up
        self.note(f"published {node_id}")
        self._enter(node)

    def _enter(self, node: SimNode) -> None:
        """Let requests reach a published node that runs, over the links that it has."""
        for other in self.serving(node.role.other):
            self.linked(node, other)
        self.engines.publish(node.id)

    def linked(self, one: SimNode, other: SimNode) -> None:
        """Have KV pass between two nodes if they are linked now, and not if they are not."""
        self.engines.link(one.id, other.id, is_linked=self.are_linked(one, other))

    def withdraw(self, node_id: str, *, delay_s: float = 0.0) -> None:
        """Have the router send a node nothing new; what is in flight there drains."""
        if self._is_put_off(node_id, delay_s, lambda: self.withdraw(node_id)):
            return
        if node_id not in self.published:
            return
        self.flow()
        node = self.nodes[node_id]
        if self.watch is not None:
            self.watch.withdrawing(node)
        node.withdrawn_at_s = self.now_s
        if self.faults.strikes(CallFault.DRAIN_SLOW):
            # A user who does not read on: one request stays, whatever the engine does.
            node.held_until_s = self.now_s + self.faults.draw_s("drain", 1.0, 600.0)
        self.engines.withdraw(node_id)
        del self.published[node_id]
        self.note(f"withdrawn {node_id}")

    def _is_put_off(self, node_id: str, delay_s: float, act: Callable[[], None]) -> bool:
        """Put a change of the published set off; a newer change of the same node replaces it."""
        self._pending.pop(node_id, None)
        if delay_s <= 0:
            return False
        self._count += 1
        token = self._pending[node_id] = self._count

        def later() -> None:
            if self._pending.get(node_id) == token:
                act()

        self.events.after(delay_s, later)
        return True

    def flow(self) -> None:
        """Let requests flow up to the present."""
        try:
            self.engines.flow(self.now_s)
        except Exception as error:
            self._kept(error)
            raise

    def in_flight(self, node: SimNode) -> int:
        """Return the requests on a node, as last flowed."""
        if not node.is_up:
            return 0
        return self.engines.in_flight(node.id) + (self.now_s < node.held_until_s)

    def engine(self, node: SimNode) -> EngineLoad:
        """Return what the hooks of a node's engine say; what is unpulled if this world tells it."""
        load = self.engines.load(node.id, tells_kv=self.tells_kv)
        is_held = self.now_s < node.held_until_s
        return replace(load, running=(load.running or 0) + 1) if is_held else load

    # A fleet that was there before the controller

    def link_all(self) -> None:
        """Initialise, link and publish every node that runs, as an earlier controller left them.

        Pairs that are partitioned stay without their link.
        """
        up = [node for node in self.nodes.values() if node.is_up]
        for node in up:
            if node.process is not None:
                node.process.phase, node.process.role = AgentPhase.READY, node.role
        pairs = [(d, p) for d in up for p in up if d.role is Role.DECODER and p.role is Role.PROMPT]
        for decoder, prompt in pairs:
            client, server = decoder.process, prompt.process
            if frozenset({decoder.id, prompt.id}) in self.partitioned:
                continue
            if client is not None and server is not None:
                link(client, server.cluster_id, server)
                client.rows[server.cluster_id] = Row(
                    EntryState.LINKED, server.incarnation, self.now_s, SUCCESS
                )
        for node in up:
            self.publish(node.id)
