"""The tally: what became of the requests, in bounded memory however long a load runs."""

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pd_autoscaler.embedded.exchange import Failure, Served

NOTICE_S = 2.0
"""How far apart a node's end and its requests' failures may be seen, and how long after its end
requests may still be sent to it through no fault of anyone's."""

_GROWTH = math.log(1.01)
_KINDS_MAX = 1000
_UNDECIDED_MAX = 10_000
_RECENT_MAX = 500
_RECENT_S = 10.0


class Quantiles:
    """Quantiles of positive values to within one percent, in buckets that grow by that."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._count = 0

    def add(self, value: float) -> None:
        """Take in a value; one of a microsecond or less counts as that."""
        self._buckets[round(math.log(max(value, 1e-6)) / _GROWTH)] += 1
        self._count += 1

    def at(self, share: float) -> float | None:
        """Return the value that this share of all values does not exceed, None without any."""
        rank = max(1, math.ceil(share * self._count))
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return math.exp(bucket * _GROWTH)
        return None


def is_lost_to_kill(failure: Failure, killed_at_s: Mapping[str, float]) -> bool:
    """Tell whether a request failed because a node it was on ended without being asked.

    It was on the node that failed it, and while its KV was pulled on the prompt node, too. It must
    have been sent before the node's end was noticed, and have failed no sooner than that end (both
    within NOTICE_S): what fails on a node that dies later, or is still sent to one long dead, has
    another cause.
    """
    nodes = {failure.node_id, failure.prompt_id if failure.stage == "pull" else ""}
    ends_s = [killed_at_s[node] for node in nodes if node in killed_at_s]
    return any(
        failure.sent_at_s <= end_s + NOTICE_S and failure.failed_at_s >= end_s - NOTICE_S
        for end_s in ends_s
    )


@dataclass(frozen=True, slots=True)
class FailureKind:
    """How many requests failed at one stage with one code at one node (empty where unnamed)."""

    stage: str
    code: str
    node_id: str
    count: int


class Tally:
    """Counts of outcomes, latencies, and failures by kind."""

    def __init__(self) -> None:
        self.offered = self.ok = self.failed = 0
        self.ttft = Quantiles()
        self.tpot = Quantiles()
        self._lost = 0
        self._kinds: Counter[tuple[str, str, str]] = Counter()
        self._settled_at_s = -math.inf
        self._undecided: deque[Failure] = deque(maxlen=_UNDECIDED_MAX)
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT_MAX)

    @property
    def in_flight(self) -> int:
        """Requests sent and not ended."""
        return self.offered - self.ok - self.failed

    def served(self, answer: Served, *, now_s: float) -> None:
        """Take in a whole answer."""
        self.ok += 1
        self.ttft.add(answer.ttft_s)
        if answer.tpot_s is not None:
            self.tpot.add(answer.tpot_s)
        self._recent.append((now_s, answer.ttft_s))

    def failure(self, failure: Failure, killed_at_s: Mapping[str, float]) -> None:
        """Take in a failure."""
        self.failed += 1
        kind = (failure.stage, failure.code, failure.node_id)
        if len(self._kinds) >= _KINDS_MAX and kind not in self._kinds:
            kind = ("other", "other", "")
        self._kinds[kind] += 1
        now_s = failure.failed_at_s
        if len(self._undecided) == _UNDECIDED_MAX and now_s - self._settled_at_s > NOTICE_S:
            self.settle(killed_at_s, now_s=now_s)
        if is_lost_to_kill(failure, killed_at_s):
            self._lost += 1
        elif failure.node_id:
            # An end that was not noticed yet may explain it.
            self._undecided.append(failure)

    def settle(self, killed_at_s: Mapping[str, float], *, now_s: float) -> int:
        """Return how many requests were lost on killed nodes, as far as it can be told now."""
        self._settled_at_s = now_s
        undecided = tuple(self._undecided)
        self._undecided.clear()
        for failure in undecided:
            if is_lost_to_kill(failure, killed_at_s):
                self._lost += 1
            elif now_s - failure.failed_at_s <= NOTICE_S:
                self._undecided.append(failure)
        return self._lost

    def kinds(self) -> tuple[FailureKind, ...]:
        """Failures by kind, the most frequent first."""
        return tuple(FailureKind(*kind, count) for kind, count in self._kinds.most_common())

    def recent_ttft_s(self, share: float, *, now_s: float) -> float | None:
        """Return a quantile of the TTFT of the last seconds' answers, None without any."""
        recent = [ttft for at_s, ttft in self._recent if now_s - at_s <= _RECENT_S]
        return _quantile(recent, share)


def _quantile(values: Iterable[float], share: float) -> float | None:
    ordered: Sequence[float] = sorted(values)
    return ordered[max(1, math.ceil(share * len(ordered))) - 1] if ordered else None
