"""Looking at what is around the nodes: provider, router, admin address, Prometheus server."""

import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import aiohttp

from pd_autoscaler.adapters.addresses import shown
from pd_autoscaler.adapters.providers.process import ProcessProvider
from pd_autoscaler.adapters.providers.static import named
from pd_autoscaler.adapters.routers.builtin import BuiltinRouter
from pd_autoscaler.doctor.asking import Asker
from pd_autoscaler.doctor.looking import Terms, bearer
from pd_autoscaler.doctor.seen import Answer
from pd_autoscaler.doctor.site import AdminSeen, PrometheusSeen
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.facts import ProvidedNode
from pd_autoscaler.settings import AdminSettings, Settings
from pd_autoscaler.settings.sections import PromqlSettings

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # What a daemon may listen on.


async def listed(settings: Settings, session: aiohttp.ClientSession) -> tuple[ProvidedNode, ...]:
    """Return the provider's nodes.

    Raises ConfigError where it has no address, and what the provider's adapter raises.
    """
    provider = settings.provider
    if provider.kind == "static":
        return named(provider.nodes)
    if provider.url is None:
        raise ConfigError("provider.url is missing")
    return await ProcessProvider(provider.url, session=session).nodes()


async def published(settings: Settings, session: aiohttp.ClientSession) -> frozenset[str]:
    """Return what the router sends requests to; raises as `listed` does."""
    if settings.router.url is None:
        raise ConfigError("router.url is missing")
    return await BuiltinRouter(settings.router.url, session=session).published()


async def admin_seen(admin: AdminSettings, asker: Asker) -> AdminSeen:
    """Ask whether a daemon is where this one would listen."""
    host = ANY_ADDRESS.get(admin.host, admin.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{admin.port}"
    reply = await asker.get(f"{url}/healthz", deadline_s=5.0)
    told = _object(reply.body) if isinstance(reply, Answer) else {}
    healthy = told.get("healthy")
    return AdminSeen(
        url=url,
        reply=reply,
        healthy=healthy if isinstance(healthy, bool) else None,
        reason=str(told.get("reason", "")),
    )


async def prometheus_seen(promql: PromqlSettings, asker: Asker, terms: Terms) -> PrometheusSeen:
    """Ask a Prometheus server which of its targets are up, by the label that names nodes."""
    inside = ",".join(f"{name}={json.dumps(text)}" for name, text in promql.matchers.items())
    query = urlencode({"query": f"max by ({promql.node_label}) (up{{{inside}}})"})
    token = None if promql.token is None else promql.token.get_secret_value()
    reply = await asker.get(
        f"{promql.url.rstrip('/')}/api/v1/query?{query}",
        deadline_s=terms.scrape_deadline_s,
        headers=bearer(token),
        tls=terms.tls,
    )
    url, label = shown(promql.url), promql.node_label
    seen = PrometheusSeen(url=url, reply=reply, label=label, matchers=promql.matchers)
    if not isinstance(reply, Answer) or reply.status != 200:
        return seen
    told = _object(reply.body)
    try:
        rows = told["data"]["result"]
        is_up = {
            str(row["metric"][label]): float(row["value"][1]) > 0
            for row in rows
            if label in row["metric"]
        }
    except (LookupError, TypeError, ValueError, OverflowError):
        why = str(told.get("error") or "it is not the JSON of a query")
        return replace(seen, why_not=why)
    down = frozenset(value for value, is_up_now in is_up.items() if not is_up_now)
    return replace(seen, values=frozenset(is_up), down=down)


def _object(body: bytes) -> dict[str, Any]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
