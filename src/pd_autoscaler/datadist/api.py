"""LLM-DataDist as this package uses it: one Protocol for the real package and the simulated one.

Signatures and behaviour follow the Python package of Huawei CANN (hicann/hixl,
`src/python/llm_datadist/llm_datadist/v2/llm_datadist.py`). "Cluster" is that library's word for
one endpoint of a node and appears in this folder only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class DataDistRole(IntEnum):
    """The library's role label; in V2 it has no effect on who may link whom."""

    PROMPT = 1
    DECODER = 2
    MIX = 3


@dataclass(frozen=True, slots=True)
class Cluster:
    """The far end of a link call.

    `ip` and `port` are the peer's host address (None where a forced unlink needs none);
    `local_ip` must be given where `local_comm_res` is unset or empty.
    """

    cluster_id: int
    ip: str | None = None
    port: int | None = None
    local_ip: str | None = None


class DataDistError(RuntimeError):
    """The library raised; `code` is the status code's name, such as LLM_EXIST_LINK."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class DataDist(Protocol):
    """One library object: the only one of its process.

    All methods block and release the interpreter lock. Time-outs are milliseconds and bound the
    connect, not the call: a silent peer blocks a call without end. Before `init` every other
    method raises RuntimeError; wrong types raise TypeError, wrong ranges ValueError.
    """

    @property
    def cluster_id(self) -> int:
        """This endpoint's id, unique over all nodes that will ever link."""
        ...

    def init(self, options: Mapping[str, object]) -> None:
        """Initialise; `options` are LLMConfig properties by name, such as `listen_ip_info`.

        Raises DataDistError (LLM_FAILED for a second object in one process).
        """
        ...

    def finalize(self) -> None:
        """Release everything without telling peers; must not run beside any other call."""
        ...

    def link_clusters(
        self, clusters: Sequence[Cluster], timeout: int = 3000
    ) -> tuple[str, list[str]]:
        """Link to each cluster; return the overall code's name and one per cluster, in order.

        A failed link is returned, not raised. The list may be shorter than asked.
        """
        ...

    def unlink_clusters(
        self, clusters: Sequence[Cluster], timeout: int = 3000, force: bool = False
    ) -> tuple[str, list[str]]:
        """Unlink each cluster; `force` drops the local end alone, without the network."""
        ...

    def switch_role(
        self, role: DataDistRole, switch_options: Mapping[str, str] | None = None
    ) -> None:
        """Change the role label and the listener (`llm.listenIpInfo`); no link may be left.

        Without the option the listener closes. Raises DataDistError (LLM_EXIST_LINK).
        """
        ...
