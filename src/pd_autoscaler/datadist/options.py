"""The properties of LLMConfig that this package knows, and how they choose the library's mode.

Names as in hicann/hixl `src/python/llm_datadist/llm_datadist/configs.py`.
"""

import json
from collections.abc import Mapping

from pd_autoscaler.errors import ConfigError

KNOWN_OPTIONS: frozenset[str] = frozenset(
    {
        "buf_pool_cfg",
        "cluster_info",
        "deploy_res_path",
        "device_id",
        "enable_cache_manager",
        "enable_remote_cache_accessible",
        "enable_switch_role",
        "ge_options",
        "global_resource_config",
        "host_mem_pool_cfg",
        "link_retry_count",
        "link_total_time",
        "listen_ip_info",
        "local_comm_res",
        "mem_pool_cfg",
        "mem_utilization",
        "output_max_size",
        "rdma_service_level",
        "rdma_traffic_class",
        "sync_kv_timeout",
        "transfer_backend",
    }
)

LINKS_MAX = 512
"""Links that one card may hold (hicann/hixl docs/zh/api/python/LLMDataDist.md)."""

_UNLIMITED = "1.3"
"""The version of `local_comm_res` whose transport counts no links (HixlCS)."""


def links_max_of(options: Mapping[str, object]) -> int | None:
    """Return how many links the endpoint's card may hold, None where there is no limit.

    Raises ConfigError if `local_comm_res` is neither empty nor a JSON object.
    """
    text = options.get("local_comm_res", "")
    if text == "":
        return LINKS_MAX
    try:
        resource = json.loads(text) if isinstance(text, str) else None
    except ValueError as error:
        raise ConfigError(f"datadist option 'local_comm_res' is not JSON: {error}") from error
    if not isinstance(resource, dict):
        raise ConfigError(
            "datadist option 'local_comm_res' must be a JSON object in a string, or ''"
        )
    return None if resource.get("version") == _UNLIMITED else LINKS_MAX


def is_hixl(options: Mapping[str, object]) -> bool:
    """Say whether transfers go over the HIXL engine.

    Every node then listens, and a switch of roles cannot change where (hicann/hixl
    docs/zh/design/llm-datadist_supporting_the_hixl_transfer_backend.md).
    """
    return options.get("transfer_backend") == "hixl"


def check_names(options: Mapping[str, object], known: frozenset[str]) -> None:
    """Raise ConfigError for the first option that LLMConfig has no property for."""
    for name in options:
        if name not in known:
            raise ConfigError(
                f"datadist option {name!r} is unknown; known are {', '.join(sorted(known))}"
            )
