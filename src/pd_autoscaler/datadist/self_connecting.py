"""The Protocol of `api` for engines that connect by themselves: links are always there.

Mooncake's transfer engine and HIXL's AutoConnect connect at the first transfer (hicann/hixl
`docs/zh/api/cpp/HIXL-interface.md`), so that nothing is to be linked. What is left to a
controller is who is a prompt and who a decoder.

An object of an engine's own that connects likewise says so by `never_listens = True`.
"""

from collections.abc import Mapping, Sequence

from pd_autoscaler.datadist.api import Cluster, DataDist, DataDistRole

_SUCCESS = "LLM_SUCCESS"


def never_listens(datadist: DataDist) -> bool:
    """Say whether an object is linked to without an address, in either role."""
    return getattr(datadist, "never_listens", False) is True


class SelfConnecting:
    """Keeps a role, and says yes to every link and unlink, initialised or not; nothing blocks."""

    never_listens = True

    def __init__(self, role: DataDistRole, cluster_id: int) -> None:
        self.role = _checked(role)
        self._cluster_id = cluster_id

    @property
    def cluster_id(self) -> int:
        """This endpoint's id."""
        return self._cluster_id

    def init(self, options: Mapping[str, object]) -> None:
        """Do nothing: the transport, and its options, are the engine's own business."""

    def finalize(self) -> None:
        """Do nothing."""

    def link_clusters(
        self, clusters: Sequence[Cluster], timeout: int = 3000
    ) -> tuple[str, list[str]]:
        """Answer LLM_SUCCESS for each cluster."""
        return self._each(clusters)

    def unlink_clusters(
        self, clusters: Sequence[Cluster], timeout: int = 3000, force: bool = False
    ) -> tuple[str, list[str]]:
        """Answer LLM_SUCCESS for each cluster."""
        return self._each(clusters)

    def switch_role(
        self, role: DataDistRole, switch_options: Mapping[str, str] | None = None
    ) -> None:
        """Take a role; there is no link that could be left."""
        self.role = _checked(role)

    def _each(self, clusters: Sequence[Cluster]) -> tuple[str, list[str]]:
        # As from the library: an empty list is a wrong argument.
        return _SUCCESS if clusters else "LLM_PARAM_INVALID", [_SUCCESS for _ in clusters]


def _checked(role: DataDistRole) -> DataDistRole:
    if not isinstance(role, DataDistRole):
        raise TypeError(f"role only supports DataDistRole, but got {type(role)}")
    return role
