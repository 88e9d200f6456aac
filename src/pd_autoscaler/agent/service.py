"""The agent: one library object, who may call it, and what came of each call."""

import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup, TaskStatus
from prometheus_client import CollectorRegistry

from pd_autoscaler import __version__
from pd_autoscaler.agent.engine_load import LoadReader
from pd_autoscaler.agent.gate import Gate
from pd_autoscaler.agent.hooks import EngineHooks, NoHooks
from pd_autoscaler.agent.keys import Keys
from pd_autoscaler.agent.life import Life
from pd_autoscaler.agent.link_calls import Batch, LinkCalls
from pd_autoscaler.agent.listening import Listening, Listens, listens_of
from pd_autoscaler.agent.metrics import AgentMetrics
from pd_autoscaler.agent.native_calls import LINK_SLOTS, NativeCalls
from pd_autoscaler.agent.refusals import RefusedError
from pd_autoscaler.agent.table import Classify, LinkTable, Verb
from pd_autoscaler.agent.whole_calls import WholeCall
from pd_autoscaler.agent.wire import (
    ClaimRequest,
    ClusterLine,
    EndpointWire,
    FinalizeRequest,
    HungCallWire,
    InitRequest,
    LinksRequest,
    Mutation,
    StateReply,
    SwitchRoleRequest,
    UnlinksRequest,
)
from pd_autoscaler.datadist.api import DataDist
from pd_autoscaler.datadist.options import links_max_of
from pd_autoscaler.datadist.status import verdict
from pd_autoscaler.model.facts import AgentPhase
from pd_autoscaler.model.node import Role

DEADLINE_MAX_S = 3600.0
TIMEOUT_MAX_MS = 2**31 - 1
"""The library takes a 32-bit signed integer."""

CAPABILITIES = ("init", "links", "unlinks", "force", "finalize")
CAN_SWITCH_ROLE = "role"
"""Told as a capability where the engine can take the other role."""


class AgentService:
    """Carries out what controllers ask, beside one library object.

    `role` is the only one this engine can take (None: either), `listen` the "ip:port" on which a
    prompt lets decoders link (port 0 picks a free one), `local_ip` this end's host address.
    `incarnation` names this process unlike any before it. With `is_initialised` the engine has
    initialised the library, with these `options`, and registered its memory itself. Calls need
    `running()`. Raises ConfigError for a wrong `listen` or `local_comm_res`.
    """

    def __init__(
        self,
        datadist: DataDist,
        *,
        node_id: str,
        role: Role | None,
        listen: str | None,
        options: Mapping[str, object],
        incarnation: str,
        local_ip: str,
        hooks: EngineHooks | None = None,
        classify: Classify = verdict,
        registry: CollectorRegistry | None = None,
        link_slots: int = LINK_SLOTS,
        is_initialised: bool = False,
    ) -> None:
        self._datadist = datadist
        self._node_id = node_id
        self._local_ip = local_ip
        self._links_max = links_max_of(options)
        hooks = NoHooks() if hooks is None else hooks
        self._load = LoadReader(hooks)
        self._gate = Gate(incarnation)
        self._table = LinkTable(classify)
        self._calls = NativeCalls(datadist, link_slots=link_slots)
        self.metrics = AgentMetrics(registry or CollectorRegistry(), self._calls, self._table)
        listens = listens_of(datadist, options)
        self._links = LinkCalls(
            self._calls,
            self._table,
            self.metrics,
            local_ip=local_ip,
            needs_address=listens is not Listens.NEVER,
        )
        self._life = Life(
            self._calls,
            self._table,
            role=role,
            listening=Listening(listens, listen, is_initialised=is_initialised, role=role),
            options=options,
            hooks=hooks,
            is_initialised=is_initialised,
        )
        self._keys: Keys[Batch | WholeCall] = Keys()
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Own the tasks of calls under way; on leaving, whoever waits for one is answered."""
        async with anyio.create_task_group() as owner:
            await owner.start(self._own_tasks)
            try:
                yield
            finally:
                self.stop()

    def stop(self) -> None:
        """Refuse new calls and answer those who wait; calls inside the library go on there."""
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
            self._tasks = None

    async def _own_tasks(self, *, task_status: TaskStatus[None]) -> None:
        # A task of its own: stopping must cancel the calls, and not whoever called running().
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            task_status.started()
            await anyio.sleep_forever()

    @property
    def trouble(self) -> str:
        """Why nothing can be linked until the process is replaced, or an empty string."""
        if self._calls.is_exhausted:
            return "every link slot hangs inside the library"
        whole = [call.verb for call in self._calls.hung if not call.cluster_ids]
        return f"{whole[0]} hangs inside the library" if whole else ""

    async def state(self) -> StateReply:
        """Return what this process knows of itself."""
        engine = await self._load.read()
        now_s = anyio.current_time()
        role = self._life.role
        hung = self._calls.hung
        can_switch = [CAN_SWITCH_ROLE] if self._life.can_switch_role else []
        return StateReply(
            version=__version__,
            capabilities=[*CAPABILITIES, *can_switch],
            node_id=self._node_id,
            role=None if role is None else role.value,
            phase=self._life.phase.value,
            incarnation=self._gate.incarnation,
            endpoints=self._endpoints(),
            links=self._table.entries(now_s=now_s),
            calls_in_flight=self._calls.in_flight,
            calls_hung=len(hung),
            hung=[
                HungCallWire(
                    verb=call.verb,
                    cluster_ids=list(call.cluster_ids),
                    age_s=max(0.0, now_s - call.began_s),
                )
                for call in hung
            ],
            engine=engine,
            epoch=self._gate.epoch,
            holder=self._gate.holder,
        )

    async def init(self, request: InitRequest) -> None:
        """Initialise the library in a role; ready in that role already is a success."""
        _check_limits(request.deadline_s)
        meaning = f"init {request.role}"
        found = self._found(request, meaning)
        if isinstance(found, WholeCall):
            await found.wait(deadline_s=request.deadline_s)
            return
        role = Role(request.role)
        if self._life.is_ready_as(role):
            return
        call, tasks = WholeCall(), self._owner()
        work = self._life.begin_init(role, deadline_s=request.deadline_s, on_late=call.answer)
        self._keys.keep(request.key, meaning, call, now_s=anyio.current_time())
        call.begin(tasks, work)
        # The call has this deadline itself and is answered at it.
        await call.wait(deadline_s=math.inf)

    async def switch_role(self, request: SwitchRoleRequest) -> None:
        """Take the other role with every link gone; ready in that role already is a success."""
        _check_limits(request.deadline_s)
        meaning = f"role {request.role}"
        found = self._found(request, meaning)
        if isinstance(found, WholeCall):
            await found.wait(deadline_s=request.deadline_s)
            return
        role = Role(request.role)
        if self._life.is_switched_to(role):
            return
        call, tasks = WholeCall(), self._owner()
        work = self._life.begin_switch(role, deadline_s=request.deadline_s, on_late=call.answer)
        self._keys.keep(request.key, meaning, call, now_s=anyio.current_time())
        call.begin(tasks, work)
        await call.wait(deadline_s=math.inf)

    def transfer_failed(self, cluster_id: int, code: str, *, began_s: float) -> None:
        """Take in that the engine's pull from, or push to, a remote cluster ended with this code.

        `code` is the status code's name; `began_s` is when the transfer began, on the event loop's
        clock, so that one over an earlier link is not held against this one. A code that makes the
        link suspect shows in its row, so that the controller cures it; only the end that linked has
        one. To be called in the event loop.
        """
        self.metrics.transfer_failed(code)
        now_s = anyio.current_time()
        self._table.transfer_failed(cluster_id, code, began_s=began_s, now_s=now_s)

    def claim(self, request: ClaimRequest) -> None:
        """Obey this caller from now on, and refuse those of a lower epoch."""
        self._gate.admit(request)

    async def finalize(self, request: FinalizeRequest) -> None:
        """Finalise the library; refused while any call is inside it. Finalised is a success."""
        _check_limits(request.deadline_s)
        found = self._found(request, "finalize")
        if isinstance(found, WholeCall):
            await found.wait(deadline_s=request.deadline_s)
            return
        if self._life.phase in {AgentPhase.NEW, AgentPhase.FINALISED}:
            return
        call, tasks = WholeCall(), self._owner()
        work = self._life.begin_finalize(deadline_s=request.deadline_s, on_late=call.answer)
        self._keys.keep(request.key, "finalize", call, now_s=anyio.current_time())
        call.begin(tasks, work)
        await call.wait(deadline_s=math.inf)

    def links(self, request: LinksRequest) -> AsyncGenerator[ClusterLine, None]:
        """Begin to link each cluster; the answers come one by one, as the calls end."""
        return self._begun(Verb.LINK, request)

    def unlinks(self, request: UnlinksRequest) -> AsyncGenerator[ClusterLine, None]:
        """Begin to unlink each cluster; one that is not linked is a success."""
        return self._begun(Verb.FORCE_UNLINK if request.force else Verb.UNLINK, request)

    def _begun(self, verb: Verb, request: LinksRequest) -> AsyncGenerator[ClusterLine, None]:
        _check_limits(request.deadline_s, request.timeout_ms)
        cluster_ids = [cluster.id for cluster in request.clusters]
        if len(set(cluster_ids)) < len(cluster_ids):
            raise RefusedError("bad_request", "clusters: an id is listed twice")
        meaning = f"{verb} {sorted(cluster_ids)}"
        found = self._found(request, meaning)
        if isinstance(found, Batch):
            return found.lines(deadline_s=request.deadline_s)
        self._life.check_ready()
        if verb is not Verb.FORCE_UNLINK and self._calls.is_exhausted:
            raise RefusedError("no_free_slot", f"{self.trouble}; only a new process frees them")
        batch = self._links.begin(verb, request, self._owner())
        self._keys.keep(request.key, meaning, batch, now_s=anyio.current_time())
        return batch.lines(deadline_s=math.inf)

    def _found(self, request: Mutation, meaning: str) -> Batch | WholeCall | None:
        self._gate.admit(request)
        return self._keys.find(request.key, meaning, now_s=anyio.current_time())

    def _owner(self) -> TaskGroup:
        if self._tasks is None:
            raise RefusedError("not_ready", "the agent is not running")
        return self._tasks

    def _endpoints(self) -> list[EndpointWire]:
        if self._life.phase not in {AgentPhase.READY, AgentPhase.FINALISED}:
            return []
        return [
            EndpointWire(
                cluster_id=self._datadist.cluster_id,
                ip=self._local_ip,
                port=self._life.port,
                links_max=self._links_max,
            )
        ]


def _check_limits(deadline_s: float, timeout_ms: int = 1) -> None:
    if not deadline_s <= DEADLINE_MAX_S:
        raise RefusedError("bad_request", f"deadline_s: is above {DEADLINE_MAX_S:g}")
    if timeout_ms > TIMEOUT_MAX_MS:
        raise RefusedError("bad_request", f"timeout_ms: is above {TIMEOUT_MAX_MS}")
