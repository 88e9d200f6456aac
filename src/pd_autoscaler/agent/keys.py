"""Idempotency keys: a repeated call finds the first one."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from pd_autoscaler.agent.refusals import RefusedError

T = TypeVar("T")

KEEP_S = 3600.0
KEYS_MAX = 20_000


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    call: T
    meaning: str
    until_s: float


class Keys(Generic[T]):
    """What was begun under each key in the last hour; the oldest go first when it is too much."""

    def __init__(self, *, keep_s: float = KEEP_S, keys_max: int = KEYS_MAX) -> None:
        self._keep_s = keep_s
        self._keys_max = keys_max
        self._kept: OrderedDict[str, _Kept[T]] = OrderedDict()

    def find(self, key: str, meaning: str, *, now_s: float) -> T | None:
        """Return the call begun under this key, or None; refuse a key that meant something else."""
        self._forget(now_s)
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.meaning != meaning:
            raise RefusedError("bad_request", f"key {key!r} was used for another call")
        return kept.call

    def keep(self, key: str, meaning: str, call: T, *, now_s: float) -> None:
        """Remember a call from now on."""
        self._kept[key] = _Kept(call, meaning, now_s + self._keep_s)
        while len(self._kept) > self._keys_max:
            self._kept.popitem(last=False)

    def _forget(self, now_s: float) -> None:
        while self._kept:
            key, kept = next(iter(self._kept.items()))
            if kept.until_s > now_s:
                return
            del self._kept[key]
