"""The embedded cluster: supervisor, router and load in one process, nodes in theirs."""

import math
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from aiohttp import web

from pd_autoscaler.embedded.json_only import json_only
from pd_autoscaler.embedded.load import Load, LoadLimits, LoadNumbers, LoadState
from pd_autoscaler.embedded.router import EmbeddedRouter
from pd_autoscaler.embedded.summary import Summary, count_leaked, summarised
from pd_autoscaler.embedded.supervisor import (
    Command,
    Supervisor,
    SupervisorLimits,
    node_command,
    supervising,
)
from pd_autoscaler.embedded.supervisor_http import served, supervisor_app
from pd_autoscaler.model.node import Role
from pd_autoscaler.workload.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """What a cluster is made of: its nodes' command and ranks, how many it begins with, bounds."""

    command: Command = field(default_factory=node_command)
    nodes: Mapping[Role, int] = field(default_factory=lambda: dict.fromkeys(Role, 1))
    ranks: Mapping[Role, int] = field(default_factory=lambda: dict.fromkeys(Role, 1))
    work_dir: Path | None = None
    supervisor: SupervisorLimits = field(default_factory=SupervisorLimits)
    load: LoadLimits = field(default_factory=LoadLimits)


class Cluster:
    """A running cluster, made by `running_cluster`; it carries one load in its life."""

    def __init__(self, supervisor: Supervisor, router: EmbeddedRouter, load: Load) -> None:
        self.supervisor = supervisor
        self.router = router
        self.supervisor_url = self.router_url = self.cluster_url = ""
        self._load = load
        self._asked = anyio.Event()
        self._ended = anyio.Event()
        self._links_leaked: int | None = None

    async def load(self, requests: Iterable[Request]) -> None:
        """Send a workload, now being its time zero, and wait for the answers in flight at its end.

        Raises RuntimeError when it was called before.
        """
        if self._load.state is not LoadState.WAITING:
            raise RuntimeError("a cluster carries one load in its life")
        try:
            await self._load.run(requests)
        finally:
            self._ended.set()

    def stop_load(self) -> None:
        """Send nothing more; those in flight are still waited for."""
        self._load.stop()

    def drop_load(self) -> None:
        """Send nothing more and wait for no answer: those in flight stay unfinished."""
        self._load.drop()

    async def load_ended(self) -> None:
        """Return when the load has ended, at once if it never began."""
        if self._load.state is not LoadState.WAITING:
            await self._ended.wait()

    async def published(self) -> None:
        """Return once the router has at least one node of each role."""
        await self.router.table.wait_for(*Role, within_s=math.inf)

    async def load_asked(self) -> None:
        """Return once somebody asked for the load by `POST /load`."""
        await self._asked.wait()

    def ask_load(self) -> None:
        """Let whoever waits for `load_asked` go on."""
        self._asked.set()

    def numbers(self) -> LoadNumbers:
        """Return the load's running numbers."""
        return self._load.numbers()

    async def look_at_links(self) -> None:
        """Count leaked links for the summary; only nodes that live can tell."""
        self._links_leaked = await count_leaked(self.supervisor)

    def summary(self) -> Summary:
        """Sum up as it is now, with the links as they were when last looked at."""
        return summarised(self._load, self.supervisor, links_leaked=self._links_leaked)


def cluster_app(cluster: Cluster) -> web.Application:
    """Return the cluster's API.

    GET /load gives the running numbers, POST /load asks for the load to begin (202), DELETE /load
    for its end (202; with ?drop=1 no answer is waited for), GET /summary looks at the links and
    sums up. A POST must be JSON (else 415).
    """

    async def numbers(_: web.Request) -> web.Response:
        return web.json_response(asdict(cluster.numbers()))

    async def begin(_: web.Request) -> web.Response:
        cluster.ask_load()
        return web.json_response({}, status=202)

    async def end(asked: web.Request) -> web.Response:
        cluster.stop_load()
        if asked.query.get("drop") == "1":
            cluster.drop_load()
        return web.json_response({}, status=202)

    async def summary(_: web.Request) -> web.Response:
        await cluster.look_at_links()
        return web.json_response(cluster.summary().wire())

    app = web.Application(middlewares=[json_only])
    app.router.add_get("/load", numbers)
    app.router.add_post("/load", begin)
    app.router.add_delete("/load", end)
    app.router.add_get("/summary", summary)
    return app


@asynccontextmanager
async def running_cluster(options: ClusterOptions) -> AsyncIterator[Cluster]:
    """Run a cluster on free loopback ports; on leaving, every node process has ended.

    The cluster's counts can still be read after that.
    """
    async with AsyncExitStack() as stack:
        work_dir = options.work_dir
        if work_dir is None:
            work_dir = Path(stack.enter_context(TemporaryDirectory(prefix="pd-autoscaler-")))
        router = EmbeddedRouter()
        router_url = await stack.enter_async_context(router.listening())
        supervisor = await stack.enter_async_context(
            supervising(
                options.command,
                work_dir=work_dir,
                limits=options.supervisor,
                ranks=options.ranks,
            )
        )
        load = Load(router_url, killed_at_s=supervisor.killed_at_s, limits=options.load)
        cluster = Cluster(supervisor, router, load)
        cluster.router_url = router_url
        cluster.supervisor_url = await stack.enter_async_context(served(supervisor_app(supervisor)))
        cluster.cluster_url = await stack.enter_async_context(served(cluster_app(cluster)))
        for role, count in options.nodes.items():
            for number in range(1, count + 1):
                supervisor.grow(role, f"initial-{role}-{number}")
        yield cluster


if __name__ == "__main__":
    from pd_autoscaler.embedded.cluster_main import main

    main()
