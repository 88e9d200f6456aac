"""The links that one end believes in."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Entity:
    """One end of a link, under the peer's cluster id.

    `data` is where the peer serves pulls (None if it does not) and `caches` what it had
    registered when the link was made: blocks by model id. `pulling` is held by a pull, so pulls
    of one link go one after the other (hicann/hixl `data_cache_engine.cc`, GetPullMutex). Over one
    that `is_cut` they time out.
    """

    cluster_id: int
    data: tuple[str, int] | None = None
    caches: Mapping[int, int] = field(default_factory=dict)
    pulling: threading.Lock = field(default_factory=threading.Lock)
    is_destroyed: bool = False
    is_cut: bool = False


class EntityTable:
    """All entities of one end, one per peer id.

    Destroying waits for the pull in flight and keeps every other use of the table waiting
    meanwhile, as the real one does (hicann/hixl `link_mgr/comm_entity_manager.cc`).
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._entities: dict[int, Entity] = {}

    def find(self, cluster_id: int) -> Entity | None:
        """Return the entity of a peer, if there is one."""
        with self._mutex:
            return self._entities.get(cluster_id)

    def add(self, entity: Entity) -> None:
        """Keep an entity in place of any other of the same peer."""
        with self._mutex:
            replaced = self._entities.get(entity.cluster_id)
            if replaced is not None:
                replaced.is_destroyed = True
            self._entities[entity.cluster_id] = entity

    def destroy(self, cluster_id: int) -> None:
        """Drop the entity of a peer; one that is not there is a success."""
        with self._mutex:
            entity = self._entities.get(cluster_id)
            if entity is None:
                return
            with entity.pulling:
                entity.is_destroyed = True
                del self._entities[cluster_id]

    def clear(self) -> None:
        """Drop all."""
        with self._mutex:
            for entity in self._entities.values():
                entity.is_destroyed = True
            self._entities.clear()

    def ids(self) -> tuple[int, ...]:
        """Return the peers' ids, ascending."""
        with self._mutex:
            return tuple(sorted(self._entities))
