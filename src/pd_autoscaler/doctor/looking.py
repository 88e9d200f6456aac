"""Looking at one node: its page twice, its agents, and the ports that decoders link to."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import anyio
from pydantic import ValidationError

from pd_autoscaler.adapters.metrics.scrape import REDIRECTS_MAX
from pd_autoscaler.agent.wire import StateReply
from pd_autoscaler.doctor.asking import Asker
from pd_autoscaler.doctor.pages import Kind, Look, Reader
from pd_autoscaler.doctor.seen import AgentSeen, Answer, NodeSeen, PageSeen, PortSeen, Reply
from pd_autoscaler.model.facts import ProvidedNode
from pd_autoscaler.model.node import Node, NodeState, Role

CONNECT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How nodes are looked at: tokens, deadlines, and `pause_s` between a page and the next.

    `skipped` has a reason for each of `metrics` and `link port` that is not to be looked at.
    """

    scrape_token: str | None = None
    agent_token: str | None = None
    scrape_deadline_s: float = 2.5
    agent_deadline_s: float = 5.0
    pause_s: float = 1.0
    tls: ssl.SSLContext | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)


class Looker:
    """Looks at nodes; one of them may be asked about anything at a time."""

    def __init__(self, asker: Asker, reader: Reader, terms: Terms) -> None:
        self._asker = asker
        self._reader = reader
        self._terms = terms

    async def look_at(
        self, node: ProvidedNode, *, role: Role | None, is_role_certain: bool = False
    ) -> NodeSeen:
        """Return what is seen of a node; `role` is the configured one, None where none is."""
        agents: list[AgentSeen | None] = [None] * len(node.agent_urls)
        pages: list[Reply] = []

        async def ask_agent(rank: int, url: str) -> None:
            agents[rank] = await self._agent(url)

        async def ask_page() -> None:
            pages.append(await self._page(node.metrics_url))

        has_page = bool(node.metrics_url) and "metrics" not in self._terms.skipped
        async with anyio.create_task_group() as group:
            for rank, url in enumerate(node.agent_urls):
                group.start_soon(ask_agent, rank, url)
            if has_page:
                group.start_soon(ask_page)
        seen = NodeSeen(
            id=node.id,
            role=role,
            is_role_certain=is_role_certain,
            profile=node.profile or self._reader.default,
            own_profile=node.profile,
            agents=tuple(agent for agent in agents if agent is not None),
            skipped=self._terms.skipped,
        )
        if has_page:
            seen = replace(seen, page=await self._looked_at(node.metrics_url, pages[0], seen))
        return replace(seen, ports=await self._ports(seen))

    async def _looked_at(self, url: str, reply: Reply, seen: NodeSeen) -> PageSeen:
        """Look at a page, and at a later one if there is something to compare."""
        look = self._look(reply, seen, seen.acting_role)
        page = PageSeen(url=url, reply=_without_body(reply), look=look)
        if look is None or look.reading is None:
            return page
        began_s = anyio.current_time()
        await anyio.sleep(self._terms.pause_s)
        apart_s = anyio.current_time() - began_s
        later = await self._page(url)
        return replace(
            page,
            later_reply=_without_body(later),
            later=self._look(later, seen, look.role),
            apart_s=apart_s,
        )

    def _look(self, reply: Reply, seen: NodeSeen, role: Role | None) -> Look | None:
        if not isinstance(reply, Answer) or reply.status != 200:
            return None
        node = bare(seen.id, profile=seen.own_profile)
        try:
            return self._reader.look(
                reply.body, reply.content_type, node=node, role=role, date=reply.date
            )
        except Exception as error:  # One odd page must not end the look at all others.
            why = f"the page cannot be read: {type(error).__name__}: {error}"
            return Look(kind=Kind.METRICS, size=len(reply.body), error=why)

    async def _page(self, url: str) -> Reply:
        return await self._asker.get(
            url,
            deadline_s=self._terms.scrape_deadline_s,
            headers=bearer(self._terms.scrape_token),
            tls=self._terms.tls,
            redirects_max=REDIRECTS_MAX,
        )

    async def _agent(self, url: str) -> AgentSeen:
        reply = await self._asker.get(
            f"{url.rstrip('/')}/v1/state",
            deadline_s=self._terms.agent_deadline_s,
            headers=bearer(self._terms.agent_token),
        )
        if not isinstance(reply, Answer) or reply.status != 200:
            return AgentSeen(url=url, reply=_without_body(reply))
        try:
            state = StateReply.model_validate_json(reply.body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            why = f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"
            return AgentSeen(url=url, reply=_without_body(reply), why_not=why)
        return AgentSeen(url=url, reply=_without_body(reply), state=state)

    async def _ports(self, seen: NodeSeen) -> tuple[PortSeen, ...]:
        """Connect to what a prompt node listens on; rank after rank, so a look stays small."""
        if seen.acting_role is not Role.PROMPT or "link port" in self._terms.skipped:
            return ()
        found = []
        for endpoint in (end for state in seen.states for end in state.endpoints):
            if endpoint.port is not None:
                trouble = await self._asker.connect(
                    endpoint.ip, endpoint.port, deadline_s=CONNECT_S
                )
                found.append(PortSeen(place=_place(endpoint.ip, endpoint.port), trouble=trouble))
        return tuple(found)


def bare(node_id: str, *, profile: str = "", metrics_url: str = "") -> Node:
    """Return a node of which nothing else matters."""
    return Node(
        id=node_id,
        role=Role.PROMPT,
        state=NodeState.SERVING,
        since_s=0.0,
        profile=profile,
        metrics_url=metrics_url,
    )


def bearer(token: str | None) -> Mapping[str, str]:
    """Return the headers that carry a token."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def _place(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _without_body(reply: Reply) -> Reply:
    # A thousand pages need not stay in memory once they were looked at.
    return replace(reply, body=b"") if isinstance(reply, Answer) else reply
