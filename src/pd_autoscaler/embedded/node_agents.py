"""The agents of a node, one a rank: the same agent as beside a real engine."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.from_thread import BlockingPortal

from pd_autoscaler.agent.http import build_app, serve
from pd_autoscaler.agent.service import AgentService
from pd_autoscaler.agent.wire import EngineWire
from pd_autoscaler.embedded.engine_listen import LOOPBACK
from pd_autoscaler.embedded.engine_pull import RankPullError
from pd_autoscaler.embedded.node_engine import NodeEngine
from pd_autoscaler.embedded.node_ranks import Rank
from pd_autoscaler.model.node import Role


class RankHooks:
    """What one rank's agent asks of the engine, from its threads."""

    def __init__(
        self,
        number: int,
        rank: Rank,
        engine: NodeEngine,
        portal: BlockingPortal,
        *,
        can_switch_role: bool,
    ) -> None:
        self.can_switch_role = can_switch_role
        self._number = number
        self._rank = rank
        self._engine = engine
        self._portal = portal

    def load(self) -> EngineWire:
        """Tell what is inside the whole engine."""
        load = self._engine.load()
        return EngineWire(
            waiting=load.waiting,
            running=load.running,
            kv_unpulled=load.kv_unpulled,
            kv_used=load.kv_used,
        )

    def register_memory(self) -> None:
        """Register this rank's share of the KV blocks."""
        self._rank.register_memory()

    def switch_role(self, role: Role) -> None:
        """Have this rank take a role, in the engine's own event loop; raises NotIdleError."""
        self._portal.call(self._engine.switch_rank, self._number, role)


class Agents:
    """The agents of one node; `urls` are theirs in rank order, as they come to listen."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self._services: list[AgentService] = []

    def pull_failed(self, error: RankPullError) -> None:
        """Tell a rank's agent what the library said of a link, so that it is looked at."""
        began_s = anyio.current_time() - error.lasted_s
        self._services[error.rank].transfer_failed(error.cluster_id, error.code, began_s=began_s)

    @asynccontextmanager
    async def serving(
        self, rank: Rank, hooks: RankHooks, *, node_id: str, role: Role
    ) -> AsyncIterator[None]:
        """Serve one more rank's agent on a free loopback port."""
        service = AgentService(
            rank.datadist,
            node_id=node_id,
            role=role,
            # A decoder, too: it listens from when it becomes a prompt.
            listen=f"{LOOPBACK}:0",
            options={"device_id": len(self._services), "local_comm_res": ""},
            incarnation=f"{os.getpid()}-{os.urandom(6).hex()}",
            local_ip=LOOPBACK,
            hooks=hooks,
        )
        self._services.append(service)
        async with serve(build_app(service)) as port:
            self.urls.append(f"http://{LOOPBACK}:{port}")
            yield
