"""Which decoder ids prompt nodes may hold, kept in the journal: nobody else could tell."""

from collections.abc import Iterable, Mapping

from pd_autoscaler.core.fleet import Fleet
from pd_autoscaler.model.plan import Action, LinkNodes
from pd_autoscaler.ports import Journal
from pd_autoscaler.runtime.scribe import Scribe


class LinkedIds:
    """Has the journal follow `Fleet.linked`."""

    def __init__(
        self, journal: Journal, scribe: Scribe, kept: Mapping[str, frozenset[int]]
    ) -> None:
        self._journal = journal
        self._scribe = scribe
        self._kept = dict(kept)

    def begun(self, actions: Iterable[Action], fleet: Fleet) -> None:
        """Note what the intents of these actions have written already."""
        for action in actions:
            if isinstance(action, LinkNodes):
                ids = frozenset(fleet.nodes[action.decoder_id].cluster_ids)
                for peer in action.prompts:
                    kept = self._kept.get(peer.incarnation, frozenset())
                    self._kept[peer.incarnation] = kept | ids

    async def follow(self, fleet: Fleet) -> None:
        """Write what has changed; what could not be written is tried again in the next cycle."""
        after = fleet.linked
        for incarnation in sorted(self._kept.keys() | after.keys()):
            old = self._kept.get(incarnation, frozenset())
            new = after.get(incarnation, frozenset())
            writes = [self._journal.forget_linked(incarnation, old - new)] if old - new else []
            if new - old:
                writes.append(self._journal.remember_linked(incarnation, new - old))
            if all([await self._scribe.write(write) for write in writes]):
                self._kept[incarnation] = new
                if not new:
                    del self._kept[incarnation]
