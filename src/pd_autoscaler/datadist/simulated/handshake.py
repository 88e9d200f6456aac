"""Linking and unlinking one peer: what either end says, checks and records.

Follows hicann/hixl `src/llm_datadist/link_mgr/link_msg_handler.cc`, order included: the client
tells whether it lacks an entity for the id it was given (`force_link`), the server answers with
its real id, both make a communicator and record the entity by themselves, and the client waits
for the server's status without bound. An end that sees a link already makes no communicator, and
the other end waits for it until the time-out.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from pd_autoscaler.datadist.api import Cluster
from pd_autoscaler.datadist.simulated.channel import Channel, ConnectError, Message, connected
from pd_autoscaler.datadist.simulated.entities import Entity, EntityTable
from pd_autoscaler.datadist.simulated.process import SimulatedProcess
from pd_autoscaler.datadist.simulated.timing import LinkTiming

SUCCESS = "LLM_SUCCESS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What either end tells the other before they link.

    `data` and `caches` are where the sender serves pulls and which blocks, by model id.
    """

    cluster_id: int
    timeout_ms: int = 0
    force: bool = False
    is_remote_accessible: bool
    data: tuple[str, int] | None = None
    caches: Mapping[int, int]

    def message(self) -> Message:
        """Return the greeting as it travels."""
        return {
            "type": "connect",
            "cluster_id": self.cluster_id,
            "timeout_ms": self.timeout_ms,
            "force": self.force,
            "is_remote_accessible": self.is_remote_accessible,
            "data": None if self.data is None else list(self.data),
            "caches": [[model_id, blocks] for model_id, blocks in self.caches.items()],
        }

    @classmethod
    def of(cls, message: Message | None) -> "Greeting | None":
        """Read a greeting; anything else is None."""
        if message is None or message.get("type") != "connect":
            return None
        try:
            return cls._read(message)
        except (KeyError, TypeError, ValueError):
            return None

    @classmethod
    def _read(cls, message: Message) -> "Greeting":
        data = cast("list[str | int] | None", message["data"])
        return cls(
            cluster_id=cast("int", message["cluster_id"]),
            timeout_ms=cast("int", message["timeout_ms"]),
            force=cast("bool", message["force"]),
            is_remote_accessible=cast("bool", message["is_remote_accessible"]),
            data=None if data is None else (str(data[0]), int(data[1])),
            caches=dict(cast("list[tuple[int, int]]", message["caches"])),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """What this end brings to every handshake."""

    cluster_id: int
    is_remote_accessible: bool
    process: SimulatedProcess
    timing: LinkTiming
    entities: EntityTable
    caches: Mapping[int, int]

    def greeting(
        self, *, timeout_ms: int = 0, force: bool = False, data: tuple[str, int] | None = None
    ) -> Greeting:
        """Return what this end says of itself."""
        return Greeting(
            cluster_id=self.cluster_id,
            timeout_ms=timeout_ms,
            force=force,
            is_remote_accessible=self.is_remote_accessible,
            data=data,
            caches=dict(self.caches),
        )


def linked(end: End, cluster: Cluster, *, timeout_ms: int, force: bool) -> str:
    """Link one server as a client and return the code's name; blocks while the server is silent."""
    if cluster.ip is None or cluster.port is None:
        return "LLM_PARAM_INVALID"
    try:
        channel = connected(cluster.ip, cluster.port, timeout_ms=timeout_ms)
    except ConnectError as error:
        return "LLM_TIMEOUT" if error.is_timeout else "LLM_LINK_FAILED"
    with channel:
        channel.send(end.greeting(timeout_ms=timeout_ms, force=force).message())
        peer = Greeting.of(channel.receive())
        if peer is None:
            return "LLM_FAILED"
        code = _exchanged(
            end,
            peer,
            channel,
            timeout_ms=timeout_ms,
            force=force,
            closing=threading.Event(),
        )
        status = _status(channel)
        return code if status == SUCCESS else status


def unlinked(end: End, cluster: Cluster, *, timeout_ms: int, force: bool) -> str:
    """Unlink one server as a client and return the code's name; with `force` locally alone.

    Asks the server to drop this end's id, then drops the *given* id here, then waits for the
    server's status without bound.
    """
    if force:
        end.entities.destroy(cluster.cluster_id)
        return SUCCESS
    if cluster.ip is None or cluster.port is None:
        return "LLM_PARAM_INVALID"
    try:
        channel = connected(cluster.ip, cluster.port, timeout_ms=timeout_ms)
    except ConnectError as error:
        return "LLM_TIMEOUT" if error.is_timeout else "LLM_UNLINK_FAILED"
    with channel:
        channel.send({"type": "disconnect", "cluster_id": end.cluster_id})
        end.entities.destroy(cluster.cluster_id)
        return _status(channel)


def answer(
    end: End, channel: Channel, *, data: tuple[str, int] | None, closing: threading.Event
) -> None:
    """Serve one client; reads without bound, so an idle connection holds the caller."""
    message = channel.receive()
    if message is None:
        return
    if message.get("type") == "disconnect":
        cluster_id = message.get("cluster_id")
        if not isinstance(cluster_id, int):
            return
        end.entities.destroy(cluster_id)
        channel.send({"type": "status", "code": SUCCESS})
        return
    peer = Greeting.of(message)
    if peer is None:
        return
    channel.send(end.greeting(data=data).message())
    code = _exchanged(
        end, peer, channel, timeout_ms=peer.timeout_ms, force=peer.force, closing=closing
    )
    channel.send({"type": "status", "code": code})


def _exchanged(
    end: End,
    peer: Greeting,
    channel: Channel,
    *,
    timeout_ms: int,
    force: bool,
    closing: threading.Event,
) -> str:
    if peer.is_remote_accessible != end.is_remote_accessible:
        return "LLM_PARAM_INVALID"
    if force:
        end.entities.destroy(peer.cluster_id)
    if end.entities.find(peer.cluster_id) is not None:
        return "LLM_ALREADY_LINK"
    with end.process.comm_init:
        closing.wait(end.timing.init_s)
    code = _prepared(end.timing, channel, timeout_ms=timeout_ms, closing=closing)
    if code == SUCCESS:
        end.entities.add(Entity(peer.cluster_id, data=peer.data, caches=peer.caches))
    return code


def _prepared(
    timing: LinkTiming, channel: Channel, *, timeout_ms: int, closing: threading.Event
) -> str:
    """Meet the other end: both must come, each within its own budget."""
    budget_s = timing.prepare_budget_s(timeout_ms)
    channel.send({"type": "prepare"})
    try:
        message = channel.receive(budget_s)
    except TimeoutError:
        return "LLM_TIMEOUT"
    if message is not None and message.get("type") == "status":
        # The other end will not come, but nothing tells the communicator so.
        channel.unread(message)
        closing.wait(budget_s)
        return "LLM_TIMEOUT"
    if message is None or timing.prepare_s > budget_s:
        closing.wait(budget_s if message is not None else 0)
        return "LLM_TIMEOUT"
    closing.wait(timing.prepare_s)
    return "LLM_FAILED" if closing.is_set() else SUCCESS


def _status(channel: Channel) -> str:
    while (message := channel.receive()) is not None:
        if message.get("type") == "status":
            return str(message["code"])
    return "LLM_FAILED"
