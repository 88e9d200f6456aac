"""The process provider: nodes are processes of a supervisor, asked for through its API."""

from typing import Any
from urllib.parse import quote

import aiohttp

from pd_autoscaler.adapters.json_api import JsonApi
from pd_autoscaler.errors import TransientError
from pd_autoscaler.model.facts import ProvidedNode
from pd_autoscaler.model.node import Role

_TEXTS = ("id", "role", "metrics_url", "engine_url", "request_id")


class ProcessProvider:
    """Lists, asks for and removes the nodes of one supervisor.

    `session` belongs to the caller; `timeout_s` bounds each call.
    """

    def __init__(self, url: str, *, session: aiohttp.ClientSession, timeout_s: float = 5.0) -> None:
        self._api = JsonApi(url, session=session, timeout_s=timeout_s)

    async def nodes(self) -> tuple[ProvidedNode, ...]:
        """List the nodes that exist; one that is still starting has no URLs yet."""
        listed = await self._api.read("/nodes")
        what = f"{self._api.url}/nodes"
        if not isinstance(listed, list):
            raise TransientError(f"{what}: the answer is not a list of nodes")
        return tuple(_provided(row, what) for row in listed)

    async def grow(self, role: Role, request_id: str) -> None:
        """Ask for one more node; a repeated request id asks for nothing more."""
        asked = {"role": role.value, "request_id": request_id}
        await self._api.change("POST", "/nodes", f"start {role} node {request_id}", json=asked)

    async def remove(self, node_id: str) -> None:
        """Remove a node; one that is already gone is a success.

        It is listed until its process has ended.
        """
        path = f"/nodes/{quote(node_id, safe='')}"
        await self._api.change("DELETE", path, f"stop {node_id}", is_gone_fine=True)


def _provided(row: Any, what: str) -> ProvidedNode:
    texts = {name: row.get(name, "") for name in _TEXTS} if isinstance(row, dict) else {}
    is_text = all(isinstance(text, str) for text in texts.values())
    agents: Any = row.get("agent_urls", []) if isinstance(row, dict) else None
    has_agents = isinstance(agents, list) and all(isinstance(url, str) for url in agents)
    if not texts.get("id") or not is_text or not has_agents or texts["role"] not in set(Role):
        raise TransientError(f"{what}: {str(row)[:200]} is not a node")
    return ProvidedNode(
        id=texts["id"],
        role=Role(texts["role"]),
        agent_urls=tuple(agents),
        metrics_url=texts["metrics_url"],
        engine_url=texts["engine_url"],
        request_id=texts["request_id"],
    )
