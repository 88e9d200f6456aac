"""The real LLM-DataDist package behind the Protocol of `api`, imported only when asked for.

Calls follow hicann/hixl `src/python/llm_datadist/llm_datadist/{__init__,configs}.py` and
`v2/llm_datadist.py`. The package comes with the CANN toolkit; importing it loads CANN's shared
libraries and sets the environment variable AUTO_USE_UC_MEMORY to 0 where it is unset.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Self

from pd_autoscaler.datadist.api import Cluster, DataDist, DataDistError, DataDistRole
from pd_autoscaler.datadist.options import check_names
from pd_autoscaler.datadist.status import name_of
from pd_autoscaler.errors import ConfigError

Factory = Callable[[DataDistRole, int], DataDist]
"""Makes the library object of this process from its role and cluster id."""

_NEEDED = ("LLMClusterInfo", "LLMDataDist", "LLMException", "LLMRole")
_CONFIG_NAMES = ("LLMConfig", "LlmConfig")


def load(module: str = "llm_datadist") -> Factory:
    """Import the package and return what makes its objects.

    Raises ConfigError, with the fix, if it is absent, cannot load CANN's shared libraries or is
    not LLM-DataDist.
    """
    library = _imported(module)

    def make(role: DataDistRole, cluster_id: int) -> DataDist:
        return NativeDataDist(role, cluster_id, library)

    return make


def _imported(name: str) -> ModuleType:
    fix = "install the CANN toolkit and run 'source /usr/local/Ascend/cann/set_env.sh' first"
    try:
        library = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Python module {error.name or name!r} is not installed: {fix}"
        ) from error
    except (ImportError, OSError) as error:
        raise ConfigError(f"Python module {name!r} cannot be loaded ({error}): {fix}") from error
    missing = [needed for needed in _NEEDED if not hasattr(library, needed)]
    if not any(hasattr(library, config) for config in _CONFIG_NAMES):
        missing.append(_CONFIG_NAMES[0])
    if missing:
        raise ConfigError(
            f"Python module {name!r} is not LLM-DataDist (no {', '.join(missing)}): {fix}"
        )
    return library


class NativeDataDist:
    """One LLMDataDist object; it blocks, and may block without end, as the Protocol says.

    `library` is the imported package. Wrong types and ranges raise what the package raises.
    """

    def __init__(self, role: DataDistRole, cluster_id: int, library: ModuleType) -> None:
        self._library = library
        self._object: Any = library.LLMDataDist(self._role(role), cluster_id)

    @classmethod
    def adopted(cls, library_object: object, module: str = "llm_datadist") -> Self:
        """Wrap an LLMDataDist object that an engine made, and may have initialised, itself."""
        adopted = cls.__new__(cls)
        adopted._library = _imported(module)  # noqa: SLF001  # Its own class.
        adopted._object = library_object  # noqa: SLF001  # Its own class.
        return adopted

    @property
    def cluster_id(self) -> int:
        """This endpoint's id."""
        return int(self._object.cluster_id)

    def init(self, options: Mapping[str, object]) -> None:
        """Initialise with LLMConfig properties by name; an unknown name raises ConfigError."""
        kind = next(
            getattr(self._library, name) for name in _CONFIG_NAMES if hasattr(self._library, name)
        )
        check_names(options, _settable(kind))
        with self._errors():
            config = kind()
            for name, value in options.items():
                setattr(config, name, value)
            self._object.init(config.generate_options())

    def finalize(self) -> None:
        """Release everything without telling peers; must not run beside any other call."""
        with self._errors():
            self._object.finalize()

    def link_clusters(
        self, clusters: Sequence[Cluster], timeout: int = 3000
    ) -> tuple[str, list[str]]:
        """Link to each cluster; return the overall code's name and what came per cluster."""
        with self._errors():
            infos = [self._info(cluster) for cluster in clusters]
            return _named(self._object.link_clusters(infos, timeout))

    def unlink_clusters(
        self, clusters: Sequence[Cluster], timeout: int = 3000, force: bool = False
    ) -> tuple[str, list[str]]:
        """Unlink each cluster; `force` drops the local end alone."""
        with self._errors():
            infos = [self._info(cluster) for cluster in clusters]
            return _named(self._object.unlink_clusters(infos, timeout, force))

    def switch_role(
        self, role: DataDistRole, switch_options: Mapping[str, str] | None = None
    ) -> None:
        """Change the role label and the listener; raises DataDistError while links are left."""
        options = None if switch_options is None else dict(switch_options)
        with self._errors():
            self._object.switch_role(self._role(role), options)

    def _role(self, role: DataDistRole) -> Any:
        if not isinstance(role, DataDistRole):
            raise TypeError(f"role only supports DataDistRole, but got {type(role)}")
        return getattr(self._library.LLMRole, role.name)

    def _info(self, cluster: Cluster) -> Any:
        info = self._library.LLMClusterInfo()
        info.remote_cluster_id = cluster.cluster_id
        if cluster.ip is not None:
            if cluster.port is None:
                raise ValueError(f"cluster {cluster.cluster_id} has an ip and no port")
            info.append_remote_ip_info(cluster.ip, cluster.port)
        if cluster.local_ip is not None:
            # The library reads no local port; its samples pass anything.
            info.append_local_ip_info(cluster.local_ip, 0)
        return info

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._library.LLMException as error:
            code = getattr(error, "status_code", None)
            raise DataDistError(
                str(error), code="LLM_FAILED" if code is None else _name(code)
            ) from error


def _settable(kind: type) -> frozenset[str]:
    return frozenset(
        name
        for name in dir(kind)
        if isinstance(found := getattr(kind, name), property) and found.fset is not None
    )


def _named(answer: tuple[object, Sequence[object]]) -> tuple[str, list[str]]:
    overall, each = answer
    return _name(overall), [_name(code) for code in each]


def _name(code: object) -> str:
    # LLMStatusCode is an Enum up to CANN 9.0 and an IntEnum from 9.1: both have a name.
    name = getattr(code, "name", None)
    if isinstance(name, str):
        return name
    return name_of(code) if isinstance(code, int) else str(code)
