"""The properties of LLMConfig that this package knows, and how they choose the library's mode.

Names as in hicann/hixl `src/python/llm_datadist/llm_datadist/configs.py`.
"""

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


def check_names(options: Mapping[str, object], known: frozenset[str]) -> None:
    """Raise ConfigError for the first option that LLMConfig has no property for."""
    for name in options:
        if name not in known:
            raise ConfigError(
                f"datadist option {name!r} is unknown; known are {', '.join(sorted(known))}"
            )
