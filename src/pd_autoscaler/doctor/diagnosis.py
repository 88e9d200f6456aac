"""The doctor's round: look at everything that was asked about, then say what it means."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from difflib import get_close_matches

import aiohttp
import anyio

from pd_autoscaler.adapters.metrics.connection import metrics_session
from pd_autoscaler.adapters.metrics.node_labels import NodeLabels
from pd_autoscaler.doctor import site, site_looking
from pd_autoscaler.doctor.agent_findings import answers_of, of_agents, of_ports
from pd_autoscaler.doctor.asking import OVER, Asker
from pd_autoscaler.doctor.clocks import clock
from pd_autoscaler.doctor.findings import Diagnosis, Finding, Group, not_checked, ok, problem
from pd_autoscaler.doctor.fleet import of_fleet, of_published
from pd_autoscaler.doctor.looking import Looker, Terms, bare
from pd_autoscaler.doctor.page_findings import of_page
from pd_autoscaler.doctor.pages import Reader
from pd_autoscaler.doctor.role_findings import of_role
from pd_autoscaler.doctor.seen import NodeSeen
from pd_autoscaler.doctor.site import PrometheusSeen
from pd_autoscaler.errors import ConfigError, PdAutoscalerError
from pd_autoscaler.model.facts import ProvidedNode
from pd_autoscaler.model.node import Role
from pd_autoscaler.settings import Settings

CONCURRENCY_MAX = 128
"""Requests at once: enough that hanging nodes do not use up the time of those that answer, and few
enough that reading the pages of all does not make any of them late."""

Progress = Callable[[int, int], None]
"""Told how many nodes are done, and of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """How a round is made: by which settings and terms, and within `deadline_s` in all."""

    settings: Settings
    reader: Reader
    terms: Terms
    now_unix_s: Callable[[], float]
    deadline_s: float = 60.0
    progress: Progress = field(default=lambda _done, _count: None)

    async def of_one(self, node: ProvidedNode, role: Role | None) -> Diagnosis:
        """Look at one node that no provider lists; `role` is None where nobody said it."""
        async with AsyncExitStack() as stack:
            asker = await self._asker(stack)
            looker = Looker(asker, self.reader, self.terms)
            seen = await looker.look_at(node, role=role, is_role_certain=True)
        return Diagnosis((self._group(seen),))

    async def of_nodes(self, names: Collection[str]) -> Diagnosis:
        """Look at some of the provider's nodes; ConfigError for a name that it does not list."""
        async with AsyncExitStack() as stack:
            asker = await self._asker(stack)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            provider, nodes = await self._listed(session, asker)
            if nodes is None:
                return Diagnosis((Group("site", (provider,)),))
            known = {node.id: node for node in nodes}
            for name in names:
                if name not in known:
                    raise ConfigError(_unknown(name, list(known)))
            seen = await self._looked_at([known[name] for name in dict.fromkeys(names)], asker)
        return Diagnosis(tuple(self._group(node) for node in seen))

    async def of_all(self, local: Sequence[Finding], journal: site.JournalSeen) -> Diagnosis:
        """Look at everything the settings name; `local` are findings of this machine alone."""
        settings = self.settings
        async with AsyncExitStack() as stack:
            asker = await self._asker(stack)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            provider, nodes = await self._listed(session, asker)
            promql = settings.scrape.promql
            prometheus = (
                await site_looking.prometheus_seen(promql, asker, self.terms)
                if promql is not None and settings.scrape.source == "promql"
                else None
            )
            admin = (
                await site_looking.admin_seen(settings.admin, asker)
                if settings.admin.port
                else None
            )
            seen = await self._looked_at(nodes or (), asker)
            router = await self._router(session, asker, seen)
        has_daemon = admin is None or admin.healthy is not None
        around = [*local, site.of_journal(journal, has_daemon=has_daemon)]
        if admin is None:
            around.append(ok("admin port", "takes a free one (admin.port is 0)"))
        else:
            around.append(site.of_admin(admin))
        around += [provider, router]
        if prometheus is not None:
            around.append(site.of_prometheus(prometheus))
        groups = [Group("site", tuple(around))]
        if nodes is not None:
            is_meshed = settings.links.linker != "none"
            groups.append(Group("fleet", tuple(of_fleet(seen, is_meshed=is_meshed))))
        targets = _targets(nodes or (), prometheus)
        groups += [self._group(node, targets.get(node.id)) for node in seen]
        return Diagnosis(tuple(groups))

    async def _asker(self, stack: AsyncExitStack) -> Asker:
        session = await stack.enter_async_context(metrics_session())
        return Asker(
            session,
            now_unix_s=self.now_unix_s,
            concurrency_max=CONCURRENCY_MAX,
            ends_s=anyio.current_time() + self.deadline_s,
            size_max_bytes=self.settings.scrape.size_max_bytes,
        )

    async def _listed(
        self, session: aiohttp.ClientSession, asker: Asker
    ) -> tuple[Finding, tuple[ProvidedNode, ...] | None]:
        nodes: tuple[ProvidedNode, ...] | None = None
        try:
            with anyio.move_on_after(asker.left_s):
                nodes = await site_looking.listed(self.settings, session)
        except PdAutoscalerError as error:
            fix = "start the provider's supervisor, or correct provider.url"
            return problem("provider", str(error), fix), None
        if nodes is None:
            return not_checked("provider", OVER), None
        return ok("provider", f"{self.settings.provider.kind}: {len(nodes)} nodes"), nodes

    async def _router(
        self, session: aiohttp.ClientSession, asker: Asker, nodes: Sequence[NodeSeen]
    ) -> Finding:
        if self.settings.router.kind != "builtin":
            return not_checked("router", f"router.kind is {self.settings.router.kind}")
        published: frozenset[str] | None = None
        try:
            with anyio.move_on_after(asker.left_s):
                published = await site_looking.published(self.settings, session)
        except PdAutoscalerError as error:
            return problem("router", str(error), "start the router, or correct router.url")
        if published is None:
            return not_checked("router", OVER)
        return of_published(published, nodes)

    async def _looked_at(self, nodes: Sequence[ProvidedNode], asker: Asker) -> list[NodeSeen]:
        looker = Looker(asker, self.reader, self.terms)
        seen: dict[str, NodeSeen] = {}

        async def look(node: ProvidedNode) -> None:
            seen[node.id] = await looker.look_at(node, role=node.role)
            self.progress(len(seen), len(nodes))

        async with anyio.create_task_group() as group:
            for node in nodes:
                group.start_soon(look, node)
        return [seen[node.id] for node in nodes]

    def _group(self, node: NodeSeen, target: Finding | None = None) -> Group:
        findings = [*of_page(node), *([] if target is None else [target]), *of_role(node)]
        findings += [*of_agents(node), *of_ports(node), clock(answers_of(node))]
        return Group(node.id, tuple(findings), node.acting_role)


def _targets(
    nodes: Sequence[ProvidedNode], prometheus: PrometheusSeen | None
) -> dict[str, Finding]:
    if prometheus is None:
        return {}
    labels = NodeLabels(bare(node.id, metrics_url=node.metrics_url) for node in nodes)
    return {node.id: site.of_target(prometheus, labels.of(node.id)) for node in nodes}


def _unknown(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    some = ", ".join(sorted(known)[:20]) or "none"
    return f"no node {name!r}{meant} (the provider lists: {some})"
