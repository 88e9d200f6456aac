"""The agent inside an engine that has no event loop: one daemon thread runs a loop of its own."""

import asyncio
import atexit
import ipaddress
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTimeError
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Self, cast

import anyio

from pd_autoscaler.agent.hooks import EngineHooks
from pd_autoscaler.agent.http import build_app, serve
from pd_autoscaler.agent.service import AgentService
from pd_autoscaler.datadist.api import DataDist
from pd_autoscaler.datadist.native import NativeDataDist
from pd_autoscaler.errors import ConfigError, TransientError
from pd_autoscaler.model.node import Role

START_S = 30.0
"""How long binding the port may take."""
STOP_S = 5.0
"""How long stopping may take: above the grace that the HTTP server gives to its requests."""

_NEEDED = ("cluster_id", "init", "finalize", "link_clusters", "unlink_clusters", "switch_role")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Bound:
    """What the thread hands out once its port is bound."""

    loop: asyncio.AbstractEventLoop
    service: AgentService
    stop: anyio.Event
    port: int


class RunningAgent:
    """An agent that serves, until `stop` or the interpreter's exit; for use from any thread.

    At exit it stops by itself, before what was registered with atexit before it was started: the
    library finalises itself there (hicann/hixl v2/llm_datadist.py), and no call must begin beside.
    """

    def __init__(self, bound: _Bound, thread: threading.Thread, url: str) -> None:
        self.url = url
        self.port = bound.port
        self._bound = bound
        self._thread = thread
        atexit.register(self.stop)

    @property
    def is_alive(self) -> bool:
        """Whether it has neither been stopped nor failed; one whose stopping lasts is alive."""
        return self._thread.is_alive()

    def transfer_failed(self, cluster_id: int, code: str, *, lasted_s: float) -> None:
        """Tell that a pull from, or push to, a remote cluster failed with this code; never blocks.

        `code` is the status code's name, such as LLM_TIMEOUT; `lasted_s` is how long the transfer
        had run, in seconds, and what ran over an earlier link is not held against this one. A code
        that makes the link suspect has the controller drop it on both ends and link again. The end
        that linked is the one to tell; the other has no row for it, and counts the failure only.
        """
        # Here, not in the loop: it may come to it later, and the loop's clock is for any thread.
        began_s = self._bound.loop.time() - lasted_s
        self._call(lambda: self._bound.service.transfer_failed(cluster_id, code, began_s=began_s))

    def stop(self, *, timeout_s: float = STOP_S) -> None:
        """Close the port and answer those who wait, within `timeout_s`; twice is once.

        Calls that hang inside the library stay there, in daemon threads.
        """
        atexit.unregister(self.stop)
        self._call(self._bound.stop.set)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning("the agent has not stopped within %gs", timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _call(self, work: Callable[[], None]) -> None:
        # A closed loop: the agent has been stopped, and nobody is left to tell.
        with suppress(RuntimeError):
            self._bound.loop.call_soon_threadsafe(work)


class NodeAgent:
    """The agent of an engine process, beside the library object that is the engine's.

    `datadist` is an `llm_datadist.LLMDataDist`, or anything with the Protocol `datadist.api`. With
    `is_initialised` the engine has initialised it and registered its memory; else `options`
    (LLMConfig properties by name) are for the agent, which does so when a controller asks.
    `local_comm_res` is the option that the library was initialised with, and a `transfer_backend`
    among `options` is so likewise.

    `role` and `listen` ("ip:port") are what the library was initialised with: a prompt listens, and
    a decoder that can switch needs the address for later (port 0: any free one, for either that
    has yet to listen). With transfer_backend "hixl" both listen, on one address from the start; an
    object whose engine connects by itself never does. `local_ip` is this host's address for links,
    by default that of `listen`, else `host`. `host` and `port` are the agent's own (port 0: any
    free one), `node_id` the provider's name for the node, by default the host's name and the
    process id.

    Raises ConfigError for a wrong value, TypeError for what is no library object.
    """

    def __init__(  # noqa: PLR0913  # Two are given as a rule; each of the others has a default.
        self,
        datadist: object,
        engine: EngineHooks | None = None,
        *,
        node_id: str | None = None,
        role: Role | None = None,
        listen: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        local_ip: str | None = None,
        local_comm_res: str = "",
        ssl_context: ssl.SSLContext | None = None,
        options: Mapping[str, object] = MappingProxyType({}),
        is_initialised: bool = True,
    ) -> None:
        self._datadist = _adopted(datadist)
        self._engine = engine
        self._node_id = node_id or f"{socket.gethostname()}-{os.getpid()}"
        self._role = role
        self._listen = listen
        self._address = (host, port)
        self._token = token
        self._local_ip = _local_ip(local_ip, listen, host)
        self._options = {"local_comm_res": local_comm_res, **options}
        self._ssl_context = ssl_context
        self._is_initialised = is_initialised
        self._is_started = False

    def start_in_thread(self) -> RunningAgent:
        """Serve in a daemon thread; return when the port is bound, or raise what went wrong.

        Raises OSError if the port is taken, ConfigError for a wrong `listen` or `local_comm_res`,
        RuntimeError if this agent was started before; one that failed to start may be started
        again. The interpreter's exit does not wait for calls that hang inside the library.
        """
        if self._is_started:
            raise RuntimeError("this agent was started before: a process has one library object")
        self._is_started = True
        try:
            return self._started()
        except BaseException:
            self._is_started = False
            raise

    def _started(self) -> RunningAgent:
        bound: Future[_Bound] = Future()
        thread = threading.Thread(
            target=self._live, args=(bound,), name="pd-autoscaler-agent", daemon=True
        )
        thread.start()
        try:
            agent = bound.result(START_S)
        except NotInTimeError as error:
            # From now on the thread cannot hand anything out, and ends when it tries.
            bound.cancel()
            raise TransientError(f"the agent was not there within {START_S:g}s") from error
        return RunningAgent(agent, thread, self._url(agent.port))

    def _live(self, bound: Future[_Bound]) -> None:
        try:
            anyio.run(self._serve, bound)
        except BaseException as error:
            if bound.done():
                log.exception("the agent has ended")
            else:
                bound.set_exception(error)

    async def _serve(self, bound: Future[_Bound]) -> None:
        service = AgentService(
            self._datadist,
            node_id=self._node_id,
            role=self._role,
            listen=self._listen,
            options=self._options,
            # The process id alone comes again; a clock may go back.
            incarnation=f"{os.getpid()}-{os.urandom(6).hex()}",
            local_ip=self._local_ip,
            hooks=self._engine,
            is_initialised=self._is_initialised,
        )
        stop = anyio.Event()
        app = build_app(service, self._token)
        async with serve(app, *self._address, ssl_context=self._ssl_context) as port:
            bound.set_result(_Bound(asyncio.get_running_loop(), service, stop, port))
            await stop.wait()

    def _url(self, port: int) -> str:
        host = self._address[0]
        if host in {"", "0.0.0.0", "::"}:  # noqa: S104  # Bound to all: this is the one for links.
            host = self._local_ip
        scheme = "http" if self._ssl_context is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _adopted(datadist: object) -> DataDist:
    package = type(datadist).__module__.partition(".")[0]
    if package.startswith("llm_datadist"):
        return NativeDataDist.adopted(datadist, package)
    missing = [name for name in _NEEDED if not hasattr(datadist, name)]
    if missing:
        raise TypeError(
            f"{type(datadist).__name__} is no LLM-DataDist object: it has no {', '.join(missing)}"
        )
    return cast("DataDist", datadist)


def _local_ip(local_ip: str | None, listen: str | None, host: str) -> str:
    """Choose this host's address for links; the library takes IPv4 addresses only."""
    found = local_ip or (listen.rpartition(":")[0] if listen is not None else host)
    try:
        address = ipaddress.IPv4Address(found)
    except ValueError as error:
        raise ConfigError(f"local_ip is {found!r}; it must be this host's IPv4 address") from error
    if address.is_unspecified:
        raise ConfigError("local_ip must be given: the address that is listened on is every one")
    return found
