"""What the library refuses before it does anything, and how.

TypeError, ValueError and status codes as in hicann/hixl `v2/llm_datadist.py`, `configs.py` and
`utils/utils.py`.
"""

import socket
from collections.abc import Mapping, Sequence

from pd_autoscaler.datadist.api import Cluster, DataDistError, DataDistRole
from pd_autoscaler.datadist.options import KNOWN_OPTIONS, check_names

_INT32_MAX = 2**31 - 1
_UINT64_MAX = 2**64 - 1
_UINT16_MAX = 2**16 - 1

_SYNC_KV_TIMEOUT_MS = 1000


def invalid(message: str) -> DataDistError:
    """Return the error for a wrong argument."""
    return DataDistError(message, code="LLM_PARAM_INVALID")


def check_role(role: object) -> None:
    """Raise TypeError for what is no role."""
    if not isinstance(role, DataDistRole):
        raise TypeError(f"role only supports DataDistRole, but got {type(role)}")


def check_cluster_id(value: object) -> None:
    """Raise TypeError or ValueError for what is no unsigned 64-bit integer."""
    _check_int("cluster_id", value, 0, _UINT64_MAX)


def check_clusters(clusters: object, timeout: object) -> None:
    """Check what link and unlink calls share: the time-out in milliseconds and the list."""
    if not isinstance(timeout, int):
        raise TypeError(f"timeout only supports int, but got {type(timeout)}")
    if not -_INT32_MAX - 1 <= timeout <= _INT32_MAX:
        raise ValueError(f"timeout {timeout} is not an int32 value")
    if timeout <= 0:
        raise invalid("Param timeout should be greater than 0.")
    if not isinstance(clusters, list | tuple):
        raise TypeError(f"clusters only supports list and tuple, but got {type(clusters)}")
    for cluster in clusters:
        if not isinstance(cluster, Cluster):
            raise TypeError(f"clusters only hold Cluster, but got {type(cluster)}")
        _check_cluster(cluster)


def check_local_ips(clusters: Sequence[Cluster], *, has_local_comm_res: bool) -> None:
    """Raise for a cluster without a local ip where the library needs one."""
    if not has_local_comm_res and any(cluster.local_ip is None for cluster in clusters):
        raise invalid(
            "local_ip_info_list is empty. Give local_ip when local_comm_res is unset or empty."
        )


def check_options(options: object) -> None:
    """Raise for options that the real library, or this simulation of its V2, would not start on."""
    if not isinstance(options, Mapping):
        raise TypeError(f"options only support Mapping, but got {type(options)}")
    check_names(options, KNOWN_OPTIONS)
    if "device_id" not in options:
        raise invalid("device_id must be given")
    has_cache_manager = options.get("enable_cache_manager", "local_comm_res" in options)
    if not has_cache_manager or options.get("transfer_backend"):
        raise DataDistError(
            "only the cache-manager mode over the comm backend is simulated: give "
            "local_comm_res (it may be '') or enable_cache_manager, and no transfer_backend",
            code="LLM_FEATURE_NOT_ENABLED",
        )


def is_remote_accessible(options: Mapping[str, object]) -> bool:
    """Say whether peers may reach this end's caches; both ends of a link must agree."""
    return bool(options.get("enable_remote_cache_accessible", "local_comm_res" in options))


def pull_timeout_ms(options: Mapping[str, object]) -> int:
    """Return how long a pull may take; the library's own default is a second."""
    return int(str(options.get("sync_kv_timeout", _SYNC_KV_TIMEOUT_MS)))


def listen_address(text: object) -> tuple[str, int]:
    """Read "ip:port"."""
    if not isinstance(text, str):
        raise TypeError(f"listen_ip_info only supports str, but got {type(text)}")
    ip, colon, port = text.partition(":")
    if not colon or not port.isdigit() or int(port) > _UINT16_MAX:
        raise invalid(f'llm.listenIpInfo "{text}" is invalid, format should be "ip:port"')
    _check_ip(ip)
    return ip, int(port)


def _check_cluster(cluster: Cluster) -> None:
    check_cluster_id(cluster.cluster_id)
    for ip in (cluster.ip, cluster.local_ip):
        if ip is not None:
            _check_ip(ip)
    if cluster.ip is not None:
        _check_int("port", cluster.port, 0, _UINT16_MAX)


def _check_ip(ip: str) -> None:
    try:
        socket.inet_aton(ip)
    except OSError:
        raise RuntimeError(f"Can not parse ip str:{ip}") from None


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name} only supports int, but got {type(value)}")
    if not low <= value <= high:
        raise ValueError(f"{name}'s value {value} is out of range [{low}, {high}]")
