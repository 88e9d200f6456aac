"""Registered cache memory and pulls over links: the simulated library's own data plane.

Only names and order of the arguments follow hicann/hixl `v2/cache_manager.py`. No bytes travel:
a pull asks the peer over a TCP connection of its own (never one of the handshake slots), which
answers after the time that its bandwidth gives.
"""

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pd_autoscaler.datadist.api import DataDistError
from pd_autoscaler.datadist.simulated.channel import Channel, ConnectError, connected
from pd_autoscaler.datadist.simulated.entities import Entity, EntityTable
from pd_autoscaler.datadist.simulated.timing import LinkTiming


@dataclass(frozen=True, slots=True)
class CacheDesc:
    """Memory of `num_tensors` tensors; the first dimension of `shape` counts blocks."""

    num_tensors: int
    shape: tuple[int, ...]
    value_bytes: int = 2

    @property
    def block_count(self) -> int:
        """How many blocks there are."""
        return self.shape[0]

    @property
    def block_bytes(self) -> int:
        """The size of one block over all tensors."""
        return self.num_tensors * math.prod(self.shape[1:]) * self.value_bytes


@dataclass(frozen=True, slots=True)
class BlocksCacheKey:
    """Which end's blocks, and of which model."""

    prompt_cluster_id: int
    model_id: int = 0


@dataclass(frozen=True, slots=True)
class Cache:
    """Registered memory."""

    cache_id: int
    cache_desc: CacheDesc


class SimulatedCacheManager:
    """Registers memory and pulls blocks; every method blocks."""

    def __init__(
        self,
        cluster_id: int,
        *,
        entities: EntityTable,
        timeout_ms: int,
        calls: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._cluster_id = cluster_id
        self._entities = entities
        self._timeout_ms = timeout_ms
        self._call = calls
        self._lock = threading.Lock()
        self._registered = 0
        self.caches: dict[int, int] = {}
        """Blocks that peers may pull, by model id."""

    def register_blocks_cache(
        self,
        cache_desc: CacheDesc,
        addrs: Sequence[int] = (),
        blocks_cache_key: BlocksCacheKey | None = None,
    ) -> Cache:
        """Register memory, for peers to pull if it has a key of this end's own cluster id.

        Memory registered after a link was made is not reachable over that link.
        """
        if addrs and len(addrs) != cache_desc.num_tensors:
            raise DataDistError(
                f"{len(addrs)} addresses for {cache_desc.num_tensors} tensors",
                code="LLM_PARAM_INVALID",
            )
        with self._call(), self._lock:
            if (
                blocks_cache_key is not None
                and blocks_cache_key.prompt_cluster_id == self._cluster_id
            ):
                self.caches[blocks_cache_key.model_id] = cache_desc.block_count
            self._registered += 1
            return Cache(self._registered, cache_desc)

    def pull_blocks(
        self,
        src_cache_key: BlocksCacheKey,
        dst_cache: Cache,
        src_blocks: Sequence[int] = (),
        dst_blocks: Sequence[int] = (),
    ) -> None:
        """Pull a peer's blocks over the link to it, one pull of a link at a time.

        Raises DataDistError: LLM_NOT_YET_LINK if this end holds no link, LLM_KV_CACHE_NOT_EXIST
        if the peer had registered no such cache when the link was made, LLM_PARAM_INVALID for
        blocks that are not there, LLM_TIMEOUT if the peer is dead, holds no link to this end or
        takes longer than `sync_kv_timeout`.
        """
        peer_id = src_cache_key.prompt_cluster_id
        with self._call():
            entity = self._checked(src_cache_key, dst_cache, src_blocks, dst_blocks)
            with entity.pulling:
                if entity.is_destroyed:
                    raise _not_linked(peer_id)
                self._pull(entity, len(src_blocks) * dst_cache.cache_desc.block_bytes)

    def cut(self, cluster_id: int) -> None:
        """Lose the way to a linked peer's memory: its pulls time out until it is linked anew.

        Both ends go on to hold the link, as they do when a network card falls silent.
        """
        entity = self._entities.find(cluster_id)
        if entity is not None:
            entity.is_cut = True

    def _checked(
        self,
        src_cache_key: BlocksCacheKey,
        dst_cache: Cache,
        src_blocks: Sequence[int],
        dst_blocks: Sequence[int],
    ) -> Entity:
        peer_id = src_cache_key.prompt_cluster_id
        entity = self._entities.find(peer_id)
        if entity is None:
            raise _not_linked(peer_id)
        blocks = entity.caches.get(src_cache_key.model_id)
        if blocks is None:
            raise DataDistError(
                f"cluster {peer_id} had no blocks of model {src_cache_key.model_id} registered "
                "when it was linked: register first, then link",
                code="LLM_KV_CACHE_NOT_EXIST",
            )
        _check_blocks(src_blocks, blocks, "src_blocks")
        _check_blocks(dst_blocks, dst_cache.cache_desc.block_count, "dst_blocks")
        if len(src_blocks) != len(dst_blocks):
            raise DataDistError(
                f"{len(src_blocks)} src_blocks for {len(dst_blocks)} dst_blocks",
                code="LLM_PARAM_INVALID",
            )
        return entity

    def _pull(self, entity: Entity, byte_count: int) -> None:
        try:
            if entity.is_cut:
                threading.Event().wait(self._timeout_ms / 1000)
            if entity.data is None or entity.is_cut:
                raise TimeoutError
            with connected(*entity.data, timeout_ms=self._timeout_ms) as channel:
                channel.send({"cluster_id": self._cluster_id, "byte_count": byte_count})
                if channel.receive(self._timeout_ms / 1000) is None:
                    raise TimeoutError
        except (ConnectError, TimeoutError):
            raise DataDistError(
                f"pulling from cluster {entity.cluster_id} timed out; unlink it and link again",
                code="LLM_TIMEOUT",
            ) from None


def serve_pull(
    channel: Channel, *, entities: EntityTable, timing: LinkTiming, closing: threading.Event
) -> None:
    """Serve one pull; a caller that this end holds no link to gets no answer."""
    request = channel.receive() or {}
    cluster_id, byte_count = request.get("cluster_id"), request.get("byte_count")
    if not isinstance(cluster_id, int) or not isinstance(byte_count, int):
        return
    if entities.find(cluster_id) is None:
        channel.receive()  # Silence, until the caller gives up.
        return
    if not closing.wait(timing.transfer_s(byte_count)):
        channel.send({"pulled": True})


def _not_linked(cluster_id: int) -> DataDistError:
    return DataDistError(f"cluster {cluster_id} is not linked", code="LLM_NOT_YET_LINK")


def _check_blocks(blocks: Sequence[int], count: int, name: str) -> None:
    if any(not 0 <= block < count for block in blocks):
        raise DataDistError(f"{name} exceed the cache's {count} blocks", code="LLM_PARAM_INVALID")
