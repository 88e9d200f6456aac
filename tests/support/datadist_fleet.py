"""Library endpoints in child processes, and what the contract suite asks of them."""

import itertools
import os
import random
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, cast

from tests.support.datadist_peers import Address
from tests.support.datadist_process import Child, ChildError, ChildPool

Answer = list[Any]
"""[overall code, [one code per cluster]], as JSON brings it."""

SUCCESS: Answer = ["LLM_SUCCESS", ["LLM_SUCCESS"]]
# Below the range from which the kernel draws the ports of outgoing connections, and in no order,
# so that suites which run at the same time hardly meet.
_RANDOM = random.Random(os.getpid())


def answer(code: str) -> Answer:
    """The answer to a call with one cluster."""
    return [code, [code]]


@dataclass(frozen=True, slots=True)
class LibrarySettings:
    """Which library the suite runs on, and where."""

    implementation: str
    module: str
    ips: tuple[str, ...]
    port_first: int
    device_ids: tuple[int, ...]
    local_comm_res: str
    timeout_ms: int
    timing: Mapping[str, float]

    @classmethod
    def of(cls, implementation: str, environment: Mapping[str, str]) -> "LibrarySettings":
        """Read the settings of `simulated`, `native`, or `binding`: ours over the stand-in."""
        is_native = implementation == "native"
        devices = environment.get("PD_DATADIST_DEVICE_IDS", "0") if is_native else "0"
        ips = environment.get("PD_DATADIST_IPS", "127.0.0.1") if is_native else "127.0.0.1"
        return cls(
            implementation=implementation,
            module=environment.get("PD_DATADIST_MODULE", "llm_datadist")
            if is_native
            else "llm_datadist_standin",
            ips=tuple(ips.split(",")),
            port_first=int(environment.get("PD_DATADIST_PORT_FIRST", "0")) if is_native else 0,
            device_ids=tuple(int(number) for number in devices.split(",")),
            local_comm_res=environment.get("PD_DATADIST_LOCAL_COMM_RES", "") if is_native else "",
            timeout_ms=int(environment.get("PD_DATADIST_TIMEOUT_MS", "2000")) if is_native else 200,
            timing={} if is_native else {"rounding_s": 0.1},
        )


class Endpoint:
    """One library object in one child."""

    def __init__(
        self, child: Child, settings: LibrarySettings, *, cluster_id: int, ip: str, device_id: int
    ) -> None:
        self.child = child
        self.cluster_id = cluster_id
        self.ip = ip
        self.port: int | None = None
        self.role = "DECODER"
        self._settings = settings
        self._device_id = device_id

    @property
    def address(self) -> Address:
        """Where it listens."""
        assert self.port is not None
        return (self.ip, self.port)

    def create(self, role: str, *, name: str = "main") -> None:
        """Construct the library object."""
        self.role = role
        self.child.call(
            "create",
            implementation=self._settings.implementation,
            module=self._settings.module,
            role=role,
            cluster_id=self.cluster_id,
            timing=dict(self._settings.timing),
            name=name,
        )

    def options(self, port: int | None = None, **more: object) -> dict[str, object]:
        """LLMConfig properties for this endpoint."""
        options: dict[str, object] = {
            "device_id": self._device_id,
            "local_comm_res": self._settings.local_comm_res,
        }
        if port is not None:
            options["listen_ip_info"] = f"{self.ip}:{port}"
        return options | more

    def init(self, port: int | None = None, **more: object) -> None:
        """Initialise; listens if there is a port."""
        self.child.call("init", options=self.options(port, **more))
        self.port = port

    def towards(
        self, peer: "Endpoint | Address", *, cluster_id: int | None = None
    ) -> list[int | str | None]:
        """A Cluster for that peer, under another id if one is given."""
        ip, port = peer.address if isinstance(peer, Endpoint) else peer
        known = peer.cluster_id if isinstance(peer, Endpoint) else 999
        return [known if cluster_id is None else cluster_id, ip, port, self.ip]

    def start_link(self, *clusters: list[int | str | None]) -> Future[Any]:
        """Start a link call."""
        return self.child.start("link", clusters=list(clusters), timeout=self._settings.timeout_ms)

    def link(self, *clusters: list[int | str | None]) -> Answer:
        """Link and return the answer."""
        return self._called("link", clusters)

    def start_unlink(self, *clusters: list[int | str | None]) -> Future[Any]:
        """Start a normal unlink."""
        return self.child.start(
            "unlink", clusters=list(clusters), timeout=self._settings.timeout_ms, force=False
        )

    def unlink(self, *clusters: list[int | str | None], force: bool = False) -> Answer:
        """Unlink and return the answer."""
        return self._called("unlink", clusters, force=force)

    def _called(
        self, op: str, clusters: Sequence[list[int | str | None]], **more: object
    ) -> Answer:
        timeout = self._settings.timeout_ms
        return cast("Answer", self.child.call(op, clusters=list(clusters), timeout=timeout, **more))

    def force_unlink(self, cluster_id: int) -> Answer:
        """Drop the local end, with nothing but the id."""
        return self.unlink([cluster_id], force=True)

    def switch_role(self, role: str, port: int | None = None) -> None:
        """Switch role; listens where there is a port, else stops listening."""
        options = None if port is None else {"llm.listenIpInfo": f"{self.ip}:{port}"}
        self.child.call("switch_role", role=role, options=options)
        self.role, self.port = role, port

    def has_links(self) -> bool:
        """Whether any link is left: all that the library tells is that it may not switch role."""
        try:
            self.switch_role(self.role, self.port)
        except ChildError as error:
            if error.code != "LLM_EXIST_LINK":
                raise
            return True
        return False


class Fleet:
    """Makes endpoints for one test and cleans up behind it."""

    def __init__(self, settings: LibrarySettings, pool: ChildPool) -> None:
        self.settings = settings
        self._pool = pool
        self._children: list[Child] = []
        self._ids = itertools.count(1)
        self._ports: Iterator[int] = (
            itertools.count(settings.port_first)
            if settings.port_first
            else iter(lambda: _RANDOM.randrange(20_000, 32_000), None)
        )

    @property
    def ip(self) -> str:
        """Where peers that are no library live."""
        return self.settings.ips[0]

    def endpoint(self, *, cluster_id: int | None = None) -> Endpoint:
        """A child without a library object."""
        child = self._pool.take()
        index = len(self._children)
        self._children.append(child)
        return Endpoint(
            child,
            self.settings,
            cluster_id=next(self._ids) if cluster_id is None else cluster_id,
            ip=self.settings.ips[index % len(self.settings.ips)],
            device_id=self.settings.device_ids[index % len(self.settings.device_ids)],
        )

    def prompt(self, *, cluster_id: int | None = None, port: int | None = None) -> Endpoint:
        """A prompt endpoint that listens."""
        prompt = self.endpoint(cluster_id=cluster_id)
        prompt.create("PROMPT")
        prompt.init(self.port(prompt.ip) if port is None else port)
        return prompt

    def decoder(self, *, cluster_id: int | None = None) -> Endpoint:
        """A decoder endpoint that does not listen."""
        decoder = self.endpoint(cluster_id=cluster_id)
        decoder.create("DECODER")
        decoder.init()
        return decoder

    def port(self, ip: str | None = None) -> int:
        """A port that nobody listens on."""
        for port in self._ports:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.ip if ip is None else ip, port))
                except OSError:
                    continue
                return port
        raise AssertionError("there is no free port")

    def close(self) -> None:
        """Give idle children back, uninitialised; end the others."""
        for child in self._children:
            if child.is_idle and self.settings.implementation != "native":
                for name in ("main", "other"):
                    child.call("finalize", name=name)
                self._pool.give_back(child)
            else:
                child.kill()
