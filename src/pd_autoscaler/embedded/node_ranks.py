"""The accelerator ranks of a node: a library object each, its KV memory, and pulls over pairs."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

from pd_autoscaler.core.ranks import RankMapping, rank_pairs
from pd_autoscaler.datadist.api import DataDist, DataDistError, DataDistRole
from pd_autoscaler.datadist.self_connecting import SelfConnecting
from pd_autoscaler.datadist.simulated import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    LinkTiming,
    SimulatedDataDist,
    SimulatedProcess,
)
from pd_autoscaler.embedded.engine_pull import RankPullError
from pd_autoscaler.embedded.engine_request import KvSource
from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.model.node import Role

CONNECT_S = 1.0
"""How long a self-connecting rank waits for the other end, LLM-DataDist's default for a pull."""


class Rank(Protocol):
    """One rank: its library object, and the share of the KV that is its own."""

    @property
    def datadist(self) -> DataDist:
        """The library object, for the rank's agent."""
        ...

    def register_memory(self) -> None:
        """Register the KV blocks, once the library is initialised."""
        ...

    def pull(self, source: KvSource, cluster_id: int, *, blocks: int) -> None:
        """Pull so many of this rank's blocks from one of the source's ranks; blocks the thread.

        Raises DataDistError, or RuntimeError before the library is initialised.
        """
        ...


def label_of(role: Role) -> DataDistRole:
    """Return the library's word for a role."""
    return DataDistRole.PROMPT if role is Role.PROMPT else DataDistRole.DECODER


class LinkedRank:
    """A rank on the simulated library, as if in a process of its own: it pulls over links alone."""

    def __init__(
        self, role: Role, cluster_id: int, *, profile: EngineProfile, ranks: int, link_s: float
    ) -> None:
        self.datadist = SimulatedDataDist(
            label_of(role),
            cluster_id,
            process=SimulatedProcess(),
            timing=LinkTiming(prepare_s=link_s, bandwidth_byte_per_s=profile.pull_bytes_per_s),
        )
        self._desc = CacheDesc(1, (profile.kv_blocks, _block_bytes(profile, ranks)), value_bytes=1)
        self._cache: Cache | None = None

    def register_memory(self) -> None:
        """Register the KV blocks; a switch of roles keeps them so."""
        key = BlocksCacheKey(self.datadist.cluster_id)
        manager = self.datadist.cache_manager
        self._cache = manager.register_blocks_cache(self._desc, (), key)

    def pull(self, source: KvSource, cluster_id: int, *, blocks: int) -> None:
        """Pull over the link; which blocks is all the same to the simulated library."""
        if self._cache is None:
            raise RuntimeError("no KV memory is registered: the library is not initialised")
        which = range(blocks)
        self.datadist.cache_manager.pull_blocks(
            BlocksCacheKey(cluster_id), self._cache, which, which
        )


class ConnectingRank:
    """A rank whose engine connects by itself: any node that lives can be pulled from."""

    def __init__(self, role: Role, cluster_id: int, *, profile: EngineProfile, ranks: int) -> None:
        self.datadist = SelfConnecting(label_of(role), cluster_id)
        self._timing = LinkTiming(bandwidth_byte_per_s=profile.pull_bytes_per_s)
        self._block_bytes = _block_bytes(profile, ranks)
        self._is_registered = False

    def register_memory(self) -> None:
        """Note that the library is there; no link will ever need the memory."""
        self._is_registered = True

    def pull(self, source: KvSource, cluster_id: int, *, blocks: int) -> None:
        """Connect to the prompt's node and let the transfer take its time."""
        if not self._is_registered:
            raise RuntimeError("no KV memory is registered: the library is not initialised")
        try:
            socket.create_connection((source.host, source.port), timeout=CONNECT_S).close()
        except OSError as error:
            raise DataDistError(f"cluster {cluster_id}: {error}", code="LLM_TIMEOUT") from error
        threading.Event().wait(self._timing.transfer_s(blocks * self._block_bytes))


class Ranks:
    """The ranks of one node, in order."""

    def __init__(
        self, ranks: Sequence[Rank], *, mapping: RankMapping, profile: EngineProfile
    ) -> None:
        self._ranks = tuple(ranks)
        self._mapping = mapping
        self._profile = profile

    def __iter__(self) -> Iterator[Rank]:
        return iter(self._ranks)

    def __len__(self) -> int:
        return len(self._ranks)

    @property
    def cluster_ids(self) -> tuple[int, ...]:
        """Their LLM-DataDist ids."""
        return tuple(rank.datadist.cluster_id for rank in self._ranks)

    def pull(self, source: KvSource) -> None:
        """Pull a prompt's KV over every pair of ranks, one after the other; blocks the thread.

        One link carries its share alone, so all of them together take as long as one rank's would.
        Raises RankPullError for the first pair that fails, DataDistError where the two nodes' ranks
        cannot be paired, and RuntimeError before the library is initialised.
        """
        pairs = rank_pairs(self._mapping, len(self._ranks), len(source.cluster_ids))
        if not pairs:
            counts = f"{len(self._ranks)} ranks to {len(source.cluster_ids)} of the prompt"
            raise DataDistError(f"{self._mapping} pairs no {counts}", code="LLM_PARAM_INVALID")
        blocks = self._profile.blocks(source.tokens)
        partners = Counter(own for own, _ in pairs)
        for own, theirs in pairs:
            cluster_id = source.cluster_ids[theirs]
            began_s = time.perf_counter()
            try:
                # A rank with several partners finds a part of its share at each.
                self._ranks[own].pull(source, cluster_id, blocks=-(-blocks // partners[own]))
            except DataDistError as error:
                raise RankPullError(
                    str(error),
                    error.code,
                    rank=own,
                    cluster_id=cluster_id,
                    lasted_s=time.perf_counter() - began_s,
                ) from error


def _block_bytes(profile: EngineProfile, ranks: int) -> int:
    """Return one rank's share of a block."""
    return -(-profile.kv_block_tokens * profile.kv_bytes_per_token // ranks)
