"""The simulated library object: LLM-DataDist's V2 surface and semantics over loopback TCP."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from pd_autoscaler.datadist.api import Cluster, DataDistError, DataDistRole
from pd_autoscaler.datadist.simulated import arguments, handshake
from pd_autoscaler.datadist.simulated.caches import SimulatedCacheManager, serve_pull
from pd_autoscaler.datadist.simulated.channel import Channel
from pd_autoscaler.datadist.simulated.entities import EntityTable
from pd_autoscaler.datadist.simulated.faults import Faults
from pd_autoscaler.datadist.simulated.listener import HANDSHAKE_SLOTS, Listener
from pd_autoscaler.datadist.simulated.parallel import in_parallel
from pd_autoscaler.datadist.simulated.process import SimulatedProcess
from pd_autoscaler.datadist.simulated.timing import LinkTiming

_LISTEN_OPTION = "llm.listenIpInfo"


@dataclass(frozen=True, slots=True)
class _Listening:
    """What a server has open: handshakes, and pulls beside them."""

    handshakes: Listener
    pulls: Listener

    def close(self) -> None:
        self.handshakes.close()
        self.pulls.close()


@dataclass(slots=True)
class _Started:
    """What exists between init and finalize."""

    end: handshake.End
    caches: SimulatedCacheManager
    has_local_comm_res: bool
    listening: _Listening | None = None


class SimulatedDataDist:
    """A library object of `process`, whose time-outs and waits are those of real sockets.

    It serves pulls only while it listens. Nothing of it runs at interpreter exit, and its threads
    are daemons: a hung call does not keep a process alive.
    """

    def __init__(
        self,
        role: DataDistRole,
        cluster_id: int,
        *,
        process: SimulatedProcess,
        timing: LinkTiming | None = None,
        faults: Faults | None = None,
    ) -> None:
        arguments.check_role(role)
        arguments.check_cluster_id(cluster_id)
        self.role = role
        self.faults = faults if faults is not None else Faults()
        self._cluster_id = cluster_id
        self._process = process
        self._timing = timing if timing is not None else LinkTiming()
        self._started: _Started | None = None
        self._listen_lock = threading.Lock()

    @property
    def cluster_id(self) -> int:
        """This endpoint's id."""
        return self._cluster_id

    @property
    def cache_manager(self) -> SimulatedCacheManager:
        """Registers memory and pulls blocks; RuntimeError before init."""
        return self._running().caches

    def init(self, options: Mapping[str, object]) -> None:
        """Initialise with LLMConfig properties by name, and listen if `listen_ip_info` is given.

        Raises ConfigError for an unknown option, DataDistError LLM_PARAM_INVALID for a wrong one,
        LLM_FEATURE_NOT_ENABLED for a mode that is not simulated and LLM_FAILED for a second object
        in one process or an address that cannot be listened on.
        """
        if self._started is not None:
            return
        self._process.claim(self)
        try:
            arguments.check_options(options)
            address = options.get("listen_ip_info")
            with self._process.exclusive():
                started = self._start(options)
                if address:
                    started.listening = self._listen(started.end, arguments.listen_address(address))
                self._started = started
        except BaseException:
            self._process.disclaim(self)
            raise

    def finalize(self) -> None:
        """Release everything and tell nobody; waits, without bound, for calls in flight."""
        if self._started is None:
            return
        with self._process.exclusive():
            started, self._started = self._started, None
            if started is None:
                return
            if started.listening is not None:
                started.listening.close()
            started.end.entities.clear()
        self._process.disclaim(self)

    def link_clusters(
        self, clusters: Sequence[Cluster], timeout: int = 3000
    ) -> tuple[str, list[str]]:
        """Link to each cluster, 16 at a time; the overall code is that of the last to fail.

        Whether a cluster is linked already is asked once for the whole call, so that a cluster
        listed twice is linked twice, as measured on the real library.
        """
        has_local_comm_res = self._running().has_local_comm_res
        arguments.check_clusters(clusters, timeout)
        arguments.check_local_ips(clusters, has_local_comm_res=has_local_comm_res)
        with self._call() as started:
            entities = started.end.entities
            return in_parallel(
                partial(
                    self._link,
                    started.end,
                    cluster,
                    timeout_ms=timeout,
                    force=entities.find(cluster.cluster_id) is None,
                )
                for cluster in clusters
            )

    def unlink_clusters(
        self, clusters: Sequence[Cluster], timeout: int = 3000, force: bool = False
    ) -> tuple[str, list[str]]:
        """Unlink each cluster, 16 at a time; `force` drops the local end and needs no network."""
        self._running()
        arguments.check_clusters(clusters, timeout)
        if not isinstance(force, bool):
            raise TypeError(f"force only supports bool, but got {type(force)}")
        with self._call() as started:
            return in_parallel(
                partial(self._unlink, started.end, cluster, timeout_ms=timeout, force=force)
                for cluster in clusters
            )

    def switch_role(
        self, role: DataDistRole, switch_options: Mapping[str, str] | None = None
    ) -> None:
        """Change the role label; listen where the option says, else stop listening.

        Raises DataDistError: LLM_EXIST_LINK while any link is left, LLM_FAILED for an address
        that cannot be listened on.
        """
        self._running()
        arguments.check_role(role)
        if switch_options is not None and not isinstance(switch_options, Mapping):
            raise TypeError(f"switch_options only support Mapping, but got {type(switch_options)}")
        wanted = (switch_options or {}).get(_LISTEN_OPTION)
        address = None if wanted is None else arguments.listen_address(wanted)
        with self._call() as started:
            left = started.end.entities.ids()
            if left:
                raise DataDistError(
                    f"Can not switch role while linked with {left}", code="LLM_EXIST_LINK"
                )
            with self._listen_lock:
                self._relisten(started, address)
            self.role = role

    def entities(self) -> tuple[int, ...]:
        """Return the peer ids in this end's entity table, ascending.

        For tests alone: the real library has no such query, so no product code may read it.
        """
        started = self._started
        return () if started is None else started.end.entities.ids()

    def handshakes(self) -> tuple[int, int]:
        """Return how many connections hold a handshake slot and how many wait; for tests alone."""
        started = self._started
        if started is None or started.listening is None:
            return (0, 0)
        return started.listening.handshakes.occupancy()

    def _running(self) -> _Started:
        if self._started is None:
            raise RuntimeError("llm datadist is not initialized")
        return self._started

    @contextmanager
    def _call(self) -> Iterator[_Started]:
        with self._process.shared():
            # A finalize may have come first.
            yield self._running()

    def _start(self, options: Mapping[str, object]) -> _Started:
        entities = EntityTable()
        caches = SimulatedCacheManager(
            self._cluster_id,
            entities=entities,
            timeout_ms=arguments.pull_timeout_ms(options),
            calls=self._call,
        )
        end = handshake.End(
            cluster_id=self._cluster_id,
            is_remote_accessible=arguments.is_remote_accessible(options),
            process=self._process,
            timing=self._timing,
            entities=entities,
            caches=caches.caches,
        )
        return _Started(end, caches, has_local_comm_res=bool(options.get("local_comm_res")))

    def _relisten(self, started: _Started, address: tuple[str, int] | None) -> None:
        listening = started.listening
        if listening is not None:
            # The library compares ports alone.
            if address is not None and listening.handshakes.address[1] == address[1]:
                return
            started.listening = None
            listening.close()
        if address is not None:
            started.listening = self._listen(started.end, address)

    def _listen(self, end: handshake.End, address: tuple[str, int]) -> _Listening:
        ip, port = address

        def pull(channel: Channel, closing: threading.Event) -> None:
            serve_pull(channel, entities=end.entities, timing=end.timing, closing=closing)

        def shake_hands(channel: Channel, closing: threading.Event) -> None:
            handshake.answer(end, channel, data=pulls.address, closing=closing)

        try:
            pulls = Listener((ip, 0), pull, slots=None)
        except OSError as error:
            raise _cannot_listen(ip, port, error) from error
        try:
            handshakes = Listener((ip, port), shake_hands, slots=HANDSHAKE_SLOTS)
        except OSError as error:
            pulls.close()
            raise _cannot_listen(ip, port, error) from error
        return _Listening(handshakes, pulls)

    def _link(self, end: handshake.End, cluster: Cluster, *, timeout_ms: int, force: bool) -> str:
        code = self.faults.strike("link", cluster.cluster_id)
        if code is not None:
            return code
        return handshake.linked(end, cluster, timeout_ms=timeout_ms, force=force)

    def _unlink(self, end: handshake.End, cluster: Cluster, *, timeout_ms: int, force: bool) -> str:
        code = None if force else self.faults.strike("unlink", cluster.cluster_id)
        if code is not None:
            return code
        return handshake.unlinked(end, cluster, timeout_ms=timeout_ms, force=force)


def _cannot_listen(ip: str, port: int, error: OSError) -> DataDistError:
    return DataDistError(f"cannot listen on {ip}:{port}: {error}", code="LLM_FAILED")
