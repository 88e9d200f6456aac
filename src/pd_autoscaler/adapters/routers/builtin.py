"""The embedded cluster's router, through its admin API (`GET`, `POST`, `DELETE` on `/nodes`)."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from pd_autoscaler.adapters.json_api import JsonApi
from pd_autoscaler.errors import PermanentError, TransientError
from pd_autoscaler.model.node import Node


class BuiltinRouter:
    """Publishes and withdraws nodes at the embedded router.

    `session` belongs to the caller; `timeout_s` bounds each call.
    """

    def __init__(self, url: str, *, session: aiohttp.ClientSession, timeout_s: float = 5.0) -> None:
        self._api = JsonApi(url, session=session, timeout_s=timeout_s)

    @property
    def is_pair_aware(self) -> bool:
        """False: it knows nothing of links."""
        return False

    async def published(self) -> frozenset[str]:
        """Return the ids of the nodes that may get new requests."""
        body = await self._nodes()
        ids = [*_list(body, "prompt"), *_list(body, "decoder")]
        return frozenset(str(node_id) for node_id in ids)

    async def in_flight(self) -> Mapping[str, int]:
        """Return requests in flight by node id, withdrawn nodes included."""
        counts = (await self._nodes()).get("in_flight")
        if not isinstance(counts, dict) or not all(type(n) is int for n in counts.values()):
            raise TransientError(f"{self._api.url}/nodes: in_flight is not a table of counts")
        return counts

    async def publish(self, node: Node) -> None:
        """Let a node get new requests; one that already may is a success."""
        if not node.engine_url:
            raise PermanentError(f"publish {node.id}: its provider gave no engine URL")
        body = {"id": node.id, "role": node.role.value, "url": node.engine_url}
        await self._api.change("POST", "/nodes", f"publish {node.id}", json=body)

    async def withdraw(self, node_id: str) -> None:
        """Send a node nothing new; an unknown one is a success."""
        path = f"/nodes/{quote(node_id, safe='')}"
        await self._api.change("DELETE", path, f"withdraw {node_id}", is_gone_fine=True)

    async def _nodes(self) -> Mapping[str, Any]:
        """Read the router's table."""
        body = await self._api.read("/nodes")
        if not isinstance(body, dict):
            raise TransientError(f"{self._api.url}/nodes: the answer is not an object")
        return body


def _list(body: Mapping[str, Any], name: str) -> list[Any]:
    """Return a list from the answer."""
    value = body.get(name)
    if not isinstance(value, list):
        raise TransientError(f"the router's answer has no list {name}")
    return value
