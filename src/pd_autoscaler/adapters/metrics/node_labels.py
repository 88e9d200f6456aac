"""Which node a series is of: by the node's id, or by the host and port of its metrics URL."""

from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from pd_autoscaler.model.node import Node

_PORTS = {"http": 80, "https": 443}


class NodeLabels:
    """The label values that name each of these nodes; an address of several nodes names none."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._values = {node.id: (node.id, *_addresses(node.metrics_url)) for node in nodes}
        owners: dict[str, list[str]] = {}
        for node_id, values in self._values.items():
            for value in dict.fromkeys(values):
                owners.setdefault(value, []).append(node_id)
        alone = {value: ids[0] for value, ids in owners.items() if len(ids) == 1}
        # A node's own name is its own, whatever another one's address is.
        self._node_of = alone | {node_id: node_id for node_id in self._values}

    def of(self, node_id: str) -> Sequence[str]:
        """Return the values that name this node and no other."""
        return [v for v in self._values[node_id] if self._node_of.get(v) == node_id]

    def node_id(self, value: str) -> str | None:
        """Return the node that a value names, None if there is none."""
        return self._node_of.get(value)


def _addresses(url: str) -> Iterable[str]:
    """Return host and port as Prometheus may write them: the port of the scheme may be left out."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return
    usual = _PORTS.get(parts.scheme)
    host = parts.netloc.rpartition("@")[2].removesuffix(f":{port}")
    if not host or usual is None:
        return
    yield f"{host}:{port or usual}"
    if port in {None, usual}:
        yield host
