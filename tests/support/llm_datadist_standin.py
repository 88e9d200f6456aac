"""The Python surface of `llm_datadist`, written from its signatures, over the simulated library.

It checks what the real package checks, in its order (hicann/hixl
`src/python/llm_datadist/llm_datadist/{configs,status}.py`, `v2/llm_datadist.py`), so that the
binding meets the same types, enums, option keys and exceptions. Its enums are IntEnum as from
CANN 9.1, or Enum as before where STANDIN_ENUM says so.
"""

import enum
import os
import socket
from typing import Any

from pd_autoscaler.datadist.api import Cluster, DataDistError, DataDistRole
from pd_autoscaler.datadist.simulated import LinkTiming, SimulatedDataDist, SimulatedProcess
from pd_autoscaler.datadist.status import STATUS_CODES

os.environ.setdefault("AUTO_USE_UC_MEMORY", "0")

_ENUM: Any = enum.Enum if os.environ.get("STANDIN_ENUM") == "Enum" else enum.IntEnum

LLMStatusCode: Any = _ENUM(
    "LLMStatusCode", {name: code.value for name, code in STATUS_CODES.items()}
)
LLMRole: Any = _ENUM("LLMRole", {"PROMPT": 1, "DECODER": 2, "MIX": 3})


class LLMException(RuntimeError):  # noqa: N818  # The package's name.
    def __init__(self, message: str, status_code: Any = None) -> None:
        super().__init__(message)
        self._status_code = status_code

    @property
    def status_code(self) -> Any:
        return self._status_code


def _check(name: str, value: object, *kinds: type) -> None:
    if not isinstance(value, kinds):
        raise TypeError(f"{name} only support {[kind.__name__ for kind in kinds]}")


def _check_range(name: str, value: Any, low: int, high: int) -> None:
    _check(name, value, int)
    if not low <= value <= high:
        raise ValueError(f"{name}'s value is out of range, {value}")


def _require(fact: object, message: str) -> None:
    if not fact:
        raise LLMException(message, status_code=LLMStatusCode.LLM_PARAM_INVALID)


class LLMClusterInfo:
    def __init__(self) -> None:
        self._remote_cluster_id: int | None = None
        self.local_ip_info_list: list[tuple[int, int]] = []
        self.remote_ip_info_list: list[tuple[int, int]] = []

    @property
    def remote_cluster_id(self) -> int | None:
        return self._remote_cluster_id

    @remote_cluster_id.setter
    def remote_cluster_id(self, value: int) -> None:
        _check_range("remote_cluster_id", value, 0, 2**64 - 1)
        self._remote_cluster_id = value

    def append_local_ip_info(self, ip: str | int, port: int) -> None:
        self.local_ip_info_list.append(_ip_info(ip, port))

    def append_remote_ip_info(self, ip: str | int, port: int) -> None:
        self.remote_ip_info_list.append(_ip_info(ip, port))


def _ip_info(ip: str | int, port: int) -> tuple[int, int]:
    _check("ip", ip, str, int)
    _check_range("port", port, 0, 2**16 - 1)
    if isinstance(ip, str):
        try:
            ip = int.from_bytes(socket.inet_aton(ip), byteorder="little")
        except OSError:
            raise RuntimeError(f"Can not parse ip str:{ip}") from None
    return ip, port


def _dotted(ip: int) -> str:
    return socket.inet_ntoa(ip.to_bytes(4, byteorder="little"))


def _option(name: str, kind: type) -> Any:
    """A property of LLMConfig that checks its type."""

    def get(config: "LLMConfig") -> Any:
        return config.values.get(name)

    def put(config: "LLMConfig", value: Any) -> None:
        _check(name, value, kind)
        config.values[name] = value

    return property(get, put)


class LLMConfig:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    device_id = _option("device_id", int)
    listen_ip_info = _option("listen_ip_info", str)
    local_comm_res = _option("local_comm_res", str)
    enable_cache_manager = _option("enable_cache_manager", bool)
    enable_remote_cache_accessible = _option("enable_remote_cache_accessible", bool)
    sync_kv_timeout = _option("sync_kv_timeout", int)
    transfer_backend = _option("transfer_backend", str)

    @property
    def options(self) -> dict[str, str]:
        return {}

    def generate_options(self) -> dict[str, str]:
        keys = {
            "listen_ip_info": "llm.listenIpInfo",
            "local_comm_res": "llm.LocalCommRes",
            "enable_cache_manager": "llm.EnableCacheManager",
            "enable_remote_cache_accessible": "llm.EnableRemoteCacheAccessible",
            "sync_kv_timeout": "llm.SyncKvCacheWaitTime",
            "transfer_backend": "llm.TransferBackend",
        }
        options = {}
        if "device_id" in self.values:
            options["ge.exec.deviceId"] = str(self.values["device_id"])
            options["ge.session_device_id"] = str(self.values["device_id"])
        for name, key in keys.items():
            if name in self.values:
                value = self.values[name]
                options[key] = str(int(value)) if isinstance(value, bool) else str(value)
        return options


LlmConfig = LLMConfig
PROCESS = SimulatedProcess()


class LLMDataDist:
    llm_engine_instance: Any = None

    def __init__(self, role: Any, cluster_id: int) -> None:
        _check("role", role, LLMRole)
        _check_range("cluster_id", cluster_id, 0, 2**64 - 1)
        self.role = role
        self._cluster_id = cluster_id
        self._is_initialized = False
        self.options: dict[str, str] = {}
        self.simulated = SimulatedDataDist(
            DataDistRole[role.name],
            cluster_id,
            process=PROCESS,
            timing=LinkTiming(rounding_s=float(os.environ.get("STANDIN_ROUNDING_S", "0.1"))),
        )

    @property
    def cluster_id(self) -> int:
        return self._cluster_id

    def init(self, options: dict[str, str]) -> None:
        if self._is_initialized:
            return
        if LLMDataDist.llm_engine_instance is not None:
            raise LLMException(
                "Cannot init multiple LLMDataDists", status_code=LLMStatusCode.LLM_FAILED
            )
        _check("options", options, dict)
        assert all(isinstance(value, str) for value in options.values())
        self.options = options
        self._native(lambda: self.simulated.init(_parsed(options)))
        LLMDataDist.llm_engine_instance = self
        self._is_initialized = True

    def finalize(self) -> None:
        if not self._is_initialized:
            return
        self.simulated.finalize()
        self._is_initialized = False
        LLMDataDist.llm_engine_instance = None

    def link_clusters(self, clusters: Any, timeout: int = 3000) -> tuple[Any, list[Any]]:
        self._check_call(clusters, timeout)
        for cluster in clusters:
            if not self.options.get("llm.LocalCommRes"):
                _require(cluster.local_ip_info_list, "local_ip_info_list is empty.")
        return self._answer(self.simulated.link_clusters(_clusters(clusters), timeout))

    def unlink_clusters(
        self, clusters: Any, timeout: int = 3000, force: bool = False
    ) -> tuple[Any, list[Any]]:
        self._check_call(clusters, timeout)
        _check("force", force, bool)
        return self._answer(self.simulated.unlink_clusters(_clusters(clusters), timeout, force))

    def switch_role(self, role: Any, switch_options: dict[str, str] | None = None) -> None:
        self._check_is_inited()
        _check("role", role, LLMRole)
        if switch_options is not None:
            _check("switch_options", switch_options, dict)
        self._native(lambda: self.simulated.switch_role(DataDistRole[role.name], switch_options))
        self.role = role

    def _check_is_inited(self) -> None:
        if not self._is_initialized:
            raise RuntimeError("llm datadist is not initialized")

    def _check_call(self, clusters: Any, timeout: Any) -> None:
        self._check_is_inited()
        _check_range("timeout", timeout, -(2**31), 2**31 - 1)
        _require(timeout > 0, "Param timeout should be greater than 0.")
        _check("clusters", clusters, list, tuple)
        for cluster in clusters:
            _check("clusters", cluster, LLMClusterInfo)

    @staticmethod
    def _answer(answer: tuple[str, list[str]]) -> tuple[Any, list[Any]]:
        overall, each = answer
        return LLMStatusCode[overall], [LLMStatusCode[code] for code in each]

    @staticmethod
    def _native(call: Any) -> None:
        try:
            call()
        except DataDistError as error:
            raise LLMException(str(error), status_code=LLMStatusCode[error.code]) from error


def _parsed(options: dict[str, str]) -> dict[str, object]:
    parsed: dict[str, object] = {}
    for key, name in (
        ("ge.exec.deviceId", "device_id"),
        ("llm.listenIpInfo", "listen_ip_info"),
        ("llm.LocalCommRes", "local_comm_res"),
        ("llm.SyncKvCacheWaitTime", "sync_kv_timeout"),
        ("llm.TransferBackend", "transfer_backend"),
    ):
        if key in options:
            parsed[name] = options[key]
    for key, name in (
        ("llm.EnableCacheManager", "enable_cache_manager"),
        ("llm.EnableRemoteCacheAccessible", "enable_remote_cache_accessible"),
    ):
        if key in options:
            parsed[name] = options[key] == "1"
    return parsed


def _clusters(infos: list[LLMClusterInfo]) -> list[Cluster]:
    clusters = []
    for info in infos:
        assert info.remote_cluster_id is not None
        remote = info.remote_ip_info_list[0] if len(info.remote_ip_info_list) == 1 else None
        local = info.local_ip_info_list[0] if info.local_ip_info_list else None
        clusters.append(
            Cluster(
                info.remote_cluster_id,
                None if remote is None else _dotted(remote[0]),
                None if remote is None else remote[1],
                # Checked above; the native part asks for none.
                "0.0.0.0" if local is None else _dotted(local[0]),
            )
        )
    return clusters
