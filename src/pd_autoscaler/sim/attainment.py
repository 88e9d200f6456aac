"""Attainment: which offered requests were served in time, overall and window by window."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pd_autoscaler.sim.records import Floats, RequestLog, Slo

Bools = NDArray[np.bool_]

WORST_S = 300.0
"""The window whose attainment is reported as the worst."""
STRIDE_S = 60.0
"""Seconds from one such window's beginning to the next one's."""
REQUESTS_MIN = 10
"""A window with fewer requests is not judged: one unlucky request would be all of it."""
RECOVERY_S = 60.0
"""The window that must be back at the target for a burst to be over."""
DIP_WITHIN_S = 600.0
"""Seconds after a burst's beginning in which attainment must fall for the burst to be why."""

_ROUNDING_S = 1e-6
"""Differences of large times: a latency of just the target must not miss it by its last bits."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Each offered request: whether it counts, and whether its first and later tokens were in time.

    A request that was refused or never finished missed what it did not get. One that arrived
    before `warmup_s`, or whose last token was not due when the run ended, does not count, however
    it went: of the latter those that finished would be the lucky ones.
    """

    at_s: Floats
    counts: Bools
    ttft: Bools
    tpot: Bools

    @property
    def both(self) -> Bools:
        """Whether all of a request's tokens were in time."""
        met: Bools = self.ttft & self.tpot
        return met


def verdicts(log: RequestLog, slo: Slo, *, lasted_s: float, warmup_s: float = 0.0) -> Verdicts:
    """Judge every request of a run that lasted so long."""
    at_s = log.arrivals.at_s
    due_s = at_s + slo.ttft_s + slo.tpot_s * (log.arrivals.output_tokens - 1)
    # Comparisons with NaN are false: what never came was not in time.
    return Verdicts(
        at_s,
        (at_s >= warmup_s) & (due_s <= lasted_s),
        log.ttft_s <= slo.ttft_s + _ROUNDING_S,
        log.tpot_s <= slo.tpot_s + _ROUNDING_S,
    )


def share(met: Bools, counts: Bools) -> float:
    """Return the part of the requests that count which met a target; 1 where none counts."""
    total = int(counts.sum())
    return float((met & counts).sum()) / total if total else 1.0


def worst(of: Verdicts, met: Bools, *, window_s: float = WORST_S) -> float:
    """Return the lowest attainment of any window of arrivals that is long and full enough.

    Windows begin every minute; where none can be judged it is that of all requests.
    """
    at_s, hit = of.at_s[of.counts], met[of.counts]
    if not len(at_s):
        return 1.0
    begins = np.arange(at_s[0], max(at_s[-1] - window_s, at_s[0]) + STRIDE_S, STRIDE_S)
    first = np.searchsorted(at_s, begins, side="left")
    last = np.searchsorted(at_s, begins + window_s, side="left")
    hits = np.concatenate(([0], np.cumsum(hit)))
    offered, judged = last - first, last - first >= REQUESTS_MIN
    if not judged.any():
        return share(met, of.counts)
    return float(((hits[last] - hits[first])[judged] / offered[judged]).min())


def recovery_s(of: Verdicts, burst_at_s: float, *, target: float) -> float | None:
    """Return the seconds from a burst's beginning to the first minute back at the target.

    Minutes are counted from the burst, those without requests say nothing. It is 0 where no minute
    of the first ten fell below the target, and None where none came back.
    """
    after = of.counts & (of.at_s >= burst_at_s)
    if not after.any():
        return 0.0
    minutes = ((of.at_s[after] - burst_at_s) // RECOVERY_S).astype(np.int64)
    offered = np.bincount(minutes)
    met = np.bincount(minutes, weights=of.both[after])
    seen = np.flatnonzero(offered)
    is_short = met[seen] < target * offered[seen] - 1e-9
    short = np.flatnonzero(is_short & (seen * RECOVERY_S < DIP_WITHIN_S))
    if not len(short):
        return 0.0
    back = np.flatnonzero(~is_short[short[0] :])
    return float(seen[short[0] + back[0]] * RECOVERY_S) if len(back) else None


def quantiles(values: Floats, counts: Bools) -> tuple[float, float, float]:
    """Return the median, 90th and 99th percentile; what never came took for ever."""
    chosen = np.sort(np.where(np.isnan(values), np.inf, values)[counts])
    if not len(chosen):
        return (0.0, 0.0, 0.0)
    ranks = (int(np.ceil(q * len(chosen))) - 1 for q in (0.50, 0.90, 0.99))
    median, p90, p99 = (float(chosen[rank]) for rank in ranks)
    return (median, p90, p99)
