"""KV blocks of one engine: counted, never over-committed."""

from pd_autoscaler.engine_model.profile import EngineProfile


class KvBlocks:
    """A store of equal blocks; what is taken must be given back."""

    def __init__(self, profile: EngineProfile) -> None:
        self._profile = profile
        self._taken = 0

    def can_ever_hold(self, tokens: int) -> bool:
        """Whether this many tokens fit into the empty store."""
        return self._profile.blocks(tokens) <= self._profile.kv_blocks

    def has_room(self, tokens: int) -> bool:
        """Whether this many tokens fit now."""
        return self._taken + self._profile.blocks(tokens) <= self._profile.kv_blocks

    def take(self, tokens: int) -> None:
        """Take the blocks of this many tokens; ask `has_room` first."""
        if not self.has_room(tokens):
            raise RuntimeError("KV blocks over-committed")
        self._taken += self._profile.blocks(tokens)

    def give_back(self, tokens: int) -> None:
        """Give back what `take` took for this many tokens."""
        blocks = self._profile.blocks(tokens)
        if blocks > self._taken:
            raise RuntimeError("KV blocks given back twice")
        self._taken -= blocks

    @property
    def used(self) -> float:
        """Share of blocks taken, 0 to 1."""
        return self._taken / self._profile.kv_blocks
