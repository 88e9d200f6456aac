"""Link and unlink requests: one native call per cluster, answered one by one as they end."""

from collections.abc import AsyncGenerator, Sequence

import anyio
from anyio.abc import TaskGroup

from pd_autoscaler.agent.metrics import AgentMetrics
from pd_autoscaler.agent.native_calls import NativeCalls, OnLateCode
from pd_autoscaler.agent.table import (
    DEADLINE,
    NO_ADDRESS,
    LinkTable,
    Ticket,
    Verb,
    failed,
    unknown,
)
from pd_autoscaler.agent.wire import ClusterLine, ClusterWire, LinksRequest
from pd_autoscaler.datadist.api import Cluster
from pd_autoscaler.errors import OutcomeUnknownError, TransientError
from pd_autoscaler.model.link import Verdict


class Batch:
    """One request's calls; any number of readers may follow it, at once or an hour later."""

    def __init__(self, cluster_ids: Sequence[int]) -> None:
        self._lines: dict[int, ClusterLine] = {}
        self._cluster_ids = tuple(cluster_ids)
        self._changed = anyio.Event()

    def answer(self, line: ClusterLine) -> None:
        """Give a cluster's answer, or replace the one that it had by its late outcome."""
        self._lines[line.id] = line
        self._changed.set()
        self._changed = anyio.Event()

    async def lines(self, *, deadline_s: float) -> AsyncGenerator[ClusterLine, None]:
        """Yield each cluster's current answer as soon as it has one.

        Those that have none by the deadline are unknown. A call past its own deadline has an
        answer: that it is unknown.
        """
        until_s = anyio.current_time() + deadline_s
        given = 0
        while True:
            # Answers keep the order in which they were first given.
            for cluster_id in list(self._lines)[given:]:
                yield self._lines[cluster_id]
                given += 1
            if given == len(self._cluster_ids):
                return
            if given < len(self._lines):
                continue
            changed = self._changed
            with anyio.move_on_after(until_s - anyio.current_time()):
                await changed.wait()
                continue
            break
        for cluster_id in self._cluster_ids:
            if cluster_id not in list(self._lines)[:given]:
                yield unknown(cluster_id, DEADLINE)


class LinkCalls:
    """Begins the calls of link and unlink requests and books how they end.

    `needs_address` says whether the library connects to where a peer listens.
    """

    def __init__(
        self,
        calls: NativeCalls,
        table: LinkTable,
        metrics: AgentMetrics,
        *,
        local_ip: str,
        needs_address: bool,
    ) -> None:
        self._calls = calls
        self._table = table
        self._metrics = metrics
        self._local_ip = local_ip
        self._needs_address = needs_address

    def begin(self, verb: Verb, request: LinksRequest, tasks: TaskGroup) -> Batch:
        """Begin a call for each cluster; they go on whether or not anybody reads the answers."""
        batch = Batch([cluster.id for cluster in request.clusters])
        for cluster in request.clusters:
            ticket = self._ticket(verb, cluster)
            if isinstance(ticket, ClusterLine):
                self._metrics.answered(verb.value, ticket.code)
                batch.answer(ticket)
            else:
                tasks.start_soon(self._call, batch, ticket, cluster, request)
        return batch

    def _ticket(self, verb: Verb, cluster: ClusterWire) -> Ticket | ClusterLine:
        ticket = self._table.begin(
            verb, cluster.id, peer_incarnation=cluster.incarnation, now_s=anyio.current_time()
        )
        needs_address = self._needs_address and verb is not Verb.FORCE_UNLINK
        if isinstance(ticket, Ticket) and needs_address and None in {cluster.ip, cluster.port}:
            self._table.never_began(ticket, now_s=anyio.current_time())
            return failed(cluster.id, NO_ADDRESS, Verdict.CONFIG)
        return ticket

    async def _call(
        self, batch: Batch, ticket: Ticket, cluster: ClusterWire, request: LinksRequest
    ) -> None:
        verb = ticket.verb
        began_s = anyio.current_time()
        line = unknown(cluster.id, DEADLINE)

        def late(code: str) -> None:
            self._metrics.ended_late(verb.value, code)
            batch.answer(self._table.ended(ticket, code, now_s=anyio.current_time()))

        try:
            code = await self._native(ticket, cluster, request, late)
            self._metrics.took(verb.value, anyio.current_time() - began_s)
            line = self._table.ended(ticket, code, now_s=anyio.current_time())
        except TransientError:
            line = self._table.never_began(ticket, now_s=anyio.current_time())
        except OutcomeUnknownError:
            line = self._table.expired(ticket, now_s=anyio.current_time())
        finally:
            # Whoever reads is answered even if the agent is being stopped.
            self._metrics.answered(verb.value, line.code)
            batch.answer(line)

    async def _native(
        self, ticket: Ticket, cluster: ClusterWire, request: LinksRequest, late: OnLateCode
    ) -> str:
        far = Cluster(cluster.id, cluster.ip, cluster.port, self._local_ip)
        if ticket.verb is Verb.FORCE_UNLINK:
            # It is local: a decoder, which does not listen, has no port that could be given.
            far = Cluster(cluster.id)
        if ticket.verb is Verb.LINK:
            return await self._calls.link(
                far, timeout_ms=request.timeout_ms, deadline_s=request.deadline_s, on_late=late
            )
        return await self._calls.unlink(
            far,
            force=ticket.verb is Verb.FORCE_UNLINK,
            timeout_ms=request.timeout_ms,
            deadline_s=request.deadline_s,
            on_late=late,
        )
