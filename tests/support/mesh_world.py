"""A world of link tables: engine processes, the library's tables at both ends, calls gone wrong.

It goes in steps of a second. What a call does to either end is what was measured on the library
(hicann/hixl, `src/llm_datadist/link_mgr/`); each process keeps the agent's real `LinkTable`.
"""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from pd_autoscaler.adapters.agent_states import state_of_node
from pd_autoscaler.agent.table import (
    NOT_BEGUN,
    LinkTable,
    Ticket,
    Verb,
    failed,
)
from pd_autoscaler.agent.wire import ClusterLine
from pd_autoscaler.datadist.status import verdict
from pd_autoscaler.model.facts import (
    AgentPhase,
    AgentState,
    EngineLoad,
    EntryState,
    Facts,
    LinkEntry,
    ProvidedNode,
)
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import RANK_SEPARATOR, Endpoint, Role
from pd_autoscaler.model.plan import FinalizeNode, InitNode
from pd_autoscaler.model.signals import Reading

OK = "LLM_SUCCESS"
DEADLINE_STEPS = 4
"""After so many steps an agent calls the outcome of a call unknown; the call goes on."""
TIMEOUT_STEPS = 2
"""What the library takes to find that a peer has forgotten a link."""
HUNG_MAX = 2
"""Calls for one id that may hang in a process; a further link call is refused as in progress."""
FOR_EVER = 10_000


class Fate(StrEnum):
    """What becomes of one native call, given beforehand."""

    FAILS = "fails"
    LATE = "late"
    HANGS = "hangs"
    HALF = "half"


class SwitchFate(StrEnum):
    """What becomes of the switch of one rank; `deaf` leaves a prompt that listens nowhere."""

    PASSES = "passes"
    FAILS = "fails"
    REFUSED = "refused"
    LATE = "late"
    HANGS = "hangs"
    DEAF = "deaf"


@dataclass(slots=True, eq=False)
class Call:
    """One native call inside a process, or one that waits for a slot.

    `answer` is what its agent says of it, None not yet.
    """

    process: "Process"
    ticket: Ticket
    address: tuple[str, int | None]
    ends: int
    expires: int
    fault: str = ""
    answer: ClusterLine | None = None
    is_waiting: bool = False

    @property
    def is_hung(self) -> bool:
        """Whether it is past its deadline."""
        return self.answer is not None


@dataclass(slots=True, eq=False)
class Switch:
    """The switch of one rank; `answer` is why it failed, empty if it did not, None not yet."""

    process: "Process"
    role: Role
    fate: SwitchFate
    ends: int
    expires: int
    answer: str | None = None
    is_unknown: bool = False

    @property
    def has_answer(self) -> bool:
        """Whether its agent answered, or never will."""
        return self.answer is not None or self.is_unknown or not self.process.is_alive


@dataclass(slots=True, eq=False)
class Process:
    """One rank's process; `entities` is the library's table, remote id to remote incarnation.

    `slots` is how many link and unlink calls its agent has in the library at a time.
    """

    incarnation: str
    cluster_id: int
    address: tuple[str, int]
    role: Role | None
    links_max: int | None = None
    slots: int = 16
    is_alive: bool = True
    is_deaf: bool = False
    phase: AgentPhase = AgentPhase.NEW
    entities: dict[int, str] = field(default_factory=dict)
    table: LinkTable = field(default_factory=lambda: LinkTable(verdict))
    calls: list[Call] = field(default_factory=list)
    switch: Switch | None = None

    @property
    def listens(self) -> bool:
        """Whether decoders can link to it."""
        is_ready = self.is_alive and self.phase is AgentPhase.READY
        return is_ready and self.role is Role.PROMPT and not self.is_deaf

    @property
    def is_exhausted(self) -> bool:
        """Whether every slot hangs: its agent refuses calls that need one."""
        return sum(call.is_hung for call in self.calls) >= self.slots

    @property
    def hung(self) -> int:
        """Count the calls past their deadline."""
        switch = self.switch
        return sum(c.is_hung for c in self.calls) + (switch is not None and switch.is_unknown)

    @property
    def inside(self) -> int:
        """Count the calls that have not ended."""
        return len(self.calls) + (self.switch is not None)


@dataclass(slots=True, eq=False)
class WorldNode:
    """A node as it is; steps say until when a fault lasts, `born` is the role it was started in."""

    id: str
    born: Role
    processes: list[Process]
    request_id: str = ""
    can_switch_role: bool = False
    silent_until: int = 0
    mute_until: int = 0
    is_listed: bool = True
    up_at: int = 0

    @property
    def role(self) -> Role | None:
        """The role that every rank has, None while it is between two."""
        roles = {process.role or self.born for process in self.processes}
        return roles.pop() if len(roles) == 1 else None

    @property
    def is_up(self) -> bool:
        """Whether every process of it runs."""
        return all(process.is_alive for process in self.processes)

    @property
    def incarnation(self) -> str:
        """Name the processes behind it."""
        return RANK_SEPARATOR.join(process.incarnation for process in self.processes)


@dataclass(slots=True, eq=False)
class Request:
    """A request that uses the link of a pair until a step; nobody vouches for one astray."""

    prompt: WorldNode
    decoder: WorldNode
    until: int
    is_astray: bool = False


class MeshWorld:
    """Nodes, requests and calls under way; `fates` are those of the native calls to come.

    `published` is what the router lists: a withdrawn node until the step in `lingering`, and those
    in `relisted` though nobody asked it to. `failing` holds until when transfers of a pair fail,
    and how long one takes. `knows_role`: agents tell from the start which role
    they take, and take no other at first.
    """

    def __init__(self, *, slots: int = 16, knows_role: bool = False) -> None:
        self.step = 0
        self.slots = slots
        self.knows_role = knows_role
        self.nodes: dict[str, WorldNode] = {}
        self.published: set[str] = set()
        self.lingering: dict[str, int] = {}
        self.relisted: set[str] = set()
        self.withdraw_lag = 0
        self.requests: list[Request] = []
        self.fates: deque[tuple[Fate, int]] = deque()
        self.switch_fates: deque[tuple[SwitchFate, int]] = deque()
        self.failing: dict[tuple[str, str], tuple[int, int]] = {}
        self.made: Counter[tuple[str, str]] = Counter()
        self.switched = 0
        self.told_ids: set[int] = set()
        self._served: set[str] = set()
        self._count = 0

    @property
    def now_s(self) -> float:
        """The present, seconds."""
        return float(self.step)

    # Nodes

    def add(
        self,
        role: Role,
        ranks: int,
        *,
        links_max: int | None = None,
        request_id: str = "",
        can_switch_role: bool = False,
    ) -> WorldNode | None:
        """Make a node whose processes run from the next step on; a request is served once."""
        if request_id and request_id in self._served:
            return None
        self._served.add(request_id or f"found {self._count}")
        self._count += 1
        name = f"{role[0]}{self._count}"
        processes = [self._process(name, rank, role, links_max) for rank in range(ranks)]
        node = WorldNode(name, role, processes, request_id, up_at=self.step + 1)
        node.can_switch_role = can_switch_role
        self.nodes[name] = node
        return node

    def _process(self, name: str, rank: int, role: Role, links_max: int | None) -> Process:
        self._count += 1
        address = (f"10.0.0.{self._count}", 26000 + rank)
        known = role if self.knows_role else None
        incarnation = f"{name}.{rank}/{self._count}"
        return Process(incarnation, 100 + self._count, address, known, links_max, self.slots)

    def restart(self, node: WorldNode, *, ranks: list[int], keeps_id: bool, down: int) -> None:
        """Have processes of a node die and come back new, at their old addresses."""
        if node.id not in self.nodes:
            return
        for rank in ranks:
            old = node.processes[rank]
            self.end(old)
            new = self._process(node.id, rank, node.born, old.links_max)
            new.address = old.address
            new.cluster_id = old.cluster_id if keeps_id else new.cluster_id
            node.processes[rank] = new
        node.up_at = self.step + down
        self._drop_requests(node)

    def kill(self, node: WorldNode) -> None:
        """End every process of a node; nobody is told."""
        for process in node.processes:
            self.end(process)
        self._drop_requests(node)

    def remove(self, node: WorldNode) -> None:
        """Take a node away for good, as its provider does."""
        self.kill(node)
        node.is_listed = False

    def end(self, process: Process) -> None:
        """End a process with the calls inside it."""
        process.is_alive = False
        process.calls.clear()
        process.switch = None

    def _drop_requests(self, node: WorldNode) -> None:
        self.requests = [r for r in self.requests if node not in (r.prompt, r.decoder)]

    def pick(self, role: Role, number: int) -> WorldNode | None:
        """Return one of the nodes of a role that run, None if none does."""
        nodes = self.nodes.values()
        running = [n for n in nodes if (n.role or n.born) is role and n.is_up]
        return running[number % len(running)] if running else None

    # The router

    def publish(self, node_id: str) -> None:
        """Have the router list a node, as it was told."""
        self.published.add(node_id)
        self.lingering.pop(node_id, None)
        self.relisted.discard(node_id)

    def withdraw(self, node_id: str) -> None:
        """Have the router let go of a node, at once or after a while."""
        if self.withdraw_lag and node_id in self.published:
            self.lingering.setdefault(node_id, self.step + self.withdraw_lag)
            self.withdraw_lag = 0
        elif node_id not in self.lingering:
            self.published.discard(node_id)
            self.relisted.discard(node_id)

    def list_again(self, number: int) -> None:
        """Have the router list a node that it does not list now, dead or gone as it may be."""
        others = [node_id for node_id in self.nodes if node_id not in self.published]
        if others:
            node_id = others[number % len(others)]
            self.published.add(node_id)
            self.relisted.add(node_id)

    def request(self, prompt: int, decoder: int, steps: int) -> None:
        """Have the router send a request to a published pair, if there is one."""
        prompts, decoders = (
            [
                n
                for n in self.nodes.values()
                if n.role is role and n.is_up and n.id in self.published
            ]
            for role in Role
        )
        if prompts and decoders:
            pair = prompts[prompt % len(prompts)], decoders[decoder % len(decoders)]
            is_astray = any(node.id in self.relisted for node in pair)
            self.requests.append(Request(*pair, self.step + steps, is_astray))

    # What concerns a library as a whole

    def ask(self, node: WorldNode, action: InitNode | FinalizeNode) -> tuple[str, bool]:
        """Have a node's ranks do something at once; return why it fails, and if it always will."""
        if isinstance(action, FinalizeNode):
            if any(process.inside for process in node.processes):
                return "hung_calls", True
            for process in node.processes:
                if process.phase is AgentPhase.READY:
                    process.phase = AgentPhase.FINALISED
                process.entities.clear()
                process.table.clear()
            return "", False
        refusal = ("", False)
        for process in node.processes:
            is_ready = process.phase is AgentPhase.READY
            if (is_ready or self.knows_role) and process.role is not action.role:
                refusal = ("already_initialised" if is_ready else "bad_request", True)
            elif is_ready and process.switch is not None:
                refusal = ("not_ready", False)
            elif process.phase is AgentPhase.NEW:
                process.phase, process.role = AgentPhase.READY, action.role
        return refusal

    def begin_switch(self, process: Process, role: Role) -> Switch:
        """Have one rank take a role; a refusal is an answer at once."""
        switch = Switch(
            process, role, SwitchFate.PASSES, self.step, self.step + DEADLINE_STEPS, answer=""
        )
        if process.phase is not AgentPhase.READY or process.switch is not None:
            switch.answer = "not_ready"
        elif process.role is role and (role is Role.DECODER or process.listens):
            pass
        elif process.inside:
            switch.answer = "hung_calls"
        elif process.entities:
            switch.answer = "links_left"
        else:
            fate, steps = self.switch_fates.popleft() if self.switch_fates else (switch.fate, 0)
            switch.fate, switch.answer, process.switch = fate, None, switch
            switch.ends += steps if fate in {SwitchFate.LATE, SwitchFate.HANGS} else 0
        return switch

    def _end_switch(self, switch: Switch) -> None:
        process = switch.process
        process.switch = None
        if process.entities:
            # Somebody linked it meanwhile.
            switch.answer = "links_left"
        elif switch.fate in {SwitchFate.PASSES, SwitchFate.LATE}:
            process.role, process.is_deaf = switch.role, False
            process.table.clear()
            self.switched += 1
            switch.answer = ""
        else:
            process.is_deaf = process.is_deaf or switch.fate is SwitchFate.DEAF
            # A wrong configuration is told as such: the same call would fail again.
            is_refused = switch.fate is SwitchFate.REFUSED
            switch.answer = "cannot_switch" if is_refused else "library_failed"

    def using(self, one: WorldNode, other: WorldNode) -> int:
        """Count the requests, none of them astray, that use the link of a pair."""
        pair = {one, other}
        return sum({r.prompt, r.decoder} == pair and not r.is_astray for r in self.requests)

    # Observation

    def facts(self) -> Facts:
        """Tell what a controller that looks now is told."""
        listed = [node for node in self.nodes.values() if node.is_listed]
        up = [node for node in listed if node.is_up and node.up_at <= self.step]
        agents = {n.id: self._state(n) for n in up if n.silent_until <= self.step}
        for state in agents.values():
            self.told_ids.update(endpoint.cluster_id for endpoint in state.endpoints)
        return Facts(
            now_s=self.now_s,
            now_unix_s=self.now_s,
            provided=tuple(_provided(node) for node in listed),
            published=frozenset(self.published),
            in_flight={node.id: self._inside(node) for node in up},
            agents=agents,
            readings={
                n.id: Reading(node_id=n.id, at_s=self.now_s)
                for n in up
                if n.mute_until <= self.step
            },
        )

    def _inside(self, node: WorldNode) -> int:
        return sum(node in (r.prompt, r.decoder) for r in self.requests)

    def _state(self, node: WorldNode) -> AgentState:
        inside = self._inside(node)
        return state_of_node(
            [
                AgentState(
                    node_id=node.id,
                    at_s=self.now_s,
                    incarnation=process.incarnation,
                    role=process.role,
                    phase=process.phase,
                    endpoints=_endpoints(rank, process),
                    links=tuple(self._rows(rank, process)),
                    engine=EngineLoad(waiting=0, running=inside, kv_unpulled=0),
                    calls_in_flight=process.inside - process.hung,
                    calls_hung=process.hung,
                    can_switch_role=node.can_switch_role,
                )
                for rank, process in enumerate(node.processes)
            ]
        )

    def _rows(self, rank: int, process: Process) -> Iterator[LinkEntry]:
        for row in process.table.entries(now_s=self.now_s):
            yield LinkEntry(
                cluster_id=row.cluster_id,
                state=EntryState(row.state),
                rank=rank,
                peer_incarnation=row.peer_incarnation,
                code=row.code,
                age_s=row.age_s,
            )

    # Native calls

    def call(self, process: Process, verb: Verb, far: Endpoint, incarnation: str) -> Call:
        """Begin one native call, or have its agent answer without one."""
        refusal = self._no_call(process, verb)
        if refusal:
            none = Ticket(0, verb, far.cluster_id, incarnation, None)
            line = failed(far.cluster_id, refusal, Verdict.RETRY)
            return Call(process, none, (far.ip, far.port), 0, 0, answer=line)
        ticket = process.table.begin(
            verb, far.cluster_id, peer_incarnation=incarnation, now_s=self.now_s
        )
        if isinstance(ticket, ClusterLine):
            none = Ticket(0, verb, far.cluster_id, incarnation, None)
            return Call(process, none, (far.ip, far.port), 0, 0, answer=ticket)
        call = Call(process, ticket, (far.ip, far.port), self.step, self.step + DEADLINE_STEPS)
        if verb is Verb.FORCE_UNLINK:
            process.entities.pop(far.cluster_id, None)
            call.answer = process.table.ended(ticket, OK, now_s=self.now_s)
            return call
        process.calls.append(call)
        call.is_waiting = True
        self._admit(process)
        return call

    def _admit(self, process: Process) -> None:
        """Begin the calls of a process that find a slot."""
        waiting = [call for call in process.calls if call.is_waiting]
        free = process.slots - (len(process.calls) - len(waiting))
        for call in waiting[: max(0, free)]:
            call.is_waiting, call.ends = False, self.step
            self._fated(call)

    def _no_call(self, process: Process, verb: Verb) -> str:
        """Say why a process's agent begins no such call, or return nothing."""
        if process.phase is not AgentPhase.READY or process.switch is not None:
            return NOT_BEGUN
        if verb is Verb.FORCE_UNLINK:
            return ""
        return NOT_BEGUN if process.is_exhausted else ""

    def transfers_fail(
        self, prompt: WorldNode, decoder: WorldNode, steps: int, *, lasts: int
    ) -> None:
        """Have every pull over a pair's link, begun `lasts` steps ago, time out for some steps."""
        until, _ = self.failing.get((decoder.id, prompt.id), (0, 0))
        self.failing[decoder.id, prompt.id] = max(until, self.step + steps), lasts
        self._transfers()

    def _transfers(self) -> None:
        for (decoder, prompt), (until, lasts) in list(self.failing.items()):
            for near in self.nodes[decoder].processes:
                for far in self.nodes[prompt].processes:
                    if near.is_alive and are_linked(near, far):
                        near.table.transfer_failed(
                            far.cluster_id,
                            "LLM_TIMEOUT",
                            began_s=self.now_s - lasts,
                            now_s=self.now_s,
                        )
            if until <= self.step:
                del self.failing[decoder, prompt]

    def _fated(self, call: Call) -> None:
        """Give a call the next fate; without one it ends well within this step."""
        server = self.at(call.address)
        if self.fates:
            fate, steps = self.fates.popleft()
            is_link = call.ticket.verb is Verb.LINK
            call.ends += 0 if fate is Fate.FAILS else steps
            if fate is Fate.FAILS:
                call.fault = "LLM_LINK_FAILED" if is_link else "LLM_UNLINK_FAILED"
            elif fate is not Fate.LATE:
                call.fault = "LLM_FAILED"
            if fate is Fate.HALF and is_link and server is not None:
                server.entities[call.process.cluster_id] = call.process.incarnation
        elif call.ticket.verb is Verb.LINK and server is not None:
            knows = server.cluster_id in call.process.entities
            is_known = call.process.cluster_id in server.entities
            call.ends += TIMEOUT_STEPS if knows and not is_known else 0

    def go_on(self) -> None:
        """Let a step pass: calls end or expire, processes come up, requests end."""
        self.requests = [r for r in self.requests if r.until > self.step]
        self._settle_router()
        processes = [p for n in self.nodes.values() for p in n.processes]
        for process in processes:
            self._switch_on(process)
        for call in [call for process in processes for call in process.calls]:
            self._call_on(call)
        self._transfers()
        self.step += 1
        for process in processes:
            self._admit(process)

    def _switch_on(self, process: Process) -> None:
        switch = process.switch
        if switch is not None and switch.ends <= self.step:
            self._end_switch(switch)
        elif switch is not None and switch.expires <= self.step:
            switch.is_unknown = True

    def _call_on(self, call: Call) -> None:
        table, now_s = call.process.table, self.now_s
        if call.is_waiting and call.expires <= self.step:
            call.process.calls.remove(call)
            call.answer = table.never_began(call.ticket, now_s=now_s)
        elif call.is_waiting:
            return
        elif call.ends <= self.step:
            call.process.calls.remove(call)
            code = call.fault or self._effect(call)
            if call.fault == "LLM_FAILED" and call.ticket.verb is Verb.UNLINK:
                # It broke off after this end was gone.
                call.process.entities.pop(call.ticket.cluster_id, None)
            call.answer = table.ended(call.ticket, code, now_s=now_s)
        elif call.expires <= self.step and call.answer is None:
            call.answer = table.expired(call.ticket, now_s=now_s)

    def _settle_router(self) -> None:
        for node_id in [i for i, until in self.lingering.items() if until <= self.step]:
            del self.lingering[node_id]
            self.published.discard(node_id)
            self.relisted.discard(node_id)

    def _effect(self, call: Call) -> str:
        server, client = self.at(call.address), call.process
        if call.ticket.verb is Verb.LINK:
            code = _linked(client, server)
            if code == OK and server is not None:
                self.made[client.incarnation, server.incarnation] += 1
            return code
        if server is None:
            return "LLM_UNLINK_FAILED"
        server.entities.pop(client.cluster_id, None)
        client.entities.pop(call.ticket.cluster_id, None)
        return OK

    def at(self, address: tuple[str, int | None]) -> Process | None:
        """Return the process that listens at an address: an initialised prompt node's."""
        for node in self.nodes.values():
            for process in node.processes:
                if process.address == address and process.listens:
                    return process
        return None

    def calls_at(self, process: Process, verb: Verb) -> int:
        """Count the calls, not yet past their deadline, between an endpoint and one that is meant.

        Of a call to a process that is gone nobody knows once the caller's row for it was dropped.
        """
        every = [c for n in self.nodes.values() for p in n.processes for c in p.calls]
        count = 0
        for call in every:
            far = self.at(call.address)
            is_meant = far is not None and far.cluster_id == call.ticket.cluster_id
            is_begun = call.ticket.verb is verb and not call.is_hung
            count += is_begun and is_meant and process in (call.process, far)
        return count


def _linked(client: Process, server: Process | None) -> str:
    """Link, as the server's address says, whatever id was asked for."""
    if server is None:
        return "LLM_LINK_FAILED"
    is_known = client.cluster_id in server.entities
    if server.cluster_id in client.entities:
        return "LLM_ALREADY_LINK" if is_known else "LLM_TIMEOUT"
    client.entities[server.cluster_id] = server.incarnation
    server.entities[client.cluster_id] = client.incarnation
    return OK


def are_linked(one: Process, other: Process) -> bool:
    """Whether each of two live processes holds an entry made with the other as it is now."""
    return (
        one.is_alive
        and other.is_alive
        and one.entities.get(other.cluster_id) == other.incarnation
        and other.entities.get(one.cluster_id) == one.incarnation
    )


def _endpoints(rank: int, process: Process) -> tuple[Endpoint, ...]:
    if process.phase is AgentPhase.NEW:
        return ()
    ip, port = process.address
    listens = port if process.listens else None
    return (Endpoint(rank, process.cluster_id, ip, listens, process.links_max),)


def _provided(node: WorldNode) -> ProvidedNode:
    return ProvidedNode(
        id=node.id,
        role=node.born,
        agent_urls=tuple(f"http://{node.id}:{rank}" for rank in range(len(node.processes))),
        metrics_url=f"http://{node.id}/metrics",
        request_id=node.request_id,
    )
