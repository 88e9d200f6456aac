"""What `slo` expects of a role's demand at the moment when a node asked for now would serve."""

from typing import NamedTuple

from pd_autoscaler.core.forecast import Track
from pd_autoscaler.policies.slo_params import SloParams

FIRST_EXCESS = 0.10
"""Share by which demand is taken to exceed forecasts before any came due."""
BEYOND_HIGHEST = 0.10
"""Share beyond the highest demand of late that a margin is kept for."""


class Outlook(NamedTuple):
    """Tokens a second now and at the end of the lead time, and the share that may exceed those.

    A falling trend is not believed: to shrink there is time.
    """

    level: float
    ahead: float
    excess: float


def begun(params: SloParams) -> Track:
    """Return a track that has seen nothing."""
    return Track(window_s=params.window_s, trend_s=params.trend_s)


def outlook(
    track: Track, value: float | None, *, now_s: float, lead_s: float, params: SloParams
) -> tuple[Track, Outlook | None]:
    """Return the track with one cycle's value and forecast, and what it makes expect.

    None as long as it has seen nothing; a cycle without a value is answered from those before.
    """
    if value is not None:
        track = track.seen(value, now_s=now_s)
    level = track.level()
    if level is None:
        return track, None
    ahead = max(level, track.ahead(lead_s, now_s=now_s) or 0.0)
    if value is not None:
        track = track.promised(ahead, at_s=now_s + lead_s)
    expected = ahead if params.looks_ahead else level
    excess = _excess(track, expected, lead_s=lead_s, params=params)
    return track, Outlook(level, expected, excess)


def _excess(track: Track, expected: float, *, lead_s: float, params: SloParams) -> float:
    """Return the share by which demand was beyond its forecasts, at the newsvendor's quantile.

    The quantile is that at which one more node costs as much as it is likely to save. What was
    missed at the foot of a burst says nothing of its top: beyond the highest demand of late only so
    much is added as noise may explain.
    """
    if not params.has_quantile or not expected:
        return 0.0
    cost = params.shortage_cost
    share = track.excess(cost / (1.0 + cost), first=FIRST_EXCESS, horizon_s=lead_s)
    return min(share, max(track.highest / expected - 1.0, BEYOND_HIGHEST))
